"""The figure of a comparison: a panel for each measure, at the width at which its page shows it."""

from __future__ import annotations

import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from latentclap.book.figures import CYCLE
from latentclap.compare.scores import Scores
from latentclap.compare.table import TESTED, Comparison
from latentclap.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: inches; shown 44rem wide (`latentclap.book.standalone`), its text of 10 points has nearly 14 pixels
WIDTH = 7.2
#: letters of a system's name in a line; where one is longer, panels have the whole width
LINE = 24
WHAT_IT_SHOWS = (
    "A dot is a training, a bar its interval over clips, a stroke the mean of a system's trainings."
)


def draw(comparison: Comparison, path: Path) -> str:
    """Draw every training with its interval over clips, and their mean as a stroke; return it in words.

    Args:
        comparison: what was measured.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    measures = {m: key for m, key in TESTED.items() if all(getattr(s, key) for s in every(comparison))}
    names = [textwrap.fill(name, LINE) for name in comparison.systems]
    across = 2 if len(measures) > 1 and max(map(len, comparison.systems)) <= LINE else 1
    down = -(-len(measures) // across)
    lines = sum(0.25 + 0.15 * (name.count("\n") + 1) for name in names)
    figure = Figure(figsize=(WIDTH, down * (0.9 + lines)), layout="constrained", facecolor="white")
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes, (measure, key) in zip(panels, measures.items(), strict=False):
        _panel(axes, comparison, measure, key)
        axes.set_yticks(range(len(names)), names, parse_math=False)  # a name may have dollars in it
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # a letter that the font lacks is a box in the picture; the tables have it
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(temporary, dpi=150)
    return (
        f"Averages of {', '.join(measures)} of the systems {', '.join(comparison.systems)}. {WHAT_IT_SHOWS}"
    )


def _panel(axes: Axes, comparison: Comparison, measure: str, key: str) -> None:
    """One measure: a line for each system."""
    for i, scores in enumerate(comparison.systems.values()):
        colour = CYCLE[i % len(CYCLE)]
        values = [getattr(s, key).average for s in scores]
        for j, (s, value) in enumerate(zip(scores, values, strict=True)):
            low, high = s.interval(key)
            bar = [[max(0, value - low)], [max(0, high - value)]] if low == low else None
            height = i + 0.16 * (j - (len(values) - 1) / 2)
            axes.errorbar(value, height, xerr=bar, fmt="o", ms=4, capsize=2, color=colour)
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [i - 0.35, i + 0.35], color=colour, lw=1, alpha=0.6)
    known = any(math.isfinite(s.interval(key)[0]) for s in every(comparison))
    axes.set(xlabel=f"average {measure}" + (f", {comparison.level:.0%} over clips" if known else ""))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def every(comparison: Comparison) -> list[Scores]:
    """The scores of all trainings of all systems."""
    return [scores for trainings in comparison.systems.values() for scores in trainings]
