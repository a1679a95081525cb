"""The base LDM by eq. 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentclap.diffusion import NoiseSchedule, append_dims
from latentclap.losses import ddpm_loss
from latentclap.pretrain.tasks.draws import normal, randint, uniform
from latentclap.train import Task, onto


def level_weight(snr: Tensor, *, gamma: float = 5.0, most: float = 200.0) -> Tensor:
    """Weight of eq. 1's error at a noise level, so that the error of s_0 counts by min(SNR + 1, gamma).

    Eq. 1 as it stands counts the error of s_0 by the SNR, which falls to 1e-4 at the last steps: what a network does
    there, where a sampler begins and decides what happens when, hardly shows in the loss. One that sees a hundred
    thousand clips and not hundreds of millions then learns little there; the model card shows how much by level
    (``quality.denoising_errors``). SNR + 1 is the weight of training on v (arXiv:2202.00512), the bound at gamma is
    min-SNR's (arXiv:2303.09556): little is heard of the cleanest steps.

    Args:
        snr: signal-to-noise ratios (any shape).
        gamma: largest weight of the error of s_0.
        most: largest weight of the error of eps: with more, the last fifth of the steps would drown the others.
    """
    return ((snr + 1).clamp(max=gamma) / snr).clamp(max=most)


class LDMTask(Task):
    """The base LDM by eq. 1, conditioned on audio or text embeddings, dropped to "" at a rate (CFG).

    AudioLDM trains on E_audio, which needs no captions; with a small CLAP the two modalities lie further apart,
    so each item draws which of its embeddings it is shown.

    Args:
        unet: diffusers' UNet2DConditionModel.
        E_empty: the embedding of the empty text (512,).
        schedule: of the noise.
        drop: share of conditions replaced by ``E_empty``.
        roll: roll each latent in time, by a draw of its own.
        weighted: levels are weighted by :func:`level_weight`; False is eq. 1 as it stands.
    """

    def __init__(
        self,
        unet: nn.Module,
        E_empty: Tensor,
        schedule: NoiseSchedule,
        *,
        drop: float = 0.1,
        roll: bool = True,
        weighted: bool = True,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.drop, self.roll, self.weighted = drop, roll, weighted
        self.constants = [E_empty, schedule]

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mean, logvar (B, C, T, F), E (B, K, 512): K embeddings to choose from.

        Returns:
            loss and, where levels are weighted, ddpm (eq. 1 without weights).
        """
        self.constants = [c.to(batch["mean"].device) for c in self.constants]  # moves but once
        E_empty, schedule = self.constants
        u = uniform(rngs, 2)
        n = onto(randint(rngs, schedule.steps), E_empty.device)
        s_0 = batch["mean"].float() + (batch["logvar"].float() / 2).exp() * normal(
            rngs, batch["mean"].float()
        )
        if self.roll:
            shifts = (u[:, 1] * s_0.shape[2]).long().tolist()
            s_0 = torch.stack([torch.roll(s, k, dims=1) for s, k in zip(s_0, shifts, strict=True)])
        chosen = onto(randint(rngs, batch["E"].shape[1]), E_empty.device)
        E = batch["E"].float()[torch.arange(len(rngs), device=E_empty.device), chosen]
        dropped = append_dims(onto(u[:, 0] < self.drop, E.device), E)
        E = torch.where(dropped, E_empty.expand_as(E), E)
        eps = normal(rngs, s_0)
        s_n = schedule.q_sample(s_0, n, eps)
        eps_theta = self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        per_item = ddpm_loss(eps_theta, eps, reduction="none")
        ddpm = per_item.mean()
        if not self.weighted:
            return {"loss": ddpm}
        return {"loss": (level_weight(schedule.snr(n)) * per_item).mean(), "ddpm": ddpm}
