"""Where numbers come from: the code, the commit, the device and the versions behind them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentclap.gpus import chose_cpu
from latentclap.wording import plural

PACKAGES = ("latentclap", "torch", "diffusers", "transformers", "numpy")
#: modules whose code decides what a cached latent, a trained point, a generated clip or a score is. Data and profiles
#: count by their content, so that code that makes or reads them is left out, as is what only shows results.
CORE = (
    "audio",
    "cache",
    "checkpoints",
    "classes",
    "convert",
    "data",
    "diffusion",
    "embeddings",
    "evaluate",
    "fad",
    "fast",
    "finetune",
    "lab",
    "latent_clap",
    "lora",
    "losses",
    "measure",
    "postfilter",
    "pretrain.tasks",
    "storage",
    "system",
    "train",
)


def project_root(start_at: Path | None = None) -> Path:
    """The working copy that holds the current folder (its pyproject names latentclap), else the folder itself."""
    here = (start_at or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "latentclap"' in project.read_text(encoding="utf-8"):
            return folder
    return here


def runs_root() -> Path:
    """Where artefacts go: $LATENTCLAP_RUNS, or runs/ in the working copy."""
    return Path(os.environ.get("LATENTCLAP_RUNS") or project_root() / "runs")


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits that change when anything in a configuration changes."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def code_hash(modules: tuple[str, ...] = CORE) -> str:
    """A hash of the source of some modules: results of other code are never taken for this code's."""
    return config_hash([path.read_text(encoding="utf-8") for name in modules for path in _sources(name)])


def _sources(module: str) -> list[Path]:
    """The files of a module of ours, named from the package on: one, or every file of a package."""
    file = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    # a folder may be left of another version, with nothing but compiled files in it
    files = [file] if file.is_file() else sorted(file.with_suffix("").rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"{file}: no source of module {module}")
    return files


@cache
def commit() -> str:
    """The working copy's commit, with "+" when files differ from it; "unknown" outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=project_root(), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device: str = "") -> str:
    """The GPU's name, or the processor with the number of threads.

    Args:
        device: on which something was computed; empty: that of this process, a GPU where there is one, unless it was
            told to compute on the CPU.
    """
    import torch

    on_cpu = device == "cpu" if device else chose_cpu()
    if torch.cuda.is_available() and not on_cpu:
        return torch.cuda.get_device_name(device or None)
    return f"CPU, {platform.machine()}, {threads()}"


def threads() -> str:
    """ "1 thread", "2 threads": how many torch computes with on a CPU."""
    import torch

    return plural(torch.get_num_threads(), "thread")


def versions() -> dict[str, str]:
    """Installed versions of the packages that a number may depend on."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def origin(device: str = "") -> dict[str, Any]:
    """What every record says of where its numbers come from: ``commit``, ``device`` and ``versions``.

    Args:
        device: as for :func:`device_name`.
    """
    return {"commit": commit(), "device": device_name(device), "versions": versions()}
