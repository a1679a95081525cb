"""A VAE with more channels that computes what a narrower one does (Net2WiderNet, arXiv:1511.05641).

A decoder that has reached its limit can so go on at twice the width from where it is, and the encoder's latents stay
what they are: the diffusion model and φ, which were trained on them, are still right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: the decoder's side of the latent; the rest is the encoder's
_DECODER = ("decoder.", "post_quant_conv.")


def widening(narrow: nn.Module, wide: nn.Module) -> int:
    """How many times as many channels ``wide`` has in every block; 0 where one cannot be made from the other.

    Args:
        narrow: ``AutoencoderKL``.
        wide: ``AutoencoderKL``.
    """
    a, b = (_architecture(vae) for vae in (narrow, wide))
    few, many = a.pop("block_out_channels"), b.pop("block_out_channels")
    if a != b or len(few) != len(many):
        return 0
    factors = {m / f for f, m in zip(few, many, strict=True)}
    factor = factors.pop()
    return 0 if factors or factor != int(factor) else int(factor)


def _architecture(vae: nn.Module) -> dict[str, Any]:
    """The config without where it was read from and without the latents' scale; lists, as files have, as tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vae.config.items()
        if not name.startswith("_") and name != "scaling_factor"
    }


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module, *, spread: float = 0.25, seed: int = 0) -> None:
    """Give ``wide`` the weights with which it computes what ``narrow`` does, and its latent scale.

    Every channel is there ``factor`` times, the copies side by side: so each is in the group that its original is
    in, whose mean and variance do not change. What reads a channel reads its copies with weights that add up to the
    original's. In the decoder they are split unevenly, by chance: copies that are read alike would get the same
    gradients for ever. The encoder's are split evenly, which half precision holds exactly.

    Args:
        narrow: ``AutoencoderKL``.
        wide: one with a multiple of its channels and the same groups; changed in place.
        spread: standard deviation of a copy's share in the decoder; the mean is one by the factor.
        seed: of the shares.

    Raises:
        ValueError: the one cannot be made from the other.
    """
    factor = widening(narrow, wide)
    if not factor:
        raise ValueError(f"{dict(narrow.config)} cannot be widened to {dict(wide.config)}")
    rng = torch.Generator().manual_seed(seed)
    state = narrow.state_dict()
    for name, target in wide.state_dict().items():
        value = state[name]
        out = target.shape[0] // value.shape[0]
        value = value.repeat_interleave(out, dim=0)
        if value.ndim > 1 and target.shape[1] > value.shape[1]:
            share = _shares(value, factor, spread if name.startswith(_DECODER) else 0.0, rng)
            value = (value.unsqueeze(2) * share).flatten(1, 2)
        target.copy_(value)
    wide.register_to_config(scaling_factor=narrow.config.scaling_factor)


def _shares(weight: Tensor, factor: int, spread: float, rng: torch.Generator) -> Tensor:
    """Shares (out, in, factor, 1, ...) of the copies of each input, for a weight (out, in, ...); they add up to 1."""
    noise = torch.randn((*weight.shape[:2], factor), generator=rng)
    share = 1 / factor + spread * (noise - noise.mean(2, keepdim=True))
    return share.reshape(*share.shape, *[1] * (weight.ndim - 2)).to(weight)


def copies(encoder: nn.Module) -> int:
    """How many copies of each channel a widened VAE's encoder has that has not been trained since; 1 if none."""
    rows = encoder.conv_in.weight.flatten(1)
    return next((k for k in (4, 3, 2) if len(rows) % k == 0 and bool((rows == _first(rows, k)).all())), 1)


def _first(rows: Tensor, factor: int) -> Tensor:
    """Each row's first copy, in its place."""
    return rows[::factor].repeat_interleave(factor, dim=0)


@torch.no_grad()
def separate(encoder: nn.Module, *, spread: float = 0.25, seed: int = 0) -> int:
    """Let the copies in a widened encoder be read unevenly, so that training tells them apart; its output stays.

    Args:
        encoder: of an ``AutoencoderKL`` that :func:`widen` has made; changed in place.
        spread: as in :func:`widen`.
        seed: of the shares.

    Returns:
        The number of copies; with 1 there is nothing to do.
    """
    factor = copies(encoder)
    if factor == 1:
        return 1
    rng = torch.Generator().manual_seed(seed)
    for weight in encoder.state_dict().values():
        # the input has one channel, which has no copies
        if weight.ndim > 1 and weight.shape[1] % factor == 0:
            share = _shares(weight[:, ::factor], factor, spread, rng).flatten(1, 2)
            weight.mul_(share * factor)
    return factor
