"""Where a run is: what its checkpoint keeps, and how it goes on from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentclap.errors import InputError
from latentclap.train.config import TrainConfig
from latentclap.train.ema import EMA
from latentclap.train.modules import as_weights_lie, frozen
from latentclap.train.records import CHECKPOINT, damaged, load_checkpoint, read_stats, save_checkpoint


class RunState:
    """All that the next step depends on.

    Args:
        modules: name -> module that trains, on its device.
        trains: :attr:`Task.frozen` of what is trained.
        optimizer: over the modules' weights, as accelerate wraps it.
        config: of the run.
        folder: of the run.
        accelerator: its scaler, where it has one for fp16, is kept too.

    Attributes:
        step: optimiser steps done.
        seconds: of training, in all calls.
        begun: step at which the optimiser's moments began: later than the run if it went on from a packed checkpoint.
        ema: the averaged weights; None: there are none.
        history: lines of stats.jsonl up to the step.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        trains: str,
        optimizer: Any,
        config: TrainConfig,
        folder: Path,
        accelerator: Any,
    ) -> None:
        self.modules, self.trains, self.optimizer = modules, trains, optimizer
        self.config, self.folder, self.accelerator = config, folder, accelerator
        #: module.name of weights that neither train nor are kept
        self.left_out = frozen(modules) if trains else frozenset()
        self.step, self.seconds, self.begun = 0, 0.0, 0
        self.ema = self._average() if config.ema_decay else None
        self.history: list[dict[str, float]] = []

    def _average(self) -> EMA:
        return EMA(self.modules, self.config.ema_decay, without=self.left_out)

    def _weights(self, name: str, *, kept: bool) -> dict[str, Tensor]:
        """A module's weights that checkpoints keep, or those that they leave out."""
        state = self.modules[name].state_dict()
        for key in [k for k in state if (f"{name}.{k}" in self.left_out) is kept]:
            del state[key]
        return state

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            OSError: it cannot be written; the one before it is still there.
        """
        state = {
            "step": self.step,
            "begun": self.begun,
            "seconds": self.seconds,
            "config": asdict(self.config),
            "modules": {name: self._weights(name, kept=True) for name in self.modules},
            "optimizer": _without_graph(self.optimizer.state_dict()),
            "ema": self.ema.state() if self.ema else None,
        }
        if self.trains:
            state["frozen"] = self.trains
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_checkpoint(self.folder, state)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one.

        Raises:
            InputError: it is damaged, or of another run.
        """
        state = load_checkpoint(self.folder, self.config)
        if state is None:
            return
        theirs, ours = state.get("frozen", ""), self.trains
        if theirs != ours:
            raise InputError(
                f"{self.folder / CHECKPOINT} is of another run ({theirs or 'all weights train'}; here"
                f" {ours or 'all weights train'}): use another folder, or delete it to start anew"
            )
        try:
            self.take(state)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self.folder / CHECKPOINT, error) from None
        self.history = read_stats(self.folder, self.step)

    def take(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
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
        # how the steps are computed here, not where it was saved
        ours = self.optimizer.param_groups[0]
        for group in state["optimizer"]["param_groups"]:
            group.update({name: ours[name] for name in ("lr", "fused", "capturable")})
        self.optimizer.load_state_dict(state["optimizer"])
        as_weights_lie(self.optimizer)
        if self.ema:
            self.ema.load(state["ema"])
        # a run may go on in another precision, with a scale or without
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def close(self) -> None:
        """Give back the optimiser's moments and the averaged weights."""
        self.optimizer.state.clear()
        self.ema = None


def _without_graph(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state as it is without a CUDA graph, whose learning rate is a tensor on the GPU."""
    groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
