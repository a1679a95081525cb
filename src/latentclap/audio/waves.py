"""Waves as the model takes them: rate, length, level; and their loudness for players."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch

from latentclap.errors import InputError

#: Rate of the model and of every wave it takes or gives, in Hz (section IV-A).
MODEL_RATE = 16_000
#: Length the paper repeats its 4 s clips to, in samples at 16 kHz (10.24 s).
PAPER_SAMPLES = 163_840

Wave = TypeVar("Wave", np.ndarray, torch.Tensor)


def check_wave(wave: np.ndarray, where: str) -> np.ndarray:
    """Return ``wave`` as floats, or raise for what is no sound at all."""
    wave = np.asarray(wave)
    if wave.ndim == 0 or wave.size == 0 or wave.shape[-1] == 0:
        raise InputError(f"{where}: the wave is empty")
    if wave.dtype.kind != "f":
        raise InputError(f"{where}: samples are {wave.dtype}, not float; divide integers by their full scale")
    if not np.isfinite(wave).all():
        raise InputError(f"{where}: the wave has NaN or infinite samples")
    return wave


def check_rate(sr: float, where: str) -> int:
    """Return ``sr`` as whole hertz, or raise for what is no sampling rate."""
    if isinstance(sr, bool) or not np.isfinite(sr) or sr != int(sr) or not 1000 <= sr <= 768_000:
        raise InputError(f"{where}: {sr!r} is no sampling rate; give whole hertz between 1000 and 768000")
    return int(sr)


def resample(wave: np.ndarray, sr_in: int, sr_out: int) -> np.ndarray:
    """Resample along the last axis (soxr, high quality): (..., n) to (..., ceil(n * sr_out / sr_in)).

    AudioLDM resamples with torchaudio's windowed sinc: the two differ near the band edge only.

    Raises:
        InputError: empty, not finite, or a rate that is none.
    """
    wave = check_wave(wave, "resample")
    sr_in, sr_out = check_rate(sr_in, "resample"), check_rate(sr_out, "resample")
    if sr_in == sr_out:
        return wave
    import librosa

    return librosa.resample(wave, orig_sr=sr_in, target_sr=sr_out, res_type="soxr_hq", axis=-1)


def repeat_to(wave: Wave, samples: int) -> Wave:
    """Tile a numpy array or tensor along its last axis and cut it to ``samples``.

    Section IV-A: 4 s clips become 10.24 s by "a repeating method": 64,000 samples to 163,840 are 2.56 copies.

    Raises:
        InputError: nothing to repeat, or a negative length.
    """
    if wave.shape[-1] == 0 or samples < 1:
        raise InputError(f"repeat_to: cannot make {samples} samples out of {wave.shape[-1]}")
    if samples <= wave.shape[-1]:
        return wave[..., :samples]
    copies = math.ceil(samples / wave.shape[-1])
    if isinstance(wave, np.ndarray):
        return np.concatenate([wave] * copies, axis=-1)[..., :samples]
    return torch.cat([wave] * copies, dim=-1)[..., :samples]


def to_model_rate(wave: np.ndarray, sr: int, seconds: float | None = None) -> np.ndarray:
    """Bring a wave to what the model takes: first channel, 16 kHz, zero mean, peak 0.5 (AudioLDM's order).

    Args:
        wave: (samples,) or (channels, samples), float.
        sr: its rate in Hz.
        seconds: cut, or repeat (section IV-A), to this length; None keeps the length. The cut comes before
            the normalisation, so that the peak of what is kept is 0.5; the repetition comes after it.

    Returns:
        float32 (samples,) at 16 kHz. Digital silence stays silence.

    Raises:
        InputError: empty, not finite, more than two axes, a rate or duration that is none.
    """
    wave = check_wave(wave, "to_model_rate")
    if wave.ndim > 2:
        raise InputError(f"to_model_rate takes (samples,) or (channels, samples), not {wave.shape}")
    samples = None if seconds is None else round(seconds * MODEL_RATE)
    if samples is not None and samples < 1:
        raise InputError(f"to_model_rate: {seconds!r} s is no duration")
    mono = resample(wave if wave.ndim == 1 else wave[0], sr, MODEL_RATE)[:samples].astype(np.float64)
    mono -= mono.mean()
    mono *= 0.5 / (np.abs(mono).max() + 1e-8)
    mono = mono.astype(np.float32)
    return mono if samples is None else repeat_to(mono, samples)


def normalise_loudness(
    wave: np.ndarray, sr: int, lufs: float = -23.0, peak: float = 0.9, *, max_gain_db: float = 40.0
) -> np.ndarray:
    """Scale a wave for listening to a loudness (ITU-R BS.1770-4) and at most a sample peak.

    For players only; no number in the book is measured on its output. Clips shorter than the meter's 0.4 s
    block are repeated for the measurement. What the meter gates out (below -70 LUFS) comes back as it is.

    Args:
        wave: (samples,) or (channels, samples), float.
        sr: rate in Hz.
        lufs: wanted integrated loudness in LUFS.
        peak: upper bound of the absolute sample value; a sharp sound stays below the wanted loudness by it.
        max_gain_db: upper bound of the gain, so that a near-silent clip does not become a hiss.
    """
    wave = check_wave(wave, "normalise_loudness")
    measured = loudness(wave, sr)
    if not np.isfinite(measured):
        return wave.astype(np.float32)
    gain = 10 ** (min(lufs - measured, max_gain_db) / 20)
    gain = min(gain, peak / max(float(np.abs(wave).max()), 1e-9))
    return (wave * gain).astype(np.float32)


def loudness(wave: np.ndarray, sr: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); minus infinity for what the meter gates out (below -70 LUFS).

    Args:
        wave: (samples,) or (channels, samples), float; shorter than the meter's 0.4 s block, it is repeated.
        sr: rate in Hz.
    """
    import pyloudnorm

    wave = check_wave(wave, "loudness")
    sr = check_rate(sr, "loudness")
    measured = repeat_to(wave, max(wave.shape[-1], math.ceil(0.4 * sr) + 1))
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(sr).integrated_loudness(np.asarray(measured.T, dtype=np.float64)))
