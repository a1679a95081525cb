"""GPU-hours from rates, and the tables that the book shows of them."""

from pathlib import Path

import pytest

from latentclap.book.markdown import table
from latentclap.book.scale import cache_table, cost_tables
from latentclap.classes import CLASSES
from latentclap.cost import Work, ablation, figure_3, hours, table_1
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.profiles import load_profile

ROOT = Path(__file__).parents[1]
RATE = {"train_clips_per_second": 100.0, "generate_100_clips_seconds": 36.0}


def test_what_table_1_and_fig_3_ask_for():
    paper = load_profile("paper")
    work = table_1(paper.override(evaluate__seeds=(0, 1)), 4850)
    assert work.trained == 2 * 4 * 500 * 4850
    assert work.generated == 2 * 4 * 700
    # three candidates a try, ten for motor vehicles
    assert work.filtered == 4 * 100 * (6 * 3 + 10)  # of one seed
    assert work.filtered_most == work.filtered * paper.evaluate.max_tries
    sweep = paper.override(sweep__lams=(1000.0, 2000.0), sweep__seeds=(0, 1, 2))
    assert figure_3(sweep, 4850) == Work(2 * 3 * 3 * 100 * 4850, 2 * 3 * 3 * 700)


def test_what_the_ablation_asks_for():
    """λ = 0, three w(n), and the two readings that the profile's own is not."""
    profile = load_profile("quick").override(
        sweep__weightings=("paper", "constant", "snr"), sweep__readings=("x0", "ddim", "posterior"),
        sweep__seeds=(0, 1), sweep__ablation_epochs=5,
    )  # fmt: skip
    assert ablation(profile, 10) == Work(6 * 2 * 5 * 10, 0)


def test_hours():
    spent = hours(Work(360_000, 1000, 500, 1500), RATE, measured_steps=200, steps=100)
    assert spent.training == pytest.approx(1.0)
    assert spent.generation == pytest.approx(1000 * 0.36 / 2 / 3600)
    assert spent.post_filter == pytest.approx(spent.generation / 2)
    assert spent.post_filter_most == pytest.approx(1.5 * spent.generation)
    assert spent.total == pytest.approx(1.0 + 1.5 * spent.generation)
    assert spent.scaled(3).total == pytest.approx(3 * spent.total)


def test_the_page_s_tables_follow_from_the_file(tmp_path):
    told = read_json(ROOT / "book/runs/rates.json")
    text = cost_tables(ROOT / "book/runs/rates.json", tmp_path / "cost.md").read_text()
    fast = told["rates"]["bf16, compiled"]
    trained = 4 * 500 * told["dev_clips"] / fast["train_clips_per_second"] / 3600
    ratio = told["published"]["NVIDIA H100 80GB"]["tflops"] / told["published"]["GeForce RTX 3090"]["tflops"]
    row = next(line for line in text.splitlines() if line.startswith("| Table I: fine-tuning"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[-2:] == [f"{trained:.1f}", f"{trained * ratio:.0f}"]
    # the filter is for all systems of a seed, not for one system
    assert (
        "four systems, 500 epochs, one seed; the clips of one seed once more through the post-filter" in text
    )
    # single precision does not run on tensor cores: no estimate is made from their throughput
    assert "GeForce RTX 3090, stock" not in text
    assert "| Table I: post-filter, if none does |" in text
    told["rates"]["bf16, compiled"]["train_clips_per_second"] *= 2
    write_json(tmp_path / "rates.json", told)
    assert cost_tables(tmp_path / "rates.json", tmp_path / "again.md").read_text() != text


@pytest.mark.parametrize("name", ["speed_h100.json", "speed_h200.json"])
def test_our_own_rates_stand_beside(tmp_path, name):
    """Of a record without generation, training alone."""
    record = ROOT / "book/runs" / name
    told = read_json(record)
    fastest = max(row["clips_per_second"] for row in told["train"]["rows"] if row["loss"])
    text = cost_tables(ROOT / "book/runs/rates.json", tmp_path / "cost.md", speed=[record]).read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {told['device']}"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    work = table_1(load_profile("paper"), read_json(ROOT / "book/runs/rates.json")["dev_clips"])
    seconds = min(
        (r["seconds"] for r in told.get("generate", {}).get("rows", ()) if r["sampler"] == "ddim"),
        default=None,
    )
    made = ["–", "–"] if seconds is None else [f"{seconds:.1f}", f"{work.generated * seconds / 360000:.1f}"]
    assert cells[1:] == [
        f"{fastest:.0f}",
        made[0],
        "Table I",
        f"{work.trained / fastest / 3600:.1f}",
        made[1],
    ]
    assert (seconds is None) == (name == "speed_h200.json")


def test_hours_of_the_machine_at_hand(tmp_path):
    """The small profiles by notebook 07's rates here; of another profile, only that one."""
    told = {
        "stages": {"one diffusion step with guidance": 0.5, "VAE decoder": 1.0, "vocoder": 2.0},
        "clips_trained_per_second": 2.0, "dev_clips": 50, "steps": 12,
    }  # fmt: skip
    write_json(tmp_path / "metrics.json", told)
    rates, own = ROOT / "book/runs/rates.json", tmp_path / "metrics.json"
    text = cost_tables(rates, tmp_path / "cost.md", own=own).read_text()
    quick, mini = load_profile("quick"), load_profile("mini")
    rows = {
        tuple(c.strip() for c in line.split("|")[1:3]): line for line in text.splitlines() if "| `" in line
    }
    # the build's own clips for its profile, the embedded set's for the other
    work = ablation(quick, 50), ablation(mini, mini.data.dev_per_class * len(CLASSES))
    for name, w in zip(("quick", "mini"), work, strict=True):
        assert rows[f"`{name}`", "ablation"].endswith(f"| {w.trained / 2 / 3600:.1f} |")
    least = table_1(quick, 50)
    each = quick.generate.steps * 0.5 + 3
    first = least.trained / 2 / 3600 + (least.generated + least.filtered) * each / 3600
    assert f"| {first:.1f} to " in rows["`quick`", "Table I"]
    other = tmp_path / "mine.toml"
    other.write_text((ROOT / "src/latentclap/profiles/quick.toml").read_text())
    text = cost_tables(rates, tmp_path / "cost.md", own=own, built=str(other)).read_text()
    assert "`mine`" in text and "`mini`" not in text


def test_every_figure_s_source_is_in_the_bibliography():
    entries = (ROOT / "book/references.bib").read_text()
    for card in read_json(ROOT / "book/runs/rates.json")["published"].values():
        assert f"{{{card['cite']}," in entries


def test_the_cache_s_table(tmp_path):
    record = ROOT / "book/runs/cache_rate.json"
    told, text = read_json(record), cache_table(record, tmp_path / "cache.md").read_text()
    for name, seconds in told["stages"].items():
        assert f"| {name} | {1000 * seconds:.1f} |" in text
    best = 1 / sum(told["stages"].values())  # a record of a CPU: one core, by processor time
    assert told["projection_rate"] == pytest.approx(best)
    one, eight = told["projection"]
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["hours"] == pytest.approx(403_050 / best / 3600)
    assert eight["hours"] == pytest.approx(one["hours"] / 8)
    assert f"{one['hours']:,.1f}" in text


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        cost_tables(tmp_path / "absent.json")
    write_json(tmp_path / "other.json", {"rates": {}})
    with pytest.raises(InputError, match="device, published, dev_clips, steps missing"):
        cost_tables(tmp_path / "other.json", tmp_path / "x.md")
    with pytest.raises(InputError, match="another kind of file"):
        cache_table(tmp_path / "other.json", tmp_path / "x.md")
    assert not (tmp_path / "x.md").exists()


def test_columns_of_numbers_are_set_right():
    assert table(("a", "b"), [("x", "1,000"), ("y", "")]).splitlines()[1] == "| --- | ---: |"
    assert table(("a", "b"), [("x", "one")]).splitlines()[1] == "| --- | --- |"
    assert table(("a", "b"), [("1", 0.0), ("2", 1.5e-7)]).splitlines()[1:3] == ["| --- | ---: |", "| 1 | 0 |"]
    assert table(("a", "b"), [("x", ""), ("y|z", "")], numbers=1).splitlines()[1:] == [
        "| --- | ---: |",
        "| x |  |",
        r"| y\|z |  |",
    ]
