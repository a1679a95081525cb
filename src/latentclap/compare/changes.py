"""What a change from one system to another shows."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import ttest_rel

from latentclap.evaluate import Change
from latentclap.wording import plural


def paired(a: list[float], b: list[float], level: float) -> Change:
    """Student's over changes from one training to the other of its seed; without spread there is no test.

    Not `compare_averages`, which takes two results with the same numbers for one training: shares of few clips are
    often the same.
    """
    steps = np.subtract(b, a)
    if np.ptp(steps) <= 1e-12:
        return untested(a, b, level)
    told = ttest_rel(b, a)
    low, high = told.confidence_interval(level)
    return Change(float(steps.mean()), float(low), float(high), float(told.pvalue), len(steps), 1 - level)


def untested(a: list[float], b: list[float], level: float) -> Change:
    """The mean change alone, where there is no test of it."""
    return Change(float(np.subtract(b, a).mean()), math.nan, math.nan, math.nan, len(a), 1 - level)


def verdict(change: Change, measure: str) -> str:
    """What a change shows, in words: "a lower KAD", "no difference beyond the noise", "no test possible"."""
    return change.verdict.replace("FAD", measure)


def said(change: Change, measure: str, name: str, first: str, *, corrected: bool = False) -> str:
    """A change in one line for a terminal.

    Args:
        change: from the first system to another.
        measure: its name: FAD, KAD, precision or coverage.
        name: of the other system.
        first: of the first system.
        corrected: whether its p was corrected by Holm, for several systems.
    """
    interval = f" [{change.low:+.3f}, {change.high:+.3f}]" if math.isfinite(change.low) else ""
    p = f", p{' (Holm)' if corrected else ''} = {change.p:.2g}" if math.isfinite(change.p) else ""
    of = plural(change.trainings, "training")
    return f"{measure}, {name} against {first}: {change.value:+.3f}{interval}{p} ({of}): {verdict(change, measure)}"
