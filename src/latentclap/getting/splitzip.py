"""A split zip (.z01, .z02, ..., .zip) read as one, in bounded memory and without writing it out joined.

zipfile refuses archives that span several disks. Their layout (PKWARE's APPNOTE, sections 4.3 and 8) differs from
a plain zip's in one thing: the central directory gives each member's place as a part's number and an offset in it.
So the parts are shown to zipfile as one long file whose central directory is rewritten, in memory, with places
counted from the start of the first part.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from latentclap.errors import InputError

_END = struct.Struct("<4s4H2LH")  # end of central directory
_END64 = struct.Struct("<4sQ2H2L4Q")  # its ZIP64 form
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # central directory entry
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF


def split_parts(zip_path: Path, among: Collection[Path] | None = None) -> list[Path]:
    """The parts of a split zip in order, its .zip last; a plain zip is its own only part.

    Args:
        zip_path: the last part.
        among: where to look for the others; None takes the files of its folder.

    Raises:
        InputError: a number is missing in the sequence.
    """
    pattern = re.compile(rf"{re.escape(zip_path.stem)}\.z(\d+)", re.I)
    numbered = {
        int(match.group(1)): path
        for path in (zip_path.parent.iterdir() if among is None else among)
        if (match := pattern.fullmatch(path.name))
    }
    missing = [n for n in range(1, max(numbered, default=0) + 1) if n not in numbered]
    if missing:
        raise InputError(f"{zip_path.parent}: part {zip_path.stem}.z{missing[0]:02d} is missing")
    return [*(numbered[n] for n in sorted(numbered)), zip_path]


@contextmanager
def open_zip(parts: list[Path]) -> Iterator[zipfile.ZipFile]:
    """Open a zip, whole or in parts.

    Raises:
        InputError: parts are missing, or do not belong together.
        zipfile.BadZipFile: broken.
    """
    if len(parts) == 1:
        with zipfile.ZipFile(parts[0]) as archive:
            yield archive
        return
    with _Joined(parts) as joined:
        tail = _rewritten(joined)
        joined.replace_tail(*tail)
        with zipfile.ZipFile(io.BufferedReader(joined, 1 << 20)) as archive:
            yield archive


class _Joined(io.RawIOBase):
    """Parts (files) one after the other, read-only, with one file open at a time; the tail may be bytes instead."""

    def __init__(self, parts: list[Path]) -> None:
        super().__init__()
        self.names = [p.name for p in parts]
        self._parts = parts
        self._sizes = [p.stat().st_size for p in parts]
        self.starts = [0, *accumulate(self._sizes)]
        self._cut = self.starts[-1]
        self._tail = b""
        self._at = 0
        self._open: tuple[int, io.BufferedReader] | None = None

    def replace_tail(self, cut: int, tail: bytes) -> None:
        """From byte ``cut`` on, show ``tail``."""
        self._cut, self._tail, self._at = cut, tail, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._cut + len(self._tail)}[whence]
        if base + offset < 0:
            raise ValueError("a place before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._cut:
            at = self._at - self._cut
            chunk = self._tail[at : at + len(buffer)]
        else:
            index = bisect_right(self.starts, self._at) - 1
            room = min(len(buffer), self._cut - self._at)
            stream = self._part(index)
            stream.seek(self._at - self.starts[index])
            chunk = stream.read(min(room, self.starts[index + 1] - self._at))
            if not chunk:
                raise zipfile.BadZipFile(f"{self.names[index]} has become shorter")
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)

    def bytes_at(self, start: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``start``."""
        self.seek(start)
        found = bytearray()
        while len(found) < size and (chunk := self.read(size - len(found))):
            found += chunk
        if len(found) < size:
            raise zipfile.BadZipFile("the archive ends early")
        return bytes(found)

    def _part(self, index: int) -> io.BufferedReader:
        if self._open is None or self._open[0] != index:
            if self._open:
                self._open[1].close()
            self._open = index, open(self._parts[index], "rb")  # noqa: SIM115 - closed by close()
        return self._open[1]

    def close(self) -> None:
        if self._open:
            self._open[1].close()
            self._open = None
        super().close()


def _rewritten(joined: _Joined) -> tuple[int, bytes]:
    """Where the central directory starts in the joined file, and what to put there instead."""
    end = _find_end(joined)
    count, size, start = _directory(joined, end)
    entries = b"".join(_entries(joined.bytes_at(start, size), count, joined))
    return start, entries + _plain_end(count, len(entries), start)


def _find_end(joined: _Joined) -> int:
    total = joined.starts[-1]
    window = min(total, _MAX16 + _END.size)
    found = joined.bytes_at(total - window, window).rfind(b"PK\x05\x06")
    if found < 0:
        raise zipfile.BadZipFile(f"{joined.names[-1]} has no end of a central directory")
    return total - window + found


def _directory(joined: _Joined, end: int) -> tuple[int, int, int]:
    """Number of entries, bytes and absolute start of the central directory."""
    _, disk, first, _, count, size, offset, _ = _END.unpack(joined.bytes_at(end, _END.size))
    locator = joined.bytes_at(end - _LOCATOR64.size, _LOCATOR64.size) if end >= _LOCATOR64.size else b""
    if locator[:4] == b"PK\x06\x07":
        _, where, at, _ = _LOCATOR64.unpack(locator)
        _check_disk(where, joined)
        record = joined.bytes_at(joined.starts[where] + at, _END64.size)
        if record[:4] != b"PK\x06\x06":
            raise zipfile.BadZipFile("no ZIP64 end of the central directory where one is announced")
        _, _, _, _, disk, first, _, count, size, offset = _END64.unpack(record)
    if disk not in (0, len(joined.names) - 1):
        raise InputError(f"{joined.names[-1]}: made of {disk + 1} parts, {len(joined.names)} are here")
    # a zip that was cut into pieces afterwards still counts from its start: every disk is 0
    _check_disk(first, joined)
    start = joined.starts[first] + offset
    if start + size > end:
        raise zipfile.BadZipFile("the central directory does not fit")
    return count, size, start


def _check_disk(disk: int, joined: _Joined) -> None:
    if disk >= len(joined.names):
        raise InputError(f"{joined.names[-1]}: speaks of part {disk + 1}, {len(joined.names)} are here")


def _entries(directory: bytes, count: int, joined: _Joined) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        head = directory[at : at + _ENTRY.size]
        if len(head) < _ENTRY.size or head[:4] != b"PK\x01\x02":
            raise zipfile.BadZipFile("broken central directory")
        fields = list(_ENTRY.unpack(head))
        name_length, extra_length, comment_length = fields[10:13]
        name_end = at + _ENTRY.size + name_length
        name = directory[at + _ENTRY.size : name_end]
        extra = directory[name_end : name_end + extra_length]
        at = name_end + extra_length + comment_length
        yield _entry(fields, name, extra, joined)


def _entry(fields: list, name: bytes, extra: bytes, joined: _Joined) -> bytes:
    """One entry with its place counted from the start of the first part, its sizes in ZIP64 form if need be."""
    compressed, plain, disk, offset = fields[8], fields[9], fields[13], fields[16]
    wide, extra = _take_wide(extra)
    try:
        # the ZIP64 field holds, in this order, just those values that are all ones in the entry
        if plain == _MAX32:
            (plain,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if compressed == _MAX32:
            (compressed,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if offset == _MAX32:
            (offset,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if disk == _MAX16:
            (disk,) = struct.unpack("<L", wide[:4])
    except struct.error:
        raise zipfile.BadZipFile("a ZIP64 field is too short") from None
    _check_disk(disk, joined)
    place = joined.starts[disk] + offset
    wide = b""
    for index, value in ((9, plain), (8, compressed), (16, place)):
        fields[index] = min(value, _MAX32)
        wide += struct.pack("<Q", value) if value >= _MAX32 else b""
    if wide:
        extra = struct.pack("<2H", 1, len(wide)) + wide + extra
    fields[11], fields[12], fields[13] = len(extra), 0, 0
    return _ENTRY.pack(*fields) + name + extra


def _take_wide(extra: bytes) -> tuple[bytes, bytes]:
    """The ZIP64 field out of an entry's extra fields, and the others."""
    wide, others, at = b"", b"", 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        field = extra[at : at + 4 + size]
        if kind == 1:
            wide = field[4:]
        else:
            others += field
        at += 4 + size
    return wide, others


def _plain_end(count: int, size: int, start: int) -> bytes:
    """The end of a central directory on one disk, in ZIP64 form before the plain one."""
    end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
    end = _END.pack(
        b"PK\x05\x06", 0, 0, min(count, _MAX16), min(count, _MAX16), min(size, _MAX32), min(start, _MAX32), 0
    )
    return end64 + locator + end
