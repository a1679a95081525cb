"""What lies in a folder of clips in DCASE layout, and what is wrong with it.

``<folder>/<class>/*.wav`` or ``<folder>/{dev,eval}/<class>/*.wav``, classes in either spelling, any of
libsndfile's formats, any rate, mono or stereo. A bad file never stops the reading: it is left out and stands
in the report's table.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from latentclap.audio import decode
from latentclap.classes import CLASSES, canonical_class
from latentclap.errors import InputError
from latentclap.meta import META_NAMES, MetaRow, join_recordings, read_meta

#: Suffixes taken for sound files; those in the second set are sounds that libsndfile cannot decode.
SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"})
_UNDECODABLE = frozenset({".m4a", ".aac", ".wma", ".mp4", ".webm"})
_SPLITS = {"dev": "dev", "development": "dev", "eval": "eval", "evaluation": "eval"}
#: Kinds of problem that concern the folder and not a file's content.
FOLDER_KINDS = ("wrong class name", "empty class", "missing class", "stray file", "bad meta")


@dataclass(frozen=True)
class Clip:
    """One usable sound file.

    ``group`` names the recording it was cut from (None: a recording of its own), ``digest`` its samples.
    """

    path: Path
    cls: str
    group: str | None = None
    caption: str | None = None
    split: str | None = None
    seconds: float = 0.0
    sr: int = 0
    channels: int = 1
    licence: str | None = None
    source: str | None = None
    digest: str = ""

    @property
    def recording(self) -> str:
        """Name of the recording: the group, or the file itself where no meta file gives one."""
        return self.group or self.path.as_posix()


@dataclass(frozen=True)
class Problem:
    """One thing wrong: ``kind`` is one of a few fixed words, ``detail`` says what was found."""

    path: Path
    kind: str
    detail: str


@dataclass(frozen=True)
class DataReport:
    """What a scan found: usable clips, problems, and remarks that are no problems (stale meta rows)."""

    folder: Path
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row per problem: path (relative to the folder), kind, detail."""
        rows = [(_relative(p.path, self.folder), p.kind, p.detail) for p in self.problems]
        return pd.DataFrame(rows, columns=["path", "kind", "detail"])

    def one_line(self) -> str:
        """Counts and the first problem, in one line."""
        if not self.problems:
            return f"{self.folder}: {len(self.clips)} clips, no problem"
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in self.problems).items())
        first = self.problems[0]
        where = _relative(first.path, self.folder)
        return (
            f"{self.folder}: {len(self.problems)} problems ({counts}), {len(self.clips)} usable clips; "
            f"first: {where}: {first.kind}, {first.detail}"
        )

    def raise_if_bad(self, ignore: Iterable[str] = ("missing class",)) -> None:
        """Raise InputError with one line if there is any problem of a kind not in ``ignore``."""
        kept = tuple(p for p in self.problems if p.kind not in set(ignore))
        if kept:
            raise InputError(replace(self, problems=kept).one_line())


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


# --- finding ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    path: Path
    cls: str
    split: str | None


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return []


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | _UNDECODABLE and not path.is_dir()


def _sounds_below(folder: Path) -> Iterator[Path]:
    # not rglob: it follows no order of ours and silently swallows unreadable folders
    for path in _visible(folder):
        if path.is_dir():
            yield from _sounds_below(path)
        elif _is_sound(path):
            yield path


def _find(folder: Path) -> tuple[list[_Found], list[Problem], set[str]]:
    """Return sound files with class and split, what is wrong with the layout, and the class folders seen."""
    found: list[_Found] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    levels: list[tuple[Path, str | None]] = [(folder, None)]
    # eval comes first, so that of two equal files the one for evaluation stays
    levels += sorted(
        ((p, _SPLITS[p.name.lower()]) for p in _visible(folder) if p.is_dir() and p.name.lower() in _SPLITS),
        key=lambda level: level[1] != "eval",
    )
    for level, split in levels:
        for path in _visible(level):
            if path.is_dir():
                if split is None and path.name.lower() in _SPLITS:
                    continue
                try:
                    cls = canonical_class(path.name)
                except ValueError:
                    problems += _wrong_class(path)
                    continue
                seen.add(cls)
                if not os.access(path, os.R_OK | os.X_OK):
                    problems.append(Problem(path, "unreadable", "no permission to read this folder"))
                found += [_Found(p, cls, split) for p in _sounds_below(path)]
            elif _is_sound(path):
                problems.append(Problem(path, "stray file", "lies in no class folder; move it into one"))
    return found, problems, seen


def _wrong_class(path: Path) -> list[Problem]:
    n = sum(1 for _ in _sounds_below(path))
    if not n:
        return []
    near = difflib.get_close_matches(path.name.lower().replace("-", "_"), CLASSES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the classes are {', '.join(CLASSES)}"
    return [Problem(path, "wrong class name", f"{n} sound files not used; {hint}")]


# --- looking at each file -----------------------------------------------------------------------------------


def _examine(found: _Found, min_seconds: float, silence_dbfs: float) -> Clip | Problem:
    """Decode one file: a clip, or the first thing that is wrong with it."""
    path = found.path
    if path.suffix.lower() in _UNDECODABLE:
        return Problem(path, "unreadable", f"{path.suffix} cannot be decoded; convert it to wav or flac")
    try:
        wave, sr = decode(path)
    except InputError as error:
        return Problem(path, "unreadable", str(error).removeprefix(f"{path}: "))
    except MemoryError:
        return Problem(path, "unreadable", "does not fit into memory")
    seconds = wave.shape[-1] / sr
    if seconds < min_seconds:
        return Problem(path, "too short", f"{seconds:.3f} s, at least {min_seconds:g} s are needed")
    bad = int((~np.isfinite(wave)).sum())
    if bad:
        return Problem(path, "NaN", f"{bad} samples are NaN or infinite")
    # the model takes the first channel (AudioLDM's rule), and a constant offset is no sound
    peak = float(np.abs(wave[0] - wave[0].mean()).max())
    if peak < 10 ** (silence_dbfs / 20):
        level = f"{20 * np.log10(peak):.1f} dBFS" if peak > 0 else "digital silence"
        which = "" if wave.shape[0] == 1 else " in the first channel"
        return Problem(path, "silent", f"peak {level}{which}, below {silence_dbfs:g} dBFS")
    digest = hashlib.blake2b(wave.tobytes(), digest_size=16).hexdigest()
    return Clip(
        path, found.cls, split=found.split, seconds=seconds, sr=sr, channels=wave.shape[0], digest=digest
    )


def _drop_duplicates(clips: Iterable[Clip], folder: Path) -> tuple[list[Clip], list[Problem]]:
    first: dict[str, Clip] = {}
    problems = []
    for clip in clips:
        kept = first.setdefault(clip.digest, clip)
        if kept is not clip:
            where = _relative(kept.path, folder)
            other = "" if kept.cls == clip.cls else f", which is of class {kept.cls}"
            problems.append(Problem(clip.path, "duplicate", f"same samples as {where}{other}"))
    return list(first.values()), problems


# --- meta files ---------------------------------------------------------------------------------------------


def _meta_files(folder: Path) -> list[Path]:
    """Meta files in the folder, in its dev/ and eval/, and in the folder above."""
    levels = [folder, *(p for p in _visible(folder) if p.is_dir() and p.name.lower() in _SPLITS)]
    named = [p for level in [*levels, folder.parent] for p in _visible(level) if p.name.lower() in META_NAMES]
    return [p for p in named if p.is_file()]


def _match(row: MetaRow, meta: Path, folder: Path, tails: dict[tuple, list[Path]]) -> Path | None:
    """Find the clip a row names: by its path from the meta file, else by class and file name."""
    above = meta.parent == folder.parent
    for base in [meta.parent] if above else [meta.parent, meta.parent.parent]:
        path = Path(os.path.normpath(base / row.file))
        if (path,) in tails:
            return path
    if above:  # a table above names other folders' files too: "nc/rain/000" is not our "rain/000"
        return None
    parent = row.file.parent.name
    try:
        cls = canonical_class(parent)
    except ValueError:
        cls = row.cls
    for split in (row.split, None):
        named = tails.get((split, cls, row.file.stem), [])
        if len(named) == 1:
            return named[0]
    return None


def _apply_meta(clips: list[Clip], folder: Path) -> tuple[list[Clip], list[Problem], list[str]]:
    """Give clips their group, caption, licence and, in a flat folder, the split their table stands for."""
    tails: dict[tuple, list[Path]] = defaultdict(list)
    for clip in clips:
        tails[(clip.path,)].append(clip.path)
        tails[clip.split, clip.cls, clip.path.stem].append(clip.path)
    said: dict[Path, list[MetaRow]] = defaultdict(list)
    problems: list[Problem] = []
    notes: list[str] = []
    for meta in _meta_files(folder):
        try:
            rows = read_meta(meta)
        except InputError as error:
            # what lies in the folder above may have nothing to do with us
            if meta.parent != folder.parent:
                problems.append(Problem(meta, "bad meta", str(error).removeprefix(f"{meta}: ")))
            continue
        matched = [(_match(row, meta, folder, tails), row) for row in rows]
        for path, row in matched:
            if path is not None:
                said[path].append(row)
        stale = sum(path is None for path, _ in matched)
        if stale and meta.parent != folder.parent:
            notes.append(
                f"{_relative(meta, folder)}: {stale} of {len(rows)} rows name no usable file (ignored)"
            )
    groups = join_recordings({path: set().union(*(r.keys for r in rows)) for path, rows in said.items()})
    if said and len(said) < len(clips):
        notes.append(f"{len(clips) - len(said)} of {len(clips)} clips stand in no meta file")

    def first(path: Path, name: str) -> str | None:
        return next((getattr(row, name) for row in said[path] if getattr(row, name)), None)

    def only_split(path: Path) -> str | None:
        splits = {row.split for row in said[path] if row.split}
        return splits.pop() if len(splits) == 1 else None

    told = [
        replace(
            clip,
            group=groups.get(clip.path),
            caption=first(clip.path, "caption"),
            licence=first(clip.path, "licence"),
            source=first(clip.path, "source"),
            split=clip.split or only_split(clip.path),
        )
        for clip in clips
    ]
    return told, problems, notes


# --- the whole ----------------------------------------------------------------------------------------------


def scan(
    folder: str | Path,
    *,
    min_seconds: float = 0.5,
    silence_dbfs: float = -60.0,
    workers: int | None = None,
    progress: bool | None = None,
) -> DataReport:
    """Look at every sound file of a folder in DCASE layout; no bad file ever raises.

    Args:
        folder: the data set.
        min_seconds: shorter files are reported as too short.
        silence_dbfs: files whose peak stays below it (offset removed, first channel) are reported as silent.
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
    found, problems, seen = _find(folder)
    if not seen:
        raise InputError(f"{folder}: no class folder here; {_suggest(folder, problems)}")
    workers = workers or min(8, os.cpu_count() or 1)
    quiet = (None if len(found) >= 300 else True) if progress is None else not progress
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            tqdm(
                pool.map(lambda f: _examine(f, min_seconds, silence_dbfs), found),
                total=len(found),
                desc=f"reading {folder.name}",
                unit="file",
                disable=quiet,
            )
        )
    problems += [r for r in results if isinstance(r, Problem)]
    clips, duplicates = _drop_duplicates((r for r in results if isinstance(r, Clip)), folder)
    clips, bad_meta, notes = _apply_meta(clips, folder)
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


def _suggest(folder: Path, problems: list[Problem]) -> str:
    below = [p for p in _visible(folder) if p.is_dir() and _find(p)[2]]
    if below:
        return f"did you mean {' or '.join(str(p) for p in below)}?"
    wrong = [p.path.name for p in problems if p.kind == "wrong class name"]
    found = f"found {', '.join(wrong)}, but " if wrong else ""
    return f"{found}the classes are {', '.join(CLASSES)}"
