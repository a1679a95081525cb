"""The command: ``python -m latentclap.train CONFIG``, also under ``accelerate launch -m latentclap.train CONFIG``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from latentclap.errors import InputError, run_app
from latentclap.gpus import use
from latentclap.launch.processes import launchers_precision, need_launcher
from latentclap.launch.run import Launch
from latentclap.limits import check_values
from latentclap.options import Checkpointing, Compile, Minutes, Precision, Quiet, application
from latentclap.trainfile import TrainFile
from latentclap.wording import plural

app = application()

HELP = """Train by eq. 4 (or φ by eq. 2) on a latent cache; the same command goes on where it stopped.

One process: python -m latentclap.train CONFIG. Several, on one machine or many: accelerate launch --num_processes 8
-m latentclap.train CONFIG. Their number may change from call to call: it is not part of the result, since batch_size
counts over all of them. CONFIG is a TOML file:

\b
profile = "paper"                # models, and the values that are not given below
cache = "data/latents/dcase"     # made by data_scripts/cache_latents.py
folder = "runs/paper/lam2000"    # checkpoint, stats.jsonl, weights; on several machines: seen by all
part = "finetune"                # eq. 4; or "latent_clap": the encoder φ by eq. 2

\b
[finetune]                       # or [latent_clap]
lam = 2000.0
batch_size = 64                  # clips of a pass, over all processes together
grad_accum = 1                   # passes per step: more clips in the same memory
lora_rank = 0                    # 16, say: LoRA adapters train instead of all weights; give a larger lr
"""


@app.command(help=HELP)
def train(
    config: Annotated[Path, typer.Argument(help="TOML file, as above.")],
    minutes: Minutes = 0,
    compile: Compile = False,
    checkpointing: Checkpointing = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights in the order of a GPU's tensor cores.")
    ] = False,
    no_fused: Annotated[
        bool, typer.Option("--no-fused", help="With --compile: diffusers' own UNet, without our kernels.")
    ] = False,
    no_cuda_graph: Annotated[
        bool, typer.Option("--no-cuda-graph", help="With --compile: start each of a step's kernels anew.")
    ] = False,
    precision: Precision = "",
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything; say what would run, and its memory.")
    ] = False,
) -> None:
    """Train from a configuration file."""
    check_values({"minutes": minutes}, "--")
    file = TrainFile.read(config)
    need_launcher()
    given = os.environ.get("LATENTCLAP_DEVICE")
    if given and (given == "cpu" or os.environ.get("WORLD_SIZE", "1") == "1"):  # of several, each has its own
        use(given, named="LATENTCLAP_DEVICE")
    from latentclap.train import processes  # with torch, which takes seconds

    state = processes()
    on_gpu = {
        "--compile": compile,
        "--checkpointing": checkpointing,
        "--channels-last": channels_last,
    }
    if file.part != "finetune" and any(on_gpu.values()):
        asked = next(option for option, on in on_gpu.items() if on)
        raise InputError(f"{asked} is for part finetune, not {file.part}")
    if no_fused and not compile:
        raise InputError("--no-fused goes with --compile: without it the UNet is diffusers' own anyway")
    if no_cuda_graph and not compile:
        raise InputError("--no-cuda-graph goes with --compile: without it no step is recorded anyway")
    launch = Launch(
        file,
        state,
        minutes=minutes,
        quiet=quiet,
        precision=precision or launchers_precision(),
        compile=compile,
        fused=not no_fused,
        cuda_graph=not no_cuda_graph,
        checkpointing=checkpointing,
        channels_last=channels_last,
    )
    said = preview(launch) if dry_run else complete(launch)
    if state.is_main_process:
        typer.echo(said)
    state.destroy_process_group()


def preview(launch: Launch) -> str:
    """What ``--dry-run`` prints: the run, where it would compute, its memory, and whether it is finished.

    Raises:
        InputError: see :meth:`Launch.check`.
    """
    found = launch.check()
    processes = plural(launch.state.num_processes, "process", "processes")
    lines = [f"{launch.describe()}; {processes}, {launch.state.device}"]
    if launch.file.part == "finetune":
        lines.append(launch.foretell())
    return "\n".join([*lines, found] if found else lines)


def complete(launch: Launch) -> str:
    """Train as a command line does; return the line that says how far it is.

    Raises:
        InputError: the training cannot go on.
        SystemExit: a signal ended it, with a checkpoint.
    """
    from latentclap.train import Interrupted, TrainingError

    try:
        return launch.run()
    except TrainingError as error:
        raise InputError(str(error)) from None
    except (Interrupted, KeyboardInterrupt) as stop:
        if not str(stop):  # a second Ctrl-C, which does not wait
            raise
        if launch.state.is_main_process:
            typer.echo(stop, err=True)
        launch.state.destroy_process_group()
        raise SystemExit(getattr(stop, "code", 130)) from None  # 128 + the signal, as a shell counts


def main() -> int:
    """Run the command line; a user's mistake is one ``error: ...`` line and status 2."""
    return run_app(app)
