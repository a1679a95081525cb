"""The published numbers, against each other."""

import numpy as np
import pytest

from latentclap import papers
from latentclap.classes import CLASSES
from latentclap.errors import InputError


def test_table_1_has_nine_rows_of_seven():
    frame = papers.table_1()
    assert frame.shape == (9, 9) and list(frame.columns[:7]) == list(CLASSES)
    assert [row.filtered for row in papers.TABLE_1] == [False] * 5 + [True] * 4


@pytest.mark.parametrize("row", papers.TABLE_1, ids=lambda r: r.system)
def test_table_1_averages_and_sample_deviations(row):
    # "Std." is the sample SD; some last digits are truncated, not rounded
    assert np.mean(row.fads) == pytest.approx(row.average, abs=0.0101)
    assert np.std(row.fads, ddof=1) == pytest.approx(row.std, abs=0.0101)
    assert abs(np.std(row.fads) - row.std) > 0.05


def test_improvements_of_section_v_a():
    average = {row.system: row.average for row in papers.TABLE_1}
    assert average["LDM"] - average["LDM+Latent"] == pytest.approx(papers.IMPROVEMENT["LDM+Latent"])
    tuned = average["LDM+Tuning"] - average["LDM+Tuning+Latent"]
    assert tuned == pytest.approx(papers.IMPROVEMENT["LDM+Tuning+Latent"])


@pytest.mark.parametrize("question", papers.QUESTIONS)
def test_class_means_average_to_table_2(question):
    frame = papers.listening_by_class(question)
    assert list(frame.index) == list(CLASSES)
    np.testing.assert_allclose(frame.mean(), papers.TABLE_2[question], atol=0.0101)


def test_unknown_names():
    with pytest.raises(InputError, match="unknown question"):
        papers.listening_by_class("loudness")
    assert papers.table_1().loc["LDM+Latent", "average"] == 7.1
    assert papers.table_2().loc["LDM+Tuning", "relevance"] == 6.55
