"""Which files a checkpoint's name means."""

from __future__ import annotations

from pathlib import Path

from latentclap.checkpoints import resolve
from latentclap.errors import InputError
from latentclap.files import ORIGINAL, below

#: of a checkpoint's folder, what tells about it and changes nothing
ABOUT = frozenset({"model_card.json", "quality.json", "samplers.json"})


def checkpoint_files(name_or_path: str | Path) -> list[Path]:
    """The files that decide what a checkpoint does: an original file itself, or a folder's weights and settings.

    Raises:
        InputError: there is no such checkpoint.
    """
    if is_original(name_or_path):
        if not Path(name_or_path).is_file():
            raise InputError(f"{name_or_path}: no such checkpoint file")
        return [Path(name_or_path)]
    files = below(resolve(name_or_path), (".safetensors", ".bin", ".json"))
    return [path for path in files if path.name not in ABOUT]


def is_original(name_or_path: str | Path) -> bool:
    """Whether this names a file in the format of the original code (.ckpt, .pt, .pth)."""
    return Path(name_or_path).suffix in ORIGINAL and not Path(name_or_path).is_dir()


def tokenizer_beside(path: Path) -> Path | str:
    """RoBERTa's tokenizer, which no original file holds: beside it by itself or in its hub folder, else the hub's."""
    beside = [path.parent / "roberta-base", path.with_suffix("") / "tokenizer"]
    return next((folder for folder in beside if folder.is_dir()), "roberta-base")
