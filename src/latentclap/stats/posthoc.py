"""Paired t-tests after an ANOVA: adjusted p values, effect sizes with intervals, power."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.errors import InputError
from latentclap.stats.cells import cell_means


def adjust_p(p: Sequence[float] | np.ndarray, method: str = "bonferroni") -> np.ndarray:
    """Adjust p values of a family of tests: "bonferroni", "holm" or "none".

    Raises:
        InputError: unknown method, or values outside [0, 1].
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError("p values must be a list of numbers in [0, 1]")
    if method == "none":
        return p
    if method == "bonferroni":
        return np.minimum(p * p.size, 1.0)
    if method != "holm":
        raise InputError(f"unknown adjustment {method!r}; use bonferroni, holm or none")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out


def noncentral_t_ci(t: float, df: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the noncentrality of an observed t: for standardised effect sizes with exact intervals.

    Above ``|t| = 35`` the noncentral t is integrated here.

    Raises:
        InputError: a level outside (0, 1), a t that is not finite, or df < 1.
    """
    from scipy.optimize import brentq

    _check_level(level)
    if not math.isfinite(t) or df < 1:
        raise InputError(f"t {t}, df {df}: an interval needs a finite t and df of 1 or more")

    def miss(d: float, target: float) -> float:
        value = float(sps.nct.cdf(t, df, d))
        # scipy gives NaN in the far tails, where the probability is 1 or 0 to any precision
        return (float(d < t) if math.isnan(value) else value) - target

    def solve(target: float) -> float:
        span = 6.0 * math.sqrt(1 + t**2 / (2 * df))
        return float(brentq(miss, t - span, t + span, args=(target,)))

    if abs(t) > 35:  # scipy's noncentral t loses its digits there
        low, high = _far_t_ci(abs(t), df, (1 - level) / 2)
        return (low, high) if t > 0 else (-high, -low)
    return solve((1 + level) / 2), solve((1 - level) / 2)


def _far_t_ci(t: float, df: int, tail: float) -> tuple[float, float]:
    """`noncentral_t_ci` of a large t: P(T <= t) is the mean over a normal z of P(chi / sqrt(df) >= (z + d) / t)."""
    from scipy.optimize import brentq

    z = np.linspace(-9, 9, 4001)
    weights = sps.norm.pdf(z)
    weights /= weights.sum()

    def miss(d: float, target: float) -> float:
        return float(weights @ sps.chi2.sf(df * (np.maximum(z + d, 0) / t) ** 2, df)) - target

    # chi alone, at half the tail, and as much of z as there is: both ends lie beyond the interval's
    ends = t * np.sqrt(sps.chi2.ppf(tail / 2, df) / df) - 9, t * np.sqrt(sps.chi2.isf(tail / 2, df) / df) + 9
    low, high = (float(brentq(miss, *ends, args=(target,))) for target in (1 - tail, tail))
    return low, high


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level {level}: a confidence level lies between 0 and 1, e.g. 0.95")


def post_hoc(
    table: pd.DataFrame,
    dv: str,
    *,
    subject: str = "rater",
    within: str = "model",
    between: str | None = "class",
    crossed: str = "class",
    adjust: str = "bonferroni",
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired t-tests between the levels of ``within`` over all raters, adjusted, with effect sizes.

    Returns:
        One row a pair: a, b, mean_a, mean_b, diff (b - a) with its interval, t, df, p, p_adjusted, d_z (mean
        of the differences over their SD) with its exact noncentral-t interval. Intervals are not adjusted.

    Raises:
        InputError: see `cell_means`; two levels that never differ; a confidence level outside (0, 1).
    """
    _check_level(level)
    wide = cell_means(table, dv, subject=subject, within=within, between=between, crossed=crossed)
    rows = []
    n = len(wide)
    if n < 2:
        raise InputError("one rater: no test possible")
    for a, b in itertools.combinations(wide.columns, 2):
        gap = (wide[b] - wide[a]).to_numpy(dtype=np.float64)
        sd = float(gap.std(ddof=1))
        if sd == 0:
            raise InputError(f"ratings of {a} and {b} differ by the same amount for every rater: no t-test")
        se = sd / math.sqrt(n)
        t = float(gap.mean()) / se
        half = float(sps.t.ppf((1 + level) / 2, n - 1)) * se
        low, high = noncentral_t_ci(t, n - 1, level)
        rows.append(
            {
                "a": a,
                "b": b,
                "mean_a": float(wide[a].mean()),
                "mean_b": float(wide[b].mean()),
                "diff": float(gap.mean()),
                "diff_low": float(gap.mean()) - half,
                "diff_high": float(gap.mean()) + half,
                "t": t,
                "df": n - 1,
                "p": float(2 * sps.t.sf(abs(t), n - 1)),
                "d_z": t / math.sqrt(n),
                "d_z_low": low / math.sqrt(n),
                "d_z_high": high / math.sqrt(n),
            }
        )
    out = pd.DataFrame(rows)
    out.insert(out.columns.get_loc("p") + 1, "p_adjusted", adjust_p(out["p"].to_numpy(), adjust))
    return out


def paired_t_power(d_z: float, n: int, alpha: float = 0.05) -> float:
    """Power of a two-sided paired t-test with n raters at standardised effect d_z."""
    if n < 2:
        raise InputError(f"{n} raters: a paired t-test needs at least 2")
    critical = sps.t.ppf(1 - alpha / 2, n - 1)
    shift = d_z * math.sqrt(n)
    tails = sps.nct.sf(critical, n - 1, abs(shift)), sps.nct.cdf(-critical, n - 1, abs(shift))
    # scipy gives NaN where a tail is 1 or 0 to any precision
    return float(np.nan_to_num(tails[0], nan=float(abs(shift) > critical)) + np.nan_to_num(tails[1]))


def raters_needed(d_z: float, power: float = 0.9, alpha: float = 0.05) -> int:
    """Fewest raters for a paired t-test to reach a power.

    Raises:
        InputError: no effect, or power and alpha outside (0, 1).
    """
    if d_z == 0 or not 0 < alpha < power < 1:
        raise InputError(
            f"effect {d_z}, power {power}, alpha {alpha}: need 0 < alpha < power < 1, effect not 0"
        )
    low, high = 1, 2
    while paired_t_power(d_z, high, alpha) < power:
        low, high = high, high * 2
        if high > 10_000_000:
            raise InputError(f"effect {d_z} is too small for any number of raters worth naming")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paired_t_power(d_z, middle, alpha) >= power else (middle, high)
    return high
