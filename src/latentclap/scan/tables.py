"""Meta files of a data folder joined with its clips: recording, caption, licence, side."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from latentclap.classes import canonical_class
from latentclap.errors import InputError
from latentclap.meta import META_NAMES, SPLITS, MetaRow, join_recordings, read_meta
from latentclap.scan.layout import visible
from latentclap.scan.report import Clip, Problem, relative


def _meta_files(folder: Path) -> list[Path]:
    """Meta files in the folder, in its dev/ and eval/, and in the folder above."""
    levels = [folder, *(p for p in visible(folder) if p.is_dir() and p.name.lower() in SPLITS)]
    named = [p for level in [*levels, folder.parent] for p in visible(level) if p.name.lower() in META_NAMES]
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


def apply_meta(clips: list[Clip], folder: Path) -> tuple[list[Clip], list[Problem], list[str]]:
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
                f"{relative(meta, folder)}: {stale} of {len(rows)} rows name no usable file (ignored)"
            )
        other = sorted({row.other_split for path, row in matched if path is not None and row.other_split})
        if other:
            notes.append(
                f"{relative(meta, folder)}: split {', '.join(map(repr, other[:3]))} is neither dev nor eval (ignored)"
            )
    keys = {path: frozenset().union(*(r.keys for r in rows)) for path, rows in said.items()}
    groups = join_recordings(keys)
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
            keys=keys.get(clip.path, frozenset()),
            caption=first(clip.path, "caption"),
            licence=first(clip.path, "licence"),
            source=first(clip.path, "source"),
            split=clip.split or only_split(clip.path),
        )
        for clip in clips
    ]
    return told, problems, notes
