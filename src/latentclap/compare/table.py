"""Systems beside each other, and what can be said of their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from latentclap.compare.copying import Copying, data_copying
from latentclap.compare.kernel import KernelDistance, kernel_distance
from latentclap.compare.manifold import NEIGHBOURS, Manifold, manifold
from latentclap.errors import InputError
from latentclap.evaluate import Change, EvalResult, compare_averages, evaluate, with_holm
from latentclap.evaluate.clips import canonical
from latentclap.evaluate.table import _repeated
from latentclap.fad import ClipEmbeddings, FadEstimate, GaussianStats
from latentclap.files import finite, write_json
from latentclap.stats.intervals import percentile_interval
from latentclap.wording import plural

Embedded = Mapping[str, ClipEmbeddings]
#: measures that systems are tested by, with the attribute of `Scores` that holds them
TESTED = {"FAD": "fad", "KAD": "kad"}
#: shares that are tested over trainings; of one training nothing is known of their spread
SHARES = ("precision", "coverage")
#: what `Scores.classes` has of each class
COLUMNS = (
    *("fad", "fad_low", "fad_high", "fad_inf", "kad", "kad_low", "kad_high", "kad_p"),
    *("precision", "precision_low", "precision_high", "recall", "density"),
    *("coverage", "expected_coverage"),
    *("similarity", "nearer_training", "copying_p", "n_clips", "n_ref"),
)


@dataclass
class Scores:
    """What was measured of one training of a system; per class, but for ``fad``.

    Attributes:
        fad: FAD, as `latentclap evaluate` measures it.
        kernel: KAD; empty where the reference is statistics, as all that follows.
        manifolds: precision, recall, density, coverage.
        copying: nearness to the training clips; empty where none were given.
        similarity: {class: (n,)} cosine of E_audio and the class's text; empty where it was not asked for.
    """

    fad: EvalResult
    kernel: dict[str, KernelDistance] = field(default_factory=dict)
    manifolds: dict[str, Manifold] = field(default_factory=dict)
    copying: dict[str, Copying] = field(default_factory=dict)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kad(self) -> EvalResult | None:
        """KAD as a table of classes, whose average and interval are taken as FAD's are; None without clips."""
        if not self.kernel:
            return None
        estimates = {
            cls: FadEstimate(
                *(k.kad, k.ci_low, k.ci_high, 0.0, k.n_clips, k.n_clips, k.n_ref_clips, k.n_ref_clips),
                level=k.level,
                method="moved",  # its draws have the estimate for their mean, and KAD may be negative
                draws=k.draws,
            )
            for cls, k in self.kernel.items()
        }
        return EvalResult("KAD", estimates)

    def interval(self, measure: str) -> tuple[float, float]:
        """Of the average of "fad" or "kad" over clips; NaN without draws, or without that measure."""
        if measure == "fad":
            return self.fad.average_ci
        draws = [k.draws for k in self.kernel.values()]
        if not draws or any(d.size == 0 for d in draws):
            return math.nan, math.nan
        level = next(iter(self.kernel.values())).level
        # not `average_ci`, which ends at 0: KAD does not
        return percentile_interval(np.mean(draws, axis=0), level)

    def classes(self) -> pd.DataFrame:
        """One row a class: ``class`` and :data:`COLUMNS`, NaN where something was not measured."""
        return pd.DataFrame([self._row(cls) for cls in self.fad.estimates])

    def _row(self, cls: str) -> dict[str, Any]:
        row: dict[str, Any] = {"class": cls, **dict.fromkeys(COLUMNS, math.nan)}
        e, infinity = self.fad.estimates[cls], self.fad.infinities.get(cls)
        row |= {"fad": e.fad, "fad_low": e.ci_low, "fad_high": e.ci_high}
        row |= {"n_clips": e.n_clips, "n_ref": e.n_ref_clips}
        if infinity:
            row["fad_inf"] = infinity.value
        if k := self.kernel.get(cls):
            row |= {"kad": k.kad, "kad_low": k.ci_low, "kad_high": k.ci_high, "kad_p": k.p}
        if m := self.manifolds.get(cls):
            row |= {
                name: getattr(m, name)
                for name in ("precision", "recall", "density", "coverage", "expected_coverage")
            }
            row["precision_low"], row["precision_high"] = m.precision_ci
        if c := self.copying.get(cls):
            row |= {"nearer_training": c.nearer, "copying_p": c.p}
        if cls in self.similarity:
            row["similarity"] = float(np.mean(self.similarity[cls]))
        return row

    def mean(self, column: str) -> float:
        """Mean over the classes of a column of :meth:`classes`; NaN where it was not measured."""
        return float(self.classes()[column].mean(skipna=False))


def score(
    generated: Embedded,
    reference: Embedded | Mapping[str, GaussianStats],
    embedding: Any,
    *,
    training: Embedded | None = None,
    similarity: Mapping[str, np.ndarray] | None = None,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    seconds: float = 4.0,
    neighbours: int = NEIGHBOURS,
    fad: EvalResult | None = None,
) -> Scores:
    """Measure one training of a system, class by class.

    Args:
        generated: embeddings of its clips, ``evaluate.embed_clips``'s.
        reference: of the real clips; or statistics, by which FAD alone is measured.
        embedding: that made them.
        training: of the clips that it was trained on, for `data_copying`.
        similarity: {class: (n,)}, passed on.
        n_boot: draws; 0 for no intervals.
        level: of the intervals.
        seed: of the draws.
        seconds: that were embedded, for FAD's name.
        neighbours: of `manifold`.
        fad: of these clips, where it was measured before.

    Raises:
        InputError: too few clips of a class, a class without reference, different embeddings.
    """
    # FAD's classes have our spelling, whatever the caller's
    generated = {canonical(cls): clips for cls, clips in generated.items()}
    reference = {canonical(cls): side for cls, side in reference.items()}
    training = None if training is None else {canonical(cls): clips for cls, clips in training.items()}
    if fad is None:
        fad = evaluate(
            generated, reference, embedding, n_boot=n_boot, seed=seed, seconds=seconds, level=level
        )
    out = Scores(fad, similarity={canonical(cls): values for cls, values in (similarity or {}).items()})
    for i, cls in enumerate(fad.estimates):
        ours, real = generated[cls], reference[cls]
        if not isinstance(real, ClipEmbeddings):
            continue
        own_seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        try:
            out.kernel[cls] = kernel_distance(ours, real, n_boot=n_boot, level=level, seed=own_seed)
            out.manifolds[cls] = manifold(ours, real, neighbours, level=level)
            if training is not None:
                if cls not in training:
                    raise InputError(f"no training clips; there are those of {', '.join(training)}")
                out.copying[cls] = data_copying(ours, real, training[cls])
        except InputError as error:
            raise InputError(f"{cls}: {error}") from None
    return out


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
        """One row for each system, training and class: ``system``, ``training``, ``class``, :data:`COLUMNS`."""
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
        twice = {name: _repeated([s.fad for s in trainings]) for name, trainings in self.systems.items()}
        for measure in SHARES:
            values = {name: [s.mean(measure) for s in trainings] for name, trainings in self.systems.items()}
            made = [
                _paired(values[first], values[name], self.level)
                if not (twice[first] or twice[name])
                else _untested(values[first], values[name], self.level)
                for name in others
            ]
            out[measure] = dict(zip(others, with_holm(made), strict=True))
        return out

    def text(self) -> str:
        """`summary` and `changes` for a terminal."""
        summary = self.summary().to_dict("records")
        shown = [c for c in _SHOWN if any(row[c] == row[c] for row in summary)]
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


def _paired(a: list[float], b: list[float], level: float) -> Change:
    """Student's over changes from one training to the other of its seed; without spread there is no test.

    Not `compare_averages`, which takes two results with the same numbers for one training: shares of few clips are
    often the same.
    """
    steps = np.subtract(b, a)
    if np.ptp(steps) <= 1e-12:
        return _untested(a, b, level)
    told = ttest_rel(b, a)
    low, high = told.confidence_interval(level)
    return Change(float(steps.mean()), float(low), float(high), float(told.pvalue), len(steps), 1 - level)


def _untested(a: list[float], b: list[float], level: float) -> Change:
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


#: columns of the terminal's table
_SHOWN = {
    "fad": "FAD",
    "kad": "KAD",
    "precision": "precision",
    "coverage": "coverage",
    "similarity": "similarity",
    "nearer_training": "nearer to training",
}


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value != value:
        return "-"
    if column not in ("fad", "kad"):
        return f"{value:.2f}"
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low == low else "")


def _range(values: Iterable[int]) -> str:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}-{high}"
