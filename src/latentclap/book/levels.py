"""One loudness for the players of a row.

A clip whose peaks are high for its loudness (steps, shots) cannot be brought to the book's -23 LUFS without
clipping. Beside a clip that can, it would sound weaker, and a louder clip is easily taken for a better one. So the
clips that are compared with one another share the loudest level, up to -23 LUFS, that all of them reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from latentclap.book.players import LUFS, PEAK, AudioFile, file_loudness, write_player

#: Differences within a row that are left as they are, in LU: hardly heard.
TOLERANCE = 0.5
#: How often a copy is encoded at most, until what is decoded has the level.
TRIES = 4
#: A clip that cannot come within so many LU of :data:`LUFS` is nearly silent: the others do not follow it down.
FOLLOWED = 20.0

Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True)
class Levelled:
    """Clips of a row at one loudness.

    Attributes:
        clips: in the order given; those that were too loud are new files.
        level: what they share, in LUFS; None for a single clip or where nothing could be measured.
        quieter: how many nearly silent clips are below it.
    """

    clips: list[AudioFile]
    level: float | None = None
    quieter: int = 0


def level_row(clips: Sequence[AudioFile], folder: str | Path | None = None) -> Levelled:
    """Bring the clips of a row to the loudest level that all of them reach; files that exceed it are copied.

    The copy's name tells its level, since another row may compare the same clip with other clips.

    Args:
        clips: players of one row. A file that is missing is left for the page to complain of.
        folder: where copies go; None: beside their originals.
    """
    clips = list(clips)
    if len(clips) < 2:
        return Levelled(clips)
    reached = [_loudness(clip) for clip in clips]
    heard = [value for value in reached if value >= LUFS - FOLLOWED]
    if not heard:
        return Levelled(clips)
    level = min(LUFS, *heard)
    done = [
        _lowered(clip, value, level, folder) if value > level + TOLERANCE else clip
        for clip, value in zip(clips, reached, strict=True)
    ]
    quieter = sum(np.isfinite(value) and value < LUFS - FOLLOWED for value in reached)
    return Levelled(done, level, int(quieter))


def level_rows(
    rows: Mapping[Key, Sequence[AudioFile]], folder: str | Path | None = None
) -> dict[Key, Levelled]:
    """:func:`level_row` for several rows; with a folder, each row's copies go to a folder of their own in it."""
    return {
        key: level_row(clips, None if folder is None else Path(folder) / str(number))
        for number, (key, clips) in enumerate(rows.items())
    }


def sentence(rows: Sequence[Levelled]) -> str:
    """What a page says under its players of their loudness."""
    levels = [row.level for row in rows if row.level is not None]
    if not levels:
        return f"The clip is brought to {LUFS:g} LUFS, or as near as a peak of {PEAK:g} allows."
    low, high = (f"{value:.0f}" for value in (min(levels), max(levels)))
    here = low if low == high else f"{low} to {high}"
    silent = sum(row.quieter for row in rows)
    left = f"; nearly silent clips stay quieter ({silent})" if silent else ""
    return (
        f"All clips of a row play at one loudness: {LUFS:g} LUFS, or the loudest level below it that every clip of"
        f" the row reaches with a peak of at most {PEAK:g} (here {here} LUFS){left}."
    )


def _loudness(clip: AudioFile) -> float:
    if clip.lufs is not None:
        return clip.lufs
    return file_loudness(clip.path) if clip.path.is_file() else -np.inf


def _wave(clip: AudioFile) -> tuple[np.ndarray, int]:
    """The clip's samples: as its maker still holds them, else decoded from the file."""
    from latentclap.audio import read_wave

    if clip.wave is not None and clip.sampling_rate:
        return clip.wave, clip.sampling_rate
    wave, sr = read_wave(clip.path)
    return wave[0], sr


def _lowered(clip: AudioFile, heard: float, level: float, folder: str | Path | None) -> AudioFile:
    """A copy that is ``level`` loud; encoders do not keep the loudness, so that its gain is found by trying."""
    wave, sr = _wave(clip)
    where = clip.path.parent if folder is None else Path(folder)
    path = where / f"{clip.path.stem}_at{level:.1f}lufs{clip.path.suffix}"
    gain_db, picture = 0.0, clip.picture is not None
    for _ in range(TRIES):
        gain_db += level - heard
        made = write_player(
            wave * np.float32(10 ** (gain_db / 20)), sr, path, picture=picture, seconds=clip.span
        )
        heard = level if made.lufs is None else made.lufs
        if abs(heard - level) <= TOLERANCE / 2 or not np.isfinite(heard):
            break
    return dataclasses.replace(made, caption=clip.caption)
