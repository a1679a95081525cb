"""Train the mini family from nothing: CLAP, VAE, vocoder, LDM, Latent CLAP encoder and judge.

    python data_scripts/pretrain_mini.py corpus
    python data_scripts/pretrain_mini.py train all
    python data_scripts/pretrain_mini.py export src/latentclap/weights/mini

The yardstick, a judge trained on real recordings only, and what it and others say of the family:

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
from latentclap.gpus import use
from latentclap.models import size
from latentclap.pretrain import corpus as corpora
from latentclap.pretrain.export import export as export_family
from latentclap.pretrain.quality import lines, measure_family, sampler_sweep
from latentclap.pretrain.stages import STAGES, Work, run_stage, whiten_vae
from latentclap.train.records import pack as pack_checkpoint
from latentclap.wording import file_size, human

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

WorkFolder = Annotated[Path, typer.Option("--work", help="folder of the training run")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Size = Annotated[str, typer.Option(help="model size, a key of latentclap.models.SIZES")]


@app.command()
def corpus(
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Annotated[str, typer.Option("--size", help="model size: its clip length is used")] = "mini",
    per_class: Annotated[
        int, typer.Option(help="procedural clips of each of the seven classes", min=0)
    ] = 400,
    per_family: Annotated[int, typer.Option(help="procedural clips of each further family", min=0)] = 60,
    real: Annotated[
        list[Path] | None, typer.Option(help="folder of recordings in DCASE layout; repeatable")
    ] = None,
    other: Annotated[
        list[Path] | None, typer.Option(help="folder of other recordings with a meta.csv; repeatable")
    ] = None,
    real_copies: Annotated[int, typer.Option(help="how often each recording is in", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="of procedural clips and of the split by recording", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="processes", min=1)] = 2,
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
    stage: Annotated[str, typer.Argument(help=f"{', '.join(STAGES)}, or all")],
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Annotated[str, typer.Option("--size", help="model size")] = "mini",
    steps: Annotated[
        int | None, typer.Option(help="optimiser steps in all [default: the stage's own]", min=1)
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="stop after this time, with a checkpoint; 0: run to the end", min=0)
    ] = 0,
    start: Annotated[
        str, typer.Option(help="a trained family to go on from, for example mini (the package's own)")
    ] = "",
    lr: Annotated[float | None, typer.Option(help="learning rate [default: the stage's own]", min=0)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = DEVICE,
    seed: Annotated[int, typer.Option(help="of order and noise", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's own choice", min=0)] = 0,
) -> None:
    """Train one stage, or all in their order."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # an untrained vocoder's signals are tiny, and denormals are slow on a CPU
    if stage != "all" and stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}; there are {', '.join(STAGES)}, or all")
    folder = Work(work, size_name, load_corpus(work), use(device))
    if start:
        folder.begin_with(start)
    for name in STAGES if stage == "all" else [stage]:
        result = run_stage(name, folder, steps=steps, minutes=minutes, lr=lr, seed=seed)
        typer.echo(f"{name}: step {result.step}, {result.seconds:.0f} s, {json.dumps(result.history[-1])}")


@app.command()
def pack(
    stage: Annotated[str, typer.Argument(help=", ".join(STAGES))],
    out: Annotated[Path, typer.Argument(help="file to write")],
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
    size_name: Annotated[str, typer.Option("--size", help="model size")] = "mini",
    start: Annotated[str, typer.Option(help="a trained family to go on from")] = "",
) -> None:
    """Whiten the latents of a VAE that came from --start; stage vae does so by itself at its end."""
    folder = Work(work, size_name, corpora.load(work / "corpus.safetensors"))
    if start:
        folder.begin_with(start)
    folder.need("vae")
    typer.echo(json.dumps(whiten_vae(folder)))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="folder to write")] = Path("src/latentclap/weights/mini"),
    work: WorkFolder = Path("runs/pretrain/mini"),
    size_name: Annotated[str, typer.Option("--size", help="model size")] = "mini",
) -> None:
    """Write the family as float16 safetensors with its model card."""
    card = export_family(Work(work, size_name, load_corpus(work)), out)
    typer.echo(f"{out}: {human(card['bytes'])}")


@app.command()
def measure(
    family: Annotated[str, typer.Argument(help="a family's folder, or mini: the package's own")] = "mini",
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/pretrain/quality.json"),
    work: WorkFolder = Path("runs/pretrain/mini"),
    judge: Annotated[
        Path,
        typer.Option(help="yardstick: judge trained on real recordings only, in a work folder of its own"),
    ] = Path("runs/pretrain/yardstick/judge"),
    real: Annotated[
        list[Path] | None, typer.Option(help="folder of recordings in DCASE layout; its eval side is used")
    ] = None,
    clips: Annotated[int, typer.Option(help="generated clips per class", min=1)] = 50,
    profile: Annotated[str, typer.Option(help="whose sampling settings are used")] = "quick",
    seed: Annotated[int, typer.Option(help="of generation, and of the split by recording", min=0)] = 0,
    before: Annotated[
        str, typer.Option(help="an earlier family, to compare errors at the noise levels with")
    ] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's own choice", min=0)] = 0,
) -> None:
    """Measure a family on recordings held out by recording: yardstick, reconstructions, CLAP, memorisation."""
    if threads:
        torch.set_num_threads(threads)
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
    family: Annotated[str, typer.Argument(help="a family's folder, or mini: the package's own")] = "mini",
    out: Annotated[
        Path, typer.Option(help="JSON file, written after every point; goes on where it ends")
    ] = Path("runs/pretrain/samplers.json"),
    judge: Annotated[Path, typer.Option(help="the yardstick, see measure")] = Path(
        "runs/pretrain/yardstick/judge"
    ),
    real: Annotated[
        list[Path] | None, typer.Option(help="folder of recordings in DCASE layout; its eval side is used")
    ] = None,
    clips: Annotated[int, typer.Option(help="generated clips per class and point")] = 8,
    seed: Annotated[int, typer.Option(help="of generation")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's own choice")] = 0,
) -> None:
    """Quality against steps and guidance, for DDIM and DPM-Solver++."""
    if threads:
        torch.set_num_threads(threads)
    for point in sampler_sweep(family, judge, real or [], out, clips=clips, seed=seed):
        typer.echo(
            f"{point['sampler']:<12} {point['steps']:>4} steps, guidance {point['guidance_scale']:g}:"
            f" yardstick {point['verdict']['accuracy']:.2f}, FAD {point['fad']:.1f},"
            f" {point['seconds_per_clip']:.2f} s a clip"
        )


if __name__ == "__main__":
    sys.exit(run_app(app))
