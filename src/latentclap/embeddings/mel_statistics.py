"""The embedding that needs nothing: statistics of log-mel patches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.fft import dct

from latentclap.embeddings.base import Embedding
from latentclap.embeddings.front_end import FRAMES, MELS, RATE, at_16k, log_mel_patches


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
        patches = log_mel_patches(at_16k(wave, sr))
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
