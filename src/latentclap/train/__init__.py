"""The one training loop, for every part that trains: CLAP, VAE, vocoder, LDM, φ, judge and the paper's fine-tuning.

A part is a :class:`Task`: modules to train and a forward pass from a batch to named losses. The loop owns what
all parts share: order of samples, gradient accumulation and clipping, EMA, mixed precision, checkpoints, logs.

Randomness is a function of (seed, position in the sample stream) and of nothing else. So a run that was killed
and started again by the same command ends in the same weights (bit for bit on a CPU), and a batch split over
several processes sees the same items and the same noise as in one.

``accelerate launch -m latentclap.train CONFIG`` trains from a configuration file (``latentclap.launch``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentclap.train.config import TrainConfig, TrainingError, learning_rate, override
    from latentclap.train.data import (
        Batches,
        GroupedBatches,
        TensorBatches,
        item_generators,
        onto,
        sample_order,
        share,
    )
    from latentclap.train.ema import EMA
    from latentclap.train.loop import train
    from latentclap.train.records import CHECKPOINT, STATS
    from latentclap.train.signals import Interrupted
    from latentclap.train.task import Task, TrainResult, processes

__all__ = [
    "CHECKPOINT",
    "EMA",
    "STATS",
    "Batches",
    "GroupedBatches",
    "Interrupted",
    "Task",
    "TensorBatches",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "item_generators",
    "learning_rate",
    "onto",
    "override",
    "processes",
    "sample_order",
    "share",
    "train",
]

# torch takes seconds to import: the command's --help must not wait for it
_HOME = {
    "config": ("TrainConfig", "TrainingError", "learning_rate", "override"),
    "data": (
        "Batches",
        "GroupedBatches",
        "TensorBatches",
        "item_generators",
        "onto",
        "sample_order",
        "share",
    ),
    "ema": ("EMA",),
    "loop": ("train",),
    "records": ("CHECKPOINT", "STATS"),
    "signals": ("Interrupted",),
    "task": ("Task", "TrainResult", "processes"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # for who looks what there is: a notebook's completion, and the reference
    return sorted({*globals(), *__all__})
