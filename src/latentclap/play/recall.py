"""Clips of earlier sessions: what a folder's record says, checked as what anybody may have written.

Shown is what a page wrote itself, as far as its file is there. All else is left as it is, and counted.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from latentclap import __version__
from latentclap.checkpoints import SAMPLERS, Sampling
from latentclap.classes import CLASSES
from latentclap.earlier import same_model
from latentclap.finish import Finish
from latentclap.generation import code
from latentclap.play.given import MOST_BYTES
from latentclap.play.items import Asked, Item
from latentclap.play.maker import Maker
from latentclap.play.record import file_of, read_record
from latentclap.play.shelf import Shelf
from latentclap.play.wish import LARGEST_SEED
from latentclap.wording import plural

#: Letters of a text or command in a record; those of the page's are fewer.
LONGEST = 10_000
#: Options of the commands that a page shows.
_OPTIONS = {"--classes", "--prompt", "--seed", "--sampler", "--steps", "--guidance-scale", "--strength", "-n"} | {
    f"--{name}" for name in ("seconds", "lufs", "fade", "loop", "sampling-rate", "model", "lora", "device")
}  # fmt: skip
_TAKE = re.compile(r"(.+)_take_[0-9]+(?:-[0-9]+)?")
_FINISH = tuple(field.name for field in fields(Finish))
#: one picture after the other: a page asks for many at once
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Found:
    """What a folder holds of earlier sessions.

    Attributes:
        shown: clips that are on the page.
        gone: entries of the record whose file is not there.
        outside: entries whose file lies elsewhere, by a link.
        changed: entries whose file has another length or rate, or is no sound any more.
        unread: entries that are not as a page writes them.
        unknown: sound files that the record does not have.
    """

    shown: int = 0
    gone: int = 0
    outside: int = 0
    changed: int = 0
    unread: int = 0
    unknown: int = 0

    def said(self) -> str:
        """The counts in one line; empty where there is nothing."""
        left = [
            (self.gone, "clip whose file is gone", "clips whose files are gone"),
            (self.outside, "clip that a link puts elsewhere", "clips that links put elsewhere"),
            (self.changed, "clip whose file was changed", "clips whose files were changed"),
            (self.unread, "entry of the record that cannot be read", "entries of the record that cannot be read"),
            (self.unknown, "sound file without a record", "sound files without a record"),
        ]  # fmt: skip
        words = ", ".join(plural(number, one, many) for number, one, many in left if number)
        shown = (
            f"{plural(self.shown, 'clip')} of earlier sessions"
            if self.shown
            else "no clip of an earlier session"
        )
        if not words:
            return shown if self.shown else ""
        return f"{shown}; not shown and left as they are: {words}"


def recall(maker: Maker, shelf: Shelf) -> Found:
    """Put the clips of earlier sessions on a shelf whose clips stay; say what was found.

    Raises:
        InputError: the folder's record is not JSON, or another command's.
    """
    if not shelf.out:
        return Found()
    entries, makers = read_record(shelf.out)
    last = {file: k for k, entry in enumerate(entries) if (file := file_of(entry))}
    counts = dict.fromkeys((field.name for field in fields(Found)), 0)
    items: dict[str, Item] = {}
    for k, entry in enumerate(entries):
        file = file_of(entry)
        # of two entries for one file the later one is the file's
        item = _item(entry, makers.get(file, {}), maker, shelf) if last.get(file) == k else None
        kind = _state(item)
        counts[kind] += 1
        if kind == "shown":
            items[file] = item
            item.id = shelf.number()
    numbers = {name: item.id for name, item in items.items()}
    for item in items.values():
        _name_source(item, numbers)
    shelf.recall(items.values())
    counts["unknown"] = sum(file not in last for file in _sounds_in(shelf.out))
    return Found(**counts)


def picture_of(item: Item, seconds: float) -> bytes:
    """The picture of a clip or sound; of an earlier session's clip it is drawn when it is asked for first.

    Args:
        item: whose picture it is.
        seconds: width of the time axis.

    Raises:
        InputError: the clip can no longer be decoded.
        OSError: it is not there any more.
    """
    from latentclap.audio import read_wave
    from latentclap.book.players import spectrogram_png

    if item.within is not None:
        with _DRAWING:
            if not item.picture.exists():
                item.read()  # or say that it is gone
                waves, sr = read_wave(item.path)
                spectrogram_png(waves[0], sr, item.picture, seconds=seconds)
    return item.picture.read_bytes()


def made_by(entry: Mapping[str, Any], call: Mapping[str, Any], maker: Maker) -> str:
    """What made a clip, as far as it is not the model and the version that are played now; empty: these.

    Args:
        entry: of the record.
        call: device, versions and code that made it.
        maker: what is played now.
    """
    model, weights = entry["model"], entry.get("weights") or ""
    named = same_model(model, maker.model)
    known = bool(weights and maker.weights)
    same = weights == maker.weights if known else named
    lora = entry["settings"].get("lora") or {}
    words = []
    if not same or lora.get("digest") != (maker.adapter.digest if maker.adapter else None):
        name = _short(model) + (" with other weights" if named and not same else "")
        words.append(name + (f" with LoRA {_line(lora['file'])}" if lora else ""))
        words[0] += " without LoRA" if maker.adapter and not lora and same else ""
    version = _line(call.get("versions", {}).get("latentclap", __version__))
    if version != __version__:
        words.append(f"latentclap {version}")
    elif call.get("code", code()) != code():
        words.append(f"other code of latentclap {version}")
    return ", ".join(words)


def _short(model: str) -> str:
    """A model's name; of a place on a machine the end."""
    path = Path(model)
    return "/".join(path.parts[-2:]) if path.is_absolute() else model


def _item(entry: Any, call: Mapping[str, Any], maker: Maker, shelf: Shelf) -> Item | None:
    """An entry's clip, whether its file is there or not; None: no page wrote such an entry."""
    try:
        return _read(entry, call, maker, shelf)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _read(entry: dict[str, Any], call: Mapping[str, Any], maker: Maker, shelf: Shelf) -> Item:
    """The same; what is no page's raises an error of some kind."""
    file = file_of(entry)
    word, _, name = file.partition("/")
    path = shelf.out / word / name
    command = _line(entry["command"])
    _line(entry["model"])
    take = "sound" in entry
    sound, options = _words(command, take, path.stem)
    settings, cls, text = entry["settings"], options.get("--classes", ""), _line(entry["prompt"], empty=take)
    _need(not cls or (cls in CLASSES and not take))
    finish = Finish(**{key: _number(settings[key]) for key in _FINISH if key in settings})
    asked = Asked(cls, text, _whole(settings["seed"], 0, LARGEST_SEED), _sampling(settings), finish)
    if take:
        strength = _number(entry["strength"])
        _need(0 < strength <= 1)
        asked = replace(asked, strength=strength, sound=_line(entry["sound"]))
    rate = _whole(entry["sampling_rate"], 1, 10**6)
    seconds = _number(entry["seconds"])
    _need(0 < seconds < 10**6)
    told = {**asked.told(), "seconds": seconds, "rate": rate, "command": command, "sound_file": sound}
    return Item(
        id=0,
        kind="take" if take else "clip",
        title=asked.title,
        file=name,
        path=path,
        picture=shelf.folder / "earlier" / word / name / "p.png",
        word=word,
        root=found[1] if take and (found := _TAKE.fullmatch(path.stem)) else path.stem,
        source=path,
        told=told | {"by": made_by(entry, call, maker)},
        record={key: value for key, value in entry.items() if key not in ("file", "starred")},
        maker=dict(call),
        starred=entry.get("starred") is True,
        within=shelf.out,
    )


def _state(item: Item | None) -> str:
    """Which of a folder's counts an entry belongs to."""
    import soundfile

    if item is None:
        return "unread"
    if not os.path.lexists(item.path):
        return "gone"
    if not Path(os.path.realpath(item.path)).is_relative_to(os.path.realpath(item.within)):
        return "outside"
    if not item.there or item.path.stat().st_size > MOST_BYTES:
        return "changed"
    try:
        told = soundfile.info(item.path)
        same = told.samplerate == item.told["rate"] and told.channels == 1
        length = item.told["seconds"] * item.told["rate"]
        whole = same and abs(told.frames - length) < 0.5
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        whole = False
    return "shown" if whole else "changed"


def _name_source(item: Item, numbers: Mapping[str, int]) -> None:
    """Tell the page which of the clips a take was made of, if that one is shown: its command has the place."""
    sound = item.told.pop("sound_file")
    if sound:
        item.told["asked"]["source"] = numbers.get("/".join(Path(sound).parts[-2:]))


def _words(command: str, take: bool, stem: str) -> tuple[str, dict[str, str]]:
    """The sound and the options of a clip's command: none but one that a page writes is shown to be copied."""
    words = shlex.split(command)
    begins = ["latentclap", "vary" if take else "generate"]
    _need(shlex.join(words) == command and words[:2] == begins and words[-2:] == ["-o", stem])
    options = words[3 if take else 2 : -2]
    _need(len(options) % 2 == 0 and set(options[::2]) <= _OPTIONS)
    return words[2] if take else "", dict(zip(options[::2], options[1::2], strict=True))


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    _need(settings["sampler"] in SAMPLERS)
    guidance = settings["guidance_scale"]
    _need(0 <= _number(guidance) <= 1000)
    return Sampling(settings["sampler"], _whole(settings["steps"], 1, 10**6), guidance)


def _line(value: Any, *, empty: bool = False) -> str:
    _need(isinstance(value, str) and value.isprintable() and len(value) <= LONGEST and (empty or value))
    return value


def _number(value: Any) -> Any:
    _need(type(value) in (int, float) and math.isfinite(value))
    return value


def _whole(value: Any, low: int, high: int) -> int:
    _need(type(value) is int and low <= value <= high)
    return value


def _need(holds: Any) -> None:
    if not holds:
        raise ValueError("not as a page writes it")


def _sounds_in(out: Path) -> Iterator[str]:
    """Sound files of a folder and of those in it, by their names from it on."""
    from latentclap.audio import FORMATS

    for place in ("", *_names(out, folders=True)):
        for name in _names(out / place, folders=False):
            if Path(name).suffix.lower() in FORMATS:
                yield f"{place}/{name}" if place else name


def _names(folder: Path, *, folders: bool) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as there:
        return [e.name for e in there if e.is_dir() == folders and not e.name.startswith(".")]
    return []
