"""One case tried: the command runs in a folder of its own, and what it said and left is written down."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from badinput.cases import Case
from badinput.material import Shelf
from latentclap.book.badinput import faults

TIMEOUT = 1200.0
#: what the installed script does; so it is this Python's latentclap that is tried, installed or not
_ENTRY = "import sys; sys.argv[0] = 'latentclap'; from latentclap.__main__ import main; main()"
#: root's rights to read and to write what may not be read or written (linux/capability.h)
_DAC_OVERRIDE, _DAC_READ_SEARCH, _PR_CAPBSET_DROP = 1, 2, 24


@dataclass
class Outcome:
    """What a command did with a case.

    Attributes:
        group, name, command: the case.
        status: exit status.
        says: last line of stderr, without this machine's paths.
        lines: lines of stderr that are not empty.
        traceback: whether one was shown.
        left: files and folders that are new in the working folder.
        seconds: wall time.
    """

    group: str
    name: str
    command: str
    status: int
    says: str
    lines: int
    traceback: bool
    left: list[str]
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What is not as it should be; papermill's own words and its log of the notebook are."""
        return faults(vars(self))


def run_case(case: Case, scratch: Path, shelf: Shelf, root: Path) -> Outcome:
    """Run a case in a folder of its own below ``scratch``; ``root`` is the working copy.

    Root may read and write everything, which would make some mistakes none: the command runs without that right.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="case-"))
    (folder / ".tmp").mkdir()
    for name, material in case.needs.items():
        source = shelf.get(material)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy2(source, folder / name)
    arguments = _arguments(case, shelf, root)
    before, start = content(folder), time.monotonic()
    status, stderr = _run(arguments, folder, case.room)
    lines = [line for line in stderr.splitlines() if line.strip()]
    outcome = Outcome(
        group=case.group,
        name=case.name,
        command=case.shown,
        status=status,
        says=_portable(lines[-1] if lines else "", folder, shelf, root),
        lines=len(lines),
        traceback="Traceback (most recent call last)" in stderr,
        left=sorted(content(folder) - before),
        seconds=round(time.monotonic() - start, 1),
    )
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _run(arguments: list[str], folder: Path, room: int) -> tuple[int, str]:
    """Exit status and stderr; a command that never ends is stopped, which is a fault of its own."""
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            preexec_fn=lambda: _restrict(room),
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL, f"no end after {TIMEOUT:g} s"
    return done.returncode, done.stderr


def _arguments(case: Case, shelf: Shelf, root: Path) -> list[str]:
    """The command's words: materials made, tools of this environment, files of the working copy."""
    tool, *words = (
        re.sub(r"\{(\w+)\}", lambda m: str(shelf.get(m[1])), word) for word in shlex.split(case.command)
    )
    ours = ("data_scripts/", "notebooks/")
    words = [str(root / word) if word.startswith(ours) else word for word in words]
    if tool == "latentclap":
        return [sys.executable, "-c", _ENTRY, *words]
    return [sys.executable if tool == "python" else str(Path(sys.executable).with_name(tool)), *words]


def _environment(folder: Path) -> dict[str, str]:
    own = {
        "LATENTCLAP_RUNS": "runs",
        "LATENTCLAP_DATA": "",
        "TMPDIR": str(folder / ".tmp"),  # what is left there is left, too
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_COLOR": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "torch"),  # torch makes it when it is imported
        "TQDM_DISABLE": "1",  # a bar is no line; where there is no terminal most of ours are silent anyway
    }
    return {k: v for k, v in os.environ.items() if k != "LATENTCLAP_DEBUG"} | own


def _restrict(room: int) -> None:
    """In the child, before the command starts."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails, rightly, for who is not root
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


def content(folder: Path) -> set[str]:
    """Everything below a folder by its relative path; folders end with a slash."""
    found = set()
    for at, folders, names in os.walk(folder):
        here = Path(at).relative_to(folder)
        found |= {(here / name).as_posix() for name in names}
        found |= {(here / name).as_posix() + "/" for name in folders}
    return found


def _portable(line: str, folder: Path, shelf: Shelf, root: Path) -> str:
    names = {f"{folder}/": "", str(folder): ".", str(root): "<repository>", sys.prefix: "<environment>"}
    names |= {str(path): f"<{name}>" for name, path in shelf.made.items()}
    for path in sorted(names, key=len, reverse=True):
        line = line.replace(path, names[path])
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
