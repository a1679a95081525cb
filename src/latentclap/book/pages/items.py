"""``listening.json``: the clips that a notebook leaves for the book to play, written and read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.figures import canonical_system
from latentclap.book.levels import level_rows
from latentclap.book.players import AudioFile
from latentclap.classes import canonical_class
from latentclap.errors import InputError
from latentclap.files import read_json, write_json


@dataclasses.dataclass(frozen=True)
class Item:
    """One cell of the listening page: clip ``index`` of a class by a system."""

    cls: str
    system: str
    index: int
    audio: AudioFile
    score: float | None = None


def listening_item(audio: AudioFile, cls: str, system: str, index: int, score: float | None = None) -> Item:
    """Return an entry for :func:`write_listening_items`.

    Args:
        audio: what :func:`latentclap.book.save_player` returned, with its caption.
        cls: class, any spelling.
        system: a system of Table I, "real" or "reconstruction", any spelling.
        index: seed index of the clip; the same index is one row of the grid.
        score: CLAP similarity to the prompt.
    """
    return Item(canonical_class(cls), canonical_system(system), int(index), audio, score)


def write_listening_items(path: str | Path, items: Iterable[Item], *, rule: str) -> Path:
    """Write ``listening.json`` for the listening page; paths in it are relative to its folder.

    Args:
        path: the file, in the run folder, above the players.
        items: from :func:`listening_item`.
        rule: the sentence of :func:`latentclap.book.select_examples`.
    """
    path = Path(path)
    folder = path.parent.resolve()
    items = _levelled(items)

    def relative(file: Path | None) -> str | None:
        return None if file is None else Path(os.path.relpath(Path(file).resolve(), folder)).as_posix()

    entries = [
        {
            "cls": item.cls,
            "system": item.system,
            "index": item.index,
            "wave": relative(item.audio.path),
            "png": relative(item.audio.picture),
            "caption": item.audio.caption,
            "score": item.score,
        }
        for item in items
    ]
    write_json(path, {"rule": rule, "items": entries})
    return path


def _levelled(items: Iterable[Item]) -> list[Item]:
    """The items with the players of each class and index at one loudness: they become a row of the page."""
    items = list(items)
    rows: dict[tuple[str, int], list[int]] = {}
    for number, item in enumerate(items):
        rows.setdefault((item.cls, item.index), []).append(number)
    for key, row in level_rows({key: [items[i].audio for i in row] for key, row in rows.items()}).items():
        for i, audio in zip(rows[key], row.clips, strict=True):
            items[i] = dataclasses.replace(items[i], audio=audio)
    return items


def read_items(sources: Sequence[str | Path]) -> tuple[dict[tuple[str, str, int], Item], list[str]]:
    """Read listening.json files: (class, system, index) -> item, and the selection rules they state."""
    cells: dict[tuple[str, str, int], Item] = {}
    rules: list[str] = []
    for source in map(Path, sources):
        if not source.is_file():
            raise InputError(f"{source}: no such file; notebooks 03 and 04 write it into their run folder")
        content = read_json(source)
        entries = content.get("items") if isinstance(content, Mapping) else content
        if not isinstance(entries, list):
            raise InputError(f"{source}: expected a list of items, or an object with the key items")
        if isinstance(content, Mapping) and content.get("rule") and content["rule"] not in rules:
            rules.append(content["rule"])
        for number, entry in enumerate(entries):
            item = _item(entry, source, number)
            key = (item.cls, item.system, item.index)
            if key in cells:
                raise InputError(f"{source}, item {number}: {' / '.join(map(str, key))} is there twice")
            cells[key] = item
    return cells, rules


def _item(entry: Any, source: Path, number: int) -> Item:
    where = f"{source}, item {number}"
    try:
        cls, system = canonical_class(entry["cls"]), canonical_system(entry["system"])
        index, wave = int(entry["index"]), _existing(source.parent, entry["wave"], where)
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: needs cls, system, index and wave ({error})") from error
    except ValueError as error:  # an unknown class or system; InputError is one too
        raise InputError(f"{where}: {error}" if where not in str(error) else str(error)) from error
    png, score = entry.get("png"), entry.get("score")
    audio = AudioFile(wave, _existing(source.parent, png, where) if png else None, entry.get("caption") or "")
    if score is not None and "similarity" not in audio.caption:
        audio = audio.with_caption(audio.caption, score=score)
    return Item(cls, system, index, audio, score)


def _existing(folder: Path, name: str, where: str) -> Path:
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise InputError(f"{where}: {name} is not there; run the notebook that writes {folder.name} again")
