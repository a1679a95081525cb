"""The network that judges generated clips."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentclap.pretrain.tasks.draws import normal, uniform
from latentclap.train import Task


class JudgeTask(Task):
    """The evaluation network: class of a clip, as the mean of its windows' probabilities.

    A window between two footsteps is silent and says nothing: the clip is judged, not the window. Augmented by
    level, noise and a masked band and span.

    Args:
        judge: patches (N, 1, 96, 64) -> embedding and logits (N, classes).
        windows: patches that are drawn of each clip.
        mask: widest masked span or band, as a share of the patch.
    """

    divisible = False  # each batch is normalised by its own weights

    def __init__(self, judge: nn.Module, *, windows: int = 3, mask: float = 0.2) -> None:
        super().__init__()
        self.judge = judge
        self.windows, self.mask = windows, mask

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: patches (B, P, 96, 64), label (B,), weight (B,). Return loss and accuracy."""
        order = uniform(rngs, batch["patches"].shape[1]).argsort(1)[:, : self.windows]
        x = torch.stack([p[o] for p, o in zip(batch["patches"], order, strict=True)]).float()
        u = uniform(rngs, 6).to(x)
        x = x + 3 * (u[:, :1, None, None] - 0.5) + 0.3 * normal(rngs, x) * u[:, 1:2, None, None]
        for row, r in zip(x, u.tolist(), strict=True):
            for axis, (share, place) in ((1, r[2:4]), (2, r[4:6])):
                span = int(share * self.mask * row.shape[axis])
                row.narrow(axis, int(place * (row.shape[axis] - span)), span).fill_(row.mean())
        _, logits = self.judge(x.flatten(0, 1)[:, None])
        windows = x.shape[1]  # a short clip has fewer
        log_p = logits.view(len(rngs), windows, -1).log_softmax(-1).logsumexp(1) - math.log(windows)
        label, weight = batch["label"].long(), batch["weight"].float()
        loss = (F.nll_loss(log_p, label, reduction="none") * weight).sum() / weight.sum()
        return {"loss": loss, "accuracy": (log_p.argmax(1) == label).float().mean()}
