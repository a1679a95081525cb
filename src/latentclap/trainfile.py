"""The configuration file of a training (``python -m latentclap.train CONFIG``), read and checked."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.errors import InputError
from latentclap.files import read_toml
from latentclap.profiles import Profile, convert

if TYPE_CHECKING:
    from latentclap.finetune import FinetuneConfig


@dataclass(frozen=True)
class TrainFile:
    """A configuration file.

    Attributes:
        profile: name or path of a profile.
        cache: folder of a finished cache.
        folder: run folder.
        part: "finetune" or "latent_clap".
        changes: what differs from the profile's section of that name.
    """

    profile: str
    cache: Path
    folder: Path
    part: str = "finetune"
    changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TrainFile:
        """Read a TOML file.

        Raises:
            InputError: no such file, not TOML, or a key that is missing, unknown or of another type.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such configuration; python -m latentclap.train --help shows one")
        tree = read_toml(path)
        part = tree.get("part", "finetune")
        if part not in ("finetune", "latent_clap"):
            raise InputError(f"{path}: part={part!r}: it is finetune or latent_clap")
        changes = tree.pop(part, {})
        unknown = sorted(set(tree) - {"profile", "cache", "folder", "part"})
        if unknown or not isinstance(changes, dict):
            raise InputError(f"{path}: unknown key {(unknown or [part])[0]!r} for part {part}")
        values = {}
        for name in ("profile", "cache", "folder"):
            if name not in tree:
                raise InputError(f"{path}: {name} is missing")
            values[name] = convert(tree[name], str, f"{path}: {name}")
        return cls(values["profile"], Path(values["cache"]), Path(values["folder"]), part, changes)


def finetune_config(profile: Profile, changes: dict[str, Any]) -> FinetuneConfig:
    """The profile's fine-tuning with some values changed, names and types checked."""
    from latentclap.finetune import FinetuneConfig

    hints = typing.get_type_hints(FinetuneConfig)
    unknown = sorted(set(changes) - set(hints))
    if unknown:
        raise InputError(f"[finetune]: unknown key {unknown[0]!r}; it knows {', '.join(hints)}")
    values = {k: convert(v, hints[k], f"[finetune] {k}") for k, v in changes.items()}
    return FinetuneConfig.of(profile.finetune, **values)
