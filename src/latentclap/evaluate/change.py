"""Differences of average FADs between systems, with tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats as sps

from latentclap.errors import InputError
from latentclap.evaluate.result import EvalResult
from latentclap.fad.intervals import percentile_interval
from latentclap.stats.posthoc import adjust_p


@dataclass(frozen=True)
class Change:
    """Difference of two average FADs; see :func:`compare_averages`.

    Attributes:
        value: mean over the trainings.
        low: of its interval.
        high: of its interval.
        p: of no change, two-sided; NaN where nothing can be tested: no draws, a training given twice, or all
            of them changed alike.
        trainings: pairs of trainings behind it. From two on the interval covers training seeds and clips; of one it
            covers the choice of clips alone, and what it says holds for that training.
        alpha: p below it counts.
    """

    value: float
    low: float
    high: float
    p: float
    trainings: int = 1
    alpha: float = 0.05

    @property
    def verdict(self) -> str:
        """In words: what p says."""
        if math.isnan(self.p):
            return "no test possible"
        if not self.p < self.alpha:
            return "no difference beyond the noise"
        return "a lower FAD" if self.value < 0 else "a higher FAD"


def compare_averages(
    a: Sequence[EvalResult],
    b: Sequence[EvalResult],
    *,
    level: float = 0.95,
    seeds: Sequence[int] | None = None,
) -> Change:
    """Change of the average FAD from one system to another.

    Trainings of one seed share data order and noise, so that changes are taken within seeds. With two seeds or more
    the interval is Student's over those changes: each training has its own clips, and their noise is in it. With one
    seed it is that of the clips' bootstrap draws, paired by their number and centred on the change. Where two
    results of one side are alike in every class, which is one training given twice, or all changes are the same,
    there is no spread to test by: interval and p are NaN.

    Args:
        a: results of the first system, one per seed.
        b: of the second, in the same order of seeds.
        level: of the interval.
        seeds: of the trainings, in that order, where they are known: no training may come twice.

    Raises:
        InputError: not the same number of results, or none; a seed that comes twice.
    """
    if not a or len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} results cannot be compared seed by seed")
    if seeds is not None:
        _all_different(seeds, len(a))
    changes = np.array([y.average - x.average for x, y in zip(a, b, strict=True)])
    value, n = float(changes.mean()), len(changes)
    alike = n > 1 and np.ptp(changes) <= 1e-12 * max(abs(x.average) for x in (*a, *b))
    if alike or repeated(a) or repeated(b):
        return Change(value, math.nan, math.nan, math.nan, n, 1 - level)
    if n > 1:
        error = float(changes.std(ddof=1)) / math.sqrt(n)
        half = float(sps.t.ppf((1 + level) / 2, n - 1)) * error
        p = 2 * float(sps.t.sf(abs(value) / error, n - 1))
        return Change(value, value - half, value + half, p, n, 1 - level)
    draws = [[e.draws for e in side[0].estimates.values()] for side in (a, b)]
    if any(np.size(d) == 0 for side in draws for d in side):
        return Change(value, math.nan, math.nan, math.nan, 1, 1 - level)
    before, after = (np.mean(side, axis=0) for side in draws)
    noise = (after - before) - (after - before).mean()
    low, high = percentile_interval(noise, level)
    # no p of so many draws is 0
    p = (1 + int((np.abs(noise) >= abs(value)).sum())) / (1 + noise.size)
    return Change(value, low + value, high + value, p, 1, 1 - level)


def repeated(results: Sequence[EvalResult]) -> bool:
    """Whether two results have the same numbers in every class, which no two trainings have."""
    told = [{cls: estimate.fad for cls, estimate in result.estimates.items()} for result in results]
    return any(one in told[:i] for i, one in enumerate(told))


def _all_different(seeds: Sequence[int], results: int) -> None:
    """Refuse seeds that are not one for each training."""
    if len(seeds) != results:
        raise InputError(f"{len(seeds)} seeds for {results} results of each system; give one for each")
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise InputError(f"seed {twice} comes twice: one training is no sample of two; give each seed once")


def with_holm(changes: Sequence[Change]) -> list[Change]:
    """The same changes, their p corrected by Holm for their number; intervals stay those of one change."""
    known = [k for k, change in enumerate(changes) if math.isfinite(change.p)]
    adjusted = dict(zip(known, adjust_p([changes[k].p for k in known], "holm"), strict=True))
    return [replace(change, p=float(adjusted.get(k, change.p))) for k, change in enumerate(changes)]
