"""Eq. 1, the loss of the diffusion model, and eq. 4, the sum of that and other terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from latentclap.errors import InputError


def ddpm_loss(eps_theta: Tensor, eps: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Eq. 1: ||eps - eps_theta||^2, as mean over the elements of each item (AudioLDM's code, facts A4).

    A network that predicts something else is compared with that: give its output, and
    :meth:`~latentclap.diffusion.Process.training_target` in the place of eps.

    Args:
        eps_theta: predicted noise (B, C, T, F).
        eps: the noise that was added, same shape.
        reduction: "mean" over the batch too, or "none" for a (B,) tensor.

    Raises:
        InputError: two shapes, or another reduction.
    """
    if eps_theta.shape != eps.shape:
        raise InputError(
            f"ddpm_loss: eps_theta is {tuple(eps_theta.shape)} and eps {tuple(eps.shape)}; give one shape"
        )
    if reduction not in ("mean", "none"):
        raise InputError(f"ddpm_loss: unknown reduction {reduction!r}; there are mean, none")
    per_item = (eps_theta.float() - eps.float()).square().flatten(1).mean(1)
    return per_item.mean() if reduction == "mean" else per_item


def total_loss(terms: Mapping[str, Tensor], lambdas: Mapping[str, float]) -> Tensor:
    """Eq. 4 for any number of named terms: the sum of lambda_k L_k.

    A term whose lambda is 0 is left out altogether, so that eq. 4 with lambda = 0 is eq. 1 bit for bit.

    Raises:
        KeyError: a term has no lambda.
        ValueError: every term is left out.
    """
    total: Tensor | None = None
    for name, value in terms.items():
        lam = lambdas[name]
        if lam == 0:
            continue
        term = value if lam == 1 else lam * value
        total = term if total is None else total + term
    if total is None:
        raise ValueError("every lambda is 0: there is nothing to train")
    return total
