"""A run's stream of batches: this process's share of each, with the random numbers that belong to its items."""

from __future__ import annotations

from functools import lru_cache

import torch

from latentclap.train.ahead import Ahead, Inputs
from latentclap.train.config import TrainConfig
from latentclap.train.data import Batches, item_generators, sample_order
from latentclap.train.task import Task


class Stream:
    """What a step is given, by its place in the endless stream of items.

    Args:
        task: draws random numbers of its own (:meth:`Task.draw`).
        data: the training data.
        config: of the run.
        count: items of this process's share of a batch.
        device: where a step computes.
        ahead: a thread prepares the next batch meanwhile: where a GPU computes, the CPU has time for it.
    """

    def __init__(
        self, task: Task, data: Batches, config: TrainConfig, count: int, device: torch.device, *, ahead: bool
    ) -> None:
        self.task, self.data, self.config = task, data, config
        self.count, self.device = count, device
        # an epoch's order is asked for by every batch
        self.order = lru_cache(maxsize=2)(data.order) if hasattr(data, "order") else None
        self.ahead = Ahead(self.drawn, device) if ahead else None

    def at(self, start: int) -> Inputs:
        """The batch at a place of the stream, on the device, with its random numbers, and the items' generators."""
        if self.ahead is None:
            batch, rngs = self.drawn(start)
        else:
            batch, rngs = self.ahead.get(start, start + self.config.batch_size)
        return {name: value.to(self.device) for name, value in batch.items()}, rngs

    def drawn(self, start: int) -> Inputs:
        """The same where the data lies; data that can is told what comes next."""
        batch = self.data.batch(self._items(start))
        if hasattr(self.data, "prepare"):
            self.data.prepare(self._items(start + self.config.batch_size))
        rngs = item_generators(self.config.seed, start, self.count)
        return batch | self.task.draw(batch, rngs), rngs

    def _items(self, start: int) -> list[int]:
        return sample_order(start, self.count, len(self.data), self.config.seed, self.order)

    def settle(self) -> None:
        """Wait until the thread that prepares the next step has done so."""
        if self.ahead:
            self.ahead.settle()

    def stop(self) -> None:
        """Let go of the thread that prepares the next step."""
        if self.ahead:
            self.ahead.stop()
