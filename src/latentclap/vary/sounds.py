"""The sounds that are varied, and what their variations are called."""

from __future__ import annotations

import contextlib
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.errors import InputError
from latentclap.files import below, file_sha256, plain, read_json
from latentclap.generation import PLAN, RECORD

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
#: What a sound is known by: its file's digest, and a strength.
Sound = tuple[str, float]


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
    """Name -> beginning of a sound (samples,) at 16 kHz, its first channel, at its own level.

    It is as long as a clip of the system at most, and one sample longer where the sound goes on: nothing behind that
    is decoded. All are decoded once when this is made, so that one that cannot be varied is told before a long run,
    and again when they are asked for: a library of sounds may not fit in memory.

    Args:
        sources: what is varied.
        samples: of the system's clips.

    Attributes:
        seconds: name -> length of the part that is varied.
        longer: names of sounds that go on behind it.

    Raises:
        InputError: a file that cannot be decoded, or one that is silent where it is varied; it is named.
    """

    def __init__(self, sources: Sequence[Source], samples: int) -> None:
        from latentclap.audio import MODEL_RATE
        from latentclap.vary.process import level

        self._sources, self._samples = {source.name: source for source in sources}, samples
        lengths: dict[Path, int] = {}
        for source in sources:
            if source.path not in lengths:
                wave = self[source.name]
                level(wave, samples, str(source.path))
                lengths[source.path] = len(wave)
        self.seconds = {s.name: min(lengths[s.path], samples) / MODEL_RATE for s in sources}
        self.longer = {s.name for s in sources if lengths[s.path] > samples}

    def __getitem__(self, name: str) -> np.ndarray:
        source = self._sources[name]
        return _beginning(source.path, source.digest, self._samples + 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@lru_cache(maxsize=8)
def _beginning(
    path: Path, digest: str, samples: int
) -> np.ndarray:  # a file of other content is another sound
    """The first samples of a file's first channel at 16 kHz: those that decoding all of it would give, to the bit."""
    from latentclap.audio import MODEL_RATE, resample
    from latentclap.audio.waves import check_wave

    with _opened(path) as sound:
        sr = sound.samplerate
        sound.seek(0)  # as soundfile.read does: an MP3 decoder rounds differently after it
        # a second more: the resampler's filter hears what comes behind
        frames = sound.read(math.ceil(samples * sr / MODEL_RATE) + sr, dtype="float32", always_2d=True)
    wave = np.ascontiguousarray(check_wave(frames.T, str(path))[0])
    return resample(wave, sr, MODEL_RATE)[:samples]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A sound file, open to be read; what is wrong with it is said as ``audio.decode`` says it."""
    import soundfile

    from latentclap.audio.files import _name

    if not path.is_file():
        raise InputError(f"{path}: no such sound file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    try:
        with soundfile.SoundFile(_name(path)) as sound:
            yield sound
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(
            f"{path}: cannot be read as sound ({reason}); convert it to wav, flac, ogg or mp3"
        ) from error


def check_files(sources: Sequence[Source]) -> None:
    """Open every file, before a model is loaded that may take minutes.

    Raises:
        InputError: one that is no sound, or an empty one.
    """
    for path in dict.fromkeys(source.path for source in sources):
        with _opened(path) as sound:
            if not sound.frames:
                raise InputError(f"{path}: the wave is empty")


def find_sources(
    paths: Sequence[Path],
    strengths: Sequence[float],
    leave_out: Path | None = None,
    known: Mapping[Sound, Sequence[str]] | None = None,
) -> list[Source]:
    """List sound files, and those below folders, once at each strength.

    A sound's name is its file's, with its folder's before it where two files have the same, its format behind it
    where those are one too, and its strength in per cent where there are several. What earlier calls made in folders
    below a given one is left out: clips with a record beside them, and pages.

    Args:
        paths: files and folders.
        strengths: above 0 and up to 1, all different.
        leave_out: a folder whose sounds are none of those below other folders: where variations go.
        known: what earlier calls called sounds, see :func:`earlier_names`; they keep their names.

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
    names = _told_apart(files)
    times = Counter(name.casefold() for name in names)
    both = [(f, name) for f, name in zip(files, names, strict=True) if times[name.casefold()] > 1]
    if both:
        (one, name), (other, _) = [pair for pair in both if pair[1].casefold() == both[0][1].casefold()][:2]
        raise InputError(
            f"{one} and {other} would both be called {name}: rename one, or vary them in two calls, into two folders"
        )
    digests = {file: file_sha256(file) for file in files}
    sources = [
        Source(name if len(strengths) == 1 else f"{name}_s{100 * s:g}", file, s, digests[file])
        for file, name in zip(files, names, strict=True)
        for s in strengths
    ]
    return _as_before(sources, known) if known else sources


def _told_apart(files: Sequence[Path]) -> list[str]:
    """Names of files: a word of each, with its folder's before it and then its format behind it where needed."""
    names = [_stem(f) for f in files]
    for longer in (
        lambda name, f: f"{word_of(f.absolute().parent.name)}_{name}",
        lambda name, f: f"{name}_{f.suffix.lower().removeprefix('.')}",
    ):
        # disks that know no capitals would put two into one folder
        times = Counter(name.casefold() for name in names)
        names = [
            longer(name, f) if times[name.casefold()] > 1 else name
            for f, name in zip(files, names, strict=True)
        ]
    return names


def _as_before(sources: Sequence[Source], known: Mapping[Sound, Sequence[str]]) -> list[Source]:
    """Sources under the names that they had, where no other one has such a name now."""
    taken = {source.name.casefold() for source in sources}
    named = []
    for source in sources:
        before = known.get((source.digest, source.strength), ())
        if source.name not in before:
            name = next((n for n in before if n.casefold() not in taken), source.name)
            source = replace(source, name=name)
            taken.add(name.casefold())
        named.append(source)
    return named


def earlier_names(out: Path) -> dict[Sound, list[str]]:
    """What earlier calls called the sounds whose variations lie in a folder, by their content and strength.

    A sound that is added may have the name of one that is there, which was called by it alone until then.
    """
    found: dict[Sound, list[str]] = {}
    for file in (RECORD, PLAN):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            told = read_json(out / file)
            for name, sound in told.get("plan", told)["settings"]["sounds"].items():
                if (
                    re.fullmatch(r"\w[\w.-]*", name) and name.casefold() not in TAKEN
                ):  # it may have been edited
                    found.setdefault((sound["sha256"], float(sound["strength"])), []).append(name)
    return found


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
