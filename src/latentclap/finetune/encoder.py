"""The Latent CLAP encoder by eq. 2, which fine-tuning by eq. 4 needs (III-D, Fig. 2)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from latentclap.cache import ShardedCache, batches
from latentclap.latent_clap import LatentCLAP
from latentclap.limits import check_values
from latentclap.pretrain.tasks import LatentCLAPTask
from latentclap.train import TrainConfig, TrainResult, train


def train_latent_clap(
    cache: dict[str, Tensor] | ShardedCache,
    folder: str | Path,
    *,
    width: int = 64,
    epochs: int = 10,
    batch_size: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    minutes: float = 0.0,
    precision: str = "auto",
    progress: bool = True,
) -> tuple[LatentCLAP, TrainResult]:
    """Train a Latent CLAP encoder from nothing by eq. 2 on cached latents and E_audio (Fig. 2); resumable.

    Args:
        cache: what ``cache.build_cache`` gives, or a cache on disk.
        folder: for checkpoint and logs.
        width: channels of the first block (PANN-10: 64).
        epochs: passes over the clips, as whole steps.
        batch_size: clips per step.
        lr: Adam's learning rate, with cosine decay.
        seed: of weights, order, noise and dropout.
        device: where to train.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        precision: of the arithmetic (see ``TrainConfig``).
        progress: show a progress bar.
    """
    given = {"width": width, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    check_values({f"latent_clap.{name}": value for name, value in given.items()}, "")
    data = batches(cache, "mean", "logvar", "E_audio")
    first = data.batch([0])
    _, channels, _, freq = first["mean"].shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        phi = LatentCLAP(channels=channels, freq=freq, width=width, embed_dim=first["E_audio"].shape[1])
    steps = max(1, epochs * len(data) // batch_size)
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup_steps=min(50, steps // 10),
        schedule="cosine",
        seed=seed,
        minutes=minutes,
        precision=precision,
        log_every=max(1, steps // 100),
    )
    task = LatentCLAPTask(phi.to(device))
    result = train(task, data, config, folder, progress=progress, description="Latent CLAP encoder")
    return phi.to(device).eval().requires_grad_(False), result
