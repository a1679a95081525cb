"""The package's own small classifier of the seven classes, and its embedding."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latentclap.classes import CLASSES
from latentclap.embeddings.base import Embedding, weights_hash
from latentclap.embeddings.front_end import MELS, RATE, at_16k, log_mel_patches
from latentclap.errors import InputError
from latentclap.files import atomic_path, load_tensors, read_json, write_json


class JudgeNet(nn.Module):
    """A small VGGish for the seven classes, fit to ship: (B, 1, 96, 64) -> embedding (B, 64), logits (B, 7).

    Five convolutions (batch norm, ReLU, pooling); frequency is kept and time is pooled by mean and max (as
    PANNs do), so that one impact in a window counts. 0.32 M parameters.
    """

    def __init__(self, dim: int = 64, classes: int = len(CLASSES), width: int = 16) -> None:
        super().__init__()
        self.config = {"dim": dim, "classes": classes, "width": width}
        blocks: list[nn.Module] = [nn.BatchNorm2d(1)]
        channels = 1
        for out, pool in ((1, 2), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            out *= width
            blocks += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            blocks += [nn.MaxPool2d(pool)] if pool > 1 else []
            channels = out
        self.features = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.3)
        self.embedding = nn.Linear(channels * MELS // 16, dim)
        self.head = nn.Linear(dim, classes)

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, 1, 96, 64) log-mel -> (B, dim), before ReLU and classifier."""
        x = self.features(patches)  # (B, 8 width, 6, 4)
        x = x.mean(2) + x.amax(2)
        return self.embedding(self.dropout(x.flatten(1)))

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, 96, 64) log-mel -> embedding (B, dim), class logits (B, classes)."""
        e = self.embed(patches)
        return e, self.head(torch.relu(e))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` to a folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, temporary)
        write_json(folder / "config.json", self.config)

    @classmethod
    def load(cls, folder: str | Path) -> JudgeNet:
        """Read what `save` wrote.

        Raises:
            InputError: the folder lacks a file, or the weights do not fit the config.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: no {name}; not a judge (make one, or use mel-statistics)")
        config = read_json(folder / "config.json")
        try:
            net = cls(**{key: config[key] for key in ("dim", "classes", "width")})
            net.load_state_dict(load_tensors(folder / "model.safetensors"))
        except InputError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: weights and config.json do not fit each other ({reason})") from None
        return net


class JudgeEmbedding(Embedding):
    """The package's own trained classifier as an embedding and as a judge of class.

    Its weights change from family to family, so that the embedding's name, "judge-<hash>", ends with a hash of them.

    Args:
        folder: with ``model.safetensors`` and ``config.json``; None for the weights in the package.
        device: of the network.

    Raises:
        InputError: no weights there.
    """

    sampling_rate = RATE
    front_end = "16 kHz, peak 1, log-mel 64 x 96 a second"

    def __init__(self, folder: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        if folder is None:
            with as_file(files("latentclap") / "weights" / "mini" / "judge") as packaged:
                self.net = JudgeNet.load(packaged)
        else:
            self.net = JudgeNet.load(folder)
        self.device = torch.device(device)
        self.dim = self.net.config["dim"]
        self.name = f"judge-{weights_hash(self.net.state_dict())}"
        self.net.eval().requires_grad_(False).to(self.device)

    def patches(self, wave: np.ndarray, sr: int) -> torch.Tensor:
        """The network's input for one clip, (windows, 1, 96, 64) float32: use it for training too."""
        return torch.from_numpy(log_mel_patches(at_16k(np.asarray(wave), sr))).float()[:, None]

    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray:
        with torch.inference_mode():
            return self.net.embed(self.patches(wave, sr).to(self.device)).double().cpu().numpy()

    def classify(self, waves: np.ndarray | list[np.ndarray], sr: int = RATE) -> np.ndarray:
        """Class probabilities of clips, in `CLASSES` order: mean over the windows of each clip.

        Args:
            waves: (n, samples) or a list of (samples,).
            sr: their rate, Hz.

        Returns:
            (n, 7) float64, rows summing to 1.
        """
        rows = []
        with torch.inference_mode():
            for wave in waves:
                _, logits = self.net(self.patches(wave, sr).to(self.device))
                rows.append(logits.double().softmax(-1).mean(0).cpu().numpy())
        return np.stack(rows)
