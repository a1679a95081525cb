"""The part of a file that a download has left, and of which version of the file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from latentclap.files import read_json
from latentclap.getting.leftovers import sweep
from latentclap.getting.remote import RemoteFile


def part_of(target: Path) -> Path:
    """Where the bytes of an unfinished download lie."""
    return target.with_name(f".{target.name}.part")


def downloaded(target: Path) -> int:
    """Bytes of ``target`` that an earlier run has left."""
    part = part_of(target)
    return part.stat().st_size if part.is_file() else 0


def tidy(target: Path) -> None:
    """Remove what killed downloads left beside a file that is whole and in its place."""
    sweep(note_of(target))
    forget(target)


def note_of(target: Path) -> Path:
    """Where it is noted of which version of the file the part is."""
    return target.with_name(f".{target.name}.part.json")


def _noted(target: Path) -> dict[str, Any]:
    """What is noted of a part; nothing where no note of ours is."""
    try:
        note = read_json(note_of(target))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def identity(remote: RemoteFile) -> dict[str, Any]:
    """By what a part is known to be one of this file."""
    return {"url": remote.url, "size": remote.size, "checksum": remote.checksum}


def same_file(remote: RemoteFile, target: Path) -> bool:
    """Whether the part is one of this very file; if not, it is thrown away."""
    note = note_of(target)
    if not part_of(target).is_file():
        note.unlink(missing_ok=True)
        return False
    kept = _noted(target)
    told = identity(remote)
    # with a checksum the address does not matter: a part from one mirror is continued from another
    keys = ("checksum", "size") if remote.checksum else ("url", "size")
    too_long = remote.size is not None and downloaded(target) > remote.size
    if too_long or any(kept.get(key) != told[key] for key in keys):
        forget(target)
        return False
    return True


def version_told(response: requests.Response) -> dict[str, str]:
    """By what a server tells versions of a file apart, as far as it does."""
    etag = response.headers.get("ETag", "")
    told = {
        "etag": "" if etag.startswith("W/") else etag,
        "modified": response.headers.get("Last-Modified", ""),
    }
    return {key: value for key, value in told.items() if value}


def version_of(remote: RemoteFile, target: Path) -> dict[str, str]:
    """Of what version the part is, as this address has told; another one's words mean nothing to it."""
    note = _noted(target)
    if note.get("url") != remote.url:
        return {}
    return {key: note[key] for key in ("etag", "modified") if note.get(key)}


def differ(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two versions are told apart by anything that is known of both."""
    return any(one[key] != other[key] for key in one.keys() & other.keys())


def can_go_on(remote: RemoteFile, target: Path) -> bool:
    """Whether it would be noticed if the rest came of another version than the part."""
    return bool(remote.checksum or version_of(remote, target))


def forget(target: Path) -> None:
    """Remove the part, and what is noted of it."""
    part_of(target).unlink(missing_ok=True)
    note_of(target).unlink(missing_ok=True)
