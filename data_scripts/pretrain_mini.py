"""Train the mini family from nothing: CLAP, VAE, vocoder, LDM, Latent CLAP encoder and judge.

\b
python data_scripts/pretrain_mini.py corpus
python data_scripts/pretrain_mini.py train all
python data_scripts/pretrain_mini.py export src/latentclap/weights/mini

The yardstick, a judge trained on real recordings only, and what it and others say of the family:

\b
python data_scripts/pretrain_mini.py corpus --work runs/pretrain/yardstick --per-class 0 --real FOLDER
python data_scripts/pretrain_mini.py train judge --work runs/pretrain/yardstick
python data_scripts/pretrain_mini.py measure --real FOLDER

Every command may be stopped and given again: it goes on where it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import SafetensorError

from latentclap.errors import InputError, run_app
from latentclap.files import write_json
from latentclap.models import SIZES, size
from latentclap.options import Device, application, device_for
from latentclap.pretrain import corpus as corpora
from latentclap.pretrain.export import export as export_family
from latentclap.pretrain.quality import lines, measure_family, sampler_sweep
from latentclap.pretrain.stages import STAGES, run_stage, whiten_vae
from latentclap.pretrain.work import Work
from latentclap.train.records import pack as pack_checkpoint
from latentclap.wording import file_size, human

app = application(__doc__, no_args_is_help=True)

WorkFolder = Annotated[Path, typer.Option("--work", help="Folder of the training run.")]
Size = Annotated[str, typer.Option("--size", help=f"Model size: {' or '.join(SIZES)}.")]
Start = Annotated[
    str, typer.Option(help="A trained family to go on from, for example mini (the package's own).")
]
Family = Annotated[str, typer.Argument(help="A family's folder, or mini: the package's own.")]
Judge = Annotated[
    Path,
    typer.Option(help="Yardstick: judge trained on real recordings only, in a work folder of its own."),
]
HeldOut = Annotated[
    list[Path] | None, typer.Option(help="Folder of recordings in DCASE layout; its eval side is used.")
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: torch's own choice.", min=0)]
YARDSTICK = Path("runs/pretrain/yardstick/judge")


@app.command()
def corpus(
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Size = "mini",
    per_class: Annotated[
        int, typer.Option(help="Procedural clips of each of the seven classes.", min=0)
    ] = 400,
    per_family: Annotated[int, typer.Option(help="Procedural clips of each further family.", min=0)] = 60,
    real: Annotated[
        list[Path] | None, typer.Option(help="Folder of recordings in DCASE layout; may be given again.")
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of other recordings with a meta.csv; may be given again."),
    ] = None,
    real_copies: Annotated[int, typer.Option(help="How often each recording is in.", min=1)] = 1,
    seed: Annotated[
        int, typer.Option(help="Seed of procedural clips and of the split by recording.", min=0)
    ] = 0,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
) -> None:
    """Make the training corpus."""
    made = corpora.build(
        work / "corpus.safetensors",
        samples=size(size_name)["frames"] * 160,
        per_class=per_class,
        per_family=per_family,
        real=real or (),
        other=other or (),
        real_copies=real_copies,
        seed=seed,
        workers=workers,
    )
    typer.echo(
        f"{len(made)} clips, {made.kind.count(corpora.REAL)} of them real: {work / 'corpus.safetensors'}"
    )


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


def load_corpus(work: Path) -> corpora.Corpus:
    """The corpus of a training run.

    Raises:
        InputError: it has not been made, or its file is damaged.
    """
    path = work / "corpus.safetensors"
    if not path.is_file():
        raise InputError(f"{path} is missing: make it with the command corpus, with the same --work")
    try:
        return corpora.load(path)
    except SafetensorError as error:
        raise InputError(
            f"{path}: damaged ({error}); remove it, and make it again with the command corpus"
        ) from None


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help=f"{', '.join(STAGES)}, or all.")],
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Size = "mini",
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps in all; default: the stage's own.", min=1)
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Stop after this time, with a checkpoint; 0: run to the end.", min=0)
    ] = 0,
    start: Start = "",
    lr: Annotated[float | None, typer.Option(help="Learning rate; default: the stage's own.", min=0)] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of order and noise.", min=0)] = 0,
    threads: Threads = 0,
) -> None:
    """Train one stage, or all in their order."""
    _set_threads(threads)
    torch.set_flush_denormal(True)  # an untrained vocoder's signals are tiny, and denormals are slow on a CPU
    if stage != "all" and stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}; there are {', '.join(STAGES)}, or all")
    folder = Work(work, size_name, load_corpus(work), device_for(device))
    if start:
        folder.begin_with(start)
    for name in STAGES if stage == "all" else [stage]:
        result = run_stage(name, folder, steps=steps, minutes=minutes, lr=lr, seed=seed)
        typer.echo(f"{name}: step {result.step}, {result.seconds:.0f} s, {json.dumps(result.history[-1])}")


@app.command()
def pack(
    stage: Annotated[str, typer.Argument(help=", ".join(STAGES))],
    out: Annotated[Path, typer.Argument(help="File to write.")],
    work: WorkFolder = Path("runs/pretrain/mini"),
) -> None:
    """Write a stage's checkpoint small enough to travel: averaged weights in half precision, without Adam's moments.

    On the other machine make the same corpus, put the file at WORK/STAGE/checkpoint.pt, and give train again.
    """
    if stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}; there are {', '.join(STAGES)}")
    step = pack_checkpoint(work / stage, out)
    typer.echo(f"{out}: {file_size(out)}, goes on from step {step}")


@app.command()
def whiten(
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Size = "mini",
    start: Start = "",
) -> None:
    """Whiten the latents of a VAE that came from --start; stage vae does so by itself at its end."""
    folder = Work(work, size_name, load_corpus(work))
    if start:
        folder.begin_with(start)
    folder.need("vae")
    typer.echo(json.dumps(whiten_vae(folder)))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("src/latentclap/weights/mini"),
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Size = "mini",
) -> None:
    """Write the family as float16 safetensors with its model card."""
    card = export_family(Work(work, size_name, load_corpus(work)), out)
    typer.echo(f"{out}: {human(card['bytes'])}")


@app.command()
def measure(
    family: Family = "mini",
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")] = Path(
        "runs/pretrain/quality.json"
    ),
    work: WorkFolder = Path("runs/pretrain/mini"),
    judge: Judge = YARDSTICK,
    real: HeldOut = None,
    clips: Annotated[int, typer.Option(help="Generated clips per class.", min=1)] = 50,
    profile: Annotated[str, typer.Option(help="Profile whose sampling settings are used.")] = "quick",
    seed: Annotated[int, typer.Option(help="Seed of generation, and of the split by recording.", min=0)] = 0,
    before: Annotated[
        str, typer.Option(help="An earlier family, to compare errors at the noise levels with.")
    ] = "",
    threads: Threads = 0,
) -> None:
    """Measure a family on recordings held out by recording: yardstick, reconstructions, CLAP, memorisation."""
    _set_threads(threads)
    report = measure_family(
        family,
        judge,
        real or [],
        load_corpus(work),
        clips=clips,
        profile=profile,
        seed=seed,
        before=before,
    )
    write_json(out, report)
    typer.echo("\n".join([*lines(report), f"written: {out}"]))


@app.command()
def samplers(
    family: Family = "mini",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON file, written after every point; goes on where it ends.")
    ] = Path("runs/pretrain/samplers.json"),
    judge: Judge = YARDSTICK,
    real: HeldOut = None,
    clips: Annotated[int, typer.Option(help="Generated clips per class and point.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of generation.", min=0)] = 0,
    threads: Threads = 0,
) -> None:
    """Quality against steps and guidance, for DDIM and DPM-Solver++."""
    _set_threads(threads)
    for point in sampler_sweep(family, judge, real or [], out, clips=clips, seed=seed):
        typer.echo(
            f"{point['sampler']:<12} {point['steps']:>4} steps, guidance {point['guidance_scale']:g}:"
            f" yardstick {point['verdict']['accuracy']:.2f}, FAD {point['fad']:.1f},"
            f" {point['seconds_per_clip']:.2f} s a clip"
        )


if __name__ == "__main__":
    sys.exit(run_app(app))
