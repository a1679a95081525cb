"""Discriminators for the two decoders, VAE and vocoder, and the losses of both sides.

Generator and discriminator are updated in the same step, by one backward pass: the generator's terms see the
discriminator with detached weights, the discriminator's terms see detached samples. So the one training loop,
its checkpoints and its exact resume serve adversarial training too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

#: (FFT size, hop, window) of the spectrograms that the vocoder is judged on (UnivNet, arXiv:2106.07889)
SPECTROGRAMS = ((1024, 240, 960), (512, 120, 480), (256, 60, 240))

Judged = list[tuple[Tensor, list[Tensor]]]


class PatchCritic(nn.Module):
    """Strided convolutions over a picture (B, 1, H, W), for example a log-mel: a score per patch and features.

    LeakyReLU and weight normalisation as in HiFi-GAN (arXiv:2010.05646); no batch statistics.
    """

    def __init__(self, width: int = 32, layers: int = 3, kernel: tuple[int, int] = (5, 5)) -> None:
        super().__init__()
        pad = (kernel[0] // 2, kernel[1] // 2)
        blocks, channels = [], 1
        for i in range(layers):
            out = width * min(2**i, 4)
            blocks.append(weight_norm(nn.Conv2d(channels, out, kernel, stride=2, padding=pad)))
            channels = out
        blocks.append(weight_norm(nn.Conv2d(channels, channels, 3, padding=1)))
        self.blocks = nn.ModuleList(blocks)
        self.score = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, H, W) -> scores (B, 1, h, w) and the features of every layer."""
        features = []
        for block in self.blocks:
            picture = F.leaky_relu(block(picture), 0.1)
            features.append(picture)
        return self.score(picture), features


class MelCritic(nn.Module):
    """Judges log-mels (B, 1, T, F), shifted and scaled to about unit spread."""

    def __init__(self, width: int = 24, layers: int = 3) -> None:
        super().__init__()
        self.net = PatchCritic(width, layers)

    def forward(self, mel: Tensor) -> Judged:
        """(B, 1, T, F) -> one pair of scores and features."""
        return [self.net((mel + 5.0) / 2.5)]


class WaveCritic(nn.Module):
    """Judges waves (B, samples) by their spectrograms at several resolutions."""

    def __init__(self, width: int = 16, layers: int = 3, spectrograms: tuple = SPECTROGRAMS) -> None:
        super().__init__()
        self.spectrograms = spectrograms
        self.nets = nn.ModuleList(PatchCritic(width, layers, (5, 3)) for _ in spectrograms)

    def forward(self, wave: Tensor) -> Judged:
        """(B, samples) -> a pair of scores and features for each resolution."""
        out = []
        for net, (n_fft, hop, length) in zip(self.nets, self.spectrograms, strict=True):
            window = torch.hann_window(length, device=wave.device)
            spectrum = torch.stft(wave, n_fft, hop, length, window=window, return_complex=True).abs()
            # compressed like loudness, so that quiet textures count
            out.append(net((spectrum.clamp(min=1e-5).log() / 3 + 1)[:, None]))
        return out


def detached(module: nn.Module, x: Tensor) -> Judged:
    """The critic's verdict with gradients to ``x`` but none to the critic's weights."""
    weights = {name: p.detach() for name, p in module.named_parameters()}
    return torch.func.functional_call(module, weights, (x,))


def critic_loss(real: Judged, fake: Judged) -> Tensor:
    """Least-squares loss of the discriminator: real to 1, generated to 0; mean over its parts."""
    terms = [(r - 1).square().mean() + f.square().mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def deceive_loss(fake: Judged) -> Tensor:
    """Least-squares loss of the generator: generated to 1."""
    return torch.stack([(f - 1).square().mean() for f, _ in fake]).mean()


def feature_loss(real: Judged, fake: Judged) -> Tensor:
    """Mean absolute difference of the critic's features, each relative to the real one's mean magnitude."""
    terms = [
        (a.detach() - b).abs().mean() / a.detach().abs().mean().clamp(min=1e-4)
        for (_, real_features), (_, fake_features) in zip(real, fake, strict=True)
        for a, b in zip(real_features, fake_features, strict=True)
    ]
    return torch.stack(terms).mean()


def adversarial_terms(critic: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """All terms of one step: "critic" (trains the critic alone), "deceive" and "features" (the generator alone)."""
    seen = detached(critic, fake)
    with torch.no_grad():
        target = critic(real)
    return {
        "critic": critic_loss(critic(real), critic(fake.detach())),
        "deceive": deceive_loss(seen),
        "features": feature_loss(target, seen),
    }
