"""The clips that lie in folders, class by class: found, under one name for each class, and put beside each other."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from latentclap.audio import FORMATS
from latentclap.classes import CLASSES, class_key
from latentclap.errors import InputError
from latentclap.files import below, plain
from latentclap.meta import SPLITS
from latentclap.scan import Clip, DataReport, Problem, examine, scan
from latentclap.scan.folder import drop_duplicates
from latentclap.scan.layout import (
    UNDECODABLE,
    Found,
    find,
    packed,
    sounds_below,
)

#: the one class of a folder whose clips lie in no folders
ALL = "clips"
#: what a scan calls a folder that is none of the seven: here, a class of one's own
OWN = "wrong class name"
#: what a scan finds that is no fault of the clips
NO_FAULT = (OWN, "missing class", "stray file", "bad meta")
T = TypeVar("T")


def clips_in_folder(folder: str | Path, duplicates_ok: bool = False) -> dict[str, list[Path]]:
    """Sound files of a folder by class, each under its one name (`classes.class_key`).

    Args:
        folder: see :func:`sounds_by_folder`.
        duplicates_ok: see there.

    Raises:
        InputError: see there; two folders that are one class.
    """
    return by_class(sounds_by_folder(folder, duplicates_ok), folder)


def sounds_by_folder(
    folder: str | Path, duplicates_ok: bool = False, measured: Iterable[str] | None = None
) -> dict[str, list[Path]]:
    """Sound files of a folder by the names of its class folders, ``<folder>/<class>/*.wav``.

    Classes have any names. A folder with both a dev and an eval side gives its eval side, which is Table I's
    reference; one without folders is one class, :data:`ALL`. All files have been read, and were good; clips of the
    seven classes last half a second at least. Silent clips are clips: a system made them, or somebody recorded them.

    Args:
        folder: with a folder for each class, or with sounds.
        duplicates_ok: copies of a clip are no error: of the seven classes they are left out, of others they count.
        measured: of real clips, names of the classes that are needed: files of other classes of one's own are not
            read, and an empty folder of one of the seven is no error. None: all are needed.

    Raises:
        InputError: no such folder, no sounds, or bad files: counts, their names, and what the first is.
    """
    given = Path(folder)
    if not given.is_dir():
        what = "a file, not a folder of clips" if given.exists() else "no such folder of clips"
        raise InputError(f"{given}: {what}")
    folder = Path(os.path.abspath(given.expanduser()))
    _, problems, seven = find(folder)
    if unread := next((p for p in problems if p.kind == "unreadable" and p.path == folder), None):
        raise InputError(f"{plain(unread.path)}: {unread.detail}")
    report = scan(folder, keep_silent=True) if seven else DataReport(folder, (), tuple(problems))
    # a folder that may not be listed is told with all that is bad
    locked = any(problem.kind == "unreadable" for problem in problems)
    rows = [(clip.cls, clip.split, Path(clip.path)) for clip in report.clips]
    own: list[Found] = []
    beside = set()
    for place in own_folders(problems):
        paths = sounds_below(place, []) if locked else _sounds(place)
        own += [Found(path, plain(place.name), side_of(place, folder)) for path in paths]
        beside |= {plain(place.name)} if place.parent == folder else set()
    rows += [(sound.cls, sound.split, sound.path) for sound in own]
    both = {side for _, side, _ in rows} >= {"dev", "eval"}
    found: dict[str, list[Path]] = {}
    for cls, side, path in rows:
        if not both or side == "eval" or cls in beside:
            found.setdefault(cls, []).append(path)
    loose = [] if seven or locked else [path for path in _sounds(folder) if path.parent == folder]
    if found and loose:
        raise InputError(
            f"{given}: sounds lie in folders and beside them ({plain(loose[0].name)}); move all into folders, or none"
        )
    kept = {path for paths in found.values() for path in paths}
    own = [sound for sound in own if sound.path in kept] or [Found(path, ALL, None) for path in loose]
    if measured is not None:
        needed = _needed(dict.fromkeys([*found] or [ALL]), measured)
        own = [sound for sound in own if sound.cls in needed]
    report = _with_own(report, own)
    fine = [
        *NO_FAULT,
        *(["duplicate"] if duplicates_ok else []),
        *(["empty class"] if measured is not None else []),
    ]
    report.raise_if_bad(ignore=fine)
    if not found and not loose:
        archives = packed(below(folder))
        told = f", but {archives}: unpack them there" if archives else ""
        raise InputError(f"{given}: no sounds{told}; expected {given}/rain/*.wav, or sounds in {given}")
    return {cls: sorted(found[cls]) for cls in in_order(found)} if found else {ALL: loose}


def _needed(found: Mapping[str, T], measured: Iterable[str]) -> set[str]:
    """Which names of a folder's classes stand for classes that are measured."""
    wanted = list(measured)
    keys = {canonical(name) for name in wanted}
    alike = named_as(found, wanted)
    return {name for name, other in zip(found, alike, strict=True) if canonical(other) in keys}


def _with_own(report: DataReport, own: Sequence[Found]) -> DataReport:
    """A scan's report with the clips of one's own classes, of any length, and what is wrong with those."""
    seen = examine(own, min_seconds=0.0, keep_silent=True, desc=f"reading {report.folder.name}")
    clips = (*report.clips, *(clip for clip in seen if isinstance(clip, Clip)))
    kept, copies = drop_duplicates(clips, report.folder)
    bad = [problem for problem in seen if isinstance(problem, Problem)]
    # what is wrong with a file comes before what its class lacks for it
    return replace(report, clips=tuple(kept), problems=(*bad, *report.problems, *copies))


def own_folders(problems: Iterable[Problem]) -> list[Path]:
    """The class folders, none of the seven, among what `scan` and `find` say of a folder."""
    return [problem.path for problem in problems if problem.kind == OWN]


def side_of(place: Path, folder: Path) -> str | None:
    """The side on which a class folder lies, dev or eval; None where the folder has no sides."""
    return None if place.parent == folder else SPLITS[place.parent.name.lower()]


def _sounds(folder: Path) -> list[Path]:
    """Sound files below a folder, sorted, with those that cannot be decoded."""
    return [path for path in below(folder, {*FORMATS, *UNDECODABLE}) if not path.is_dir()]


def in_order(classes: Iterable[str]) -> list[str]:
    """Table I's order first, other names after."""
    names = list(classes)
    return [c for c in CLASSES if c in names] + sorted(c for c in names if c not in CLASSES)


def as_measured(names: Iterable[str]) -> list[str]:
    """Names as they are given, in the order in which classes are measured, and their draws dealt: `in_order`'s."""

    def place(name: str) -> tuple[int, str]:
        cls = canonical(name)
        return (CLASSES.index(cls), "") if cls in CLASSES else (len(CLASSES), name)

    return sorted(names, key=place)


def canonical(name: str) -> str:
    """The one name of a class; a name without a letter or a digit stays as it is."""
    try:
        return class_key(name)
    except InputError:
        return name


def by_class(found: Mapping[str, T], where: str | Path, like: Iterable[str] = ()) -> dict[str, T]:
    """Clips or statistics under the one name of each class, in the order in which they come.

    Args:
        found: {name as it is written: clips}.
        where: they are, for the error.
        like: names of classes that they are put beside, see :func:`named_as`.

    Raises:
        InputError: two names of one class.
    """
    written: dict[str, str] = {}
    for name, alike in zip(found, named_as(found, like), strict=True):
        key = canonical(alike)
        if key in written:
            raise InputError(
                f"{where}: {written[key]} and {name} are one class, {key}: rename one of them, or put their sounds"
                " into one folder"
            )
        written[key] = name
    return {key: found[name] for key, name in written.items()}


def named_as(found: Mapping[str, T], classes: Iterable[str]) -> dict[str, T]:
    """The same clips, or statistics, with a class that is written otherwise as ``classes`` has it.

    A name that is there as it is asked for stays, and so does one that several would fit.
    """

    def forms(name: str) -> set[str]:
        # as a folder of generated clips is called, and with accents as one sign, which some disks take apart
        texts = (name, unicodedata.normalize("NFC", name))
        return {re.sub(r"[\W_]+", "_", text.lower()).strip("_") for text in texts} - {""}

    wanted = list(classes)
    others = [name for name in found if name not in wanted]
    names = {}
    for cls in wanted:
        like = [name for name in others if forms(name) & forms(cls)]
        if cls not in found and len(like) == 1 and like[0] not in names:
            names[like[0]] = cls
    return {names.get(name, name): files for name, files in found.items()}
