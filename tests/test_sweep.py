"""Sweeps by Snakemake: the profiles for SLURM and Kubernetes dry, the local one for real, with a job killed."""

import contextlib
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
import psutil
import pytest
from safetensors.numpy import load_file

from latentclap.files import read_json

ROOT = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PROFILES = Path("data_scripts/profiles")


@pytest.fixture
def workplace(tmp_path):
    """A working copy by links, so that runs/ and .snakemake/ are the test's own."""
    for name in ("Snakefile", "pyproject.toml", "notebooks", "src", "book", "tests", "data_scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def snakemake(workplace, *arguments):
    environment = os.environ | {"LATENTCLAP_RUNS": "", "LATENTCLAP_DATA": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [SNAKEMAKE, "sweep", *map(str, arguments)],
        cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_cluster_profiles_dry(name, workplace):
    if name == "kubernetes" and not find_spec("snakemake_storage_plugin_fs"):
        pytest.skip("snakemake-storage-plugin-fs (extra: cluster) is not installed")
    options = ["--default-storage-prefix", workplace] if name == "kubernetes" else []
    process = snakemake(
        workplace, "--dry-run", "--profile", PROFILES / name, *options, "--config", "profile=quick"
    )
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said[-3000:]
    assert re.search(r"^point +12$", said, re.M)
    point = said[said.index("rule point") :].split("rule ")[1]
    assert "gpu=1" in point and "mem_mb=32000" in point
    assert "slurm_partition=gpu" in point if name == "slurm" else "gpu_manufacturer=nvidia" in point
    assert not (workplace / "runs" / "quick" / "sweep").exists()


def test_no_profile_names_a_user_or_a_site():
    for path in (ROOT / PROFILES).glob("*/config.yaml"):
        assert not re.search(r"/home/|/root|account:", path.read_text()), path
    assert {p.name for p in (ROOT / PROFILES).iterdir()} == {"local", "slurm", "kubernetes"}


def wait_for(what, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def shorten(workplace):
    """Notebook 03 up to its training, and its last cell: what comes between, players and plots, takes longest."""
    notebook = nbformat.read(ROOT / "notebooks" / "03_finetune.ipynb", as_version=4)
    trains = next(i for i, cell in enumerate(notebook.cells) if "lab.point(" in cell.source)
    notebook.cells = [
        *notebook.cells[: trains + 1],
        nbformat.v4.new_code_cell('run.save_metrics({"steps": steps})'),
    ]
    (workplace / "notebooks").unlink()
    (workplace / "notebooks").mkdir()
    nbformat.write(notebook, workplace / "notebooks" / "03_finetune.ipynb")


@pytest.mark.slow
def test_a_killed_job_of_two(workplace, tiny_profile):
    """Two points train side by side; one is killed (-9); the other finishes; the same command makes the rest."""
    shorten(workplace)
    profile = workplace / "points.toml"
    text = Path(tiny_profile).read_text()
    text = text.replace("[finetune]\n", "[finetune]\ncheckpoint_seconds = 0.2\n")
    text = text.replace("lams = [0, 1000]\nepochs = 1", "lams = [0]\nepochs = 40").replace(
        "seeds = [0, 1]", "seeds = [0]"
    )
    profile.write_text(text)
    command = ("--profile", PROFILES / "local", "--config", f"profile={profile}")
    results = workplace / "runs" / "points" / "sweep" / "points"
    process = snakemake(workplace, *command)

    def checkpoints():
        """tuning -> run folder, of the runs that have a checkpoint."""
        folders = [p.parent for p in workplace.glob("runs/points/finetune/*/checkpoint.pt")]
        return {read_json(f / "config.json")["tuning"]: f for f in folders}

    folder = wait_for(lambda: checkpoints().get(True), process)
    jobs = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "papermill" in " ".join(child.cmdline()) and "tuning True" in " ".join(child.cmdline())
    ]
    assert jobs
    for member in {member for job in jobs for member in (job, *job.children(recursive=True))}:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    said, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    assert not (folder / "summary.json").exists(), "it was done before it was killed"
    done = {p: p.stat().st_mtime_ns for p in results.glob("*/metrics.json")}
    assert [p.parent.name.split("_")[1] for p in done] == ["tuning~False"], said[-3000:]

    again = snakemake(workplace, *command)
    said, _ = again.communicate(timeout=900)
    assert again.returncode == 0, said[-4000:]
    assert re.search(r"^point +1$", said, re.M)  # the killed one alone
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert len(list(results.glob("*/metrics.json"))) == 2
    assert load_file(folder / "weights.safetensors")
    steps = [line.split(",")[0] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert len(steps) == len(set(steps))
