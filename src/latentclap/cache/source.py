"""What a shard was made of, so that changed input is noticed: names, captions, sizes, times, and some content.

Everything is told apart by what it holds. Times of writing only save reading: where they are as noted, content is not
read again; where they differ, as in a copy, the beginning and end of the files decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from latentclap.cache.items import Item
from latentclap.errors import InputError
from latentclap.files import read_json

#: same: nothing says that it changed. moved: other times of writing, but what was compared of the content is the
#: same. old: noted by an earlier version, which looked at less, and that is the same. retry: none of it changed, but
#: the system failed to give some of it.
Comparison = Literal["same", "moved", "old", "retry", "changed"]

#: compared at either end of a tar, and of a sound file (bytes)
TAR_END, FILE_END = 2**20, 2**16


def tar_source(path: Path) -> dict[str, Any]:
    """What says which archive this is: size, time, digest of its ends and, from the packer's entry, of the whole."""
    try:
        told = os.stat(path)
        if not stat.S_ISREG(told.st_mode):
            return {"problem": "not a file"}
        source = {
            "bytes": told.st_size,
            "mtime_ns": told.st_mtime_ns,
            "ends": _tar_ends(path, told.st_mtime_ns),
        }
    except OSError as error:
        return {"problem": error.strerror}
    packed = packed_entry(path)
    return source | ({"sha256": packed["sha256"]} if packed else {})


def compare_tar(path: Path, then: Mapping[str, Any]) -> Comparison:
    """Whether an archive is the one of which ``then`` was noted (:func:`tar_source`)."""
    try:
        told = os.stat(path)
        if not stat.S_ISREG(told.st_mode) or "problem" in then:
            return "same" if tar_source(path) == then else "changed"
        if then.get("bytes") != told.st_size:
            return "changed"
        if "ends" not in then:
            return "old"
        packed, unmoved = packed_entry(path), then["mtime_ns"] == told.st_mtime_ns
        if packed and "sha256" in then:
            if packed["sha256"] != then["sha256"]:
                return "changed"
            if unmoved:
                return "same"
        # an archive of another tool: two MiB of it are read even so, since times can be set
        if _tar_ends(path, told.st_mtime_ns) != then["ends"]:
            return "changed"
        return "same" if unmoved or (packed and "sha256" in then) else "moved"
    except OSError as error:
        return "same" if then.get("problem") == error.strerror else "changed"


def packed_entry(path: Path) -> dict[str, Any] | None:
    """The packer's entry beside an archive, if it is there and of this archive; some other tool's file is none."""
    try:
        entry = read_json(path.with_suffix(".json"))
        good = entry["bytes"] == path.stat().st_size and isinstance(entry["sha256"], str)
        return entry if good and isinstance(entry["clips"], int) else None
    except (OSError, InputError, KeyError, TypeError):
        return None


def clips_source(items: Sequence[Item]) -> dict[str, Any]:
    """What says which clips these are: digests of names, captions and sizes, of times, and of the files' ends."""
    digest, times = _listed(items)
    return {"clips": len(items), "digest": digest, "times": times, "ends": _ends_of(items)}


def compare_clips(items: Sequence[Item], then: Mapping[str, Any]) -> Comparison:
    """Whether clips are those of which ``then`` was noted (:func:`clips_source`)."""
    if "digest" not in then:  # of an earlier version: number, first and last key
        ours = {"clips": len(items), "first": items[0].key, "last": items[-1].key}
        return "old" if then == ours else "changed"
    digest, times = _listed(items)
    if digest != then["digest"]:
        return "changed"
    if times == then["times"]:
        return "same"
    return "moved" if _ends_of(items) == then["ends"] else "changed"


def _listed(items: Sequence[Item]) -> tuple[str, str]:
    """Digests of what the listing says of clips with their sizes, and of their times."""
    digest, times = hashlib.sha256(), hashlib.sha256()
    for item in items:
        try:
            told = os.stat(item.path) if item.path else None
        except OSError:
            told = None
        size, time = (told.st_size, told.st_mtime_ns) if told else (-1, -1)
        line = [item.key, item.caption, item.suffix, item.problem, size]
        digest.update(json.dumps(line).encode())
        times.update(str(time).encode() + b"\n")
    return digest.hexdigest(), times.hexdigest()


@lru_cache(maxsize=2**16)
def _tar_ends(path: Path, mtime_ns: int) -> str:
    """Digest of a tar's ends; a run asks for it before, while and after it encodes, and reads it once."""
    return _ends(path, TAR_END).hex()


def _ends(path: Path, size: int) -> bytes:
    """Digest of the first and last ``size`` bytes of a file."""
    with open(path, "rb") as stream:
        hasher = hashlib.sha256(stream.read(size))
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(size, length - size))
        hasher.update(stream.read())
    return hasher.digest()


def _ends_of(items: Sequence[Item]) -> str:
    """Digest of the ends of all sound files; one that cannot be read counts as empty."""
    hasher = hashlib.sha256()
    for item in items:
        with contextlib.suppress(OSError):
            hasher.update(_ends(item.path, FILE_END) if item.path else b"")
    return hasher.hexdigest()
