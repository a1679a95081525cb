import ast
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentclap import provenance
from latentclap.errors import InputError
from latentclap.files import atomic_path, read_json, write_json
from latentclap.generation import MAKERS
from latentclap.runs import CORE, check_parameters, code_hash, config_hash, start


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("LATENTCLAP_DATA", raising=False)


def namespace(**values):
    hints = {"profile": str, "lam": float, "seeds": list[int], "force": bool, "data_dir": str}
    base = {"profile": "quick", "lam": 2000.0, "seeds": [], "force": False, "data_dir": ""}
    return {"__annotations__": hints, **base, "In": [], "start": start, **values}


def test_parameters_are_converted():
    assert check_parameters(namespace(lam=3, seeds=[1]))["lam"] == 3.0


def test_unknown_parameter():
    with pytest.raises(InputError, match="unknown parameter lamm; this notebook knows profile, lam"):
        start("03_finetune", namespace(lamm=1000))


@pytest.mark.parametrize("bad", [{"lam": "1000"}, {"seeds": 3}, {"force": 1}, {"seeds": [1.5]}])
def test_wrong_types(bad):
    with pytest.raises(InputError, match=f"parameter {next(iter(bad))}="):
        start("03_finetune", namespace(**bad))


def test_a_list_that_papermill_passed_as_a_text_is_told_how_to_be_given():
    with pytest.raises(InputError, match=r"parameter seeds='\[0,1\]': must be a list; .* -y 'seeds: \["):
        start("06_fig3", namespace(seeds="[0,1]"))


def test_start_opens_a_folder_named_by_the_configuration(tmp_path, capsys):
    a, b = start("x", namespace()), start("x", namespace(lam=1.0))
    assert a.folder != b.folder
    assert a.folder.parent == tmp_path / "runs" / "quick" / "x"
    assert start("x", namespace(force=True)).folder == a.folder
    assert "lam = 2000.0" in capsys.readouterr().out


def test_data_folder_of_make_book(monkeypatch):
    monkeypatch.setenv("LATENTCLAP_DATA", "/somewhere")
    space = namespace()
    run = start("x", space)
    assert space["data_dir"] == run.data_dir == "/somewhere"
    assert start("x", namespace(data_dir="/mine")).data_dir == "/mine"


def test_once_records_and_reuses(capsys):
    calls = []

    def make():
        calls.append(1)
        return {"n": len(calls)}

    assert start("x", namespace()).once("r", make) == {"n": 1}
    assert start("x", namespace()).once("r", make) == {"n": 1}
    assert "reused" in capsys.readouterr().out
    assert start("x", namespace(force=True)).once("r", make) == {"n": 2}


def test_once_is_of_the_content_that_names_stand_for():
    """Other recordings, or other weights, at the same place."""
    run = start("x", namespace())
    assert run.once("r", lambda: 1, of=("data", "weights")) == 1
    assert run.once("r", lambda: 2, of=("data", "weights")) == 1
    assert run.once("r", lambda: 3, of=("data", "other weights")) == 3


def test_each_goes_on_where_a_run_was_killed(capsys):
    """What was measured before the kill is not measured again, and the results have the order of the items."""
    items, calls = [("a", 0), ("b", 0), ("a", 1)], []

    def make(name, seed):
        calls.append((name, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return f"{name}{seed}"

    with pytest.raises(KeyboardInterrupt):
        start("x", namespace()).each("points", items, make, of=("data",))
    run = start("x", namespace())
    # an item more and another order: each result is its own item's
    assert run.each("points", [*items[::-1], ("c", 2)], make, of=("data",)) == ["a1", "b0", "a0", "c2"]
    assert calls == [*items, ("a", 1), ("c", 2)]
    assert "points: 2 of 4 are there from a run that was stopped" in capsys.readouterr().out
    assert run.each("points", items, make, of=("data",)) == [
        "a1",
        "b0",
        "a0",
        "c2",
    ]  # recorded as a whole, as `once`
    assert not list(run.folder.glob("*.part.json"))


def test_each_keeps_to_the_content_and_to_force():
    """Other data at the same place, or force, take nothing from a run that was stopped."""

    def stopped(*item):
        if item == (2,):
            raise KeyboardInterrupt
        return "old"

    with pytest.raises(KeyboardInterrupt):
        start("x", namespace()).each("p", [(1,), (2,)], stopped, of=("data",))
    assert start("x", namespace()).each("p", [(1,), (2,)], lambda n: n, of=("other",)) == [1, 2]
    assert start("x", namespace(force=True)).each("p", [(1,), (2,)], lambda n: n, of=("data",)) == [1, 2]


def test_save_metrics(tmp_path):
    run = start("x", namespace())
    untold = {"low": float("nan"), "rows": [np.float64("inf"), {"p": np.array([0.5, np.nan])}]}
    record = run.save_metrics({"fad": 1.5} | untold, seed=0)
    assert read_json(run.folder / "metrics.json") == {
        "fad": 1.5,
        "low": None,
        "rows": [None, {"p": [0.5, None]}],
    }
    assert read_json(run.folder / "provenance.json")["seed"] == 0
    assert {"commit", "device", "versions", "wall_seconds", "config_hash"} <= set(record)


def test_the_notebook_s_sentences_with_this_run_s_numbers(tmp_path, monkeypatch):
    """What the book fills in by itself, whoever reads the executed notebook sees too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "latentclap"\n')
    run = start("03_finetune", {"__annotations__": {"profile": "str"}, "profile": "quick"})
    run.metrics |= {"change": -1.2345, "verdict": "no difference", "points": [1]}
    assert run.told().data.endswith("- `change`: -1.2345\n- `verdict`: no difference")  # no source at hand
    line = "- **We find** {glue:text}`change:+.2f`: {glue:text}`verdict`, {glue:text}`absent`."
    text = f"# Title\n\nNothing here.\n\n{line}"
    cells = [
        {"cell_type": "code", "source": ["{glue:text}`change`"]},
        {"cell_type": "markdown", "source": [text]},
    ]
    write_json(tmp_path / "notebooks" / "03_finetune.ipynb", {"cells": cells})
    told = run.told().data
    assert told == "## In words, with this run's numbers\n\n- **We find** -1.23: no difference, `absent`."


def test_hash_depends_on_everything_but_order():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_code_hash_finds_every_module_and_every_file_of_a_package(tmp_path, monkeypatch):
    assert len(code_hash()) == 12
    for name in CORE:
        assert all(path.is_file() for path in provenance._sources(name)), name
    assert {p.name for p in provenance._sources("audio")} >= {"__init__.py", "mel.py", "waves.py", "files.py"}
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1")
    before = code_hash.__wrapped__(("room",))
    (tmp_path / "room" / "b.py").write_text("y = 2")
    assert code_hash.__wrapped__(("room",)) != before
    with pytest.raises(FileNotFoundError):
        code_hash.__wrapped__(("absent",))


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("audio/mel.py", True),
        ("cache/build.py", True),
        ("classes.py", True),
        ("convert/clap.py", True),
        ("data/reading.py", True),
        ("embeddings/judge.py", True),
        ("evaluate/table.py", True),
        ("fad/distance.py", True),
        ("finetune/run.py", True),
        ("lab/points.py", True),
        ("latent_clap.py", True),
        ("measure.py", True),
        ("postfilter/tries.py", True),
        ("pretrain/tasks/draws.py", True),
        ("storage/loading.py", True),
        ("system/generator.py", True),
        ("train/loop.py", True),
        ("book/figures.py", False),
        ("cli.py", False),
        ("getting/fetch.py", False),
        ("pretrain/stages.py", False),
        ("profiles.py", False),
        ("workflow.py", False),
    ],
)
def test_code_that_makes_results_counts(tmp_path, monkeypatch, file, counts):
    """Results of other code were taken for this code's; an edit of a page must not train again."""
    package = tmp_path / "latentclap"
    shutil.copytree(
        Path(provenance.__file__).parent, package, ignore=shutil.ignore_patterns("weights", "*.pyc")
    )
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    before = code_hash.__wrapped__()
    with open(package / file, "a") as stream:
        stream.write("# changed\n")
    assert (code_hash.__wrapped__() != before) is counts


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("generation/clips.py", True),
        ("generation/plan.py", True),
        ("vary/process.py", True),
        ("generating.py", False),
        ("vary/command.py", False),
    ],
)
def test_code_that_makes_clips_counts(tmp_path, monkeypatch, file, counts):
    """A folder of clips goes on by the same code alone; a command's words do not decide how a clip sounds."""
    package = tmp_path / "latentclap"
    shutil.copytree(
        Path(provenance.__file__).parent, package, ignore=shutil.ignore_patterns("weights", "*.pyc")
    )
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    before = code_hash.__wrapped__(MAKERS)
    with open(package / file, "a") as stream:
        stream.write("# changed\n")
    assert (code_hash.__wrapped__(MAKERS) != before) is counts


#: what CORE imports although no result depends on its code
NO_RESULTS = {
    "errors": "messages",
    "files": "files are read and written whole, or not",
    "foley": "makes clips, which count by their content",
    "gpus": "which GPU, and whether there is one",
    "launch": "the command line's way to train",
    "limits": "refuses values, and changes none",
    "locks": "who comes first",
    "memory": "foretells what a training needs",
    "meta": "what the sides of a data set may be called; clips count by their content",
    "pretrain.adversary": "critics of what makes the shipped weights, which count by their content",
    "profiles": "values, which count themselves",
    "runs": "this hash",
    "scan": "finds clips, which count by their content",
    "scan.folder": "looks at clips and refuses some; what counts is read again, and counts by its content",
    "scan.layout": "says where clips lie, which count by their content",
    "stats.posthoc": "tests of what is there, made anew each time; nothing of them is kept",
    "tables": "reads captions, which count by their content",
    "wording": "messages",
}


def is_module(name):
    path = Path(provenance.__file__).parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(path):
    """Modules of ours that a file imports, at its top or in a function: named from the package on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import, which is not looked at"
            named = [[*node.module.split("."), alias.name] for alias in node.names]
        else:
            continue
        for parts in (parts[1:] for parts in named if parts[0] == "latentclap"):
            name = ".".join(parts)
            yield name if is_module(name) else ".".join(parts[:-1])


def outside(core):
    """What the files of these modules import of ours beside them."""
    found = {name for module in core for path in provenance._sources(module) for name in imported(path)}
    return {name for name in found if not any(f"{name}.".startswith(f"{module}.") for module in core)}


def test_no_module_behind_the_results_is_forgotten():
    assert outside(CORE) == set(NO_RESULTS)


@pytest.mark.parametrize("left_out", ["losses", "pretrain.tasks", "storage", "convert"])
def test_a_module_that_is_left_out_is_noticed(left_out):
    """One by ``from latentclap import``, one below a package, one in a function."""
    assert {
        name.partition(".")[0] for name in outside([m for m in CORE if m != left_out]) - set(NO_RESULTS)
    } == {left_out.partition(".")[0]}


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.json"]
