"""What an evaluation finds: FAD of each class, and Table I's row of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentclap.fad import FadEstimate, FadInfinity
from latentclap.fad.intervals import percentile_interval
from latentclap.files import write_json


@dataclass
class EvalResult:
    """FAD of several classes; `table`, `average`, `std` are Table I's row.

    Attributes:
        name: the figure's full name: embedding, front end, n, reference, interval.
        estimates: per class.
        infinities: FAD-inf per class, None where n does not suffice.
        settings: everything that fixes the figures.
        silent: per class, how many of the clips are silent; None where nobody looked.
        silent_ref: the same of the reference clips; None of statistics too.
    """

    name: str
    estimates: dict[str, FadEstimate]
    infinities: dict[str, FadInfinity | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, int | None] = field(default_factory=dict)
    silent_ref: dict[str, int | None] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row a class: class, fad, ci_low, ci_high, fad_inf, n_clips, n_ref, n_silent, n_ref_silent.

        n_ref is 0 where it is not stated; of the silent ones NaN means that nobody looked.
        """
        rows = [
            {
                "class": cls,
                "fad": e.fad,
                "ci_low": e.ci_low,
                "ci_high": e.ci_high,
                "fad_inf": inf.value if (inf := self.infinities.get(cls)) else math.nan,
                "n_clips": e.n_clips,
                "n_ref": e.n_ref_clips,
                "n_silent": _known(self.silent.get(cls)),
                "n_ref_silent": _known(self.silent_ref.get(cls)),
            }
            for cls, e in self.estimates.items()
        ]
        return pd.DataFrame(rows)

    def text(self) -> str:
        """`table`, average and name for a terminal."""

        def number(value: float) -> str:
            return f"{value:9.3f}" if value == value else "        -"

        silent = any(self.silent.values())
        wide = max(22, *map(len, self.estimates))
        head = f"{'class':<{wide}}{'FAD':>9}{'low':>10}{'high':>10}{'FAD-inf':>10}{'clips':>7}{'ref':>7}"
        lines = [head + (f"{'silent':>8}" if silent else "")]
        for row in self.table().to_dict("records"):
            numbers = " ".join(number(row[key]) for key in ("fad", "ci_low", "ci_high", "fad_inf"))
            line = f"{row['class']:<{wide}}{numbers}{row['n_clips']:>7}{row['n_ref'] or '-':>7}"
            lines.append(line + (f"{self.silent.get(row['class']) or 0:>8}" if silent else ""))
        low, high = self.average_ci
        lines.append(f"{'average':<{wide}}{number(self.average)} {number(low)} {number(high)}")
        lines.append(f"{'std. over classes':<{wide}}{number(self.std)}")
        return "\n".join([*lines, self.name])

    def silence(self) -> list[str]:
        """Lines that tell of silent clips, of the generated and of the reference; none where there are none."""
        sides = (
            ("generated", self.silent, [e.n_clips for e in self.estimates.values()]),
            ("reference", self.silent_ref, [e.n_ref_clips for e in self.estimates.values()]),
        )
        out = []
        for which, silent, sizes in sides:
            told = [
                f"{cls} {silent[cls]} of {n}"
                for cls, n in zip(self.estimates, sizes, strict=True)
                if silent.get(cls)
            ]
            if told:
                out.append(f"silent {which} clips are measured like any other: {', '.join(told)}")
        return out

    @property
    def fads(self) -> np.ndarray:
        """FAD of each class, (classes,)."""
        return np.array([e.fad for e in self.estimates.values()])

    @property
    def average(self) -> float:
        """Mean over the classes, Table I's "Average"."""
        return float(self.fads.mean())

    @property
    def std(self) -> float:
        """Sample standard deviation over the classes (n - 1): Table I's "Std."; NaN for one class."""
        return float(self.fads.std(ddof=1)) if len(self.fads) > 1 else math.nan

    @property
    def average_ci(self) -> tuple[float, float]:
        """Interval of the average, from the classes' independent bootstraps; NaN without draws."""
        estimates = list(self.estimates.values())
        if any(e.draws.size == 0 for e in estimates):
            return math.nan, math.nan
        draws = np.mean([e.draws for e in estimates], axis=0)
        level, method = estimates[0].level, estimates[0].method
        low, high = percentile_interval(draws, level)
        shift = draws.mean() - self.average if method == "centred" else 0.0
        return float(max(0.0, low - shift)), float(max(0.0, high - shift))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, as JSON knows it (NaN becomes null)."""
        low, high = self.average_ci
        classes = {}
        for cls, e in self.estimates.items():
            inf = self.infinities.get(cls)
            classes[cls] = {
                "fad": e.fad,
                "ci": [_json(e.ci_low), _json(e.ci_high)],
                "bootstrap_bias": _json(e.bootstrap_bias),
                "fad_inf": inf.value if inf else None,
                "fad_inf_r2": inf.r2 if inf else None,
                "n_clips": e.n_clips,
                "n_windows": e.n_windows,
                "n_ref_clips": e.n_ref_clips or None,
                "n_ref_windows": e.n_ref_windows,
                "n_silent": self.silent.get(cls),
                "n_ref_silent": self.silent_ref.get(cls),
            }
        return {
            "name": self.name,
            "average": self.average,
            "average_ci": [_json(low), _json(high)],
            "std": _json(self.std),
            "classes": classes,
            "settings": self.settings,
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all."""
        write_json(path, self.to_dict())


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(count: int | None) -> float | int:
    return math.nan if count is None else count
