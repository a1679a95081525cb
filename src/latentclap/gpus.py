"""``python -m latentclap.gpus COMMAND ...``: run a command on an NVIDIA GPU that no other such command holds.

By itself every process takes the first GPU that it sees, so that jobs side by side would share that one and leave the
others idle. This module chooses before torch is imported; without a GPU it only runs the command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from latentclap.errors import InputError


def visible() -> list[str]:
    """The GPUs that a process started here may use, by names that CUDA_VISIBLE_DEVICES takes.

    Asks ``nvidia-smi``, for torch would take seconds to import. Empty where there is none.
    """
    found = _installed()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return found
    chosen = []
    for name in filter(None, map(str.strip, given.split(","))):
        if name.isdigit():
            match = found[int(name) : int(name) + 1]
        else:
            match = [full for full in found if full.startswith(name)]
        if not match:
            break  # CUDA too takes the names before the first wrong one
        chosen.append(match[0])
    return chosen


def _installed() -> list[str]:
    command = shutil.which("nvidia-smi")
    if not command:
        return []
    # the order in which nvidia-smi counts; CUDA's own would put the fastest first
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        said = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # a driver without a device
    names: list[str] = []
    for line in said.splitlines():
        uuid = re.search(r"UUID: ((?:GPU|MIG)-[^\s)]+)", line)
        if not uuid:
            continue
        if uuid[1].startswith("MIG") and names and names[-1].startswith("GPU"):
            names.pop()  # a GPU in parts is used by its parts
        names.append(uuid[1])
    return names


def chosen_device() -> str:
    """What to compute on: ``$LATENTCLAP_DEVICE``, else a GPU where there is one, else the CPU.

    Raises:
        InputError: there is no such device, or nvidia-smi lists a GPU for this process and torch cannot use it: on
            the CPU instead days would pass before anyone noticed.
    """
    import torch

    if given := os.environ.get("LATENTCLAP_DEVICE"):
        return use(given, named="LATENTCLAP_DEVICE")
    if torch.cuda.is_available():
        return "cuda"
    if visible():
        raise InputError(
            f"nvidia-smi lists a GPU, and torch {torch.__version__} (CUDA {torch.version.cuda or 'none'}) cannot use"
            " it: its driver may be too old for this torch, or this torch be built for CPUs; LATENTCLAP_DEVICE=cpu"
            " computes on the CPU"
        )
    return "cpu"


def use(device: str, *, named: str = "--device") -> str:
    """Let all of this process compute on a device: training too, for which accelerate would choose by itself.

    Args:
        device: cpu, cuda, or cuda:1 and so on.
        named: what the user gave it by, for the error.

    Returns:
        The device.

    Raises:
        InputError: there is no such device.
    """
    import torch

    try:
        kind = torch.device(device).type
        torch.empty(1, device=device)
        if kind == "meta":  # torch's device for shapes without numbers
            raise NotImplementedError
    except NotImplementedError:  # torch's long words for a kind that it was not built for
        raise InputError(f"{named} {device}: there is no such device here") from None
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputError(f"{named} {device}: {reason}") from None
    os.environ["ACCELERATE_USE_CPU"] = str(kind == "cpu").lower()
    if kind == "cuda" and torch.device(device).index is not None:
        torch.cuda.set_device(device)  # what asks for "cuda" means this one from now on
    if state := sys.modules.get("accelerate.state"):
        known = state.PartialState._shared_state
        if known and known["num_processes"] == 1 and known["device"].type != kind:
            state.AcceleratorState._reset_state(reset_partial_state=True)
    return device


def chose_cpu() -> bool:
    """Whether this process was told to compute on the CPU: by :func:`use`, accelerate or ``$LATENTCLAP_DEVICE``."""
    told = os.environ.get("ACCELERATE_USE_CPU", "")
    if told:
        return told.lower() in ("1", "true", "t", "yes", "y", "on")  # accelerate's words
    return os.environ.get("LATENTCLAP_DEVICE") == "cpu"


def take(names: Sequence[str], folder: Path | None = None, *, pause: float = 1.0) -> str:
    """Hold the first of some GPUs that is free, until this process or the command that it becomes ends.

    Waits while all are held. A lock of the system's goes with its process, however that ends.

    Args:
        names: of GPUs, one at least.
        folder: where the locks are; one of this user's on this machine by default.
        pause: seconds between attempts.

    Raises:
        InputError: the folder's file system has no locks.
    """
    import fcntl

    folder = folder or Path(tempfile.gettempdir()) / f"latentclap-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        for name in names:
            descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError as error:
                os.close(descriptor)
                raise InputError(
                    f"{folder}: no lock can be had there ({error.strerror}), without which two commands would share a"
                    " GPU; set TMPDIR to a folder of this machine's own disk"
                ) from None
            os.set_inheritable(descriptor, True)
            return name
        if not said:
            print(f"waiting for a GPU: {len(names)} of {len(names)} are in use", file=sys.stderr, flush=True)
            said = True
        time.sleep(pause)


def main(command: Sequence[str]) -> int:
    """Become the command, with a GPU of its own where there is one; return only when it cannot be run."""
    if not command:
        print("error: no command; python -m latentclap.gpus COMMAND ...", file=sys.stderr)
        return 2
    names = visible()
    if names:
        try:
            os.environ["CUDA_VISIBLE_DEVICES"] = take(names)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
