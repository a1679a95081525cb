"""CLAP similarity of clips and their class's text (section V-A)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from latentclap.classes import prompt
from latentclap.errors import InputError
from latentclap.evaluate.folders import as_measured, canonical
from latentclap.fad.intervals import percentile_interval


@dataclass
class SimilarityResult:
    """Cosine of E_audio and E_text per clip (section V-A).

    Attributes:
        scores: {class: (n,)}.
        intervals: {class or "all": (low, high)} of the mean, bootstrap over clips; NaN without draws or of one clip.
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
        """JSON-able summary (NaN becomes null)."""
        rows = [{k: _json(v) for k, v in row.items()} for row in self.table().to_dict("records")]
        return {
            "name": "CLAP similarity[cosine of E_audio and E_text]",
            "average": self.average,
            "average_ci": [_json(v) for v in self.intervals["all"]],
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
        texts: {class: text}, classes in any spelling; default the paper's prompt.
        n_boot: bootstrap draws over clips; 0 for none.
        level: of the intervals.
        seed: of the bootstrap.
        batch: clips encoded at once.

    Raises:
        InputError: no classes, a class without clips or without a text, waves of different length, or a bad n_boot or
            level.
    """
    if not generated:
        raise InputError("similarity: no classes; give {class: clips}")
    if n_boot < 0 or not 0 < level < 1:
        raise InputError(
            f"similarity: n_boot={n_boot}, level={level}; give 0 draws or more, a level such as 0.95"
        )
    rng = np.random.default_rng(seed)
    own = {canonical(k): text for k, text in texts.items()} if texts else {}
    scores, intervals, used, draws = {}, {}, {}, []
    for name in dict.fromkeys(map(canonical, as_measured(generated))):
        waves = _stacked(
            [np.asarray(w) for k, v in generated.items() if canonical(k) == name for w in v], name
        )
        used[name] = _text(name, own)
        scores[name] = np.concatenate(
            [
                np.asarray(system.similarity(part, [used[name]] * len(part)), dtype=np.float64)
                for part in np.split(waves, range(batch, len(waves), batch))
            ]
        )
        picks = rng.integers(0, len(waves), (n_boot, len(waves)))
        # a clip by itself cannot be resampled: no interval, rather than one of no width
        draws.append(scores[name][picks].mean(1) if len(waves) > 1 else np.full(n_boot, math.nan))
        intervals[name] = percentile_interval(draws[-1], level)
    intervals["all"] = percentile_interval(np.mean(draws, axis=0), level)
    return SimilarityResult(scores, intervals, used)


def _stacked(waves: list[np.ndarray], name: str) -> np.ndarray:
    if not waves:
        raise InputError(f"similarity: {name} has no clips; leave the class out")
    if len({w.shape for w in waves}) > 1:
        raise InputError(f"similarity: clips of {name} have different lengths; cut or pad them to one")
    return np.stack(waves)


def _text(name: str, own: Mapping[str, str]) -> str:
    """The text of a class: of the caller's if there are any, else the paper's prompt."""
    if not own:
        try:
            return prompt(name)
        except ValueError as error:
            raise InputError(f"similarity: {error}; give other classes their texts") from None
    if name not in own:
        raise InputError(f"similarity: no text for {name}; texts has {', '.join(own)}")
    return own[name]


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
