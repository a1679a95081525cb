"""Several processes: the same losses as one, each item once an epoch, one writer, one clock, resume in any number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from typer.testing import CliRunner

from latentclap import finetune as finetuning
from latentclap import launch
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.launch import TrainFile, finetune_config
from latentclap.profiles import load_profile
from latentclap.system import FoleySystem
from latentclap.train import sample_order, share, train
from launching import alone
from two_processes import Line, Stop, fine_tuning, line_config, line_data, starting_point, stop_after

HERE = Path(__file__).parent
# accelerate starts several processes for what it takes for GPUs; without one it gives them gloo on the CPU
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip
#: relative, between one process and two: sums of floats in another order (measured: up to 3e-7 on these runs)
LOSSES = 1e-5
#: of the way that the weights moved: Adam takes full steps where a gradient is zero but for rounding
WEIGHTS = 0.01


def apart(ours, theirs, start):
    """Distance of two ends as a share of the way from the start."""
    return float((ours - theirs).norm() / (theirs - start).norm())


def run(command, **options):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # gloo, also where there are GPUs
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    return subprocess.run(
        [str(c) for c in command], env=environment, capture_output=True, text=True, timeout=900, **options
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder in which two processes went through two_processes.main, and what each said."""
    folder = tmp_path_factory.mktemp("launched")
    with pytest.raises(Stop):  # the first steps, in one process
        train(
            stop_after(Line(), 6),
            line_data(),
            line_config(checkpoint_seconds=0),
            folder / "resumed",
            progress=False,
        )
    done = run([*LAUNCH, HERE / "two_processes.py", folder])
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_are_one(launched, tmp_path):
    """Eq. 4 with tuning layer and EMA, batches of 5 as 2 and 3: losses, gradients and weights."""
    folder, said = launched
    assert [s["world"] for s in said] == [2, 2]
    weights, history = fine_tuning(tmp_path)
    for ours, theirs in zip(history, said[0]["history"], strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("loss", "ddpm", "lclap", "grad_norm"):
            assert theirs[name] == pytest.approx(ours[name], rel=LOSSES), (name, ours["step"])
    assert apart(torch.load(folder / "finetune.pt"), weights, starting_point()) < WEIGHTS
    untimed = [[{k: v for k, v in line.items() if k != "seconds"} for line in s["history"]] for s in said]
    assert untimed[0] == untimed[1]


def test_each_item_once_an_epoch_over_all_processes(launched):
    _, said = launched
    # 23 items, 23 steps of 5: five epochs, of which each process saw its part
    first, second = said[0]["seen"], said[1]["seen"]
    assert len(first) + len(second) == 115
    stream = [
        item
        for step in range(23)
        for part, (start, n) in ((first, share(5, 0, 2)), (second, share(5, 1, 2)))
        for item in part[step * n : (step + 1) * n]
    ]
    assert stream == sample_order(0, 115, 23, seed=0)
    for epoch in range(5):
        assert sorted(stream[epoch * 23 : (epoch + 1) * 23]) == list(range(23))


def test_resume_in_another_number_of_processes(launched, tmp_path):
    """Killed after 6 steps in one process, after 8 more in two, and ended in one."""
    folder, said = launched
    assert all(s["stopped"] for s in said)
    state = torch.load(folder / "resumed" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 14
    assert not {"world", "processes", "num_processes"} & (set(state) | set(state["config"]))
    parts, whole = Line(), Line()
    result = train(parts, line_data(), line_config(), folder / "resumed", progress=False)
    expected = train(whole, line_data(), line_config(), tmp_path, progress=False)
    assert [line["step"] for line in result.history] == list(range(1, 24))
    for ours, theirs in zip(expected.history, result.history, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=LOSSES)
    torch.testing.assert_close(parts.net.weight, whole.net.weight, rtol=1e-5, atol=1e-6)


def test_a_nan_in_one_process_stops_all(launched):
    folder, said = launched
    assert said[0]["nan"] == said[1]["nan"]
    assert "loss is not finite at step 3" in said[0]["nan"]
    assert torch.load(folder / "nan" / "checkpoint.pt", weights_only=True)["step"] == 3


def test_the_time_budget_stops_all_at_one_step(launched):
    folder, said = launched
    assert said[0]["time"] == said[1]["time"]
    step, finished = said[0]["time"]
    assert step > 1 and not finished
    assert torch.load(folder / "time" / "checkpoint.pt", weights_only=True)["step"] == step


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(launched):
    folder, said = launched
    assert said[0]["told"] == said[1]["told"]
    code, message = said[0]["told"]
    step = torch.load(folder / "told" / "checkpoint.pt", weights_only=True)["step"]
    # noticed after the pass in which it came, when the losses were exchanged already or not
    assert code == 128 + signal.SIGUSR1 and step in (4, 5)
    assert f"stopped by SIGUSR1; the checkpoint in {folder / 'told'} is of step {step}" in message


def test_only_the_main_process_writes(launched):
    folder, _ = launched
    assert sorted(p.name for p in (folder / "epochs").iterdir()) == ["checkpoint.pt", "stats.jsonl"]
    steps = [
        json.loads(line)["step"] for line in (folder / "epochs" / "stats.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 24))


def test_what_cannot_be_shared_is_refused(launched):
    _, said = launched
    assert said[0]["refused"] == said[1]["refused"]
    normed, contrast, small = said[0]["refused"]
    assert "batch normalisation" in normed and "one process" in normed
    assert "compares the items of a batch" in contrast
    assert "a batch of 1 cannot be shared by 2 processes" in small


def test_shares_cover_a_batch():
    for size, world in ((5, 2), (8, 8), (7, 3), (64, 6)):
        parts = [share(size, rank, world) for rank in range(world)]
        assert [i for start, n in parts for i in range(start, start + n)] == list(range(size))
        assert max(n for _, n in parts) - min(n for _, n in parts) <= 1
    with pytest.raises(InputError, match="cannot be shared"):
        share(3, 0, 4)


# ---------------------------------------------------------------------------- from a configuration


#: the command as a script's last line would start it
TRAIN = [sys.executable, "-m", "latentclap.train"]


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("finetune", {"grad_clip": -1.0}, "finetune.grad_clip=-1: must be 0 or more"),
        ("finetune", {"batch_size": 0}, "finetune.batch_size=0: must be 1 or more"),
        ("finetune", {"reading": "x1"}, "finetune.reading='x1': there are x0"),
        ("finetune", {"weighting": "papr"}, "unknown weighting 'papr'"),
        ("finetune", {"reduction": "max"}, "finetune.reduction='max': there are mean, sum"),
        ("finetune", {"seed": -1}, "finetune.seed=-1"),
        ("finetune", {"clamp": -1.0}, "finetune.clamp=-1"),
        ("finetune", {"checkpoint_seconds": -1.0}, "finetune.checkpoint_seconds=-1"),
        ("finetune", {"grad_accum": 0}, "finetune.grad_accum=0"),
        ("latent_clap", {"width": 0}, "latent_clap.width=0: must be 1 or more"),
        ("latent_clap", {"width": -3}, "latent_clap.width=-3"),
        ("latent_clap", {"lr": 2.0}, "latent_clap.lr=2: must be between 0 and 1"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_value_out_of_range_is_a_line_and_leaves_nothing(configured, part, changes, message, options):
    folder, write = configured
    assert message in alone(write("ranges", part, **changes), *options)
    assert not (folder / "ranges").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "nan"], "--minutes=nan: must be 0 or more"),
        (["--minutes", "-1"], "--minutes=-1: must be 0 or more"),
        (["--precision", "int8"], "--precision int8: there are auto, no, tf32, bf16, fp16"),
    ],
)
def test_options_out_of_range(configured, options, message):
    folder, write = configured
    assert message in alone(write("options", lam=0.0), *options)
    assert not (folder / "options").exists()


def test_fp16_without_a_gpu(configured, monkeypatch):
    _, write = configured
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "fp16 needs a GPU" in alone(write("options", lam=0.0), "--precision", "fp16")


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_the_folder_is_looked_at_before_anything_is_made(configured, options):
    folder, write = configured
    config = write("afile", lam=0.0)
    (folder / "afile").write_text("mine")
    result = CliRunner().invoke(launch.app, [str(config), "--quiet", *options])
    assert isinstance(result.exception, NotADirectoryError)
    (folder / "afile").unlink()


def test_a_mistake_holds_no_place(configured, monkeypatch):
    """Whatever stops a run before its first step leaves the folder to the next one."""
    folder, write = configured
    monkeypatch.setattr(launch.Launch, "_finetune", lambda *_: (_ for _ in ()).throw(InputError("no")))
    assert "no" in alone(write("early", lam=0.0, batch_size=4))
    assert (folder / "early" / "config.json").is_file()
    monkeypatch.undo()
    monkeypatch.setattr(launch.Launch, "_parts", lambda *_: (_ for _ in ()).throw(InputError("no φ")))
    assert "no φ" in alone(write("earlier", lam=0.0))
    assert not (folder / "earlier").exists()
    monkeypatch.undo()
    assert "3 steps in" in alone(write("early", lam=0.0, batch_size=4, epochs=1))
    other = write("early", lam=0.0, batch_size=6, epochs=1)
    for options in ([], ["--dry-run"]):
        assert "holds another run (finetune differ)" in alone(other, *options)
    assert "is finished (step 3)" in alone(write("early", lam=0.0, batch_size=4, epochs=1), "--dry-run")


def test_accumulation_and_precision_reach_training(configured, monkeypatch):
    """grad_accum is part of the run, precision is not; accelerate launch may name one."""
    folder, write = configured
    seen = []

    def caught(*_, precision, **__):
        seen.append(precision)
        raise InputError("caught")

    monkeypatch.setattr(finetuning, "finetune", caught)
    config = write("accum", lam=0.0, grad_accum=2)
    for asked, options in (("no", []), ("bf16", []), ("bf16", ["--precision", "tf32"])):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        assert "caught" in alone(config, *options)
    assert seen == ["auto", "bf16", "tf32"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert "--mixed_precision fp8: training knows bf16 and fp16" in alone(config)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert read_json(folder / "accum" / "config.json")["finetune"]["grad_accum"] == 2
    assert "precision" not in (folder / "accum" / "config.json").read_text()
    assert "grad_accum" not in alone(write("noaccum", lam=0.0), "--dry-run")  # older runs go on
    assert "memory of a GPU, fp32" in alone(write("noaccum", lam=0.0), "--dry-run", "--precision", "no")
    monkeypatch.undo()
    assert "2 steps in" in alone(write("two4", lam=0.0, epochs=1, batch_size=3, grad_accum=2))


def test_a_folder_in_use_is_refused(configured):
    folder, write = configured
    config = write("inuse", lam=0.0, epochs=1, batch_size=4)
    (folder / "inuse").mkdir()
    with FileLock(folder / "inuse" / ".lock"):
        assert "another launch trains there" in alone(config)
    assert "3 steps in" in alone(config)


def test_slurm_without_a_launcher_is_refused(configured, monkeypatch):
    _, write = configured
    config = write("slurm", lam=0.0)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert "SLURM started 8 tasks" in alone(config) and "torchrun" in alone(config)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert "; 1 process, " in alone(config, "--dry-run")


def test_an_estimate_that_fails_stops_nothing(configured, monkeypatch):
    from latentclap import memory

    _, write = configured
    monkeypatch.setattr(memory, "training_footprint", lambda *_, **__: 1 / 0)
    told = alone(write("untold", lam=0.0), "--dry-run")
    assert "could not be told (ZeroDivisionError" in told and "1 process, cpu" in told


def test_killed_and_told_to_go(configured):
    """kill -9 frees the folder at once; SIGTERM leaves a checkpoint, a line and its status; the next call goes on."""
    folder, write = configured
    config = write("signals", lam=0.0, epochs=20000, batch_size=4)
    stats = folder / "signals" / "stats.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for signum in (signal.SIGKILL, signal.SIGTERM):
        stats.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*TRAIN, config, "--quiet"], env=environment, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 300
        while not stats.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signum)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 143), said
    assert "Traceback" not in said and said.count("stopped") == 1
    assert "stopped by SIGTERM; the checkpoint in" in said.splitlines()[-1]
    step = torch.load(folder / "signals" / "checkpoint.pt", weights_only=True)["step"]
    assert step >= 1
    assert "the same command goes on" in alone(config, "--minutes", "1e-6")
    assert torch.load(folder / "signals" / "checkpoint.pt", weights_only=True)["step"] == step + 1


def test_the_command_in_one_process_and_two(configured, tiny_family):
    """accelerate launch -m latentclap.train: two processes, stopped by --minutes, gone on with by one."""
    folder, write = configured
    changes = {"lam": 100.0, "tuning": True, "epochs": 3, "batch_size": 4}
    two, one = write("two", **changes), write("one", **changes)
    done = run([*LAUNCH, "-m", "latentclap.train", two, "--quiet", "--minutes", 1e-4])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("the same command goes on") == 1  # one process speaks
    step = torch.load(folder / "two" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 9
    for config in (two, one):
        assert "9 steps in" in alone(config)
    weights = [load_file(folder / name / "weights.safetensors") for name in ("two", "one")]
    assert weights[0].keys() == weights[1].keys() and "tuning.weight" in weights[0]
    unet = FoleySystem.from_pretrained(tiny_family).unet.state_dict()
    ends = [torch.cat([w[f"unet.{k}"].flatten() for k in unet]) for w in weights]
    assert apart(*ends, torch.cat([v.flatten() for v in unet.values()])) < WEIGHTS
    summary = read_json(folder / "two" / "summary.json")
    assert summary["step"] == 9 and summary["processes"] == 1
    assert not (folder / "two" / "checkpoint.pt").exists()
    assert FoleySystem.from_pretrained(folder / "two" / "system").tuning is not None
    assert "is finished" in alone(two)


def test_a_dry_run_tells_the_memory_and_changes_nothing(configured):
    folder, write = configured
    told = alone(write("dry", lam=100.0, batch_size=4), "--dry-run")
    assert "'lam': 100.0" in told and "1 process, cpu" in told
    assert "GiB for 4 clips a process; the largest batch a process: " in told and " in 24 GiB" in told
    assert not (folder / "dry").exists()
    assert "memory" not in alone(write("dry", part="latent_clap", epochs=1), "--dry-run")


def test_without_our_kernels(configured, monkeypatch):
    from latentclap import finetune

    def caught(*_, compile, fused, cuda_graph, **__):
        raise InputError(f"compile {compile}, fused {fused}, graph {cuda_graph}")

    _, write = configured
    config = write("kernels", lam=0.0)
    assert "--no-fused goes with --compile" in alone(config, "--no-fused")
    monkeypatch.setattr(finetune, "finetune", caught)
    assert "--no-cuda-graph goes with --compile" in alone(config, "--no-cuda-graph")
    assert "compile True, fused True, graph True" in alone(config, "--compile")
    assert "compile True, fused False, graph True" in alone(config, "--compile", "--no-fused")
    assert "compile True, fused True, graph False" in alone(config, "--compile", "--no-cuda-graph")
    assert "--compile is for part finetune" in alone(write("phi", part="latent_clap"), "--compile")


@pytest.mark.parametrize("told", ["[1, 2]", "null", '"mine"'])
def test_a_record_that_was_edited_is_told_in_one_line(configured, told):
    """Any JSON may lie there: it ended in a traceback."""
    folder, write = configured
    config, place = write("edited", lam=0.0), folder / "edited"
    place.mkdir()
    for name in ("config.json", "summary.json"):
        (place / "summary.json").write_text('{"step": 3}')
        (place / name).write_text(told)
        for options in ([], ["--dry-run"]):
            assert f"{name}: not what a training writes there" in alone(config, *options)
        (place / name).unlink()
    shutil.rmtree(place)


def test_another_run_s_folder_and_another_system_s_cache(configured, tmp_path):
    folder, write = configured
    config = write("encoder", part="latent_clap", epochs=1, batch_size=4)
    assert "3 steps in" in alone(config)
    assert (folder / "encoder" / "latent_clap" / "config.json").is_file()
    assert "holds another run (latent_clap differ)" in alone(
        write("encoder", part="latent_clap", epochs=2, batch_size=4)
    )
    # φ and the UNet are files: of the same names with other weights it is another run
    begun = write("begun", lam=100.0, epochs=3, batch_size=4)
    assert "the same command goes on" in alone(begun, "--minutes", "1e-6")
    noted = read_json(folder / "begun" / "config.json")
    assert set(noted["weights"]) == {"unet", "phi"}
    assert "the same command goes on" in alone(begun, "--minutes", "1e-6")
    for name in ("unet", "phi"):
        write_json(folder / "begun" / "config.json", noted | {"weights": noted["weights"] | {name: "0" * 16}})
        assert f"holds another run (the weights of {name} differ)" in alone(begun)
    noted.pop("weights")  # as before they were noted
    write_json(folder / "begun" / "config.json", noted)
    assert "9 steps in" in alone(begun)
    text = write("other", lam=0.0).read_text()
    mini = tmp_path / "mini.toml"
    mini.write_text(text.replace(str(text.split('"')[1]), "quick"))
    assert "was made with another system" in alone(mini)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile = 3", "cache is missing|must be of type str"),
        ('profile = "quick"\ncache = "c"', "folder is missing"),
        ('profile = "quick"\ncache = "c"\nfolder = "f"\nlam = 1', "unknown key 'lam'"),
        ('part = "vae"', "finetune or latent_clap"),
        ("profile = ", "not valid TOML"),
    ],
)
def test_a_bad_configuration(text, message, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        TrainFile.read(path)
    with pytest.raises(InputError, match="no such configuration"):
        TrainFile.read(tmp_path / "absent.toml")


def test_changes_to_a_profile_are_checked():
    profile = load_profile("quick")
    assert finetune_config(profile, {"lam": 7, "seed": 3}).lam == 7.0
    with pytest.raises(InputError, match="unknown key 'lamm'"):
        finetune_config(profile, {"lamm": 7})
    with pytest.raises(InputError, match="must be of type bool"):
        finetune_config(profile, {"tuning": 1})
