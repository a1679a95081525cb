"""CLAP similarity of clips and their class's text (section V-A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from latentclap.classes import prompt
from latentclap.evaluate.clips import canonical, in_order


@dataclass
class SimilarityResult:
    """Cosine of E_audio and E_text per clip (section V-A).

    Attributes:
        scores: {class: (n,)}.
        intervals: {class or "all": (low, high)} of the mean, bootstrap over clips.
        texts: {class: the text it was compared with}.
    """

    scores: dict[str, np.ndarray]
    intervals: dict[str, tuple[float, float]]
    texts: dict[str, str]

    @property
    def average(self) -> float:
        """Mean over the classes' means."""
        return float(np.mean([s.mean() for s in self.scores.values()]))

    def table(self) -> pd.DataFrame:
        """One row a class: class, similarity, ci_low, ci_high, n_clips."""
        return pd.DataFrame(
            [
                {
                    "class": cls,
                    "similarity": float(s.mean()),
                    "ci_low": self.intervals[cls][0],
                    "ci_high": self.intervals[cls][1],
                    "n_clips": len(s),
                }
                for cls, s in self.scores.items()
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        rows = self.table().to_dict("records")
        return {
            "name": "CLAP similarity[cosine of E_audio and E_text]",
            "average": self.average,
            "average_ci": list(self.intervals["all"]),
            "classes": {row.pop("class"): row for row in rows},
            "texts": self.texts,
        }


def clap_similarity(
    system: Any,
    generated: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    *,
    texts: Mapping[str, str] | None = None,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch: int = 32,
) -> SimilarityResult:
    """CLAP similarity of generated clips and their class's text.

    Args:
        system: a `FoleySystem`: ``similarity(waves, texts)`` -> (n,), both sides by the judging CLAP. (Its
            ``encode_text`` is the conditioning CLAP's, which may be another checkpoint.)
        generated: {class: (n, samples) or a list of waves of one length}.
        texts: {class: text}; default the paper's prompt.
        n_boot: bootstrap draws over clips.
        level: of the intervals.
        seed: of the bootstrap.
        batch: clips encoded at once.
    """
    rng = np.random.default_rng(seed)
    scores, intervals, used, draws = {}, {}, {}, []
    tail = [(1 - level) / 2, (1 + level) / 2]
    for name in in_order({canonical(k): None for k in generated}):
        waves = np.stack([np.asarray(w) for key, v in generated.items() if canonical(key) == name for w in v])
        used[name] = texts[name] if texts else prompt(name)
        scores[name] = np.concatenate(
            [
                np.asarray(system.similarity(part, [used[name]] * len(part)), dtype=np.float64)
                for part in np.split(waves, range(batch, len(waves), batch))
            ]
        )
        picks = rng.integers(0, len(waves), (n_boot, len(waves)))
        draws.append(scores[name][picks].mean(1))
        low, high = np.quantile(draws[-1], tail)
        intervals[name] = (float(low), float(high))
    low, high = np.quantile(np.mean(draws, axis=0), tail)
    intervals["all"] = (float(low), float(high))
    return SimilarityResult(scores, intervals, used)
