"""Generation through a post-filter, try by try."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from latentclap.classes import CLASSES, canonical_class
from latentclap.errors import InputError
from latentclap.postfilter.presets import PostFilter, load_preset
from latentclap.postfilter.result import FilterResult

Generate = Callable[..., np.ndarray]

Score = Callable[[np.ndarray, str], Any]


def filter_generate(
    generate_fn: Generate,
    score_fn: Score,
    classes: Sequence[str] = CLASSES,
    n: int = 1,
    preset: PostFilter | str = "paper",
    *,
    seed: int = 0,
    batch: int = 32,
    max_tries: int | None = None,
    **generate_kw: Any,
) -> FilterResult:
    """Generate ``n`` clips a class through a post-filter.

    Candidates are the items 0, 1, 2, ... of (class, seed), in the order in which they are needed. The first
    candidates of the n places are items 0 to n - 1, the clips that generation without a filter gives: a row of a
    table and the same row with a filter then differ by what the filter did and not by another draw. All clips
    of a class that still wait are generated together, try by try, in batches.

    Args:
        generate_fn: ``generate_fn(classes=[cls], n=k, seed=seed, first=i, **generate_kw)`` -> (k, samples): items
            i to i + k - 1, whatever else is generated, such as ``FoleySystem.generate``.
        score_fn: ``score_fn(waves, cls)`` -> (k,) cosine similarities.
        classes: which, any spelling, each once.
        n: clips returned per class.
        preset: a `PostFilter` or "paper" or "yuan".
        seed: of everything.
        batch: most clips in one call of ``generate_fn``.
        max_tries: bound on the tries per clip, instead of the preset's.
        **generate_kw: passed on (steps, guidance_scale, ...).

    Raises:
        InputError: unknown preset or class, a class given twice, n < 1, or a callable that returns the wrong number.
    """
    if isinstance(preset, str):
        preset = load_preset(preset)
    preset = preset.with_bounds(max_tries)
    if n < 1 or batch < 1 or len(classes) == 0:
        raise InputError(f"post-filter: {n} clips of {len(classes)} classes in batches of {batch}; all >= 1")
    try:
        names = tuple(canonical_class(c) for c in classes)
    except ValueError as error:
        raise InputError(str(error)) from None
    twice = next((c for c in names if names.count(c) > 1), None)
    if twice is not None:  # its clips would be made again and counted once
        raise InputError(f"post-filter: class {twice} is given twice; give each class once, n sets its clips")
    missing = [c for c in names if c not in preset.thresholds or c not in preset.candidates]
    if missing:
        raise InputError(f"post-filter {preset.name}: no threshold or candidates for {', '.join(missing)}")
    parts = [_filter_class(generate_fn, score_fn, c, n, preset, seed, batch, generate_kw) for c in names]
    return FilterResult(
        waves=np.concatenate([p["waves"] for p in parts]),
        scores=np.concatenate([p["scores"] for p in parts]),
        accepted=np.concatenate([p["accepted"] for p in parts]),
        classes=names,
        generated_count={c: p["generated"] for c, p in zip(names, parts, strict=True)},
        tries={c: p["tries"] for c, p in zip(names, parts, strict=True)},
        exhausted={c: int((~p["accepted"]).sum()) for c, p in zip(names, parts, strict=True)},
        seconds={c: p["seconds"] for c, p in zip(names, parts, strict=True)},
        preset=preset.name,
    )


def _filter_class(
    generate_fn: Generate,
    score_fn: Score,
    cls: str,
    n: int,
    preset: PostFilter,
    seed: int,
    batch: int,
    generate_kw: dict[str, Any],
) -> dict[str, Any]:
    """Fill one class's ``n`` places; a place keeps the best clip it has seen until one is accepted."""
    low, k = preset.thresholds[cls], preset.candidates[cls]
    waves: list[np.ndarray | None] = [None] * n
    ranks = np.full(n, -np.inf)
    scores, accepted, tries = np.full(n, np.nan), np.zeros(n, bool), np.zeros(n, int)
    generated, start = 0, time.perf_counter()
    for _ in range(preset.max_tries):
        waiting = np.flatnonzero(~accepted)
        if waiting.size == 0:
            break
        made, similar = _candidates(
            generate_fn, score_fn, cls, generated, len(waiting) * k, seed, batch, generate_kw
        )
        generated += len(made)
        for row, place in enumerate(waiting):
            ours = range(row, len(made), len(waiting))  # the first candidates of all places come first
            best = max(ours, key=lambda i: similar[i])
            tries[place] += 1
            score = float(similar[best])
            # beyond the upper limit a clip is worse the more similar it is
            rank = score if score <= preset.upper else -score
            if rank > ranks[place]:
                ranks[place], scores[place] = rank, score
                waves[place] = np.array(made[best])
            accepted[place] = low <= score <= preset.upper
    return {
        "waves": np.stack([w for w in waves if w is not None]),
        "scores": scores,
        "accepted": accepted,
        "tries": tries,
        "generated": generated,
        "seconds": time.perf_counter() - start,
    }


def _candidates(
    generate_fn: Generate,
    score_fn: Score,
    cls: str,
    first: int,
    count: int,
    seed: int,
    batch: int,
    generate_kw: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Generate and score ``count`` items of a class in batches, from a first one: (count, samples), (count,)."""
    made, similar = [], []
    for start in range(first, first + count, batch):
        size = min(batch, first + count - start)
        waves = np.asarray(generate_fn(classes=[cls], n=size, seed=seed, first=start, **generate_kw))
        values = np.asarray(score_fn(waves, cls), dtype=np.float64).reshape(-1)
        if len(waves) != size or len(values) != size:
            raise InputError(
                f"{cls}: asked for {size} clips, got {len(waves)} clips and {len(values)} scores"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{cls}: similarity is not a finite number; check the generated clips")
        made.append(waves)
        similar.append(values)
    return np.concatenate(made), np.concatenate(similar)


def clap_score(system: Any, texts: Mapping[str, str] | None = None) -> Score:
    """Return the paper's score, the cosine of E_audio and E_text; ``texts`` replace the prompts."""
    from latentclap.evaluate import clap_similarity

    def score(waves: np.ndarray, cls: str) -> np.ndarray:
        result = clap_similarity(system, {cls: waves}, texts=texts, n_boot=1)
        return result.scores[cls]

    return score
