"""Changes against a reference where every variant was trained from the same seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.errors import InputError
from latentclap.stats.posthoc import adjust_p


def paired_changes(
    values: pd.DataFrame, reference: str, *, adjust: str = "holm", level: float = 0.95
) -> pd.DataFrame:
    """Compare every variant with one of them by paired t-tests over seeds.

    Trainings of one seed share noise, order and starting weights: their difference is far less noisy than either, and
    only differences are tested.

    Args:
        values: one measure; a row for each variant, a column for each seed.
        reference: the row that the others are compared with.
        adjust: for the number of tests, as :func:`latentclap.stats.adjust_p` takes it.
        level: of the intervals, which are not adjusted.

    Returns:
        One row for each other variant, in their order: change (variant minus reference, mean over seeds), low and
        high (Student's interval), p, p_adjusted. From one seed the interval and p are NaN; where the difference is
        the same for every seed, p is 0, or 1 where there is none.

    Raises:
        InputError: no such row, a value that is missing or not finite, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level {level}: a confidence level lies between 0 and 1, e.g. 0.95")
    if reference not in values.index:
        raise InputError(f"no variant {reference!r} among {', '.join(map(str, values.index))}")
    if not np.isfinite(values.to_numpy(dtype=np.float64)).all():
        raise InputError("a value of some variant and seed is missing or not finite")
    gaps = values.drop(index=reference).sub(values.loc[reference], axis="columns").astype(np.float64)
    seeds = gaps.shape[1]
    change = gaps.mean(axis=1)
    if seeds < 2:
        nothing = pd.Series(np.nan, index=gaps.index)
        return pd.DataFrame(dict.fromkeys(("low", "high", "p", "p_adjusted"), nothing)).assign(change=change)[
            ["change", "low", "high", "p", "p_adjusted"]
        ]
    error = gaps.std(axis=1, ddof=1) / np.sqrt(seeds)
    half = sps.t.ppf((1 + level) / 2, seeds - 1) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (change / error).where(error > 0, np.where(change == 0, 0.0, np.inf))
    p = pd.Series(2 * sps.t.sf(t.abs(), seeds - 1), index=gaps.index)
    return pd.DataFrame(
        {
            "change": change,
            "low": change - half,
            "high": change + half,
            "p": p,
            "p_adjusted": adjust_p(p.to_numpy(), adjust),
        }
    )


def changes_in_words(found: pd.DataFrame, *, alpha: float = 0.05) -> str:
    """Which variants end lower and which higher: "higher with reading ddim; lower with w paper", or that none does.

    Args:
        found: of :func:`paired_changes`; a colon in a variant's name is left out.
        alpha: level of the adjusted p.
    """
    clear = found.loc[found["p_adjusted"] < alpha, "change"]
    sides = {"lower": clear[clear < 0].index, "higher": clear[clear > 0].index}
    words = [
        f"{side} with {', '.join(str(name).replace(': ', ' ') for name in names)}"
        for side, names in sides.items()
        if len(names)
    ]
    return "; ".join(words) or "no difference beyond the noise"
