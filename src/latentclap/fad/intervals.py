"""Intervals from draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latentclap.errors import InputError


def percentile_interval(draws: np.ndarray | Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The middle share of some draws: of a bootstrap's, its percentile interval.

    Args:
        draws: (draws,) values.
        level: the share, between 0 and 1.

    Returns:
        Its ends; NaN without draws, or where one of them is.

    Raises:
        InputError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level {level}: a confidence level lies between 0 and 1, e.g. 0.95")
    if not np.size(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
