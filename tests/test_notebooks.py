import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
from safetensors.numpy import load_file

from latentclap import papers, stats
from latentclap.classes import CLASSES
from latentclap.files import read_json
from latentclap.lora import ADAPTER
from latentclap.workflow import run_folder

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PAPERMILL = str(Path(sys.executable).with_name("papermill"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def papermill(*arguments, runs, cwd, **options):
    environment = os.environ | {"LATENTCLAP_RUNS": str(runs), "OMP_NUM_THREADS": "1", "LATENTCLAP_DATA": ""}
    return subprocess.run(
        [PAPERMILL, *map(str, arguments), "-k", "python3"],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, **options,
    )  # fmt: skip


def test_all_eight_are_there():
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"0{i}" for i in range(8)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert "parameters" in code[0].metadata.get("tags", [])
    for line in code[0].source.splitlines():
        # annotated and explained: papermill --help-notebook prints both
        assert re.match(r"^\w+: [\w\[\]]+ = .+  # .+", line), line
    assert f'start("{path.stem}", globals())' in code[1].source
    assert not re.search(r"/home/|/root/|/work/|/tmp/", "".join(c.source for c in notebook.cells))
    for cell in code:
        longest = max(
            (len(b.splitlines()) for b in re.findall(r"^def .*?(?=^\S|\Z)", cell.source, re.M | re.S)),
            default=0,
        )
        assert longest <= 12, f"{path.stem}: a helper of {longest} lines belongs into src"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_figures_are_made_for_the_width_at_which_pages_show_them(path):
    """A wider one has smaller text on the page; panels are stacked instead."""
    source = "".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    widths = [float(width) for width in re.findall(r"figsize=\(([\d.]+),", source)]
    assert all(width <= 7.2 for width in widths), widths
    assert not re.search(r"fontsize=\d|fontsize=\"x", source), "medium or small: not less than 11 pixels"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_alone(path, tiny_profile, runs, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    more = {
        "03_finetune": ("-p", "lora_rank", 2, "-p", "lr", 1e-2, "-p", "save_system", True),
        "04_table1": ("-p", "survey_items", 1),
    }.get(path.stem, ())
    done = papermill(path, "out.ipynb", "-p", "profile", tiny_profile, *more, runs=runs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    folder = tmp_path / run_folder(tmp_path / "out.ipynb")
    assert (folder / "metrics.json").is_file()
    assert read_json(folder / "provenance.json")["profile"] == "tiny"
    if path.stem == "03_finetune":
        assert (folder / ADAPTER).is_file() and (folder / "system" / "unet").is_dir()
    if path.stem == "04_table1":  # the paper's seven surveys of this run's clips
        assert len(list((folder / "survey/pages").glob("*.html"))) == 7 + 1
        key = pd.read_csv(folder / "survey/key.csv")
        assert key.groupby("class").model.apply(list).to_dict() == {
            cls: list(papers.MODELS) for cls in CLASSES
        }


def test_an_unknown_parameter_fails_clearly(runs, tmp_path):
    done = papermill(
        ROOT / "notebooks/03_finetune.ipynb", "out.ipynb", "-p", "lamm", 1000, runs=runs, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "unknown parameter lamm; this notebook knows profile, lam" in done.stderr


def test_a_wrong_type_fails_clearly(runs, tmp_path):
    done = papermill(
        ROOT / "notebooks/03_finetune.ipynb", "out.ipynb", "-p", "lam", "many", runs=runs, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "parameter lam='many': must be of type float" in done.stderr


@pytest.mark.parametrize("name", ["03_finetune", "04_table1", "06_fig3"])
def test_a_folder_without_every_class_ends_before_anything_is_trained(name, tiny_profile, tmp_path):
    folder = tmp_path / "own" / "rain"
    folder.mkdir(parents=True)
    for i in range(10):
        noise = 0.1 * np.random.default_rng(i).standard_normal(32_000)
        soundfile.write(folder / f"{i}.wav", noise, 16_000)
    own = ("-p", "profile", tiny_profile, "-p", "data_dir", folder.parent)
    done = papermill(
        ROOT / f"notebooks/{name}.ipynb", "out.ipynb", *own, runs=tmp_path / "runs", cwd=tmp_path
    )
    assert done.returncode != 0
    assert "dog_bark has 0 dev clips" in done.stderr and "the notebooks need all seven classes" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_answers_of_raters_who_heard_every_class_are_analysed(tiny_profile, runs, tmp_path):
    """What the pages of a survey save, one file a rater, with a key: from there to F, as `stats` gives it."""
    rng = np.random.default_rng(0)
    key = [
        (f"{k:08x}", cls, model, str(item))
        for k, (cls, model, item) in enumerate(
            itertools.product(("rain", "door_slam"), papers.MODELS, range(2))  # of the seven, and another
        )
    ]
    table = pd.DataFrame(key, columns=["clip", "class", "model", "item"])
    table.to_csv(tmp_path / "key.csv", index=False)
    (tmp_path / "answers").mkdir()
    for rater in "abcd":
        own = table[["clip", "class"]].assign(
            rater=rater, quality=rng.integers(11, size=12), when="2026-01-01"
        )
        own.assign(relevance=own.quality.to_numpy()[::-1]).to_csv(
            tmp_path / f"answers/{rater}.csv", index=False
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    answers = ("-p", "ratings_csv", "answers", "-p", "ratings_key", "key.csv")
    done = papermill(
        ROOT / "notebooks/05_table2.ipynb",
        "out.ipynb",
        "-p",
        "profile",
        tiny_profile,
        *answers,
        runs=runs,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = read_json(tmp_path / run_folder(tmp_path / "out.ipynb") / "metrics.json")
    ratings = stats.read_ratings(tmp_path / "answers", key=tmp_path / "key.csv")
    (row,) = stats.mixed_anova(ratings, "quality", between=None).to_dict("records")
    assert metrics["t2_F_quality"] == pytest.approx(row["F"])
    assert (metrics["t2_n_raters"], metrics["t2_n_ratings"]) == (4, 48)
    assert metrics["t2_source"] == "ratings from answers"
    assert metrics["t2_classes"] == "2 classes (rain, door slam)"


def test_lambda_0_alone_is_no_sweep(tiny_profile, runs, tmp_path):
    lams = ("-p", "profile", tiny_profile, "-y", "lams: [0]")
    done = papermill(ROOT / "notebooks/06_fig3.ipynb", "out.ipynb", *lams, runs=runs, cwd=tmp_path)
    assert done.returncode != 0 and "lams: 0 alone is no sweep; give a λ above 0" in done.stderr


@pytest.mark.skipif(
    not shutil.which("script"), reason="util-linux's script, for a pseudo-terminal, is not here"
)
def test_the_short_form_in_a_terminal(runs, tmp_path):
    """Without an output path papermill refuses in a terminal; the README says so and gives the form that works."""
    command = f"{PAPERMILL} {ROOT}/notebooks/03_finetune.ipynb -p lam 1000"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "OUTPUT_PATH" in done.stdout
    assert "papermill notebooks/03_finetune.ipynb out.ipynb -p lam 1000" in (ROOT / "README.md").read_text()


@pytest.mark.skipif(
    not shutil.which("script"), reason="util-linux's script, for a pseudo-terminal, is not here"
)
def test_the_long_form_in_a_terminal(tiny_profile, runs, tmp_path):
    notebook = ROOT / "notebooks/03_finetune.ipynb"
    command = f"{PAPERMILL} {notebook} out.ipynb -k python3 -p lam 1000 -p profile {tiny_profile}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=tmp_path, env=os.environ | {"LATENTCLAP_RUNS": str(runs)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    folder = tmp_path / run_folder(tmp_path / "out.ipynb")
    assert read_json(folder / "config.json")["parameters"]["lam"] == 1000.0


def kill_all(process):
    """SIGKILL to papermill and its kernel, as a power cut would."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, 20)
    process.wait(20)


def test_a_killed_notebook_goes_on(tiny_profile, tmp_path):
    """kill -9 in the middle of 03's training; the same command ends in the weights of an uninterrupted run."""
    profile = tmp_path / "longer.toml"
    text = (
        Path(tiny_profile)
        .read_text()
        .replace("[finetune]\nepochs = 1", "[finetune]\ncheckpoint_seconds = 0.2\nepochs = 30")
    )
    profile.write_text(text)
    command = [
        PAPERMILL,
        ROOT / "notebooks/03_finetune.ipynb",
        "out.ipynb",
        "-k",
        "python3",
        "-p",
        "profile",
        profile,
    ]

    def start(runs):
        environment = os.environ | {
            "LATENTCLAP_RUNS": str(runs),
            "OMP_NUM_THREADS": "1",
            "LATENTCLAP_DATA": "",
        }
        return subprocess.Popen(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    process, deadline = start(tmp_path / "killed"), time.monotonic() + 240
    while not (found := list(tmp_path.glob("killed/longer/finetune/*/checkpoint.pt"))):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()[-2000:]
        time.sleep(0.02)
    kill_all(process)
    (folder,) = [path.parent for path in found]
    assert not (folder / "summary.json").exists()  # it was killed in the middle
    both = {name: start(tmp_path / name) for name in ("killed", "whole")}
    for name, process in both.items():
        assert process.wait(300) == 0, (name, process.stderr.read().decode()[-2000:])
    killed, whole = (
        load_file(next(tmp_path.glob(f"{name}/longer/finetune/*/weights.safetensors"))) for name in both
    )
    assert killed.keys() == whole.keys()
    assert all((killed[k] == whole[k]).all() for k in whole)
    lines = (folder / "stats.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))
