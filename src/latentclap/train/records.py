"""What a run keeps on disk: checkpoint.pt, written whole or not at all, and stats.jsonl, one line per logged step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from latentclap.errors import InputError
from latentclap.files import atomic_path
from latentclap.train.config import _FREE, TrainConfig

CHECKPOINT = "checkpoint.pt"
STATS = "stats.jsonl"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill -9 or power cut after the rename does not find an empty file."""
    with atomic_path(folder / CHECKPOINT) as path:
        torch.save(state, path)
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def load_checkpoint(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The folder's checkpoint, or None where there is none.

    Raises:
        InputError: it is of a run with other settings.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    ours = config.fixed()
    theirs = {k: v for k, v in state["config"].items() if k not in _FREE}
    if ours != theirs:
        differing = sorted(k for k in ours if ours[k] != theirs.get(k))
        raise InputError(
            f"{path} is of a run with other settings ({', '.join(differing)}):"
            " use another folder, or delete it to start anew"
        )
    return state


def pack(folder: Path, out: Path) -> int:
    """Write a run's checkpoint small enough to travel: averaged weights in half precision, and the place in the run.

    An eighth of the whole is left, which keeps two moments, the weights and their average in single precision. Put
    in another folder as checkpoint.pt, it goes on there with the same order of samples and the learning rate of its
    step, warmed up again since Adam's moments begin anew.

    Args:
        folder: a run's.
        out: file to write.

    Returns:
        The step that it goes on from.

    Raises:
        InputError: the folder has no checkpoint, or a weight is not finite in half precision.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{folder}: no {CHECKPOINT} there; train first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    averaged = (state["ema"] or {}).get("shadow", {})
    modules = {}
    for module, weights in state["modules"].items():
        modules[module] = {}
        for name, value in weights.items():
            if value.is_floating_point():
                value = averaged.get(f"{module}.{name}", value).half()
                if not torch.isfinite(value).all():
                    raise InputError(f"{path}: {module}.{name} does not fit into float16")
            modules[module][name] = value.clone()
    ema = state["ema"] and {"count": state["ema"]["count"]}
    with atomic_path(out) as temporary:
        torch.save({**state, "modules": modules, "optimizer": None, "ema": ema}, temporary)
    return state["step"]


def append_stats(folder: Path, line: dict[str, float]) -> None:
    """Add a line to stats.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / STATS, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def read_stats(folder: Path, step: int) -> list[dict[str, float]]:
    """The lines up to a step: those that a killed run logged after its last checkpoint will be written again."""
    path = folder / STATS
    lines: list[dict[str, float]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # cut short by the kill
            break
        if line["step"] <= step:
            lines.append(line)
    return lines


def rewrite_stats(folder: Path, lines: list[dict[str, float]]) -> None:
    """Replace stats.jsonl."""
    with atomic_path(folder / STATS) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
