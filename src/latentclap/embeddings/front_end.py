"""VGGish's front end: log-mel patches of one second every half second."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

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


def at_16k(wave: np.ndarray, sr: int) -> np.ndarray:
    """Float wave at 16 kHz, scaled to peak 1 (silence stays silence)."""
    from latentclap.audio import resample

    wave = resample(wave.astype(np.float32), sr, RATE).astype(np.float64)
    return wave / max(1e-4, float(np.abs(wave).max()))
