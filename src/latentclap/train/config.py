"""What the training loop needs to know."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from latentclap.errors import InputError
from latentclap.limits import check_values

#: what ``TrainConfig.precision`` may be
PRECISIONS = ("auto", "no", "tf32", "bf16", "fp16")


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite); the last good checkpoint is kept."""


@dataclass(frozen=True)
class TrainConfig:
    """What the loop needs to know. How many processes share the work is not part of it.

    Attributes:
        steps: optimiser steps in all.
        batch_size: items per forward pass, over all processes together.
        lr: learning rate of Adam (the paper: 3e-6; section IV-B).
        warmup_steps: linear warm-up.
        schedule: "constant" or "cosine" (to zero at the last step).
        weight_decay: decoupled weight decay (0: plain Adam, as in the paper).
        beta1: Adam's first beta.
        beta2: Adam's second beta.
        grad_clip: largest gradient norm; 0 switches clipping off.
        grad_accum: forward passes per optimiser step.
        ema_decay: decay of the averaged weights, warmed up as min(decay, (1 + k) / (10 + k)); 0 switches it off.
        seed: of sample order, noise and dropout.
        precision: "auto" is bf16 on a GPU that computes in it, and fp32 elsewhere; or "no" (fp32), "tf32", "bf16",
            "fp16".
        compile: torch.compile what runs in every step. A minute or so at the start, less from torch's own cache
            in later runs; worth it on a GPU.
        fused: with ``compile``, train the UNet in fewer passes over a GPU's memory (``latentclap.fast``): the same
            function, faster.
        cuda_graph: with ``compile``, on one GPU: record a step as a CUDA graph and replay it, so that the GPU does
            not wait for the processor to start its kernels; of tasks that say that it can be done.
        checkpointing: keep no activations of the UNet but compute them again in the backward pass: a third more
            time, a fraction of the memory.
        channels_last: keep the weights of convolutions, and with them all that they compute, in the order in which
            a GPU's tensor cores read them.
        checkpoint_seconds: time between checkpoints at the least; where saving one is slow, twenty times as long as
            that, so that a twentieth of the time goes into it at most. 0: after every step, whatever it takes.
        log_every: steps between lines of stats.jsonl.
        minutes: stop (with a checkpoint) after this time in this call; 0 runs to the end.
        tensorboard: write TensorBoard events beside stats.jsonl.
    """

    steps: int
    batch_size: int = 8
    lr: float = 3e-6
    warmup_steps: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    fused: bool = True
    cuda_graph: bool = True
    checkpointing: bool = False
    channels_last: bool = False
    checkpoint_seconds: float = 60.0
    log_every: int = 10
    minutes: float = 0.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_values({f"training.{name}": value for name, value in asdict(self).items()}, "")
        checks = {
            "lr": self.lr > 0,
            "schedule": self.schedule in ("constant", "cosine"),
            "precision": self.precision in PRECISIONS,
        }
        for name, good in checks.items():
            if not good:
                raise InputError(f"training.{name}={getattr(self, name)!r} is out of range")

    def fixed(self) -> dict[str, Any]:
        """The settings that a run may not change when it goes on from a checkpoint."""
        return {k: v for k, v in asdict(self).items() if k not in _FREE}


#: may differ between the run that wrote a checkpoint and the run that resumes it
_FREE = {
    "minutes",
    "log_every",
    "checkpoint_seconds",
    "tensorboard",
    "precision",
    "compile",
    "fused",
    "cuda_graph",
    "checkpointing",
    "channels_last",
}


def has_bf16() -> bool:
    """Whether there is a GPU that computes in bf16; older ones only emulate it, slower than float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def resolved(precision: str) -> str:
    """What "auto" means where this process trains; anything else is what it is.

    float16 is never chosen by itself: it may overflow.

    Raises:
        InputError: fp16 without a GPU.
    """
    from latentclap.train.task import processes

    if precision == "auto":
        return "bf16" if processes().device.type == "cuda" and has_bf16() else "no"
    if precision == "fp16" and processes().device.type != "cuda":
        raise InputError("precision fp16 needs a GPU; there is none here: take bf16 or no")
    return precision


def override(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A copy of a configuration with some values changed, checked again."""
    return replace(config, **changes)


def learning_rate(config: TrainConfig, step: int, begun: int = 0) -> float:
    """Learning rate of optimiser step ``step`` (0-based), where the optimiser's moments began at step ``begun``."""
    warm = min(1.0, (step - begun + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = 1.0
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, config.steps))))
    return config.lr * warm * decay
