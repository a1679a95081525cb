"""AudioLDM's VAE and vocoder as diffusers' AutoencoderKL and transformers' SpeechT5HifiGan (facts A3, A6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from latentclap.errors import InputError

#: What the original first stage holds that neither encodes nor decodes.
VAE_BENIGN = [(r"^loss\.", "discriminator and perceptual loss of the VAE's own training")]
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MID = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
#: kernel sizes 16, 16, 8, 4, 4 upsample by 5, 4, 2, 2, 2: strides are not in the tensors (facts A6)
_UPSAMPLING = {
    (16, 16, 8, 4, 4): [5, 4, 2, 2, 2],
}


def infer_vae(state: Mapping[str, Tensor], scaling_factor: float) -> dict[str, Any]:
    """The configuration of an ``AutoencoderKL`` from an original VAE's tensors and the scale factor.

    Raises:
        InputError: entries are absent without which there is no such VAE.
    """
    try:
        levels = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("encoder.down."))
        blocks = 1 + max(int(n.split(".")[4]) for n in state if n.startswith("encoder.down.0.block."))
        channels = [state[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
        return {
            "in_channels": state["encoder.conv_in.weight"].shape[1],
            "out_channels": state["decoder.conv_out.weight"].shape[0],
            "latent_channels": state["post_quant_conv.weight"].shape[1],
            "block_out_channels": channels,
            "layers_per_block": blocks,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in state,
            "scaling_factor": scaling_factor,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"not AudioLDM's VAE (first_stage_model.*): {error}") from None


def vae_names(config: Mapping[str, Any]) -> Callable[[str], str | None]:
    """A function from the original names to diffusers'. Decoder levels count the other way round there."""
    levels = len(config["block_out_channels"])

    def rename(name: str) -> str | None:
        if re.match(r"(post_)?quant_conv\.", name):
            return name
        match = re.match(r"(encoder|decoder)\.(.+)", name)
        if match is None:
            return None
        half, rest = match[1], match[2]
        rest = re.sub(r"^norm_out\.", "conv_norm_out.", rest)
        if rest.startswith("mid."):
            inner = _mid(rest)
            return f"{half}.{inner}" if inner else None
        block = re.match(r"(down|up)\.(\d+)\.(block|downsample|upsample)\.(.+)", rest)
        if block is None:
            return f"{half}.{rest}" if re.match(r"(conv_in|conv_out|conv_norm_out)\.", rest) else None
        level = int(block[2]) if block[1] == "down" else levels - 1 - int(block[2])
        inner = block[4].replace("nin_shortcut", "conv_shortcut")
        place = "resnets." if block[3] == "block" else f"{block[3]}rs.0."
        return f"{half}.{block[1]}_blocks.{level}.{place}{inner}"

    return rename


def _mid(rest: str) -> str | None:
    _, place, inner = rest.split(".", 2)
    if place not in _MID:
        return None
    if place == "attn_1":
        layer, _, leaf = inner.partition(".")
        inner = f"{_ATTENTION.get(layer, layer)}.{leaf}"
    return f"mid_block.{_MID[place]}.{inner}"


def linear_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's entries with the 1x1 convolutions of its attention as the matrices that diffusers has."""
    convolution = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")
    return {n: t[:, :, 0, 0] if convolution.search(n) and t.ndim == 4 else t for n, t in state.items()}


def infer_vocoder(state: Mapping[str, Tensor], sampling_rate: int = 16_000) -> dict[str, Any]:
    """The configuration of a ``SpeechT5HifiGan`` from a HiFi-GAN generator's tensors (weight norm folded).

    Raises:
        InputError: entries are absent, or the upsampling kernels are not AudioLDM's.
    """
    try:
        stages = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("ups."))
        kernels = tuple(state[f"ups.{i}.weight"].shape[2] for i in range(stages))
        blocks = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("resblocks."))
        per_stage = blocks // stages
        sizes = [state[f"resblocks.{i}.convs1.0.weight"].shape[2] for i in range(per_stage)]
        depth = 1 + max(int(n.split(".")[3]) for n in state if n.startswith("resblocks.0.convs1."))
        first = state["conv_pre.weight"]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"not a HiFi-GAN generator (first_stage_model.vocoder.*): {error}") from None
    if kernels not in _UPSAMPLING:
        raise InputError(f"a HiFi-GAN with upsampling kernels {kernels}: only AudioLDM's 16 kHz one is known")
    return {
        "model_in_dim": first.shape[1],
        "sampling_rate": sampling_rate,
        "upsample_initial_channel": first.shape[0],
        "upsample_rates": _UPSAMPLING[kernels],
        "upsample_kernel_sizes": list(kernels),
        "resblock_kernel_sizes": sizes,
        # dilations 1, 3, 5 are not in the tensors either (facts A6)
        "resblock_dilation_sizes": [[1 + 2 * i for i in range(depth)]] * per_stage,
        "leaky_relu_slope": 0.1,
        "normalize_before": False,
    }


def vocoder_name(name: str) -> str | None:
    """HiFi-GAN's name in transformers."""
    name = re.sub(r"^ups\.", "upsampler.", name)
    return name if re.match(r"(conv_pre|conv_post|upsampler|resblocks)\.", name) else None


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from their weight-norm factors, w = g v / |v|, in either of torch's spellings."""
    folded = dict(state)
    spellings = (
        (".weight_g", ".weight_v"),
        (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    )
    for end_g, end_v in spellings:
        for name in [n for n in state if n.endswith(end_g)]:
            stem = name.removesuffix(end_g)
            if stem + end_v not in state:
                continue
            g, v = folded.pop(name), folded.pop(stem + end_v)
            folded[f"{stem}.weight"] = torch._weight_norm(v, g, 0)
    return folded
