"""Sweeps by Snakemake: the local profile with a job killed, SLURM and Kubernetes with stand-ins for both.

The stand-ins take what the executors send (sbatch's arguments, a job of the Kubernetes API) and run the command in
it, so that a job starts as it would on a cluster: Snakemake anew, with the point's name for its only target.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from latentclap.files import read_json
from latentclap.point import grid
from latentclap.profiles import load_profile

ROOT = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PROFILES = Path("data_scripts/profiles")


@pytest.fixture
def workplace(tmp_path):
    """A working copy by links, so that runs/ and .snakemake/ are the test's own."""
    for name in ("Snakefile", "pyproject.toml", "notebooks", "src", "book", "tests", "data_scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def snakemake(workplace, *arguments, target="sweep", **more):
    environment = os.environ | {"LATENTCLAP_RUNS": "", "LATENTCLAP_DATA": "", "OMP_NUM_THREADS": "1"}
    environment |= {"LATENTCLAP_DEVICE": "cpu"} | more  # an nvidia-smi that stands in has no GPU to give
    return subprocess.Popen(
        [SNAKEMAKE, target, *map(str, arguments)],
        cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def script(folder, name, text):
    """A command that stands in for one that is not on this machine; returns a PATH on which it comes first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def gpus(folder, count=2):
    """A PATH with an nvidia-smi that lists GPUs, and their names."""
    names = [f"GPU-{uuid.uuid4()}" for _ in range(count)]
    lines = "".join(f"GPU {i}: NVIDIA H100 (UUID: {name})\n" for i, name in enumerate(names))
    return script(folder, "nvidia-smi", f"#!/bin/sh\ncat <<EOF\n{lines}EOF\n"), names


def two_points(tiny_profile, path, epochs=1):
    """A profile of two points, without and with the tuning layer."""
    text = Path(tiny_profile).read_text()
    text = text.replace("[finetune]\n", "[finetune]\ncheckpoint_seconds = 0.2\n")
    text = text.replace("lams = [0, 1000]\nepochs = 1", f"lams = [0]\nepochs = {epochs}")
    path.write_text(text.replace("seeds = [0, 1]", "seeds = [0]"))
    return path


def planned(workplace, *arguments, **more):
    """How many points a dry run of the same command would make, and what it said."""
    said, _ = (process := snakemake(workplace, "--dry-run", *arguments, **more)).communicate(timeout=200)
    assert process.returncode == 0, said[-3000:]
    found = re.search(r"^point +(\d+)$", said, re.M)
    return int(found[1]) if found else 0, said


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_cluster_profiles_dry(name, workplace):
    if name == "kubernetes" and not find_spec("snakemake_storage_plugin_fs"):
        pytest.skip("snakemake-storage-plugin-fs (extra: cluster) is not installed")
    options = ["--default-storage-prefix", workplace] if name == "kubernetes" else []
    count, said = planned(workplace, "--profile", PROFILES / name, *options, "--config", "profile=quick")
    assert count == len(grid(load_profile("quick")))
    point = said[said.index("rule point") :].split("rule ")[1]
    assert "gpu=1" in point and "mem_mb=32000" in point
    assert ("slurm_partition=gpu" if name == "slurm" else "gpu_manufacturer=nvidia, scale=0") in point
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (("profil=paper",), "--config profil: unknown; there are profile, data, runs and root"),
        (("profile=papr",), "no profile 'papr'; there are evening, mini, paper, quick"),
        (("profile=2023",), "no profile '2023'; there are evening, mini, paper, quick"),
        (
            ("profile=paper",),
            "profile paper names what is not there: model.system: checkpoints/audioldm-m-full",
        ),
    ],
)
def test_a_mistake_is_told_before_a_job_is_queued(workplace, config, says):
    """A cluster would start every point three times, to say the same."""
    said, _ = (process := snakemake(workplace, "--dry-run", "--config", *config)).communicate(timeout=200)
    assert process.returncode != 0 and says in said


def test_a_root_beside_folders_of_ones_own(workplace):
    (workplace / "root").mkdir()
    (workplace / "data").mkdir()
    said, _ = snakemake(workplace, "--dry-run", "--config", "root=root").communicate(timeout=200)
    assert "this folder has a data of its own, which jobs elsewhere would not see" in said


def test_a_killed_job_of_two(workplace, tiny_profile):
    """Two points train side by side, each on its GPU; one is killed (-9); the same command goes on."""
    path, names = gpus(workplace / "bin")
    profile = two_points(tiny_profile, workplace / "points.toml", epochs=40)
    command = ("--profile", PROFILES / "local", "--config", f"profile={profile}")
    results = workplace / "runs" / "points" / "sweep" / "points"
    process = snakemake(workplace, *command, PATH=path)

    def checkpoints():
        """tuning -> run folder, of the runs that have a checkpoint."""
        folders = [p.parent for p in workplace.glob("runs/points/finetune/*/checkpoint.pt")]
        return {read_json(f / "config.json")["tuning"]: f for f in folders}

    def jobs():
        """tuning -> process, of the points under way."""
        found = {}
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                line = child.cmdline()
                if line[1:3] == ["-m", "latentclap.point"]:
                    found["--tuning" in line] = child
        return found

    both = wait_for(lambda: len(found := jobs()) == 2 and found, process)
    assert sorted(job.environ()["CUDA_VISIBLE_DEVICES"] for job in both.values()) == sorted(names)
    folder = wait_for(lambda: checkpoints().get(True), process)
    for member in [both[True], *both[True].children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    said, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    assert "Provided resources: gpu" in said and "Execute 2 jobs" in said
    assert not (folder / "summary.json").exists(), "it was done before it was killed"
    done = {p: p.stat().st_mtime_ns for p in results.glob("*/metrics.json")}
    assert [p.parent.name for p in done] == ["lam~0.0_tuning~False_seed~0"], said[-3000:]

    again = snakemake(workplace, *command, PATH=path)
    said, _ = again.communicate(timeout=900)
    assert again.returncode == 0, said[-4000:]
    assert re.search(r"^point +1$", said, re.M)  # the killed one alone
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert len(list(results.glob("*/metrics.json"))) == 2
    assert load_file(folder / "weights.safetensors")
    steps = [line.split(",")[0] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert len(steps) == len(set(steps))
    check_stale(workplace, profile, command)


def check_stale(workplace, profile, command):
    """What is there is kept until the code, the profile's values or the checkpoint that it names are others."""
    assert planned(workplace, *command)[0] == 0
    (workplace / "src").unlink()  # the same code in another place, with other times
    shutil.copytree(ROOT / "src", workplace / "src", ignore=shutil.ignore_patterns("__pycache__"))
    assert planned(workplace, *command)[0] == 0
    losses = workplace / "src/latentclap/losses/weights.py"
    losses.write_text((before := losses.read_text()) + "# another\n")
    count, said = planned(workplace, *command)
    assert count == 2 and "Params have changed" in said
    losses.write_text(before)
    assert planned(workplace, *command)[0] == 0
    weights = Path(load_profile(profile).model.system) / "unet" / "config.json"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    os.utime(weights, ns=(times[0], times[1] + 10**9))
    assert planned(workplace, *command)[0] == 2
    os.utime(weights, ns=times)
    assert planned(workplace, *command)[0] == 0
    profile.write_text(profile.read_text().replace("lr = 1e-3", "lr = 2e-3"))
    assert planned(workplace, *command)[0] == 2


def test_a_gpu_is_asked_for_where_there_is_one(workplace):
    """By notebooks too, whatever the profile: two of them would share it."""
    path, _ = gpus(workplace / "bin")
    for target, rule in (("sweep", "point"), ("book", "notebook"), ("book", "long_notebook")):
        for environment, gpu in (({}, "0"), ({"PATH": path}, "1")):
            _, said = planned(
                workplace, "--cores", 2, "--config", "profile=mini", target=target, **environment
            )
            jobs = [job for job in said.split("\n[") if f"\nrule {rule}:\n" in job]
            assert {re.search(r"resources: .*\bgpu=(\d)", job)[1] for job in jobs} == {gpu}


def test_jobs_take_turns_on_one_gpu(workplace):
    path, _ = gpus(workplace / "bin", count=1)
    process = snakemake(workplace, "--cores", 2, "--config", "profile=quick", PATH=path)
    try:
        line = next(line for line in process.stdout if line.startswith("Execute "))
    finally:
        for member in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()
    assert line == "Execute 1 jobs...\n"


SBATCH = """#!{python}
# keeps the arguments, runs what --wrap says as the job, and answers with its number at once
import json, os, subprocess, sys
folder = os.path.dirname(os.path.abspath(__file__))
number = 100 + len([n for n in os.listdir(folder) if n.startswith("job")])
with open(f"{{folder}}/job{{number}}.json", "x") as stream:
    json.dump(sys.argv[1:], stream)
wrap = next(a for a in sys.argv if a.startswith("--wrap="))[7:]
state = f"{{folder}}/state{{number}}"
runs = f'({{wrap}}) > {{folder}}/log{{number}} 2>&1 && echo COMPLETED > {{state}} || echo FAILED > {{state}}'
subprocess.Popen(["bash", "-c", runs], env=os.environ | {{"SLURM_JOB_ID": str(number)}}, start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(number)
"""
# a job is first seen as preempted: it is under way again, and neither failed nor to be sent anew
SACCT = """#!/bin/sh
[ "$1" = -nu ] && exit  # whose account: unknown
cd "$(dirname "$0")"
for job in job*.json; do
    number=${job#job}; number=${number%.json}
    if [ ! -e seen$number ]; then touch seen$number; echo "$number|PREEMPTED"
    else echo "$number|$(cat state$number 2>/dev/null || echo RUNNING)"; fi
done
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_slurm_jobs_run(workplace, tiny_profile):
    """The command that goes to sbatch makes its point."""
    folder = workplace / "bin"
    path = script(folder, "sbatch", SBATCH.format(python=sys.executable))
    for name, text in (
        ("sacct", SACCT),
        ("srun", SRUN),
        ("scancel", "#!/bin/sh\n"),
        ("sshare", "#!/bin/sh\n"),
    ):
        script(folder, name, text)
    profile = two_points(tiny_profile, workplace / "points.toml")
    command = ("--profile", PROFILES / "slurm", "--config", f"profile={profile}")
    soon = ("--seconds-between-status-checks", 1, "--slurm-init-seconds-before-status-checks", 1)
    fewer = ("--set-threads", "point=2")  # eight would be in each other's way here
    process = snakemake(workplace, *command, *soon, *fewer, PATH=path, USER="me")
    said, _ = process.communicate(timeout=600)
    logs = "".join(p.read_text() for p in folder.glob("log*"))
    assert process.returncode == 0, said[-3000:] + logs[-3000:]
    sent = [read_json(p) for p in folder.glob("job*.json")]
    assert len(sent) == 2  # each once
    for arguments in sent:
        assert {"--gpus=1", "--requeue", "gpu"} <= set(arguments)
        assert any("--cpus-per-task=2" in a for a in arguments)
        assert (
            "--target-jobs 'point:" in arguments[-1]
            and "sweep" not in arguments[-1].split("--target-jobs")[1]
        )
    found = {p.parent.name: read_json(p) for p in workplace.glob("runs/points/sweep/points/*/metrics.json")}
    assert {name: m["tuning"] for name, m in found.items()} == {
        "lam~0.0_tuning~False_seed~0": False,
        "lam~0.0_tuning~True_seed~0": True,
    }
    assert all(m["clips_per_class"] == 2 and m["fad"] > 0 for m in found.values())
    assert all("2 threads" in m["device"] for m in found.values())  # the job's cores
    assert planned(workplace, *command, PATH=path)[0] == 0


class Cluster(BaseHTTPRequestHandler):
    """As much of the Kubernetes API as the executor uses; a job's pod is a process in a folder of its own."""

    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            container = given["spec"]["template"]["spec"]["containers"][0]
            wants = container["resources"]
            asked = [wants.get(part, {}).get("nvidia.com/gpu") for part in ("requests", "limits")]
            if asked != ["1", "1"]:  # as Kubernetes: "Limit must be set for non overcommitable resources"
                return self.answer(422, {"message": f"nvidia.com/gpu: requests and limits are {asked}"})
            number = len(self.server.pods)
            folder = self.server.folder / f"pod{number}"
            folder.mkdir()
            with open(self.server.folder / f"pod{number}.log", "w") as log:
                pod = subprocess.Popen(
                    [*container["command"], *container["args"]], cwd=folder, env=self.server.environment,
                    stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            self.server.pods[given["metadata"]["name"]] = (pod, given)
        return self.answer(201, given)

    def do_GET(self):
        if self.path.partition("?")[0].endswith("/pods"):
            return self.answer(200, {"items": []})
        code = self.server.pods[self.path.split("/")[-2]][0].poll()
        return self.answer(
            200, {"status": {"succeeded": int(code == 0), "failed": int(code not in (None, 0))}}
        )

    def do_DELETE(self):
        self.answer(200, {"status": "Success"})

    def log_message(self, *_):
        pass


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "pods").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    server.folder, server.pods, server.environment = tmp_path / "pods", {}, {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    here = {"server": f"http://127.0.0.1:{server.server_port}"}
    (tmp_path / "kubeconfig").write_text(  # YAML reads JSON
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "here",
                "clusters": [{"name": "here", "cluster": here}], "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            }
        )
    )  # fmt: skip
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# rsync may not be on this machine; the storage plugin gives it options, a source and a target
RSYNC = """#!{python}
import os, shutil, sys
source, target = [a for a in sys.argv[1:] if not a.startswith("-")]
if os.path.isdir(source):
    shutil.copytree(source, target, dirs_exist_ok=True)
else:
    shutil.copy2(source, target)
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="Snakemake sends the files that git knows")
@pytest.mark.skipif(
    not find_spec("snakemake_storage_plugin_fs"), reason="snakemake-storage-plugin-fs is not installed"
)
def test_kubernetes_pods_run(tmp_path, tiny_profile, tiny_family, cluster):
    """A pod has git's files and the volume: what the profile names is found there, and the results come back."""
    work, volume = tmp_path / "work", tmp_path / "volume"
    for name in ("src", "notebooks", PROFILES):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, work)
    profile = two_points(tiny_profile, work / "points.toml")
    profile.write_text(profile.read_text().replace(tiny_family.as_posix(), "checkpoints/tiny"))
    shutil.copytree(tiny_family, volume / "checkpoints" / "tiny")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=work, check=True)
    script(tmp_path / "bin", "rsync", RSYNC.format(python=sys.executable))
    path = script(tmp_path / "bin", "pip", "#!/bin/sh\n")  # the plugin is there already, and no index need be
    path = path.replace(os.pathsep, f"{os.pathsep}{Path(sys.executable).parent}{os.pathsep}", 1)
    cluster.environment = {"PATH": path, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = snakemake(
        work,
        *("--profile", PROFILES / "kubernetes", "--latency-wait", 5, "--seconds-between-status-checks", 1),
        *("--set-threads", "point=1"),  # eight would be in each other's way here
        *("--default-storage-prefix", volume, "--kubernetes-persistent-volumes", f"latentclap:{volume}"),
        *("--config", "profile=points.toml", f"root={volume}"),
        PATH=path, KUBECONFIG=str(tmp_path / "kubeconfig"),
    )  # fmt: skip
    said, _ = process.communicate(timeout=600)
    logs = "".join(p.read_text() for p in cluster.folder.glob("*.log"))
    assert process.returncode == 0, said[-3000:] + logs[-3000:]
    assert len(cluster.pods) == 2
    for _, sent in cluster.pods.values():
        container = sent["spec"]["template"]["spec"]["containers"][0]
        assert container["workingDir"] == "/workdir"
        assert container["resources"]["limits"] == {
            "cpu": "1000m", "memory": "32000M", "ephemeral-storage": "20000M", "nvidia.com/gpu": "1",
        }  # fmt: skip
    assert len(list(volume.glob("runs/points/sweep/points/*/metrics.json"))) == 2
    assert len(list(volume.glob("runs/points/finetune/*/weights.safetensors"))) == 2
    assert (work / "runs").resolve() == (volume / "runs").resolve()  # here too


def test_a_root_that_is_not_there_is_said(workplace):
    said, _ = (process := snakemake(workplace, "-n", "--cores", 1, "--config", "root=absent")).communicate(
        timeout=100
    )
    assert process.returncode == 1 and re.search(r"root=.*/absent: no such folder", said)
