"""Averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of parameters, with AudioLDM's warm-up (facts A4).

    Batch statistics are averaged like the weights that they belong to; whole numbers (counters) are copied.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay, self.count = decay, 0
        self.shadow = {f"{m}.{k}": v.detach().clone().float() for m, k, v in _named_state(modules)}

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module]) -> None:
        """Take one step towards the current weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        pairs = [(self.shadow[f"{m}.{k}"], v) for m, k, v in _named_state(modules)]
        moving = [(shadow, v.float()) for shadow, v in pairs if v.is_floating_point()]
        # all at once: on a GPU a launch per weight would take longer than the arithmetic
        torch._foreach_lerp_([shadow for shadow, _ in moving], [v for _, v in moving], 1 - decay)
        for shadow, v in pairs:
            if not v.is_floating_point():
                shadow.copy_(v)

    @torch.no_grad()
    def copy_to(self, modules: Mapping[str, nn.Module]) -> None:
        """Write the averaged weights into the modules."""
        for m, k, v in _named_state(modules):
            v.copy_(self.shadow[f"{m}.{k}"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"shadow": self.shadow, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.count = state["count"]
        for key, value in state["shadow"].items():
            self.shadow[key].copy_(value)


def _named_state(modules: Mapping[str, nn.Module]) -> list[tuple[str, str, Tensor]]:
    return [(m, k, v) for m, module in modules.items() for k, v in module.state_dict(keep_vars=True).items()]
