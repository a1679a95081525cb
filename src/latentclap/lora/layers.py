"""Adapters in a UNet: where they go, how they begin, and how they become part of its weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentclap.errors import InputError
from latentclap.files import add_weights

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


#: Where adapters go. AudioLDM's UNet has no attention to text: the text enters by class_embedding, and each residual
#: block takes it in by time_emb_proj. Attention and what surrounds it are where pixels far apart meet. All of these
#: are matrix products; left out are the 3x3 convolutions, half of the weights.
TARGETS = (
    "class_embedding",
    "time_emb_proj",
    "proj_in",
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_out",
)


def add_adapters(unet: nn.Module, rank: int, *, seed: int = 0) -> nn.Module:
    """Freeze a UNet and put adapters beside its :data:`TARGETS`, in place: W x becomes W x + B A x.

    B begins with zeros, so that the function stays what it is; A (rank, in) is of the seed, whatever was drawn
    before. The scale, peft's alpha / rank, is 1.

    Args:
        unet: diffusers' ``UNet2DConditionModel``.
        rank: rows of A and columns of B.
        seed: of A.

    Returns:
        ``unet`` itself; only A and B require gradients.

    Raises:
        InputError: it has adapters already.
    """
    from peft import LoraConfig

    if getattr(unet, "peft_config", None):
        raise InputError(
            "the UNet has adapters already: merge them first (unet.fuse_lora(), unet.unload_lora())"
        )
    with torch.random.fork_rng(devices=[]):  # peft draws too
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            p.requires_grad_(".lora_A." in name or ".lora_B." in name)
            if ".lora_A." in name:  # as peft begins, and as a linear layer does
                drawn = torch.empty(p.shape, device="cpu", dtype=torch.float32)
                p.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
    return unet


def take_adapters(unet: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapter, float32 on the CPU: ``<module>.lora_A.weight`` (rank, in), ``lora_B`` (out, rank).

    Those of 1x1 convolutions have two more dimensions of 1.
    """
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet, adapter_name="default")
    return {k: v.detach().float().cpu().contiguous() for k, v in state.items()}


def merge_adapters(unet: nn.Module) -> nn.Module:
    """Add the adapters to the weights that they belong to, and take them away, in place: an ordinary UNet is left."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def base_digest(system: FoleySystem) -> str:
    """Digest of what adapters are of: the UNet's weights, and the tuning layer's where there is one."""
    hasher = hashlib.sha256()
    add_weights(hasher, system.unet)
    if system.tuning is not None:
        add_weights(hasher, system.tuning, "tuning.")
    return hasher.hexdigest()[:16]


def adapter_parameters(unet: Mapping[str, Any], rank: int) -> tuple[int, int]:
    """How many parameters train at a rank, and how many there are, without any memory.

    Args:
        unet: configuration of a diffusers ``UNet2DConditionModel``.
        rank: of the adapters; 0: all train.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(unet)
    total = sum(p.numel() for p in net.parameters())
    if not rank:
        return total, total
    trained = 0
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(f".{name}".endswith(f".{t}") for t in TARGETS):
            trained += rank * (layer.weight.shape[0] + layer.weight.shape[1])
    return trained, total
