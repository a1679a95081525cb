"""The layout of a data folder: classes, sides, and where sound files lie."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from latentclap.audio import FORMATS
from latentclap.classes import CLASSES, canonical_class
from latentclap.files import plain, unlisted
from latentclap.meta import SPLITS
from latentclap.scan.report import Problem
from latentclap.wording import plural

#: Suffixes taken for sound files; those in the second set are sounds that libsndfile cannot decode.
SUFFIXES = frozenset(FORMATS)
UNDECODABLE = frozenset({".m4a", ".aac", ".wma", ".mp4", ".webm"})
#: what sounds are packed in, and has to be unpacked first
ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|zip|7z|rar|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A sound file with the class and the side that its folders say."""

    path: Path
    cls: str
    split: str | None


def visible(folder: Path, problems: list[Problem] | None = None) -> list[Path]:
    """What lies in a folder, sorted, without hidden files; nothing where it may not be read, which is a problem."""
    said = [] if problems is None else problems
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        if not os.access(folder, os.X_OK):  # names alone
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        said.append(Problem(folder, "unreadable", unlisted(error)))
        return []
    return found


def packed(paths: Iterable[Path]) -> str:
    """Words for the archives among files: "2 archives (a.zip, b.tar.gz)"; empty where there is none."""
    names = [plain(path.name) for path in paths if ARCHIVE.search(path.name) and not path.is_dir()]
    if not names:
        return ""
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{plural(len(names), 'archive')} ({few})"


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | UNDECODABLE and not path.is_dir()


def sounds_below(
    folder: Path, problems: list[Problem], above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Sound files below a folder, at any depth; what may not be read is added to ``problems``."""
    # not rglob: it follows no order of ours and silently swallows unreadable folders
    real = os.path.realpath(folder)
    if real in above:  # a link upwards
        return
    for path in visible(folder, problems):
        if path.is_dir():
            yield from sounds_below(path, problems, above | {real})
        elif _is_sound(path):
            yield path


def find(folder: Path) -> tuple[list[Found], list[Problem], set[str]]:
    """Return sound files with class and split, what is wrong with the layout, and the class folders seen."""
    found: list[Found] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    top = visible(folder, problems)
    sides = ((p, SPLITS[p.name.lower()]) for p in top if p.is_dir() and p.name.lower() in SPLITS)
    levels: list[tuple[list[Path], str | None]] = [(top, None)]
    # eval comes first, so that of two equal files the one for evaluation stays
    levels += [(visible(p, problems), s) for p, s in sorted(sides, key=lambda side: side[1] != "eval")]
    for level, split in levels:
        for path in level:
            if path.is_dir():
                if split is None and path.name.lower() in SPLITS:
                    continue
                try:
                    cls = canonical_class(path.name)
                except ValueError:
                    problems += _wrong_class(path)
                    continue
                seen.add(cls)
                sounds = [Found(p, cls, split) for p in sounds_below(path, problems)]
                found += sounds
                if not sounds and (archives := packed(visible(path))):
                    problems.append(
                        Problem(path, "unreadable", f"no sound, but {archives}: unpack them there")
                    )
            elif _is_sound(path):
                problems.append(Problem(path, "stray file", "lies in no class folder; move it into one"))
    return found, problems, seen


def unused(folder: Path, *, empty: bool = True) -> list[str]:
    """What is not measured of a folder of clips, a line each: class folders without a sound, sounds beside others.

    Args:
        folder: of clips; where it has both sides, what lies in its evaluation side counts.
        empty: tell of the folders too; real clips may lie beside folders of other things.
    """
    levels, places = _measured(folder)
    silent = [p for p in places if without_sound(p)]
    loose = [p for level in levels for p in visible(level) if _is_sound(p)]
    lines = []
    if silent and empty:
        lines.append(f"{plain(folder)}: left out, for no sound is in it: {_names(silent, folder)}")
    if loose and len(places) > len(silent):
        told = f"{plural(len(loose), 'sound')} beside the folders of the classes"
        lines.append(f"{plain(folder)}: left out: {told} ({_names(loose, folder)})")
    return lines


def empty_folders(folder: Path) -> list[Path]:
    """The class folders, of the side that is measured, without a sound."""
    return [place for place in _measured(folder)[1] if without_sound(place)]


def without_sound(folder: Path) -> bool:
    """Whether no sound lies below a folder."""
    return next(sounds_below(folder, []), None) is None


def _measured(folder: Path) -> tuple[list[Path], list[Path]]:
    """Where the class folders that are measured lie, the folder and its evaluation side or its only one; and they."""
    sides = {SPLITS[p.name.lower()]: p for p in visible(folder) if p.is_dir() and p.name.lower() in SPLITS}
    levels = [folder, *(p for side, p in sides.items() if side == "eval" or "eval" not in sides)]
    # what macOS packs beside the files of an archive
    places = [
        p
        for level in levels
        for p in visible(level)
        if p.is_dir() and p not in sides.values() and p.name != "__MACOSX"
    ]
    return levels, places


def _names(paths: list[Path], folder: Path) -> str:
    return ", ".join(plain(p.relative_to(folder)) for p in paths[:3]) + (", ..." if len(paths) > 3 else "")


def _wrong_class(path: Path) -> list[Problem]:
    problems: list[Problem] = []
    n = sum(1 for _ in sounds_below(path, problems))
    if not n:
        return problems
    near = difflib.get_close_matches(path.name.lower().replace("-", "_"), CLASSES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the classes are {', '.join(CLASSES)}"
    return [Problem(path, "wrong class name", f"{plural(n, 'sound file')} not used; {hint}"), *problems]


def suggest(folder: Path, problems: list[Problem]) -> str:
    """Words for a folder without class folders: where they may be, or what they are called."""
    below = [p for p in visible(folder) if p.is_dir() and find(p)[2]]
    if below:
        return f"did you mean {' or '.join(str(p) for p in below)}?"
    if archives := packed(visible(folder)):
        return f"found {archives}: unpack them there"
    wrong = [p.path.name for p in problems if p.kind == "wrong class name"]
    found = f"found {', '.join(wrong)}, but " if wrong else ""
    return f"{found}the classes are {', '.join(CLASSES)}"
