"""Ratings of a listening study: read, and simulated around published means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.classes import canonical_class
from latentclap.errors import InputError

RATING_COLUMNS = ("rater", "class", "model", "item")


def read_ratings(path: str | Path, questions: Sequence[str] = ("quality", "relevance")) -> pd.DataFrame:
    """Read a long table of ratings (csv): rater, class, model, item, and one column a question.

    Raises:
        InputError: no such file, not a table, columns missing, an unknown class, or ratings that are not
        numbers.
    """
    wanted = f"ratings are a csv file with columns {', '.join((*RATING_COLUMNS, *questions))}"
    try:
        table = pd.read_csv(path, dtype={"rater": str, "item": str, "model": str})
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {wanted}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a table of ratings ({str(error).splitlines()[0]}); {wanted}") from None
    missing = [c for c in (*RATING_COLUMNS, *questions) if c not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, table))}")
    for question in questions:
        if not pd.api.types.is_numeric_dtype(table[question]):
            raise InputError(f"{path}: column {question} is not numeric")
    try:
        table["class"] = [canonical_class(str(c)) for c in table["class"]]
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return table


@dataclass(frozen=True)
class RatingNoise:
    """Variance components of one rating, as standard deviations in scale units.

    Attributes:
        rater: of raters' general level.
        rater_model: of a rater's private taste for a model.
        item: of clips around their cell's mean (centred within a cell: published means are of those very
        clips). residual: of one rating.
    """

    rater: float
    rater_model: float
    item: float
    residual: float

    @classmethod
    def from_error_ms(
        cls, error_ms: float, items: int, *, rater: float = 1.2, item: float = 0.5, residual: float = 1.5
    ) -> RatingNoise:
        """Choose ``rater_model`` so that a rater's mean over ``items`` has the error mean square given.

        The other three are assumptions: published statistics do not fix them.
        """
        left = error_ms - residual**2 / items
        if left < 0:
            raise InputError(
                f"residual SD {residual:g} over {items} items already exceeds the error mean square {error_ms:.3g}"
            )
        return cls(rater, math.sqrt(left), item, residual)

    @property
    def total(self) -> float:
        """Standard deviation of one rating about its cell's mean."""
        return math.sqrt(self.rater**2 + self.rater_model**2 + self.item**2 + self.residual**2)


def _uncensored_mean(target: float, sd: float, low: float, high: float) -> float:
    """Mean of a normal whose values, clipped to [low, high], average to ``target``."""
    from scipy.optimize import brentq

    def clipped_mean(m: float) -> float:
        a, b = (low - m) / sd, (high - m) / sd
        inside = m * (sps.norm.cdf(b) - sps.norm.cdf(a)) + sd * (sps.norm.pdf(a) - sps.norm.pdf(b))
        return low * sps.norm.cdf(a) + high * sps.norm.sf(b) + inside

    return float(brentq(lambda m: clipped_mean(m) - target, low - 5 * sd, high + 5 * sd))


def simulate_ratings(
    class_means: Mapping[str, pd.DataFrame],
    noise: Mapping[str, RatingNoise],
    *,
    raters: int = 40,
    items: int = 15,
    scale: tuple[int, int] = (0, 10),
    seed: int = 0,
) -> pd.DataFrame:
    """Draw a long table of whole-number ratings around published means. SIMULATED: evidence of nothing but
    power.

    Args:
        class_means: {question: table of means, index class, columns model}.
        noise: {question: variance components}.
        raters: per class; each class has its own, as in the paper's seven surveys.
        items: clips per class and model.
        scale: lowest and highest rating; draws beyond are clipped, and the means are shifted to make up for
        it. seed: of everything.

    Returns:
        Columns rater, class, model, item, and one per question.
    """
    rng = np.random.default_rng(seed)
    low, high = scale
    columns: dict[str, np.ndarray] = {}
    for question, means in class_means.items():
        sd = noise[question]
        groups, k = means.shape
        shape = (groups, raters, k, items)
        centre = np.vectorize(lambda m, s=sd.total: _uncensored_mean(m, s, low, high))(means.to_numpy())
        item = sd.item * rng.standard_normal((groups, 1, k, items))
        item -= item.mean(-1, keepdims=True)
        values = (
            centre[:, None, :, None]
            + sd.rater * rng.standard_normal((groups, raters, 1, 1))
            + sd.rater_model * rng.standard_normal((groups, raters, k, 1))
            + item
            + sd.residual * rng.standard_normal(shape)
        )
        columns[question] = np.clip(np.round(values), low, high).astype(int).ravel()
    names = next(iter(class_means.values()))
    index = pd.MultiIndex.from_product(
        [names.index, range(raters), names.columns, range(items)], names=["class", "r", "model", "item"]
    )
    frame = pd.DataFrame(columns, index=index).reset_index()
    frame.insert(0, "rater", frame["class"] + "-" + frame.pop("r").astype(str).str.zfill(3))
    frame["item"] = frame["item"].astype(str)
    return frame
