"""Names of a survey's clips, which tell nothing of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentclap.files import file_sha256

#: name that tells nothing, class, model, item, file
Named = tuple[str, str, str, str, Path]


def named(chosen: Mapping[str, Mapping[str, Sequence[Path]]], seed: int) -> list[Named]:
    """Every clip, {class: {model: files}}, with a name, which depends on the seed and on what is in the files."""
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
