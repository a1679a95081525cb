"""The record beside the clips of a page: read as it stands, written with what is new."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import finite, read_json
from latentclap.generation import RECORD, calls_of, makers_of

#: What a record of ours says of itself, which one of generate or vary does not.
BY = "latentclap play"
#: Where a clip of ours lies, as it is named there: no way out of the folder, no hidden file, no sign of a shell's.
_FILE = re.compile(r"\w[\w.-]*/\w[\w.-]*\.wav")


def file_of(entry: Any) -> str:
    """A clip's place, of its entry in a record; empty where none of ours would have such a one."""
    file = entry.get("file") if isinstance(entry, dict) else None
    return file if isinstance(file, str) and _FILE.fullmatch(file) else ""


def read_record(out: Path) -> tuple[list[Any], dict[str, dict[str, Any]]]:
    """The entries of a folder's record as they stand, and file -> what made it.

    An entry may have been edited, and its clip may be gone: it stays as it is. NaN, which is not JSON, is null.

    Raises:
        InputError: it is not JSON, or another command's.
    """
    if not (out / RECORD).exists():
        return [], {}
    try:
        record = finite(read_json(out / RECORD))
        ours = record["by"] == BY and isinstance(record["clips"], list)
        clips, makers = record["clips"], makers_of(record)
    except (LookupError, TypeError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise InputError(f"--out {out} holds clips of another command: choose another folder")
    return clips, makers


def record_of(clips: list[Any], makers: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The record of some clips.

    Args:
        clips: their entries, see :meth:`latentclap.play.items.Item.entry`.
        makers: file -> what made it.
    """
    there = {Path(file): makers.get(file, {}) for clip in clips if (file := file_of(clip))}
    return {"by": BY, "calls": calls_of(there, Path()), "clips": clips}
