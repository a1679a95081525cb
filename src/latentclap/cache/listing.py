"""Sound files with captions on a disk: DCASE layout, WavCaps' own layout, or captions beside the sounds."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from latentclap.audio import FORMATS
from latentclap.cache.exclude import EXCLUDED
from latentclap.classes import prompt
from latentclap.data import load_dataset
from latentclap.errors import InputError
from latentclap.files import below, plain, read_json
from latentclap.scan.layout import find, packed

#: WavCaps' folder of captions (facts F)
WAVCAPS = "json_files"
#: the problem of a clip that is listed without its sound
NO_SOUND = "no sound file"
#: errors of the system that stay until the input changes, which is noticed by itself
LASTING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})


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


def passing(error: Exception) -> bool:
    """Whether it is the system that failed, which it may not the next time: a disk, a network, permissions."""
    return isinstance(error, OSError) and error.errno not in LASTING


def list_clips(
    folder: str | Path, *, side: str = "dev", exclude: Container[str] = ()
) -> tuple[str, list[Item]]:
    """List a folder's clips in a fixed order, with their captions.

    Three layouts are known. ``wavcaps``: ``json_files/<source>/*.json`` with sounds named by their ids anywhere
    else; an id that stands in several tables of a source is taken once, from the first. ``classes``: DCASE Task 7
    (see ``data.load_dataset``), of which one side is taken, captioned by the paper's prompts. ``captions``: any sound
    files, each with its caption in a .txt or .json of the same name. Links to folders are followed, and hidden
    folders are not looked into.

    Args:
        folder: the folder.
        side: of a folder in DCASE layout: "dev", "eval" or "all".
        exclude: keys of clips that are not to be used, see ``exclude.read_exclusion``.

    Returns:
        The layout's name and the clips; those without file or caption, and excluded ones, have ``problem`` set.

    Raises:
        InputError: no such folder, no clip in it, or not one sound.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; give a folder")
    if (folder / WAVCAPS).is_dir():
        name, items = "wavcaps", list(_wavcaps(folder))
    elif find(folder)[2]:
        name, items = "classes", _classes(folder, side)
    else:
        name, items = "captions", list(_captioned(folder))
    if not items:
        archives = packed(below(folder))
        what = f"and no WavCaps captions ({WAVCAPS}/)"
        if archives:
            what = f"but {archives}: unpack them there; of shards, cache_latents.py reads plain .tar files"
        raise InputError(f"{folder}: no sound file in it ({', '.join(FORMATS)}), {what}")
    if all(item.problem == NO_SOUND for item in items):
        raise InputError(
            f"{folder}: not one of the {len(items)} clips of {WAVCAPS}/ has its sound there (<id>.flac in a folder"
            " named like the source): unpack the sounds first, see data_scripts/get.py"
        )
    # an excluded clip keeps its place: the shards of all others stay what they are
    return name, [replace(item, problem=EXCLUDED) if item.key in exclude else item for item in items]


def _sounds(folder: Path) -> list[Path]:
    return [path for path in below(folder, FORMATS) if not path.is_dir()]


def _classes(folder: Path, side: str) -> list[Item]:
    sides = {"dev": ("dev",), "eval": ("eval",), "all": ("dev", "eval")}
    if side not in sides:
        raise InputError(f"side {side!r}: it is dev, eval or all")
    dataset = load_dataset(folder)
    for problem in dataset.report.problems:
        # a bad file is one clip less; of what such a folder holds nothing would be known, now or the next time
        if problem.kind == "unreadable" and problem.path.is_dir():
            raise InputError(f"{problem.path}: {problem.detail}; allow it, or move the folder away")
    clips = [clip for name in sides[side] for clip in dataset.split(name)]
    return [
        Item(_key(c.path, dataset.folder), prompt(c.cls), c.path, suffix=c.path.suffix.lower()) for c in clips
    ]


def _captioned(folder: Path) -> Iterator[Item]:
    for path in _sounds(folder):
        item = Item(_key(path, folder), path=path, suffix=path.suffix.lower())
        texts = {s: path.with_suffix(s) for s in (".txt", ".json") if path.with_suffix(s).is_file()}
        told = {s[1:]: file.read_bytes() for s, file in texts.items()}
        yield _with(item, caption_of(told), told)


def _wavcaps(folder: Path) -> Iterator[Item]:
    """Entries of the JSON files in order, each with its sound: <id>.flac, in AudioSet's part without .wav."""
    # the archives hold folders of the machine they were packed on: any folder named like the source will do
    files = {
        (part.removesuffix("_flac"), path.stem): path
        for path in _sounds(folder)
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
                yield _with(Item(key, path=path, suffix=path.suffix.lower()), caption_of(entry))
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


def _with(item: Item, caption: str, told: Mapping[str, Any] | None = None) -> Item:
    return replace(item, caption=caption, problem="" if caption else no_caption(told or {}))


def _key(path: Path, folder: Path) -> str:
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
    return "no caption"


def _parsed(name: str, data: bytes) -> Any:
    try:
        return _read(name, data)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError are
        return ""


def _read(name: str, data: bytes) -> Any:
    return json.loads(data) if name == "json" else data.decode("utf-8-sig")
