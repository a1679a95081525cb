"""Eq. 4 as a task of the training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentclap.diffusion import append_dims
from latentclap.losses import LatentCLAPLoss, ddpm_loss, total_loss
from latentclap.pretrain.tasks import normal, randint, uniform
from latentclap.system import FoleySystem
from latentclap.train import Task, onto


class FinetuneTask(Task):
    """Eq. 4 on cached latents: batch of mean, logvar (B, C, T, F), E_text and E_audio (B, 512)."""

    replayable = True

    def __init__(
        self, system: FoleySystem, loss: LatentCLAPLoss | None, lam: float, *, drop: float = 0.1
    ) -> None:
        super().__init__()
        self.unet = system.unet
        if system.tuning is not None:
            self.tuning = system.tuning
        # in a list: φ, the schedule and "" are constants, not parts of the task
        self.constants = [loss, system.schedule, system.encode_text([""])[0]]
        self.lam, self.drop = lam, drop

    def hot(self) -> list[nn.Module]:
        """UNet, tuning layer, and φ where eq. 3 is in the loss."""
        loss = self.constants[0]
        return [*super().hot(), *([loss.phi] if self.lam else [])]

    def draw(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """What decides over a dropped condition, the step, the latent's and eq. 1's noise."""
        like = torch.empty_like(batch["mean"], device="cpu")
        return {
            "u": uniform(rngs, 1)[:, 0],
            "n": randint(rngs, self.constants[1].steps),
            "z": normal(rngs, like),
            "eps": normal(rngs, like),
        }

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Return loss (eq. 4), ddpm (eq. 1) and, with λ > 0, lclap (eq. 3)."""
        device = batch["mean"].device
        if self.constants[2].device != device:  # once: a copy in every step would wait for the step before
            self.constants[2] = self.constants[2].to(device)
        loss, schedule, E_empty = self.constants
        if "eps" not in batch:
            batch = batch | {k: onto(v, device) for k, v in self.draw(batch, rngs).items()}
        n, eps = batch["n"], batch["eps"]
        s_0 = batch["mean"] + (batch["logvar"] / 2).exp() * batch["z"]
        s_n = schedule.to(device).q_sample(s_0, n, eps)
        dropped = append_dims(batch["u"] < self.drop, batch["E_text"])
        E = torch.where(dropped, E_empty.expand_as(batch["E_text"]), batch["E_text"])
        if hasattr(self, "tuning"):
            E = self.tuning(E)
        eps_theta = self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        terms = {"ddpm": ddpm_loss(eps_theta, eps)}  # eq. 1
        if self.lam:
            terms["lclap"] = loss(eps_theta, s_n, n, batch["E_audio"], s_0=s_0)  # eq. 3
        return {"loss": total_loss(terms, {"ddpm": 1.0, "lclap": self.lam}), **terms}  # eq. 4
