"""Sound files with captions on a disk: the layouts that are known, and which of them a folder has."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentclap.audio import FORMATS
from latentclap.cache import folders, metadata
from latentclap.cache.exclude import EXCLUDED
from latentclap.cache.items import (
    NO_SOUND,
    Item,
    caption_of,
    captioned,
    items_beside,
    key_of,
    sounds,
    texts_beside,
)
from latentclap.classes import prompt
from latentclap.data import load_dataset
from latentclap.errors import InputError
from latentclap.files import below, plain, read_json
from latentclap.scan.layout import find, packed

#: WavCaps' folder of captions (facts F)
WAVCAPS = "json_files"
#: layout -> where its captions are from, in words
LAYOUTS = {
    "wavcaps": f"of WavCaps' tables ({WAVCAPS}/)",
    "metadata": "from the folder's table of captions (metadata)",
    "classes": "by the paper's prompt for each class folder",
    "captions": "from files beside the sounds",
    "folders": "from folder names",
}
#: kind of the scan's problem with a folder that is no class
WRONG_CLASS = "wrong class name"
#: letters of a caption that is shown as an example
SHOWN = 100
#: errors of the system that stay until the input changes, which is noticed by itself
LASTING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})


def passing(error: Exception) -> bool:
    """Whether it is the system that failed, which it may not the next time: a disk, a network, permissions."""
    return isinstance(error, OSError) and error.errno not in LASTING


def list_clips(
    folder: str | Path, *, side: str = "dev", exclude: Container[str] = ()
) -> tuple[str, list[Item]]:
    """List a folder's clips in a fixed order, with their captions.

    Five layouts are known; of those that fit, the first is taken.

    - ``wavcaps``: ``json_files/<source>/*.json`` with sounds named by their ids anywhere else; an id that stands in
      several tables of a source is taken once, from the first.
    - ``metadata``: a table of captions in the folder (``metadata.csv``, ``.tsv`` or ``.jsonl``), see the module
      ``metadata``. It comes before ``classes``, since somebody wrote it for these sounds; but it is passed over in
      a set of classes with sides (dev/ and eval/, or a column ``split``), of which evaluation clips must stay out.
    - ``classes``: DCASE Task 7 (see ``data.load_dataset``), of which one side is taken, captioned by the paper's
      prompts.
    - ``captions``: any sound files, each with its caption in a .txt or .json of the same name.
    - ``folders``: sounds in folders, without captions: the innermost folder that says what is heard gives it, see
      ``folders.caption_for``. So are class folders with others beside them: clips of the classes are what they are
      in ``classes``, those of the other folders are added. dev/ and eval/ are sides here, too.

    Links to folders are followed, and hidden folders are not looked into.

    Args:
        folder: the folder.
        side: of a folder in DCASE layout, or with dev/ and eval/ in it: "dev", "eval" or "all".
        exclude: keys of clips that are not to be used, see ``exclude.read_exclusion``.

    Returns:
        The layout's name and the clips; those without file or caption, and excluded ones, have ``problem`` set.

    Raises:
        InputError: no such folder, no clip in it, not one sound, or nothing that says what is heard in them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; give a folder")
    if (folder / WAVCAPS).is_dir():
        name, items = "wavcaps", list(_wavcaps(folder))
    elif table := _table(folder):
        name, items = "metadata", metadata.items_of(table)
    elif find(folder)[2]:
        name, items = _with_classes(folder, side)
    else:
        name, items = _without_classes(folder, side)
    if not items:
        archives = packed(below(folder))
        what = f"and no WavCaps captions ({WAVCAPS}/)"
        if archives:
            what = f"but {archives}: unpack them there; of shards, cache_latents.py reads plain .tar files"
        raise InputError(f"{folder}: no sound file in it ({', '.join(FORMATS)}), {what}")
    if name == "wavcaps" and all(item.problem == NO_SOUND for item in items):
        raise InputError(
            f"{folder}: not one of the {len(items)} clips of {WAVCAPS}/ has its sound there (<id>.flac in a folder"
            " named like the source): unpack the sounds first, see data_scripts/get.py"
        )
    # an excluded clip keeps its place: the shards of all others stay what they are
    return name, [replace(item, problem=EXCLUDED) if item.key in exclude else item for item in items]


def described(name: str, items: Sequence[Item]) -> str:
    """One line on the captions of a folder's clips, with examples, so that wrong ones are noticed before training.

    Args:
        name: of the layout, from ``list_clips``.
        items: its clips.
    """
    told = [item.caption for item in items if not item.problem]
    if not told:
        return f"no captions {LAYOUTS[name]}"
    kinds = list(dict.fromkeys(told))
    shown = [kinds[0]] if len(kinds) == 1 else [kinds[0], kinds[len(kinds) // 2]]
    few = f" ({len(kinds)} different)" if len(kinds) < len(told) else ""
    such = " and ".join(
        f'"{text if len(text) <= SHOWN else text[:SHOWN].rstrip() + "..."}"' for text in shown
    )
    return f"{len(told)} caption{'s' * (len(told) > 1)} {LAYOUTS[name]}{few}, such as {such}"


def _table(folder: Path) -> Path | None:
    """The folder's table of captions; None where there is none, or where other things say what is heard."""
    tables = metadata.tables_in(folder)
    if not tables:
        return None
    table = tables[0]
    found, _, seen = find(folder)
    try:
        fault = metadata.unfit(table)
    except InputError as error:
        fault = str(error)
    if seen:  # DCASE's own tables may be called metadata.csv; they tell recordings and sides
        if not fault and (any(f.split for f in found) or "split" in metadata.columns_of(table)):
            warnings.warn(
                f"{table}: not read for captions, since this is a set of classes with sides, whose evaluation clips"
                " would come in with it; to use it, move it with its sounds into a folder of their own",
                stacklevel=3,
            )
            return None
        if fault:
            return None
    elif fault and any(texts_beside(path) for path in sounds(folder)):
        warnings.warn(f"{fault}; captions beside the sounds are taken", stacklevel=3)
        return None
    if fault:
        raise InputError(fault)
    if len(tables) > 1:
        names = " and ".join(path.name for path in tables)
        raise InputError(f"{folder}: {names} are both tables of captions; keep one")
    return table


def _with_classes(folder: Path, side: str) -> tuple[str, list[Item]]:
    """A DCASE set; where folders with sounds are none of its classes, they are added to it."""
    there = sounds(folder)
    others = [
        path
        for path in there
        if len((place := path.relative_to(folder)).parts) > 1 and not folders.in_class(place)
    ]
    # what lies in dev/ or eval/ itself is in no folder that could name it
    others = [path for path in others if folders.caption_for(path.relative_to(folder)) or texts_beside(path)]
    if not others:
        return "classes", _classes(folder, side)
    names = sorted({plain(folders.first(path.relative_to(folder))) for path in others})
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    warnings.warn(
        f"{folder}: {few}: none of DCASE's seven classes; captions of their {len(others)} sounds are beside them or"
        f" from folder names, and of the classes the side {side} is taken (--side all: every clip)",
        stacklevel=3,
    )
    classed = (
        _classes(folder, side, others=True)
        if any(folders.in_class(p.relative_to(folder)) for p in there)
        else []
    )
    return "folders", [*classed, *_named(_on_side(others, folder, side), folder)[1]]


def _without_classes(folder: Path, side: str) -> tuple[str, list[Item]]:
    there = sounds(folder)
    name, items = _named(there, folder)
    if name == "captions" or not there:
        return name, items
    tables = [path for path in below(folder) if path.name.lower() in metadata.NAMES and path.is_file()]
    if tables:
        raise InputError(f"{tables[0]}: a table of captions; give its own folder, {tables[0].parent}")
    if all(item.problem for item in items):
        raise InputError(
            f"{folder}: {len(there)} sound{'s' * (len(there) > 1)} and no caption: add metadata.csv with"
            f" {metadata.FORM}, or a .txt of the same name beside each sound, or sort the sounds into folders named"
            " by what is heard"
        )
    kept = _on_side(there, folder, side)
    if not kept:
        raise InputError(f"{folder}: no sound on the side {side}; its sides are the folders dev and eval")
    return _named(kept, folder)


def _named(paths: Sequence[Path], folder: Path) -> tuple[str, list[Item]]:
    """Sounds with captions beside them or, where not one has, by their folders."""
    if any(texts_beside(path) for path in paths) or not paths:
        return "captions", list(items_beside(paths, folder))
    return "folders", folders.items_by_folder(paths, folder)


def _on_side(paths: Sequence[Path], folder: Path, side: str) -> list[Path]:
    """Sounds of the side, where there are sides."""
    sides = folders.wanted(side)
    return [path for path in paths if folders.side_of(path.relative_to(folder)) in sides]


def _classes(folder: Path, side: str, *, others: bool = False) -> list[Item]:
    """A DCASE set's clips of a side; with ``others``, folders that are none of its classes are no problem."""
    sides = folders.wanted(side)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset = load_dataset(folder)
    for warning in said:
        text = str(warning.message)
        if others and WRONG_CLASS in text:  # which are used here: the line is about what else there is
            rest = tuple(p for p in dataset.report.problems if p.kind not in (WRONG_CLASS, "missing class"))
            text = replace(dataset.report, problems=rest).one_line() if rest else ""
        if text:
            warnings.warn(text, warning.category, stacklevel=4)
    for problem in dataset.report.problems:
        # a bad file is one clip less; of what such a folder holds nothing would be known, now or the next time
        if problem.kind == "unreadable" and problem.path.is_dir():
            raise InputError(f"{problem.path}: {problem.detail}; allow it, or move the folder away")
    clips = [clip for name in sides for clip in dataset.split(name)]
    return [
        Item(key_of(c.path, dataset.folder), prompt(c.cls), c.path, suffix=c.path.suffix.lower())
        for c in clips
    ]


def _wavcaps(folder: Path) -> Iterator[Item]:
    """Entries of the JSON files in order, each with its sound: <id>.flac, in AudioSet's part without .wav."""
    # the archives hold folders of the machine they were packed on: any folder named like the source will do
    files = {
        (part.removesuffix("_flac"), path.stem): path
        for path in sounds(folder)
        for part in path.relative_to(folder).parts[:-1]
    }
    seen: set[tuple[str, str]] = set()
    again = 0
    for table in below(folder / WAVCAPS, (".json",)):
        source = table.parent.name
        if source == "blacklist":
            continue
        for entry in _entries(table):
            # half a surrogate pair is valid in JSON, and no name that could be written
            name = str(entry["id"]).encode("utf-8", "backslashreplace").decode("utf-8")
            name = name.removesuffix(".wav").removesuffix(".flac")
            # FreeSound has two tables that overlap, fsd_final.json and fsd_final_2s.json
            if (source, name) in seen:
                again += 1
                continue
            seen.add((source, name))
            key = f"{source}/{name}".replace(".", "_")
            path = files.get((source, name))
            if path is None:
                yield Item(key, problem=NO_SOUND)
            else:
                yield captioned(Item(key, path=path, suffix=path.suffix.lower()), caption_of(entry))
    if again:
        warnings.warn(
            f"{folder}: {again} entries of {WAVCAPS}/ repeat an id of their source; its first entry counts",
            stacklevel=2,
        )


def _entries(table: Path) -> list[dict[str, Any]]:
    try:
        data = read_json(table)
        entries = data["data"] if isinstance(data, dict) else data
        if all(isinstance(entry, dict) and "id" in entry for entry in entries):
            return entries
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f'{table}: not in WavCaps\' form, {{"data": [{{"id": ..., "caption": ...}}, ...]}}')
