"""The loop itself: one optimiser step after the other, and a checkpoint now and then.

Beside it are the batches that it walks along (``stream``), what it looks at (``values``), what it keeps (``state``),
what several processes tell each other (``agreement``), and how modules are made ready for it (``modules``).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from latentclap.errors import InputError
from latentclap.train.agreement import Agreement
from latentclap.train.config import TrainConfig, learning_rate, resolved
from latentclap.train.data import Batches, share
from latentclap.train.modules import arithmetic, prepare_modules, restore_modules
from latentclap.train.records import STATS, append_stats, clean, rewrite_stats
from latentclap.train.signals import Signals, interruption
from latentclap.train.state import RunState
from latentclap.train.step import Stepper, replayed
from latentclap.train.stream import Stream
from latentclap.train.task import Task, TrainResult, for_processes, processes
from latentclap.train.values import Values

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
        TrainingError: a loss or gradient that is not finite, in every process; or a GPU too small for the batch.
        OSError: a checkpoint cannot be written; the one before it is still there.
        Interrupted: SIGTERM or SIGUSR1 came, to one of the processes at least; a checkpoint was saved. (Ctrl-C, too,
            saves one before its KeyboardInterrupt; a second Ctrl-C does not wait for it.)
    """
    if not len(data):
        raise InputError(f"{description}: there is no training data")
    with Signals() as signals, arithmetic(config.compile):
        loop = None
        try:
            loop = _Loop(task, data, config, Path(folder), progress, description, signals)
            result = loop.run(use_ema, on_checkpoint)
        finally:
            if loop:
                loop.close()
            restore_modules(task, config)
        loop.obey()
    return result


class _Loop:
    """One call of :func:`train`."""

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
        self.config, self.folder, self.description = config, folder, description
        self.accelerator = acc = _accelerator(config)
        self.main, self.world = acc.is_main_process, acc.num_processes
        self.share = share(config.batch_size, acc.process_index, self.world)
        #: a GPU runs behind: its losses are read where they are logged, since reading one waits for all before it
        self.lags = acc.device.type == "cuda"
        self.agreement = Agreement(acc, config.minutes, signals, lags=self.lags)
        if self.world > 1:
            task = for_processes(task, acc.device)
        modules = task.trained()
        prepare_modules(task, config)
        parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        replay = replayed(task, config, acc)
        optimizer = torch.optim.AdamW(
            parameters,
            lr=torch.tensor(config.lr, device=acc.device) if replay else config.lr,
            capturable=replay,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=acc.device.type == "cuda",
        )
        self.task, self.optimizer = acc.prepare(task, optimizer)
        self.stream = Stream(task, data, config, self.share[1], acc.device, ahead=self.lags)
        self.values = Values(description, config.lr, folder, acc)
        self.state = RunState(modules, task.frozen, self.optimizer, config, folder, acc)
        self.bar = tqdm(
            total=config.steps, desc=description, disable=not (progress and self.main), leave=False
        )
        self.stepper = Stepper(
            self.task,
            parameters,
            self.state,
            self.stream,
            self.agreement,
            self.values,
            self.share,
            replay=replay,
        )
        self._resume()

    def _resume(self) -> None:
        self.state.resume()
        self.bar.update(self.state.step)
        self.agreement.check_same_start(self.state.step, self.folder)
        if self.main:
            clean(self.folder)
            if (self.folder / STATS).is_file():  # lines after the checkpoint, or of a run that had none yet
                rewrite_stats(self.folder, self.state.history)

    def close(self) -> None:
        """Let go of the thread, of what only steps need, and of the bar."""
        self.bar.close()  # of a run that failed, it would stand before the message
        try:
            self.stream.stop()
        finally:  # a second Ctrl-C does not wait for the thread
            self.stepper.close()

    def run(self, use_ema: bool, on_checkpoint: Callable[[int], None] | None) -> TrainResult:
        with self.stepper.computing():
            return self._run(use_ema, on_checkpoint)

    def _run(self, use_ema: bool, on_checkpoint: Callable[[int], None] | None) -> TrainResult:
        config, state = self.config, self.state
        self.agreement.started = started = saved = time.monotonic()
        interval = config.checkpoint_seconds
        earlier, done_at_start = state.seconds, state.step
        writer = self._tensorboard()
        self.task.train()
        while state.step < config.steps:
            lr = learning_rate(config, state.step, state.begun)
            last = state.step + 1 == config.steps
            log = (state.step + 1) % config.log_every == 0 or last or state.step == 0
            self.values.add(state.step, self.stepper.take(lr))
            values = self.values.read() if log or self.values.full else {}
            state.step += 1
            self.bar.update()
            now = time.monotonic()
            state.seconds = earlier + now - started
            if log:
                self._log({**values, "lr": lr}, writer)
            # each process has its own clock and signals: all leave at the same step, and only the main one saves
            leaving = self.agreement.leaving(state.step, reads=log)
            if leaving:
                self.values.read()
            due = now - saved > interval or last or leaving
            # one that holds a NaN is not written; all processes learn of it together, where they read
            if self.main and due and self.values.sound():
                began = time.monotonic()
                state.save()
                saved = time.monotonic()
                if config.checkpoint_seconds:
                    interval = max(config.checkpoint_seconds, SAVE_SHARE * (saved - began))
                if on_checkpoint:
                    on_checkpoint(state.step)
            if leaving:
                break
        if writer:
            writer.close()
        if self.main and config.steps == 0 and done_at_start == 0:
            state.save()
        self.accelerator.wait_for_everyone()  # nobody goes on before the checkpoint is there
        if state.ema and use_ema:
            state.ema.copy_to(state.modules)
        self.accelerator.unwrap_model(self.task).eval()
        return TrainResult(state.step, state.step >= config.steps, state.seconds, state.history, self.folder)

    def obey(self) -> None:
        """Stop for a signal that came to any process, now that its checkpoint is saved.

        Raises:
            Interrupted: one came.
            KeyboardInterrupt: it was Ctrl-C.
        """
        signum = self.agreement.signal()
        if signum:
            where = f"the checkpoint in {self.folder} is of step {self.state.step}"
            name = signal.Signals(signum).name
            raise interruption(
                f"{self.description}: stopped by {name}; {where}: the same command goes on", signum
            )

    def _log(self, values: dict[str, float], writer: Any) -> None:
        line = {"step": self.state.step, "seconds": round(self.state.seconds, 3), **values}
        self.state.history.append(line)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        if self.main:
            append_stats(self.folder, line)
        if writer:
            for name, value in values.items():
                writer.add_scalar(name, value, self.state.step)

    def _tensorboard(self) -> Any:
        if not (self.config.tensorboard and self.main):
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.state.step)


def _accelerator(config: TrainConfig) -> Any:
    """accelerate's way to the other processes and to the device, for one precision of the arithmetic."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    processes()
    precision = resolved(config.precision)
    precision = "no" if precision == "tf32" else precision  # accelerate knows none of it
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # accelerate keeps one precision for a process; runs in a notebook may differ in it
        AcceleratorState._reset_state()
    # large buckets: a compiled UNet is cut where one ends, which at DDP's 25 MiB makes dozens of pieces
    shared = DistributedDataParallelKwargs(bucket_cap_mb=250, gradient_as_bucket_view=True)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[shared])
    # the loop accumulates by itself; a launcher's variable would make accelerate shrink the gradients once more
    accelerator.gradient_accumulation_steps = 1
    return accelerator
