"""The cache on disk: safetensors shards, an entry of the journal beside each, and a manifest over all.

A shard is complete when its entry is there and its size is what the entry says: the entry is written last. Nothing
else is kept about progress, so that a killed call is gone on with by the same command, by any number of processes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from latentclap.errors import InputError
from latentclap.files import atomic_path, file_sha256, read_json, write_json, write_text

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
        source: what the shard was made of, see ``parts.Part.identity``.
    """
    path = folder / f"{name}.safetensors"
    sweep(path)
    size, digest, shapes = 0, "", {}
    if keys:
        shapes = {k: [str(v.dtype).removeprefix("torch."), *v.shape[1:]] for k, v in tensors.items()}
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        size, digest = path.stat().st_size, file_sha256(path)
    entry = {
        "clips": len(keys),
        "bytes": size,
        "sha256": digest,
        "tensors": shapes,
        "source": source or {},
        "problems": [list(problem) for problem in problems],
        "keys": list(keys),
        "captions": list(captions),
    }
    write_json(entry_path(folder, name), entry)
    return entry


def entry_path(folder: Path, name: str) -> Path:
    """Where a shard's entry in the journal lies."""
    return folder / f"{name}.entry.json"


def sweep(path: Path) -> None:
    """Remove what a killed call left beside a shard that is about to be written (see ``files.atomic_path``)."""
    ours = re.compile(rf"\.{re.escape(path.stem)}(\.entry)?-[a-z0-9_]{{8}}\.(safetensors|json)")
    for leftover in path.parent.glob(".*"):
        if ours.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def entry_of(folder: Path, name: str, source: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The entry of a complete shard; None where it is to be made (anew): absent, cut, or of another source."""
    path = folder / f"{name}.safetensors"
    try:
        entry = read_json(entry_path(folder, name))
        complete = not entry["clips"] or path.stat().st_size == entry["bytes"]
        return entry if complete and source in (None, entry["source"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settle(folder: Path, settings: dict[str, Any]) -> None:
    """Note what a cache is made with, or check that it is made with the same.

    Raises:
        InputError: the folder holds a cache made with something else.
    """
    path = folder / SETTINGS
    if not path.is_file():
        write_json(path, settings)
        return
    theirs = read_json(path)
    differing = [k for k, v in settings.items() if k != "system" and theirs.get(k) != v]
    if differing:
        raise InputError(
            f"{folder} holds a cache of another system ({', '.join(differing)} differ; it is of"
            f" {theirs.get('system')}): use another folder"
        )


def write_manifest(folder: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Write manifest.json and problems.csv once every named shard is complete; None while one is not.

    What it says depends on the shards alone: several processes may come to write it, all the same.
    """
    shards, problems, tensors = [], [], {}
    for name in names:
        entry = entry_of(folder, name)
        if entry is None:
            return None
        shards.append({"name": name, **{k: entry[k] for k in ("clips", "bytes", "sha256")}})
        problems += [(name, *problem) for problem in entry["problems"]]
        tensors = tensors or entry["tensors"]
        if entry["clips"] and entry["tensors"] != tensors:
            raise InputError(f"{folder / name}: its tensors are of other shapes than the first shard's")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("shard", "clip", "reason"), *problems])
    write_text(folder / PROBLEMS, text.getvalue())
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
