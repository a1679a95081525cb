"""One optimiser step of a run: passes forward and backward, the clipped gradient, the update."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentclap.train.agreement import Agreement
from latentclap.train.config import TrainConfig, TrainingError
from latentclap.train.replay import NotRecorded, Recorded
from latentclap.train.state import RunState
from latentclap.train.stream import Stream
from latentclap.train.task import Task
from latentclap.train.values import Values


def replayed(task: Task, config: TrainConfig, accelerator: Any) -> bool:
    """Whether a step is recorded as a CUDA graph.

    Not on several GPUs, whose exchange would be part of it; nor with fp16, whose scaler looks at the gradients.
    """
    able = task.replayable and config.compile and config.cuda_graph and config.grad_accum == 1
    alone = accelerator.num_processes == 1 and accelerator.scaler is None
    return able and alone and accelerator.device.type == "cuda"


class Stepper:
    """What takes a run's steps.

    Args:
        task: what trains, as accelerate wraps it.
        parameters: its weights that train.
        state: where the run is, with its optimiser.
        stream: gives each step its batch.
        agreement: with the other processes.
        values: what steps gave.
        share: (offset, count) of this process in each batch.
        replay: whether a step is recorded as a CUDA graph (:func:`replayed`).
    """

    def __init__(
        self,
        task: Any,
        parameters: list[Tensor],
        state: RunState,
        stream: Stream,
        agreement: Agreement,
        values: Values,
        share: tuple[int, int],
        *,
        replay: bool,
    ) -> None:
        self.task, self.parameters, self.state, self.stream = task, parameters, state, stream
        self.agreement, self.values, self.share = agreement, values, share
        self.config, self.accelerator, self.optimizer = state.config, state.accelerator, state.optimizer
        self.replay = self._recorded() if replay else None

    def _recorded(self) -> Recorded:
        return Recorded(
            lambda batch: {**self._pass(batch, [], sync=True), "grad_norm": self._update()},
            stream=torch.cuda.Stream(self.accelerator.device),
            before=self.stream.settle,
            of=self.task,
        )

    @contextmanager
    def computing(self) -> Iterator[None]:
        """On the stream on which a step will be recorded: gradients want one stream for all steps."""
        if self.replay is None:
            yield
            return
        outside, own = torch.cuda.current_stream(self.accelerator.device), self.replay.stream
        own.wait_stream(outside)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            outside.wait_stream(own)

    def take(self, lr: float) -> dict[str, Tensor]:
        """One optimiser step: grad_accum forward and backward passes on this process's share of the batch.

        Args:
            lr: the learning rate.

        Returns:
            The task's terms and the gradient's norm, scalars on the device.

        Raises:
            TrainingError: the GPU is too small, or cannot record the step.
        """
        for group in self.optimizer.param_groups:
            if self.replay:
                group["lr"].fill_(lr)  # a graph holds numbers as they were; this one lies on the GPU
            else:
                group["lr"] = lr
        try:
            return self._optimise()
        except torch.OutOfMemoryError as error:
            self._let_go(error)
            raise TrainingError(self._too_large()) from None
        except NotRecorded as error:
            self._let_go(error)
            raise TrainingError(
                f"{self.values.description}: a step cannot be recorded as a CUDA graph ({error}); train without one"
                " (--no-cuda-graph; in Python cuda_graph=False)"
            ) from error

    def _optimise(self) -> dict[str, Tensor]:
        config = self.config
        first = self.state.step * config.batch_size * config.grad_accum + self.share[0]
        values: dict[str, Tensor] = {}
        for k in range(config.grad_accum):
            start = first + k * config.batch_size
            batch, rngs = self.stream.at(start)
            # dropout draws from the global generator: make it a function of the position too
            torch.manual_seed(int(np.random.SeedSequence([config.seed, start, 1]).generate_state(1)[0]))
            if self.replay:
                values = self.replay(batch)
                break
            for name, value in self._pass(batch, rngs, sync=k == config.grad_accum - 1).items():
                values[name] = values.get(name, 0.0) + value / config.grad_accum
        if not self.replay:
            values["grad_norm"] = self._update()
        if self.state.ema:
            self.state.ema.update(self.state.modules)
        return values

    def _pass(
        self, batch: dict[str, Tensor], rngs: list[torch.Generator], *, sync: bool
    ) -> dict[str, Tensor]:
        """Forward and backward pass: the task's terms, means over all processes."""
        config, acc, agreement = self.config, self.accelerator, self.agreement
        # the mean over processes counts each alike: a share that is larger by an item has to weigh more
        weight = self.share[1] * acc.num_processes / config.batch_size
        with nullcontext() if sync else acc.no_sync(self.task), acc.autocast():
            terms = self.task(batch, rngs)
        values = agreement.means(terms, weight)
        if not agreement.lags:
            self.values.check(values["loss"].item(), "loss", self.state.step)
        acc.backward(terms["loss"] * weight / config.grad_accum)
        return values

    def _update(self) -> Tensor:
        """Clip the gradient and let the optimiser step; the gradient's norm."""
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.grad_clip or math.inf).detach()
        if not self.agreement.lags:
            self.values.check_norm(norm.item(), self.state.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def close(self) -> None:
        """Give back what only steps need, at once: wrappers that hold each other wait for garbage to be collected."""
        if self.replay:
            self.replay.close()
        self.values.unread.clear()
        for p in self.parameters:
            p.grad = None
        self.state.close()

    def _let_go(self, error: RuntimeError) -> None:
        """Free what a step held: the error's frames keep its graph, and the rest of the system has to come back."""
        for each in (error, error.__cause__):
            traceback.clear_frames(each and each.__traceback__)
        self.close()

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
            f"{self.values.description}: batch_size={config.batch_size} does not fit into {held:.0f} GiB;"
            f" {mend} (data_scripts/benchmarks/speed.py memory tells what fits)"
        )
