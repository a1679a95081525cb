"""The file in which adapters travel: diffusers' own format, with a note of ours in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentclap.errors import InputError
from latentclap.files import atomic_path
from latentclap.lora.layers import TARGETS, base_digest

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


#: the name that diffusers looks for in a folder
ADAPTER = "pytorch_lora_weights.safetensors"
#: keys of the file's header: diffusers' own, and ours
_CONFIG, _ABOUT = "lora_adapter_metadata", "latentclap"


def save_adapter(
    path: str | Path, adapters: Mapping[str, Tensor], base: FoleySystem, tuning: nn.Module | None = None
) -> None:
    """Write an adapter file, whole or not at all.

    diffusers opens it, or its folder, by ``pipe.unet.load_lora_adapter(path, prefix="unet", use_safetensors=True)``;
    it takes no notice of a tuning layer.

    Args:
        path: :data:`ADAPTER` in a folder is what diffusers looks for.
        adapters: of :func:`take_adapters`.
        base: the system that they were trained on, as it was.
        tuning: the tuning layer that was trained along.
    """
    rank = _rank(adapters)
    config = {"r": rank, "lora_alpha": rank, "target_modules": list(TARGETS)}
    place = Path(base.name)
    # a place on this machine says nothing elsewhere
    name = Path(os.path.abspath(place)).name if place.is_absolute() or place.exists() else base.name
    about = {"rank": rank, "alpha": rank, "base": name, "base_digest": base_digest(base)}
    header = {
        "format": "pt",
        _CONFIG: json.dumps({f"unet.{k}": v for k, v in config.items()}),
        _ABOUT: json.dumps(about | {"tuning": tuning is not None}),
    }
    tensors = {f"unet.{k}": v for k, v in adapters.items()}
    if tuning is not None:
        tensors |= {
            f"tuning.{k}": v.detach().float().cpu().contiguous() for k, v in tuning.state_dict().items()
        }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _rank(adapters: Mapping[str, Tensor]) -> int:
    """The rank of the first of them: all that we make have one."""
    return next(len(v) for k, v in adapters.items() if k.endswith(".lora_A.weight"))


def adapter_file(path: str | Path) -> Path:
    """The adapter file that a file or folder names.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    file = path / ADAPTER if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {ADAPTER} there" if path.is_dir() else f"{path}: no such adapter file")
    return file


def read_header(path: Path, start: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """peft's configuration of the modules named so, and our note; what others wrote there is not trusted.

    Args:
        path: an adapter file.
        start: of the modules' names, in the header as in the names of the tensors.

    Raises:
        InputError: the header is damaged.
    """
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
        config, about = (json.loads(header.get(key, "{}")) for key in (_CONFIG, _ABOUT))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); copy or download it again") from None
    if not (isinstance(config, dict) and isinstance(about, dict)):
        raise InputError(f"{path}: damaged (its header holds no tables); copy or download it again")
    config = {k.removeprefix(start): v for k, v in config.items() if k.startswith(start)}
    about |= {key: one_line(about[key]) for key in ("base", "base_digest") if key in about}
    return config or None, about


def one_line(value: object, most: int = 100) -> str:
    """A file's text for a message: one line, not long, and nothing that a terminal obeys."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."
