"""What was made and given in a session: files in a folder, and a record of the clips beside those that stay."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import atomic_path, check_place, read_json, write_json
from latentclap.generation import RECORD, calls_of, makers_of

#: What a record of ours says of itself, which one of generate or vary does not.
BY = "latentclap play"


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

    def page(self) -> dict[str, Any]:
        """What the page gets."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "file": self.file,
            "sound": f"/clips/{self.id}.wav",
            "picture": f"/clips/{self.id}.png",
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
        there = {self.out / clip["file"]: makers.get(clip["file"], {}) for clip in clips}
        write_json(self.out / RECORD, {"by": BY, "calls": calls_of(there, self.out), "clips": clips})

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
        """Copy a clip to where clips lie, under a name that none there has."""
        place = (self.out or self.folder / "clips") / word
        stem, number = f"{root}_{seed}", 1
        while (path := place / f"{stem}{f'-{number}' if number > 1 else ''}.wav").exists():
            number += 1
        with atomic_path(path) as temporary:
            shutil.copyfile(made, temporary)
        return path

    def add(self, item: Item, record: Mapping[str, Any] | None = None, maker: Any = None) -> None:
        """Put an item on the page; with a record, of a clip, into that of the folder too.

        Args:
            item: whose files are there.
            record: what the folder's record says of the clip.
            maker: what made it.
        """
        with self._lock:
            try:
                if self.out and record is not None:
                    name = item.path.relative_to(self.out).as_posix()
                    clips, makers = self._recorded()
                    self._record([*clips, {"file": name, **record}], makers | {name: maker})
            except BaseException:  # stopped, or a full disk: no clip without its record
                self._drop(item.path)
                raise
            self._items[item.id] = item
            self.revision += 1

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
        with self._lock:
            item = self._items.pop(number, None)
            if item is None:
                raise InputError("there is no such clip any more")
            self.revision += 1
            self._drop(item.path)
            if self.out and item.path.is_relative_to(self.out):
                self._record(*self._recorded())

    @staticmethod
    def _drop(path: Path) -> None:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its folder holds others
            path.parent.rmdir()
