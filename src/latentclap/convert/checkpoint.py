"""Reading a checkpoint of the original code without running anything that it holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentclap.errors import InputError


class Inert:
    """Stands in for every class that a checkpoint names beside torch's own: it takes anything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Accept any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class Checkpoint:
    """A state dict from a file.

    Attributes:
        path: the file.
        state: name -> tensor, without a leading "module.".
        inert: classes that the file names beside torch's, none of which was imported.
    """

    path: Path
    state: dict[str, Tensor]
    inert: list[str]

    @property
    def kind(self) -> str:
        """ "audioldm" or "clap".

        Raises:
            InputError: it is neither.
        """
        if any(name.startswith("model.diffusion_model.") for name in self.state):
            return "audioldm"
        if any(name.startswith(("audio_branch.", "text_branch.")) for name in self.state):
            return "clap"
        first = ", ".join(list(self.state)[:3]) or "nothing"
        raise InputError(
            f"{self.path}: neither an AudioLDM checkpoint (model.diffusion_model.*) nor a LAION-CLAP one "
            f"(audio_branch.*, text_branch.*); it holds {first}"
        )

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The entries below a prefix, without it."""
        return {name[len(prefix) :]: t for name, t in self.state.items() if name.startswith(prefix)}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the state dict of a .ckpt or .pt file, mapped into memory, with ``weights_only=True``.

    Lightning's and LAION's files also hold callbacks, optimiser states and numpy scalars. Whatever class they
    name is replaced by :class:`Inert`, so that the tensors can be read and none of those classes is run.

    Raises:
        InputError: no such file, not a torch file, or no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    inert = _named_classes(path)
    with _inert(inert):
        content = _load(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path}: no tensors in it, so no state dict")
    return Checkpoint(path, {name.removeprefix("module."): value for name, value in tensors.items()}, inert)


def _named_classes(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (
        Exception
    ):  # torch's older file format cannot be looked into: what it names is refused by torch.load
        return []


@contextmanager
def _inert(names: list[str]) -> Iterator[None]:
    stands_in = [(type("Inert", (Inert,), {}), name) for name in names]
    with torch.serialization.safe_globals(stands_in):
        yield


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            if "mmap" not in str(error):
                raise _refusal(path, error) from None
        try:  # the older file format cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen types for a file that is not its own
            raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> InputError:
    """One line out of torch's page of advice, which ends in switching the safety off."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named or "Trying to call" in str(error):
        what = named[1] if named else "code"
        return InputError(f"{path}: cannot be read as weights only, it asks for {what} to be run")
    first = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    # an unpickler that meets something else says nothing but a byte's number
    advice = first.startswith("Weights only load failed") or first.isdecimal()
    return InputError(
        f"{path}: cannot be read as weights only ({'not a file of torch' if advice else first})"
    )
