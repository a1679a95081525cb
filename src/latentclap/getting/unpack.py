"""Unpacking archives that may have been made to hurt.

Every member is judged before the first one is written: a regular file or a folder, under a name that stays
inside the target, no two at one place, and all together no larger than the limits. Links, devices, sparse and
encrypted members are refused. What is written is read back through the declared sizes and, in a zip, its CRC.
tarfile and zipfile do the reading.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from latentclap.errors import InputError
from latentclap.files import atomic_path, existing, free_bytes
from latentclap.getting.errors import disk_full
from latentclap.getting.leftovers import sweep_tree
from latentclap.getting.remote import safe_name
from latentclap.getting.splitzip import open_zip
from latentclap.wording import human

CHUNK = 1 << 20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)
Progress = Callable[[int], None]


class Unfit(InputError):
    """The archive itself is at fault, not the disk: broken, refused, or not what was wanted."""


#: Where a member goes: its new name, or None to leave it out.
Place = Callable[[str], str | None]


@dataclass(frozen=True)
class Limits:
    """How large an archive may become.

    ``ratio`` bounds the unpacked bytes by the archive's own (sound hardly ever shrinks to a tenth), above a
    floor that leaves small archives alone.
    """

    files: int = 2_000_000
    ratio: float = 50.0
    floor: int = 64 << 20

    def largest(self, packed: int) -> int:
        """Most bytes that an archive of ``packed`` bytes may hold."""
        return max(self.floor, int(self.ratio * packed))


@dataclass(frozen=True)
class Member:
    """One file to write: ``name`` in the archive, ``place`` below the target, declared ``size``."""

    name: str
    place: str
    size: int


class Archive(Protocol):
    """What the two formats have in common."""

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Names and declared sizes of the files; raises InputError at the first member it refuses."""
        ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """One member's bytes."""
        ...


def unpack(
    parts: list[Path],
    target: Path,
    *,
    place: Place = lambda name: name,
    limits: Limits | None = None,
    progress: Progress = lambda n: None,
) -> list[Member]:
    """Unpack an archive below ``target``; files that are there with the right size are left as they are.

    Args:
        parts: one .tar, .tar.gz or .zip, or the parts of a split zip in order.
        target: folder to fill; it should be empty, or hold what an interrupted run of the same wrote. The
            temporary files that a killed run has left there are removed.
        place: renames members (after which the rules hold as well), or leaves them out by None.
        limits: what counts as a bomb.
        progress: told the bytes written or found.

    Raises:
        Unfit: broken or refused.
        InputError: the disk is full, or the target is at fault.
    """
    shown = parts[-1].name
    try:
        with _opened(parts) as archive:
            members = _judged(archive, parts, place, limits or Limits())
            sweep_tree(target, {member.place for member in members})
            _room(members, target, shown)
            target.mkdir(parents=True, exist_ok=True)
            for member in members:
                _write(archive, member, target, progress)
    except _BROKEN as error:
        raise Unfit(f"{shown}: broken archive ({_one_line(error)})") from None
    except OSError as error:
        if disk_full(error):
            raise InputError(f"{shown}: the disk is full; make room, and the same command goes on") from None
        raise
    return members


def _judged(archive: Archive, parts: list[Path], place: Place, limits: Limits) -> list[Member]:
    try:
        return list(survey(archive, parts, place, limits))
    except InputError as error:
        raise Unfit(str(error)) from None


def survey(archive: Archive, parts: list[Path], place: Place, limits: Limits) -> Iterator[Member]:
    """Judge all members of an archive; nothing is written.

    Raises:
        InputError: the first thing that is refused.
    """
    shown = parts[-1].name
    packed = sum(part.stat().st_size for part in parts)
    taken: dict[str, str] = {}
    folders: set[str] = set()
    total = count = 0
    for name, size in archive:
        count, total = count + 1, total + size
        if count > limits.files:
            raise InputError(f"{shown}: more than {limits.files} files; refused")
        if total > limits.largest(packed):
            most = human(limits.largest(packed))
            raise InputError(f"{shown}: {human(packed)} would unpack to more than {most}; refused as a bomb")
        where = place(safe_name(name))
        if where is None:
            continue
        where = safe_name(where)
        if where == ".":
            raise InputError(f"{shown}: {name!r} is no file name; refused")
        if where in taken or where in folders:
            raise InputError(
                f"{shown}: {name!r} and {taken.get(where, 'a folder')!r} go to one place; refused"
            )
        above = [p.as_posix() for p in PurePosixPath(where).parents][:-1]
        if any(folder in taken for folder in above):
            raise InputError(f"{shown}: {name!r} lies below a file; refused")
        taken[where] = name
        folders.update(above)
        yield Member(name, where, size)


def _room(members: list[Member], target: Path, shown: str) -> None:
    need = sum(m.size for m in members if not _is_there(target / m.place, m.size))
    free = free_bytes(target)
    if need > free:
        raise InputError(
            f"{shown}: unpacking needs {human(need)}, {human(free)} are free at {existing(target)}; make room or"
            " take another --out"
        )


def _is_there(path: Path, size: int) -> bool:
    try:
        stat = path.lstat()
    except OSError:
        return False
    return stat.st_size == size and path.is_file() and not path.is_symlink()


def _write(archive: Archive, member: Member, target: Path, progress: Progress) -> None:
    path = target / member.place
    if _is_there(path, member.size):
        progress(member.size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # a link put into the folder beforehand must not lead out of it
    if not path.parent.resolve().is_relative_to(target.resolve()):
        raise InputError(f"{path.parent} leads out of {target}; refused")
    with atomic_path(path) as temporary, archive.open(member.name) as source, open(temporary, "wb") as sink:
        left = member.size
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise Unfit(f"{member.name}: longer than the {member.size} bytes it says; refused")
            sink.write(chunk)
            progress(len(chunk))
        if left:
            raise Unfit(f"{member.name}: ends {left} bytes early; the archive is broken")


# --- the two formats ----------------------------------------------------------------------------------------


@contextmanager
def _opened(parts: list[Path]) -> Iterator[Archive]:
    missing = [p for p in parts if not p.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such archive")
    if parts[-1].name.lower().endswith(".zip"):
        with open_zip(parts) as archive:
            yield _Zip(archive)
        return
    if len(parts) != 1:
        raise InputError(f"{parts[0].name}: a split tar is not supported")
    with open(parts[0], "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with (
            gzip.GzipFile(fileobj=raw) if packed else raw as stream,
            tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive,
        ):
            yield _Tar(archive)


class _Bounded:
    """A file that refuses huge single reads: tarfile reads a header's extension whole, however long it says it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, lambda: None

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 4 * CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for info in self._archive:
            if info.isdir():
                safe_name(info.name)
                continue
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
                kind = "link" if info.issym() or info.islnk() else "device or special file"
                raise InputError(f"{info.name!r} is a {kind}; refused")
            self._members[info.name] = info
            yield info.name, info.size
        # tarfile takes a damaged header for the end: the end has a mark of its own
        self._archive.fileobj.seek(self._archive.offset)
        if self._archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it does not end where a tar ends")

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        stream = self._archive.extractfile(self._members[name])
        if stream is None:
            raise InputError(f"{name!r} has no bytes; refused")
        with stream:
            yield stream


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def __iter__(self) -> Iterator[tuple[str, int]]:
        end = 0
        for info in sorted(self._archive.infolist(), key=lambda item: item.header_offset):
            kind = (info.external_attr >> 16) & 0o170000
            if info.flag_bits & 1:
                raise InputError(f"{info.filename!r} is encrypted; refused")
            if kind not in (0, 0o100000, 0o040000):
                raise InputError(
                    f"{info.filename!r} is a {'link' if kind == 0o120000 else 'special file'}; refused"
                )
            if info.header_offset < end:
                raise InputError(f"{info.filename!r} overlaps the member before it; refused as a bomb")
            end = info.header_offset + 30 + info.compress_size
            if info.is_dir():
                safe_name(info.filename)
                continue
            yield info.filename, info.file_size

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return self._archive.open(name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
