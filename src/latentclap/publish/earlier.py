"""What an earlier call of ``latentclap publish`` wrote into a folder, and what its user did there since."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from latentclap.checkpoints import json_or_nothing
from latentclap.errors import InputError
from latentclap.files import file_sha256, plain, write_json
from latentclap.publish.check import OTHERS, inventory
from latentclap.wording import plural

#: what the folder holds beside the system; the second tells it from any other folder
CARD, RECORD, LICENSE = "README.md", "model_card.json", "LICENSE"


def edited(place: Path) -> bool:
    """Whether somebody has written in the card of an earlier call."""
    if not ((place / CARD).is_file() and (place / RECORD).is_file()):
        return False
    return file_sha256(place / CARD) != json_or_nothing(place / RECORD).get("card")


def added(place: Path) -> list[str]:
    """Names of the files below a folder that no call of the command has written: pictures for the card, ``.git``.

    Raises:
        InputError: one of a kind that can run code when it is opened.
    """
    told = json_or_nothing(place / RECORD)
    if not told:
        return []
    ours = (set(told.get("files", {})) - set(told.get("added", []))) | {CARD, RECORD}
    names = sorted(
        Path(folder, file).relative_to(place).as_posix()
        for folder, _, files in os.walk(place)
        for file in files
    )
    found = [name for name in names if name not in ours]
    if bad := next((n for n in found if Path(n).suffix in OTHERS and not n.startswith(".")), None):
        raise InputError(
            f"{place / bad}: files that can run code when they are opened are not published; move it away"
        )
    return found


def take_along(place: Path, folder: Path, names: Collection[str]) -> list[str]:
    """Copy what was added to the new folder, as far as nothing there has its name.

    Returns:
        The names of what was copied, but for hidden files, which stay here and are not told.
    """
    taken = []
    for name in names:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place / name, folder / name, follow_symlinks=False)
            taken += [] if any(part.startswith(".") for part in Path(name).parts) else [name]
    return taken


def notes(folder: Path, license: str, kept: bool, taken: Collection[str]) -> list[str]:
    """What whoever edited the folder has to know, a line each.

    Args:
        folder: the new one.
        license: that was asked for.
        kept: the card there was edited, and is kept.
        taken: files that were added, and are kept.
    """
    lines = []
    if taken:
        shown = ", ".join(plain(name) for name in list(taken)[:3]) + (", ..." if len(taken) > 3 else "")
        lines.append(f"kept, {plural(len(taken), 'file')} that you added: {shown}")
    if not kept:
        return lines
    lines.append("README.md was edited and is kept as it is; delete it to have it written anew")
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    said = re.search(r"^license: *(\S+) *$", text.partition("\n---")[0], re.M)
    if said and said[1] != license:
        lines.append(
            f"warning: README.md says license: {said[1]}, and --license {license} differs: change one"
        )
    links = [link for link in re.findall(r"\]\(([\w./ -]+)\)", text) if not (folder / link).exists()]
    if links:
        lines.append(f"warning: README.md links to {links[0]}, which is not there (any more)")
    return lines


def dropped(source: Path, text: str) -> list[str]:
    """What the header of a card beside the system says and the new card's does not: a line, or nothing.

    Args:
        source: the system's folder, or the adapters' file.
        text: the new card.
    """
    old = (source.parent if source.is_file() else source) / CARD
    if not old.is_file():
        return []
    theirs, ours = (_header(card) for card in (old.read_text(encoding="utf-8", errors="replace"), text))
    other = [f"{key}: {value}" for key, value in theirs.items() if ours.get(key) != value]
    if not other:
        return []
    shown = ", ".join(" ".join(word.split())[:80] for word in other[:3]) + (", ..." if len(other) > 3 else "")
    return [f"README.md in {old.parent} has a header of its own, which is not taken over: {shown}"]


def _header(text: str) -> dict[str, Any]:
    """The entries between a card's first two lines of dashes; none where they are no YAML."""
    import yaml

    head = re.match(r"---\n(.*?)\n---\s*(?:\n|$)", text.replace("\r\n", "\n"), re.S)
    try:
        told = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    return told if isinstance(told, dict) else {}


def write_record(folder: Path, told: dict[str, Any], text: str, taken: Collection[str]) -> None:
    """What the card says, for programs, and every file's size and digest, for whoever downloads them.

    Args:
        folder: with all files in it.
        told: what the card was made from.
        text: the card as it was written: another one there was edited.
        taken: files that were added by hand.
    """
    from latentclap import __version__

    files = {
        name: {"bytes": size, "sha256": file_sha256(folder / name)}
        for name, size in inventory(folder).items()
        if name != CARD
    }
    about = {key: value for key, value in told.items() if key not in ("pushed", "title")}
    digest = hashlib.sha256(text.encode()).hexdigest()
    by_hand = {"added": sorted(taken)} if taken else {}
    head = {"published_by": f"latentclap publish {__version__}", "card": digest}
    write_json(folder / RECORD, {**head, **about, "files": files, **by_hand})
