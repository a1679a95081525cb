"""What was made and given in a session: files in a folder, and a record of the clips beside those that stay."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import NO_ROOM, atomic_path, check_place, read_json, write_json
from latentclap.generation import RECORD, calls_of, makers_of
from latentclap.locks import alone

#: What a record of ours says of itself, which one of generate or vary does not.
BY = "latentclap play"
#: Seconds to wait for another page that writes into the same folder.
PATIENCE = 20


@dataclass
class Item:
    """A clip or sound on the page.

    Attributes:
        id: its number.
        kind: "clip", "take" or "sound", which is one of the user's.
        title: its heading.
        file: the file's name, under which it is downloaded.
        path: what is played, and downloaded.
        picture: its spectrogram.
        word: of its folder.
        root: what its takes' files are called after.
        source: the file that takes of it are made of: of a user's sound the one that was given.
        told: more for the page.
        record: what a record says of the clip; a sound of the user's has none.
        maker: what made it, for a record.
        starred: the user wants to keep it.
    """

    id: int
    kind: str
    title: str
    file: str
    path: Path
    picture: Path
    word: str
    root: str
    source: Path
    told: dict[str, Any]
    record: Mapping[str, Any] | None = None
    maker: dict[str, Any] = field(default_factory=dict)
    starred: bool = False

    @property
    def name(self) -> str:
        """Where a clip lies below the folder of clips."""
        return f"{self.word}/{self.file}"

    def entry(self) -> dict[str, Any]:
        """A clip's entry in a record."""
        return {"file": self.name, **(self.record or {}), **({"starred": True} if self.starred else {})}

    def page(self) -> dict[str, Any]:
        """What the page gets."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "file": self.file,
            "sound": f"/clips/{self.id}.wav",
            "picture": f"/clips/{self.id}.png",
            "starred": self.starred,
            **self.told,
        }


class Shelf:
    """The items of a session; any thread may ask.

    Clips lie in ``out/<word>/<word>_<seed>.wav``, and ``out/generation.json`` lists them, as far as they are there;
    without ``out`` they lie in a folder that goes with the session.

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
            self._recorded()

    def _recorded(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """Clips of the folder's record that are there, and what made each.

        It is read each time anew: another model's page may have the same folder.
        """
        path = self.out / RECORD
        if not path.exists():
            return [], {}
        try:
            record = read_json(path)
            ours = record["by"] == BY
            clips = [clip for clip in record["clips"] if (self.out / clip["file"]).is_file()]
            makers = makers_of(record)
        except (LookupError, TypeError, AttributeError):
            ours = False
        if not ours:
            raise InputError(f"--out {self.out} holds clips of another command: choose another folder")
        return clips, makers

    def _record(self, clips: list[dict[str, Any]], makers: Mapping[str, dict[str, Any]]) -> None:
        write_json(self.out / RECORD, record_of(clips, makers))

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
        return sum(item.kind != "sound" for item in self._items.values())

    def get(self, number: int) -> Item | None:
        """The item of a number, if it is there."""
        return self._items.get(number)

    def page(self) -> list[dict[str, Any]]:
        """All items as the page gets them, the newest first."""
        with self._lock:
            return [item.page() for item in reversed(self._items.values())]

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
                if self.out and item.record is not None:
                    clips, makers = self._recorded()
                    self._record([*clips, item.entry()], makers | {item.name: item.maker})
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
            if self.out:
                clips, makers = self._recorded()
                self._record([item.entry() if c["file"] == item.name else c for c in clips], makers)

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
            self.drop(item.path)
            shutil.rmtree(
                item.picture.parent, ignore_errors=True
            )  # of a sound, what was given lies there too
            del self._items[number]
            self.revision += 1
            if self.out and item.record is not None:
                self._record(*self._recorded())

    @staticmethod
    def drop(path: Path) -> None:
        """Remove a clip's file, and its folder where that was the last one."""
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder holds others
            path.parent.rmdir()


def record_of(clips: list[dict[str, Any]], makers: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The record of some clips.

    Args:
        clips: their entries, see :meth:`Item.entry`.
        makers: file -> what made it.
    """
    there = {Path(clip["file"]): makers.get(clip["file"], {}) for clip in clips}
    return {"by": BY, "calls": calls_of(there, Path()), "clips": clips}
