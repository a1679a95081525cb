"""What notebooks have run: found, put beside each other, and run again by the command that is told."""

import csv
import json
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentclap import cli
from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.history import Past, beside, past_runs
from latentclap.runs import start

CELL = {
    "lam": 2000.0,
    "reading": "x0",
    "lams": [0.0, 500.0],
    "seed": 0,
    "tuning": False,
    "data_dir": "",
    "force": False,
}
HINTS = {
    "lam": "float",
    "reading": "str",
    "lams": "list[float]",
    "seed": "int",
    "tuning": "bool",
    "data_dir": "str",
    "force": "bool",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def ran(notebook="03_finetune", *, profile="quick", numbers=None, ago=0, **given):
    """A notebook that began so many seconds ago, as its second and its last cell leave it."""
    namespace = {**CELL, "profile": profile, **given}
    namespace["__annotations__"] = {"profile": "str", **HINTS}
    run = start(notebook, namespace)
    run.started -= ago
    run.save_metrics({"loss": 0.5, "told": "3 clips", "list": [1, 2], **(numbers or {})})
    return run


def runs(*arguments):
    return CliRunner().invoke(cli.app, ["runs", *map(str, arguments)])


def refused(*arguments):
    said = runs(*arguments)
    assert isinstance(said.exception, InputError), said.output
    return str(said.exception)


def test_what_has_run_is_listed_with_what_was_stopped(root):
    ran(lam=0.0)
    ran(lam=500.0)
    ran("06_fig3", profile="mini")
    (root / "quick/03_finetune/0123456789ab/audio").mkdir(parents=True)  # a run that was killed
    (root / "quick/finetune/0123456789ab").mkdir(parents=True)  # a training, which is no notebook
    said = runs()
    assert said.exit_code == 0
    lines = [line.split() for line in said.output.splitlines()]
    assert [line[:4] for line in lines] == [
        ["mini", "06_fig3", "1", "run,"],
        ["quick", "03_finetune", "2", "runs,"],
    ]
    assert "and 1 without numbers" in said.output.splitlines()[1]


def test_runs_side_by_side_show_what_differs(root):
    first = ran(lam=0.0, numbers={"fad": 1.23456, "steps": 28}, ago=100)
    second = ran(lam=500.0, numbers={"fad": 1.5, "steps": 28})
    said = runs("03_finetune")
    rows = {line.split()[0]: line.split()[1:] for line in said.output.splitlines() if line.strip()}
    assert rows["lam"] == ["0", "500"] and rows["fad"] == ["1.235", "1.5"]
    assert not rows.keys() & {"steps", "loss", "seed", "told", "list"}
    assert said.output.splitlines()[1].split() == [first.folder.name, second.folder.name]
    assert runs("03").output == said.output == runs("notebooks/03_finetune.ipynb").output
    assert "steps" in beside(past_runs(root), alike=True).index


def test_a_profile_chooses(root):
    ran(lam=0.0)
    slow = ran(profile="mini", lam=0.0)
    assert "03_finetune: 2 runs" in runs("03").output
    assert slow.folder.name in runs("03", "--profile", "mini").output.splitlines()[1]
    assert refused("03", "--profile", "paper").endswith("there are runs of mini, quick")


GIVEN = {
    "lams": [1e-05, 0.0, -1.0, 1e22],
    "weightings": ["step:5", "yes", "1", "a, b", "it's", "2023-01-01", "- a", "~", "", "long " * 60],
    "seeds": [0, -1],
    "flags": [True, False],
    "none": [],
    "tuning": True,
    "lr": 1e-05,
    "lam": -1.0,
    "seed": 2**60,
    "data_dir": "-x $HOME 'é'",
    "reading": "True",
}


def test_papermill_reads_every_kind_of_parameter_as_it_was(monkeypatch):
    from papermill import cli as papermill_cli

    given = {}
    monkeypatch.setattr(
        papermill_cli, "execute_notebook", lambda **kwargs: given.update(kwargs["parameters"])
    )
    record = {"notebook": "02_ablation", "profile": "quick", "parameters": GIVEN}
    words = shlex.split(Past(Path("runs"), record, {}).command)
    papermill_cli.papermill.main(args=words[1:], standalone_mode=False)
    assert given == GIVEN | {"profile": "quick"}
    assert {type(given[name]) for name in ("tuning", "lr", "seed")} == {bool, float, int}
    assert [type(value) for value in given["lams"]] == [float] * 4


@pytest.mark.parametrize("by", ["hash", "folder", "folder elsewhere"])
def test_one_run_tells_its_numbers_and_the_command_that_runs_it_again(root, monkeypatch, tmp_path, by):
    run = ran(lam=500.0, lams=[0.0, 1e6], data_dir="2023", tuning=True, profile="mini")
    ran(lam=0.0)
    if by == "folder elsewhere":
        monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "none"))
    said = runs(run.folder.name if by == "hash" else run.folder)
    assert said.exit_code == 0, said.exception
    words = shlex.split(said.output.splitlines()[-1])
    assert words[:3] == ["papermill", "notebooks/03_finetune.ipynb", "out.ipynb"]
    assert f"folder: {run.folder}" in said.output and "0.5" in said.output
    # papermill's own reading of them is the run's configuration again
    from papermill import cli as papermill_cli

    given = {}
    monkeypatch.setattr(
        papermill_cli, "execute_notebook", lambda **kwargs: given.update(kwargs["parameters"])
    )
    papermill_cli.papermill.main(args=words[1:], standalone_mode=False)
    namespace = {**CELL, "profile": "quick", **given, "__annotations__": {"profile": "str", **HINTS}}
    assert start("03_finetune", namespace).config == run.config


def test_a_run_that_was_copied_out_of_its_folders_is_read_there(root, monkeypatch, tmp_path):
    """Its folder alone is read: three folders above it there may be none, or all of a disk."""
    run = ran(lam=500.0)
    shutil.copytree(run.folder, tmp_path / "kept")
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "none"))
    monkeypatch.setattr("latentclap.history.past_runs", lambda folder: [] if "none" in str(folder) else 1 / 0)
    assert "-p lam 500.0" in runs(tmp_path / "kept").output


def test_the_table_has_every_parameter_and_number(root, tmp_path):
    ran(lam=0.0, numbers={"fad": 1.23456789}, ago=100)
    ran(lam=500.0)
    path = tmp_path / "out/runs.csv"
    assert f"written: {path}" in runs("03", "--csv", path).output
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert [row["lam"] for row in rows] == ["0.0", "500.0"]
    assert [row["fad"] for row in rows] == ["1.23456789", ""]
    assert rows[0].keys() >= {"run", "notebook", "profile", "started", "commit", "seed", "loss"}


def test_what_is_no_record_is_passed_over(root):
    ran()
    for i, text in enumerate(
        (
            "{",
            "[" * 100_000,
            "[]",
            "{}",
            '{"parameters": 1, "notebook": "a", "profile": "b"}',
            '{"parameters": {}, "notebook": 3, "profile": ["b"]}',
        )
    ):
        folder = root / f"quick/03_finetune/other{i}"
        folder.mkdir()
        (folder / "provenance.json").write_text(text)
        (folder / "metrics.json").write_text("{}")
    assert len(past_runs(root)) == 1


def test_what_has_not_run_is_said(root, tmp_path):
    assert "no notebook has run here" in refused() and str(root) in refused("03")
    ran()
    assert refused("07").endswith("notebooks that have run there: 03_finetune")
    (tmp_path / "file").touch()
    assert isinstance(runs("--csv", tmp_path / "file/runs.csv").exception, InputError | OSError)


def test_a_run_began_before_it_took_its_time(root):
    """The time was that of the end, under the name of the beginning."""
    run = ran()
    run.started -= 3600
    record = run.save_metrics()
    began = datetime.fromisoformat(record["started"])
    assert 3590 < (datetime.now(UTC) - began).total_seconds() < 3610
    assert json.loads((run.folder / "provenance.json").read_text())["started"] == record["started"]


def test_a_number_that_is_none_is_no_row(root):
    run = ran(numbers={"low": float("nan")})
    write_json(run.folder / "metrics.json", {"low": None, "flag": True, "fad": 2})
    (past,) = past_runs(root)
    assert past.numbers == {"fad": 2}
