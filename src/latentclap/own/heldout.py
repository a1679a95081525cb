"""Eq. 1 and 3 on held-out sounds, before and after: whether a system learns their kind or the clips by heart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from latentclap.cache import ShardedCache
from latentclap.cache.shards import entry_of
from latentclap.measure import heldout_table, summarise
from latentclap.system import FoleySystem

#: noise levels at which every clip is measured
LEVELS = 20
#: the losses as ``measure.summarise`` names them, and in the paper
LOSSES = {"ddpm": "eq. 1", "lclap": "eq. 3"}


def sounds_of(cache: ShardedCache, crops: int) -> list[str]:
    """Of each clip of a cache the sound that it is a part of.

    Args:
        cache: the clips.
        crops: clips of one sound, at most; where it is more than 1, a clip's name is the sound's with ``#k``.
    """
    keys = [
        key for shard in cache.manifest["shards"] for key in entry_of(cache.folder, shard["name"])["keys"]
    ]
    return [key.rpartition("#")[0] if crops > 1 else key for key in keys]


def measure(system: FoleySystem, phi: nn.Module | None, cache: ShardedCache) -> dict[str, np.ndarray]:
    """Expectations of eq. 1 and, with φ, of eq. 3 over uniform n, of each clip (clips,)."""
    table = heldout_table(system, phi, cache.load(), levels=LEVELS)
    columns = {name: table[name].T.tolist() for name in ("ddpm", "clap", "cosine")}
    rows = [
        summarise({"n": table["n"].tolist(), **{name: column[i] for name, column in columns.items()}})
        for i in range(len(cache))
    ]
    names = [name for name in LOSSES if name == "ddpm" or phi is not None]
    return {name: np.array([row[name] for row in rows]) for name in names}


def paired(before: np.ndarray, after: np.ndarray, sounds: Sequence[str]) -> dict[str, Any]:
    """Means of a loss over sounds before and after, their difference, and its 95 % interval (Student's t).

    Clips of one sound are no independent draws: each sound counts once, with the mean of its clips.

    Args:
        before, after: of each clip (clips,).
        sounds: whose clip it is.

    Returns:
        sounds, before, after, change, ci: [low, high], or None for a single sound.
    """
    names = list(dict.fromkeys(sounds))
    of = np.array([names.index(sound) for sound in sounds])
    old, new = (np.bincount(of, values) / np.bincount(of) for values in (before, after))
    change, count = new - old, len(names)
    ci = None
    if count > 1:
        from scipy.stats import t

        half = t.ppf(0.975, count - 1) * change.std(ddof=1) / math.sqrt(count)
        ci = [float(change.mean() - half), float(change.mean() + half)]
    return {
        "sounds": count,
        "before": float(old.mean()),
        "after": float(new.mean()),
        "change": float(change.mean()),
        "ci": ci,
    }


def line(told: dict[str, dict[str, Any]]) -> str:
    """What a user reads of it."""
    parts = []
    for name, loss in told.items():
        interval = f" [{loss['ci'][0]:+.2g}, {loss['ci'][1]:+.2g}]" if loss["ci"] else ""
        parts.append(
            f"{LOSSES[name]} {loss['before']:.4g} -> {loss['after']:.4g}, {loss['change']:+.2g}{interval}"
        )
    count = next(iter(told.values()))["sounds"]
    return f"held out, {count} sound{'s' if count > 1 else ''}: {'; '.join(parts)}"
