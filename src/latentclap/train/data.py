"""Training data, and the endless stream of items that the loop walks along."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latentclap.errors import InputError


class Batches(Protocol):
    """Training data: a length, and a batch of named tensors for a list of item numbers.

    Data that takes time to read may have a method ``prepare(indices)`` too: the loop calls it with the items of the
    next batch, so that they are read while it computes. Data whose items should not come in any order may have a
    method ``order(seed, epoch)``, a permutation (n,) of its items for an epoch.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the items as tensors (len(indices), ...)."""
        ...


class TensorBatches:
    """Batches out of tensors that fit in memory: name -> (n, ...)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        lengths = {name: len(value) for name, value in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"training data of unequal lengths: {lengths}")
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the items as tensors (len(indices), ...)."""
        return {name: value[indices] for name, value in self.tensors.items()}


class GroupedBatches(TensorBatches):
    """Tensors whose items come in runs of one group: a batch then holds several of each of a few groups.

    A contrastive loss learns from what it has to tell apart: beside clips of other classes, a class' own clips
    differ in what a caption says of them.

    Args:
        tensors: as for :class:`TensorBatches`.
        groups: group number of each item (n,).
        run: items of a group that come one after the other; what is left of a group is a shorter run.

    Raises:
        InputError: run < 1, or not a group number per item.
    """

    def __init__(self, tensors: Mapping[str, Tensor], groups: Sequence[int], run: int) -> None:
        super().__init__(tensors)
        if run < 1 or len(groups) != len(self):
            raise InputError(f"{len(groups)} group numbers in runs of {run} for {len(self)} items")
        self.groups, self.run = np.asarray(groups), run

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """An epoch's order (n,): the groups' items shuffled and cut into runs, the runs shuffled."""
        rng = np.random.default_rng([seed, epoch])
        items = rng.permutation(len(self))
        runs: list[np.ndarray] = []
        for group in np.unique(self.groups):
            own = items[self.groups[items] == group]
            runs += np.split(own, range(self.run, len(own), self.run))
        return np.concatenate([runs[k] for k in rng.permutation(len(runs))])


#: an epoch's permutation of the items, from (seed, epoch)
Order = Callable[[int, int], np.ndarray]


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, without waiting for the device to finish what it was told before.

    A plain copy from pageable memory makes the CPU wait for the whole queue of a GPU: it could not run ahead.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def sample_order(position: int, count: int, length: int, seed: int, order: Order | None = None) -> list[int]:
    """Item numbers at positions position ... position + count - 1 of an endless stream of shuffled epochs.

    Each item occurs once per epoch; an epoch's order depends on (seed, epoch) alone.

    Args:
        position: where in the stream.
        count: how many items.
        length: items of an epoch.
        seed: of the shuffling.
        order: an epoch's permutation, from (seed, epoch); any one by default.
    """
    out: list[int] = []
    while count > 0:
        epoch, offset = divmod(position, length)
        permutation = _order(length, seed, epoch) if order is None else order(seed, epoch)
        piece = permutation[offset : offset + count].tolist()
        out += piece
        position += len(piece)
        count -= len(piece)
    return out


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch's order: kept, since every batch asks for it."""
    return np.random.default_rng([seed, epoch]).permutation(length)


def item_generators(seed: int, position: int, count: int) -> list[torch.Generator]:
    """One CPU generator per item of the stream, from (seed, position)."""
    words = [
        np.random.SeedSequence([seed, p]).generate_state(1)[0] for p in range(position, position + count)
    ]
    return [torch.Generator().manual_seed(int(word)) for word in words]


def share(batch_size: int, rank: int, world: int) -> tuple[int, int]:
    """Process ``rank``'s part of a batch: offset and number of items. Parts differ by one item at most.

    Raises:
        InputError: there are more processes than items.
    """
    if batch_size < world:
        raise InputError(
            f"a batch of {batch_size} cannot be shared by {world} processes: raise batch_size or start fewer"
        )
    first, last = (batch_size * r // world for r in (rank, rank + 1))
    return first, last - first
