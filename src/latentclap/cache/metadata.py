"""Captions in a table of the folder, in the form of Hugging Face's audiofolder: metadata.csv, .tsv or .jsonl."""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from latentclap.cache.items import NO_CAPTION, NO_SOUND, Item, caption_of, key_of, sound_item, sounds
from latentclap.errors import InputError
from latentclap.files import listed, plain
from latentclap.tables import column, rows_of

#: what the table is called, in any case
NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
#: the column that names the sound, and those that may hold its caption, the first that is there
FILE, CAPTIONS = "file_name", ("caption", "text", "prompt", "transcription")
#: what the table looks like, in words
FORM = f"a column {FILE} (the path below the table's folder) and one of {', '.join(CAPTIONS)}"

Row = tuple[int, dict[str, Any]]


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie in a folder itself."""
    return [path for path in listed(folder) if path.name.lower() in NAMES and path.is_file()]


def columns_of(path: Path) -> list[str]:
    """The columns of a table; of a .jsonl the names in its first line.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix.lower() == ".jsonl":
        return list(next(_json_rows(path), (0, {}))[1])
    return [column(name) for name in next(rows_of(path), (0, []))[1]]


def unfit(path: Path) -> str:
    """What a table lacks to be one of captions, in words that name the columns it has; "" for nothing.

    Raises:
        InputError: it cannot be read.
    """
    there = columns_of(path)
    lacks = [] if FILE in there else [FILE]
    lacks += [] if set(CAPTIONS) & set(there) else [" or ".join(CAPTIONS)]
    if not lacks:
        return ""
    has = f"it has {', '.join(there)}" if there else "it is empty"
    return (
        f"{path}: no column {' and no column '.join(lacks)}; {has}; captions need {FORM}: name them so, or move the"
        " table away"
    )


def items_of(path: Path) -> list[Item]:
    """The clips that a table lists, in its order; a name may differ from the file's in case and Unicode form.

    Raises:
        InputError: a row cannot be read or names a path outside of the folder, or no row has a sound and a caption.
    """
    folder = path.parent
    there = sounds(folder)
    exact = {plain(sound.relative_to(folder)): sound for sound in there}
    alike: dict[str, list[Path]] = {}
    for name, sound in exact.items():
        alike.setdefault(_alike(name), []).append(sound)
    items: list[Item] = []
    seen: set[str] = set()
    again = nameless = 0
    for line, row in _rows(path):
        told = row.get(FILE)
        if not isinstance(told, str) or not told.strip():
            nameless += 1
            continue
        name = _inside(told, path, line)
        near = alike.get(_alike(name), [])
        sound = exact.get(name) or (near[0] if len(near) == 1 else None)
        mark = plain(sound.relative_to(folder)) if sound else name
        if mark in seen:
            again += 1
            continue
        seen.add(mark)
        caption = caption_of({"caption": next((row[name] for name in CAPTIONS if name in row), "")})
        if sound is None:
            items.append(Item(key_of(folder / PurePosixPath(name), folder), problem=NO_SOUND))
        else:
            items.append(sound_item(sound, folder, caption))
    _check(path, items, len(there))
    left = len(exact) - sum(item.path is not None for item in items)
    for count, what in (
        (again, "rows for a sound that an earlier one names"),
        (nameless, f"rows without {FILE}"),
        (left, "sounds that are not in the table"),
    ):
        if count:
            warnings.warn(f"{path}: {what}, left out: {count}", stacklevel=3)
    return items


def _check(path: Path, items: list[Item], count: int) -> None:
    """Refuse a table of which nothing could be used, and say what is wrong with it."""
    if not items:
        raise InputError(f"{path}: no row names a sound; captions need {FORM}")
    if all(item.problem == NO_SOUND for item in items):
        raise InputError(
            f"{path}: not one of its {len(items)} sounds is there, the first is {items[0].key} ({count} others are in"
            f" the folder): {FILE} is the path below the table's folder, with the suffix"
        )
    if all(item.problem in (NO_SOUND, NO_CAPTION) for item in items):
        raise InputError(f"{path}: not one of its {len(items)} rows has a caption; captions need {FORM}")


def _inside(told: str, path: Path, line: int) -> str:
    """A path of the table as it is below the folder, with slashes."""
    # half a surrogate pair is valid in JSON, and no name that could be written
    name = told.strip().replace("\\", "/").encode("utf-8", "backslashreplace").decode("utf-8")
    name = posixpath.normpath(name)
    if name.startswith("/") or re.match("[A-Za-z]:", name) or name.split("/")[0] in ("..", "~"):
        raise InputError(
            f"{path}: line {line}: {told.strip()} lies outside of the folder; give {FILE} as a path below it"
        )
    return name


def _alike(name: str) -> str:
    """Names that Windows and Macs take for the same file: case, and letters with accents in two forms."""
    return unicodedata.normalize("NFC", name).casefold()


def _rows(path: Path) -> Iterator[Row]:
    """Rows, each with the number of its line."""
    if path.suffix.lower() == ".jsonl":
        yield from _json_rows(path)
        return
    rows = rows_of(path)
    header = [column(name) for name in next(rows, (0, []))[1]]
    for line, row in rows:
        yield line, dict(zip(header, row, strict=False))


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save it in UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, Mapping):
            raise InputError(
                f'{path}: line {number} is not a JSON object, {{"{FILE}": ..., "{CAPTIONS[0]}": ...}}'
            )
        yield number, {column(name): value for name, value in row.items()}
