"""AudioLDM's UNet as diffusers' UNet2DConditionModel: sizes from the tensors' shapes, and the names.

The original numbers its blocks through: input block 0 is the first convolution, then every level has R residual
blocks and a downsampler; output blocks run the other way, R + 1 to a level (facts A5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from latentclap.errors import InputError

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "film_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def infer_unet(state: Mapping[str, Tensor], head_channels: int | None = None) -> dict[str, Any]:
    """The configuration of a ``UNet2DConditionModel`` from an original UNet's tensors.

    Channels, levels, blocks and the place of attention follow from shapes and names. The width of an attention
    head does not: AudioLDM's S and M models have 32 channels a head, L has 64 (facts A5). In diffusers
    ``attention_head_dim`` is the *number* of heads, here one number for each level; diffusers' own conversion
    leaves it at 8 for all levels.

    Args:
        state: the UNet's entries, without "model.diffusion_model.".
        head_channels: channels of a head; None for AudioLDM's.

    Raises:
        InputError: entries are absent without which there is no such UNet, or heads do not divide a level.
    """
    try:
        first, last = state["input_blocks.0.0.weight"], state["out.2.weight"]
        film = state["film_emb.weight"]
    except KeyError as error:
        raise InputError(f"not AudioLDM's UNet with FiLM conditioning: {error.args[0]} is missing") from None
    width = first.shape[0]
    blocks = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("input_blocks."))
    per_level = _residual_blocks(state, blocks)
    levels = (blocks - 1) // (per_level + 1) + 1
    starts = [1 + level * (per_level + 1) for level in range(levels)]
    channels = [state[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in starts]
    attention = [f"input_blocks.{i}.1.proj_in.weight" in state for i in starts]
    head = head_channels or (64 if width >= 256 else 32)
    wrong = [c for c, a in zip(channels, attention, strict=True) if a and c % head]
    if wrong:
        raise InputError(f"heads of {head} channels do not divide {wrong[0]}: give --head-channels")
    return {
        "sample_size": 256,
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "block_out_channels": channels,
        "layers_per_block": per_level,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "attention_head_dim": [max(1, c // head) for c in channels],
        "cross_attention_dim": channels,
        "class_embed_type": "simple_projection",
        "class_embeddings_concat": True,
        "projection_class_embeddings_input_dim": film.shape[1],
    }


def _residual_blocks(state: Mapping[str, Tensor], blocks: int) -> int:
    """Residual blocks per level: the first downsampler ends the first level."""
    ends = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in state]
    return (ends[0] if ends else blocks) - 1


def unet_names(config: Mapping[str, Any]) -> Callable[[str], str | None]:
    """A function from the original names to diffusers' for a configuration of :func:`infer_unet`."""
    per_level = config["layers_per_block"]

    def rename(name: str) -> str | None:
        for old, new in _OUTER.items():
            if name.startswith(old + "."):
                return new + name[len(old) :]
        match = re.match(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)|middle_block\.(\d)\.(.+)", name)
        if match is None:
            return None
        if match[5] is not None:
            place = ("resnets.0", "attentions.0", "resnets.1")[int(match[5])]
            return f"mid_block.{place}.{_inner(place, match[6])}"
        index, slot, rest = int(match[2]), int(match[3]), match[4]
        if match[1] == "input_blocks":
            return _down(index, slot, rest, per_level)
        return _up(index, slot, rest, per_level)

    return rename


def _down(index: int, slot: int, rest: str, per_level: int) -> str:
    level, position = divmod(index - 1, per_level + 1)
    if rest.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{rest[3:]}"
    place = f"{('resnets', 'attentions')[slot]}.{position}"
    return f"down_blocks.{level}.{place}.{_inner(place, rest)}"


def _up(index: int, slot: int, rest: str, per_level: int) -> str:
    level, position = divmod(index, per_level + 1)
    # an upsampler follows the attention, or the residual block where there is none
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    place = f"{('resnets', 'attentions')[slot]}.{position}"
    return f"up_blocks.{level}.{place}.{_inner(place, rest)}"


def _inner(place: str, rest: str) -> str:
    """Inside a residual block the names differ; inside a transformer they are the same."""
    if place.startswith("resnets"):
        for old, new in _RESNET.items():
            if rest.startswith(old + "."):
                return new + rest[len(old) :]
    return rest
