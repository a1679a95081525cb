"""What published means and F tests imply, where the ratings themselves are not public."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.stats.checks import eta_p2_from_f
from latentclap.stats.posthoc import adjust_p


def implied_raters(
    df1: float,
    df2: float,
    levels: int,
    groups: int,
    df1_decimals: int = 1,
    df2_decimals: int = 1,
    truncated: bool = False,
) -> list[int]:
    """Numbers of raters N that a Greenhouse-Geisser corrected within effect can come from.

    df1 = eps (k - 1) and df2 = eps (k - 1) (N - groups), so df2 / df1 = N - groups; df1's rounding leaves a
    range.

    Args:
        df1: printed numerator df.
        df2: printed denominator df.
        levels: k of the within factor.
        groups: classes between raters (1: none).
        df1_decimals: printed decimals of df1.
        df2_decimals: printed decimals of df2.
        truncated: whether digits were cut instead of rounded.
    """
    unit1, unit2 = 10.0**-df1_decimals, 10.0**-df2_decimals
    down, up = (0.0, 1.0) if truncated else (0.5, 0.5)
    top = levels - 1  # epsilon is at most 1
    low = (df2 - down * unit2) / min(df1 + up * unit1, top)
    high = (df2 + up * unit2) / (df1 - down * unit1)
    return list(range(math.ceil(groups + low - 1e-9), math.floor(groups + high + 1e-9) + 1))


def implied_epsilon(df2: float, levels: int, groups: int, raters: int) -> float:
    """Greenhouse-Geisser's epsilon behind a printed df2, if there were ``raters`` raters."""
    return df2 / ((levels - 1) * (raters - groups))


def implied_error_ms(means: Sequence[float], F: float, raters: int) -> float:
    """Error mean square (rater by model) behind a published F of a within effect and its means.

    With equal classes SS_model = N sum (m_j - m)^2, MS_error = SS_model / (k - 1) / F: in squared rating
    units, of a rater's *average* over items. It fixes the noise of a simulation, and every paired
    difference's SD, sqrt(2 MS_error), if pairs vary alike.
    """
    m = np.asarray(means, dtype=np.float64)
    return float(raters * ((m - m.mean()) ** 2).sum() / (m.size - 1) / F)


def critical_item_sd_of_pair(
    a: float, b: float, items: int, groups: int, alpha: float = 0.05, comparisons: int = 1
) -> float:
    """Clip-to-clip SD beyond which two published means would not differ over clips (rater noise left out).

    A t-test of the two systems over clips: ``items`` of each in each of ``groups`` classes, the SD pooled over cells.

    Args:
        a: mean of one system over the classes.
        b: of the other.
        items: clips of a system in a class.
        groups: classes.
        alpha: of the family of comparisons.
        comparisons: tests in the family (Bonferroni).
    """
    n = items * groups
    t = float(sps.t.isf(alpha / comparisons / 2, 2 * groups * (items - 1)))
    return abs(b - a) / (t * math.sqrt(2 / n))


def implied_interaction(class_means: pd.DataFrame, error_ms: float, raters: int) -> dict[str, float]:
    """Class by model interaction that published class means imply (the paper does not report it).

    Args:
        class_means: index class, columns model.
        error_ms: see `implied_error_ms`.
        raters: per class.
    """
    x = class_means.to_numpy(dtype=np.float64)
    rest = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
    df1, df2 = (x.shape[0] - 1) * (x.shape[1] - 1), x.shape[0] * (raters - 1) * (x.shape[1] - 1)
    F = raters * float((rest**2).sum()) / df1 / error_ms
    return {
        "F": F,
        "df1": df1,
        "df2": df2,
        "p": float(sps.f.sf(F, df1, df2)),
        "eta_p2": eta_p2_from_f(F, df1, df2),
    }


def implied_contrasts(
    class_means: pd.DataFrame, a: str, b: str, error_ms: float, raters: int, level: float = 0.95
) -> pd.DataFrame:
    """Per class, the difference b - a of published means with the interval that the implied error gives.

    The error is pooled over classes and pairs. Columns: class, diff, ci_low, ci_high, t, p, p_holm.
    """
    df = len(class_means) * (raters - 1) * (class_means.shape[1] - 1)
    se = math.sqrt(2 * error_ms / raters)
    diff = class_means[b] - class_means[a]
    half = float(sps.t.ppf((1 + level) / 2, df)) * se
    p = 2 * sps.t.sf(np.abs(diff / se), df)
    return pd.DataFrame(
        {
            "class": class_means.index,
            "diff": diff.to_numpy(),
            "ci_low": diff.to_numpy() - half,
            "ci_high": diff.to_numpy() + half,
            "t": (diff / se).to_numpy(),
            "p": p,
            "p_holm": adjust_p(p, "holm"),
        }
    )
