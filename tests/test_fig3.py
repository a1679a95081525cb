"""What a sweep over λ says in words."""

import numpy as np
import pandas as pd
import pytest

from latentclap.book.fig3 import sweep_of

LAMS = (0.0, 500.0, 1000.0, 2000.0, 4000.0)
RISES, VALLEY, FALLS, LEVEL = (1, 2, 3, 4, 5), (5, 3, 1, 3, 5), (5, 4, 3, 2, 1), (3, 3, 3, 3, 3)
LOWEST = " On both curves the mean is lowest at λ = 0, without the loss."
ALL_THE_SAME = (
    " Eq. 3 falls all the same: the loss does what it says, and in this run that does not lower FAD."
    " Eq. 1, the error in the predicted noise, rises with λ on both curves."
)


def points(plain, tuned=None, eq3=FALLS, seeds=4):
    """Points whose measures go as given over λ, a little otherwise with each seed."""
    noise = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "lam": lam,
            "tuning": tuning,
            "seed": seed,
            "fad": curve[at] + seed + 0.01 * noise.random(),
            "ddpm": 0.06 + 0.001 * at + 0.0001 * noise.random(),
            "lclap": (eq3[at] + 0.01 * noise.random()) * 1e-5,
        }
        for tuning, curve in ((False, plain), (True, tuned or plain))
        for seed in range(seeds)
        for at, lam in enumerate(LAMS)
    )


@pytest.mark.parametrize(
    ("curves", "verdict"),
    [
        ((RISES,), f"FAD rises with λ on both curves, the opposite of Fig. 3.{LOWEST}{ALL_THE_SAME}"),
        ((RISES, None, RISES), f"FAD rises with λ on both curves, the opposite of Fig. 3.{LOWEST}"),
        (
            (VALLEY,),
            "FAD falls with λ to a lowest point and rises beyond it on both curves, as in Fig. 3.",
        ),
        (
            (FALLS,),
            "FAD falls with λ on both curves; that it rises again beyond its lowest point is not shown.",
        ),
        ((RISES, FALLS), "FAD, without the tuning layer: rises; with it: falls."),
    ],
)
def test_the_verdict_says_what_the_curves_do(curves, verdict):
    sweep = sweep_of(points(*curves))
    assert sweep.verdict() == sweep.words()["trend_verdict"] == verdict


def test_a_level_curve_has_no_course():
    said = sweep_of(points(LEVEL)).verdict()
    assert said.startswith("FAD shows no course with λ on either curve.") and said.endswith(ALL_THE_SAME)


def test_every_curve_is_told_and_tested():
    sweep = sweep_of(points(RISES, VALLEY))
    words, (plain, *_, last) = sweep.words(), sweep.record()["trend"]
    assert words["trend_plain"] == (
        "average FAD: rises (ρ = +1.00; lowest at λ = 0); held-out eq. 1: rises (ρ = +1.00; lowest at λ = 0);"
        " held-out eq. 3: falls (ρ = \u22121.00; lowest at λ = 4000)."
    )
    assert words["trend_tuning"].startswith("average FAD: falls and rises again (ρ = ")
    assert (words["best_lam"], words["best_lam_tuning"]) == (0.0, 1000.0)
    assert "is its standard deviation over seeds, 1.29 on average." in words["what_tells"]
    assert (plain["tuning layer"], plain["measure"], plain["at λ"]) == ("without", "average FAD", 0.0)
    assert plain["p, rises from its lowest"] < 0.025 < plain["p, some λ below λ = 0"]
    assert (last["tuning layer"], last["measure"], last["shown"]) == ("with", "held-out eq. 3", "falls")
    html = sweep.table().to_html()
    assert "e\u221205<" in html and "e-05" not in html and ">+1.00<" in html


def test_one_seed_has_no_test():
    sweep = sweep_of(points(RISES, seeds=1))
    assert sweep.verdict() == f"So few points cannot tell whether FAD falls or rises with λ.{LOWEST}"
    assert sweep.words()["what_tells"].startswith("One seed has neither a test nor an error bar")
    assert sweep.record()["trend"][0]["p, follows λ"] is None
