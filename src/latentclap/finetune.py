"""Fine-tuning by eq. 4: the paper's training, on cached latents and embeddings (III-D, IV-B).

Only the UNet and, where there is one, the tuning layer train; VAE, CLAP, vocoder and φ are frozen.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentclap.cache import ShardedCache, batches
from latentclap.diffusion import append_dims
from latentclap.errors import InputError
from latentclap.files import atomic_path, load_tensors
from latentclap.latent_clap import LatentCLAP
from latentclap.limits import check_values
from latentclap.lora import (
    ADAPTER,
    add_adapters,
    base_digest,
    merge_adapters,
    save_adapter,
    take_adapters,
)
from latentclap.losses import LatentCLAPLoss, ddpm_loss, total_loss
from latentclap.memory import foretold
from latentclap.pretrain.tasks import LatentCLAPTask, normal, randint, uniform
from latentclap.profiles import FinetuneSection
from latentclap.storage import fold
from latentclap.system import FoleySystem, tuning_layer
from latentclap.train import Task, TrainConfig, TrainResult, onto, processes, train
from latentclap.train.config import resolved


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run.

    Attributes:
        lam: λ of eq. 4; 0 is the baseline, plain fine-tuning by eq. 1.
        tuning: train a tuning layer after the text CLAP encoder (III-A): the system's own where it has one. Without,
            a system's own is folded into the UNet.
        weighting: w(n) of eq. 3, see ``losses.step_weight``.
        reading: what φ is given, see ``losses.READINGS``.
        reduction: "mean" or "sum" over CLAP's dimensions.
        epochs: passes over the clips (the paper: 500; Fig. 3: 100), as whole steps: clips that do not fill a last
            step are left out.
        batch_size: clips per forward pass (not given in the paper).
        lr: Adam's learning rate (the paper: 3e-6).
        grad_clip: largest gradient norm; 0: off.
        ema_decay: average the weights; 0: off.
        drop: share of conditions replaced by the empty prompt's, for guidance (facts A4).
        seed: of order, noise and dropout.
        normalize: scale E_latent to unit length.
        clamp: clamp what φ is given to +-clamp; 0: off.
        checkpoint_seconds: time between checkpoints (see ``TrainConfig``); no effect on the result.
        grad_accum: forward passes per step of Adam: a step then has batch_size x grad_accum clips, in the memory of
            batch_size.
        lora_rank: rank of the adapters that train instead of the UNet's weights (``latentclap.lora``); 0: all weights
            train, as in the paper. Adapters want a larger ``lr`` than the paper's: see the book's page on LoRA.
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
    grad_accum: int = 1
    lora_rank: int = 0

    def __post_init__(self) -> None:
        check_values({f"finetune.{name}": value for name, value in asdict(self).items()}, "")

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
        device = batch["mean"].device
        if self.constants[2].device != device:  # once: a copy in every step would wait for the step before
            self.constants[2] = self.constants[2].to(device)
        loss, schedule, E_empty = self.constants
        if "eps" not in batch:
            batch = batch | {k: onto(v, device) for k, v in self.draw(batch, rngs).items()}
        n, eps = batch["n"], batch["eps"]
        s_0 = batch["mean"] + (batch["logvar"] / 2).exp() * batch["z"]
        s_n = schedule.to(device).q_sample(s_0, n, eps)
        dropped = append_dims(batch["u"] < self.drop, batch["E_text"])
        E = torch.where(dropped, E_empty.expand_as(batch["E_text"]), batch["E_text"])
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
        checkpointing: trade time for memory (see ``TrainConfig``).
        channels_last: order of the weights in memory (see ``TrainConfig``).
        precision: of the arithmetic (see ``TrainConfig``).
        tensorboard: write TensorBoard events.
        progress: show a progress bar.

    Returns:
        The fine-tuned system, and what the loop reports. With ``config.lora_rank`` the adapters are merged into the
        UNet, and a run that is finished leaves them in ``folder`` as ``lora.ADAPTER``, with the tuning layer.
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
    task = FinetuneTask(tuned, loss, config.lam, drop=config.drop)
    if config.lora_rank:
        task.frozen = f"LoRA of rank {config.lora_rank} on weights {base_digest(system)}"
    steps = max(1, config.epochs * len(data) // (config.batch_size * config.grad_accum))
    settings = TrainConfig(
        steps=steps,
        batch_size=config.batch_size,
        lr=config.lr,
        grad_clip=config.grad_clip,
        grad_accum=config.grad_accum,
        ema_decay=config.ema_decay,
        seed=config.seed,
        minutes=minutes,
        precision=precision,
        compile=compile,
        fused=fused,
        checkpointing=checkpointing,
        channels_last=channels_last,
        tensorboard=tensorboard,
        log_every=max(1, steps // 50),
        checkpoint_seconds=config.checkpoint_seconds,
    )
    where = processes().device
    on_gpu = where.type == "cuda"
    with (
        _aside(_idle(system, tuned) if on_gpu else [], system.device),
        _brought_back([tuned.unet, tuned.tuning, system.schedule, phi]),
    ):
        if on_gpu:
            used = phi if config.lam else None
            _warn_of_memory(
                system, used, settings, lambda: _room(where, [tuned.unet, used]), lora_rank=config.lora_rank
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


def _idle(system: FoleySystem, tuned: FoleySystem) -> list[nn.Module]:
    """The parts that training does not touch."""
    busy = {id(part) for part in (tuned.unet, tuned.tuning)}
    return [part for part in system.parts.values() if id(part) not in busy]


@contextmanager
def _aside(modules: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Keep modules that lie on a device in the CPU's memory meanwhile."""
    moved = [m for m in modules if _devices(m) == {device}]
    for module in moved:
        module.to("cpu")
    try:
        yield
    finally:
        try:
            for module in moved:
                module.to(device)
        except torch.OutOfMemoryError:  # it has its own reason already: training failed for the same
            warnings.warn(
                "the GPU has no room for the whole system: a part of it stays on the CPU", stacklevel=3
            )


@contextmanager
def _brought_back(modules: list[nn.Module | None]) -> Iterator[None]:
    """Move modules back to where they lie now: training takes them along to accelerate's device."""
    places = [(m, _devices(m).pop()) for m in modules if m is not None and len(_devices(m)) == 1]
    try:
        yield
    finally:
        for module, device in places:
            if _devices(module) != {device}:
                module.to(device)


def _devices(module: nn.Module) -> set[torch.device]:
    return {t.device for t in (*module.parameters(), *module.buffers())}


def _room(device: torch.device, held: list[nn.Module | None]) -> int:
    """Bytes of a GPU that training can have: free ones, and what is held for modules that train there already."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    weights = [p for m in held if m is not None for p in m.parameters()]
    there = sum(p.numel() * p.element_size() for p in weights if p.device.type == device.type)
    return torch.cuda.mem_get_info(device)[0] + cached + there


def _warn_of_memory(
    system: FoleySystem,
    phi: nn.Module | None,
    settings: TrainConfig,
    free: Callable[[], int],
    *,
    lora_rank: int = 0,
) -> None:
    """Say before the first step that a batch will hardly fit: a warning, since the figure is an estimate."""
    try:
        world = processes().num_processes
        line = foretold(
            system.unet.config,
            phi.config if isinstance(phi, LatentCLAP) else None,
            system.latent_shape,
            -(-settings.batch_size // world),
            free(),
            checkpointing=settings.checkpointing,
            precision=resolved(settings.precision),
            ema=bool(settings.ema_decay),
            processes=world,
            lora_rank=lora_rank,
        )
    except Exception as error:  # an estimate must not keep a run from its first step
        reason = (str(error).splitlines() or [""])[0]
        line = f"what a step takes of the GPU's memory could not be told ({type(error).__name__}: {reason})"
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
    """A copy of a system with the UNet and the tuning layer of :func:`save_weights`, or none where that had none."""
    state = load_tensors(path)
    tuned = copy.copy(system)
    tuned.unet = copy.deepcopy(system.unet)
    tuned.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
    tuning = {k[7:]: v for k, v in state.items() if k.startswith("tuning.")}
    tuned.tuning = None
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
