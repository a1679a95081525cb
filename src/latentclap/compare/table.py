"""Systems beside each other, and what can be said of their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentclap.compare.changes import paired, said, untested, verdict
from latentclap.compare.scores import Scores
from latentclap.evaluate import Change, compare_averages, with_holm
from latentclap.evaluate.change import repeated
from latentclap.files import finite, write_json

#: measures that systems are tested by, with the attribute of `Scores` that holds them
TESTED = {"FAD": "fad", "KAD": "kad"}
#: shares that are tested over trainings; of one training nothing is known of their spread
SHARES = ("precision", "coverage")


@dataclass
class Comparison:
    """Several systems, of one training or more each, against one reference.

    Attributes:
        systems: {name: scores of its trainings}; the first is what the others are compared with.
        settings: everything that fixes the figures.
        level: of the intervals.
    """

    systems: dict[str, list[Scores]]
    settings: dict[str, Any] = field(default_factory=dict)
    level: float = 0.95

    def table(self) -> pd.DataFrame:
        """One row for each system, training and class: ``system``, ``training``, and `Scores.classes`'s columns."""
        parts = []
        for name, trainings in self.systems.items():
            for i, scores in enumerate(trainings, 1):
                part = scores.classes()
                part.insert(0, "training", i)
                part.insert(0, "system", name)
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """One row a system, in order: means over classes and trainings.

        Of one training ``fad`` and ``kad`` have its interval over clips (``fad_low``, ...); of several they have
        none here, since what their spread says is in `changes`.
        """
        rows = []
        for name, trainings in self.systems.items():
            row: dict[str, Any] = {"system": name, "trainings": len(trainings)}
            for key in TESTED.values():
                results = [getattr(s, key) for s in trainings]
                known = all(results)
                low, high = trainings[0].interval(key) if len(trainings) == 1 else (math.nan, math.nan)
                row[key] = float(np.mean([r.average for r in results])) if known else math.nan
                row |= {f"{key}_low": low, f"{key}_high": high}
            for column in ("precision", "density", "recall", "coverage", "expected_coverage"):
                row[column] = float(np.mean([s.mean(column) for s in trainings]))
            row["similarity"] = float(np.mean([s.mean("similarity") for s in trainings]))
            row["nearer_training"] = float(np.mean([s.mean("nearer_training") for s in trainings]))
            row["n_silent"] = float(np.sum([s.classes()["n_silent"].sum(skipna=False) for s in trainings]))
            row["n_clips"] = sum(e.n_clips for s in trainings for e in s.fad.estimates.values())
            rows.append(row)
        return pd.DataFrame(rows)

    def changes(self) -> dict[str, dict[str, Change]]:
        """{measure: {system: change from the first system}}, p corrected by Holm for the systems of a measure.

        The i-th training of a system is compared with the i-th of the first, as those of one seed
        (`evaluate.compare_averages`). Precision and coverage are tested where there are several trainings.
        """
        first, *others = self.systems
        out: dict[str, dict[str, Change]] = {}
        for measure, key in TESTED.items():
            base = [getattr(s, key) for s in self.systems[first]]
            if not all(base) or not others:
                continue
            made = [
                compare_averages(base, [getattr(s, key) for s in self.systems[name]], level=self.level)
                for name in others
            ]
            out[measure] = dict(zip(others, with_holm(made), strict=True))
        if "KAD" not in out or len(self.systems[first]) == 1:
            return out
        # a folder that was copied is no second training, as `compare_averages` says of FAD
        twice = {name: repeated([s.fad for s in trainings]) for name, trainings in self.systems.items()}
        for measure in SHARES:
            values = {name: [s.mean(measure) for s in trainings] for name, trainings in self.systems.items()}
            made = [
                paired(values[first], values[name], self.level)
                if not (twice[first] or twice[name])
                else untested(values[first], values[name], self.level)
                for name in others
            ]
            out[measure] = dict(zip(others, with_holm(made), strict=True))
        return out

    def text(self) -> str:
        """`summary` and `changes` for a terminal."""
        summary = self.summary().to_dict("records")
        shown = [c for c in _SHOWN if any(row[c] == row[c] for row in summary)]
        if not any(row["n_silent"] > 0 for row in summary):
            shown = [c for c in shown if c != "n_silent"]
        cells = [["system", *(_SHOWN[c] for c in shown)]]
        cells += [[row["system"], *(_cell(row, c) for c in shown)] for row in summary]
        first, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = [
            "   ".join([name.ljust(first), *(v.rjust(w) for v, w in zip(values, widths, strict=True))])
            for name, *values in cells
        ]
        if expected := self.expected_coverage():
            lines.append(f"Real clips, if as many were compared, would have a coverage of {expected}.")
        corrected = len(self.systems) > 2
        for measure, changes in self.changes().items():
            for name, change in changes.items():
                lines.append(said(change, measure, name, next(iter(self.systems)), corrected=corrected))
        return "\n".join([*lines, *self.names()])

    def expected_coverage(self) -> str:
        """What real clips would have for coverage, as text; from least to most where systems have unequal numbers."""
        values = [row["expected_coverage"] for row in self.summary().to_dict("records")]
        if any(value != value for value in values):
            return ""
        low, high = f"{min(values):.2f}", f"{max(values):.2f}"
        return low if low == high else f"{low}-{high}"

    def names(self) -> list[str]:
        """The full names of the figures, without which they are no numbers; FAD's of each number of clips."""
        scores = [s for trainings in self.systems.values() for s in trainings]
        out = list(dict.fromkeys(s.fad.name for s in scores))
        kernels = [k for s in scores for k in s.kernel.values()]
        if kernels:
            sizes = f"{_range(k.n_clips for k in kernels)} clips a class"
            real = f"{_range(k.n_ref_clips for k in kernels)} clips"
            drawn = all(k.draws.size for k in kernels)
            interval = f"{kernels[0].level:.0%} bootstrap over both" if drawn else "no interval"
            embedding = scores[0].fad.settings["embedding"]
            out.append(
                f"KAD[{embedding}, x100, Gaussian, median distance of the reference, n={sizes},"
                f" ref={real}, {interval}]"
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, as JSON knows it (NaN becomes null)."""
        return finite(
            {
                "names": self.names(),
                "summary": self.summary().to_dict("records"),
                "changes": {
                    measure: {
                        name: {**vars(c), "verdict": verdict(c, measure)} for name, c in changes.items()
                    }
                    for measure, changes in self.changes().items()
                },
                "classes": self.table().to_dict("records"),
                "settings": self.settings,
            }
        )

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all."""
        write_json(path, self.to_dict())


#: columns of the terminal's table
_SHOWN = {
    "fad": "FAD",
    "kad": "KAD",
    "precision": "precision",
    "coverage": "coverage",
    "similarity": "similarity",
    "nearer_training": "nearer to training",
    "n_silent": "silent",
}


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value != value:
        return "-"
    if column == "n_silent":
        return f"{value:.0f}"
    if column not in ("fad", "kad"):
        return f"{value:.2f}"
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low == low else "")


def _range(values: Iterable[int]) -> str:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}-{high}"
