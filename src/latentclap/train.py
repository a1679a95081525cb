"""The one training loop, for every part that trains: CLAP, VAE, vocoder, LDM, φ, judge and the paper's fine-tuning.

A part is a :class:`Task`: modules to train and a forward pass from a batch to named losses. The loop owns what
all parts share: order of samples, gradient accumulation and clipping, EMA, mixed precision, checkpoints, logs.

Randomness is a function of (seed, position in the sample stream) and of nothing else. So a run that was killed
and started again by the same command ends in the same weights (bit for bit on a CPU), and a batch split over
several processes sees the same noise as in one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.errors import InputError
from latentclap.files import atomic_path

CHECKPOINT = "checkpoint.pt"
STATS = "stats.jsonl"


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite); the last good checkpoint is kept."""


@dataclass(frozen=True)
class TrainConfig:
    """What the loop needs to know.

    Attributes:
        steps: optimiser steps in all.
        batch_size: items per process and forward pass.
        lr: learning rate of Adam (the paper: 3e-6; section IV-B).
        warmup_steps: linear warm-up.
        schedule: "constant" or "cosine" (to zero at the last step).
        weight_decay: decoupled weight decay (0: plain Adam, as in the paper).
        beta1: Adam's first beta.
        beta2: Adam's second beta.
        grad_clip: largest gradient norm; 0 switches clipping off.
        grad_accum: forward passes per optimiser step.
        ema_decay: decay of the averaged weights, warmed up as min(decay, (1 + k) / (10 + k)); 0 switches it off.
        seed: of sample order, noise and dropout.
        precision: "auto" is bf16 on a GPU that has it and fp32 elsewhere; or "no", "bf16", "fp16".
        checkpoint_seconds: time between checkpoints.
        log_every: steps between lines of stats.jsonl.
        minutes: stop (with a checkpoint) after this time in this call; 0 runs to the end.
        tensorboard: write TensorBoard events beside stats.jsonl.
    """

    steps: int
    batch_size: int = 8
    lr: float = 3e-6
    warmup_steps: int = 0
    schedule: str = "constant"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    precision: str = "auto"
    checkpoint_seconds: float = 60.0
    log_every: int = 10
    minutes: float = 0.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        checks = {
            "steps": self.steps >= 0,
            "batch_size": self.batch_size >= 1,
            "lr": self.lr > 0 and math.isfinite(self.lr),
            "grad_accum": self.grad_accum >= 1,
            "ema_decay": 0 <= self.ema_decay < 1,
            "schedule": self.schedule in ("constant", "cosine"),
            "precision": self.precision in ("auto", "no", "bf16", "fp16"),
        }
        for name, good in checks.items():
            if not good:
                raise InputError(f"training: {name}={getattr(self, name)!r} is out of range")


#: may differ between the run that wrote a checkpoint and the run that resumes it
_FREE = {"minutes", "log_every", "checkpoint_seconds", "tensorboard", "precision"}


class Batches(Protocol):
    """Training data: a length, and a batch of named tensors for a list of item numbers."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the items as tensors (len(indices), ...)."""
        ...


class TensorBatches:
    """Batches out of tensors that fit in memory: name -> (n, ...)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        lengths = {name: len(value) for name, value in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"training data of unequal lengths: {lengths}")
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the items as tensors (len(indices), ...)."""
        return {name: value[indices] for name, value in self.tensors.items()}


class Task(nn.Module):
    """A part to train: the modules in :attr:`trained`, and a forward pass to named losses.

    Subclasses implement :meth:`forward`. Frozen modules belong into a list or closure, not into an attribute, so
    that they are neither saved nor switched to training mode.
    """

    def trained(self) -> dict[str, nn.Module]:
        """Name -> module that is trained, saved and averaged. By default all children."""
        return dict(self.named_children())

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Return named scalars: "loss" is what is minimised, the others are reported.

        Args:
            batch: tensors (B, ...).
            rngs: one CPU generator per item, for noise, steps, crops and dropped conditions.
        """
        raise NotImplementedError


@dataclass
class TrainResult:
    """What a run of the loop left.

    Attributes:
        step: optimiser steps done in all.
        finished: whether the last step was reached (False where the time budget ended it).
        seconds: training time in all calls.
        history: the lines of stats.jsonl.
        folder: the run's folder.
    """

    step: int
    finished: bool
    seconds: float
    history: list[dict[str, float]]
    folder: Path


def sample_order(position: int, count: int, length: int, seed: int) -> list[int]:
    """Item numbers at positions position ... position + count - 1 of an endless stream of shuffled epochs.

    Each item occurs once per epoch; an epoch's order depends on (seed, epoch) alone.
    """
    out: list[int] = []
    while count > 0:
        epoch, offset = divmod(position, length)
        order = np.random.default_rng([seed, epoch]).permutation(length)
        piece = order[offset : offset + count].tolist()
        out += piece
        position += len(piece)
        count -= len(piece)
    return out


def item_generators(seed: int, position: int, count: int) -> list[torch.Generator]:
    """One CPU generator per item of the stream, from (seed, position)."""
    words = [
        np.random.SeedSequence([seed, p]).generate_state(1)[0] for p in range(position, position + count)
    ]
    return [torch.Generator().manual_seed(int(word)) for word in words]


class EMA:
    """Exponential moving average of parameters, with AudioLDM's warm-up (facts A4); buffers are copied."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay, self.count = decay, 0
        self.shadow = {f"{m}.{k}": v.detach().clone().float() for m, k, v in _named_state(modules)}

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module]) -> None:
        """Take one step towards the current weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        for m, k, v in _named_state(modules):
            shadow = self.shadow[f"{m}.{k}"]
            if v.is_floating_point():
                shadow.lerp_(v.float(), 1 - decay)
            else:
                shadow.copy_(v)

    @torch.no_grad()
    def copy_to(self, modules: Mapping[str, nn.Module]) -> None:
        """Write the averaged weights into the modules."""
        for m, k, v in _named_state(modules):
            v.copy_(self.shadow[f"{m}.{k}"])


def _named_state(modules: Mapping[str, nn.Module]) -> list[tuple[str, str, Tensor]]:
    return [(m, k, v) for m, module in modules.items() for k, v in module.state_dict(keep_vars=True).items()]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of optimiser step ``step`` (0-based)."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = 1.0
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, config.steps))))
    return config.lr * warm * decay


def train(
    task: Task,
    data: Batches,
    config: TrainConfig,
    folder: str | Path,
    *,
    progress: bool = True,
    description: str = "training",
    use_ema: bool = True,
    on_checkpoint: Callable[[int], None] | None = None,
) -> TrainResult:
    """Train a task; go on where a checkpoint in ``folder`` ends.

    Args:
        task: what to train; its modules hold the result afterwards (the averaged weights where EMA is on).
        data: the training data.
        config: see :class:`TrainConfig`.
        folder: run folder, for checkpoint.pt, stats.jsonl and TensorBoard events.
        progress: show a progress bar.
        description: the bar's label.
        use_ema: leave the averaged weights in the task's modules at the end.
        on_checkpoint: called with the step after each checkpoint.

    Raises:
        InputError: no data, or the folder's checkpoint is of another configuration.
        TrainingError: a loss or gradient that is not finite.
    """
    if not len(data):
        raise InputError(f"{description}: there is no training data")
    return _Loop(task, data, config, Path(folder), progress, description).run(use_ema, on_checkpoint)


class _Loop:
    """State of one call of :func:`train`."""

    def __init__(
        self, task: Task, data: Batches, config: TrainConfig, folder: Path, progress: bool, description: str
    ) -> None:
        from accelerate import Accelerator

        self.config, self.data, self.folder, self.description = config, data, folder, description
        self.accelerator = Accelerator(mixed_precision=_precision(config.precision))
        self.modules = task.trained()
        parameters = [p for m in self.modules.values() for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
        )
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.parameters = parameters
        self.ema = EMA(self.modules, config.ema_decay) if config.ema_decay else None
        self.main = self.accelerator.is_main_process
        self.bar = tqdm(
            total=config.steps, desc=description, disable=not (progress and self.main), leave=False
        )
        self.history: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0
        self._resume()

    # ------------------------------------------------------------------------------ the loop itself

    def run(self, use_ema: bool, on_checkpoint: Callable[[int], None] | None) -> TrainResult:
        config = self.config
        started = saved = time.monotonic()
        earlier = self.seconds
        done_at_start = self.step
        writer = self._tensorboard()
        self.task.train()
        while self.step < config.steps:
            lr = learning_rate(config, self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            terms, norm = self._optimise()
            self.step += 1
            self.bar.update()
            now = time.monotonic()
            self.seconds = earlier + now - started
            last = self.step == config.steps
            if self.step % config.log_every == 0 or last or self.step == 1:
                self._log({**terms, "lr": lr, "grad_norm": norm}, writer)
            out_of_time = bool(config.minutes) and now - started > 60 * config.minutes
            if now - saved > config.checkpoint_seconds or last or out_of_time:
                self._save()
                saved = time.monotonic()
                if on_checkpoint:
                    on_checkpoint(self.step)
            if out_of_time:
                break
        self.bar.close()
        if writer:
            writer.close()
        if config.steps == 0 and done_at_start == 0:
            self._save()
        if self.ema and use_ema:
            self.ema.copy_to(self.modules)
        self.accelerator.unwrap_model(self.task).eval()
        return TrainResult(self.step, self.step >= config.steps, self.seconds, self.history, self.folder)

    def _optimise(self) -> tuple[dict[str, float], float]:
        """One optimiser step: grad_accum forward and backward passes on this process's share of the batch."""
        config, acc = self.config, self.accelerator
        world, rank = acc.num_processes, acc.process_index
        per_pass = config.batch_size * world
        first = self.step * per_pass * config.grad_accum
        sums: dict[str, float] = {}
        for k in range(config.grad_accum):
            start = first + k * per_pass + rank * config.batch_size
            indices = sample_order(start, config.batch_size, len(self.data), config.seed)
            batch = {name: value.to(acc.device) for name, value in self.data.batch(indices).items()}
            # dropout draws from the global generator: make it a function of the position too
            torch.manual_seed(int(np.random.SeedSequence([config.seed, start, 1]).generate_state(1)[0]))
            rngs = item_generators(config.seed, start, config.batch_size)
            sync = k == config.grad_accum - 1
            with nullcontext() if sync else acc.no_sync(self.task), acc.autocast():
                terms = self.task(batch, rngs)
            self._check(terms["loss"], "loss")
            acc.backward(terms["loss"] / config.grad_accum)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / config.grad_accum
        norm = float(acc.clip_grad_norm_(self.parameters, config.grad_clip or math.inf))
        self._check(torch.tensor(norm), "gradient norm")
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.modules)
        return sums, norm

    def _check(self, value: Tensor, what: str) -> None:
        if not torch.isfinite(value.detach()).all():
            raise TrainingError(
                f"{self.description}: the {what} is not finite at step {self.step} (lr {self.config.lr:g});"
                f" the checkpoint in {self.folder} is from before that. Lower lr or lambda, or clip gradients."
            )

    # ------------------------------------------------------------------------------------- records

    def _log(self, values: dict[str, float], writer: Any) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 3), **values}
        self.history.append(line)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / STATS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if writer:
            for name, value in values.items():
                writer.add_scalar(name, value, self.step)

    def _tensorboard(self) -> Any:
        if not (self.config.tensorboard and self.main):
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.main:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "config": asdict(self.config),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": {"shadow": self.ema.shadow, "count": self.ema.count} if self.ema else None,
        }
        with atomic_path(self.folder / CHECKPOINT) as path:
            torch.save(state, path)
            # a kill -9 or power cut after the rename must not find an empty file
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        ours = {k: v for k, v in asdict(self.config).items() if k not in _FREE}
        theirs = {k: v for k, v in state["config"].items() if k not in _FREE}
        if ours != theirs:
            differing = sorted(k for k in ours if ours[k] != theirs.get(k))
            raise InputError(
                f"{path} is of a run with other settings ({', '.join(differing)}):"
                " use another folder, or delete it to start anew"
            )
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.count = state["ema"]["count"]
            for key, value in state["ema"]["shadow"].items():
                self.ema.shadow[key].copy_(value)
        self.step, self.seconds = state["step"], state["seconds"]
        self.bar.update(self.step)
        self._trim_stats()

    def _trim_stats(self) -> None:
        """Drop the lines that a killed run logged after its last checkpoint: they will be written again."""
        path = self.folder / STATS
        if not path.is_file():
            return
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # cut short by the kill
                break
            if line["step"] <= self.step:
                lines.append(line)
        self.history = lines
        if self.main:
            with atomic_path(path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _precision(name: str) -> str:
    if name != "auto":
        return name
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def override(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A copy of a configuration with some values changed, checked again."""
    return replace(config, **changes)
