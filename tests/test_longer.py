"""Long runs of notebooks kept as records, and their pages."""

import re

import matplotlib.image
import pytest

from latentclap import papers
from latentclap.book.longer import keep, longer_page
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
    told = {
        "notebook": "04_table1",
        "profile": "evening",
        "data": "embedded procedural set",
        "commit": "0123456789",
        "seeds": [3, 4],
    }
    write_json(folder / "provenance.json", told | {"clips_per_class": 50})
    return folder


def row(text: str, name: str) -> list[str]:
    """The cells of a table's first row of that name."""
    found = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.M)
    assert found, name
    return [cell.strip() for cell in found[1].split("|")]


def test_the_page_has_every_training_beside_the_paper(run_folder, tmp_path):
    record = keep(run_folder, tmp_path / "kept" / "table1.json")
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
    record = keep(run_folder, tmp_path / "table1.json")
    assert "1,407 development clips, 3 epochs, 527 steps of 8" in longer_page(
        record, tmp_path / "longer.md"
    ).read_text(encoding="utf-8")


def test_a_record_holds_no_more_than_the_page_needs(run_folder, tmp_path):
    kept = read_json(keep(run_folder, tmp_path / "table1.json"))
    assert kept["rows"]["LDM, seed 4"] == {
        "average": 14,
        "average_ci": [13, 15],
        "classes": {c: 14 + j for j, c in enumerate(CLASSES)},
    }


def test_what_is_no_run_and_no_record_is_one_line(run_folder, tmp_path):
    with pytest.raises(
        InputError, match="not the folder of a finished run of 02_ablation, 04_table1, 06_fig3"
    ):
        keep(tmp_path, tmp_path / "out.json")
    write_json(run_folder / "metrics.json", {"fad": 1.0})
    with pytest.raises(InputError, match="not the folder of a finished run"):
        keep(run_folder, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"no such file; .* keep writes it"):
        longer_page(tmp_path / "out.json", tmp_path / "longer.md")
    write_json(tmp_path / "out.json", {"rows": {}})
    with pytest.raises(InputError, match="not a record"):
        longer_page(tmp_path / "out.json", tmp_path / "longer.md")
    assert not (tmp_path / "longer.md").exists()


SETTINGS = {
    "name": "evening",
    "finetune": {"epochs": 3, "batch_size": 8, "lr": 3e-5},
    "data": {"dev_per_class": 200, "eval_per_class": 100},
    "sweep": {"epochs": 2, "ablation_epochs": 1, "heldout_levels": 10},
}
TOLD = {"profile": "evening", "data": "embedded procedural set", "commit": "0123456789", "seeds": [0, 1, 2]}


def run_of(folder, notebook, metrics, **told):
    """What a notebook leaves."""
    write_json(folder / "config.json", {"profile": SETTINGS, "parameters": {"epochs": 0}})
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "provenance.json", {"notebook": notebook, **TOLD, **told})
    return folder


def test_the_page_of_the_ablation_has_changes_from_the_baseline_of_the_same_seed(tmp_path):
    """Changes of 1, 2 and 3 have mean 2 and SD 1: Student's interval of two degrees is 2 +- 4.303/sqrt(3)."""
    names = {"baseline (λ = 0)": 0.0, "w: paper": 2000.0, "reading: ddim": 38989.4}
    points = [
        {
            "variant": name,
            "seed": seed,
            "ddpm": 10.0 * seed + i * (seed + 1),
            "lclap": 0.5 * seed,
            "cosine_200": 0.9,
        }
        for seed in (2, 0, 1)
        for i, name in enumerate(names)
    ]
    metrics = {
        "points": points,
        "pretrained": {"ddpm": 77.0, "lclap": 1.0, "cosine_200": 0.5},
        "lams": names,
        "measures": {"ddpm": "eq. 1", "lclap": "eq. 3", "cosine_200": "cosine, n = 100"},
        "matched": "the same average pull",
    }
    folder = run_of(tmp_path / "run", "02_ablation", metrics, clips=700)
    text = longer_page(keep(folder, tmp_path / "a.json"), tmp_path / "ablation.md").read_text(
        encoding="utf-8"
    )
    assert "1,400 development clips, 1 epochs, 175 steps of 8" in text
    assert "3 trainings of each variant" in text and "700 held-out clips at 10 noise levels" in text
    assert row(text, "w: paper") == [
        "2,000",
        "+2",
        "\u22120.48 to +4.5",
        "+20.0 %",
        "0.15",
    ]  # Holm: twice 0.0742
    assert row(text, "reading: ddim") == ["38,989", "+4", "\u22120.97 to +9", "+40.0 %", "0.15"]
    levels = text.split("## Levels")[1]
    assert row(levels, "baseline (λ = 0)") == ["10", "0.5", "0.9"]
    assert row(levels, "pretrained") == ["77", "1", "0.5"]
    assert (
        text.count("compared with λ = 0: no difference beyond the noise.") == 3 and "(ablation.png)" in text
    )
    assert matplotlib.image.imread(tmp_path / "ablation.png").std() > 0.01


def test_the_ablation_s_verdicts_are_of_its_points(tmp_path):
    """Changes of 1, 1.1 and 0.9 are t = 17.3 with two degrees, p = 0.0033; of eq. 3, the contrary."""
    names = {"baseline (λ = 0)": 0.0, "w: paper": 2000.0, "w: snr": 300.0, "reading: ddim": 4e4}
    moves = {"w: paper": 1e-6, "w: snr": -1e-6, "reading: ddim": 3e-6}
    points = [
        {"variant": name, "seed": seed, "ddpm": 1 + 1e6 * move, "lclap": 1e-5 - move, "cosine_200": 0.9}
        for seed in range(3)
        for name in names
        for move in [moves.get(name, 0.0) * (1 + 0.1 * (seed - 1))]
    ]
    metrics = {
        "points": points,
        "pretrained": {"ddpm": 1.0, "lclap": 1e-5, "cosine_200": 0.5},
        "lams": names,
        "measures": {"ddpm": "eq. 1", "lclap": "eq. 3", "cosine_200": "cosine"},
        "matched": "the same average pull",
    }
    folder = run_of(tmp_path / "run", "02_ablation", metrics, clips=700)
    text = longer_page(keep(folder, tmp_path / "a.json"), tmp_path / "a.md").read_text(encoding="utf-8")
    assert (
        "**eq. 1**, compared with λ = 0: lower with w snr; higher with w paper, reading ddim. Compared with the"
        " paper's $w$: lower with w snr; higher with reading ddim." in text
    )
    assert "**eq. 3**, compared with λ = 0: lower with w paper, reading ddim; higher with w snr." in text
    assert "**cosine**, compared with λ = 0: no difference beyond the noise." in text
    assert row(text.split("### eq. 3")[1], "w: paper")[1] == "\u22121\u00d710\u207b\u2076"
    assert row(text.split("## Levels")[1], "pretrained") == ["1", "1\u00d710\u207b\u2075", "0.5"]


def test_the_page_of_fig_3_has_every_point_and_the_tests(tmp_path):
    points = [
        {
            "lam": lam,
            "tuning": tuning,
            "seed": seed,
            "fad": 4 + lam / 1000 + seed + 10 * tuning,
            "ddpm": 0.06,
            "lclap": 2e-5,
            "cosine_200": 0.9,
            "fad_name": "FAD[of a test]",
        }
        for lam in (1000.0, 0.0)
        for tuning in (False, True)
        for seed in (0, 1, 2)
    ]
    folder = run_of(tmp_path / "run", "06_fig3", {"points": points}, clips_per_class=25)
    text = longer_page(keep(folder, tmp_path / "f.json"), tmp_path / "fig3.md").read_text(encoding="utf-8")
    assert "2 epochs, 350 steps of 8" in text and "25 generated clips a class" in text
    assert "**So few points cannot tell whether FAD falls or rises with λ." in text
    assert (
        "- Without the tuning layer: average FAD: too few points to tell (ρ = +1.00; lowest at λ = 0);"
        in text
    )
    assert "FAD[of a test]" in text and "standard deviation over seeds, 1.00 on average" in text
    assert row(text, "LDM+Latent") == ["0", "5 ± 1", "0.06 ± 0", "2×10⁻⁵ ± 0"]
    assert row(text, "LDM+Tuning+Latent") == ["0", "15 ± 1", "0.06 ± 0", "2×10⁻⁵ ± 0"]
    assert row(text, "without") == ["average FAD", "0", "+1.00", "–", "1", "0.12", "too few points to tell"]
    assert matplotlib.image.imread(tmp_path / "fig3.png").std() > 0.01
    # a sweep of other epochs than the profile's says its own
    write_json(folder / "config.json", {"profile": SETTINGS, "parameters": {"epochs": 4}})
    text = longer_page(keep(folder, tmp_path / "f.json"), tmp_path / "fig3.md").read_text(encoding="utf-8")
    assert "4 epochs, 700 steps of 8" in text
