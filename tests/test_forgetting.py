"""What fine-tuning makes a system forget: the benchmark's steps, and the page of its record."""

import sys
from pathlib import Path

import numpy as np
import pytest

from latentclap.audio import read_wave, write_wave
from latentclap.book.forgetting import forgetting_page
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts/benchmarks"))
import forgetting

CHANGE = {"value": 1.5, "low": 1.0, "high": 2.0, "p": 0.001, "verdict": "higher"}


def kind(shift, *classes):
    """A comparison of two systems, as the record keeps it."""
    fad = {"fad": 2.0 + shift, "fad_low": 1.5 + shift, "fad_high": 2.5 + shift}
    return {
        "summary": [{"system": name, **fad} for name in ("Before", "LoRA")],
        "changes": {"LoRA": CHANGE},
        "classes": [{"class": c, "system": name, **fad} for c in classes for name in ("Before", "LoRA")],
    }


@pytest.fixture
def record():
    trained = {"clips": 54, "steps": 1500, "rank": 16, "lam": 2000.0, "lr": 1e-3, "batch_size": 8}
    return {
        "model": "mini",
        "number": 25,
        "reference": 100,
        "old_clips": 8,
        "generation_steps": 25,
        "sampler": "dpmsolver++",
        "silent": {"old": {"Before": 0, "LoRA": 1}, "new": {"Before": 0, "LoRA": 0}},
        "fad_name": "FAD[of a test]",
        "systems": [{"system": "LoRA", **trained, "seconds": 60.0}],
        "old": kind(0, "dog_bark", "rain"),
        "new": kind(10, "zap"),
        "device": "CPU",
        "commit": "0123456789",
        "versions": {"torch": "2"},
    }


def test_the_page_has_what_was_learnt_and_what_was_forgotten(record, tmp_path):
    write_json(tmp_path / "r.json", record)
    text = forgetting_page(tmp_path / "r.json", tmp_path / "out.md").read_text("utf-8")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert ["Before", "", "", "12.00 [11.50, 12.50]", "2.00 [1.50, 2.50]", ""] in rows
    change = "+1.50 [+1.00, +2.00]"
    assert ["LoRA", "higher", "54", "12.00 [11.50, 12.50]", "2.00 [1.50, 2.50]", change] in rows
    assert ["dog bark", "2.00", "2.00"] in rows
    assert "Silent clips are left out: 1 of LoRA (seven classes)." in text
    assert "1,500 steps of 8 clips" in text and "FAD[of a test]" in text and "0123456789" in text


def test_another_file_is_told_in_one_line(record, tmp_path):
    with pytest.raises(InputError, match=r"no such file; data_scripts/benchmarks/forgetting\.py writes it"):
        forgetting_page(tmp_path / "none.json")
    write_json(tmp_path / "r.json", {key: record[key] for key in record if key != "old"})
    with pytest.raises(InputError, match=r"not a record of data_scripts/benchmarks/forgetting\.py"):
        forgetting_page(tmp_path / "r.json")


def test_sounds_are_sorted_by_their_texts_and_as_long_as_a_clip(tmp_path):
    for name, text, seconds in (("a", "rooster", 1), ("b", "This is a sound of door slam.", 5)):
        write_wave(tmp_path / f"s/{name}.wav", np.full(seconds * 8000, 0.5, np.float32), 8000)
        (tmp_path / f"s/{name}.txt").write_text(text + "\n")
    assert forgetting.sort(tmp_path / "s", tmp_path / "o") == ["rooster", "This is a sound of door slam."]
    (short, _), (long, rate) = (read_wave(tmp_path / p) for p in ("o/rooster/a.wav", "o/door_slam/b.wav"))
    assert short.shape == long.shape == (1, round(forgetting.SECONDS * rate))
    assert np.allclose(short[0, :8000], 0.5, atol=1e-4) and not short[0, 8000:].any()


def test_old_clips_lie_beside_the_new_with_the_paper_s_prompt(tmp_path):
    for place in ("takes/zap_000.wav", "foley/dev/dog_bark/00000.wav"):
        write_wave(tmp_path / place, np.zeros(80, np.float32) + 0.1, 8000)
    (tmp_path / "takes/zap_000.txt").write_text("a laser gun zapping\n")
    forgetting.mix(tmp_path)
    forgetting.mix(tmp_path)  # what is there is left
    found = {p.name: p.read_text("utf-8") for p in (tmp_path / "mixed").glob("*.txt")}
    assert found == {
        "zap_000.txt": "a laser gun zapping\n",
        "dog_bark_00000.txt": "This is a sound of dog bark.\n",
    }
    assert len(list((tmp_path / "mixed").glob("*.wav"))) == 2


def test_a_command_that_fails_ends_the_run_in_one_line(tmp_path, capfd):
    with pytest.raises(InputError, match=r"this command failed \(2\); the message is above"):
        forgetting.run("-m", "latentclap", "generate", "-o", tmp_path / "o", "--classes", "cats")
    assert capfd.readouterr().out.startswith("$ python -m latentclap generate")


def test_silent_clips_are_left_out_and_counted(tmp_path):
    for name, peak in (("a", 0.5), ("b", 0.0005)):
        write_wave(tmp_path / f"clips/rain/{name}.wav", np.sin(np.arange(800)) * np.float32(peak), 8000)
    for _ in range(2):
        assert forgetting.audible(tmp_path / "clips", tmp_path / "heard") == 1
    assert [path.name for path in (tmp_path / "heard").rglob("*.wav")] == ["a.wav"]


def test_the_page_s_words_are_those_of_the_record(repo_root):
    told = read_json(repo_root / "book/runs/forgetting.json")
    old, new = ({row["system"]: row for row in told[kind]["summary"]} for kind in ("old", "new"))
    for system in ("LoRA", "With old sounds"):
        assert (
            old["Before"]["fad_high"]
            < old[system]["fad"]
            < old[system]["fad_high"]
            < old["All weights"]["fad_low"]
        )
        assert new[system]["fad"] < new["All weights"]["fad"] < new["Before"]["fad_low"]
    words = " ".join((repo_root / "book/own.md").read_text(encoding="utf-8").split())
    assert "On average adapters and old sounds both forget less here, and learn no worse." in words
