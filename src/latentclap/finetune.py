"""Fine-tuning by eq. 4: the paper's training, on cached latents and embeddings (III-D, IV-B).

Only the UNet and, where there is one, the tuning layer train; VAE, CLAP, vocoder and φ are frozen.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentclap.cache import ShardedCache, batches
from latentclap.diffusion import append_dims
from latentclap.errors import InputError
from latentclap.files import atomic_path
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss, ddpm_loss, total_loss
from latentclap.memory import foretold
from latentclap.pretrain.tasks import LatentCLAPTask, normal, randint, uniform
from latentclap.profiles import FinetuneSection
from latentclap.system import FoleySystem, tuning_layer
from latentclap.train import Task, TrainConfig, TrainResult, onto, processes, train


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run.

    Attributes:
        lam: λ of eq. 4; 0 is the baseline, plain fine-tuning by eq. 1.
        tuning: train a tuning layer after the text CLAP encoder (III-A).
        weighting: w(n) of eq. 3, see ``losses.step_weight``.
        reading: what φ is shown, see ``losses.READINGS``.
        reduction: "mean" or "sum" over CLAP's dimensions.
        epochs: passes over the clips (the paper: 500; Fig. 3: 100).
        batch_size: clips per step (not given in the paper).
        lr: Adam's learning rate (the paper: 3e-6).
        grad_clip: largest gradient norm; 0: off.
        ema_decay: average the weights; 0: off.
        drop: share of conditions replaced by the empty prompt's, for guidance (facts A4).
        seed: of order, noise and dropout.
        normalize: scale E_latent to unit length.
        clamp: clamp what φ is shown to +-clamp; 0: off.
        checkpoint_seconds: time between checkpoints; no effect on the result.
    """

    lam: float = 0.0
    tuning: bool = False
    weighting: str = "paper"
    reading: str = "x0"
    reduction: str = "mean"
    epochs: int = 500
    batch_size: int = 8
    lr: float = 3e-6
    grad_clip: float = 1.0
    ema_decay: float = 0.0
    drop: float = 0.1
    seed: int = 0
    normalize: bool = False
    clamp: float = 0.0
    checkpoint_seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.lam < 0 or self.lam != self.lam:
            raise InputError(f"lam={self.lam}: must be zero or more (the paper: 1000 to 2000)")
        if self.epochs < 1:
            raise InputError(f"epochs={self.epochs}: must be at least 1")
        if not 0 <= self.drop < 1:
            raise InputError(f"drop={self.drop}: must be within 0 ... 1")

    @classmethod
    def of(cls, section: FinetuneSection, **changes: Any) -> FinetuneConfig:
        """A run with a profile's values, some of them changed.

        λ is the profile's own for the system with or without tuning layer, unless given.
        """
        values = {k: v for k, v in asdict(section).items() if k != "lam_tuning"} | changes
        if "lam" not in changes:
            values["lam"] = section.lam_tuning if changes.get("tuning") else section.lam
        return cls(**values)


class FinetuneTask(Task):
    """Eq. 4 on cached latents: batch of mean, logvar (B, C, T, F), E_text and E_audio (B, 512)."""

    def __init__(
        self, system: FoleySystem, loss: LatentCLAPLoss | None, lam: float, *, drop: float = 0.1
    ) -> None:
        super().__init__()
        self.unet = system.unet
        if system.tuning is not None:
            self.tuning = system.tuning
        # in a list: φ, the schedule and "" are constants, not parts of the task
        self.constants = [loss, system.schedule, system.encode_text([""])[0]]
        self.lam, self.drop = lam, drop

    def hot(self) -> list[nn.Module]:
        """UNet, tuning layer, and φ where eq. 3 is in the loss."""
        loss = self.constants[0]
        return [*super().hot(), *([loss.phi] if self.lam else [])]

    def draw(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """What decides over a dropped condition, the step, the latent's and eq. 1's noise."""
        like = torch.empty_like(batch["mean"], device="cpu")
        return {
            "u": uniform(rngs, 1)[:, 0],
            "n": randint(rngs, self.constants[1].steps),
            "z": normal(rngs, like),
            "eps": normal(rngs, like),
        }

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Return loss (eq. 4), ddpm (eq. 1) and, with λ > 0, lclap (eq. 3)."""
        loss, schedule, E_empty = self.constants
        device = batch["mean"].device
        if "eps" not in batch:
            batch = batch | {k: onto(v, device) for k, v in self.draw(batch, rngs).items()}
        n, eps = batch["n"], batch["eps"]
        s_0 = batch["mean"] + (batch["logvar"] / 2).exp() * batch["z"]
        s_n = schedule.to(device).q_sample(s_0, n, eps)
        dropped = append_dims(batch["u"] < self.drop, batch["E_text"])
        E = torch.where(dropped, E_empty.to(device).expand_as(batch["E_text"]), batch["E_text"])
        if hasattr(self, "tuning"):
            E = self.tuning(E)
        eps_theta = self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        terms = {"ddpm": ddpm_loss(eps_theta, eps)}  # eq. 1
        if self.lam:
            terms["lclap"] = loss(eps_theta, s_n, n, batch["E_audio"], s_0=s_0)  # eq. 3
        return {"loss": total_loss(terms, {"ddpm": 1.0, "lclap": self.lam}), **terms}  # eq. 4


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
    checkpointing: bool = False,
    channels_last: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> tuple[FoleySystem, TrainResult]:
    """Fine-tune a copy of ``system``; the same command goes on where an interrupted one stopped.

    Args:
        system: the pretrained system; it is not changed.
        phi: the Latent CLAP encoder; may be None for λ = 0.
        cache: what ``cache.build_cache`` gives for the dev clips, or a cache on disk.
        config: the run.
        folder: for checkpoints and logs.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        compile: torch.compile UNet and φ (see ``TrainConfig``): the way to train on a GPU.
        fused: with compile, our kernels in the UNet (see ``TrainConfig``).
        checkpointing: trade time for memory (see ``TrainConfig``).
        channels_last: order of the weights in memory (see ``TrainConfig``).
        tensorboard: write TensorBoard events.
        progress: show a progress bar.

    Returns:
        The fine-tuned system, and what the loop reports.
    """
    if config.lam and phi is None:
        raise InputError(
            f"lam={config.lam:g} needs a Latent CLAP encoder: train one (notebook 01), or take lam=0"
        )
    system.need_own_weights("to train")
    tuned = copy.copy(system)
    tuned.unet = copy.deepcopy(system.unet).requires_grad_(True)
    tuned.tuning = tuning_layer(system.embed_dim).to(system.device) if config.tuning else None
    loss = None
    if config.lam:
        loss = LatentCLAPLoss(
            phi,
            schedule=system.schedule,
            reading=config.reading,
            weighting=config.weighting,
            reduction=config.reduction,
            normalize=config.normalize,
            clamp=config.clamp or None,
        )
    data = batches(cache, "mean", "logvar", "E_audio", "E_text")
    if system.device.type == "cuda":
        # the weights that train lie there already
        held = sum(p.numel() * p.element_size() for p in tuned.unet.parameters())
        free = torch.cuda.mem_get_info(system.device)[0] + held
        _warn_of_memory(system, phi, config, free, checkpointing)
    steps = max(1, config.epochs * len(data) // config.batch_size)
    result = train(
        FinetuneTask(tuned, loss, config.lam, drop=config.drop),
        data,
        TrainConfig(
            steps=steps,
            batch_size=config.batch_size,
            lr=config.lr,
            grad_clip=config.grad_clip,
            ema_decay=config.ema_decay,
            seed=config.seed,
            minutes=minutes,
            compile=compile,
            fused=fused,
            checkpointing=checkpointing,
            channels_last=channels_last,
            tensorboard=tensorboard,
            log_every=max(1, steps // 50),
            checkpoint_seconds=config.checkpoint_seconds,
        ),
        folder,
        progress=progress,
        description=f"fine-tuning lam={config.lam:g}{' +tuning' if config.tuning else ''}",
    )
    if checkpointing:
        tuned.unet.disable_gradient_checkpointing()
    return tuned.eval(), result


def _warn_of_memory(
    system: FoleySystem, phi: nn.Module | None, config: FinetuneConfig, free: int, checkpointing: bool
) -> None:
    """Say before the first step that a batch will hardly fit: a warning, since the figure is an estimate."""
    world = processes().num_processes
    line = foretold(
        system.unet.config,
        phi.config if isinstance(phi, LatentCLAP) and config.lam else None,
        system.latent_shape,
        -(-config.batch_size // world),
        free,
        checkpointing=checkpointing,
        precision="bf16" if torch.cuda.is_bf16_supported() else "no",
        ema=bool(config.ema_decay),
        processes=world,
    )
    if line:
        warnings.warn(line, stacklevel=3)


def save_weights(system: FoleySystem, path: str | Path) -> None:
    """Write what fine-tuning changes, UNet and tuning layer, as float32 safetensors; see :func:`load_weights`."""
    state = {f"unet.{k}": v for k, v in system.unet.state_dict().items()}
    if system.tuning is not None:
        state |= {f"tuning.{k}": v for k, v in system.tuning.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)


def load_weights(system: FoleySystem, path: str | Path) -> FoleySystem:
    """A copy of a system with the UNet and, where there is one, the tuning layer of :func:`save_weights`."""
    state = load_file(path)
    tuned = copy.copy(system)
    tuned.unet = copy.deepcopy(system.unet)
    tuned.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
    tuning = {k[7:]: v for k, v in state.items() if k.startswith("tuning.")}
    if tuning:
        tuned.tuning = tuning_layer(system.embed_dim)
        tuned.tuning.load_state_dict(tuning)
        tuned.tuning.to(system.device)
    return tuned.eval()


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
    progress: bool = True,
) -> tuple[LatentCLAP, TrainResult]:
    """Train a Latent CLAP encoder from nothing by eq. 2 on cached latents and E_audio (Fig. 2); resumable.

    Args:
        cache: what ``cache.build_cache`` gives, or a cache on disk.
        folder: for checkpoint and logs.
        width: channels of the first block (PANN-10: 64).
        epochs: passes over the clips.
        batch_size: clips per step.
        lr: Adam's learning rate, with cosine decay.
        seed: of weights, order, noise and dropout.
        device: where to train.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        progress: show a progress bar.
    """
    if epochs < 1:
        raise InputError(f"epochs={epochs}: must be at least 1")
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
        log_every=max(1, steps // 100),
    )
    task = LatentCLAPTask(phi.to(device))
    result = train(task, data, config, folder, progress=progress, description="Latent CLAP encoder")
    return phi.eval().requires_grad_(False), result
