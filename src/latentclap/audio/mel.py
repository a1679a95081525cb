"""Waveform to log-mel and back without a vocoder (section IV-A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from latentclap.audio.waves import MODEL_RATE
from latentclap.errors import InputError

Variant = Literal["training", "inference"]


@dataclass(frozen=True)
class MelConfig:
    """The mel front end's numbers (section IV-A; AudioLDM's ``audioldm_original_medium``).

    ``floor`` is the smallest mel magnitude before the natural logarithm: silence is ln(1e-5) = -11.51.
    """

    sampling_rate: int = MODEL_RATE
    n_fft: int = 1024
    hop: int = 160
    n_mels: int = 64
    fmin: float = 0.0
    fmax: float = 8000.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.n_fft or (self.n_fft - self.hop) % 2:
            raise InputError(f"hop {self.hop} must be in 1..n_fft {self.n_fft} and leave an even difference")
        if not 0 <= self.fmin < self.fmax <= self.sampling_rate / 2:
            raise InputError(
                f"mel range {self.fmin:g}-{self.fmax:g} Hz is not within 0-{self.sampling_rate / 2:g} Hz"
            )
        if self.n_mels < 1 or self.floor <= 0:
            raise InputError(f"n_mels {self.n_mels} and floor {self.floor:g} must be positive")

    @property
    def log_floor(self) -> float:
        """Log-mel of digital silence."""
        return math.log(self.floor)

    def padding(self, variant: Variant = "training") -> int:
        """Reflected samples on each side: 432 in the training front end, 512 in AudioLDM's inference one."""
        if variant == "training":
            return (self.n_fft - self.hop) // 2
        if variant == "inference":
            return self.n_fft // 2
        raise InputError(f"unknown mel variant {variant!r}; use 'training' or 'inference'")


@lru_cache(maxsize=16)
def _mel_matrix(config: MelConfig) -> np.ndarray:
    """(n_mels, n_fft // 2 + 1) float32: librosa's defaults, Slaney scale and Slaney area normalisation."""
    from librosa.filters import mel

    return mel(
        sr=config.sampling_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
    )


@lru_cache(maxsize=32)
def _window_and_matrix(config: MelConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # A tensor born in inference mode could not be used under autograd later; this cache outlives the block.
    with torch.inference_mode(False):
        window = torch.hann_window(config.n_fft, periodic=True, device=device)
        matrix = torch.from_numpy(_mel_matrix(config).T.copy()).to(device)
    return window, matrix


def log_mel(
    wave: torch.Tensor, config: MelConfig = MelConfig(), variant: Variant = "training"
) -> torch.Tensor:
    """Log-mel magnitude spectrogram of waves at 16 kHz; differentiable.

    Magnitude (not power) STFT, periodic Hann window, librosa's Slaney mel, natural logarithm of the clamp at
    ``config.floor``. AudioLDM has two framings of it: ``"training"`` reflects 432 samples on each side, which
    gives exactly samples // 160 frames (1024 from 163,840), and is what fine-tuning and the vocoder use;
    ``"inference"`` reflects 512, gives one frame more (1025) and lies 80 samples earlier. No mean or standard
    deviation is taken out, as in the public code.

    Args:
        wave: (B, samples), any float type, more than 512 samples (432 for ``"training"``).
        config: the numbers; the defaults are the paper's.
        variant: which framing.

    Returns:
        (B, 1, frames, n_mels) float32.

    Raises:
        InputError: not (B, samples), too short to frame, NaN or infinity, or an unknown variant.
    """
    if wave.ndim != 2 or not wave.is_floating_point():
        raise InputError(f"log_mel takes floats (batch, samples), not {wave.dtype} {tuple(wave.shape)}")
    pad = config.padding(variant)
    if wave.shape[-1] <= pad or wave.shape[-1] + 2 * pad < config.n_fft:
        raise InputError(f"log_mel needs more than {max(pad, config.hop)} samples, got {wave.shape[-1]}")
    if not torch.isfinite(wave).all():
        raise InputError("log_mel: the wave has NaN or infinite samples")
    window, matrix = _window_and_matrix(config, wave.device)
    # Half precision loses the quiet bins, so autocast stays out of the front end.
    with torch.autocast(wave.device.type, enabled=False):
        padded = torch.nn.functional.pad(wave.float(), (pad, pad), mode="reflect")
        spectrum = torch.stft(
            padded, config.n_fft, config.hop, window=window, center=False, return_complex=True
        )
        mel = spectrum.abs().transpose(1, 2) @ matrix
        return mel.clamp(min=config.floor).log().unsqueeze(1)


def mel_to_magnitude(
    mel: torch.Tensor,
    config: MelConfig = MelConfig(),
    n_iter: int = 100,
    *,
    guess: torch.Tensor | None = None,
    trust: float = 0.3,
) -> torch.Tensor:
    """Magnitude spectra whose mel is that of a log-mel: the non-negative inverse of the mel filters.

    Clipped pseudo-inverse, then the multiplicative updates of Lee and Seung (2001) for the squared error,
    which keep it non-negative. On real clips they come closer than librosa's L-BFGS in a sixth of its time.

    Args:
        mel: log-mels (B, frames, n_mels); the floor counts as nothing, since as 1e-5 it would come back as hiss.
        config: the numbers the log-mel was made with.
        n_iter: updates.
        guess: magnitudes (B, n_fft // 2 + 1, frames) that somebody else thinks of, a vocoder for one: what the mel
            leaves open, the shape within a filter's band, is partly taken from there.
        trust: share of the guess in what the updates begin with, by decibels: 0 none, 1 all.

    Returns:
        (B, n_fft // 2 + 1, frames), on the device of ``mel``.
    """
    matrix = _window_and_matrix(config, mel.device)[1].T
    target = torch.where(mel <= config.log_floor + 1e-4, 0.0, mel.float().exp()).transpose(1, 2)
    magnitude = (torch.linalg.pinv(matrix) @ target).clamp(min=1e-6)
    if guess is not None:
        magnitude = magnitude ** (1 - trust) * guess.clamp(min=1e-6) ** trust
    wanted = matrix.T @ target
    for _ in range(n_iter):
        magnitude *= wanted / (matrix.T @ (matrix @ magnitude)).clamp(min=1e-9)
    return magnitude


def griffin_lim(
    log_mel: torch.Tensor | np.ndarray, n_iter: int = 32, config: MelConfig = MelConfig(), *, seed: int = 0
) -> np.ndarray:
    """Wave from a training-variant log-mel without a vocoder: non-negative mel inverse, then Griffin-Lim.

    It is the reference that a trained vocoder must beat, and a way to hear a log-mel without one.

    Args:
        log_mel: (..., frames, n_mels); a channel axis of 1, as ``log_mel`` gives, is dropped.
        n_iter: Griffin-Lim iterations.
        config: the numbers the log-mel was made with.
        seed: of the random initial phase.

    Returns:
        float32 (..., frames * hop), without the channel axis.

    Raises:
        InputError: wrong number of mel bins, no frames, or NaN.
    """
    from librosa import griffinlim

    mel = np.asarray(torch.as_tensor(log_mel).detach().cpu().float())
    if mel.ndim < 2 or mel.shape[-1] != config.n_mels or mel.size == 0:
        raise InputError(f"griffin_lim takes (..., frames, {config.n_mels}), not {mel.shape}")
    if not np.isfinite(mel).all():
        raise InputError("griffin_lim: the log-mel has NaN or infinite values")
    if mel.ndim >= 4 and mel.shape[-3] == 1:
        mel = mel[..., 0, :, :]
    pad, samples = config.padding("training"), mel.shape[-2] * config.hop
    waves = []
    for item in torch.from_numpy(mel.reshape(-1, *mel.shape[-2:])):
        wave = griffinlim(
            mel_to_magnitude(item[None], config)[0].numpy(),
            n_iter=n_iter,
            hop_length=config.hop,
            n_fft=config.n_fft,
            center=False,
            random_state=seed,
        )
        waves.append(wave[pad : pad + samples])
    return np.stack(waves).reshape(*mel.shape[:-2], samples).astype(np.float32)
