"""Where the parts of a system lie while some of them train, and whether a GPU has room for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from latentclap.latent_clap import LatentCLAP
from latentclap.memory import foretold
from latentclap.system import FoleySystem
from latentclap.train import TrainConfig, processes
from latentclap.train.config import resolved


def idle(system: FoleySystem, tuned: FoleySystem) -> list[nn.Module]:
    """The parts that training does not touch."""
    busy = {id(part) for part in (tuned.unet, tuned.tuning)}
    return [part for part in system.parts.values() if id(part) not in busy]


@contextmanager
def aside(modules: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Keep modules that lie on a device in the CPU's memory meanwhile."""
    moved = [m for m in modules if _devices(m) == {device}]
    for module in moved:
        module.to("cpu")
    try:
        yield
    finally:
        try:
            for module in moved:
                module.to(device)
        except torch.OutOfMemoryError:  # it has its own reason already: training failed for the same
            warnings.warn(
                "the GPU has no room for the whole system: a part of it stays on the CPU", stacklevel=3
            )


@contextmanager
def brought_back(modules: list[nn.Module | None]) -> Iterator[None]:
    """Move modules back to where they lie now: training takes them along to accelerate's device."""
    places = [(m, _devices(m).pop()) for m in modules if m is not None and len(_devices(m)) == 1]
    try:
        yield
    finally:
        for module, device in places:
            if _devices(module) != {device}:
                module.to(device)


def _devices(module: nn.Module) -> set[torch.device]:
    return {t.device for t in (*module.parameters(), *module.buffers())}


def room(device: torch.device, held: list[nn.Module | None]) -> int:
    """Bytes of a GPU that training can have: free ones, and what is held for modules that train there already."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    weights = [p for m in held if m is not None for p in m.parameters()]
    there = sum(p.numel() * p.element_size() for p in weights if p.device.type == device.type)
    return torch.cuda.mem_get_info(device)[0] + cached + there


def warn_of_memory(
    system: FoleySystem,
    phi: nn.Module | None,
    settings: TrainConfig,
    free: Callable[[], int],
    *,
    lora_rank: int = 0,
) -> None:
    """Say before the first step that a batch will hardly fit: a warning, since the figure is an estimate."""
    try:
        world = processes().num_processes
        line = foretold(
            system.unet.config,
            phi.config if isinstance(phi, LatentCLAP) else None,
            system.latent_shape,
            -(-settings.batch_size // world),
            free(),
            checkpointing=settings.checkpointing,
            precision=resolved(settings.precision),
            ema=bool(settings.ema_decay),
            processes=world,
            lora_rank=lora_rank,
        )
    except Exception as error:  # an estimate must not keep a run from its first step
        reason = (str(error).splitlines() or [""])[0]
        line = f"what a step takes of the GPU's memory could not be told ({type(error).__name__}: {reason})"
    if line:
        warnings.warn(line, stacklevel=3)
