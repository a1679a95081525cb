"""One fine-tuning run: a copy of a system, trained by the loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from latentclap.cache import ShardedCache, batches
from latentclap.errors import InputError
from latentclap.finetune.config import FinetuneConfig
from latentclap.finetune.device import aside, brought_back, idle, room, warn_of_memory
from latentclap.finetune.task import FinetuneTask
from latentclap.lora import (
    ADAPTER,
    add_adapters,
    base_digest,
    merge_adapters,
    save_adapter,
    take_adapters,
)
from latentclap.losses import LatentCLAPLoss
from latentclap.storage import fold
from latentclap.system import FoleySystem, tuning_layer
from latentclap.train import TrainConfig, TrainResult, processes, train


def finetune(
    system: FoleySystem,
    phi: nn.Module | None,
    cache: dict[str, Tensor] | ShardedCache,
    config: FinetuneConfig,
    folder: str | Path,
    *,
    minutes: float = 0.0,
    compile: bool = False,
    fused: bool = True,
    cuda_graph: bool = True,
    checkpointing: bool = False,
    channels_last: bool = False,
    precision: str = "auto",
    tensorboard: bool = False,
    progress: bool = True,
) -> tuple[FoleySystem, TrainResult]:
    """Fine-tune a copy of ``system``; the same command goes on where an interrupted one stopped.

    It trains where accelerate says, on a GPU where there is one, wherever ``system`` lies; the result and φ lie where
    they lay. On a GPU, what training does not need (VAE, vocoder, both CLAPs, the pretrained UNet) waits in the CPU's
    memory.

    Args:
        system: the pretrained system; it is not changed.
        phi: the Latent CLAP encoder; may be None for λ = 0.
        cache: what ``cache.build_cache`` gives for the dev clips, or a cache on disk.
        config: the run.
        folder: for checkpoints and logs.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        compile: torch.compile UNet and φ (see ``TrainConfig``): the way to train on a GPU.
        fused: with compile, our kernels in the UNet (see ``TrainConfig``).
        cuda_graph: with compile, on one GPU: replay a step that is recorded once (see ``TrainConfig``).
        checkpointing: trade time for memory (see ``TrainConfig``).
        channels_last: order of the weights in memory (see ``TrainConfig``).
        precision: of the arithmetic (see ``TrainConfig``).
        tensorboard: write TensorBoard events.
        progress: show a progress bar.

    Returns:
        The fine-tuned system, and what the loop reports. With ``config.lora_rank`` the adapters are merged into the
        UNet, and a run that is finished leaves them in ``folder`` as ``lora.ADAPTER``, with the tuning layer.

    Raises:
        InputError: λ without φ, a system of rounded weights (:meth:`FoleySystem.for_generation`), or a folder that
            holds a checkpoint of another run or a damaged one.
        TrainingError: a loss or gradient that is not finite, or a GPU that is too small.
        Interrupted: a signal came; a checkpoint was saved.
    """
    if config.lam and phi is None:
        raise InputError(
            f"lam={config.lam:g} needs a Latent CLAP encoder: train one (notebook 01), or take lam=0"
        )
    system.need_own_weights("to train")
    tuned = copy.copy(system)
    _begin(tuned, config.tuning)
    if config.lora_rank:
        add_adapters(tuned.unet, config.lora_rank, seed=config.seed)
    data = batches(cache, "mean", "logvar", "E_audio", "E_text")
    task = FinetuneTask(tuned, _loss(system, phi, config), config.lam, drop=config.drop)
    if config.lora_rank:
        task.frozen = f"LoRA of rank {config.lora_rank} on weights {base_digest(system)}"
    settings = _settings(
        config,
        len(data),
        minutes=minutes,
        precision=precision,
        compile=compile,
        fused=fused,
        cuda_graph=cuda_graph,
        checkpointing=checkpointing,
        channels_last=channels_last,
        tensorboard=tensorboard,
    )
    where = processes().device
    on_gpu = where.type == "cuda"
    with (
        aside(idle(system, tuned) if on_gpu else [], system.device),
        brought_back([tuned.unet, tuned.tuning, system.schedule, phi]),
    ):
        if on_gpu:
            used = phi if config.lam else None
            warn_of_memory(
                system, used, settings, lambda: room(where, [tuned.unet, used]), lora_rank=config.lora_rank
            )
        try:
            result = train(
                task,
                data,
                settings,
                folder,
                progress=progress,
                description=f"fine-tuning lam={config.lam:g}{_ways(config)}",
            )
        finally:
            if checkpointing:
                tuned.unet.disable_gradient_checkpointing()
    if config.lora_rank:
        if result.finished and processes().is_main_process:
            adapters = take_adapters(tuned.unet)
            save_adapter(Path(folder) / ADAPTER, adapters, system, tuned.tuning)
        merge_adapters(tuned.unet).requires_grad_(True)
    return tuned.eval(), result


def _loss(system: FoleySystem, phi: nn.Module | None, config: FinetuneConfig) -> LatentCLAPLoss | None:
    """Eq. 3 as the run has it; None where λ is 0."""
    if not config.lam:
        return None
    return LatentCLAPLoss(
        phi,
        schedule=system.schedule,
        reading=config.reading,
        weighting=config.weighting,
        reduction=config.reduction,
        normalize=config.normalize,
        clamp=config.clamp or None,
    )


def _settings(config: FinetuneConfig, clips: int, **machine: Any) -> TrainConfig:
    """The run as the loop knows it.

    Args:
        config: the run.
        clips: of an epoch.
        machine: what is of the machine and not of the run.
    """
    steps = max(1, config.epochs * clips // (config.batch_size * config.grad_accum))
    return TrainConfig(
        steps=steps,
        batch_size=config.batch_size,
        lr=config.lr,
        grad_clip=config.grad_clip,
        grad_accum=config.grad_accum,
        ema_decay=config.ema_decay,
        seed=config.seed,
        log_every=max(1, steps // 50),
        checkpoint_seconds=config.checkpoint_seconds,
        **machine,
    )


def _ways(config: FinetuneConfig) -> str:
    """How a run differs from plain fine-tuning, for its progress bar."""
    lora = f" LoRA {config.lora_rank}" if config.lora_rank else ""
    return lora + (" +tuning" if config.tuning else "")


def _begin(tuned: FoleySystem, tuning: bool) -> None:
    """UNet and tuning layer of a copy to train: together the function that the system has now."""
    own = tuned.tuning
    if tuning or own is None:
        tuned.unet = copy.deepcopy(tuned.unet)
        tuned.tuning = (
            copy.deepcopy(own or tuning_layer(tuned.embed_dim).to(tuned.device)) if tuning else None
        )
    else:  # trained without a layer of its own, the one that is there stays what it is
        tuned.unet, tuned.tuning = fold(tuned.unet, own), None
    for part in filter(None, (tuned.unet, tuned.tuning)):
        part.requires_grad_(True)
