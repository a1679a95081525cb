"""Random numbers of a batch, one generator per item: an item's do not depend on its company."""

from __future__ import annotations

import torch
from torch import Tensor

from latentclap.train import onto


def uniform(rngs: list[torch.Generator], *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), one draw of ``shape`` per item: (B, *shape)."""
    return torch.stack([torch.rand(shape, generator=g) for g in rngs])


def randint(rngs: list[torch.Generator], high: int) -> Tensor:
    """Whole numbers in 0 ... high - 1, one per item: (B,)."""
    return torch.stack([torch.randint(high, (), generator=g) for g in rngs])


def normal(rngs: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise of the shape, device and type of ``like`` (B, ...), one generator per item."""
    return onto(torch.stack([torch.randn(like.shape[1:], generator=g) for g in rngs]), like.device).to(like)


def crop(tensor: Tensor, starts: Tensor, length: int) -> Tensor:
    """Cut ``length`` entries of axis 1 from ``starts`` (B,) on: (B, N, ...) -> (B, length, ...)."""
    return torch.stack([row[s : s + length] for row, s in zip(tensor, starts.tolist(), strict=True)])
