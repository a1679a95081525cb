"""The scan itself: every sound file of a folder is looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentclap.audio import decode
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.scan.layout import UNDECODABLE, Found, find, suggest
from latentclap.scan.report import Clip, DataReport, Problem, relative
from latentclap.scan.tables import apply_meta


def _examine(found: Found, min_seconds: float, silence_dbfs: float, keep_silent: bool) -> Clip | Problem:
    """Decode one file: a clip, or the first thing that is wrong with it."""
    path = found.path
    if path.suffix.lower() in UNDECODABLE:
        return Problem(path, "unreadable", f"{path.suffix} cannot be decoded; convert it to wav or flac")
    try:
        wave, sr = decode(path)
    except InputError as error:
        return Problem(path, "unreadable", str(error).removeprefix(f"{path}: "))
    except MemoryError:
        return Problem(path, "unreadable", "does not fit into memory")
    seconds = wave.shape[-1] / sr
    if not wave.shape[-1] and not min_seconds:
        return Problem(path, "unreadable", "no samples in it")
    if seconds < min_seconds:
        return Problem(path, "too short", f"{seconds:.3f} s, at least {min_seconds:g} s are needed")
    bad = int((~np.isfinite(wave)).sum())
    if bad:
        return Problem(path, "NaN", f"{bad} samples are NaN or infinite")
    # the model takes the first channel (AudioLDM's rule), and a constant offset is no sound
    peak = float(np.abs(wave[0] - wave[0].mean()).max())
    silent = peak < 10 ** (silence_dbfs / 20)
    if silent and not keep_silent:
        level = f"{20 * np.log10(peak):.1f} dBFS" if peak > 0 else "digital silence"
        which = "" if wave.shape[0] == 1 else " in the first channel"
        return Problem(path, "silent", f"peak {level}{which}, below {silence_dbfs:g} dBFS")
    digest = hashlib.blake2b(wave.tobytes(), digest_size=16).hexdigest()
    return Clip(
        path,
        found.cls,
        split=found.split,
        seconds=seconds,
        sr=sr,
        channels=wave.shape[0],
        digest=digest,
        silent=silent,
    )


def examine(
    found: Sequence[Found],
    *,
    min_seconds: float = 0.5,
    silence_dbfs: float = -60.0,
    keep_silent: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
    desc: str = "reading",
) -> list[Clip | Problem]:
    """Decode sound files: a clip for each that is good, else the first thing that is wrong with it; see `scan`."""
    quiet = (None if len(found) >= 300 else True) if progress is None else not progress
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda f: _examine(f, min_seconds, silence_dbfs, keep_silent), found)
        return list(tqdm(results, total=len(found), desc=desc, unit="file", disable=quiet))


def drop_duplicates(clips: Iterable[Clip], folder: Path) -> tuple[list[Clip], list[Problem]]:
    """The first clip of each sound, and a problem for every other one that has its samples."""
    first: dict[str, Clip] = {}
    problems = []
    for clip in clips:
        # silence is no recording: that of two clips is the same, and neither is a copy of the other
        kept = first.setdefault(clip.path.as_posix() if clip.silent else clip.digest, clip)
        if kept is not clip:
            where = relative(kept.path, folder)
            other = "" if kept.cls == clip.cls else f", which is of class {kept.cls}"
            problems.append(Problem(clip.path, "duplicate", f"same samples as {where}{other}"))
    return list(first.values()), problems


def scan(
    folder: str | Path,
    *,
    min_seconds: float = 0.5,
    silence_dbfs: float = -60.0,
    keep_silent: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
) -> DataReport:
    """Look at every sound file of a folder in DCASE layout; no bad file ever raises.

    Args:
        folder: the data set.
        min_seconds: shorter files are reported as too short.
        silence_dbfs: files whose peak stays below it (offset removed, first channel) are reported as silent.
        keep_silent: such files are clips too, and no copies of each other, rather than problems.
        workers: reading threads; by default the number of cores, at most 8.
        progress: show a bar; by default on a terminal, from 300 files on.

    Returns:
        Clips sorted by path, and problems: unreadable, silent, NaN, too short, duplicate, wrong class name,
        empty class, missing class, stray file, bad meta.

    Raises:
        InputError: the folder itself is missing or has nothing of the layout.
    """
    folder = Path(os.path.abspath(Path(folder).expanduser()))
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; give a folder with one sub-folder per class")
    found, problems, seen = find(folder)
    if locked := next((p for p in problems if p.path == folder and p.kind == "unreadable"), None):
        raise InputError(f"{folder}: {locked.detail}")
    if not seen:
        raise InputError(f"{folder}: no class folder here; {suggest(folder, problems)}")
    results = examine(
        found,
        min_seconds=min_seconds,
        silence_dbfs=silence_dbfs,
        keep_silent=keep_silent,
        workers=workers,
        progress=progress,
        desc=f"reading {folder.name}",
    )
    problems += [r for r in results if isinstance(r, Problem)]
    clips, duplicates = drop_duplicates((r for r in results if isinstance(r, Clip)), folder)
    clips, bad_meta, notes = apply_meta(clips, folder)
    usable = {clip.cls for clip in clips}
    empty = [Problem(folder / c, "empty class", "no usable clip") for c in CLASSES if c in seen - usable]
    missing = [
        Problem(folder / c, "missing class", "no folder of this name") for c in CLASSES if c not in seen
    ]
    return DataReport(
        folder,
        tuple(sorted(clips, key=lambda clip: clip.path)),
        tuple(problems + duplicates + empty + missing + bad_meta),
        tuple(notes),
    )
