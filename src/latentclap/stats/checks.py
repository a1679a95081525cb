"""Do printed statistics fit each other? F with p and partial eta squared, df with raters, averages with parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from latentclap.errors import InputError


@dataclass(frozen=True)
class Check:
    """One check: what was printed, what follows from other figures, whether they agree at that precision."""

    what: str
    printed: str
    derived: str
    agrees: bool


def eta_p2_from_f(F: float, df1: float, df2: float) -> float:
    """Partial eta squared from an F test: F df1 / (F df1 + df2). Any epsilon cancels."""
    return F * df1 / (F * df1 + df2)


def _between(value: float, decimals: int) -> tuple[float, float]:
    """Values that print as ``value``, rounded or truncated: [value - half, value + 1) units."""
    unit = 10.0**-decimals
    return value - unit / 2, value + unit


def check_eta_p2(F: float, df1: float, df2: float, printed: float, decimals: int, df1_decimals: int) -> Check:
    """Check a printed partial eta squared against F and its degrees of freedom.

    df1 is printed with few digits, so the derived value is a range.
    """
    half = 10.0**-df1_decimals / 2
    low, high = eta_p2_from_f(F, df1 - half, df2), eta_p2_from_f(F, df1 + half, df2)
    may_low, may_high = _between(printed, decimals)
    agrees = low <= may_high and high >= may_low
    return Check("partial eta squared from F and df", f"{printed:g}", f"{low:.4f} to {high:.4f}", agrees)


def check_p(F: float, df1: float, df2: float, p_below: float) -> Check:
    """Check a printed "p < bound" against F and its degrees of freedom."""
    p = float(sps.f.sf(F, df1, df2))
    derived = f"{p:.3g}" if p > 0 else "below 1e-300"
    return Check("p from F and df", f"< {p_below:g}", derived, p < p_below)


def check_average(parts: Sequence[float], printed: float, decimals: int = 2, what: str = "average") -> Check:
    """Check a printed average of printed parts; says whether it was rounded or truncated."""
    return _check_print(what, float(np.mean(parts)), printed, decimals)


def _check_print(what: str, value: float, printed: float, decimals: int) -> Check:
    unit = 10.0**-decimals
    # the parts are rounded themselves: that moves an average by at most half a unit, rarely more than a tenth
    if abs(value - printed) <= unit / 2 + unit / 50:
        how = "rounded"
    elif 0 <= value - printed < unit:
        how = "truncated"
    else:
        how = "differs"
    return Check(what, f"{printed:.{decimals}f}", f"{value:.{decimals + 2}f} ({how})", how != "differs")


@dataclass(frozen=True)
class Grim:
    """Whether a mean of ``n`` whole ratings can print as it did; ``decisive`` if the test can fail."""

    consistent: bool
    decisive: bool
    nearest: float


def grim(mean: float, n: int, decimals: int = 2) -> Grim:
    """GRIM test (Brown and Heathers 2017): a mean of n integers is a multiple of 1 / n.

    With n >= 10^decimals every printed mean is possible, and the test says nothing (``decisive`` is False).
    """
    if n < 1:
        raise InputError(f"GRIM: {n} ratings")
    candidates = [math.floor(mean * n) / n, math.ceil(mean * n) / n]
    nearest = min(candidates, key=lambda c: abs(c - mean))
    consistent = abs(nearest - mean) <= 10.0**-decimals / 2 + 1e-9
    return Grim(consistent, n < 10**decimals, nearest)
