"""What was made and given in a session: files in a folder, and a record of the clips beside those that stay."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import NO_ROOM, atomic_path, check_place, write_json
from latentclap.generation import RECORD
from latentclap.locks import alone
from latentclap.play.items import Item
from latentclap.play.record import file_of, read_record, record_of

#: Seconds to wait for another page that writes into the same folder.
PATIENCE = 20


class Shelf:
    """The items of a session; any thread may ask.

    Clips lie in ``out/<word>/<word>_<seed>.wav``, and ``out/generation.json`` lists them; without ``out`` they lie in
    a folder that goes with the session. Clips of earlier sessions are put here by :meth:`recall`.

    Args:
        folder: for what goes with the session.
        out: for clips that stay; None: none.

    Raises:
        InputError: ``out`` holds the record of another command, or one that cannot be read.
        OSError: no file can be written there.
    """

    def __init__(self, folder: Path, out: Path | None) -> None:
        self.folder, self.out = folder, out
        self._items: dict[int, Item] = {}
        self._last = 0
        self.revision = 0
        self._lock = threading.RLock()
        if out:
            try:
                check_place(out / RECORD)
            except OSError as error:
                raise InputError(f"--out {out}: {error.filename} {error.strerror}") from None
            read_record(out)

    def _record(
        self, change: Callable[[list[Any]], list[Any]], makers: Mapping[str, dict[str, Any]] | None = None
    ) -> None:
        """Change the entries of the folder's record; what made a clip that is new is in ``makers``.

        It is read each time anew: another model's page may have the same folder.
        """
        if self.out:
            clips, known = read_record(self.out)
            write_json(self.out / RECORD, record_of(change(clips), known | dict(makers or {})))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the items, and the folder where clips stay: another page may write into the same one."""
        with self._lock:
            if not self.out:
                yield
                return
            with alone(self.out, "another latentclap command works there", PATIENCE):
                yield

    @property
    def made(self) -> int:
        """Clips and takes of this session that are there."""
        return sum(item.kind != "sound" and item.within is None for item in self._items.values())

    def get(self, number: int) -> Item | None:
        """The item of a number, if it is there."""
        return self._items.get(number)

    def page(self) -> list[dict[str, Any]]:
        """What this session made and was given, as the page gets it, the newest first."""
        with self._lock:
            return [item.page() for item in reversed(self._items.values()) if item.within is None]

    def earlier(self) -> list[dict[str, Any]]:
        """Clips of earlier sessions, as the page gets them, the newest first."""
        with self._lock:
            return [item.page() for item in reversed(self._items.values()) if item.within is not None]

    def marks(self) -> dict[int, bool]:
        """Numbers of the earlier sessions' clips that are there, and which are starred: all that may change."""
        with self._lock:
            return {item.id: item.starred for item in self._items.values() if item.within is not None}

    def recall(self, items: Iterable[Item]) -> None:
        """Put clips of earlier sessions here, as the folder's record has them."""
        with self._lock:
            self._items |= {item.id: item for item in items}
            self.revision += 1

    def place(self, name: str) -> Path:
        """A new folder of the session's own."""
        with self._lock:
            self._last += 1
            place = self.folder / f"{self._last}-{name}"
        place.mkdir(parents=True)
        return place

    def put(self, made: Path, word: str, root: str, seed: int) -> Path:
        """Copy a clip to where clips lie, under a name that none there has.

        Raises:
            OSError: it does not fit, or cannot be written; with the name that the clip would have.
        """
        place = (self.out or self.folder / "clips") / word
        stem, number = f"{root}_{seed}", 1
        with self._kept():
            while (path := place / f"{stem}{f'-{number}' if number > 1 else ''}.wav").exists():
                number += 1
            try:
                with atomic_path(path) as temporary:
                    shutil.copyfile(made, temporary)
            except OSError as error:  # it names the copy that was made first
                more = "; make room" if error.errno in NO_ROOM else ""
                said = (error.strerror or str(error)).partition(";")[0]
                raise OSError(error.errno, f"{said}{more}", str(path)) from None
        return path

    def add(self, item: Item) -> None:
        """Put an item on the page; a clip into the folder's record too.

        Args:
            item: whose files are there.
        """
        with self._kept():
            try:
                if item.record is not None:
                    self._record(lambda clips: [*without(clips, item), item.entry()], {item.name: item.maker})
            except BaseException:  # stopped, or a full disk: no clip without its record
                self.drop(item.path)
                raise
            self._items[item.id] = item
            self.revision += 1

    def star(self, number: int, starred: bool) -> None:
        """Mark a clip as one to keep, or no more so; the folder's record says so too.

        Raises:
            InputError: there is no clip of that number.
        """
        with self._kept():
            item = self._items.get(number)
            if item is None or item.record is None:
                raise InputError("there is no such clip any more")
            item.starred = starred
            self.revision += 1
            self._record(lambda clips: [item.entry() if file_of(c) == item.name else c for c in clips])

    def starred(self) -> list[Item]:
        """The clips to keep, in the order in which they were made."""
        with self._lock:
            return [item for item in self._items.values() if item.starred]

    def number(self) -> int:
        """A number for a new item."""
        with self._lock:
            self._last += 1
            return self._last

    def remove(self, number: int) -> None:
        """Take an item off the page, and its file away.

        Raises:
            InputError: there is none of that number.
        """
        with self._kept():
            item = self._items.get(number)
            if item is None:
                raise InputError("there is no such clip any more")
            if item.within is None or item.there:  # by a link that is new it may lie elsewhere
                self.drop(item.path)
            # of a sound, what was given lies there too
            shutil.rmtree(item.picture.parent, ignore_errors=True)
            del self._items[number]
            self.revision += 1
            if item.record is not None:
                self._record(lambda clips: without(clips, item))

    @staticmethod
    def drop(path: Path) -> None:
        """Remove a clip's file, and its folder where that was the last one."""
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder holds others
            path.parent.rmdir()


def without(clips: list[Any], item: Item) -> list[Any]:
    """A record's entries but for a clip's own."""
    return [clip for clip in clips if file_of(clip) != item.name]
