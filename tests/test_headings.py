"""Headings of tables: words with units on a page, and the short names where records are read."""

import pandas as pd
import pytest

from latentclap.book.headings import HEADINGS, degrees, headed, probability
from latentclap.classes import LABELS
from latentclap.files import read_json


def test_columns_rows_and_axes_get_words_and_values_stay():
    table = pd.DataFrame(
        {"rms_dbfs": [-20.0], "own": ["rms_dbfs"]}, index=pd.Index(["dog_bark"], name="class")
    )
    shown = headed(table, own="mine", **{"class": "kind"})
    assert list(shown.columns) == ["level (dBFS)", "mine"] and list(shown.index) == ["dog bark"]
    assert shown.index.name == "kind" and shown["mine"].tolist() == ["rms_dbfs"]
    assert list(table.columns) == ["rms_dbfs", "own"] and table.index.name == "class"


def test_every_level_is_told():
    table = pd.DataFrame({("crest_db", "std"): [1.0], ("crest_db", "mean"): [2.0]}, index=["rain"])
    assert list(headed(table).columns) == [("crest factor (dB)", "SD"), ("crest factor (dB)", "mean")]
    rows = pd.concat({"quality": pd.DataFrame({"p_holm": [0.1]}, index=["sneeze_cough"])}, names=["question"])
    assert list(headed(rows).index) == [("quality", LABELS["sneeze_cough"])]


def test_no_two_names_of_one_table_share_a_heading():
    assert len({*HEADINGS.values(), *LABELS.values()}) == len(HEADINGS) + len(LABELS)


@pytest.mark.parametrize(
    ("p", "told"), [(0.0, "<0.001"), (0.00099, "<0.001"), (0.001, "0.001"), (0.5, "0.500")]
)
def test_probabilities(p, told):
    assert probability(p) == told


@pytest.mark.parametrize(
    ("df", "told"),
    [(12, "12"), (12.0, "12"), (1368.0, "1368"), (1.9534, "1.95"), (12.5, "12.50"), (float("nan"), "nan")],
)
def test_degrees_of_freedom(df, told):
    assert degrees(df) == told


def test_notebook_05_prints_its_degrees_of_freedom_so(repo_root):
    cells = read_json(repo_root / "notebooks/05_table2.ipynb")["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for table in ("interaction.assign(", '"df1_gg", "df2_gg"', "**corrected", "min_f_prime("):
        (text,) = [text for text in code if table in text]
        assert text.rindex("format(degrees") > text.find("precision="), text  # which formats all numbers
