"""The loop itself."""

from __future__ import annotations

import math
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.errors import InputError
from latentclap.train.ahead import Ahead, Inputs
from latentclap.train.compiler import need_compiler
from latentclap.train.config import TrainConfig, TrainingError, learning_rate, resolved
from latentclap.train.data import Batches, item_generators, sample_order, share
from latentclap.train.ema import EMA
from latentclap.train.records import (
    CHECKPOINT,
    STATS,
    append_stats,
    clean,
    damaged,
    load_checkpoint,
    read_stats,
    rewrite_stats,
    save_checkpoint,
)
from latentclap.train.signals import Signals, interruption
from latentclap.train.task import Task, TrainResult, for_processes, processes

#: a GPU's losses are read at least so often: a NaN is noticed after so many steps
MOST_UNREAD = 100
#: on GPUs, several processes agree every so many steps whether to go on: reading the answer waits for the step
AGREE_EVERY = 10
#: time from one checkpoint to the next, in the time that saving one took
SAVE_SHARE = 20


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

    Started by ``accelerate launch``, the processes share each batch: the result does not depend on their number
    but for the order in which floats are added. (Dropout inside a network draws once per share of the batch: there
    the number of processes changes the draw.) Only the main process writes. A run may go on with another number.

    Args:
        task: what to train; its modules hold the result afterwards (the averaged weights where EMA is on).
        data: the training data, all of it in every process.
        config: see :class:`TrainConfig`.
        folder: run folder, for checkpoint.pt, stats.jsonl and TensorBoard events; all machines must see it.
        progress: show a progress bar.
        description: the bar's label.
        use_ema: leave the averaged weights in the task's modules at the end.
        on_checkpoint: called with the step after each checkpoint, in the main process.

    Raises:
        InputError: no data, the folder's checkpoint is of another configuration, or the task or batch cannot be
            shared by this number of processes.
        TrainingError: a loss or gradient that is not finite, in every process.
        OSError: a checkpoint cannot be written; the one before it is still there.
        Interrupted: SIGTERM or SIGUSR1 came, to one of the processes at least; a checkpoint was saved. (Ctrl-C, too,
            saves one before its KeyboardInterrupt; a second Ctrl-C does not wait for it.)
    """
    if not len(data):
        raise InputError(f"{description}: there is no training data")
    # of the process, not of this run: given back at its end
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with Signals() as signals:
        loop = None
        try:
            loop = _Loop(task, data, config, Path(folder), progress, description, signals)
            with _search(config.compile):
                result = loop.run(use_ema, on_checkpoint)
        finally:
            if loop:
                loop.stop_ahead()
            _restore_modules(task, config)
            torch.set_float32_matmul_precision(products[0])
            torch.backends.cudnn.allow_tf32 = products[1]
        loop.obey()
    return result


class _Loop:
    """State of one call of :func:`train`."""

    def __init__(
        self,
        task: Task,
        data: Batches,
        config: TrainConfig,
        folder: Path,
        progress: bool,
        description: str,
        signals: Signals,
    ) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        self.config, self.data, self.folder, self.description = config, data, folder, description
        self.signals = signals
        processes()
        precision = resolved(config.precision)
        precision = "no" if precision == "tf32" else precision  # accelerate knows none of it
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
            # accelerate keeps one precision for a process; runs in a notebook may differ in it
            AcceleratorState._reset_state()
        # large buckets: a compiled UNet is cut where one ends, which at DDP's 25 MiB makes dozens of pieces
        shared = DistributedDataParallelKwargs(bucket_cap_mb=250, gradient_as_bucket_view=True)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[shared])
        # the loop accumulates by itself; a launcher's variable would make accelerate shrink the gradients once more
        self.accelerator.gradient_accumulation_steps = 1
        # an epoch's order is asked for by every batch
        self.order = lru_cache(maxsize=2)(data.order) if hasattr(data, "order") else None
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.share = share(config.batch_size, self.rank, self.world)
        if self.world > 1:
            task = for_processes(task, self.accelerator.device)
        self.bare, self.modules = task, task.trained()
        _prepare_modules(task, config)
        parameters = [p for m in self.modules.values() for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=self.accelerator.device.type == "cuda",
        )
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.parameters = parameters
        #: module.name of weights that neither train nor are kept
        self.left_out = _frozen(self.modules) if task.frozen else frozenset()
        self.ema = self._average() if config.ema_decay else None
        self.main = self.accelerator.is_main_process
        self.bar = tqdm(
            total=config.steps, desc=description, disable=not (progress and self.main), leave=False
        )
        self.history: list[dict[str, float]] = []
        #: a GPU runs behind: its losses are read where they are logged, since reading one waits for all before it
        self.lags = self.accelerator.device.type == "cuda"
        self.unread: list[tuple[int, dict[str, Tensor]]] = []
        #: where it runs behind, the CPU has time to prepare the next step: a thread does, by its start in the stream
        self.ahead = Ahead(self._drawn, self.accelerator.device) if self.lags else None
        self.step, self.seconds = 0, 0.0
        self.started = time.monotonic()
        #: whether any process wants to stop for the time or for a signal, as of the last step
        self.wishes: Tensor | None = None
        #: where the optimiser's moments began: later than the run if it went on from a packed checkpoint
        self.begun = 0
        self._resume()

    # ------------------------------------------------------------------------------ the loop itself

    def run(self, use_ema: bool, on_checkpoint: Callable[[int], None] | None) -> TrainResult:
        config = self.config
        self.started = saved = time.monotonic()
        interval = config.checkpoint_seconds
        earlier = self.seconds
        done_at_start = self.step
        writer = self._tensorboard()
        self.task.train()
        while self.step < config.steps:
            lr = learning_rate(config, self.step, self.begun)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            last = self.step + 1 == config.steps
            log = (self.step + 1) % config.log_every == 0 or last or self.step == 0
            try:
                self.unread.append((self.step, self._optimise()))
                values = self._read() if log or len(self.unread) >= MOST_UNREAD else {}
            except torch.OutOfMemoryError as error:
                self._let_go(error)
                raise TrainingError(self._too_large()) from None
            self.step += 1
            self.bar.update()
            now = time.monotonic()
            self.seconds = earlier + now - self.started
            if log:
                self._log({**values, "lr": lr}, writer)
            # each process has its own clock and signals: all leave at the same step, and only the main one saves
            leaving = self._leaving(log)
            if leaving:
                self._read()
            due = now - saved > interval or last or leaving
            # one that holds a NaN is not written; all processes learn of it together, where they read
            if self.main and due and self._sound():
                began = time.monotonic()
                self._save()
                saved = time.monotonic()
                if config.checkpoint_seconds:
                    interval = max(config.checkpoint_seconds, SAVE_SHARE * (saved - began))
                if on_checkpoint:
                    on_checkpoint(self.step)
            if leaving:
                break
        self.bar.close()
        if writer:
            writer.close()
        if self.main and config.steps == 0 and done_at_start == 0:
            self._save()
        self.accelerator.wait_for_everyone()  # nobody goes on before the checkpoint is there
        if self.ema and use_ema:
            self.ema.copy_to(self.modules)
        self.accelerator.unwrap_model(self.task).eval()
        return TrainResult(self.step, self.step >= config.steps, self.seconds, self.history, self.folder)

    def _optimise(self) -> dict[str, Tensor]:
        """One optimiser step: grad_accum forward and backward passes on this process's share of the batch.

        Returns:
            The task's terms and the gradient's norm, scalars on the device.
        """
        config, acc = self.config, self.accelerator
        offset, count = self.share
        first = self.step * config.batch_size * config.grad_accum + offset
        # the mean over processes counts each alike: a share that is larger by an item has to weigh more
        weight = count * self.world / config.batch_size
        sums: dict[str, Tensor] = {}
        for k in range(config.grad_accum):
            start = first + k * config.batch_size
            batch, rngs = self._inputs(start)
            # dropout draws from the global generator: make it a function of the position too
            torch.manual_seed(int(np.random.SeedSequence([config.seed, start, 1]).generate_state(1)[0]))
            sync = k == config.grad_accum - 1
            with nullcontext() if sync else acc.no_sync(self.task), acc.autocast():
                terms = self.task(batch, rngs)
            values = self._over_processes(terms, weight)
            if not self.lags:
                self._check(values["loss"].item(), "loss", self.step)
            acc.backward(terms["loss"] * weight / config.grad_accum)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / config.grad_accum
        norm = acc.clip_grad_norm_(self.parameters, config.grad_clip or math.inf).detach()
        if not self.lags:
            self._check_norm(norm.item(), self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.modules)
        return {**sums, "grad_norm": norm}

    def _inputs(self, start: int) -> Inputs:
        """The batch at a place of the stream, on the device, with its random numbers, and the items' generators."""
        if self.ahead is None:
            batch, rngs = self._drawn(start)
        else:
            batch, rngs = self.ahead.get(start, start + self.config.batch_size)
        return {name: value.to(self.accelerator.device) for name, value in batch.items()}, rngs

    def _drawn(self, start: int) -> Inputs:
        count = self.share[1]
        batch = self.data.batch(self._items(start, count))
        if hasattr(self.data, "prepare"):
            self.data.prepare(self._items(start + self.config.batch_size, count))
        rngs = item_generators(self.config.seed, start, count)
        return batch | self.bare.draw(batch, rngs), rngs

    def _items(self, start: int, count: int) -> list[int]:
        """The items at a place of the stream."""
        return sample_order(start, count, len(self.data), self.config.seed, self.order)

    def _read(self) -> dict[str, float]:
        """Wait for the steps since the last reading, check them in their order, and return the last one's values."""
        values: dict[str, float] = {}
        for (step, _), values in zip(self.unread, self._numbers(), strict=True):
            self._check(values["loss"], "loss", step)
            self._check_norm(values["grad_norm"], step)
        self.unread.clear()
        return values

    def _numbers(self) -> list[dict[str, float]]:
        """The unread values of each step, in one transfer."""
        if not self.unread:
            return []
        rows = torch.stack([torch.stack([v.float() for v in terms.values()]) for _, terms in self.unread])
        return [dict(zip(self.unread[0][1], row, strict=True)) for row in rows.tolist()]

    def stop_ahead(self) -> None:
        """Let go of the thread that prepares the next step."""
        if self.ahead:
            self.ahead.stop()

    def _sound(self) -> bool:
        """Whether all unread losses and gradients are finite."""
        names = ("loss", "grad_norm") if self.accelerator.scaler is None else ("loss",)
        return all(math.isfinite(row[name]) for row in self._numbers() for name in names)

    def _let_go(self, error: torch.OutOfMemoryError) -> None:
        """Free what a step held: the error's frames keep its graph, and the rest of the system has to come back."""
        traceback.clear_frames(error.__traceback__)
        self.unread.clear()
        for p in self.parameters:
            p.grad = None
        self.optimizer.optimizer.state.clear()

    def _too_large(self) -> str:
        """What to do where a GPU's memory is too small, from how much of it there is."""
        config = self.config
        held = torch.cuda.get_device_properties(self.accelerator.device).total_memory / 2**30
        smaller = max(1, config.batch_size // 2)
        accumulated = config.grad_accum * -(-config.batch_size // smaller)
        mend = f"batch_size={smaller} with grad_accum={accumulated}"
        if smaller * accumulated != config.batch_size * config.grad_accum:
            mend += f" ({smaller * accumulated} clips a step)"
        if not config.checkpointing:
            mend += ", or checkpointing"
        return (
            f"{self.description}: batch_size={config.batch_size} does not fit into {held:.0f} GiB;"
            f" {mend} (data_scripts/benchmarks/speed.py memory tells what fits)"
        )

    def _over_processes(self, terms: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Each term's mean over the whole batch, the same in every process: so all of them see a NaN."""
        if self.world == 1:
            return {name: value.detach() for name, value in terms.items()}
        values = torch.stack([value.detach().float() for value in terms.values()]) * weight
        # who wants to stop is told along with them: a message of its own in every step would cost as much again
        wishes = [values.new_full((1,), float(wish)) for wish in self._wishes()]
        *means, out_of_time, signalled = self.accelerator.reduce(
            torch.cat([values, *wishes]), "mean"
        ).unbind()
        self.wishes = torch.stack([out_of_time, signalled])
        return dict(zip(terms, means, strict=True))

    def _wishes(self) -> tuple[bool, bool]:
        """Whether this process wants to stop: for the time, by the main process's clock, or for a signal."""
        config = self.config
        elapsed = time.monotonic() - self.started
        out_of_time = self.main and config.minutes and elapsed > 60 * config.minutes
        return bool(out_of_time), bool(self.signals.received)

    def _leaving(self, reads: bool) -> bool:
        """Whether this step is the last one of this call, the same in every process.

        Args:
            reads: the loop has waited for this step anyway.
        """
        if self.world == 1:
            return any(self._wishes())
        if self.lags and not reads and self.step % AGREE_EVERY:
            return False
        return any(self.wishes.tolist())

    def obey(self) -> None:
        """Stop for a signal that came to any process, now that its checkpoint is saved.

        Raises:
            Interrupted: one came.
        """
        signum = self.signals.received
        if self.world > 1:  # all stop alike, whichever process was told
            signum = int(
                self.accelerator.gather(torch.tensor([signum], device=self.accelerator.device)).max()
            )
        if signum:
            where = f"the checkpoint in {self.folder} is of step {self.step}"
            name = signal.Signals(signum).name
            raise interruption(
                f"{self.description}: stopped by {name}; {where}: the same command goes on", signum
            )

    def _check(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            there = (self.folder / CHECKPOINT).is_file()
            kept = (
                f"the checkpoint in {self.folder} is from before that"
                if there
                else "no checkpoint was saved yet"
            )
            raise TrainingError(
                f"{self.description}: the {what} is not finite at step {step} (lr {self.config.lr:g});"
                f" {kept}. Lower lr or lambda, or clip gradients."
            )

    def _check_norm(self, value: float, step: int) -> None:
        if self.accelerator.scaler is None:  # fp16's scaler looks for too large a scale by such gradients
            self._check(value, "gradient norm", step)

    # ------------------------------------------------------------------------------------- records

    def _log(self, values: dict[str, float], writer: Any) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 3), **values}
        self.history.append(line)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        if self.main:
            append_stats(self.folder, line)
        if writer:
            for name, value in values.items():
                writer.add_scalar(name, value, self.step)

    def _tensorboard(self) -> Any:
        if not (self.config.tensorboard and self.main):
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "begun": self.begun,
            "seconds": self.seconds,
            "config": asdict(self.config),
            "modules": {name: self._weights(name, kept=True) for name in self.modules},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state() if self.ema else None,
        }
        if self.bare.frozen:
            state["frozen"] = self.bare.frozen
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_checkpoint(self.folder, state)

    def _weights(self, name: str, *, kept: bool) -> dict[str, Tensor]:
        """A module's weights that checkpoints keep, or those that they leave out."""
        state = self.modules[name].state_dict()
        for key in [k for k in state if (f"{name}.{k}" in self.left_out) is kept]:
            del state[key]
        return state

    def _average(self) -> EMA:
        return EMA(self.modules, self.config.ema_decay, without=self.left_out)

    def _resume(self) -> None:
        state = load_checkpoint(self.folder, self.config)
        if state is not None:
            theirs, ours = state.get("frozen", ""), self.bare.frozen
            if theirs != ours:
                raise InputError(
                    f"{self.folder / CHECKPOINT} is of another run ({theirs or 'all weights train'}; here"
                    f" {ours or 'all weights train'}): use another folder, or delete it to start anew"
                )
            try:
                self._take(state)
            except torch.OutOfMemoryError:
                raise
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise damaged(self.folder / CHECKPOINT, error) from None
            self.history = read_stats(self.folder, self.step)
            self.bar.update(self.step)
        self._check_same_start()
        if self.main:
            clean(self.folder)
            if (self.folder / STATS).is_file():  # lines after the checkpoint, or of a run that had none yet
                rewrite_stats(self.folder, self.history)

    def _take(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        for name, module in self.modules.items():
            weights = state["modules"][name]
            for key, value in self._weights(name, kept=False).items():
                weights.setdefault(key, value)
            module.load_state_dict(weights)
        self.step, self.seconds = state["step"], state["seconds"]
        if state["optimizer"] is None:  # packed: the weights are the averaged ones
            self.begun = self.step
            if self.ema:
                self.ema = self._average()
                self.ema.count = state["ema"]["count"]
            return
        self.begun = state.get("begun", 0)
        for group in state["optimizer"][
            "param_groups"
        ]:  # how the steps are computed here, not where it was saved
            group["fused"] = self.accelerator.device.type == "cuda"
        self.optimizer.load_state_dict(state["optimizer"])
        _as_weights_lie(self.optimizer)
        if self.ema:
            self.ema.load(state["ema"])
        # a run may go on in another precision, with a scale or without
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _check_same_start(self) -> None:
        """Every process must have read the same checkpoint, or none."""
        if self.world == 1:
            return
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise InputError(
                f"the processes do not see the same checkpoint (steps {steps}): {self.folder} must be on a file"
                " system that all machines share"
            )


def _frozen(modules: Mapping[str, nn.Module]) -> frozenset[str]:
    return frozenset(
        f"{name}.{key}"
        for name, m in modules.items()
        for key, p in m.named_parameters()
        if not p.requires_grad
    )


@contextmanager
def _search(on: bool) -> Iterator[None]:
    """cuDNN tries its algorithms once per shape: worth it where shapes stay, as a compiled step's do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _prepare_modules(task: Task, config: TrainConfig) -> None:
    """Set up precision of matrix products, recomputation and compilation, in place: names of weights stay."""
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


def _restore_modules(task: Task, config: TrainConfig) -> None:
    """Undo what :func:`_prepare_modules` did, also where training failed: what comes after runs in other shapes."""
    if config.compile:
        from latentclap.fast import slow_down

        for module in task.hot():
            module._compiled_call_impl = None
            slow_down(module)
    if config.channels_last:
        for module in task.trained().values():
            module.to(memory_format=torch.contiguous_format)


def _as_weights_lie(optimizer: Any) -> None:
    """Moments in the order in memory of their weights: a fused Adam wants it, and a run may go on with another."""
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)
