"""The Latent CLAP encoder by eq. 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentclap.latent_clap import LatentCLAP, latent_clap_loss
from latentclap.pretrain.tasks.draws import normal
from latentclap.train import Task, onto


class LatentCLAPTask(Task):
    """Eq. 2: φ on clean latents against the frozen audio branch (Fig. 2)."""

    def __init__(self, phi: LatentCLAP) -> None:
        super().__init__()
        self.phi = phi

    def draw(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """The latent's noise."""
        return {"z": normal(rngs, torch.empty_like(batch["mean"], device="cpu", dtype=torch.float32))}

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mean, logvar (B, C, T, F), E_audio (B, 512). Return loss (eq. 2) and the cosine similarity."""
        mean = batch["mean"].float()
        z = batch["z"] if "z" in batch else onto(self.draw(batch, rngs)["z"], mean.device)
        latent = mean + (batch["logvar"].float() / 2).exp() * z
        E_latent, E_audio = self.phi(latent), batch["E_audio"].float()
        similarity = F.cosine_similarity(E_latent.detach(), E_audio).mean()
        # per-dimension means of unit vectors are near 1/512: scaled by D so that Adam's epsilon stays small beside
        return {"loss": latent_clap_loss(E_audio, E_latent) * E_audio.shape[1], "cosine": similarity}
