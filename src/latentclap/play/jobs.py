"""The session behind the page: one job at a time, what is made of it, and how far it is."""

from __future__ import annotations

import secrets
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentclap.errors import InputError, reason
from latentclap.play.given import given
from latentclap.play.items import Asked, Item, title_of
from latentclap.play.maker import Made, Maker
from latentclap.play.recall import picture_of, recall
from latentclap.play.shelf import Shelf
from latentclap.play.wish import Wish, on_the_page, read_wish
from latentclap.vary.sounds import word_of


class Busy(InputError):
    """Another job is being done."""


class Stopped(Exception):
    """The user wants no more of a job."""


@dataclass
class Job:
    """What is being done.

    Attributes:
        wish: what was asked for.
        sound: what takes are made of.
        calls: of the UNet, for one clip.
        done: clips.
        step: calls for the present clip.
        stopping: the user wants no more.
        began: when the first call was made, by the monotonic clock; 0: not yet.
    """

    wish: Wish
    sound: Item | None
    calls: int
    done: int = 0
    step: int = 0
    stopping: bool = False
    began: float = 0

    def count(self) -> None:
        """Count a call of the UNet."""
        if self.stopping:
            raise Stopped
        self.began = self.began or time.monotonic()
        self.step += 1

    def left(self) -> float | None:
        """Seconds that are left, as far as what is done tells: decoding counts from the second clip on."""
        over = self.done * self.calls + max(self.step - 1, 0)  # the present call is not over
        if over < 2:
            return None
        rest = self.wish.n * self.calls - over
        return (time.monotonic() - self.began) / over * rest

    def page(self) -> dict[str, Any]:
        """How far it is, for the page."""
        return {
            "title": title_of(self.wish.cls, self.wish.text, self.sound.source.name if self.sound else ""),
            "clip": self.done + 1,
            "clips": self.wish.n,
            "step": self.step,
            "steps": self.calls,
            "stopping": self.stopping,
            "left": self.left(),
        }


class Session:
    """Jobs that threads of a server ask for and one thread does (:meth:`run`), since there is one model.

    Args:
        maker: the model.
        shelf: where clips go.
    """

    def __init__(self, maker: Maker, shelf: Shelf) -> None:
        self.maker, self.shelf = maker, shelf
        self.name = secrets.token_hex(8)
        self._change = threading.Condition()
        self._job: Job | None = None
        self._closed = False
        self._note = self._error = ""
        self.found = recall(maker, shelf)

    # ------------------------------------------------------------------------ what the page asks

    def state(self) -> dict[str, Any]:
        """What goes on, for the page."""
        with self._change:
            return {
                "session": self.name,
                "revision": self.shelf.revision,
                "job": self._job.page() if self._job else None,
                "error": self._error,
                "note": self._note,
            }

    def ask(self, told: Mapping[str, Any]) -> None:
        """Ask for clips.

        Raises:
            InputError: what is asked for is wrong.
            Busy: another job is being done.
        """
        system = self.maker.system
        wish = read_wish(told, self.maker.own, system.schedule.steps, system.seconds)
        sound = None
        if wish.sound is not None:
            sound = self.shelf.get(wish.sound)
            if sound is None or (sound.within and not sound.there):
                raise InputError("Sound: it is not there any more; choose another one")
            if self.maker.steered_not and not wish.text:
                raise InputError(f"Words: {self.maker.steered_not}: say what takes are to be like")
        with self._change:
            if self._job:
                raise Busy("busy with other clips: wait for them, or stop them")
            self._job = Job(wish, sound, self.maker.calls(wish))
            self._note = self._error = ""
            self._change.notify_all()

    def stop(self) -> None:
        """End the present job, if there is one, at its next step; clips that are made stay."""
        with self._change:
            if self._job:
                self._job.stopping = True

    def give(self, name: str, content: bytes) -> int:
        """Put a sound of the user's own on the page, see :func:`latentclap.play.given.given`; return its number."""
        item = given(name, content, self.shelf, self.maker.system)
        self.shelf.add(item)
        return item.id

    def picture(self, number: int) -> bytes:
        """The picture of a clip or sound; nothing where there is none of that number.

        Raises:
            InputError: an earlier session's clip can no longer be decoded.
            OSError: its file is gone.
        """
        item = self.shelf.get(number)
        return picture_of(item, self.maker.system.seconds) if item else b""

    def remove(self, number: int) -> None:
        """Take a clip or sound off the page.

        Raises:
            InputError: there is none of that number, or takes of it are being made.
        """
        with self._change:
            sound = self._job.sound if self._job else None
        if sound is not None and sound.id == number:
            raise InputError("takes of it are being made: wait for them, or stop them")
        self.shelf.remove(number)

    # ------------------------------------------------------------------------------ what is done

    def close(self) -> None:
        """Let :meth:`run` end, after the present step."""
        with self._change:
            self._closed = True
            if self._job:
                self._job.stopping = True
            self._change.notify_all()

    def run(self) -> None:
        """Do one job after the other, until :meth:`close`."""
        while job := self._next():
            try:
                self._do(job)
            except Stopped:
                pass
            except Exception as error:
                self._fail(error)
            finally:
                with self._change:
                    self._job = None

    def _next(self) -> Job | None:
        with self._change:
            while not (self._job or self._closed):
                self._change.wait()
            return None if self._closed else self._job

    def _fail(self, error: Exception) -> None:
        said = reason(error)
        if said is None:  # a bug, or torch's
            traceback.print_exception(error)
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            said = f"{said[:200]} (the terminal says more)"
        else:
            print(f"error: {said}", file=sys.stderr)
        self._error = on_the_page(said.replace(f"{self.shelf.folder}/", ""))

    def _do(self, job: Job) -> None:
        for number in range(job.wish.n):
            job.step = 0
            place = self.shelf.place("made")
            try:
                with self.maker.watched(job.count):
                    made = self.maker.make(
                        job.wish, job.wish.seed + number, place, job.sound.source if job.sound else None
                    )
                self._show(job, made, job.wish.seed + number)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            job.done += 1
            if job.stopping:
                raise Stopped

    def _show(self, job: Job, made: Made, seed: int) -> None:
        """Put a clip that was made on the shelf, with its picture and record."""
        from latentclap.audio import read_wave
        from latentclap.book.players import spectrogram_png

        wish, sound = job.wish, job.sound
        word = sound.word if sound else word_of(wish.name)
        (wave,), sr = read_wave(made.path)
        picture = self.shelf.place("picture") / "p.png"
        spectrogram_png(wave, sr, picture, seconds=self.maker.system.seconds)
        path = self.shelf.put(made.path, word, f"{sound.root}_take" if sound else word, seed)
        try:
            item = self._item(job, made, seed, path, picture, {"seconds": len(wave) / sr, "rate": sr})
        except BaseException:  # stopped between the two
            self.shelf.drop(path)
            raise
        self.shelf.add(item)
        if made.warned:
            self._note = made.warned

    def _item(
        self, job: Job, made: Made, seed: int, path: Path, picture: Path, heard: dict[str, Any]
    ) -> Item:
        """A clip whose file lies where clips lie; ``heard`` is its length and sampling rate."""
        wish, sound, out = job.wish, job.sound, self.shelf.out
        # a clip that stays is named by its place, so that the command runs where this one was started
        named = sound.source.as_posix() if sound and out and sound.record is not None else ""
        command = self.maker.command(wish, seed, path.stem, named or (sound.source.name if sound else ""))
        asked = Asked(wish.cls, wish.text, seed, wish.sampling, wish.finish)
        if sound:
            asked = replace(asked, strength=wish.strength, sound=sound.source.name, source=sound.id)
        word = path.parent.name
        record = {
            "class": word,
            "prompt": wish.text,
            "index": 0,
            **made.about,
            "model": self.maker.model,
            "weights": self.maker.weights,
            "settings": made.settings,
            "sampling_rate": heard["rate"],
            "seconds": heard["seconds"],
            "command": command,
        }
        return Item(
            id=self.shelf.number(),
            kind="take" if sound else "clip",
            title=asked.title,
            file=path.name,
            path=path,
            picture=picture,
            word=word,
            root=sound.root if sound else path.stem,
            source=path,
            told={
                **asked.told(),
                **heard,
                "command": command,
            },
            record=record,
            maker=made.maker,
        )
