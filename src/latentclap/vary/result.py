"""How far variations are from their sounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from latentclap.audio import MODEL_RATE, read_wave, repeat_to, resample
from latentclap.files import write_text
from latentclap.system import FoleySystem
from latentclap.vary.sounds import Source

COLUMNS = ("file", "sound", "strength", "similarity", "mel_distance")


def distances(system: FoleySystem, sound: np.ndarray, clips: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """How far clips are from a sound.

    Args:
        system: whose CLAP and log-mel measure.
        sound: (samples,) at 16 kHz; of one longer than the system's clips the beginning counts.
        clips: (samples,) each, at 16 kHz, of any level; each is cut or continued by silence to the sound's length,
            since a coding may add or take some samples.

    Returns:
        For each clip "mel_distance", the mean absolute difference of log-mels of equal peaks, in nats; and
        "similarity", the cosine of CLAP's embeddings, where the system has a CLAP for sounds.
    """
    length = min(len(sound), system.samples)
    waves = np.stack([_levelled(wave, length, system.samples) for wave in (sound, *clips)])
    mel = system.log_mel(waves)
    away = (mel[1:] - mel[:1]).abs().mean(dim=(1, 2, 3)).tolist()
    rows = [{"mel_distance": value} for value in away]
    if system.clap is not None:
        E = system.encode_audio(waves)
        for row, value in zip(rows, (E[1:] @ E[0]).tolist(), strict=True):
            row["similarity"] = value
    return rows


def measure(
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Mapping[str, np.ndarray],
    files: Mapping[str, Sequence[Path]],
    seconds: Mapping[str, float],
    *,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Measure the files of all variations as they lie there, finished or not: a row of :data:`COLUMNS` for each.

    Args:
        system: that measures.
        sources: what was varied, in order.
        heard: name -> the sound (samples,) at 16 kHz.
        files: name -> its variations.
        seconds: name -> their length, in which they are compared with the beginning of the sound.
        quiet: show no bar.
    """
    rows = []
    for source in tqdm(sources, unit="sound", desc="measuring", disable=True if quiet else None):
        clips = [model_wave(path) for path in files[source.name]]
        sound = beginning(heard[source.name], seconds[source.name])
        for path, row in zip(files[source.name], distances(system, sound, clips), strict=True):
            about = {
                "file": path.relative_to(path.parents[1]).as_posix(),
                "sound": source.title,
                "strength": f"{source.strength:g}",
            }
            rows.append(about | row)
    return rows


def beginning(sound: np.ndarray, seconds: float) -> np.ndarray:
    """The part of a sound (samples,) at 16 kHz that variations of so many seconds are compared with."""
    return sound[: max(1, round(seconds * MODEL_RATE))]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of :func:`measure` as CSV, with four decimals; what was not measured stays empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        cells = (row.get(name, "") for name in COLUMNS)
        table.writerow([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in cells])
    write_text(path, text.getvalue())


def model_wave(path: Path) -> np.ndarray:
    """A file's first channel at 16 kHz, (samples,)."""
    wave, sr = read_wave(path)
    return resample(wave[0], sr, MODEL_RATE)


def _levelled(wave: np.ndarray, length: int, samples: int) -> np.ndarray:
    """Zero mean and peak 0.5, as the model takes sounds, of one length, repeated to a clip's."""
    wave = wave[:length] - wave[:length].mean()
    peak = float(np.abs(wave).max(initial=0.0))
    wave = np.pad(wave * (0.5 / peak) if peak else wave, (0, length - len(wave)))
    return repeat_to(wave.astype(np.float32), samples)
