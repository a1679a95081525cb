"""The VAE over log-mels, and its decoder by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentclap.diffusion import append_dims
from latentclap.errors import InputError
from latentclap.pretrain.adversary import MelCritic, adversarial_terms
from latentclap.pretrain.tasks.draws import crop, normal, randint, uniform
from latentclap.train import Task


def mel_terms(reconstruction: Tensor, mel: Tensor) -> dict[str, Tensor]:
    """L1 of log-mels (B, 1, T, F), and L1 of their slopes along time and frequency.

    The slopes keep edges and texture that plain L1 averages away.
    """
    slope = sum((reconstruction.diff(dim=d) - mel.diff(dim=d)).abs().mean() for d in (2, 3))
    return {"l1": (reconstruction - mel).abs().mean(), "slope": slope}


class VAETask(Task):
    """The VAE over log-mels: L1 reconstruction and a small KL term (AudioLDM, arXiv:2301.12503, appendix).

    Args:
        vae: diffusers' AutoencoderKL.
        crop_frames: frames of the crops.
        kl_weight: of the KL term, which is a mean over the latent's dimensions.
    """

    def __init__(self, vae: nn.Module, *, crop_frames: int = 128, kl_weight: float = 1e-4) -> None:
        super().__init__()
        self.vae = vae
        self.crop_frames, self.kl_weight = crop_frames, kl_weight

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mel (B, frames, 64). Return loss, l1 of the log-mels, and kl."""
        mel = mel_crop(batch["mel"], self.crop_frames, rngs)
        posterior = self.vae.encode(mel).latent_dist
        z = posterior.mean + posterior.std * normal(rngs, posterior.mean)
        terms = mel_terms(self.vae.decode(z).sample, mel)
        kl = posterior.kl().mean() / z[0].numel()
        loss = terms["l1"] + 0.25 * terms["slope"] + self.kl_weight * kl
        return {"loss": loss, "l1": terms["l1"], "kl": kl}


def mel_crop(mel: Tensor, frames: int, rngs: list[torch.Generator]) -> Tensor:
    """Random crops of log-mels: (B, T, F) -> (B, 1, frames, F)."""
    return crop(mel, randint(rngs, mel.shape[1] - frames + 1), frames).float()[:, None]


class DecoderTask(Task):
    """The VAE's decoder by itself, or against a patch discriminator as AudioLDM's VAE has one.

    The encoder stands still, so the latents stay what they are: a diffusion model trained on them need not know that
    the decoder goes on learning. L1 alone smooths noise textures away, which is what the critic is for.

    A generator's latents are a little off the encoder's, and a decoder that has learned to fill in texture takes
    such errors for texture: the silence between two steps comes out as noise. So it sees latents with noise of up to
    ``noise`` and has to give what they are nearest to.

    Args:
        vae: diffusers' AutoencoderKL.
        crop_frames: frames of the crops.
        deceive_weight: of the critic's scores.
        feature_weight: of the critic's features; with both weights zero there is no critic.
        noise: largest standard deviation of the noise, in units of 1 / scaling_factor; each item draws its own.

    Raises:
        InputError: a noise that is negative or not finite.
    """

    def __init__(
        self,
        vae: nn.Module,
        *,
        crop_frames: int = 128,
        deceive_weight: float = 0.1,
        feature_weight: float = 0.5,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= noise < math.inf:
            raise InputError(f"noise={noise}: must be zero or more")
        # post_quant_conv belongs to the decoder's side of the latent
        self.decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
        self.critic = MelCritic() if deceive_weight or feature_weight else None
        # in a list: its encoder is no part of the task
        self.whole = [vae]
        self.crop_frames = crop_frames
        self.noise = noise / vae.config.scaling_factor
        self.weights = {"l1": 1.0, "slope": 0.25, "deceive": deceive_weight, "features": feature_weight}

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mel (B, frames, 64). Return loss, l1 and slope and, with a critic, the adversarial terms."""
        (vae,) = self.whole
        mel = mel_crop(batch["mel"], self.crop_frames, rngs)
        with torch.no_grad():
            posterior = vae.encode(mel).latent_dist
            z = posterior.mean + posterior.std * normal(rngs, posterior.mean)
            z = z + append_dims(self.noise * uniform(rngs).to(z), z) * normal(rngs, z)
        fake = vae.decode(z).sample
        terms = mel_terms(fake, mel)
        if self.critic is not None:
            terms |= adversarial_terms(self.critic, mel, fake)
        # the critic's own loss counts once
        loss = terms.get("critic", 0.0) + sum(w * terms[name] for name, w in self.weights.items() if w)
        return {"loss": loss, **terms}
