"""Carrying an LDM's condition over to a CLAP that was trained on.

The UNet knows its condition through one linear layer (``class_embedding``, AudioLDM's FiLM). After more training of
CLAP the same sounds and words have other embeddings; the layer is turned so that it does with the new ones what it
did with the old, as far as a linear map can, and the LDM's own training goes on from there instead of from confusion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentclap.system import FoleySystem


@torch.no_grad()
def carry_condition(unet: nn.Module, old: Tensor, new: Tensor, *, ridge: float = 1e-5) -> float:
    """Fit old ~ A new + c by least squares, and let the UNet's condition layer W E + b be W (A E + c) + b, in place.

    Args:
        unet: diffusers' UNet2DConditionModel with a linear ``class_embedding``.
        old: embeddings that the UNet was trained with (n, D).
        new: embeddings of the same sounds and texts that it will get (n, D).
        ridge: penalty on A, in units of n: directions that the embeddings hardly have stay out.

    Returns:
        The share of the old embeddings' variance that the fit explains.
    """
    old, new = old.double().cpu(), new.double().cpu()
    about_old, about_new = old - old.mean(0), new - new.mean(0)
    gram = about_new.T @ about_new + ridge * len(new) * torch.eye(new.shape[1], dtype=torch.float64)
    A = torch.linalg.solve(gram, about_new.T @ about_old)
    c = old.mean(0) - new.mean(0) @ A
    layer = unet.class_embedding
    W = layer.weight.double().cpu()
    layer.bias.copy_(layer.bias + (W @ c).to(layer.bias))
    layer.weight.copy_((W @ A.T).to(layer.weight))
    return 1 - ((about_old - about_new @ A).square().sum() / about_old.square().sum()).item()


def embeddings(system: FoleySystem, waves: Tensor, texts: list[str], batch: int = 32) -> Tensor:
    """E_audio of waves (n, samples) int16, then E_text of texts: (n + m, D)."""
    audio = [
        system.encode_audio(waves[i : i + batch].float().numpy() / 32767) for i in range(0, len(waves), batch)
    ]
    words = [system.encode_text(texts[i : i + 256]) for i in range(0, len(texts), 256)]
    return torch.cat([e.cpu() for e in (*audio, *words)])
