"""How a measure goes with a quantity that was varied, where each seed has a value at each level of it.

Seeds are blocks: points of a seed share noise, order and starting weights, so only an order *within* seeds tells
anything. Rank correlations over all points, with their usual approximations, claim more than such data can say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.errors import InputError

#: permutations that are drawn where not all of them can be gone through
DRAWS = 20_000

#: most levels of Page's exact test: it lists all orders of the levels, 40,320 of eight and gigabytes of ten
EXACT_LEVELS = 8


@dataclass(frozen=True)
class Course:
    """A measure along levels, over seeds; see :func:`course`.

    Attributes:
        levels: of what was varied, ascending (Fig. 3: λ, from 0).
        means: over seeds, per level.
        rank: mean over seeds of Spearman's correlation with the level.
        p_rank: of a monotone course, two-sided (Page's test); NaN for one seed or two levels.
        lowest: the level above the first whose mean is lowest.
        p_fall: whether some level lies below the first one; NaN for one seed.
        p_rise: whether the last level lies above the lowest mean of all; NaN for one seed.
        p_least: the least that these two p can be with data of this size.
        alpha: level of both tests together: each p has to be below half of it.
        rank_test: what p_rank is: "Page, exact" up to eight levels, "Page, permutations within seeds" above.
    """

    levels: tuple[float, ...]
    means: tuple[float, ...]
    rank: float
    p_rank: float
    lowest: float
    p_fall: float
    p_rise: float
    p_least: float
    alpha: float = 0.05
    rank_test: str = "Page, exact"

    @property
    def word(self) -> str:
        """The course in words; "too few points to tell" where no data of this size could tell."""
        level = self.alpha / 2
        if not self.p_least < level:
            return "too few points to tell"
        falls, rises = self.p_fall < level, self.p_rise < level
        return {
            (True, True): "falls and rises again",
            (True, False): "falls",
            (False, True): "rises",
            (False, False): "no trend",
        }[falls, rises]


def course(values: pd.DataFrame, *, alpha: float = 0.05, draws: int = DRAWS, seed: int = 0) -> Course:
    """Ask of a measure whether it rises or falls, and whether it has a lowest point, by permutation within seeds.

    Fig. 3 of the paper falls to an optimum and rises behind it, which no monotone test sees: so the level that is
    lowest is compared with the first, and the last with the lowest, each by its own permutation test, in which the
    lowest is looked for anew in each permutation (the usual correction for having looked).

    Whether it is monotone is Page's test, exact up to eight levels; with more, ``draws`` permutations within seeds
    stand for all of them, whose number no memory holds.

    Args:
        values: one row per seed, one column per level; complete.
        alpha: what counts as shown.
        draws: permutations where there are more than these; below that all are gone through.
        seed: of the draws.

    Raises:
        InputError: fewer than two levels, no seed, or a value that is missing.
    """
    x = values.sort_index(axis=1)
    data = x.to_numpy(dtype=np.float64)
    if data.ndim != 2 or data.shape[0] < 1 or data.shape[1] < 2 or not np.isfinite(data).all():
        raise InputError(f"a course needs a value at two levels or more for each seed; there is {data.shape}")
    seeds, levels = data.shape
    means = data.mean(0)
    # the first level highest in all seeds, and another one, whichever, lowest in all; a seed alone tells nothing
    p_least = (levels - 1) / (levels * (levels - 1)) ** seeds if seeds > 1 else 1.0
    options = {"n_resamples": draws, "permutation_type": "samples", "vectorized": True}

    def test(statistic: object, side: str, data: np.ndarray = data) -> float:
        if seeds < 2:
            return math.nan
        rng = np.random.default_rng(seed)
        found = sps.permutation_test(tuple(data.T), statistic, alternative=side, rng=rng, **options)
        return float(found.pvalue)

    def gain(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        m = np.stack([c.mean(axis) for c in columns])
        return m[1:].min(0) - m[0]

    def loss(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        m = np.stack([c.mean(axis) for c in columns])
        return m[-1] - m.min(0)

    def page(*ranks: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sum([place * r.sum(axis) for place, r in enumerate(ranks, 1)], axis=0)

    p_rank, exact = math.nan, levels <= EXACT_LEVELS
    if seeds > 1 and levels > EXACT_LEVELS:
        p_rank = test(page, "two-sided", sps.rankdata(data, axis=1))
    elif (
        seeds > 1 and levels > 2
    ):  # Page's test of an order that was foretold, which rising and falling both are
        both = (sps.page_trend_test(d, method="exact").pvalue for d in (data, data[:, ::-1]))
        p_rank = min(1.0, 2 * float(min(both)))
    with np.errstate(invalid="ignore"):
        each = [sps.spearmanr(x.columns, row).statistic if np.ptp(row) else 0.0 for row in data]
    return Course(
        tuple(map(float, x.columns)),
        tuple(map(float, means)),
        float(np.mean(each)),
        p_rank,
        float(x.columns[1 + int(means[1:].argmin())]),
        test(gain, "less"),
        test(loss, "greater"),
        p_least,
        alpha,
        "Page, exact" if exact else "Page, permutations within seeds",
    )
