"""The clips that lie in folders, class by class: found, under one name for each class, and put beside each other."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from latentclap.audio import FORMATS
from latentclap.classes import CLASSES, class_key
from latentclap.errors import InputError
from latentclap.files import below, plain
from latentclap.meta import SPLITS
from latentclap.scan import Problem, scan
from latentclap.scan.layout import UNDECODABLE, find, packed, visible

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


def sounds_by_folder(folder: str | Path, duplicates_ok: bool = False) -> dict[str, list[Path]]:
    """Sound files of a folder by the names of its class folders, ``<folder>/<class>/*.wav``.

    Classes have any names. A folder with both a dev and an eval side gives its eval side, which is Table I's
    reference; one without folders is one class, :data:`ALL`. Files of the seven classes have been read, and were
    good; those of others are read when they are embedded. Silent clips are clips: a system made them, or somebody
    recorded them.

    Args:
        folder: with a folder for each class, or with sounds.
        duplicates_ok: leave out copies of a clip of the seven classes; else they are an error.

    Raises:
        InputError: no such folder, no sounds, or bad files (counts and the first of them).
    """
    given = Path(folder)
    if not given.is_dir():
        what = "a file, not a folder of clips" if given.exists() else "no such folder of clips"
        raise InputError(f"{given}: {what}")
    folder = Path(os.path.abspath(given.expanduser()))
    _, problems, seven = find(folder)
    if unread := next((p for p in problems if p.kind == "unreadable" and not seven), None):
        raise InputError(f"{plain(unread.path)}: {unread.detail}")
    rows: list[tuple[str, str | None, Path]] = []
    beside = set()
    if seven:
        report = scan(folder, keep_silent=True)
        report.raise_if_bad(ignore=[*NO_FAULT, *(["duplicate"] if duplicates_ok else [])])
        rows += [(clip.cls, clip.split, Path(clip.path)) for clip in report.clips]
    for place in own_folders(problems):
        rows += [(plain(place.name), side_of(place, folder), path) for path in _sounds(place)]
        beside |= {plain(place.name)} if place.parent == folder else set()
    both = {side for _, side, _ in rows} >= {"dev", "eval"}
    found: dict[str, list[Path]] = {}
    for cls, side, path in rows:
        if not both or side == "eval" or cls in beside:
            found.setdefault(cls, []).append(path)
    loose = [] if seven else [path for path in _sounds(folder) if path.parent == folder]
    if found and loose:
        raise InputError(
            f"{given}: sounds lie in folders and beside them ({plain(loose[0].name)}); move all into folders, or none"
        )
    if not found and not loose:
        archives = packed(below(folder))
        told = f", but {archives}: unpack them there" if archives else ""
        raise InputError(f"{given}: no sounds{told}; expected {given}/rain/*.wav, or sounds in {given}")
    return {cls: sorted(found[cls]) for cls in in_order(found)} if found else {ALL: loose}


def own_folders(problems: Iterable[Problem]) -> list[Path]:
    """The class folders, none of the seven, among what `scan` and `find` say of a folder."""
    return [problem.path for problem in problems if problem.kind == OWN]


def side_of(place: Path, folder: Path) -> str | None:
    """The side on which a class folder lies, dev or eval; None where the folder has no sides."""
    return None if place.parent == folder else SPLITS[place.parent.name.lower()]


def _sounds(folder: Path) -> list[Path]:
    """Sound files below a folder, sorted."""
    found = [path for path in below(folder, {*FORMATS, *UNDECODABLE}) if not path.is_dir()]
    if bad := [path for path in found if path.suffix.lower() in UNDECODABLE]:
        raise InputError(
            f"{bad[0]}: cannot be decoded ({len(bad)} such in {folder}); convert it to wav, flac, ogg or mp3"
        )
    return found


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


def check_partners(
    wanted: Sequence[str], folder: str | Path, found: Sequence[str], other: str | Path, option: str = ""
) -> None:
    """Refuse classes of one folder that another lacks, telling what lies in both.

    Args:
        wanted: classes that need a partner.
        folder: where they are, or words for it.
        found: classes of the other side.
        other: where those are, or words for it.
        option: that named the other side, for the message.

    Raises:
        InputError: one has no partner.
    """
    missing = [cls for cls in wanted if cls not in found]
    if not missing:
        return
    there = f"{option} {other}".strip()
    for classes, place, mine in ((wanted, str(folder), found), (found, there, wanted)):
        if list(classes) == [ALL]:
            raise InputError(
                f"{place}: its sounds lie in no folder of a class, and {there if classes is wanted else folder} has"
                f" {few(mine)}: put them into folders of these names"
            )
    raise InputError(
        f"{there} has no {few(missing)}; it has {few(found)}, and {folder} has {few(wanted)}:"
        f" {_hint(missing, folder, found)}"
    )


def _hint(missing: Sequence[str], folder: str | Path, found: Sequence[str]) -> str:
    """What may be meant by classes without a partner."""
    if isinstance(folder, Path):
        inner = {
            p: {canonical(plain(q.name)) for q in visible(p) if q.is_dir()}
            for p in visible(folder)
            if p.is_dir()
        }
        if places := [p.name for p, names in inner.items() if names & set(found)]:
            return f"did you mean {' or '.join(str(folder / plain(name)) for name in places)}?"
    near = {cls: difflib.get_close_matches(cls, found, n=1) for cls in missing}
    if told := [f"{likely[0]} for {cls}" for cls, likely in near.items() if likely]:
        return f"did you mean {', '.join(told[:3])}?"
    return "give a class one name in all folders"


def few(names: Iterable[str]) -> str:
    """Up to seven names, and how many more there are."""
    told = list(names)
    return ", ".join(told[:7]) + (f" and {len(told) - 7} more" if len(told) > 7 else "")
