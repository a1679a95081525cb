"""One point of Fig. 3 as a command, and notebook 06 that finds what it made."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from typer.testing import CliRunner

from latentclap import FoleySystem
from latentclap.errors import InputError
from latentclap.files import read_json
from latentclap.point import app, grid
from latentclap.profiles import load_profile

ROOT = Path(__file__).parents[1]


def point(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_grid_is_that_of_notebook_06(tiny_profile):
    profile = load_profile(tiny_profile)
    assert grid(profile) == [(l, t, s) for s in (0, 1) for t in (False, True) for l in (0.0, 1000.0)]
    profile = profile.override(sweep__lams=[500.0, 500.0])
    assert len(grid(profile)) == 8  # with 0, and each once


def cells(*words):
    """The code cells of notebook 06 that hold one of some words."""
    notebook = nbformat.read(ROOT / "notebooks" / "06_fig3.ipynb", as_version=4)
    return [c.source for c in notebook.cells if c.cell_type == "code" and any(w in c.source for w in words)]


def test_notebook_06_finds_a_point_made(tiny_profile, tmp_path, monkeypatch):
    """Its own cells train nothing and generate nothing, with a profile that says all of eq. 3 otherwise."""
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "own.toml"
    text = (
        Path(tiny_profile).read_text().replace("seeds = [0, 1]", "seeds = [1]").replace("[0, 1000]", "[500]")
    )
    otherwise = 'reading = "posterior"\nweighting = "constant"\nreduction = "sum"'
    path.write_text(text.replace("[finetune]", f"[finetune]\n{otherwise}"))
    profile, made = load_profile(path), []
    for lam, tuning, seed in [*grid(profile), grid(profile)[0]]:  # the first once more
        out, tuned = tmp_path / f"{len(made)}.json", "--tuning" if tuning else "--no-tuning"
        done = point("--profile", path, "--lam", lam, tuned, "--seed", seed, "--out", out)
        assert done.exit_code == 0, done.exception
        made.append(read_json(out))
    assert made.pop() | {"wall_seconds": 0} == made[0] | {"wall_seconds": 0}
    assert all(Path(m["trained"], "weights.safetensors").is_file() for m in made)
    assert read_json(Path(made[1]["trained"]) / "config.json")["reading"] == "posterior"

    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr("latentclap.lab.points.finetune", refuse)
    monkeypatch.setattr(FoleySystem, "generate", refuse)
    each = lambda name, items, make, of: [make(*item) for item in items]  # noqa: E731
    run = SimpleNamespace(profile=profile, data_dir="", each=each)
    names = {"run": run, "lams": [], "seeds": [], "epochs": 0, "clips_per_class": 0, "force": False}
    for source in cells("lab = Lab(", "def measure("):
        exec(source, names)
    points = names["points"].to_dict("records")
    assert len(points) == 4
    for theirs, ours in zip(points, made, strict=True):
        assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--lam", -1), "finetune.lam=-1: must be 0 or more"),
        (("--lam", "nan"), "finetune.lam=nan"),
        (("--lam", 0, "--seed", -1), "seed=-1"),
        (("--lam", 0, "--profile", "absent"), "no profile 'absent'"),
        (("--lam", 0, "--profile", "paper"), "checkpoints/audioldm-m-full"),
    ],
)
def test_mistakes_cost_one_line(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = point(*arguments, "--out", tmp_path / "out.json")
    assert isinstance(done.exception, InputError) and says in str(done.exception)
    assert "\n" not in str(done.exception) and not (tmp_path / "out.json").exists()
