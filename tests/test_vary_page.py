"""What is measured of variations by strength, and its page."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentclap.audio import read_wave
from latentclap.book.vary import vary_page
from latentclap.checkpoints import Sampling
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

BENCHMARKS = Path(__file__).parents[1] / "data_scripts/benchmarks"


@pytest.fixture(scope="module")
def record(tiny, tmp_path_factory):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import vary as benchmark
    finally:
        sys.path.remove(str(BENCHMARKS))
    quick = replace(tiny, sampling=Sampling("ddim", 2, 1.0))
    out = tmp_path_factory.mktemp("vary") / "record"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "load_system", lambda model, device: quick)
        arguments = ["--out", str(out), "--per-class", "2", "--strengths", "0.6,1"]
        done = CliRunner().invoke(benchmark.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        refused = CliRunner().invoke(benchmark.app, ["--out", str(BENCHMARKS)])
        assert "holds other things" in str(refused.exception)
        assert "at least 2" in str(
            CliRunner().invoke(benchmark.app, ["--out", "x", "--per-class", "1"]).exception
        )
    return out


def test_the_record_has_every_strength_beside_what_it_is_compared_with(record):
    told = read_json(record / "vary.json")
    assert [(row["what"], row.get("strength"), row.get("steered")) for row in told["rows"]] == [
        ("Through the model", None, None),
        ("Another sound of its class", None, None),
        ("Variations", 0.6, "its own embedding"),
        ("Variations", 0.6, "its own embedding, no guidance"),
        ("Variations", 0.6, "its class's prompt"),
        ("Variations", 1.0, "its own embedding"),
        ("Variations", 1.0, "its own embedding, no guidance"),
        ("Variations", 1.0, "its class's prompt"),
    ]
    for row in told["rows"]:
        for key in ("similarity", "mel_distance", "recognised"):
            assert row[key]["low"] <= row[key]["mean"] <= row[key]["high"]
        assert ("between" in row) == ("strength" in row)  # of one clip there is no distance between two
    assert told["sounds"] == 14 and told["commit"]
    # another sound of the class is none of its own
    assert told["rows"][1]["mel_distance"]["mean"] > 0.1


def test_the_page_plays_the_first_sound_of_each_class(record, tmp_path):
    static = tmp_path / "_static"
    told = read_json(record / "vary.json")
    row = next(row for row in told["rows"] if row.get("strength") == 0.6)
    row["recognised"] = {"mean": 0.97, "low": 0.91, "high": 1.03}
    record = shutil.copytree(record, tmp_path / "record")
    write_json(record / "vary.json", told)
    text = vary_page(record, tmp_path / "generated/vary.md", static).read_text(encoding="utf-8")
    assert text.count("<audio") == len(CLASSES) * 3  # the sound, through the model, strength 0.6
    for file in re.findall(r'<audio[^>]*src="([^"]+)"', text):
        assert read_wave(tmp_path / file)[0].shape[1]
    assert "14 held-out sounds of the seven classes, 2 takes of each" in text
    cells = re.search(r"^\| Strength 0.6, its own embedding \|(.*)\|$", text, re.M)[1].split("|")
    assert len(cells) == 4 and all(re.fullmatch(r" -?[\d.]+ \[-?[\d.]+, -?[\d.]+\] ", cell) for cell in cells)
    low, high = map(float, re.search(r"\[(.*), (.*)\]", cells[3]).groups())
    assert 0 <= low <= high <= 1
    assert re.search(r"^\| Through the model \|.*\| \u2013 \|", text, re.M)


def test_the_page_says_at_which_strengths_takes_keep_more_than_the_kind(record, tmp_path):
    """All ways of steering have to be nearer, by both distances, beyond both intervals."""
    folder = tmp_path / "record"
    shutil.copytree(record, folder)
    told = read_json(folder / "vary.json")

    def span(mean):
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    def page():
        return vary_page(folder, tmp_path / "v.md", tmp_path / "_static").read_text(encoding="utf-8")

    for row in told["rows"]:
        row["similarity"], row["mel_distance"] = span(0.5), span(2.0)  # as another sound of the class
        if row.get("strength") == 0.6:
            row["similarity"], row["mel_distance"] = span(0.71), span(1.79)
    write_json(folder / "vary.json", told)
    assert "beyond both intervals, are takes at strength 0.6." in page()
    told["rows"][2]["similarity"] = span(0.69)  # one way of steering whose interval meets the other's
    write_json(folder / "vary.json", told)
    assert "No takes are nearer to their sound" in page()


def test_what_is_no_record(record, tmp_path):
    with pytest.raises(InputError, match=r"no vary.json; .*benchmarks/vary.py writes it"):
        vary_page(tmp_path, tmp_path / "vary.md", tmp_path / "_static")
