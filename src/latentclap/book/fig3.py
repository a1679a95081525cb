"""Fig. 3 in words: how FAD and the two held-out losses go over λ, and what that says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from latentclap.stats import Course, course

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

#: what is measured at every point -> how it is called
MEASURES = {"fad": "average FAD", "ddpm": "held-out eq. 1", "lclap": "held-out eq. 3"}
#: with the tuning layer or not -> system of Table I
SYSTEMS = {False: "LDM+Latent", True: "LDM+Tuning+Latent"}

_SAID = {
    "falls and rises again": "FAD falls with λ to a lowest point and rises beyond it on both curves, as in Fig. 3.",
    "falls": "FAD falls with λ on both curves; that it rises again beyond its lowest point is not shown.",
    "rises": "FAD rises with λ on both curves, the opposite of Fig. 3.",
    "no trend": "FAD shows no course with λ on either curve.",
    "too few points to tell": "So few points cannot tell whether FAD falls or rises with λ.",
}
_ALL_THE_SAME = (
    "Eq. 3 falls all the same: the loss does what it says, and in this run that does not lower FAD."
)


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep over λ, and their courses.

    Attributes:
        points: one row a fine-tuning, with `lam`, `tuning`, `seed` and the measures.
        courses: (tuning layer, measure) -> its course over λ, within seeds.
    """

    points: pd.DataFrame
    courses: dict[tuple[bool, str], Course]

    @property
    def trend(self) -> pd.DataFrame:
        """One row a curve: where it is lowest, and what the tests say."""
        return pd.DataFrame(
            {
                "tuning layer": "with" if tuning else "without",
                "measure": MEASURES[key],
                "at λ = 0": found.means[0],
                "lowest": min(found.means),
                "at λ": lowest(found),
                "ρ within seeds": found.rank,
                "p, follows λ": found.p_rank,
                "p, some λ below λ = 0": found.p_fall,
                "p, rises from its lowest": found.p_rise,
                "shown": found.word,
            }
            for (tuning, key), found in self.courses.items()
        )

    def table(self) -> Styler:
        """The trend, as a notebook shows it."""
        trend = self.trend
        digits = {name: _three for name in trend.columns if name.startswith(("p,", "at λ = 0", "lowest"))}
        style = trend.style.format(digits | {"at λ": "{:g}", "ρ within seeds": "{:+.2f}"}, na_rep="–")
        return style.hide(axis="index")

    def record(self) -> dict[str, list[dict[str, object]]]:
        """Points and trend, as a run's metrics keep them."""
        trend = self.trend
        return {
            "points": self.points.to_dict("records"),
            "trend": trend.astype(object).where(trend.notna(), None).to_dict("records"),
        }

    def words(self) -> dict[str, str | float]:
        """What the text around the sweep says: its verdict first."""
        return {
            "trend_verdict": self.verdict(),
            "trend_plain": self._told(tuning=False),
            "trend_tuning": self._told(tuning=True),
            "what_tells": self._what_tells(),
            "best_lam": lowest(self.courses[False, "fad"]),
            "best_lam_tuning": lowest(self.courses[True, "fad"]),
        }

    def verdict(self) -> str:
        """Whether the FAD goes as in the paper's Fig. 3, in a sentence or three."""
        fad = {tuning: self.courses[tuning, "fad"] for tuning in (False, True)}
        words = {found.word for found in fad.values()}
        verdict = (
            _SAID[words.pop()]
            if len(words) == 1
            else f"FAD, without the tuning layer: {fad[False].word}; with it: {fad[True].word}."
        )
        if all(np.argmin(found.means) == 0 for found in fad.values()):
            verdict += " On both curves the mean is lowest at λ = 0, without the loss."
        eq3 = {self.courses[tuning, "lclap"].word for tuning in (False, True)}
        if eq3 <= {"falls", "falls and rises again"} and not any(
            found.word.startswith("falls") for found in fad.values()
        ):
            verdict += f" {_ALL_THE_SAME}"
            if {self.courses[tuning, "ddpm"].word for tuning in (False, True)} == {"rises"}:
                verdict += " Eq. 1, the error in the predicted noise, rises with λ on both curves."
        return verdict

    def _told(self, *, tuning: bool) -> str:
        """The curves with or without the tuning layer, each with what it rests on."""
        courses = {key: self.courses[tuning, key] for key in MEASURES}
        told = "; ".join(
            f"{MEASURES[key]}: {found.word} (ρ = {found.rank:+.2f}; lowest at λ = {lowest(found):g})"
            for key, found in courses.items()
        )
        return told.replace("= -", "= \u2212") + "."

    def _what_tells(self) -> str:
        """How little such a sweep can show."""
        if self.points["seed"].nunique() < 2:
            return "One seed has neither a test nor an error bar: give two or more."
        spread = self.points.groupby(["tuning", "lam"])["fad"].std().mean()
        return (
            f"With this many points no p of the two tests can be below {self.courses[False, 'fad'].p_least:.2g}, and"
            " the p-values are not corrected for the number of curves. A FAD's own error bar on this page is its"
            f" standard deviation over seeds, {spread:.2f} on average."
        )


def sweep_of(points: pd.DataFrame) -> Sweep:
    """The courses of a sweep's points, with and without the tuning layer.

    Args:
        points: columns `lam`, `tuning`, `seed`, `fad`, `ddpm`, `lclap`; every λ with every seed.
    """
    return Sweep(
        points,
        {
            (tuning, key): course(
                points[points["tuning"] == tuning].pivot(index="seed", columns="lam", values=key)
            )
            for tuning in (False, True)
            for key in MEASURES
        },
    )


def lowest(found: Course) -> float:
    """The level, 0 included, at which a course's mean is lowest."""
    return found.levels[int(np.argmin(found.means))]


def _three(value: float) -> str:
    """Three digits, with a minus at which no line ends."""
    return f"{value:.3g}".replace("e-", "e\u2212")
