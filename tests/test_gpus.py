"""GPUs for jobs side by side, with an nvidia-smi and GPUs that are not there."""

import os
import subprocess
import sys
import time

import pytest

from latentclap import gpus
from latentclap.errors import InputError

LISTING = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0a)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-1b)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-2c)
"""
PARTS = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0a)
  MIG 3g.20gb     Device  0: (UUID: MIG-x)
  MIG 3g.20gb     Device  1: (UUID: MIG-y)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1b)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes nvidia-smi say a text, or fail."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")

    def set_up(listing, status=0):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<EOF\n{listing}EOF\nexit {status}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return set_up


@pytest.mark.parametrize(
    ("listing", "status", "given", "names"),
    [
        (LISTING, 0, None, ["GPU-0a", "GPU-1b", "GPU-2c"]),
        (LISTING, 0, "", []),
        (LISTING, 0, "2, 0", ["GPU-2c", "GPU-0a"]),
        (LISTING, 0, "GPU-1", ["GPU-1b"]),
        (LISTING, 0, "1,7,0", ["GPU-1b"]),
        (LISTING, 0, "-1", []),
        (PARTS, 0, None, ["MIG-x", "MIG-y", "GPU-1b"]),
        ("No devices were found\n", 6, None, []),
    ],
)
def test_what_is_visible(machine, monkeypatch, listing, status, given, names):
    machine(listing, status)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible() == names


def test_a_gpu_that_torch_cannot_use_is_told(machine, monkeypatch):
    """A cluster of them would compute for days on its CPUs."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("LATENTCLAP_DEVICE", raising=False)
    machine(LISTING)
    with pytest.raises(InputError, match=r"nvidia-smi lists a GPU, and torch .* cannot use it"):
        gpus.chosen_device()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # is put back afterwards
    monkeypatch.setenv("LATENTCLAP_DEVICE", "cpu")
    assert gpus.chosen_device() == "cpu" and os.environ["ACCELERATE_USE_CPU"] == "true"
    monkeypatch.setenv("LATENTCLAP_DEVICE", "gpu")
    with pytest.raises(InputError, match=r"^LATENTCLAP_DEVICE gpu: "):
        gpus.chosen_device()
    monkeypatch.delenv("LATENTCLAP_DEVICE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.chosen_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpus.chosen_device() == "cuda"


@pytest.mark.parametrize(
    ("told", "given", "device", "name"),
    [
        ("", "", "", "some card"),
        ("false", "cpu", "", "some card"),  # --device cuda, whatever the variable says
        ("true", "", "", "CPU"),
        ("", "cpu", "", "CPU"),
        ("true", "", "cuda:1", "some card cuda:1"),
        ("", "", "cpu", "CPU"),
    ],
)
def test_a_record_names_what_computed(monkeypatch, told, given, device, name):
    """Not the machine's GPU where it did nothing."""
    import torch

    from latentclap.runs import origin

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda one=None: f"some card {one or ''}".strip())
    for key, value in (("ACCELERATE_USE_CPU", told), ("LATENTCLAP_DEVICE", given)):
        monkeypatch.setenv(key, value)
    assert origin(device)["device"].partition(",")[0] == name


def test_a_device_that_is_not_there_is_one_short_line(monkeypatch):
    import torch

    def refuses(*_, device):
        raise NotImplementedError(
            "Could not run 'aten::empty' with arguments from the 'MPS' backend. " + "x" * 900
        )

    with pytest.raises(InputError, match=r"^--device meta: there is no such device here$"):
        gpus.use("meta")
    monkeypatch.setattr(torch, "empty", refuses)
    with pytest.raises(InputError, match=r"^--device mps: there is no such device here$"):
        gpus.use("mps")

    def no_driver(*_, device):
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have one.")

    monkeypatch.setattr(torch, "empty", no_driver)
    with pytest.raises(InputError, match=r"^--device cuda: Found no NVIDIA driver on your system$"):
        gpus.use("cuda")


def test_training_goes_where_it_was_told(monkeypatch):
    """accelerate takes the first GPU by itself, whatever its own variable says: a choice has to reach it."""
    import torch
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    from latentclap.train.config import resolved
    from latentclap.train.task import processes

    made, chosen = torch.empty, []
    monkeypatch.setattr(torch, "empty", lambda *size, device=None: made(*size))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    try:
        AcceleratorState._reset_state(reset_partial_state=True)
        assert gpus.use("cpu") == "cpu"
        assert processes().device.type == "cpu" and resolved("auto") == "no"
        assert Accelerator().device.type == "cpu"
        with pytest.raises(InputError, match="fp16 needs a GPU"):
            resolved("fp16")
        assert gpus.use("cuda:1") == "cuda:1" and chosen == ["cuda:1"]
        assert not PartialState._shared_state  # what was chosen before is forgotten
        assert processes().device.type == "cuda" and resolved("auto") == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def start(command, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "latentclap.gpus", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_each_command_has_its_own_and_a_third_waits(machine, monkeypatch):
    """A lock goes with its command, also when that is killed."""
    machine(LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    holds = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; exec sleep 600"]
    first = start(holds)
    assert first.stdout.readline() == "GPU-0a\n"
    second = start(holds)
    assert second.stdout.readline() == "GPU-1b\n"
    third = start(holds)
    assert third.stderr.readline() == "waiting for a GPU: 2 of 2 are in use\n"
    time.sleep(0.2)
    assert third.poll() is None
    second.kill()
    assert third.stdout.readline() == "GPU-1b\n"
    for process in (first, second, third):
        process.kill()
        process.communicate()


def test_without_a_gpu_the_command_runs_as_it_is(machine):
    machine("", 9)
    said, _ = start(["sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}; exit 3"]).communicate()
    assert said == "unset\n"
    process = start(["no-such-command"])
    assert process.communicate()[1] == "error: no-such-command: No such file or directory\n"
    assert process.returncode == 127
    process = start([])
    assert "no command" in process.communicate()[1] and process.returncode == 2


def test_no_torch_is_imported():
    """Snakemake asks this module whenever it reads its file."""
    code = "import sys; from latentclap import gpus; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
    )
