"""What several commands ask for in the same way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import check_system, resolve
from latentclap.errors import InputError
from latentclap.files import ORIGINAL
from latentclap.gpus import use

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: Of a clip's evaluated part, in seconds: of less there may be no sample.
SHORTEST = 0.001


def at_least(*options: tuple[str, float, int]) -> None:
    """Complain of the first option whose value is below what it needs, or is no finite number."""
    for option, value, least in options:
        if not math.isfinite(value):
            raise InputError(f"{option} {value}: give a finite number of at least {least}")
        if value < least:
            raise InputError(f"{option} {value}: at least {least}")


def check_seconds(seconds: float) -> None:
    """Complain of a part of a clip that is none."""
    if not SHORTEST <= seconds < math.inf:
        raise InputError(f"--seconds {seconds:g}: give a time of at least {SHORTEST:g} s")


def load_system(model: str, device: str) -> FoleySystem:
    """A system by its name; what is wrong with that is said before imports that take seconds."""
    if Path(model).suffix not in ORIGINAL:
        check_system(resolve(model))
    import torch

    from latentclap import system
    from latentclap.hush import hush

    hush()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return system.FoleySystem.from_pretrained(model, device=use(device))


def embedding_name(embedding: str, vggish: Path | None, mode: str | None) -> str:
    """Which embedding the options for it mean."""
    if vggish is None:
        if mode or embedding.startswith("vggish"):
            raise InputError("VGGish needs its weights: --vggish FILE (torchvggish's vggish-10086976.pth)")
        return embedding or "mel-statistics"
    name = f"vggish-{mode}" if mode else embedding or "vggish-dcase"
    if not name.startswith("vggish") or (embedding and embedding != name):
        raise InputError(f"--vggish, --mode {mode} and --embedding {embedding} contradict each other")
    return name


def load_embedding(name: str, vggish: Path | None, system: Any) -> Any:
    """An embedding by its name; ``system`` makes or is what CLAP's needs."""
    from latentclap.embeddings import get_embedding

    if vggish is not None:
        return get_embedding(name, weights=vggish)
    if name == "clap":
        return get_embedding(name, system=system() if callable(system) else system)
    return get_embedding(name)
