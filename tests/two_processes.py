"""What test_distributed.py runs in two processes under accelerate launch: each part writes what it saw."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from latentclap.errors import InputError
from latentclap.finetune import FinetuneConfig, finetune
from latentclap.latent_clap import LatentCLAP
from latentclap.models import random_system
from latentclap.system import tuning_layer
from latentclap.train import (
    Interrupted,
    Task,
    TensorBatches,
    TrainConfig,
    TrainingError,
    processes,
    train,
)


class Line(Task):
    """y = W x with noise per item."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def forward(self, batch, rngs):
        noise = torch.stack([torch.randn(2, generator=g) for g in rngs])
        return {"loss": (self.net(batch["x"]) - batch["y"] - 0.1 * noise).square().mean()}


class Watched(TensorBatches):
    """Keeps the numbers of the items that this process was given."""

    def batch(self, indices):
        self.seen = [*getattr(self, "seen", []), *indices]
        return super().batch(indices)


def line_data(kind=Watched):
    x = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    return kind({"x": x, "y": x[:, :2] * 2})


def line_config(**changes):
    return TrainConfig(
        **{"steps": 23, "batch_size": 5, "lr": 0.02, "ema_decay": 0.9, "log_every": 1, **changes}
    )


class Stop(Exception):
    """As a kill between two steps, in all processes."""


def stop_after(task, steps):
    """Let ``steps`` forward passes through."""
    inner, calls = task.forward, []

    def forward(batch, rngs):
        calls.append(0)
        if len(calls) > steps:
            raise Stop
        return inner(batch, rngs)

    task.forward = forward
    return task


def fine_tuning(folder, config=None):
    """Eq. 4 on the tiny system and random latents: what the weights were and what was logged."""
    system = random_system("tiny", seed=0)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(12, *system.latent_shape, generator=generator)
    E = nn.functional.normalize(torch.randn(12, 512, generator=generator), dim=-1)
    cache = {"mean": mean, "logvar": torch.full_like(mean, -4.0), "E_audio": E}
    cache["E_text"] = system.encode_text([f"sound {i % 3}" for i in range(12)])
    torch.manual_seed(0)
    phi = LatentCLAP(width=4).eval()
    config = config or FinetuneConfig(lam=100.0, tuning=True, epochs=3, batch_size=5, lr=1e-3, ema_decay=0.9)
    tuned, result = finetune(system, phi, cache, config, folder, progress=False)
    weights = torch.cat([v.flatten() for v in (*tuned.unet.parameters(), *tuned.tuning.parameters())])
    return weights.detach(), result.history


def starting_point():
    """The weights before :func:`fine_tuning`."""
    unet = random_system("tiny", seed=0).unet
    return torch.cat([v.flatten() for v in (*unet.parameters(), *tuning_layer(512).parameters())]).detach()


def main(folder):
    state = processes()
    rank = state.process_index
    said = {"world": state.num_processes}

    weights, history = fine_tuning(folder / "finetune")
    if rank == 0:
        torch.save(weights, folder / "finetune.pt")
    said["history"] = history

    data = line_data()
    train(Line(), data, line_config(), folder / "epochs", progress=False)
    said["seen"] = data.seen

    # going on from one process's checkpoint, up to a kill
    try:
        train(
            stop_after(Line(), 8),
            line_data(),
            line_config(checkpoint_seconds=0),
            folder / "resumed",
            progress=False,
        )
    except Stop:
        said["stopped"] = True

    class Explodes(Line):
        """Not a number in the second process alone."""

        def forward(self, batch, rngs):
            self.calls = getattr(self, "calls", 0) + 1
            terms = super().forward(batch, rngs)
            return {"loss": terms["loss"] * float("nan")} if rank == 1 and self.calls == 4 else terms

    try:
        train(Explodes(), line_data(), line_config(checkpoint_seconds=0), folder / "nan", progress=False)
    except TrainingError as error:
        said["nan"] = str(error)

    class Slow(Line):
        """The second process's clock runs ahead by what it waits before it starts."""

        def forward(self, batch, rngs):
            time.sleep(0.01)
            return super().forward(batch, rngs)

    result = train(
        Slow(), line_data(), line_config(steps=10**6, minutes=0.005), folder / "time", progress=False
    )
    said["time"] = [result.step, result.finished]

    class Told(Line):
        """The second process alone is told to go."""

        def forward(self, batch, rngs):
            self.calls = getattr(self, "calls", 0) + 1
            if rank == 1 and self.calls == 4:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().forward(batch, rngs)

    try:
        train(Told(), line_data(), line_config(), folder / "told", progress=False)
    except Interrupted as stop:
        said["told"] = [stop.code, str(stop)]

    class Normed(Line):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

    class Contrast(Line):
        divisible = False

    said["refused"] = []
    for task, changes in ((Normed(), {}), (Contrast(), {}), (Line(), {"batch_size": 1})):
        try:
            train(task, line_data(), line_config(**changes), folder / "refused", progress=False)
        except InputError as error:
            said["refused"].append(str(error))
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
