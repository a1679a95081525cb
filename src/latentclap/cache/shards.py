"""The cache on disk: safetensors shards, an entry of the journal beside each, and a manifest over all.

A shard is complete when its entry is there and its size is what the entry says: the entry is written last. Nothing
else is kept about progress, so that a killed call is gone on with by the same command, by any number of processes.
A shard of a large input is several files, its pieces, which its entry names; the manifest lists them one by one.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from latentclap.errors import InputError
from latentclap.files import atomic_path, file_sha256, read_json, write_json, write_text
from latentclap.tables import csv_text

MANIFEST, SETTINGS, PROBLEMS = "manifest.json", "cache.json", "problems.csv"


def write_shard(
    folder: Path,
    name: str,
    tensors: dict[str, Tensor],
    *,
    keys: Sequence[str],
    captions: Sequence[str] = (),
    problems: Sequence[tuple[str, str]] = (),
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a shard and its entry in the journal, each whole or not at all; return the entry.

    Args:
        folder: the cache.
        name: the shard's name below it, without suffix.
        tensors: name -> (n, ...); empty where no clip could be used.
        keys: n names of clips.
        captions: n captions, or none.
        problems: (key, reason) of clips that could not be used.
        source: what the shard was made of, see ``parts.Part.source``.
    """
    clear(folder, name)
    pieces = [write_piece(folder, name, tensors)] if keys else []
    return write_entry(
        folder, name, pieces, keys=keys, captions=captions, problems=problems, source=source or {}
    )


def clear(folder: Path, name: str) -> None:
    """Remove a shard that is to be made (again): its entry first, then its files, and what a killed call left."""
    entry_path(folder, name).unlink(missing_ok=True)
    path = folder / f"{name}.safetensors"
    ours = re.compile(rf"{re.escape(path.stem)}(\.piece\d+)?\.safetensors")
    for file in list(path.parent.glob("*.safetensors")):
        if ours.fullmatch(file.name):
            file.unlink(missing_ok=True)
    sweep(path)


def piece_name(name: str, number: int) -> str:
    """What piece ``number`` of a shard of several is called."""
    return f"{name}.piece{number:03d}"


def write_piece(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write tensors, name -> (n, ...), into a file of their own; return what an entry says of it.

    Raises:
        InputError: it cannot be written, most often since the disk is full.
    """
    path = folder / f"{name}.safetensors"
    shapes = {k: [str(v.dtype).removeprefix("torch."), *v.shape[1:]] for k, v in tensors.items()}
    clips = len(next(iter(tensors.values())))
    with atomic_path(path) as temporary:
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be written ({reason}); the same command goes on") from None
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
    return {
        "name": name,
        "clips": clips,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "tensors": shapes,
    }


def write_entry(
    folder: Path,
    name: str,
    pieces: Sequence[Mapping[str, Any]],
    *,
    keys: Sequence[str],
    captions: Sequence[str],
    problems: Sequence[tuple[str, str]],
    source: Mapping[str, Any],
    starts: Sequence[float] = (),
    retry: bool = False,
) -> dict[str, Any]:
    """Write a shard's entry in the journal, which makes it complete; return it.

    Args:
        folder: the cache.
        name: the shard's name.
        pieces: what :func:`write_piece` returned, in order; none where no clip could be used.
        keys: of all clips of all pieces.
        captions: of all clips.
        problems: (key, reason) of clips that could not be used.
        source: what the shard was made of.
        starts: where each clip begins in its sound (seconds), or none.
        retry: whether a problem may be gone the next time, so that the shard is to be made again.
    """
    sums = [piece["sha256"] for piece in pieces]
    entry: dict[str, Any] = {
        "clips": len(keys),
        "bytes": sum(piece["bytes"] for piece in pieces),
        "sha256": sums[0] if len(sums) == 1 else "",
        "tensors": pieces[0]["tensors"] if pieces else {},
        "source": dict(source),
        "problems": [list(problem) for problem in problems],
        "keys": list(keys),
        "captions": list(captions),
        "starts": list(starts),
    }
    if retry:
        entry["retry"] = True
    if len(pieces) > 1:
        entry["pieces"] = [{k: piece[k] for k in ("name", "clips", "bytes", "sha256")} for piece in pieces]
    write_json(entry_path(folder, name), entry)
    return entry


def pieces_of(name: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, clips, bytes and sha256 of a shard's files: most shards are one."""
    whole = {"name": name, **{k: entry[k] for k in ("clips", "bytes", "sha256")}}
    return entry.get("pieces") or ([whole] if entry["clips"] else [])


def entry_path(folder: Path, name: str) -> Path:
    """Where a shard's entry in the journal lies."""
    return folder / f"{name}.entry.json"


def sweep(path: Path) -> None:
    """Remove what a killed call left beside a file and its entry that are about to be written.

    Temporary names are those of ``files.atomic_path``.
    """
    ours = re.compile(
        rf"\.{re.escape(path.stem)}(\.entry|\.piece\d+)?-[a-z0-9_]{{8}}({re.escape(path.suffix)}|\.json)"
    )
    for leftover in path.parent.glob(".*"):
        if ours.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def entry_of(
    folder: Path, name: str, fits: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Any] | None:
    """The entry of a complete shard; None where it is to be made (anew): absent, cut, or of another source.

    Args:
        folder: the cache.
        name: the shard's name.
        fits: says of an entry whether it is of the source as it is now; None does not ask.
    """
    try:
        entry = read_json(entry_path(folder, name))
        complete = all(
            (folder / f"{piece['name']}.safetensors").stat().st_size == piece["bytes"]
            for piece in pieces_of(name, entry)
        )
        complete = complete and {"tensors", "source", "problems", "keys", "captions"} <= entry.keys()
        return entry if complete and (fits is None or fits(entry)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def settle(
    folder: Path, settings: dict[str, Any], earlier: Callable[[], dict[str, Any]] | None = None
) -> None:
    """Note what a cache is made with, or check that it is made with the same.

    Args:
        folder: the cache.
        settings: what it is made with.
        earlier: gives the same as an earlier version would have noted it; a cache with that is taken over, with a
            warning.

    Raises:
        InputError: the folder holds a cache made with something else, or what is no settings.
    """
    path = folder / SETTINGS
    if not path.is_file():
        write_json(path, settings)
        return
    theirs = read_json(path)
    if not isinstance(theirs, dict) or "system" not in theirs:
        raise InputError(f"{path} is not what a cache was made with: copy it again, or use another folder")
    differing = [k for k, v in settings.items() if k != "system" and theirs.get(k) != v]
    old = differing and earlier and "crops" not in theirs
    if old and all(theirs.get(k) == v for k, v in earlier().items() if k != "system"):
        warnings.warn(
            f"{folder} is of an earlier version, which did not note the tokenizer: taken as this system's",
            stacklevel=2,
        )
        write_json(path, settings)
        return
    if differing:
        what = "with other crops" if set(differing) <= {"crops", "crop"} else "of another system"
        raise InputError(
            f"{folder} holds a cache {what} ({', '.join(differing)} differ; it is of {theirs.get('system')}):"
            " use another folder"
        )


def write_manifest(
    folder: Path, names: Sequence[str], fits: Sequence[Callable[[dict[str, Any]], bool]] | None = None
) -> dict[str, Any] | None:
    """Write manifest.json and problems.csv once every named shard is complete; None while one is not.

    What it says depends on the shards alone: several processes may come to write it, all the same.

    Args:
        folder: the cache.
        names: all shards.
        fits: for each, what says whether it is of the source as it is now, see :func:`entry_of`.
    """
    shards, problems, tensors = [], [], {}
    for number, name in enumerate(names):
        entry = entry_of(folder, name, fits[number] if fits else None)
        if entry is None:
            return None
        # a shard without a clip stays in the list, one of several pieces is several to a reader
        shards += pieces_of(name, entry) or [{"name": name, "clips": 0, "bytes": 0, "sha256": ""}]
        problems += [(name, *problem) for problem in entry["problems"]]
        tensors = tensors or entry["tensors"]
        if entry["clips"] and entry["tensors"] != tensors:
            raise InputError(f"{folder / name}: its tensors are of other shapes than the first shard's")
    write_text(folder / PROBLEMS, csv_text([("shard", "clip", "reason"), *problems]))
    digest = hashlib.sha256("\n".join(s["sha256"] for s in shards).encode()).hexdigest()
    manifest = {
        **(read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}),
        "clips": sum(s["clips"] for s in shards),
        "problems": len(problems),
        "bytes": sum(s["bytes"] for s in shards),
        "digest": digest,
        "tensors": tensors,
        "shards": shards,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
