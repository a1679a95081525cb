"""Changes of variants against one of them, over seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from latentclap.errors import InputError
from latentclap.stats import changes_in_words, paired_changes


@pytest.fixture
def values():
    return pd.DataFrame(
        {0: [1.0, 2.0, 1.0], 1: [5.0, 7.0, 5.5], 2: [9.0, 12.0, 8.5]}, index=["none", "far", "near"]
    )


def test_changes_are_paired_by_seed(values):
    """Changes of 1, 2, 3: mean 2, SD 1, so t = 2 sqrt(3) of two degrees; the trainings themselves lie 4 apart."""
    found = paired_changes(values, "none")
    assert list(found.index) == ["far", "near"]
    far = found.loc["far"]
    p = sps.ttest_rel([2, 7, 12], [1, 5, 9]).pvalue
    assert far["change"] == 2 and far["p"] == pytest.approx(p) == pytest.approx(0.0742, abs=1e-4)
    half = 4.302653 / 3**0.5  # Student's 97.5 % point of two degrees
    assert (far["low"], far["high"]) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.loc["near", "change"] == 0 and found.loc["near", "p"] == pytest.approx(1)


def test_p_is_adjusted_for_the_number_of_variants(values):
    found = paired_changes(values, "none")
    assert found.loc["far", "p_adjusted"] == pytest.approx(2 * found.loc["far", "p"])
    plain = paired_changes(values, "none", adjust="none")
    assert plain["p_adjusted"].tolist() == plain["p"].tolist()


def test_the_interval_follows_its_level(values):
    wide, narrow = (paired_changes(values, "none", level=level).loc["far"] for level in (0.95, 0.5))
    assert narrow["high"] - narrow["low"] == pytest.approx(2 * 0.816497 / 3**0.5, abs=1e-5)
    assert wide["low"] < narrow["low"]


def test_one_seed_has_a_change_and_no_test(values):
    found = paired_changes(values[[1]], "none").loc["far"]
    assert found["change"] == 2 and found[["low", "high", "p", "p_adjusted"]].isna().all()


def test_changes_without_spread(values):
    same = pd.DataFrame({0: [1.0, 2.0, 1.0], 1: [5.0, 6.0, 5.0]}, index=["none", "more", "same"])
    found = paired_changes(same, "none")
    assert found.loc["more", "p"] == 0 and found.loc["same", "p"] == 1


def test_what_is_clear_is_said_in_words():
    names = ["reading: ddim", "w: paper", "reading: posterior", "w: constant"]
    found = pd.DataFrame(
        {"change": [2.0, -1.0, 3.0, 9.0], "p_adjusted": [0.04, 0.001, 0.0, 0.05]}, index=names
    )
    assert changes_in_words(found) == "lower with w paper; higher with reading ddim, reading posterior"
    assert changes_in_words(found, alpha=0.01) == "lower with w paper; higher with reading posterior"
    assert changes_in_words(found.assign(p_adjusted=np.nan)) == "no difference beyond the noise"


def test_what_cannot_be_compared_is_said(values):
    with pytest.raises(InputError, match="no variant 'paper' among none, far, near"):
        paired_changes(values, "paper")
    with pytest.raises(InputError, match="missing or not finite"):
        paired_changes(values.where(values != 5.5, np.nan), "none")
    with pytest.raises(InputError, match="level 95"):
        paired_changes(values, "none", level=95)
