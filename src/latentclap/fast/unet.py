"""AudioLDM's UNet, the same function in fewer passes over memory: :func:`speed_up`.

What a profile of the compiled UNet on a GPU showed beside convolutions and matrix products, and what is done here:
activations that change their order in memory around every convolution (all stay channels last), group normalisation
(:mod:`latentclap.fast.ops`), three products for query, key and value (one), 1x1 convolutions (matrix products), and
convolutions over pixels that were just repeated (over the pixels themselves).
The weights stay where they are, under their names: a checkpoint does not know which of the two it came from.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from latentclap.fast.ops import geglu, group_norm

Net = TypeVar("Net", bound=nn.Module)


def norm(module: nn.GroupNorm, x: Tensor, *, shift: Tensor | None = None, silu: bool = False) -> Tensor:
    """A GroupNorm module's own normalisation of x (N, C, H, W)."""
    return group_norm(x, module.weight, module.bias, module.num_groups, module.eps, shift=shift, silu=silu)


class FastGroupNorm(nn.GroupNorm):
    """Group normalisation by our operator."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        return norm(self, x)


def pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C): a view, where channels come last in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """(N, H W, C) -> (N, C, H, W), channels last, as high and wide as another: a view."""
    return x.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def pointwise(module: nn.Module, x: Tensor, like: Tensor) -> Tensor:
    """A 1x1 convolution of (N, P, C), pixels of an image as high and wide as another, as the product that it is.

    One with an adapter computes by itself: its weight alone is not all of it.
    """
    if type(module) is nn.Conv2d:
        return F.linear(x, module.weight.flatten(1), module.bias)
    return pixels(module(image(x, like)))


class FastResnetBlock(ResnetBlock2D):
    """Residual block: norm, SiLU and the embedding's addition in one operator."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) and the embedding (N, E) -> (N, C', H, W)."""
        h = norm(self.norm1, input_tensor, silu=True)
        h = F.conv2d(h, self.conv1.weight, padding=self.conv1.padding)
        shift = self.time_emb_proj(F.silu(temb)) + self.conv1.bias
        h = self.conv2(self.dropout(norm(self.norm2, h, shift=shift, silu=True)))
        if self.conv_shortcut is not None:
            input_tensor = image(pointwise(self.conv_shortcut, pixels(input_tensor), h), h)
        return input_tensor + h


class FastAttention(Attention):
    """Self-attention by one product for query, key and value; by three where one has an adapter."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, P, C) -> (N, P, C)."""
        layers = (self.to_q, self.to_k, self.to_v)
        if all(type(layer) is nn.Linear for layer in layers):
            weight = torch.cat([layer.weight for layer in layers])
            qkv = F.linear(hidden_states, weight).unflatten(2, (3, self.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, P, C / heads)
        else:  # the weight of a layer with an adapter is not all of it
            q, k, v = (
                layer(hidden_states).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in layers
            )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class FastTransformerBlock(BasicTransformerBlock):
    """Attention twice (AudioLDM has no other tokens: its second attention looks at the same ones) and GEGLU."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, P, C) -> (N, P, C)."""
        x = hidden_states
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        gate, _, out = self.ff.net
        return x + out(geglu(gate.proj(self.norm3(x))))


class FastTransformer(Transformer2DModel):
    """Transformer over pixels, with its 1x1 convolutions as products."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """(N, C, H, W) -> the same."""
        x = pointwise(self.proj_in, pixels(norm(self.norm, hidden_states)), hidden_states)
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x)
            else:
                x = block(x)
        return (image(pointwise(self.proj_out, x, hidden_states), hidden_states) + hidden_states,)


def doubled(weight: Tensor) -> Tensor:
    """A 3x3 convolution's weight (O, I, 3, 3) after doubling by repetition, as 2x2 weights (2, 2, O, I, 2, 2).

    Of the four pixels that become of one, each sees 2 x 2 different ones through the 3 x 3: weights that meet the
    same pixel add up. The first two dimensions are the pixel's place among the four.
    """

    def merged(w: Tensor, dim: int) -> Tensor:
        first, second, third = w.unbind(dim)
        upper = torch.stack([first, second + third], dim)
        return torch.stack([upper, torch.stack([first + second, third], dim)])

    # sums in float32: one rounding, as of any weight
    return merged(merged(weight.float(), 2), 4).transpose(0, 1)


class FastUpsample(Upsample2D):
    """Doubling and its convolution in one: 4 / 9 of the operations, and no image of repeated pixels in memory."""

    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 H, 2 W)."""
        n, _, h, w = hidden_states.shape
        other = output_size is not None and tuple(output_size) != (2 * h, 2 * w)
        conv, layout = self.conv, torch.channels_last
        if other or type(conv) is not nn.Conv2d or (conv.kernel_size, conv.padding) != ((3, 3), (1, 1)):
            return super().forward(hidden_states, output_size)
        weight = doubled(conv.weight).flatten(0, 2).to(conv.weight.dtype).contiguous(memory_format=layout)
        bias = None if conv.bias is None else conv.bias.repeat(4)
        # a pixel of this is a window of 2 x 2, and has four results: one for each new pixel that a window belongs to
        y = F.conv2d(hidden_states, weight, bias, padding=1)
        y = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
        rows = [torch.stack([y[:, a : a + h, b : b + w, a, b] for b in (0, 1)], 3) for a in (0, 1)]
        return torch.stack(rows, 2).reshape(n, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)


def _plain_resnet(m: nn.Module) -> bool:
    return (
        type(m.conv1) is nn.Conv2d
        and m.upsample is None
        and m.downsample is None
        and m.time_emb_proj is not None
        and m.time_embedding_norm == "default"
        and not m.skip_time_act
        and m.output_scale_factor == 1
        and isinstance(m.nonlinearity, nn.SiLU)
    )


def _plain_attention(m: nn.Module) -> bool:
    return (
        m.to_q.bias is None
        and m.to_q.weight.shape == m.to_k.weight.shape == m.to_v.weight.shape
        and all(x is None for x in (m.group_norm, m.spatial_norm, m.norm_q, m.norm_k))
        and not m.residual_connection
        and m.rescale_output_factor == 1
        and m.to_out[1].p == 0
    )


def _plain_block(m: nn.Module) -> bool:
    net = m.ff.net if isinstance(m.ff, FeedForward) else ()
    return (
        m.norm_type == "layer_norm"
        and m.attn2 is not None
        and not m.only_cross_attention
        and m.pos_embed is None
        and _plain_attention(m.attn1)
        and _plain_attention(m.attn2)
        and len(net) == 3
        and isinstance(net[0], GEGLU)
        and net[1].p == 0
    )


def _plain_transformer(m: nn.Module) -> bool:
    return (
        m.is_input_continuous
        and not m.use_linear_projection
        and all(type(b) is BasicTransformerBlock and _plain_block(b) for b in m.transformer_blocks)
    )


def _plain_upsample(m: nn.Module) -> bool:
    return m.norm is None and m.use_conv and not m.use_conv_transpose and m.name == "conv" and m.interpolate


#: class of diffusers' -> ours
_OURS = {
    Attention: FastAttention,
    BasicTransformerBlock: FastTransformerBlock,
    Transformer2DModel: FastTransformer,
    ResnetBlock2D: FastResnetBlock,
    Upsample2D: FastUpsample,
    nn.GroupNorm: FastGroupNorm,
}


def speed_up(net: Net) -> Net:
    """Let a UNet of diffusers' compute the same in fewer passes over memory, in place; weights and names stay.

    Blocks with options that AudioLDM does not use stay as they are; layers with LoRA adapters compute by themselves.
    Results differ by rounding: in float32 about as much as between two orders of adding, in bf16 by less than bf16's
    own error. ``condition`` must be given as class labels, as AudioLDM's is: the second attention of each block looks
    at no other tokens.

    Args:
        net: a ``UNet2DConditionModel``, or a part of one.

    Returns:
        ``net`` itself, its convolutions' weights channels last.
    """
    for m in list(net.modules()):
        if type(m) is Transformer2DModel and _plain_transformer(m):
            parts = [m, *m.transformer_blocks, *(a for b in m.transformer_blocks for a in (b.attn1, b.attn2))]
        elif (type(m) is ResnetBlock2D and _plain_resnet(m)) or (
            type(m) is Upsample2D and _plain_upsample(m)
        ):
            parts = [m]
        elif type(getattr(m, "conv_norm_out", None)) is nn.GroupNorm:
            parts = [m.conv_norm_out]
        else:
            parts = []
        for part in parts:
            part.__class__ = _OURS[type(part)]
    return net.to(memory_format=torch.channels_last)


def half_weights(net: Net, dtype: torch.dtype = torch.bfloat16) -> Net:
    """Store the weights of convolutions and linear layers as autocast would cast them in every call; in place.

    Under autocast the result is the same to the bit, without the casts, but after :func:`speed_up`: the bias of a
    block's first convolution, which is added in float32 there, is then rounded too. Not for training.
    """
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            m.to(dtype)
    return net


def slow_down(net: Net) -> Net:
    """Undo :func:`speed_up`: diffusers' own modules again, weights in their usual order."""
    back = {ours: theirs for theirs, ours in _OURS.items()}
    for m in net.modules():
        if type(m) in back:
            m.__class__ = back[type(m)]
    return net.to(memory_format=torch.contiguous_format)
