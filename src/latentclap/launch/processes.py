"""The processes of a training: how they were started, and what only the main one does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from latentclap.errors import InputError

if TYPE_CHECKING:
    from accelerate import PartialState


def in_main(state: PartialState, function: Callable[[], Any]) -> Any:
    """What the main process's call returns, in every process; where it fails, all stop and that one says why."""
    value = error = None
    if state.is_main_process:
        try:
            value = function()
        except Exception as problem:  # the others wait for an answer
            error = problem
    if state.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        value, failed = broadcast_object_list([value, error is not None])
        if failed and not state.is_main_process:
            raise typer.Exit(2)
    if error:
        raise error
    return value


def need_launcher() -> None:
    """Refuse to be started many times by SLURM: each would take itself for the only one.

    Raises:
        InputError: SLURM started several tasks, and no launcher is between.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    if tasks.isdigit() and int(tasks) > 1 and "WORLD_SIZE" not in os.environ:
        raise InputError(
            f"SLURM started {tasks} tasks, and each would train for itself: one task a node, with a launcher, as"
            " srun --ntasks-per-node=1 torchrun --nproc-per-node=8 -m latentclap.train CONFIG"
        )


def launchers_precision() -> str:
    """What ``accelerate launch --mixed_precision`` asked for; its "no" is what it says without the option, too.

    Raises:
        InputError: a precision that training does not know.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", "bf16", "fp16"):
        raise InputError(f"--mixed_precision {asked}: training knows bf16 and fp16")
    return "auto" if asked == "no" else asked
