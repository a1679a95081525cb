"""Folders of clips into webdataset shards: tar files of sounds, each with its caption beside it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from latentclap.cache.items import Item
from latentclap.cache.shards import sweep
from latentclap.cache.source import clips_source, compare_clips
from latentclap.cache.tars import META
from latentclap.errors import InputError
from latentclap.files import atomic_path, file_sha256, read_json, write_json, write_text
from latentclap.locks import Taken, locked
from latentclap.tables import csv_text

MISSING = "missing.csv"
#: the problem of a clip that a reader of the shard would pass over
RESERVED = "webdataset keeps names like __name__ for itself: rename the folder"


@dataclass
class Packed:
    """What a call of :func:`pack` left.

    Attributes:
        shards: in all.
        clips: in all.
        written: shards written now.
        again: of these, shards that were there, of clips that have changed since.
        left_out: clips that could not be packed.
        old: shards kept whose entry, of an earlier version, says too little to compare the clips with.
    """

    shards: int = 0
    clips: int = 0
    written: int = 0
    again: int = 0
    left_out: int = 0
    old: int = 0


def pack(
    items: Sequence[Item],
    out: str | Path,
    *,
    per_shard: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> Packed:
    """Write items into ``out/000000.tar``, ...: a sound as it is and a .json with its caption, per clip.

    A shard is written whole or not at all, and its entry (number of clips, checksum) after it: a killed call is
    gone on with by the same command, and shards of clips that have changed since are written again. The same items
    give the same bytes. Items with a problem, or whose file cannot be read, are left out and listed in missing.csv.

    Args:
        items: from ``listing.list_clips``.
        out: folder of the shards.
        per_shard: items per shard.
        progress: called with the number of items dealt with since the last call.

    Raises:
        InputError: nothing to pack, two clips of one name, ``out`` holds shards of another list of clips, or another
            call packs there.
    """
    if not items:
        raise InputError("there are no clips to pack")
    if per_shard < 1:
        raise InputError(f"per_shard={per_shard}: at least one clip goes into a shard")
    _check_keys(items)
    items = [
        replace(i, problem=i.problem or RESERVED) if META.match(f"{i.key}{i.suffix}") else i for i in items
    ]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _pack(items, out, per_shard, progress)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a folder for this call; the lock of one that was killed is free at once."""
    try:
        with locked(out / ".lock", wait=False):
            yield
    except Taken:
        raise InputError(
            f"{out}: another run is packing there; wait for it, or take another folder"
        ) from None


def _pack(items: Sequence[Item], out: Path, per_shard: int, progress: Callable[[int], None] | None) -> Packed:
    packed, left_out = Packed(), []
    beyond = out / f"{-(-len(items) // per_shard):06d}.tar"
    if beyond.is_file():
        raise InputError(
            f"{out} holds more shards than these clips fill ({beyond.name}): pack into another folder"
        )
    for number, start in enumerate(range(0, len(items), per_shard)):
        part = items[start : start + per_shard]
        path = out / f"{number:06d}.tar"
        entry = _entry(path, part)
        if entry is None or not _current(entry, part):
            packed.again += entry is not None
            entry = _write(path, part)
            packed.written += 1
        packed.old += "source" not in entry
        packed.shards += 1
        packed.clips += entry["clips"]
        left_out += [(path.name, *row) for row in entry["left_out"]]
        if progress:
            progress(len(part))
    write_text(out / MISSING, csv_text([("shard", "clip", "reason"), *left_out]))
    packed.left_out = len(left_out)
    return packed


def _check_keys(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise InputError(f"two clips are named {item.key} (suffixes and dots apart): rename one")
        seen.add(item.key)


def _entry(path: Path, part: Sequence[Item]) -> dict | None:
    """The entry of a shard that is there, or None."""
    entry_path = path.with_suffix(".json")
    if not (path.is_file() and entry_path.is_file()):
        return None
    entry = read_json(entry_path)
    if not (
        isinstance(entry, dict) and entry.keys() >= {"first", "last", "items", "clips", "bytes", "left_out"}
    ):
        raise InputError(
            f"{entry_path} is not what the packer notes of a shard: delete it, and the same command packs it again"
        )
    if [entry["first"], entry["last"], entry["items"]] != [part[0].key, part[-1].key, len(part)]:
        raise InputError(f"{path} holds other clips ({entry['first']} ...): pack into another folder")
    return entry if entry["bytes"] == path.stat().st_size else None


def _current(entry: dict, part: Sequence[Item]) -> bool:
    """Whether a shard is of the clips as they are now, and nothing is to be tried again."""
    problems = {item.key for item in part if item.problem}
    if any(key not in problems for key, _ in entry["left_out"]):
        return False  # a file could not be read then
    return "source" not in entry or compare_clips(part, entry["source"]) != "changed"


def _write(path: Path, part: Sequence[Item]) -> dict:
    left_out: list[tuple[str, str]] = []
    sweep(path)
    source = clips_source(part)  # before they are read: a change meanwhile is noticed by the next call
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT, copybufsize=2**20) as archive,
    ):
        for item in part:
            if reason := item.problem or _add(archive, stream, item):
                left_out.append((item.key, reason))
    entry = {
        "clips": len(part) - len(left_out),
        "items": len(part),
        "first": part[0].key,
        "last": part[-1].key,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "source": source,
        "left_out": [list(row) for row in left_out],
    }
    write_json(path.with_suffix(".json"), entry)
    return entry


def _add(archive: tarfile.TarFile, stream: BinaryIO, item: Item) -> str:
    """Copy a clip into an archive, in the memory of a piece of it; why it cannot be read, or ""."""
    start = archive.offset
    told = json.dumps({"caption": item.caption, "key": item.key}, ensure_ascii=False).encode("utf-8")
    try:
        with _Sound(item) as sound:
            files = {item.suffix: (sound, sound.size), ".json": (io.BytesIO(told), len(told))}
            for suffix, (file, size) in sorted(files.items()):
                archive.addfile(_member(f"{item.key}{suffix}", size), file)
    except _Unread as error:
        stream.seek(start)
        stream.truncate()
        archive.offset = start
        return f"cannot be read ({error})"
    finally:
        archive.members.clear()  # or they would stay in memory
    return ""


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member's header, the one that the package webdataset writes, with a fixed time: same clips, same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0.0
    info.uname = info.gname = "bigdata"
    return info


class _Unread(Exception):
    """A sound that cannot be read, unlike an archive that cannot be written."""


class _Sound:
    """An item's sound as a file that says of itself when it cannot be read."""

    def __init__(self, item: Item) -> None:
        self.item = item

    def __enter__(self) -> _Sound:
        try:
            self.stream = open(self.item.path, "rb") if self.item.data is None else io.BytesIO(self.item.data)
            self.size = self.stream.seek(0, io.SEEK_END)
            self.stream.seek(0)
        except OSError as error:
            raise _Unread(error.strerror) from None
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def read(self, size: int) -> bytes:
        try:
            data = self.stream.read(size)
        except OSError as error:
            raise _Unread(error.strerror) from None
        except MemoryError:
            raise _Unread("does not fit into memory") from None
        if len(data) < size:
            raise _Unread("it became shorter meanwhile")
        return data
