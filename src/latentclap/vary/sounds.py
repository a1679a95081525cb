"""The sounds that are varied, and what their variations are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from latentclap.errors import InputError
from latentclap.files import below, file_sha256, plain

#: The page's folder beside those of the sounds, none of which can have its name.
PAGE = "listen"
#: Of a name, in characters: a file's has a number and a suffix behind it.
LONGEST = 100
#: Strength where none is given.
STRENGTH = 0.5


@dataclass(frozen=True)
class Source:
    """A sound at one strength.

    Attributes:
        name: of its variations' folder and files.
        path: of the sound's file.
        strength: of the variation, above 0 and up to 1.
        digest: of the file, so that another sound under its name is another one.
    """

    name: str
    path: Path
    strength: float
    digest: str

    def asdict(self) -> dict[str, object]:
        """JSON-ready."""
        return {"sound": plain(self.path), "strength": self.strength, "sha256": self.digest}


class Sounds(Mapping[str, "np.ndarray"]):
    """Name -> sound (samples,) at 16 kHz, its first channel, at its own level.

    All are decoded once when this is made, so that one that cannot be is told before a long run, and again when they
    are asked for: a library of sounds may not fit in memory.

    Attributes:
        seconds: name -> the sound's length.

    Raises:
        InputError: a file that cannot be decoded, or a silent one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        from latentclap.audio import MODEL_RATE

        self._paths = {source.name: source.path for source in sources}
        lengths: dict[Path, float] = {}
        for path in self._paths.values():
            if path not in lengths:
                wave = _decoded(path)
                if not np.abs(wave).max() > 0:
                    raise InputError(f"{path}: silence has no variations")
                lengths[path] = len(wave) / MODEL_RATE
        self.seconds = {name: lengths[path] for name, path in self._paths.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return _decoded(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@lru_cache(maxsize=8)
def _decoded(path: Path) -> np.ndarray:
    from latentclap.audio import MODEL_RATE, read_wave, resample  # torch: --help answers at once

    wave, sr = read_wave(path)
    return resample(wave[0], sr, MODEL_RATE)


def find_sources(
    paths: Sequence[Path], strengths: Sequence[float], leave_out: Path | None = None
) -> list[Source]:
    """List sound files, and those below folders, once at each strength.

    A sound's name is its file's, with its folder's before it where two files have the same, and its strength in per
    cent behind it where there are several.

    Args:
        paths: files and folders.
        strengths: above 0 and up to 1, all different.
        leave_out: a folder whose sounds are none of those below other folders: where variations go.

    Raises:
        InputError: nothing there, a folder without sounds, a file of no format that can be read, a strength that is
            none, or two sounds that cannot be told apart by name.
    """
    if not strengths or len(set(strengths)) < len(strengths):
        raise InputError(f"--strength {', '.join(f'{s:g}' for s in strengths)}: give each once")
    for strength in strengths:
        if not 0 < strength <= 1:
            raise InputError(
                f"--strength {strength:g}: it lies above 0 (the sound itself) and up to 1 (another sound)"
            )
    if missing := next((path for path in paths if not path.exists()), None):
        raise InputError(f"{missing}: no such sound file or folder")
    from latentclap.audio import FORMATS  # torch: --help answers at once

    files: list[Path] = []
    for path in paths:
        found = [path] if path.is_file() else [f for f in below(path, FORMATS) if f.is_file()]
        if path.is_dir() and leave_out is not None:
            found = [f for f in found if not f.resolve().is_relative_to(leave_out.resolve())]
        if not found:
            raise InputError(f"{path}: no sounds in it ({', '.join(FORMATS)})")
        if bad := next((f for f in found if f.suffix.lower() not in FORMATS), None):
            raise InputError(f"{bad}: give one of {', '.join(FORMATS)}, or a folder of them")
        files += [f for f in found if f not in files]
    often = Counter(_stem(f).casefold() for f in files)
    names = [
        _stem(f) if often[_stem(f).casefold()] == 1 else f"{_word(f.absolute().parent.name)}_{_stem(f)}"
        for f in files
    ]
    times = Counter(name.casefold() for name in names)
    both = [(f, name) for f, name in zip(files, names, strict=True) if times[name.casefold()] > 1]
    if both:
        (one, name), (other, _) = [pair for pair in both if pair[1].casefold() == both[0][1].casefold()][:2]
        raise InputError(
            f"{one} and {other} would both be called {name}: rename one, or vary them in two calls"
        )
    return [
        Source(name if len(strengths) == 1 else f"{name}_s{100 * s:g}", file, s, file_sha256(file))
        for file, name in zip(files, names, strict=True)
        for s in strengths
    ]


def _stem(path: Path) -> str:
    return _word(path.stem)


def _word(text: str) -> str:
    """Text as a file's name that needs no quotes anywhere."""
    word = re.sub(r"[^\w.-]+", "_", plain(text)).strip("._") or "sound"
    word = word[:LONGEST]
    return f"{word}_" if word.casefold() == PAGE else word
