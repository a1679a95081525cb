"""What a run keeps on disk: checkpoint.pt, written whole or not at all, and stats.jsonl, one line per logged step."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from latentclap.errors import InputError
from latentclap.files import append_line, atomic_path
from latentclap.train.config import _FREE, TrainConfig

CHECKPOINT = "checkpoint.pt"
STATS = "stats.jsonl"
#: what every checkpoint has
_KEYS = {"step", "seconds", "config", "modules", "optimizer", "ema"}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill -9 or power cut after the rename does not find an empty file."""
    _write(state, folder / CHECKPOINT)


def _write(state: dict[str, Any], path: Path) -> None:
    try:
        # through a file of Python's: torch's own writer hides why the system refused
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:
        # torch.save closes its archive on the way out, and reports that this failed too
        refused = error if isinstance(error, OSError) else error.__context__
        if isinstance(refused, OSError) and refused.errno:
            raise OSError(refused.errno, os.strerror(refused.errno), str(path)) from None
        raise


def load_checkpoint(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The folder's checkpoint, or None where there is none.

    Raises:
        InputError: it is damaged, or of a run with other settings.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state = _read(path)
    ours = config.fixed()
    theirs = {k: v for k, v in state["config"].items() if k not in _FREE}
    if ours != theirs:
        differing = sorted(k for k in ours if ours[k] != theirs.get(k))
        raise InputError(
            f"{path} is of a run with other settings ({', '.join(differing)}):"
            " use another folder, or delete it to start anew"
        )
    return state


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint file's content.

    Raises:
        InputError: it is damaged, or no checkpoint of ours.
    """
    try:
        # torch writes checksums and does not read them: weights of a failing disk would train on without a word
        with zipfile.ZipFile(path) as archive:
            if wrong := archive.testzip():
                raise damaged(path, f"its part {wrong} does not have its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        # torch seeks to places that a file which was cut short has not; all else is the system's own reason
        if error.errno != errno.EINVAL:
            raise
        raise damaged(path, error) from None
    except Exception as error:  # zip's, pickle's, torch's: a file that was cut short gives any of them
        raise damaged(path, error) from None
    if not isinstance(state, dict) or not _KEYS.issubset(state):
        raise damaged(path, "no checkpoint of this loop")
    return state


def damaged(path: Path, why: Exception | str) -> InputError:
    """The error for a checkpoint that cannot be read."""
    reason = (str(why).splitlines() or [type(why).__name__])[0]
    return InputError(
        f"{path} is damaged or of another model ({reason}): put a copy in its place, or delete it to start anew"
    )


def clean(folder: Path) -> None:
    """Delete what runs that were killed while they wrote have left: each is as large as a checkpoint.

    The folder must be this run's own: another that writes there would lose its file.
    """
    for name in (CHECKPOINT, STATS):
        stem, _, suffix = name.partition(".")
        for path in folder.glob(f".{stem}-*.{suffix}"):
            path.unlink(missing_ok=True)


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
        InputError: the folder has no checkpoint or a damaged one, or a weight is not finite in half precision.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{folder}: no {CHECKPOINT} there; train first")
    state = _read(path)
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
    _write({**state, "modules": modules, "optimizer": None, "ema": ema}, out)
    return state["step"]


def append_stats(folder: Path, line: dict[str, float]) -> None:
    """Add a line to stats.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / STATS, json.dumps(line))


def read_stats(folder: Path, step: int) -> list[dict[str, float]]:
    """The lines up to a step: those that a killed run logged after its last checkpoint will be written again."""
    path = folder / STATS
    lines: list[dict[str, float]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            counts = line["step"] <= step
        except (json.JSONDecodeError, KeyError, TypeError):  # cut short by the kill
            break
        if counts:
            lines.append(line)
    return lines


def rewrite_stats(folder: Path, lines: list[dict[str, float]]) -> None:
    """Replace stats.jsonl."""
    with atomic_path(folder / STATS) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
