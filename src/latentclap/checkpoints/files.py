"""The files of a checkpoint's part, and whether they are whole: only headers are read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_json

#: endings of files that hold weights
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: Entries of a state dict that are no parameters: statistics, index tables, a vocoder's normalisation.
BUFFERS = frozenset(
    {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "position_ids",
        "token_type_ids",
        "relative_position_index",
        "mean",
        "scale",
    }
)
#: Those of them that a module computes when it is built: nothing is lost where a file lacks them.
COMPUTED = frozenset({"num_batches_tracked", "position_ids", "token_type_ids", "relative_position_index"})


def check_files(folder: Path) -> None:
    """Look at every safetensors and JSON file of a folder.

    Raises:
        InputError: one is damaged; the message names it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            header(path)
        elif path.name.endswith("config.json"):
            json_or_nothing(path)
        elif path.suffix == ".json":
            read_json(path)


def weight_files(folder: Path) -> list[Path]:
    """One set of weights: safetensors where there are any, since checkpoints often hold them twice."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS]
    return [p for p in files if p.suffix == ".safetensors"] or files


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a safetensors file: name -> dtype and shape, from its first bytes only.

    Raises:
        InputError: it is missing, no safetensors file, or cut short.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            told = _tensors(json.loads(stream.read(length)))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the checkpoint is not complete") from None
    except (struct.error, ValueError) as error:
        raise InputError(
            f"{path}: not a safetensors file, or a damaged one ({error}); copy or download it again"
        ) from None
    ends = [tensor["data_offsets"][1] for tensor in told.values()]
    if path.stat().st_size < 8 + length + max(ends, default=0):
        raise InputError(f"{path}: cut short; copy or download it again")
    return told


def _tensors(told: Any) -> dict[str, dict[str, Any]]:
    """The tensors of a header, each with dtype, shape and its place; a ValueError where it is no such thing."""
    try:
        tensors = {name: tensor for name, tensor in told.items() if name != "__metadata__"}
        for tensor in tensors.values():
            start, end = tensor["data_offsets"]
            numbers = [start, end, *tensor["shape"]]
            if not isinstance(tensor["dtype"], str) or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ValueError("the header does not list tensors with dtype, shape and data_offsets") from None
    return tensors


def json_or_nothing(path: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is no such file.

    Raises:
        InputError: it is not JSON, or no object.
    """
    told = read_json(path) if path.is_file() else {}
    if not isinstance(told, dict):
        raise InputError(
            f"{path}: a JSON object is needed, this is {str(told)[:40]}; copy or download it again"
        )
    return told


def is_computed(name: str, module: Any) -> bool:
    """Whether a module has the right value for an entry of its state where no file holds it."""
    if name in ("mean", "scale"):
        # of a vocoder: only one that normalises its mels reads them
        return not getattr(getattr(module, "config", None), "normalize_before", True)
    return name.rpartition(".")[2] in COMPUTED
