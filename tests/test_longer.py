"""A run of Table I kept as a record, and its page."""

import re

import matplotlib.image
import pytest

from latentclap import papers
from latentclap.book.longer import keep_table_1, longer_page
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

SYSTEMS = ("LDM", "LDM+Tuning", "LDM+Latent", "LDM+Tuning+Latent")


@pytest.fixture
def run_folder(tmp_path):
    """What notebook 04 leaves: two trainings of each system, of which the second is worse by one."""
    rows = {"Real Audio, seed 3": 2.0}
    rows |= {f"{name}, seed {seed}": 10 * i + seed for seed in (3, 4) for i, name in enumerate(SYSTEMS, 1)}
    rows |= {f"{name}+filter, seed 3": 99.0 for name in SYSTEMS}
    change = {
        "from": "LDM",
        "this run": -1.25,
        "2.5 %": -2.0,
        "97.5 %": -0.5,
        "p (Holm)": 0.0123,
        "trainings": 2,
        "paper": -1.64,
        "this run shows": "a lower FAD",
    }
    folder = tmp_path / "04_table1" / "abc"
    write_json(
        folder / "metrics.json",
        {
            "rows": {
                name: {
                    "name": "FAD[of a test]",
                    "average": value,
                    "average_ci": [value - 1, value + 1],
                    "classes": {c: {"fad": value + j, "ci": [0, 1]} for j, c in enumerate(CLASSES)},
                    "settings": {"n_boot": 5},
                }
                for name, value in rows.items()
            },
            "change": [
                change | {"to": "LDM+Latent"},
                change | {"from": "LDM+Tuning", "to": "LDM+Tuning+Latent", "this run shows": "a higher FAD"},
                change | {"to": "LDM+Tuning"},
            ],
            "similarity": dict.fromkeys(SYSTEMS, 0.4321),
        },
    )
    finetune = {"epochs": 3, "batch_size": 8, "lr": 3e-5, "lam": 2000.0, "lam_tuning": 1000.0}
    data = {"dev_per_class": 200, "eval_per_class": 100}
    write_json(folder / "config.json", {"profile": {"name": "evening", "finetune": finetune, "data": data}})
    told = {"profile": "evening", "data": "embedded procedural set", "commit": "0123456789", "seeds": [3, 4]}
    write_json(folder / "provenance.json", told | {"clips_per_class": 50})
    return folder


def row(text: str, name: str) -> list[str]:
    """The cells of a table's first row of that name."""
    found = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.M)
    assert found, name
    return [cell.strip() for cell in found[1].split("|")]


def test_the_page_has_every_training_beside_the_paper(run_folder, tmp_path):
    record = keep_table_1(run_folder, tmp_path / "kept" / "table1.json")
    text = longer_page(record, tmp_path / "longer.md").read_text(encoding="utf-8")
    assert "1,400 development clips, 3 epochs, 525 steps of 8" in text
    assert "2 trainings of each system; 50 generated clips a class against 100 evaluation clips" in text
    assert "without the tuning layer (λ = 2000): a lower FAD (-1.25, 95 % interval -2.00 to -0.50" in text
    assert "tuning layer (λ = 1000): a higher FAD" in text
    assert row(text, "LDM+Latent") == ["33.00", "34.00", "33.50", "7.10"]
    assert row(text, "Real Audio") == ["2.00", "", "2.00", "4.61"]
    assert row(text, "footstep") == ["14.50", "24.50", "34.50", "44.50"]
    similar = text.split("## Similarity")[1]
    assert row(similar, "LDM") == ["0.432", f"{papers.SIMILARITY['LDM']:.3f}"]
    assert "FAD[of a test]" in text and "commit 0123456789" in text
    assert "99.00" not in text  # a filter's row is another system
    assert matplotlib.image.imread(tmp_path / "longer.png").std() > 0.01


def test_steps_are_counted_as_training_counts_them(run_folder, tmp_path):
    """3 epochs of 1,407 clips are 527 whole steps of 8: an epoch's rest goes into the next one."""
    told = read_json(run_folder / "config.json")
    told["profile"]["data"]["dev_per_class"] = 201
    write_json(run_folder / "config.json", told)
    record = keep_table_1(run_folder, tmp_path / "table1.json")
    assert "1,407 development clips, 3 epochs, 527 steps of 8" in longer_page(
        record, tmp_path / "longer.md"
    ).read_text(encoding="utf-8")


def test_a_record_holds_no_more_than_the_page_needs(run_folder, tmp_path):
    kept = read_json(keep_table_1(run_folder, tmp_path / "table1.json"))
    assert kept["rows"]["LDM, seed 4"] == {
        "average": 14,
        "average_ci": [13, 15],
        "classes": {c: 14 + j for j, c in enumerate(CLASSES)},
    }


def test_what_is_no_run_and_no_record_is_one_line(run_folder, tmp_path):
    with pytest.raises(InputError, match="not the folder of a run of notebook 04_table1"):
        keep_table_1(tmp_path, tmp_path / "out.json")
    write_json(run_folder / "metrics.json", {"fad": 1.0})
    with pytest.raises(InputError, match="not the folder of a run"):
        keep_table_1(run_folder, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"no such file; .* keep writes it"):
        longer_page(tmp_path / "out.json", tmp_path / "longer.md")
    write_json(tmp_path / "out.json", {"rows": {}})
    with pytest.raises(InputError, match="not a record"):
        longer_page(tmp_path / "out.json", tmp_path / "longer.md")
    assert not (tmp_path / "longer.md").exists()
