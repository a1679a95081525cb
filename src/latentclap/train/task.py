"""What the loop trains, and what it gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from latentclap.errors import InputError

if TYPE_CHECKING:
    from accelerate import PartialState


class Task(nn.Module):
    """A part to train: the modules in :attr:`trained`, and a forward pass to named losses.

    Subclasses implement :meth:`forward`. Frozen modules belong into a list or closure, not into an attribute, so
    that they are neither saved nor switched to training mode.

    Attributes:
        divisible: whether "loss" is a mean over the items of a batch, so that several processes may share one.
            A contrastive loss is not: it compares the items with one another.
        frozen: where weights inside the trained modules are frozen, what trains beside which of them, by a digest:
            checkpoints and averages then leave them out, and a checkpoint of others is refused. Empty: all is kept.
        replayable: whether a step does the same with every batch on the processor's side, and draws all that it needs
            in :meth:`draw`: then a GPU may replay it as a CUDA graph.
    """

    divisible: ClassVar[bool] = True
    replayable: ClassVar[bool] = False
    frozen: str = ""

    def trained(self) -> dict[str, nn.Module]:
        """Name -> module that is trained, saved and averaged. By default all children."""
        return dict(self.named_children())

    def hot(self) -> list[nn.Module]:
        """The modules that run in every step, trained or frozen: those that are worth compiling."""
        return list(self.trained().values())

    def draw(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Random numbers of a step, named as no tensor of the batch is; the loop adds them to it.

        On a GPU the loop draws the next step's in a thread while this one runs: numbers that depend on nothing but
        (seed, item) come from the CPU, where they take a quarter of the step. What is drawn here, :meth:`forward`
        finds in its batch; it may draw the rest itself.
        """
        return {}

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Return named scalars: "loss" is what is minimised, the others are reported.

        Args:
            batch: tensors (B, ...), and what :meth:`draw` drew.
            rngs: one CPU generator per item, for noise, steps, crops and dropped conditions.
        """
        raise NotImplementedError


def processes() -> PartialState:
    """The processes that a launcher (accelerate launch, torchrun) started together; alone without one.

    accelerate takes processes without a GPU for separate runs unless it is told: all of them would then write. Nor
    does it look at its own ACCELERATE_USE_CPU here.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    launched = int(os.environ.get("WORLD_SIZE", "1"))
    alone = launched > 1 and not torch.cuda.is_available()
    return PartialState(cpu=alone or parse_flag_from_env("ACCELERATE_USE_CPU"))


def for_processes(task: Task, device: torch.device) -> Task:
    """The task as several processes may share it: batch statistics are taken over all of them (on GPUs).

    Raises:
        InputError: the task's result would depend on the number of processes.
    """
    name = type(task).__name__
    if not task.divisible:
        raise InputError(f"{name} compares the items of a batch with one another: train it in one process")
    if any(isinstance(module, _BatchNorm) for module in task.modules()):
        if device.type != "cuda":
            raise InputError(
                f"{name} has batch normalisation, which several processes share on GPUs only: train it in one process"
            )
        return nn.SyncBatchNorm.convert_sync_batchnorm(task)
    return task


@dataclass
class TrainResult:
    """What a run of the loop left.

    Attributes:
        step: optimiser steps done in all.
        finished: whether the last step was reached (False where the time budget ended it).
        seconds: training time in all calls.
        history: the lines of stats.jsonl.
        folder: the run's folder.
    """

    step: int
    finished: bool
    seconds: float
    history: list[dict[str, float]]
    folder: Path
