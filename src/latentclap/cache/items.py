"""One clip of a cache's input, and what files beside it say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from latentclap.audio import FORMATS
from latentclap.files import below, plain

#: the problem of a clip that is listed without its sound
NO_SOUND = "no sound file"
#: the problem of a clip of which nothing says what it is
NO_CAPTION = "no caption"


@dataclass(frozen=True, slots=True)
class Item:
    """One clip to encode or to pack.

    Attributes:
        key: its name, unique in the set, without suffix.
        caption: what its E_text is made of; empty where there is none.
        path: the file, or None where the content is at hand.
        data: the file's bytes, or a seekable file with them, or None.
        suffix: of the sound file, with the dot.
        problem: why it cannot be used, where that is known before decoding.
        retry: whether the problem may be gone the next time, as that of a disk.
    """

    key: str
    caption: str = ""
    path: Path | None = None
    data: bytes | BinaryIO | RawIOBase | None = None
    suffix: str = ""
    problem: str = ""
    retry: bool = False

    def load(self) -> Item:
        """Return itself: a clip of a folder is listed with its caption, one of an archive is not (``tars.Group``)."""
        return self


def sounds(folder: Path) -> list[Path]:
    """The sound files below a folder, sorted."""
    return [path for path in below(folder, FORMATS) if not path.is_dir()]


def sound_item(path: Path, folder: Path, caption: str = "") -> Item:
    """A sound file as a clip, named by its place below the folder; without caption it is a problem."""
    item = Item(key_of(path, folder), path=path, suffix=path.suffix.lower())
    return captioned(item, caption)


def captioned(item: Item, caption: str, told: Mapping[str, Any] | None = None) -> Item:
    """The clip with its caption or, where that is empty, with what is wrong with what was told."""
    return replace(item, caption=caption, problem="" if caption else no_caption(told or {}))


def texts_beside(path: Path) -> dict[str, Path]:
    """The .txt and .json of a sound's name, by suffix."""
    return {s: path.with_suffix(s) for s in (".txt", ".json") if path.with_suffix(s).is_file()}


def items_beside(paths: Iterable[Path], folder: Path) -> Iterator[Item]:
    """Sounds as clips, each with its caption in a .txt or .json of the same name."""
    for path in paths:
        told = {s[1:]: file.read_bytes() for s, file in texts_beside(path).items()}
        yield captioned(sound_item(path, folder), caption_of(told), told)


def key_of(path: Path, folder: Path) -> str:
    """Path below the folder without suffix; no dot in the name, where webdataset's suffixes begin."""
    relative = Path(plain(path.relative_to(folder).with_suffix("")))
    return (relative.parent / relative.name.replace(".", "_")).as_posix()


def caption_of(sample: Mapping[str, Any]) -> str:
    """The caption in an entry of WavCaps, or among the files of a webdataset sample (txt, json); "" for none.

    Of several captions ("text" or "caption" may be a list) the first is taken.
    """
    for name in ("caption", "text", "txt", "json"):
        value = sample.get(name)
        if isinstance(value, bytes):
            value = _parsed(name, value)
        if isinstance(value, Mapping):
            value = caption_of({k: v for k, v in value.items() if k in ("caption", "text")})
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            # half a surrogate pair is valid in JSON, but no text that could be tokenised or written
            return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
    return ""


def no_caption(sample: Mapping[str, Any]) -> str:
    """What to say of a sample in which :func:`caption_of` finds none."""
    for name, value in sample.items():
        try:
            _read(name, value)
        except UnicodeDecodeError:
            return "caption is not UTF-8"
        except ValueError:
            pass
    return NO_CAPTION


def _parsed(name: str, data: bytes) -> Any:
    try:
        return _read(name, data)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError are
        return ""


def _read(name: str, data: bytes) -> Any:
    return json.loads(data) if name == "json" else data.decode("utf-8-sig")
