"""Meta files beside sound files: what each clip was cut from, its caption and its licence.

Two kinds are understood: the DCASE 2023 Task 7 tables ``DevMeta.csv`` and ``EvalMeta.csv`` (columns
category, current_file_path, original_dataset, original_file_name), and any ``meta.csv`` with a column that
names the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from latentclap.classes import canonical_class
from latentclap.errors import InputError
from latentclap.tables import column as named_column
from latentclap.tables import table_text

#: Meta files by lower-case name, and the split that a name stands for.
META_NAMES: dict[str, str | None] = {
    "meta.csv": None,
    "metadata.csv": None,
    "devmeta.csv": "dev",
    "evalmeta.csv": "eval",
}

#: what a folder, or a column of a table, may call the two sides of a data set
SPLITS = {"dev": "dev", "development": "dev", "eval": "eval", "evaluation": "eval"}

_COLUMNS = {
    "file": ("current_file_path", "file", "path", "file_path", "filename", "file_name"),
    "cls": ("class", "category", "label"),
    "caption": ("caption", "text", "description"),
    "licence": ("licence", "license"),
    "source": ("source", "original_dataset", "dataset"),
    "split": ("split",),
}
# what a clip was cut from, the most telling column first
_RECORDING = ("group", "recording", "recording_id", "original_path", "original_file_name", "original_file")
# free text in which a freesound id or a participant is often told
_TELLING = ("author", "note", "url", "source_url", "original_url")

_FREESOUND = re.compile(
    r"freesound[^\s,;]*?/(?:sounds|s)/(\d+)|freesound\s+(?:id\s+)?(\d+)|\bfs(\d{3,})\b", re.I
)
# UrbanSound8K (id-class-take-slice) and ESC (fold-id-take) name their files by freesound id
_FREESOUND_FILE = re.compile(r"^(?:(\d+)-\d+-\d+-\d+|\d-(\d+)-[A-Z](?:-\d+)?)$")
_PARTICIPANT = re.compile(r"\bparticipant\s+(\w+)", re.I)


@dataclass(frozen=True)
class MetaRow:
    """One row: the file as the table names it, and what it says. ``keys`` are names of its recordings.

    ``other_split`` is what it calls its side where that is neither dev nor eval.
    """

    file: PurePosixPath
    cls: str | None
    split: str | None
    keys: frozenset[str]
    caption: str | None
    licence: str | None
    source: str | None
    other_split: str = ""


def recording_keys(row: Mapping[str, str]) -> frozenset[str]:
    """Every name a row gives to the recording(s) that its clip was cut from.

    A freesound id found in a file name, a url or a note is one key, so that the same recording is recognised
    in UrbanSound8K, FSD50K and ESC. "a.wav + b.wav" (a sequence put together from takes) gives a key per
    take, and "participant p05" one per person: numbered coughs of one person come from one session.
    """
    dataset = row.get("original_dataset", "") or row.get("source", "")
    keys: set[str] = set()
    for column in _RECORDING:
        for part in filter(None, (text.strip(" …") for text in row.get(column, "").split(" + "))):
            stem = PurePosixPath(part.replace("\\", "/")).stem
            match = _FREESOUND_FILE.match(stem)
            if match:
                keys.add(f"freesound:{match.group(1) or match.group(2)}")
            elif stem.isdigit() and re.search(r"fsd50k|freesound", dataset, re.I):
                keys.add(f"freesound:{stem}")
            else:
                # a bare name means something only within its data set; a path or a group is a name by itself
                by_itself = "/" in part or column in _RECORDING[:3] or not dataset
                keys.add(part if by_itself else f"{dataset}:{part}")
    for column in _TELLING:
        text = row.get(column, "")
        keys.update(f"freesound:{next(filter(None, found))}" for found in _FREESOUND.findall(text))
        keys.update(f"participant:{dataset}:{who}" for who in _PARTICIPANT.findall(text))
    return frozenset(keys)


def read_meta(path: Path) -> list[MetaRow]:
    """Read one meta file.

    Raises:
        InputError: not a readable table, or without a column that names the files.
    """
    try:
        text, delimiter = table_text(path)
        table = pd.read_csv(io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable csv table ({first})") from error
    table.columns = [named_column(str(name)) for name in table.columns]
    named = {field: [c for c in columns if c in table.columns] for field, columns in _COLUMNS.items()}
    if not named["file"]:
        raise InputError(f"{path}: no column names the files; one of {', '.join(_COLUMNS['file'])} is needed")
    split = META_NAMES.get(path.name.lower())
    return [_meta_row(row, named, split) for row in table.to_dict("records") if row[named["file"][0]]]


def _meta_row(row: Mapping[str, str], named: Mapping[str, list[str]], split: str | None) -> MetaRow:
    row = {key: value if isinstance(value, str) else "" for key, value in row.items()}
    said = {
        field: next((row[c].strip() for c in columns if row[c]), None) for field, columns in named.items()
    }
    try:
        cls = canonical_class(said["cls"]) if said["cls"] else None
    except ValueError:
        cls = None
    said_split = (said["split"] or "").lower()
    return MetaRow(
        file=PurePosixPath((said["file"] or "").replace("\\", "/")),
        cls=cls,
        split=split or SPLITS.get(said_split),
        keys=recording_keys(row),
        caption=" ".join(said["caption"].split())
        if said["caption"]
        else None,  # a quoted field may have lines
        licence=said["licence"],
        source=said["source"],
        other_split="" if split or said_split in SPLITS else said_split,
    )


def join_recordings(keys: Mapping[Path, Iterable[str]]) -> dict[Path, str]:
    """Name one recording per file so that files sharing any key share the name (connected components).

    Files without a key are left out: each is a recording of its own.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for names in keys.values():
        first, *others = sorted(names) or [None]
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {path: root(min(names)) for path, names in keys.items() if names}
