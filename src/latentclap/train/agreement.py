"""What the processes of a run tell each other: means of losses, whether to stop, and where they go on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentclap.errors import InputError
from latentclap.train.signals import Signals

#: on GPUs, several processes agree every so many steps whether to go on: reading the answer waits for the step
AGREE_EVERY = 10


class Agreement:
    """Each process has a clock and signals of its own: all of them leave the loop at the same step.

    Args:
        accelerator: accelerate's, which knows the other processes; alone, nothing is sent.
        minutes: a call's time, by the main process's clock; 0: any.
        signals: what this process was told.
        lags: the device runs behind, so that reading an answer means waiting.
    """

    def __init__(self, accelerator: Any, minutes: float, signals: Signals, *, lags: bool) -> None:
        self.accelerator, self.minutes, self.signals, self.lags = accelerator, minutes, signals, lags
        self.alone = accelerator.num_processes == 1
        self.started = time.monotonic()
        #: whether any process wants to stop for the time or for a signal, as of the last step
        self.wishes: Tensor | None = None

    def means(self, terms: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Each term's mean over the whole batch, the same in every process: so all of them see a NaN.

        Args:
            terms: scalars of this process's share.
            weight: of this share, in a mean that counts each process alike.
        """
        if self.alone:
            return {name: value.detach() for name, value in terms.items()}
        values = torch.stack([value.detach().float() for value in terms.values()]) * weight
        # who wants to stop is told along with them: a message of its own in every step would cost as much again
        wishes = [values.new_full((1,), float(wish)) for wish in self._own_wishes()]
        *means, out_of_time, signalled = self.accelerator.reduce(
            torch.cat([values, *wishes]), "mean"
        ).unbind()
        self.wishes = torch.stack([out_of_time, signalled])
        return dict(zip(terms, means, strict=True))

    def _own_wishes(self) -> tuple[bool, bool]:
        """Whether this process wants to stop: for the time, by the main process's clock, or for a signal."""
        elapsed = time.monotonic() - self.started
        out_of_time = self.accelerator.is_main_process and self.minutes and elapsed > 60 * self.minutes
        return bool(out_of_time), bool(self.signals.received)

    def leaving(self, step: int, *, reads: bool) -> bool:
        """Whether this step is the last one of this call, the same in every process.

        Args:
            step: the one that is done.
            reads: the loop has waited for this step anyway.
        """
        if self.alone:
            return any(self._own_wishes())
        if self.lags and not reads and step % AGREE_EVERY:
            return False
        return any(self.wishes.tolist())

    def signal(self) -> int:
        """The number of the signal that came to any process; 0: none. Of several, the largest."""
        signum = self.signals.received
        return signum if self.alone else max(self._gathered(signum))

    def check_same_start(self, step: int, folder: Path) -> None:
        """Every process must have read the same checkpoint, or none.

        Raises:
            InputError: the steps that they begin at differ.
        """
        steps = [step] if self.alone else self._gathered(step)
        if len(set(steps)) > 1:
            raise InputError(
                f"the processes do not see the same checkpoint (steps {steps}): {folder} must be on a file"
                " system that all machines share"
            )

    def _gathered(self, number: int) -> list[int]:
        """A number of each process."""
        return self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).tolist()
