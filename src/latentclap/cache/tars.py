"""Webdataset shards (tar files): samples out of them, whatever is broken in them, and how many there are."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentclap.audio import FORMATS
from latentclap.cache.listing import Item, caption_of
from latentclap.errors import InputError

#: a tar ends in zero bytes up to a multiple of this (20 blocks); what is left unread beyond it is a lost end
RECORD = 20 * 512


def tar_items(path: Path) -> Iterator[Item]:
    """The samples of a webdataset shard in order, with their sound's bytes; what is broken comes as a problem.

    A damaged member costs that member; a damaged header costs the rest of the archive, which is said.

    Raises:
        InputError: the package webdataset is not installed.
    """
    try:
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ImportError:
        raise InputError("tar shards need the package webdataset: pip install webdataset") from None
    broken: list[str] = []

    def note(error: Exception) -> bool:
        broken.append(" ".join(str(error.args[0] if error.args else error).split()))
        return True

    with open(path, "rb") as stream:
        files = tar_file_expander([{"url": path.name, "stream": stream}], handler=note)
        for sample in group_by_keys(files, handler=note):
            yield _item(sample)
            yield from _notes(path, broken)
        # a plain tar whose header is damaged ends there without an error
        unread = path.stat().st_size - stream.tell()
    if unread > RECORD and not broken:
        broken.append(f"damaged: the last {unread} bytes cannot be read")
    yield from _notes(path, broken)


def _notes(path: Path, broken: list[str]) -> Iterator[Item]:
    yield from (Item(path.stem, problem=f"archive: {reason}") for reason in broken)
    broken.clear()


def _item(sample: Mapping[str, Any]) -> Item:
    key, caption = sample["__key__"], caption_of(sample)
    sounds = [name for name in sample if f".{name}" in FORMATS]
    if not sounds:
        return Item(key, caption, problem="no sound file")
    if not caption:
        return Item(key, problem="no caption")
    return Item(key, caption, data=sample[sounds[0]], suffix=f".{sounds[0]}")


def count_items(path: Path) -> int:
    """How many sounds a shard holds: as the packer's entry beside it says, else by reading its headers.

    Raises:
        InputError: not a tar file.
    """
    entry = path.with_suffix(".json")
    if entry.is_file():
        try:
            return int(json.loads(entry.read_text(encoding="utf-8"))["clips"])
        except (ValueError, KeyError, TypeError):
            pass  # some other tool's file
    try:
        with tarfile.open(path, "r:*") as archive:
            return sum(1 for member in archive if Path(member.name).suffix.lower() in FORMATS)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable tar file ({error})") from None


def as_file(item: Item) -> Any:
    """What libsndfile opens: the item's path, or its bytes."""
    return item.path if item.data is None else io.BytesIO(item.data)
