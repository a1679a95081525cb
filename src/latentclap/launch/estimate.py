"""What a step of fine-tuning will take of a GPU's memory, as ``--dry-run`` tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentclap.wording import human

if TYPE_CHECKING:
    from accelerate import PartialState

    from latentclap.finetune import FinetuneConfig
    from latentclap.latent_clap import LatentCLAP
    from latentclap.system import FoleySystem


def foretell(
    config: FinetuneConfig,
    system: FoleySystem,
    phi: LatentCLAP | None,
    state: PartialState,
    *,
    precision: str,
    checkpointing: bool,
) -> str:
    """What a step of fine-tuning will take of a GPU's memory, by an estimate (``latentclap.memory``).

    Args:
        config: of the training.
        system: that is fine-tuned.
        phi: the Latent CLAP encoder; None for λ = 0.
        state: accelerate's: how many processes share a batch, and where this one computes.
        precision: see ``TrainConfig``.
        checkpointing: whether activations are computed again in the backward pass.
    """
    from latentclap.memory import GIB, training_footprint
    from latentclap.train.config import resolved

    batch = -(-config.batch_size // state.num_processes)
    # without a GPU here, one that has bf16 is meant
    here = precision != "auto" or state.device.type == "cuda"
    precision = resolved(precision) if here else "bf16"
    try:
        footprint = training_footprint(
            system.unet.config,
            phi.config if phi else None,
            system.latent_shape,
            precision=precision,
            checkpointing=checkpointing,
            ema=bool(config.ema_decay),
            processes=state.num_processes,
            lora_rank=config.lora_rank,
        )
    except Exception as error:  # an estimate must not keep the rest from being said
        return (
            f"memory of a GPU: could not be told ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        )
    fits = ", ".join(f"{footprint.fits(held * GIB)} in {held} GiB" for held in (16, 24, 40, 80))
    name = "fp32" if precision == "no" else precision
    return (
        f"memory of a GPU, {name}, uncompiled, estimated: {footprint.peak(batch) / GIB:.1f} GiB for {batch} clips"
        f" a process; the largest batch a process: {fits}{_trained(config, system)}"
    )


def _trained(config: FinetuneConfig, system: FoleySystem) -> str:
    """How much of the UNet trains where not all of it does, and the size of the file that it goes into."""
    if not config.lora_rank:
        return ""
    from latentclap.lora import adapter_parameters

    trained, total = adapter_parameters(system.unet.config, config.lora_rank)
    layer = 4 * system.embed_dim * (system.embed_dim + 1) * config.tuning
    return (
        f"\nLoRA of rank {config.lora_rank}: {trained / 1e6:.2f} M parameters train beside {total / 1e6:.2f} M;"
        f" a file of {human(4 * trained + layer)}"
    )
