"""What came out of an archive: which files, and their way from the folder they were unpacked in to their place.

A process may be killed between any two steps, and a user may put files of their own beside ours. So the files of an
archive are listed, with their sizes, in ``.latentclap-get.<archive>.json``, and the manifest says "moving" before
the first of them is moved: what was begun is then ended by the next run, and only what is listed is ever replaced or
removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from latentclap.files import read_json, write_json
from latentclap.getting.leftovers import sweep
from latentclap.getting.manifest import Manifest

MOVING, DONE = "moving", "done"


class Contents:
    """The files of one archive below a folder: ``files`` are those it holds, with their sizes.

    ``before`` are those of an earlier version of the archive which this one lacks; they go when the move ends.
    """

    def __init__(self, manifest: Manifest, archive: str, into: str = "") -> None:
        """Read what an earlier run has written down; nothing is a valid answer.

        Args:
            manifest: of the folder.
            archive: its name in the manifest.
            into: folder below the manifest's that the archive is unpacked into.
        """
        self.manifest, self.archive, self.into = manifest, archive, into
        self.folder = manifest.path.parent
        self.home = self.folder / into
        self.list = self.folder / f".latentclap-get.{archive}.json"
        self.digest, self.files, self.before = "", {}, {}
        self._lost: dict[str, int] | None = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            raw = read_json(self.list)
            files, before = dict(raw["files"]), dict(raw["before"])
            # a list may have been edited: nothing outside the folder is ever removed or replaced
            if not any(place.startswith("/") or ".." in place.split("/") for place in (*files, *before)):
                self.digest, self.files, self.before = raw["archive"], files, before

    @property
    def state(self) -> str:
        """How far the archive with this list has come: ``DONE``, ``MOVING`` or ""."""
        entry = self.manifest.unpacked.get(self.archive, {})
        return entry.get("state", "") if self.digest and entry.get("archive") == self.digest else ""

    @property
    def roots(self) -> list[str]:
        """The topmost places of the files, below the manifest's folder."""
        depth = len(PurePosixPath(self.into).parts) + 1
        return sorted({PurePosixPath(*PurePosixPath(place).parts[:depth]).as_posix() for place in self.files})

    def lost(self) -> dict[str, int]:
        """The listed files that are not there with their size; whatever else lies there does not count.

        Looked up once between two moves: there may be some 100,000 of them, on a network's disk.
        """
        if self._lost is None:
            self._lost = {p: size for p, size in self.files.items() if not _has(self.folder / p, size)}
        return self._lost

    def intact(self) -> bool:
        """Whether the archive was unpacked and all its files are still there with their sizes."""
        return self.state == DONE and not self.lost()

    # --- the folder in between --------------------------------------------------------------------------------

    def staging(self, digest: str) -> Path:
        """Where an archive is unpacked; named by its bytes, since another version's files are of no use."""
        return self.home / f".{self.archive}.{digest[:12]}.unpacking"

    def staged(self) -> int:
        """Bytes that interrupted runs have unpacked and not moved yet."""
        folders = self._stagings() if self.home.is_dir() else []
        return sum(p.lstat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())

    def clear(self, but: Path | None = None) -> None:
        """Remove what interrupted runs have unpacked, of all versions ``but`` one."""
        for folder in self._stagings():
            if folder != but:
                shutil.rmtree(folder, ignore_errors=True)

    def _stagings(self) -> list[Path]:
        return [*self.home.glob(f".{self.archive}.*.unpacking")]

    # --- the move -----------------------------------------------------------------------------------------------

    def foreign(self, files: dict[str, int]) -> Path | None:
        """The first place of ``files`` that holds something which no unpacking of ours has put there."""
        ours = self.files.keys() | self.before.keys()
        for place in files:
            path = self.folder / place
            if os.path.lexists(path) and (place not in ours or (path.is_dir() and not path.is_symlink())):
                return path
        return None

    def begin(self, digest: str, files: dict[str, int]) -> None:
        """Write down that the files in ``staging(digest)`` are about to be moved.

        ``files`` are all that the archive holds, of which some may be at their place already.
        """
        self._lost = None
        if (digest, files) != (self.digest, self.files):
            earlier = {**self.before, **self.files}
            self.before = {place: size for place, size in earlier.items() if place not in files}
            self.digest, self.files = digest, dict(files)
            self._write()
        self._note(MOVING)

    def finish(self) -> None:
        """Move the files to their place; every file that is not listed stays where it is.

        May be called again after a kill at any point, since a listed file is either still in the staging folder
        or where it belongs.
        """
        self._lost = None
        for place, size in self.before.items():
            if _has(self.folder / place, size):
                (self.folder / place).unlink()
                self._prune(PurePosixPath(place).parent)
        staging = self.staging(self.digest)
        for root in self.roots:
            self._move(staging, root)
        sweep(self.list)
        if self.before:
            # before it is "done": what is put there from then on is the user's
            self.before = {}
            self._write()
        self._note(DONE)
        self.clear()

    def _move(self, staging: Path, root: str) -> None:
        """One root: in one step where nothing is there yet, else file by file around what is not ours."""
        source, target = staging / PurePosixPath(root).name, self.folder / root
        if not os.path.lexists(source):
            return
        with contextlib.suppress(OSError):
            target.rmdir()  # only an empty folder goes by this
        if not os.path.lexists(target):
            source.replace(target)
            return
        for place in self.files:
            found = staging / PurePosixPath(place).relative_to(self.into)
            if PurePosixPath(place).is_relative_to(root) and found.is_file():
                (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
                found.replace(self.folder / place)

    def _prune(self, folder: PurePosixPath) -> None:
        """Remove the folders that a removed file leaves empty."""
        with contextlib.suppress(OSError):
            while folder != PurePosixPath(self.into):
                (self.folder / folder).rmdir()
                folder = folder.parent

    def _note(self, state: str) -> None:
        entry: dict[str, Any] = {"archive": self.digest, "state": state}
        entry["roots"] = self.roots
        entry |= {"files": len(self.files), "bytes": sum(self.files.values()), "list": self.list.name}
        self.manifest.update(unpacked={self.archive: entry})

    def _write(self) -> None:
        sweep(self.list)
        about = "written by data_scripts/get.py: the files of an archive with their sizes"
        write_json(
            self.list, {"about": about, "archive": self.digest, "files": self.files, "before": self.before}
        )


def _has(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False
