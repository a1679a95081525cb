"""Classes of two folders put beside each other: each needs sounds in both."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from latentclap.errors import InputError
from latentclap.evaluate.folders import ALL, canonical
from latentclap.files import plain
from latentclap.meta import SPLITS
from latentclap.scan.layout import empty_folders, visible, without_sound
from latentclap.wording import few


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
    told = {cls: _lacking(other, cls) for cls in missing} if isinstance(other, Path) else {}
    why = {cls: text for cls, text in told.items() if text}
    absent = [cls for cls in missing if cls not in why]
    parts = [few(absent)] if absent else []
    parts += [f"sounds of {few(why)} ({few(why.values())})"] if why else []
    hint = (
        _hint(absent, folder, found) if absent else "put sounds of the class there, or give the other folder"
    )
    raise InputError(
        f"{there} has no {', and no '.join(parts)}; it has {few(found)}, and {folder} has {few(wanted)}: {hint}"
    )


def _lacking(folder: Path, cls: str) -> str:
    """Why a folder has no clips of a class that a folder in it is named by; empty where there is no such folder."""
    top = [path for path in visible(folder) if path.is_dir()]
    sides = [path for path in top if path.name.lower() in SPLITS]
    inner = [path for side in sides for path in visible(side) if path.is_dir()]
    places = [p for p in [*top, *inner] if p not in sides and canonical(plain(p.name)) == cls]
    if not places:
        return ""
    if full := [place for place in places if not without_sound(place)]:
        return f"those in {plain(full[0])} are not measured"
    return f"{plain(places[0])} is empty"


def check_empty(folder: str | Path, found: Sequence[str], real: Sequence[str], other: str | Path) -> None:
    """Refuse a folder of generated clips in which a class is there without a sound, that the reference has.

    A folder of another name may be anything: of that a warning is enough (`scan.layout.unused`).

    Args:
        folder: of the generated clips; words for them have no folders.
        found: classes that it has sounds of.
        real: classes of the reference.
        other: where that is, or words for it.

    Raises:
        InputError: a class's folder is empty.
    """
    if not isinstance(folder, Path):
        return
    empty = {canonical(plain(place.name)): place for place in empty_folders(folder)}
    if places := [plain(place) for cls, place in empty.items() if cls in real and cls not in found]:
        raise InputError(
            f"{few(places)}: no sound in it, but in {other} of this class: put clips there, or remove the folder"
        )


def _hint(missing: Sequence[str], folder: str | Path, found: Sequence[str]) -> str:
    """What may be meant by classes without a partner."""
    if isinstance(folder, Path):
        inner = {
            p: {canonical(plain(q.name)) for q in visible(p) if q.is_dir()}
            for p in visible(folder)
            if p.is_dir() and p.name.lower() not in SPLITS  # the sides are looked into as it is
        }
        if places := [p.name for p, names in inner.items() if names & set(found)]:
            return f"did you mean {' or '.join(str(folder / plain(name)) for name in places)}?"
    near = {cls: difflib.get_close_matches(cls, found, n=1) for cls in missing}
    if told := [f"{likely[0]} for {cls}" for cls, likely in near.items() if likely]:
        return f"did you mean {', '.join(told[:3])}?"
    return "give a class one name in all folders"
