"""The sound files of a survey: clips as raters hear them, and clips of a notebook as files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

#: Loudness that all clips of a survey share, in LUFS, as far as the peak of each allows.
LUFS, PEAK = -23.0, 0.9
#: A clip that cannot come within so many LU of it is nearly silent: the others do not follow it down.
FOLLOWED = 20.0
FADE = 10.0  # milliseconds: a clip that is cut in the middle of a sound clicks


def read_clip(path: Path, seconds: float, sampling_rate: int) -> tuple[np.ndarray, int]:
    """A clip's first channel (samples,) float32, cut and faded out, with its rate in Hz.

    Args:
        path: the file.
        seconds: kept from its start.
        sampling_rate: in Hz, that it is brought to; 0: it stays as it is.
    """
    from latentclap.audio import read_wave, resample
    from latentclap.evaluate.clips import is_silent
    from latentclap.finish import faded

    wave, sr = read_wave(path)
    mono = wave[0][: round(seconds * sr)].astype(np.float32)
    if is_silent(mono):  # a constant offset is no sound, but where it begins and ends there is a click
        mono = mono - mono.mean()
    if sampling_rate and sr != sampling_rate:
        mono, sr = resample(mono, sr, sampling_rate), sampling_rate
    return faded(mono[: round(seconds * sr)], sr, end=FADE), sr  # resampling may round up


def write_class(waves: Mapping[str, tuple[np.ndarray, int]], folder: Path) -> float:
    """Write the clips of a class at one loudness, which is returned: the loudest, up to -23 LUFS, that all reach.

    Neither a file's length nor its place or time among the others tells whose it is.

    Args:
        waves: {name: what :func:`read_clip` returned}.
        folder: for ``<name>.wav``.
    """
    from latentclap.audio import loudness, write_wave
    from latentclap.evaluate.clips import is_silent

    # the meter finds a level in a hum that no figure takes for a sound: raised to the others', it would be one
    heard = {name: -np.inf if is_silent(wave) else loudness(wave, sr) for name, (wave, sr) in waves.items()}
    reached = {
        name: min(LUFS, heard[name] + 20 * np.log10(PEAK / max(float(np.abs(wave).max()), 1e-9)))
        for name, (wave, _) in waves.items()
    }
    followed = [value for value in reached.values() if value >= LUFS - FOLLOWED]
    level = min(followed, default=LUFS)
    longest = max(len(wave) / sr for wave, sr in waves.values())
    now = time.time()
    for name, (wave, sr) in sorted(waves.items()):
        # one that is nearly silent is as loud as its peak allows; silence stays what it is
        gain = min(level, reached[name]) - heard[name] if np.isfinite(heard[name]) else 0.0
        alike = np.pad(wave * np.float32(10 ** (gain / 20)), (0, round(longest * sr) - len(wave)))
        write_wave(folder / f"{name}.wav", alike, sr)
        os.utime(folder / f"{name}.wav", (now, now))
    return round(float(level), 1)


def write_clips(
    models: Mapping[str, Mapping[str, np.ndarray]], folder: str | Path, sr: int
) -> dict[str, Path]:
    """Write clips of several systems as folders that `make_survey` takes; return {model: folder}.

    Args:
        models: {name: {class: (clips, samples)}}, float.
        folder: where; each system has a folder of its name in it.
        sr: rate in Hz.
    """
    from latentclap.audio import write_wave
    from latentclap.generation import within_full_scale

    folders = {}
    for model, by_class in models.items():
        folders[model] = Path(folder) / re.sub(r"[^\w+-]+", "_", model)
        for cls, waves in by_class.items():
            for i, wave in enumerate(waves):
                write_wave(folders[model] / cls / f"{cls}_{i:03d}.wav", within_full_scale(wave), sr)
    return folders
