"""One clip's samples, and statistics of many."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from latentclap.audio import read_wave, repeat_to, to_model_rate
from latentclap.scan import Clip


def read_clip(clip: Clip, *, seconds: float | None = None, model_rate: bool = True) -> np.ndarray:
    """Read one clip, first channel, repeated or cut to ``seconds``.

    Args:
        clip: from a scan or a data set.
        seconds: length of the result; None keeps the clip's own.
        model_rate: as the model takes it (16 kHz, zero mean, peak 0.5: ``audio.to_model_rate``); else the
            samples as they are, at ``clip.sr``.

    Returns:
        float32 (samples,).

    Raises:
        InputError: the file has gone or changed into something unreadable since the scan, or a bad duration.
    """
    wave, sr = read_wave(clip.path)
    if model_rate:
        return to_model_rate(wave, sr, seconds)
    if seconds is None:
        return wave[0]
    return repeat_to(wave[0], round(seconds * sr))


def clip_statistics(clips: Iterable[Clip]) -> pd.DataFrame:
    """Level and brightness of clips as they lie on disk, one row per clip.

    Columns: class, split, seconds, rms_dbfs, crest_db (peak over rms), centroid_hz (mean frequency of the power
    spectrum of the whole clip), active (share of 25 ms frames within 60 dB of the loudest one).
    """
    rows = []
    for clip in clips:
        wave = read_clip(clip, model_rate=False).astype(np.float64)
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / clip.sr)
        rms = np.sqrt(np.mean(wave**2))
        frame = max(1, clip.sr // 40)
        levels = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
        rows.append(
            {
                "class": clip.cls,
                "split": clip.split,
                "seconds": clip.seconds,
                "rms_dbfs": 20 * np.log10(rms),
                "crest_db": 20 * np.log10(np.abs(wave).max() / rms),
                "centroid_hz": float((hertz * power).sum() / power.sum()),
                "active": float((levels > levels.max() * 1e-6).mean()),
            }
        )
    return pd.DataFrame(rows)
