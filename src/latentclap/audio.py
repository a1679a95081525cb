"""Waveform to log-mel and back: the front end of section IV-A, and sound files.

The model's world is 16 kHz mono. A clip of 4 s is resampled, brought to zero mean and peak 0.5, repeated to
10.24 s (163,840 samples) and turned into a log-mel of 1024 frames by 64 bins.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from latentclap.errors import InputError
from latentclap.files import atomic_path

#: Rate of the model and of every wave it takes or gives, in Hz (section IV-A).
MODEL_RATE = 16_000
#: Length the paper repeats its 4 s clips to, in samples at 16 kHz (10.24 s).
PAPER_SAMPLES = 163_840
#: Suffixes that ``read_wave`` and ``write_wave`` know, with libsndfile's container and coding.
FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}

Variant = Literal["training", "inference"]
Wave = TypeVar("Wave", np.ndarray, torch.Tensor)


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


def _mel_to_magnitude(mel: np.ndarray, config: MelConfig, n_iter: int = 100) -> np.ndarray:
    """Non-negative spectra (bins, frames) whose mel is ``mel`` (n_mels, frames).

    Clipped pseudo-inverse, then the multiplicative updates of Lee and Seung (2001) for the squared error,
    which keep it non-negative. On real clips they come closer than librosa's L-BFGS in a sixth of its time.
    """
    matrix = _mel_matrix(config)
    magnitude = np.maximum(np.linalg.pinv(matrix) @ mel, 1e-6)
    for _ in range(n_iter):
        magnitude *= (matrix.T @ mel) / np.maximum(matrix.T @ (matrix @ magnitude), 1e-9)
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
    # The floor stands for "nothing here": as 1e-5 it would come back as a faint hiss.
    linear = np.where(mel <= config.log_floor + 1e-4, 0.0, np.exp(mel)).astype(np.float32)
    pad, samples = config.padding("training"), mel.shape[-2] * config.hop
    waves = []
    for item in linear.reshape(-1, *mel.shape[-2:]):
        wave = griffinlim(
            _mel_to_magnitude(item.T, config),
            n_iter=n_iter,
            hop_length=config.hop,
            n_fft=config.n_fft,
            center=False,
            random_state=seed,
        )
        waves.append(wave[pad : pad + samples])
    return np.stack(waves).reshape(*mel.shape[:-2], samples).astype(np.float32)


def _check_wave(wave: np.ndarray, where: str) -> np.ndarray:
    """Return ``wave`` as floats, or raise for what is no sound at all."""
    wave = np.asarray(wave)
    if wave.ndim == 0 or wave.size == 0 or wave.shape[-1] == 0:
        raise InputError(f"{where}: the wave is empty")
    if wave.dtype.kind != "f":
        raise InputError(f"{where}: samples are {wave.dtype}, not float; divide integers by their full scale")
    if not np.isfinite(wave).all():
        raise InputError(f"{where}: the wave has NaN or infinite samples")
    return wave


def _check_rate(sr: float, where: str) -> int:
    if isinstance(sr, bool) or not np.isfinite(sr) or sr != int(sr) or not 1000 <= sr <= 768_000:
        raise InputError(f"{where}: {sr!r} is no sampling rate; give whole hertz between 1000 and 768000")
    return int(sr)


def resample(wave: np.ndarray, sr_in: int, sr_out: int) -> np.ndarray:
    """Resample along the last axis (soxr, high quality): (..., n) to (..., ceil(n * sr_out / sr_in)).

    AudioLDM resamples with torchaudio's windowed sinc: the two differ near the band edge only.

    Raises:
        InputError: empty, not finite, or a rate that is none.
    """
    wave = _check_wave(wave, "resample")
    sr_in, sr_out = _check_rate(sr_in, "resample"), _check_rate(sr_out, "resample")
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
    wave = _check_wave(wave, "to_model_rate")
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
    import pyloudnorm

    wave = _check_wave(wave, "normalise_loudness")
    sr = _check_rate(sr, "normalise_loudness")
    measured = repeat_to(wave, max(wave.shape[-1], math.ceil(0.4 * sr) + 1))
    with np.errstate(divide="ignore"):
        loudness = pyloudnorm.Meter(sr).integrated_loudness(np.asarray(measured.T, dtype=np.float64))
    if not np.isfinite(loudness):
        return wave.astype(np.float32)
    gain = 10 ** (min(lufs - loudness, max_gain_db) / 20)
    gain = min(gain, peak / max(float(np.abs(wave).max()), 1e-9))
    return (wave * gain).astype(np.float32)


def decode(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a sound file as it is, float32 (channels, samples) and its rate, without looking at the samples.

    Raises:
        InputError: missing, or nothing that libsndfile can decode.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such sound file")
    try:
        wave, sr = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(
            f"{path}: cannot be read as sound ({reason}); convert it to wav, flac, ogg or mp3"
        ) from error
    return np.ascontiguousarray(wave.T), int(sr)


def read_wave(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a sound file (wav, flac, ogg, opus, mp3): float32 (channels, samples) and its rate in Hz.

    Raises:
        InputError: missing, not decodable, empty, or with NaN or infinite samples.
    """
    wave, sr = decode(path)
    return _check_wave(wave, str(path)), sr


def write_wave(path: str | Path, wave: np.ndarray, sr: int) -> None:
    """Write a sound file by suffix (wav and flac in 16 bit, ogg Vorbis, opus, mp3), whole or not at all.

    Samples beyond full scale are clipped, with a warning that counts them.

    Args:
        path: where; its folder is made.
        wave: (samples,) or (channels, samples), float.
        sr: rate in Hz; mp3 and opus know only some rates.

    Raises:
        InputError: unknown suffix, empty or non-finite wave, or a rate the format does not have.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: unknown sound format {path.suffix!r}; use one of {', '.join(FORMATS)}")
    wave = _check_wave(wave, f"write {path}")
    if wave.ndim > 2:
        raise InputError(f"write {path}: takes (samples,) or (channels, samples), not {wave.shape}")
    sr = _check_rate(sr, f"write {path}")
    clipped = int((np.abs(wave) > 1.0).sum())
    if clipped:
        warnings.warn(f"{path}: {clipped} samples beyond full scale were clipped", stacklevel=2)
    container, coding = FORMATS[path.suffix.lower()]
    frames = np.clip(np.atleast_2d(wave), -1.0, 1.0).T.astype(np.float32)
    with atomic_path(path) as temporary:
        try:
            with soundfile.SoundFile(
                temporary, "w", sr, frames.shape[1], format=container, subtype=coding
            ) as sound:
                # libsndfile's Vorbis and Opus writers take a whole call on the stack: long clips overflow it
                for start in range(0, len(frames), sr):
                    sound.write(frames[start : start + sr])
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
            raise InputError(f"{path}: cannot write {coding} at {sr} Hz ({reason})") from error
