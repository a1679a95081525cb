"""Embeddings for FAD: what a clip is turned into before its distribution is compared.

All take a wave and its rate and give (windows, dim) float64. Three of them see VGGish's front end: windows
of one second every half second, each one log-mel patch of 96 frames by 64 bins.

| name | needs | dim |
|---|---|---|
| mel-statistics | nothing | 40 |
| judge | the package's trained weights | 64 |
| vggish-dcase | torchvggish's weights file | 128; comparable with the organisers' reference statistics |
| vggish-textbook | torchvggish's weights file | 128; resampled to 16 kHz as VGGish was trained |
| clap | a `FoleySystem` | 512; one vector per clip |
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.fft import dct
from torch import nn

from latentclap.classes import CLASSES
from latentclap.errors import InputError

RATE = 16_000  # rate of VGGish's front end, Hz
WINDOW, HOP = 16_000, 8_000  # samples: one embedding a window
FRAME, STEP, N_FFT = 400, 160, 512  # 25 ms and 10 ms at 16 kHz
FRAMES, MELS = 96, 64  # one patch
DCASE_RATE, DCASE_SAMPLES = 22_050, 88_200  # the challenge's clips: 4 s


@lru_cache(maxsize=1)
def vggish_mel_matrix() -> np.ndarray:
    """VGGish's mel matrix, (257, 64): triangles in HTK mel (not in Hz), 125-7500 Hz, peak 1, no DC bin."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = mel(np.linspace(0.0, RATE / 2, N_FFT // 2 + 1))[:, None]
    edges = np.linspace(mel(125.0), mel(7500.0), MELS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    weights[0] = 0.0
    return weights


def log_mel_patches(wave: np.ndarray) -> np.ndarray:
    """VGGish's log-mel patches of a wave taken to be at 16 kHz (facts of the DCASE 2023 Task 7 tool).

    Windows of 16,000 samples every 8,000; a rest shorter than a window is dropped, a shorter wave is padded
    with zeros to one window. 25 ms periodic Hann frames every 10 ms, no centring, magnitude of a 512-point
    FFT, log(mel + 0.01), and the first 96 of a window's 98 frames.

    Args:
        wave: (samples,).

    Returns:
        (windows, 96, 64) float64.
    """
    wave = np.asarray(wave, dtype=np.float64)
    if wave.size < WINDOW:
        wave = np.pad(wave, (0, WINDOW - wave.size))
    windows = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    frames = np.lib.stride_tricks.sliding_window_view(windows, FRAME, axis=1)[:, ::STEP][:, :FRAMES]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    spectrum = np.abs(np.fft.rfft(frames * hann, N_FFT))
    return np.log(spectrum @ vggish_mel_matrix() + 0.01)


def dcase_scale(wave: np.ndarray) -> np.ndarray:
    """Scale as the organisers' tool does: divide by max(0.1, largest sample).

    The largest *positive* sample, in the file's own unit: an int16 file comes out with its positive peak at
    1, a float file quieter than 0.1 stays as it is.
    """
    wave = np.asarray(wave).astype(np.float64)
    return wave / max(0.1, float(wave.max(initial=0.0)))


class Embedding(ABC):
    """A wave in, (windows, dim) float64 out.

    Attributes:
        name: goes into every FAD's name and statistics file.
        sampling_rate: the rate it works at, Hz.
        dim: dimensions.
        front_end: what happens before the network, for the FAD's full name.
    """

    name: str
    sampling_rate: int
    dim: int
    front_end: str

    def __call__(self, wave: np.ndarray, sr: int) -> np.ndarray:
        """Embed one clip.

        Args:
            wave: (samples,); integers are taken in their own unit.
            sr: its rate, Hz.

        Returns:
            (windows, dim) float64.

        Raises:
            InputError: not one-dimensional, empty, not finite, or a rate the embedding cannot take.
        """
        wave = np.asarray(wave)
        if wave.ndim != 1 or wave.size == 0:
            raise InputError(f"{self.name}: wave of shape {wave.shape}; expected (samples,), one channel")
        if not np.isfinite(wave).all():
            raise InputError(f"{self.name}: the wave holds NaN or infinity")
        return np.asarray(self._embed(wave, int(sr)), dtype=np.float64)

    @abstractmethod
    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray: ...


def _at_16k(wave: np.ndarray, sr: int) -> np.ndarray:
    """Float wave at 16 kHz, scaled to peak 1 (silence stays silence)."""
    from latentclap.audio import resample

    wave = resample(wave.astype(np.float32), sr, RATE).astype(np.float64)
    return wave / max(1e-4, float(np.abs(wave).max()))


class MelStatistics(Embedding):
    """Training-free statistics of VGGish's log-mel patches, 40 dimensions; no download, the same everywhere.

    Per window: 16 DCT coefficients (over mel) of the time-mean, 8 of the standard deviation over time, and
    the log modulation amplitude of 4 mel bands (16 bins each) in 4 rate bands (1-3, 3-7, 7-16, 16-50 Hz).
    Spectrum, its spread, and rhythm: each group is divided by a constant, fixed once so that the three have
    about equal variance (near 1) within a class of real recordings.

    It orders distributions of real sounds sensibly and is no model of hearing; compare it with itself only.
    """

    name, sampling_rate, dim = "mel-statistics", RATE, 40
    front_end = "16 kHz, peak 1, log-mel 64 x 96 a second"
    GROUPS: ClassVar[dict[str, int]] = {"mean": 16, "spread": 8, "modulation": 16}
    _SCALE: ClassVar[dict[str, float]] = {"mean": 1.0, "spread": 0.5, "modulation": 2.4}
    _RATES = (1, 3, 7, 16, 49)  # edges in bins of the 96-frame FFT, about 1.04 Hz each

    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray:
        patches = log_mel_patches(_at_16k(wave, sr))
        mean = dct(patches.mean(1), norm="ortho")[:, :16] / np.sqrt(MELS)
        spread = dct(patches.std(1), norm="ortho")[:, :8] / np.sqrt(MELS)
        bands = patches.reshape(len(patches), FRAMES, 4, 16).mean(-1)
        hann = np.hanning(FRAMES)[:, None]
        power = np.abs(np.fft.rfft((bands - bands.mean(1, keepdims=True)) * hann, axis=1) / FRAMES) ** 2
        amplitude = np.stack(
            [np.sqrt(power[:, a:b].sum(1)) for a, b in zip(self._RATES, self._RATES[1:], strict=False)], 1
        )
        modulation = np.log(amplitude + 0.01).reshape(len(patches), 16)
        parts = {"mean": mean, "spread": spread, "modulation": modulation}
        return np.concatenate([parts[key] / self._SCALE[key] for key in self.GROUPS], axis=1)


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
        weights: torchvggish's published state dict (``vggish-10086976.pth``); None for random weights, which
            are good for tests only and are named so.
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
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.net = VGGishNet()
        self.net.eval().requires_grad_(False).to(self.device)

    def _load(self, path: Path) -> dict[str, list[str]]:
        if not path.is_file():
            raise InputError(f"{path}: no such VGGish weights file (torchvggish's vggish-10086976.pth)")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
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
            wave = _at_16k(wave, sr)
        patches = torch.from_numpy(log_mel_patches(wave)).float()[:, None].to(self.device)
        with torch.inference_mode():
            return self.net(patches).double().cpu().numpy()


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

        from latentclap.files import atomic_path, write_json

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
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: no {name}; not a judge (make one, or use mel-statistics)")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        net = cls(**{key: config[key] for key in ("dim", "classes", "width")})
        try:
            net.load_state_dict(load_file(folder / "model.safetensors"))
        except RuntimeError as error:
            raise InputError(f"{folder}: weights do not fit ({str(error).splitlines()[0]})") from None
        return net


class JudgeEmbedding(Embedding):
    """The package's own trained classifier as an embedding and as a judge of class.

    Args:
        folder: with ``model.safetensors`` and ``config.json``; None for the weights in the package.
        device: of the network.

    Raises:
        InputError: no weights there.
    """

    name, sampling_rate = "judge", RATE
    front_end = "16 kHz, peak 1, log-mel 64 x 96 a second"

    def __init__(self, folder: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        if folder is None:
            with as_file(files("latentclap") / "weights" / "mini" / "judge") as packaged:
                self.net = JudgeNet.load(packaged)
        else:
            self.net = JudgeNet.load(folder)
        self.device = torch.device(device)
        self.dim = self.net.config["dim"]
        self.net.eval().requires_grad_(False).to(self.device)

    def patches(self, wave: np.ndarray, sr: int) -> torch.Tensor:
        """The network's input for one clip, (windows, 1, 96, 64) float32: use it for training too."""
        return torch.from_numpy(log_mel_patches(_at_16k(np.asarray(wave), sr))).float()[:, None]

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


class CLAPEmbedding(Embedding):
    """E_audio of a `FoleySystem`'s CLAP, one unit vector a clip.

    Fewer clips than dimensions give a rank-deficient covariance: the distance stays exact, its upward bias
    grows.
    """

    def __init__(self, system: Any, name: str = "clap") -> None:
        self.system, self.name = system, name
        self.sampling_rate = int(system.sampling_rate)
        self.dim = 512
        self.front_end = "CLAP audio branch, one vector a clip"

    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray:
        from latentclap.audio import resample

        wave = resample(wave.astype(np.float32), sr, self.sampling_rate)
        E_audio = self.system.encode_audio(wave[None])
        return np.asarray(torch.as_tensor(E_audio).detach().float().cpu())


#: Names that `get_embedding` knows, with what each needs.
EMBEDDINGS: dict[str, Any] = {
    "mel-statistics": MelStatistics,
    "judge": JudgeEmbedding,
    "vggish-dcase": lambda weights, **kw: VGGish(weights, "dcase", **kw),
    "vggish-textbook": lambda weights, **kw: VGGish(weights, "textbook", **kw),
    "clap": CLAPEmbedding,
}


def get_embedding(name: str, **kw: Any) -> Embedding:
    """Make an embedding by name; keywords go to it (``weights=`` for VGGish, ``system=`` for CLAP).

    Raises:
        InputError: unknown name, or a keyword it needs or does not know.
    """
    if name not in EMBEDDINGS:
        raise InputError(f"unknown embedding {name!r}; use one of {', '.join(EMBEDDINGS)}")
    try:
        return EMBEDDINGS[name](**kw)
    except TypeError as error:
        raise InputError(f"embedding {name}: {str(error).rpartition(') ')[2] or error}") from None
