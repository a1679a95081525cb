"""Webdataset shards (tar files): samples out of them, whatever is broken in them, and how many there are.

Members are grouped as the package webdataset groups them, but read by seeking: of a sound only what is decoded is
read, and of clips that are another process's only the headers.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from latentclap.audio import FORMATS
from latentclap.cache.items import Item, caption_of, no_caption
from latentclap.cache.listing import passing
from latentclap.cache.source import packed_entry
from latentclap.errors import InputError
from latentclap.files import plain

#: webdataset's rules: a sample's key is the path up to the first dot of the name, the suffix is what follows
NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
#: names that webdataset keeps for itself
META = re.compile(r"__[^/]*__($|/)")
#: bytes read at once around a header; more of them would be read for nothing where a member follows
BUFFER = 4096
#: a caption that is longer is none
LONGEST_CAPTION = 2**20


class Member(io.RawIOBase):
    """A member of an archive as a file, read from the archive's own stream: seekable, and nothing is held.

    A disk that fails is not raised but noted in ``error``: libsndfile's callbacks cannot pass exceptions on.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self.stream, self.start, self.size = stream, start, size
        self.place, self.error = 0, ""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place in the member."""
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the member; return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, base + offset)
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or less at the member's end; return the number of bytes."""
        wanted = min(len(buffer), self.size - self.place)
        if wanted <= 0:
            return 0
        try:
            self.stream.seek(self.start + self.place)
            got = self.stream.readinto(memoryview(buffer)[:wanted])
        except OSError as error:
            self.error = error.strerror or str(error)
            return 0
        self.place += got
        return got


@dataclass
class Group:
    """The members of one sample: key, and (suffix, start, size) of each; nothing of them is read yet."""

    key: str
    stream: BinaryIO
    members: list[tuple[str, int, int]] = field(default_factory=list)
    problem: str = ""
    retry: bool = False

    def sounds(self) -> list[tuple[str, int, int]]:
        """The members that are sounds, in order. Of a suffix of several, as in a.v1.2.flac, the last counts."""
        return [m for m in self.members if f".{_last(m[0])}" in FORMATS]

    def load(self) -> Item:
        """The sample, its caption read; its sound is a seekable file, to be read before the next is asked for."""
        if self.problem:
            return Item(self.key, problem=self.problem, retry=self.retry)
        sounds = self.sounds()
        if not sounds:
            return Item(self.key, problem="no sound file")
        suffix, start, size = sounds[0]
        try:
            told = self._texts(suffix)
        except OSError as error:
            return Item(self.key, problem=f"cannot be read ({error.strerror})", retry=True)
        caption = caption_of(told)
        if not caption:
            return Item(self.key, problem=no_caption(told))
        return Item(self.key, caption, data=Member(self.stream, start, size), suffix=f".{_last(suffix)}")

    def _texts(self, sound: str) -> dict[str, bytes]:
        """What the caption is in: the texts whose name is the sound's, or else any."""
        stem = sound.removesuffix(_last(sound))
        texts = [m for m in self.members if _last(m[0]) in ("txt", "json") and m[2] <= LONGEST_CAPTION]
        told: dict[str, bytes] = {}
        for suffix, start, size in sorted(texts, key=lambda m: m[0].removesuffix(_last(m[0])) != stem):
            member = Member(self.stream, start, size)
            told.setdefault(_last(suffix), member.readall())
            if member.error:
                raise OSError(0, member.error)
        return told


def _last(suffix: str) -> str:
    return suffix.rpartition(".")[2]


def tar_groups(path: Path) -> Iterator[Group]:
    """The samples of a webdataset shard in order, nothing but headers read; what is broken comes as a problem.

    A damaged member costs that member; a damaged header costs the rest of the archive, and what cannot be opened
    all of it, which is said. The same archive gives the same groups to every process.
    """
    try:
        with open(path, "rb", buffering=BUFFER) as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            yield from _grouped(path, stream, size)
    except (OSError, tarfile.TarError) as error:
        yield from _notes(path, io.BytesIO(), [error])


def _grouped(path: Path, stream: BinaryIO, size: int) -> Iterator[Group]:
    group: Group | None = None
    notes: list[str | Exception] = []
    for info in _headers(path, stream, size, notes):
        name = info.name
        hidden = name.rpartition("/")[2].startswith(".")  # macOS's tar adds such files
        if META.match(name) or hidden or not (info.isreg() or info.issym() or info.islnk()):
            continue
        match = NAME.fullmatch(name)
        if match is None:
            if info.isreg():
                notes.append(f"{name}: no suffix")
            continue
        key, suffix = match[1], match[2].lower()
        if not info.isreg() or info.issparse():
            if f".{_last(suffix)}" in FORMATS:
                notes.append(f"{name}: {'sparse' if info.isreg() else 'a link, not a file'}")
            continue
        if info.offset_data + info.size > size:
            notes.append(f"{name}: unexpected end of data")
            continue
        if group is not None and group.key != key:
            yield from _told(path, group, notes)
            group = None
        group = group or Group(key, stream)
        if any(suffix == m[0] for m in group.members):
            notes.append(f"{name}: duplicate file name in tar file")
        else:
            group.members.append((suffix, info.offset_data, info.size))
    if group is not None:
        yield from _told(path, group, notes)
    yield from _notes(path, stream, notes)


def _told(path: Path, group: Group, notes: list[str | Exception]) -> Iterator[Group]:
    """A whole group, what was noted on the way, and the sounds beside its first, which nobody would miss else."""
    yield group
    if len(names := [suffix for suffix, *_ in group.sounds()]) > 1:
        notes.append(f"{group.key}: of {len(names)} sounds only .{names[0]} is used")
    yield from _notes(path, group.stream, notes)


def _notes(path: Path, stream: BinaryIO, notes: list[str | Exception]) -> Iterator[Group]:
    for note in notes:
        reason = getattr(note, "strerror", None) or " ".join(str(note).split())
        retry = isinstance(note, Exception) and passing(note)
        yield Group(plain(path.stem), stream, problem=f"archive: {reason}", retry=retry)
    notes.clear()


def _headers(
    path: Path, stream: BinaryIO, size: int, notes: list[str | Exception]
) -> Iterator[tarfile.TarInfo]:
    """Every header of an archive; what ends it before its end is noted."""
    try:
        # names that are no UTF-8 are told apart, and can be written to problems.csv
        archive = tarfile.open(fileobj=stream, mode="r:", errors="backslashreplace")  # noqa: SIM115
    except tarfile.ReadError as error:
        stream.seek(0)
        packed = (
            "; it is compressed: unpack it first" if stream.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7") else ""
        )
        notes.append(f"{error}{packed}")
        return
    place = 0
    try:
        while (info := archive.next()) is not None:
            archive.members.clear()  # or they would stay in memory
            place = archive.offset
            yield info
        # a plain tar whose header is damaged ends there without an error; a whole one ends in zeros
        stream.seek(place)
        while piece := stream.read(2**20):
            if piece.strip(b"\0"):
                notes.append(f"damaged: the last {size - place} bytes cannot be read")
                return
    except tarfile.ReadError as error:
        if place <= size:  # or the member that is cut short was noted already
            notes.append(str(error))
    except OSError as error:  # the disk; the samples before it stand
        notes.append(error)


def count_items(path: Path) -> int:
    """How many sounds a shard holds: as the packer's entry beside it says, else by reading its headers.

    Raises:
        InputError: not a tar file, or so damaged that nothing can be read of it.
    """
    entry = packed_entry(path)
    if entry is not None:
        return entry["clips"]
    groups = list(tar_groups(path))
    if groups and all(group.problem for group in groups):
        raise InputError(f"{path}: not a readable tar file ({groups[0].problem.removeprefix('archive: ')})")
    return sum(1 for group in groups if group.sounds())


@contextlib.contextmanager
def opened(item: Item) -> Iterator[Any]:
    """What libsndfile reads: the item's file, its bytes, or the file that it is; never a name, which may be no text.

    Raises:
        OSError: the item's file cannot be opened.
    """
    if item.path is None or item.data is not None:
        yield io.BytesIO(item.data) if isinstance(item.data, bytes) else item.data
        return
    with open(item.path, "rb") as stream:
        yield Member(stream, 0, os.fstat(stream.fileno()).st_size)
