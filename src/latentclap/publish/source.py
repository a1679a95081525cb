"""What is to be published: a run's system, a system by itself, or a file of LoRA adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentclap.checkpoints import SYSTEM_PARTS
from latentclap.errors import InputError

#: what fine-tuning leaves beside a system: of ``latentclap finetune``, of ``latentclap.train``, of notebook 03
FINETUNE, TRAIN, NOTEBOOK = "finetune.json", "summary.json", "provenance.json"
#: ``lora.ADAPTER``, without importing torch
ADAPTER = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Source:
    """What is to be published.

    Attributes:
        place: the system's folder, or the file of adapters.
        run: the folder with the records of its training; None where there is none.
    """

    place: Path
    run: Path | None

    @property
    def adapters(self) -> bool:
        """Whether these are LoRA adapters and no whole system."""
        return self.place.is_file()


def find_source(given: Path) -> Source:
    """Find out what a folder or file is.

    Of a run of adapters that also holds them merged, as a system, the system is meant; the file itself means the
    adapters.

    Raises:
        InputError: there is nothing, or nothing that can be published.
    """
    if given.is_file():
        if given.suffix != ".safetensors":
            raise InputError(
                f"{given}: give a folder, or a .safetensors file of LoRA adapters; files that run code when they are"
                " opened are not published"
            )
        return Source(given, _run(given.parent))
    if not given.is_dir():
        raise InputError(f"{given}: no such folder")
    if any((given / part).is_dir() for part in SYSTEM_PARTS):
        above = given.resolve().parent if given.resolve().name == "system" else given
        return Source(given, _run(given) or _run(above))
    if (given / "system").is_dir():
        return Source(given / "system", _run(given))
    if (given / ADAPTER).is_file():
        return Source(given / ADAPTER, _run(given))
    raise InputError(f"{given}: {_nothing(given)}")


def _run(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in (FINETUNE, TRAIN, NOTEBOOK)) else None


def _nothing(folder: Path) -> str:
    """Why there is nothing to publish, and what would make it."""
    if (folder / FINETUNE).is_file():
        return "its fine-tuning is not finished: the same latentclap finetune goes on"
    if (folder / NOTEBOOK).is_file():
        return "the notebook saved no system: run it again with -p save_system True"
    return f"no system (unet/, vae/, ...), no run with a system/ in it, and no {ADAPTER} there"
