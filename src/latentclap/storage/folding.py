"""A tuning layer is linear, and so is the UNet's class embedding: one folds into the other, and out again."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from latentclap.errors import InputError
from latentclap.files import load_tensors


def fold(unet: nn.Module, tuning: nn.Linear) -> nn.Module:
    """A copy of the UNet whose class embedding holds the tuning layer too: W' = W W_t, b' = W b_t + b."""
    folded = copy.deepcopy(unet)
    layer = folded.class_embedding
    with torch.no_grad():
        # in float64, so that rounding once is all that folding changes
        W, b = layer.weight.double(), layer.bias.double()
        layer.weight.copy_(W @ tuning.weight.double())
        layer.bias.copy_(W @ tuning.bias.double() + b)
    return folded


def unfold(unet: nn.Module, path: Path) -> nn.Linear:
    """Put the UNet's own class embedding back and return the tuning layer.

    Raises:
        InputError: the file lacks one of them, or they are of another size than the UNet's.
    """
    factors, layer = load_tensors(path), unet.class_embedding
    if not isinstance(layer, nn.Linear):
        raise InputError(f"{path}: the UNet beside it has no class embedding that a tuning layer folds into")
    tuning = nn.Linear(layer.in_features, layer.in_features)
    with torch.no_grad():
        for name, module in (("class_embedding", layer), ("tuning", tuning)):
            for key, value in module.named_parameters():
                given, needed = factors.get(f"{name}.{key}"), tuple(value.shape)
                if given is None or given.shape != needed:
                    found = "missing" if given is None else tuple(given.shape)
                    raise InputError(
                        f"{path}: {name}.{key} is {found}, the UNet needs {needed}; copy or download it again"
                    )
                value.copy_(given.float())
    return tuning
