"""Eq. 1 and 3 on held-out sounds, before and after: whether a system learns their kind or the clips by heart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from latentclap.cache import ShardedCache
from latentclap.cache.shards import entry_of
from latentclap.measure import heldout_table, summarise
from latentclap.system import FoleySystem
from latentclap.wording import plural

#: noise levels at which every clip is measured
LEVELS = 20
#: clips that are measured, at most: as much work as mini's training by default
MOST = 256
#: clips in memory at a time
PART = 16
#: the losses as ``measure.summarise`` names them, and in the paper
LOSSES = {"ddpm": "eq. 1", "lclap": "eq. 3"}


def sounds_of(cache: ShardedCache, crops: int) -> list[str]:
    """The name of the sound that each clip of a cache was cut from, in the cache's order.

    Args:
        cache: the clips.
        crops: clips of one sound, at most; where it is more than 1, a clip's name is the sound's with ``#k``.
    """
    keys = [
        key for shard in cache.manifest["shards"] for key in entry_of(cache.folder, shard["name"])["keys"]
    ]
    return [key.rpartition("#")[0] if crops > 1 else key for key in keys]


def chosen(sounds: Sequence[str], most: int = MOST) -> list[int]:
    """Choose which clips are measured: all if there are few enough, else first one of each sound, then more.

    Args:
        sounds: the sound that each clip is cut from (clips,).
        most: number of clips at most; with more sounds than that, sounds at even distances.

    Returns:
        Numbers of the clips.
    """
    seen: Counter[str] = Counter()
    turns = []
    for sound in sounds:
        turns.append(seen[sound])
        seen[sound] += 1
    firsts = [i for i, turn in enumerate(turns) if not turn]
    if len(firsts) > most:
        return [firsts[int((k + 0.5) * len(firsts) / most)] for k in range(most)]
    return sorted(sorted(range(len(turns)), key=lambda i: (turns[i], i))[:most])


def measure(
    system: FoleySystem,
    phi: nn.Module | None,
    cache: ShardedCache,
    clips: Sequence[int],
    *,
    bar: str = "",
) -> dict[str, np.ndarray]:
    """The mean of eq. 1 and, with φ, of eq. 3 over all noise levels, for each of some clips of a cache.

    Args:
        system: whose UNet is measured.
        phi: the Latent CLAP encoder; None: eq. 1 alone.
        cache: the clips; those of a part alone are in memory.
        clips: their numbers. The same numbers get the same noise from every system.
        bar: what a progress bar says; empty: none.

    Returns:
        {"ddpm": (clips,), "lclap": (clips,)}; the second with φ only.
    """
    rows = []
    for k in tqdm(range(0, len(clips), PART), desc=bar, unit="part", disable=None if bar else True):
        # another part, another seed: no two clips have the same noise
        table = heldout_table(system, phi, cache.batch(clips[k : k + PART]), levels=LEVELS, seed=k // PART)
        columns = {name: table[name].T.tolist() for name in ("ddpm", "clap", "cosine")}
        rows += [
            summarise({"n": table["n"].tolist(), **{name: column[i] for name, column in columns.items()}})
            for i in range(len(columns["ddpm"]))
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
    names = {sound: i for i, sound in enumerate(dict.fromkeys(sounds))}
    of = np.array([names[sound] for sound in sounds])
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
    """The losses of :func:`paired` by name, as one line for a terminal."""
    parts = []
    for name, loss in told.items():
        interval = f" [{loss['ci'][0]:+.2g}, {loss['ci'][1]:+.2g}]" if loss["ci"] else ""
        parts.append(
            f"{LOSSES[name]} {loss['before']:.4g} -> {loss['after']:.4g}, {loss['change']:+.2g}{interval}"
        )
    count = next(iter(told.values()))["sounds"]
    return f"held out, {plural(count, 'sound')}: {'; '.join(parts)}"
