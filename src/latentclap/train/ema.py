"""Averaged weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of parameters, with AudioLDM's warm-up (facts A4).

    Batch statistics are averaged like the weights that they belong to; whole numbers (counters) are copied. Weights
    ``without`` are not averaged: module.name, of those that are frozen.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], decay: float, *, without: Collection[str] = ()
    ) -> None:
        self.decay, self.count, self.without = decay, 0, frozenset(without)
        self.shadow = {name: v.detach().clone().float() for name, v in self._state(modules)}

    def _state(self, modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
        named = [
            (f"{m}.{k}", v)
            for m, module in modules.items()
            for k, v in module.state_dict(keep_vars=True).items()
        ]
        return [(name, v) for name, v in named if name not in self.without]

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module]) -> None:
        """Take one step towards the current weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        pairs = [(self.shadow[name], v) for name, v in self._state(modules)]
        moving = [(shadow, v.float()) for shadow, v in pairs if v.is_floating_point()]
        # all at once: on a GPU a launch per weight would take longer than the arithmetic
        torch._foreach_lerp_([shadow for shadow, _ in moving], [v for _, v in moving], 1 - decay)
        for shadow, v in pairs:
            if not v.is_floating_point():
                shadow.copy_(v)

    @torch.no_grad()
    def copy_to(self, modules: Mapping[str, nn.Module]) -> None:
        """Write the averaged weights into the modules."""
        for name, v in self._state(modules):
            v.copy_(self.shadow[name])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"shadow": self.shadow, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.count = state["count"]
        for key, value in state["shadow"].items():
            self.shadow[key].copy_(value)
