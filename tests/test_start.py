"""What a stranger reads and hears first: the start page's players and result, and the README's."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from fake_book import listening_items, players
from latentclap.book.fig3 import sweep_of
from latentclap.book.start import CHANGES, CLASSES, SYSTEMS, start_page
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

RECORD = "book/runs/table1_evening.json"
SWEEP = "book/runs/fig3_evening.json"


@pytest.fixture
def listening(tmp_path):
    return listening_items(tmp_path / "listening.json", players(tmp_path / "audio"))


def test_the_start_page_has_players_and_the_result_beside_the_paper_s(tmp_path, repo_root, listening):
    out = tmp_path / "book/generated/start.md"
    assert start_page([listening], repo_root / RECORD, repo_root / SWEEP, out, tmp_path / "book/_static") == 6
    text = out.read_text(encoding="utf-8")
    assert text.count("<audio") == len(CLASSES) * len(SYSTEMS)
    assert all((tmp_path / "book" / src).is_file() for src in re.findall(r'src="([^"]+)"', text))
    result = out.with_name("result.md").read_text(encoding="utf-8")
    change = {(row["from"], row["to"]): row for row in read_json(repo_root / RECORD)["change"]}
    for pair in CHANGES.values():
        row = change[pair]
        assert f"| {row['paper']:+.2f} |" in result
        assert f"{row['this run']:+.2f} (95 % interval {row['2.5 %']:+.2f} to {row['97.5 %']:+.2f})" in result
        assert row["this run shows"] in result
    assert "synthesised sounds, 525 steps, 3 trainings" in result
    words = sweep_of(pd.DataFrame(read_json(repo_root / SWEEP)["points"])).verdict()
    assert f"(350 steps, 3 trainings of each point): {words} From λ = 0 to 4000, FAD goes from" in result


def test_a_start_page_without_its_clips_or_its_record_is_not_written(tmp_path, repo_root, listening):
    out, static = tmp_path / "book/generated/start.md", tmp_path / "book/_static"
    write_json(tmp_path / "other.json", {"notebook": "02_ablation"})
    with pytest.raises(InputError, match=r"other\.json: not a record of notebook 04"):
        start_page([listening], tmp_path / "other.json", repo_root / SWEEP, out, static)
    with pytest.raises(InputError, match=r"other\.json: not a record of notebook 06"):
        start_page([listening], repo_root / RECORD, tmp_path / "other.json", out, static)
    one = read_json(repo_root / RECORD)
    one["change"] = [row | {"2.5 %": None, "97.5 %": None} for row in one["change"]]
    write_json(tmp_path / "one.json", one)
    with pytest.raises(InputError, match=r"one\.json: one training of each system has no interval"):
        start_page([listening], tmp_path / "one.json", repo_root / SWEEP, out, static)
    content = read_json(listening)
    content["items"] = [i for i in content["items"] if (i["cls"], i["system"]) != ("rain", "LDM+Latent")]
    write_json(listening, content)
    with pytest.raises(InputError, match=r"no clip of rain by LDM\+Latent; run notebook 04"):
        start_page([listening], repo_root / RECORD, repo_root / SWEEP, out, static)
    assert not out.exists() and not out.with_name("result.md").exists()
    command = [
        sys.executable,
        "-m",
        "latentclap.book",
        "start",
        str(listening),
        "--record",
        "none.json",
        "--sweep",
        "none.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_the_numbers_of_the_readme_are_those_of_the_record(repo_root):
    text = " ".join((repo_root / "README.md").read_text(encoding="utf-8").split())
    record = read_json(repo_root / RECORD)
    change = {(row["from"], row["to"]): row for row in record["change"]}
    plain, tuning = (change[pair] for pair in CHANGES.values())
    assert f"changes by {plain['paper']:+.2f}, with a tuning layer by {tuning['paper']:+.2f}" in text
    interval = f"{plain['2.5 %']:+.2f} to {plain['97.5 %']:+.2f}"
    assert f"{plain['this run']:+.2f} (95 % interval {interval})" in text
    interval = f"{tuning['2.5 %']:+.2f} to {tuning['97.5 %']:+.2f}"
    assert f"with a tuning layer {tuning['this run']:+.2f} ({interval})" in text
    assert len(record["seeds"]) == 3 and "three trainings of each system" in text
    assert {plain["this run shows"], tuning["this run shows"]} == {"no difference beyond the noise"}
    sweep = pd.DataFrame(read_json(repo_root / SWEEP)["points"])
    assert sweep_of(sweep).verdict().startswith("FAD rises with λ on both curves")
    fad = sweep.groupby(["tuning", "lam"])["fad"].mean()
    (plain, plain_most), (tuned, tuned_most) = ((fad[t, 0.0], fad[t, 4000.0]) for t in (False, True))
    assert (
        f"FAD rises with λ, the weight of the loss: from {plain:.2f} without it to {plain_most:.2f} at λ = 4000, with"
        f" a tuning layer from {tuned:.2f} to {tuned_most:.2f}" in text
    )
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in path or (repo_root / path).exists(), path
    minutes = read_json(repo_root / "book/runs/own/own.json")["seconds"] / 60
    assert round(minutes) == 12 and "twelve minutes of fine-tuning" in text
