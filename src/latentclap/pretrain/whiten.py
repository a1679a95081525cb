"""Latents of unit variance in every direction: a change of basis folded into the VAE's two 1x1 convolutions.

A small VAE with a weak KL term is free to put what matters into directions of very different size. On the first
mini VAE the variances along the principal axes of its eight channels spanned four orders of magnitude: eq. 1 then
is nearly all about three of them, and what the others carry is drowned in noise after a handful of diffusion steps.
A linear map before and its inverse behind change no reconstruction, and give the diffusion model latents in which
every direction is as large as the noise. Of all such maps we take the one that moves the latents least (ZCA): for a
VAE that was white and has been trained on it is nearly the identity, and a diffusion model of the former latents can
go on with the new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def principal_axes(mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variances (C,) rising, and axes (C, C) as columns, of latents (n, C, T, F) over all positions."""
    x = mean.double().permute(0, 2, 3, 1).flatten(0, 2)
    centre = x.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov((x - centre).T))
    return centre, variances, axes


@torch.no_grad()
def whiten(vae: nn.Module, mean: Tensor, logvar: Tensor, *, floor: float = 1e-8) -> None:
    """Change the VAE in place so that its latents have zero mean and identity covariance over channels.

    ``quant_conv`` gets A = U Λ^(-1/2) U^T and ``post_quant_conv`` its inverse, so that decode(encode(x)) stays the
    same. The posterior's variance becomes one constant per channel, the diagonal of A Σ A^T for the mean
    posterior covariance Σ: a full covariance has no place in a diagonal Gaussian.

    Args:
        vae: ``AutoencoderKL`` with both 1x1 convolutions.
        mean: posterior means (n, C, T, F), unscaled.
        logvar: their log-variances, same shape.
        floor: smallest variance of an axis; a direction that carries nothing is not blown up.
    """
    centre, variances, axes = principal_axes(mean)
    root = variances.clamp(min=floor).sqrt()
    A, back = axes / root @ axes.T, axes * root @ axes.T  # z' = A (z - centre), z = back z' + centre
    posterior = logvar.double().exp().mean((0, 2, 3))
    channels = len(root)
    quant, post = vae.quant_conv, vae.post_quant_conv
    W, b = quant.weight.double()[:channels, :, 0, 0], quant.bias.double()[:channels]
    quant.weight.zero_()
    quant.weight[:channels, :, 0, 0] = (A @ W).to(quant.weight)
    quant.bias[:channels] = (A @ (b - centre)).to(quant.bias)
    quant.bias[channels:] = (A.square() @ posterior).log().to(quant.bias)
    W, b = post.weight.double()[:, :, 0, 0], post.bias.double()
    post.weight[:, :, 0, 0] = (W @ back).to(post.weight)
    post.bias.copy_((b + W @ centre).to(post.bias))
    vae.register_to_config(scaling_factor=1.0)
