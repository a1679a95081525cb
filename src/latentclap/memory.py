"""Memory of a fine-tuning step by eq. 4, estimated before it runs: which batch fits a GPU; none is needed for it.

The step is walked through with tensors that have shapes and no contents, and what would be alive at a time is added
up, with an allowance (:data:`ALLOWANCE`) for what libraries take beside it. It is the eager step's; a compiled one
keeps less (``speed.py memory`` measures both on a GPU).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentclap.diffusion import NoiseSchedule
from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP
from latentclap.lora import add_adapters
from latentclap.losses import LatentCLAPLoss, ddpm_loss

GIB = 2**30
#: what torch's allocator hands out at least
BLOCK = 512
#: left free in :meth:`Footprint.fits`: CUDA's own context, fragments
SPARE = GIB
#: what a clip takes, in what is counted for it: cuDNN's workspaces and copies into its order of memory cannot be
#: counted. By one record of an eager step (book/runs/speed_h200_before.json): 14.4 GiB for 16 clips where 12.6 were
#: counted, of which 5.4 do not depend on the batch
ALLOWANCE = 1.3


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a training step by its batch.

    Attributes:
        least: bytes in Adam's update, whatever the batch: weights, gradients, moments and what it computes.
        fixed: bytes that a pass keeps whatever the batch: weights, moments, copies in another precision.
        per_clip: bytes that each clip of the batch adds, mostly activations.
    """

    least: int
    fixed: int
    per_clip: int

    def peak(self, batch: int) -> int:
        """Bytes at a batch."""
        return max(self.least, self.fixed + self.per_clip * batch)

    def fits(self, held: int, spare: int = SPARE) -> int:
        """The largest batch within ``held`` bytes, of which ``spare`` stay free; 0: none."""
        room = held - spare
        return max(0, (room - self.fixed) // self.per_clip) if room >= self.least else 0


def training_footprint(
    unet: Mapping[str, Any],
    phi: Mapping[str, Any] | None,
    latent_shape: tuple[int, int, int],
    *,
    precision: str = "bf16",
    checkpointing: bool = False,
    ema: bool = False,
    processes: int = 1,
    lora_rank: int = 0,
) -> Footprint:
    """Walk through eq. 4's step in three batches; takes seconds, whatever the size.

    Args:
        unet: configuration of a diffusers UNet2DConditionModel.
        phi: configuration of the Latent CLAP encoder, or None where λ is 0.
        latent_shape: (C, T, F) of a latent.
        precision: "no" or "tf32" (float32), "bf16" or "fp16" (autocast, the two alike).
        checkpointing: activations of the UNet are computed again in the backward pass.
        ema: averaged weights are kept too.
        processes: with more than one, the buckets in which gradients are exchanged are there before the gradients.
        lora_rank: of adapters that train instead of the weights; 0: all weights train.

    Raises:
        InputError: an unknown precision.
    """
    if precision not in ("no", "tf32", "bf16", "fp16"):
        raise InputError(f"precision={precision!r}: one of no, tf32, bf16, fp16")
    small, large = 32, 64
    half = precision in ("bf16", "fp16")
    sizes = (1, small, large)
    weights, (one, low, high) = _peaks(unet, phi, latent_shape, sizes, half, checkpointing, lora_rank)
    per_clip = (high - low) // (large - small)
    more = weights * (ema + (processes > 1))
    return Footprint(one + more, low - per_clip * small + more, round(ALLOWANCE * per_clip))


def foretold(
    unet: Mapping[str, Any],
    phi: Mapping[str, Any] | None,
    latent_shape: tuple[int, int, int],
    batch: int,
    free: int,
    *,
    checkpointing: bool = False,
    **options: Any,
) -> str | None:
    """One line where a batch will hardly fit: how much it needs, and what would; None where it fits.

    Args:
        unet: as for :func:`training_footprint`, with ``options``.
        phi: as there.
        latent_shape: as there.
        batch: clips of a step in one process.
        free: bytes that the GPU has left.
        checkpointing: whether the run recomputes activations.
    """
    footprint = training_footprint(unet, phi, latent_shape, checkpointing=checkpointing, **options)
    if footprint.peak(batch) + SPARE <= free:
        return None
    if footprint.least + SPARE > free:
        return (
            f"weights, gradients and Adam alone take about {footprint.least / GIB:.1f} GiB,"
            f" and {free / GIB:.1f} GiB are free: no batch will fit this GPU"
        )
    line = (
        f"a step of {batch} clips takes about {footprint.peak(batch) / GIB:.1f} GiB uncompiled, and"
        f" {free / GIB:.1f} GiB are free: {footprint.fits(free)} would fit"
    )
    if not checkpointing:
        other = training_footprint(unet, phi, latent_shape, checkpointing=True, **options)
        line += f", with checkpointing {other.fits(free)}"
    return line


def _peaks(
    config: Mapping[str, Any],
    phi: Mapping[str, Any] | None,
    latent_shape: tuple[int, int, int],
    batches: tuple[int, ...],
    half: bool,
    checkpointing: bool,
    lora_rank: int = 0,
) -> tuple[int, list[int]]:
    """Bytes of the UNet's weights that train; those alive at most in a step of each batch, once Adam has moments."""
    from diffusers import UNet2DConditionModel
    from torch._subclasses.fake_tensor import FakeTensorMode

    peaks = []
    # "cpu" names no memory here: fake tensors have none, and a fake GPU's backward pass asks for a real one
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        unet = _adapted(config, lora_rank) if lora_rank else UNet2DConditionModel.from_config(config)
        unet.train()
        schedule = NoiseSchedule()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        trained = [p for p in unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        loss = None
        if phi is not None:
            loss = LatentCLAPLoss(LatentCLAP(**phi).eval().requires_grad_(False), schedule=schedule)
        live = _Live()
        for held in (*unet.parameters(), *(loss.phi.parameters() if loss else ())):
            live.add(held)
        with live, _norms_in_float32(unet, half):
            for p in trained:
                p.grad = torch.zeros_like(p)
            optimizer.step()  # its moments are there from now on
            optimizer.zero_grad()
            for batch in batches:
                live.peak = live.now
                _step(unet, loss, schedule, (batch, *latent_shape), half)
                optimizer.step()
                optimizer.zero_grad()
                peaks.append(live.peak)
        weights = sum(p.numel() * p.element_size() for p in trained)
    return weights, peaks


def _adapted(config: Mapping[str, Any], rank: int) -> nn.Module:
    """A UNet with adapters: put in on torch's meta device, since peft moves them, which fake tensors do not allow."""
    from diffusers import UNet2DConditionModel
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with torch.device("meta"), unset_fake_temporarily():
        unet = add_adapters(UNet2DConditionModel.from_config(config), rank)
    for module in unet.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape), requires_grad=p.requires_grad)
    return unet


def _step(
    unet: nn.Module, loss: LatentCLAPLoss | None, schedule: NoiseSchedule, shape: tuple[int, ...], half: bool
) -> None:
    """Forward and backward pass of eq. 4."""
    dim = getattr(unet.class_embedding, "in_features", 512)
    s_0, eps = torch.randn(shape), torch.randn(shape)
    n, E = torch.zeros(shape[0], dtype=torch.long), torch.randn(shape[0], dim)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        s_n = schedule.q_sample(s_0, n, eps)
        eps_theta = unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        total = ddpm_loss(eps_theta, eps)
        if loss is not None:
            total = total + loss(
                eps_theta, s_n, n, torch.randn(shape[0], loss.phi.config["embed_dim"]), s_0=s_0
            )
    total.backward()


@contextmanager
def _norms_in_float32(unet: nn.Module, half: bool) -> Iterator[None]:
    """Group and layer normalisation in float32, as autocast does it on a GPU and not on a CPU."""
    norms = [m for m in unet.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm))] if half else []
    hooks = [m.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for m in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Live(TorchDispatchMode):
    """Counts the bytes of storages from the operation that makes them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: Any) -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, freed)
