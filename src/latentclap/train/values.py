"""The losses and gradient norms of a run's steps: each has to be finite, or the run ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentclap.train.config import TrainingError
from latentclap.train.records import CHECKPOINT

#: a GPU's losses are read at least so often: a NaN is noticed after so many steps
MOST_UNREAD = 100


class Values:
    """What steps gave. A GPU runs behind: reading a value waits for all before it, so that it is done now and then.

    Args:
        description: of the run, for messages.
        lr: its learning rate, for messages.
        folder: its folder, where a checkpoint may be.
        accelerator: one with a scaler, for fp16, has gradients that are not finite while it looks for its scale.
    """

    def __init__(self, description: str, lr: float, folder: Path, accelerator: Any) -> None:
        self.description, self.lr, self.folder, self.accelerator = description, lr, folder, accelerator
        #: step -> its terms and "grad_norm", scalars on the device
        self.unread: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Keep a step's values until they are read."""
        self.unread.append((step, values))

    @property
    def full(self) -> bool:
        """Whether it is time to read them, logged or not."""
        return len(self.unread) >= MOST_UNREAD

    def read(self) -> dict[str, float]:
        """Wait for the steps since the last reading, check them in their order, and return the last one's values.

        Raises:
            TrainingError: a loss or gradient norm is not finite.
        """
        values: dict[str, float] = {}
        for (step, _), values in zip(self.unread, self.numbers(), strict=True):
            self.check(values["loss"], "loss", step)
            self.check_norm(values["grad_norm"], step)
        self.unread.clear()
        return values

    def numbers(self) -> list[dict[str, float]]:
        """The unread values of each step, in one transfer."""
        if not self.unread:
            return []
        rows = torch.stack([torch.stack([v.float() for v in terms.values()]) for _, terms in self.unread])
        return [dict(zip(self.unread[0][1], row, strict=True)) for row in rows.tolist()]

    def sound(self) -> bool:
        """Whether all unread losses and gradients are finite."""
        names = ("loss", "grad_norm") if self.accelerator.scaler is None else ("loss",)
        return all(math.isfinite(row[name]) for row in self.numbers() for name in names)

    def check(self, value: float, what: str, step: int) -> None:
        """Let a finite value pass.

        Raises:
            TrainingError: it is not finite; the message says which checkpoint is from before that.
        """
        if not math.isfinite(value):
            there = (self.folder / CHECKPOINT).is_file()
            kept = (
                f"the checkpoint in {self.folder} is from before that"
                if there
                else "no checkpoint was saved yet"
            )
            raise TrainingError(
                f"{self.description}: the {what} is not finite at step {step} (lr {self.lr:g});"
                f" {kept}. Lower lr or lambda, or clip gradients."
            )

    def check_norm(self, value: float, step: int) -> None:
        """:meth:`check` for a gradient norm."""
        if self.accelerator.scaler is None:  # fp16's scaler looks for too large a scale by such gradients
            self.check(value, "gradient norm", step)
