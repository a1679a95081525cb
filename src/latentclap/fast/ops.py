"""Operators over the kernels, with gradients: to torch.compile each is one node, and so is its gradient.

An operator that it sees through (``torch.library.triton_op``) would launch from its own code, which takes the
processor less; but it reads the source of each launch again, several times over: half of the time to compile. A step
that is replayed as a CUDA graph pays for no launch at all.
"""

# no "from __future__ import annotations": torch.library reads the annotations themselves
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from latentclap.fast import kernels
except ImportError:  # Triton comes with torch's builds for NVIDIA and AMD GPUs
    kernels = None

#: elements of a program of GEGLU's kernels
_BLOCK = 512


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    shift: Optional[Tensor] = None,  # noqa: UP045
    silu: bool = False,
) -> Tensor:
    """silu(group_norm(x + shift)), by one read for the statistics and one for the result.

    Args:
        x: (N, C, H, W); channels last on a GPU, or it is copied into that order.
        weight: gamma (C,).
        bias: beta (C,).
        groups: number of groups, a divisor of C.
        eps: added to the variance.
        shift: (N, C), added to every pixel of a channel first: a convolution's bias, an embedding.
        silu: apply SiLU to the result.

    Returns:
        (N, C, H, W) of x's type; the arithmetic within is float32.
    """
    if x.is_cuda and kernels is not None:
        return _norm(x, weight, bias, shift, groups, eps, silu)[0]
    z = x.float() if shift is None else x.float() + shift.float()[:, :, None, None]
    z = F.group_norm(z, groups, weight.float(), bias.float(), eps)
    return (F.silu(z) if silu else z).to(x.dtype)


def geglu(x: Tensor) -> Tensor:
    """x (..., 2 D) -> (..., D): the first half times the GELU of the second."""
    if x.is_cuda and kernels is not None:
        return _gate(x)
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run a kernel on its tensors' GPU: Triton starts it on the current one, which may be another."""
    x = next(a for a in args if isinstance(a, Tensor))
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        kernel[grid](*args, **constants)


def _pow2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _sizes(x: Tensor, groups: int) -> tuple[int, ...]:
    """N, C, S, K, tiles, length of a span, spans, blocks of channels."""
    n, c, h, w = x.shape
    s = h * w
    span = max(kernels.STEP, min(kernels.SPAN, _pow2(s)))
    return n, c, s, c // groups, -(-s // kernels.PIXELS), span, -(-s // span), -(-c // kernels.CHANNELS)


def normalised(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Optional[Tensor],  # noqa: UP045
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernels of :func:`group_norm`: y, mean (N, G), 1 / standard deviation (N, G), channels' means (N, C)."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, s, k, tiles, length, spans, blocks = _sizes(x, groups)
    tile = {"P": kernels.PIXELS, "B": kernels.CHANNELS}
    span = {"L": length, "P": kernels.STEP, "B": kernels.CHANNELS}
    of_spans = [x.new_empty((n * spans, c), dtype=torch.float32) for _ in range(2)]
    mean, rstd = (x.new_empty((n, groups), dtype=torch.float32) for _ in range(2))
    own = x.new_empty((n, c), dtype=torch.float32)
    y = _like(x)
    added = x if shift is None else shift.contiguous()
    options = {"SHIFT": shift is not None}
    _launch(kernels.moments, (n * spans, blocks), x, *of_spans, c, s, spans, **span)
    _launch(
        kernels.group_moments,
        (n * groups,),
        *(*of_spans, added, mean, rstd, own, c, s, groups, k, spans, eps),
        **options,
        L=length,
        T=_pow2(spans),
        W=_pow2(k),
    )
    _launch(
        kernels.normalise,
        (n * tiles, blocks),
        *(x, added, weight, bias, mean, rstd, y, c, s, groups, k, tiles),
        **options,
        SILU=silu,
        **tile,
        num_warps=8,
    )
    return y, mean, rstd, own


def normalised_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Optional[Tensor],  # noqa: UP045
    mean: Tensor,
    rstd: Tensor,
    own: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and shift."""
    x, dy = (v.contiguous(memory_format=torch.channels_last) for v in (x, dy))
    n, c, s, k, tiles, length, spans, blocks = _sizes(x, groups)
    tile = {"P": kernels.PIXELS, "B": kernels.CHANNELS}
    span = {"L": length, "P": kernels.STEP, "B": kernels.CHANNELS}
    of_spans = [x.new_empty((n * spans, c), dtype=torch.float32) for _ in range(2)]
    sum_z, sum_zx, dshift = (x.new_empty((n, c), dtype=torch.float32) for _ in range(3))
    of_groups = [x.new_empty((n, groups), dtype=torch.float32) for _ in range(2)]
    dx = _like(x)
    added = x if shift is None else shift.contiguous()
    options = {"SHIFT": shift is not None, "SILU": silu}
    _launch(
        kernels.backward_sums,
        (n * spans, blocks),
        *(x, dy, added, weight, bias, mean, rstd, *of_spans, c, s, groups, k, spans),
        **options,
        **span,
    )
    _launch(
        kernels.group_backward,
        (n * groups,),
        *(*of_spans, weight, mean, rstd, own, sum_z, sum_zx, *of_groups, dshift, c, s, groups, k, spans),
        T=_pow2(spans),
        W=_pow2(k),
    )
    _launch(
        kernels.backward_input,
        (n * tiles, blocks),
        *(x, dy, added, weight, bias, mean, rstd, *of_groups, dx, c, s, groups, k, tiles),
        **options,
        **tile,
        num_warps=8,
    )
    return dx, sum_zx.sum(0).to(weight.dtype), sum_z.sum(0).to(bias.dtype), dshift


def gated(x: Tensor) -> Tensor:
    """The kernel of :func:`geglu`."""
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    d = y.shape[-1]
    _launch(kernels.geglu_forward, (y.numel() // d, -(-d // _BLOCK)), x, y, d, B=_BLOCK, num_warps=2)
    return y


def gated_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of x."""
    x, dy = x.contiguous(), dy.contiguous()
    dx = torch.empty_like(x)
    d = dy.shape[-1]
    _launch(kernels.geglu_backward, (dy.numel() // d, -(-d // _BLOCK)), x, dy, dx, d, B=_BLOCK, num_warps=2)
    return dx


def _keep_norm(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, shift, ctx.groups, _, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, shift, *output[1:])


def _of_norm(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    shift = ctx.saved_tensors[3]
    *grads, dshift = _norm_backward(dy, *ctx.saved_tensors, ctx.groups, ctx.silu)
    return *grads, None if shift is None else dshift.to(shift.dtype), None, None, None


def _keep_gate(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _of_gate(ctx: Any, dy: Tensor) -> Tensor:
    return _gate_backward(dy, *ctx.saved_tensors)


def _like(x: Tensor) -> Tensor:
    """Memory for a result, channels last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _planned_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Optional[Tensor],  # noqa: UP045
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`normalised` gives, without contents."""
    n, c = x.shape[:2]
    mean, rstd = (x.new_empty((n, groups), dtype=torch.float32) for _ in range(2))
    return _like(x), mean, rstd, x.new_empty((n, c), dtype=torch.float32)


def _planned_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Optional[Tensor],  # noqa: UP045
    mean: Tensor,
    rstd: Tensor,
    own: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`normalised_backward` gives, without contents."""
    return _like(x), torch.empty_like(weight), torch.empty_like(bias), torch.empty_like(own)


def _planned_gate(x: Tensor) -> Tensor:
    """What :func:`gated` gives, without contents."""
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _planned_gate_backward(dy: Tensor, x: Tensor) -> Tensor:
    """What :func:`gated_backward` gives, without contents."""
    return x.new_empty(x.shape)


def _operator(name: str, kernel: Callable[..., Any], planned: Callable[..., Any]) -> Any:
    """An operator latentclap::name over kernels, with what its result looks like.

    By the library's plain functions: ``torch.library.custom_op`` looks in every call whether an input was changed.
    """
    _LIBRARY.define(name + torch.library.infer_schema(kernel, mutates_args=()))
    # whatever the device: the interpreter, in which tests run the kernels, has the CPU's tensors
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"latentclap::{name}", planned, lib=_LIBRARY)
    return getattr(torch.ops.latentclap, name).default


if kernels is not None:
    # when this is imported, so that nothing is left to do where torch.compile traces
    _LIBRARY = torch.library.Library("latentclap", "FRAGMENT")
    _norm = _operator("group_norm", normalised, _planned_norm)
    _norm_backward = _operator("group_norm_backward", normalised_backward, _planned_norm_backward)
    _gate = _operator("geglu", gated, _planned_gate)
    _gate_backward = _operator("geglu_backward", gated_backward, _planned_gate_backward)
    torch.library.register_autograd(_norm, _of_norm, setup_context=_keep_norm, lib=_LIBRARY)
    torch.library.register_autograd(_gate, _of_gate, setup_context=_keep_gate, lib=_LIBRARY)
