"""What makes a comparison's figures say less than they seem to: warnings, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from latentclap.compare.manifold import clip_vectors
from latentclap.compare.scores import Embedded, Scores
from latentclap.fad import ClipEmbeddings

Files = dict[str, list[Path]]
#: {system: clips of each training}
Made = Mapping[str, Sequence[Files]]


def unequal(sides: Sequence[Files], *, kernel: bool) -> list[str]:
    """Systems with unequal numbers of clips.

    Args:
        sides: {class: clips} of every training of every system.
        kernel: whether KAD, which the number does not change, is measured.
    """
    told = [
        f"{cls} {min(counts)}-{max(counts)}"
        for cls in sides[0]
        if len(set(counts := [len(files[cls]) for files in sides])) > 1
    ]
    if not told:
        return []
    more = ", or look at KAD" if kernel else ""
    words = ", ".join(told[:3]) + (", ..." if len(told) > 3 else "")
    return [
        f"unequal numbers of clips ({words}): FAD is higher for a system with fewer, by the number alone; compare as"
        f" many of each{more}"
    ]


def same_files(made: Made, real: Files, known: Files) -> list[str]:
    """Generated clips that are reference clips too, and reference clips that were trained on."""
    out = []
    for name, trainings in made.items():
        ours = {path for files in trainings for path in _resolved(files)}
        if same := len(ours & set(_resolved(real))):
            out.append(
                f"{same} of {len(ours)} clips of {name} are reference clips too, the same files: their distance to"
                " themselves says nothing"
            )
    if same := len(set(_resolved(real)) & set(_resolved(known))):
        out.append(
            f"{same} reference clips are training clips too, the same files: none are nearer to them, and copies go"
            " unnoticed"
        )
    return out


def same_sounds(
    made: tuple[Made, Mapping[str, Sequence[Embedded]]],
    real: tuple[Files, Embedded],
    known: tuple[Files, Embedded],
) -> list[str]:
    """Clips that are the same sound in another file; each side as its files and its embeddings."""
    out = []
    for name, trainings in made[1].items():
        ours = [path for files in made[0][name] for path in _resolved(files)]
        same = sum(_same_sounds(one, real[1]) for one in trainings)
        if same > len(set(_resolved(real[0])).intersection(ours)):
            out.append(f"{same} of {len(ours)} clips of {name} sound exactly as a reference clip")
    same = _same_sounds(real[1], known[1])
    if same > len(set(_resolved(real[0])) & set(_resolved(known[0]))):
        out.append(
            f"{same} reference clips sound exactly as a training clip: none are nearer, and copies go unnoticed"
        )
    return out


def silence(scores: Mapping[str, Sequence[Scores]]) -> list[str]:
    """Silent clips of each system, class by class over its trainings, and those of the reference."""
    out = []
    for name, trainings in scores.items():
        table = [row for one in trainings for row in one.classes().to_dict("records")]
        if told := _counts(table, "n_silent", "n_clips"):
            out.append(f"silent clips of {name} are measured like any other: {told}")
    table = next(iter(scores.values()))[0].classes().to_dict("records")
    if told := _counts(table, "n_ref_silent", "n_ref"):
        out.append(f"silent reference clips are measured like any other: {told}")
    return out


def _counts(rows: Iterable[Mapping[str, float]], silent: str, of: str) -> str:
    sums: dict[str, tuple[float, float]] = {}
    for row in rows:
        known = row[silent] if row[silent] == row[silent] else 0
        before = sums.get(row["class"], (0, 0))
        sums[row["class"]] = (before[0] + known, before[1] + row[of])
    return ", ".join(f"{cls} {n:.0f} of {total:.0f}" for cls, (n, total) in sums.items() if n)


def _resolved(files: Files) -> list[Path]:
    return [path.resolve() for paths in files.values() for path in paths]


def _same_sounds(ours: Embedded, theirs: Embedded) -> int:
    """How many clips have the very embedding of a clip of the other side; silence is no copy of silence."""
    pairs = [(_sounding(ours[cls]), _sounding(theirs[cls])) for cls in ours if cls in theirs]
    return sum(int((cdist(one, other).min(1) == 0).sum()) for one, other in pairs if len(one) and len(other))


def _sounding(clips: ClipEmbeddings) -> np.ndarray:
    """Vectors (n, D) of the clips that are not known to be silent."""
    vectors = clip_vectors(clips)
    return vectors if clips.silent is None else vectors[~clips.silent]
