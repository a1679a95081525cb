"""The sounds that are varied, and what their variations are called."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from latentclap.errors import InputError
from latentclap.files import below, file_sha256, plain
from latentclap.generation import RECORD

#: What lies beside the folders of the sounds, none of which can have its name: the page's folder, and how far each
#: variation is from its sound.
PAGE, TABLE = "listen", "variations.csv"
TAKEN = (PAGE, TABLE, RECORD)
#: In the page's folder, what it plays: [{"row", "column", "file"}, ...].
MARK = "listen.json"
#: Of a file's or folder's word in a name, in bytes: two of them, a strength, a number and a suffix have to fit 255.
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

    @property
    def title(self) -> str:
        """The file's name, as text."""
        return plain(self.path.name)

    @property
    def said(self) -> str:
        """What a variation's file says of it, before the text that steered it."""
        return f"variation of {self.title} at strength {self.strength:g}"

    def asdict(self) -> dict[str, object]:
        """What decides how its variations sound, JSON-ready: where the file lies does not."""
        return {"strength": self.strength, "sha256": self.digest}


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

        self._sources = {source.name: source for source in sources}
        lengths: dict[Path, float] = {}
        for source in sources:
            if source.path not in lengths:
                wave = _decoded(source.path, source.digest)
                if not np.abs(wave).max() > 0:
                    raise InputError(f"{source.path}: silence has no variations")
                lengths[source.path] = len(wave) / MODEL_RATE
        self.seconds = {source.name: lengths[source.path] for source in sources}

    def check(self, samples: int) -> None:
        """Complain of sounds that cannot be varied by a system with clips of so many samples.

        Raises:
            InputError: one whose beginning is silent; it is named.
        """
        from latentclap.vary.process import level

        for source in {source.path: source for source in self._sources.values()}.values():
            level(self[source.name], samples, str(source.path))

    def __getitem__(self, name: str) -> np.ndarray:
        return _decoded(self._sources[name].path, self._sources[name].digest)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@lru_cache(maxsize=8)
def _decoded(path: Path, digest: str) -> np.ndarray:  # a file of other content is another sound
    from latentclap.audio import MODEL_RATE, read_wave, resample  # torch: --help answers at once

    wave, sr = read_wave(path)
    return resample(wave[0], sr, MODEL_RATE)


def find_sources(
    paths: Sequence[Path], strengths: Sequence[float], leave_out: Path | None = None
) -> list[Source]:
    """List sound files, and those below folders, once at each strength.

    A sound's name is its file's, with its folder's before it where two files have the same, and its strength in per
    cent behind it where there are several. What earlier calls made in folders below a given one is left out: clips
    with a record beside them, and pages.

    Args:
        paths: files and folders.
        strengths: above 0 and up to 1, all different.
        leave_out: a folder whose sounds are none of those below other folders: where variations go.

    Raises:
        InputError: nothing there, a folder without sounds, a file of no format that can be read, a strength that is
            none, or two sounds that cannot be told apart by name.
    """
    if not strengths or len({f"{s:g}" for s in strengths}) < len(strengths):
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
        found = [f for f in below(path, FORMATS) if f.is_file()] if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: no sounds in it ({', '.join(FORMATS)})")
        if path.is_dir():
            found = _recorded(path, found, leave_out)
            if not found:
                raise InputError(
                    f"{path}: all sounds in it are what was made before, or lie in --out; give the files themselves,"
                    " or another --out"
                )
        if bad := next((f for f in found if f.suffix.lower() not in FORMATS), None):
            raise InputError(f"{bad}: give one of {', '.join(FORMATS)}, or a folder of them")
        files += found
    once: dict[str, Path] = {}
    for f in files:
        once.setdefault(os.path.abspath(f), f)
    files = list(once.values())
    often = Counter(_stem(f).casefold() for f in files)
    names = [
        _stem(f) if often[_stem(f).casefold()] == 1 else f"{word_of(f.absolute().parent.name)}_{_stem(f)}"
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
    return word_of(path.stem)


def word_of(text: str) -> str:
    """Return a text as a file's name that needs no quotes anywhere, short enough for every disk."""
    word = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", plain(text)))
    word = word.encode()[:LONGEST].decode(errors="ignore").strip("._-") or "sound"
    return f"{word}_" if word.casefold() in TAKEN else word


def _recorded(folder: Path, files: Sequence[Path], out: Path | None) -> list[Path]:
    """Files below a folder but for those in ``out``, and in folders of clips that we made, or of a page."""
    ours: dict[Path, bool] = {folder: False}

    def left_out(place: Path) -> bool:
        if place not in ours:
            made = any((place / name).is_file() for name in (RECORD, MARK))
            ours[place] = made or left_out(place.parent)
        return ours[place]

    kept = [f for f in files if not left_out(f.parent)]
    if out is None:
        return kept
    place = os.path.realpath(out)
    return [f for f in kept if not Path(os.path.realpath(f)).is_relative_to(place)]
