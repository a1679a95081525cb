"""The modules on their way into training, and back: precision, recomputation, compilation, order in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from latentclap.errors import InputError
from latentclap.train.compiler import need_compiler
from latentclap.train.config import TrainConfig
from latentclap.train.task import Task


def prepare_modules(task: Task, config: TrainConfig) -> None:
    """Set up precision of matrix products, recomputation and compilation, in place: names of weights stay.

    Raises:
        InputError: nothing in the task can recompute its activations, or there is no compiler.
    """
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    # convolutions have a switch of their own, which is on: float32 would be TF32 in most of the UNet
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    if config.checkpointing:
        able = [m for m in task.trained().values() if hasattr(m, "enable_gradient_checkpointing")]
        if not able:
            raise InputError(f"checkpointing: nothing that {type(task).__name__} trains can do it")
        for module in able:
            module.enable_gradient_checkpointing()
    if config.channels_last:
        for module in task.trained().values():
            module.to(memory_format=torch.channels_last)
    if config.compile:
        need_compiler()
        from latentclap.fast import speed_up  # with diffusers, which takes seconds to import

        for module in task.hot():
            if config.fused:
                speed_up(module)
            module.compile(dynamic=False)  # a batch is as large as the one before


def restore_modules(task: Task, config: TrainConfig) -> None:
    """Undo what compilation and channels_last did, also where training failed: what comes after runs in other shapes.

    Gradient checkpointing stays on: whoever asked for it knows which module to tell.
    """
    if config.compile:
        from latentclap.fast import slow_down

        for module in task.hot():
            module._compiled_call_impl = None
            slow_down(module)
    if config.channels_last:
        for module in task.trained().values():
            module.to(memory_format=torch.contiguous_format)


@contextmanager
def arithmetic(compiled: bool) -> Iterator[None]:
    """Give back at the end what training sets for the whole process: precision of products, cuDNN's choices.

    cuDNN tries its algorithms once per shape: worth it where shapes stay, as those of a compiled step do.
    """
    products = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
    try:
        cudnn.benchmark = benchmark or compiled
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark


def frozen(modules: Mapping[str, nn.Module]) -> frozenset[str]:
    """module.name of each weight that takes no gradient."""
    return frozenset(
        f"{name}.{key}"
        for name, m in modules.items()
        for key, p in m.named_parameters()
        if not p.requires_grad
    )


def as_weights_lie(optimizer: Any) -> None:
    """Moments in the order in memory of their weights: a fused Adam wants it, and a run may go on with another."""
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)
