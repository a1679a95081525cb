"""The tables of the book's page on comparing systems."""

import pytest

from latentclap.book.compare import compare_page
from latentclap.errors import InputError
from latentclap.files import read_json, write_json


@pytest.fixture
def records(repo_root):
    folder = repo_root / "book/runs"
    return folder / "compare_evening.json", folder / "compare_real.json", folder / "measures.json"


def test_tables_have_every_system_and_every_size(records, tmp_path):
    out = compare_page(*records, tmp_path / "compare.md")
    found, real, simulated = (read_json(path) for path in records)
    text, told = out.read_text(), (tmp_path / "compare_measures.md").read_text()
    for row in (*found["summary"], *real["summary"]):
        assert f"| {row['system']} | {row['fad']:.2f} | {row['kad']:.2f} |" in text
    for measure, changes in found["changes"].items():
        for name, change in changes.items():
            assert f"| {measure}, {name} | {change['verdict']} | {change['value']:+.2f} |" in text
            assert change["verdict"] in text
    ps = [change["p"] for changes in found["changes"].values() for change in changes.values()]
    systems = len(found["summary"]) - 1
    assert f"all {len(ps)} tests of this table, the smallest p is {min(ps) / systems * len(ps):.2f}" in text
    assert len([line for line in told.splitlines() if line.startswith("| ")]) == len(simulated["rows"]) + 2
    assert "This run: " in text and "This run: " in told


def test_the_simulation_says_what_the_page_says_of_it(records):
    """FAD of few clips is mostly bias; KAD's mean is right at every size, and its test keeps its level."""
    for row in read_json(records[2])["rows"]:
        fad, kad = row["fad"], row["kad"]
        assert fad["mean"] > fad["true"] + 10 * fad["standard_error"] and fad["held"] == 0
        assert abs(kad["mean"] - kad["true"]) < 3 * kad["standard_error"]
        assert kad["held"] >= 0.95
        if row["case"] == "the same distribution":
            assert 0.02 < row["told_apart"] < 0.09


def test_records_of_another_kind_are_refused(records, tmp_path):
    with pytest.raises(InputError, match="no such record"):
        compare_page(tmp_path / "absent.json", *records[1:], tmp_path / "out.md")
    with pytest.raises(InputError, match="not a record of that page"):
        compare_page(records[2], *records[1:], tmp_path / "out.md")
    told = read_json(records[0])
    told["summary"][0]["kad"] = None
    write_json(tmp_path / "statistics.json", told)
    with pytest.raises(InputError, match="made against statistics"):
        compare_page(tmp_path / "statistics.json", *records[1:], tmp_path / "out.md")
    assert not (tmp_path / "out.md").exists()
