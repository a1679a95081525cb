"""Which clips a survey has, and the names that tell nothing of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import file_sha256

#: name that tells nothing, class, model, item, file
Named = tuple[str, str, str, str, Path]


def choose(
    models: Mapping[str, str | Path], items: int, classes: Sequence[str], seed: int
) -> dict[str, dict[str, list[Path]]]:
    """{class: {model: files}}: ``items`` of each, drawn where there are more.

    Args:
        models: {name: folder of clips}.
        items: clips of each system and class.
        classes: those asked for; empty: those that every folder has.
        seed: of the draw.

    Raises:
        InputError: no such folder, no class that all have, too few clips of one, or clips that cannot be used.
    """
    for name, folder in models.items():
        if not Path(folder).is_dir():
            raise InputError(f"{name}: {folder}: no such folder of clips, <class>/*.wav")
    found = {name: _clips(Path(folder)) for name, folder in models.items()}
    wanted = list(classes) or [c for c in CLASSES if all(c in by for by in found.values())]
    if not wanted:
        raise InputError(f"no class has clips in every folder: {', '.join(map(str, models.values()))}")
    draw = np.random.default_rng([seed, 0])
    chosen: dict[str, dict[str, list[Path]]] = {}
    for cls in wanted:
        for name, by in found.items():
            paths = sorted(by.get(cls, []))
            if len(paths) < items:
                fewer = f", or ask for fewer (--items {len(paths)})" if paths else ""
                raise InputError(
                    f"{name}: {models[name]} has {len(paths) or 'no'} clip{'s' * (len(paths) != 1)} of {cls}, and"
                    f" {items} {'is' if items == 1 else 'are'} asked for; generate more{fewer}"
                )
            kept = sorted(draw.choice(len(paths), items, replace=False))
            chosen.setdefault(cls, {})[name] = [paths[i] for i in kept]
    return chosen


def _clips(folder: Path) -> dict[str, list[Path]]:
    """Sound files of a folder by class, of its evaluation side where it has both.

    Recordings may be there twice, as in the organisers' set; a silent clip is what a system made, and raters hear it.
    """
    from latentclap.data import scan

    report = scan(folder, silence_dbfs=-np.inf)
    report.raise_if_bad(ignore=["missing class", "stray file", "bad meta", "duplicate"])
    both = {clip.split for clip in report.clips} >= {"dev", "eval"}
    clips: dict[str, list[Path]] = {}
    for clip in report.clips:
        if not both or clip.split == "eval":
            clips.setdefault(clip.cls, []).append(Path(clip.path))
    return clips


def named(chosen: Mapping[str, Mapping[str, Sequence[Path]]], seed: int) -> list[Named]:
    """Every clip of :func:`choose` with a name, which depends on the seed and on what is in the files."""
    clips = [
        (cls, model, str(item), path)
        for cls, by in chosen.items()
        for model, paths in by.items()
        for item, path in enumerate(paths)
    ]
    names = _names(len(clips), np.random.default_rng([seed, 1, _content(chosen)]))
    return [(name, *clip) for name, clip in zip(names, clips, strict=True)]


def _content(chosen: Mapping[str, Mapping[str, Sequence[Path]]]) -> int:
    """A number that only who has the files can tell: from a seed alone anybody could draw the names again."""
    told = "".join(file_sha256(path) for by in chosen.values() for paths in by.values() for path in paths)
    return int(hashlib.sha256(told.encode()).hexdigest(), 16)


def _names(n: int, draw: np.random.Generator) -> list[str]:
    """n different names of eight hexadecimal digits."""
    names: dict[str, None] = {}
    while len(names) < n:
        names[f"{draw.integers(2**32):08x}"] = None
    return list(names)
