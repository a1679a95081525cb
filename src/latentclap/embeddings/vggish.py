"""VGGish, as the challenge's organisers run it and as it was trained."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latentclap.embeddings.base import Embedding, weights_hash
from latentclap.embeddings.front_end import (
    DCASE_RATE,
    DCASE_SAMPLES,
    RATE,
    at_16k,
    dcase_scale,
    log_mel_patches,
)
from latentclap.errors import InputError
from latentclap.files import file_sha256

#: SHA-256 of torchvggish's published file, whose embeddings compare with the organisers' statistics
PUBLISHED = "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"


class VGGishNet(nn.Module):
    """VGGish (Hershey et al. 2017) under torchvggish's parameter names: (B, 1, 96, 64) -> (B, 128).

    The last layer has no ReLU, as the organisers' statistics (their means are partly negative);
    torchvggish's own module adds one. No PCA and no quantisation.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, 1, 96, 64) log-mel -> (B, 128)."""
        x = self.features(patches).permute(0, 2, 3, 1)  # TensorFlow's order: time, mel, channel
        return self.embeddings(x.flatten(1))


def load_report(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Compare a state dict with a module: names matched (shape too), missing, unexpected."""
    own = module.state_dict()
    matched = [key for key in own if key in state and state[key].shape == own[key].shape]
    return {
        "matched": matched,
        "missing": [key for key in own if key not in matched],
        "unexpected": [key for key in state if key not in own],
    }


class VGGish(Embedding):
    """VGGish of a wave: fc2 output before ReLU, 128 dimensions.

    ``dcase`` does exactly what the organisers' tool does, including its mistake: clips of 22.05 kHz go in
    *unresampled*, as if they were at 16 kHz, so ten windows of 4 s. Only this mode is comparable with the
    organisers' reference statistics, and so with Table I. It takes clips of 88,200 samples at 22,050 Hz only.
    ``textbook`` resamples to 16 kHz and scales to peak 1.

    Args:
        weights: torchvggish's published state dict (``vggish-10086976.pth``); another file's embeddings have a
            hash of its weights in their name. None for random weights, which are good for tests only and are
            named so.
        mode: ``dcase`` or ``textbook``.
        device: of the network.
        seed: of random weights.

    Raises:
        InputError: unknown mode, no such file, or a file that lacks any of the parameters.
    """

    dim = 128

    def __init__(
        self,
        weights: str | Path | None,
        mode: str = "dcase",
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        if mode not in ("dcase", "textbook"):
            raise InputError(f"unknown VGGish mode {mode!r}; use dcase or textbook")
        self.mode, self.device = mode, torch.device(device)
        self.name = f"vggish-{mode}" + ("" if weights else "-random")
        self.sampling_rate = DCASE_RATE if mode == "dcase" else RATE
        self.front_end = (
            "22.05 kHz read as 16 kHz, int16 peak" if mode == "dcase" else "resampled to 16 kHz, peak 1"
        )
        self.report: dict[str, list[str]] = {}
        if weights:
            with torch.device("meta"):  # 72 M parameters: no random numbers for what the file replaces
                self.net = VGGishNet()
            self.report = self._load(Path(weights))
            if file_sha256(weights) != PUBLISHED:
                self.name += f"-{weights_hash(self.net.state_dict())}"
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.net = VGGishNet()
        self.net.eval().requires_grad_(False).to(self.device)

    def _load(self, path: Path) -> dict[str, list[str]]:
        if not path.is_file():
            raise InputError(f"{path}: no such VGGish weights file (torchvggish's vggish-10086976.pth)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols
                state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise InputError(
                f"{path}: not a file of tensors, or one with other objects, which are not loaded; VGGish's weights"
                " are torchvggish's vggish-10086976.pth"
            ) from None
        except Exception as error:  # torch raises half a dozen types for a file that is not its own
            raise InputError(f"{path}: not a state dict ({str(error).splitlines()[0][:120]})") from None
        if not isinstance(state, dict):
            raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict")
        report = load_report(self.net, state)
        own = self.net.state_dict()
        found = sum(own[key].numel() for key in report["matched"]) / sum(p.numel() for p in own.values())
        if report["missing"]:  # no partial load: a network with one random layer still gives plausible FADs
            raise InputError(
                f"{path}: only {found:.2%} of VGGish's parameters match; first missing: "
                f"{', '.join(report['missing'][:3])}"
            )
        self.net.load_state_dict({key: state[key].float() for key in own}, assign=True)
        return report

    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray:
        if self.mode == "dcase":
            if sr != DCASE_RATE or wave.size != DCASE_SAMPLES:
                raise InputError(
                    f"vggish-dcase takes {DCASE_SAMPLES} samples at {DCASE_RATE} Hz, not {wave.size} at {sr}"
                )
            wave = dcase_scale(wave)
        else:
            wave = at_16k(wave, sr)
        patches = torch.from_numpy(log_mel_patches(wave)).float()[:, None].to(self.device)
        with torch.inference_mode():
            return self.net(patches).double().cpu().numpy()
