"""What is measured of one training of a system, class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from latentclap.compare.copying import Copying, data_copying
from latentclap.compare.kernel import KernelDistance, kernel_distance
from latentclap.compare.manifold import NEIGHBOURS, Manifold, manifold
from latentclap.errors import InputError
from latentclap.evaluate import EvalResult, evaluate
from latentclap.evaluate.folders import canonical
from latentclap.fad import ClipEmbeddings, FadEstimate, GaussianStats
from latentclap.fad.intervals import percentile_interval

Embedded = Mapping[str, ClipEmbeddings]
#: what `Scores.classes` has of each class
COLUMNS = (
    *("fad", "fad_low", "fad_high", "fad_inf", "kad", "kad_low", "kad_high", "kad_p"),
    *("precision", "precision_low", "precision_high", "recall", "density"),
    *("coverage", "expected_coverage"),
    *("similarity", "nearer_training", "copying_p", "n_clips", "n_ref", "n_silent", "n_ref_silent"),
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
        counts = {"n_silent": self.fad.silent.get(cls), "n_ref_silent": self.fad.silent_ref.get(cls)}
        row |= {name: n for name, n in counts.items() if n is not None}
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
    if fad is None:  # by the names as given, which deal its draws
        fad = evaluate(
            generated, reference, embedding, n_boot=n_boot, seed=seed, seconds=seconds, level=level
        )
    # FAD's classes have one name, whatever the caller's
    generated = {canonical(cls): clips for cls, clips in generated.items()}
    reference = {canonical(cls): side for cls, side in reference.items()}
    training = None if training is None else {canonical(cls): clips for cls, clips in training.items()}
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
