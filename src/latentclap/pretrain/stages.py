"""The stages of pretraining, in their order: each resumable, each with a time budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.pretrain.corpus import REAL
from latentclap.pretrain.inputs import mels
from latentclap.pretrain.prepare import MAKERS
from latentclap.pretrain.whiten import principal_axes, whiten
from latentclap.pretrain.work import Work, save_weights
from latentclap.train import TrainConfig, TrainResult, train


@dataclass(frozen=True)
class Stage:
    """How one stage is trained when nothing else is asked for."""

    steps: int
    batch_size: int
    lr: float
    ema_decay: float = 0.999
    weight_decay: float = 0.0
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.999


#: sized for a 2-core CPU overnight; on a GPU ask for more with --steps. The *_critic stages go on with the weights
#: of the stage before, against a discriminator; HiFi-GAN's betas (arXiv:2010.05646)
STAGES: dict[str, Stage] = {
    "clap": Stage(steps=3000, batch_size=48, lr=5e-4, weight_decay=0.01),
    "vae": Stage(steps=3000, batch_size=8, lr=1e-3),
    "vae_decoder": Stage(steps=3000, batch_size=8, lr=5e-4),
    "vae_critic": Stage(steps=3000, batch_size=8, lr=2e-4, beta1=0.8, beta2=0.99),
    "vocoder": Stage(steps=8000, batch_size=8, lr=8e-4),
    "vocoder_critic": Stage(steps=8000, batch_size=8, lr=2e-4, beta1=0.8, beta2=0.99),
    "ldm": Stage(steps=10000, batch_size=8, lr=4e-4),
    "latent_clap": Stage(steps=2500, batch_size=16, lr=1e-3),
    "judge": Stage(steps=3000, batch_size=16, lr=1e-3, weight_decay=0.01),
}


def run_stage(
    name: str,
    work: Work,
    *,
    steps: int | None = None,
    minutes: float = 0.0,
    lr: float | None = None,
    seed: int = 0,
) -> TrainResult:
    """Train one stage, going on where it stopped, and leave its averaged weights in ``work.result(name)``.

    Args:
        name: a key of :data:`STAGES`.
        work: the folder, size and corpus.
        steps: optimiser steps in all; None takes the stage's own.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        lr: learning rate; None takes the stage's own.
        seed: of order and noise.

    Raises:
        InputError: there is no such stage, or one that it builds on has left no weights.
    """
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}; there are {', '.join(STAGES)}")
    stage = STAGES[name]
    own = {"steps": steps or stage.steps, "lr": lr or stage.lr}
    config = TrainConfig(
        **(asdict(stage) | own),
        schedule="cosine",
        seed=seed,
        minutes=minutes,
        log_every=20,
        tensorboard=True,
    )
    task, data, product = MAKERS[name](work)
    folder = work.folder / name
    result = train(task, data, config, folder, description=f"pretraining {name}")
    save_weights(work.result(name), product)
    if name == "vae":
        whiten_vae(work)
    if name == "judge":
        # so that the folder can be named where a judge is wanted: measure --judge, JudgeEmbedding
        product.save(folder)
    write_json(
        folder / "summary.json",
        {
            "step": result.step,
            "steps": config.steps,
            "lr": config.lr,
            "seconds": result.seconds,
            # stages may be trained on different corpora: each says how large its own was
            "corpus_clips": len(work.corpus),
            "corpus_real": work.corpus.kind.count(REAL),
            "last": result.history[-1],
        },
    )
    return result


@torch.no_grad()
def whiten_vae(work: Work, clips: int = 256) -> dict[str, float]:
    """Give the family's VAE white latents (see :mod:`latentclap.pretrain.whiten`), and save it as stage ``vae``.

    AudioLDM's latent scale, 1 / std of posterior samples over the first clips (facts A3), is then near one; it is
    measured and kept all the same, since the checkpoint's scale is what every later stage reads.

    Returns:
        The scale, and the ratio of the largest to the smallest variance along the latents' axes before.
    """
    vae = work.system().vae
    rows = torch.linspace(0, len(work.corpus) - 1, min(clips, len(work.corpus))).long()
    mel = mels(work)[rows]

    def posteriors() -> tuple[Tensor, Tensor]:
        parts = [vae.encode(m.float()[:, None].to(work.device)).latent_dist for m in mel.split(16)]
        return torch.cat([p.mean for p in parts]), torch.cat([p.logvar for p in parts])

    mean, logvar = posteriors()
    variances = principal_axes(mean)[1]
    if not float(variances.max()) > 0:
        raise InputError("the VAE's latents have no spread: train it first")
    whiten(vae, mean, logvar)
    mean, logvar = posteriors()
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(mean)
    found = {
        "scaling_factor": 1 / float((mean + (logvar / 2).exp() * noise).std()),
        "variance_ratio_before": float(variances.max() / variances.min().clamp(min=1e-12)),
    }
    save_weights(work.result("vae"), vae)
    write_json(work.folder / "vae" / "scale.json", found)
    return found
