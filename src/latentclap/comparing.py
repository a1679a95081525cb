"""``latentclap compare``: systems beside each other, in figures and to hear."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentclap.errors import InputError
from latentclap.files import check_place, plain
from latentclap.locks import alone
from latentclap.options import (
    Device,
    Draws,
    EmbeddingName,
    Quiet,
    VGGishFile,
    VGGishMode,
    at_least,
    check_seconds,
    embedded_on,
    embedding_name,
    load_embedding,
    load_system,
    named_folder,
)

#: what the folder is known by, written last
RECORD = "compare.json"
#: the page's folder, one that is made, and tables
PAGE, PART, CLASSES, CLIPS = "listen", ".listen", "classes.csv", "clips.csv"
#: the page's picture, by which it is known
FIGURE = "systems.png"
#: the page's column of real clips
REAL = "Real"

HELP = """Compare systems by their clips: FAD, KAD, precision, coverage, tests of the differences, and a page to hear.

Each system is a folder of clips, <class>/*.wav, as latentclap generate writes them; the first is what the others are
compared with. Several trainings of a system are several folders under one name: the first of each name belong
together, then the second, as those of one seed.

\b
latentclap compare ldm=clips/ldm latent=clips/latent --reference data/eval -o compared
latentclap compare ldm=a/0 ldm=a/1 ldm=a/2 latent=b/0 latent=b/1 latent=b/2 --reference data/eval -o compared

Classes may have any names, the paper's seven or others, in any spelling ("DoorSlam" is "door_slam"), if all folders
have the same; sounds that lie in no folders are one class. Silent clips are measured like any other, and counted.
compared/listen has the page, classes.csv and clips.csv the figures of each class and clip: how odd it is among real
clips, and which of them it is nearest to. With --training, the folder that the systems learnt from, copies of
training clips are looked for.
"""


def compare(
    systems: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER...", help="Systems, and their clips, <class>/*.wav.")
    ],
    reference: Annotated[
        Path,
        typer.Option("--reference", "-r", help="Folder of real clips, or statistics (.npz) for FAD alone."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for figures and the page.")],
    training: Annotated[
        Path | None, typer.Option(help="Folder of the clips that were trained on: are they given back?")
    ] = None,
    embedding: EmbeddingName = "",
    vggish: VGGishFile = None,
    mode: VGGishMode = None,
    similarity: Annotated[
        bool,
        typer.Option("--similarity", help="Also the similarity of clip and class by --model's CLAP (V-A)."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="System whose CLAP is used, for clap and --similarity; default: mini."),
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="Neighbours that make a ball, for precision and coverage.")
    ] = 5,
    n_boot: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    seconds: Annotated[
        float, typer.Option(help="Seconds compared, from the start of each clip; Table I: 4.")
    ] = 4.0,
    items: Annotated[int, typer.Option(help="Clips of each class on the page; 0: figures alone.")] = 2,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare systems by their clips."""
    folders = grouped(systems)
    name = embedding_name(embedding, vggish, mode)
    if model is not None and name != "clap" and not similarity:
        raise InputError(
            f"--model {model}: {name} embeds without a system; say --embedding clap or --similarity"
        )
    at_least(
        ("--neighbours", neighbours, 1), ("--n-boot", n_boot, 0), ("--seed", seed, 0), ("--items", items, 0)
    )
    check_seconds(seconds)
    place(
        out, [*(f for paths in folders.values() for f in paths), reference, *([training] if training else [])]
    )
    from latentclap.compare import run

    done = run.Run(folders, reference, training, seconds, neighbours, n_boot, seed, items)
    done.find(texts=similarity)
    clap: list[Any] = []

    def system() -> Any:
        if not clap:
            clap.append(load_system(model or "mini", device))
        return clap[0]

    embed = load_embedding(name, vggish, system, device)
    comparison = done.measure(embed, system() if similarity else None, progress=not quiet)
    comparison.settings["device"] = embedded_on(embed)
    try:  # first of all, for whoever reads the first lines may close the pipe
        with alone(out, "another run writes its comparison there"):
            page = done.save(out, progress=not quiet)
    finally:
        typer.echo(comparison.text())
        for warning in done.warnings:
            typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"to hear them side by side: {page}")


def grouped(systems: list[str]) -> dict[str, list[Path]]:
    """NAME=FOLDER arguments as a mapping of names to their folders, one folder for each training of that system.

    Raises:
        InputError: an argument that is not of that form, a folder that is missing or comes twice, or names with other
            numbers of folders.
    """
    folders: dict[str, list[Path]] = {}
    for text in systems:
        name, path = named_folder(text)
        if name == REAL:
            raise InputError(f"{text!r}: {REAL} is the page's column of reference clips; choose another name")
        if not path.is_dir():
            what = "a file, not a folder of clips" if path.exists() else "no such folder of clips"
            raise InputError(f"{name}: {path}: {what}")
        for other, paths in folders.items():
            if path.resolve() in (p.resolve() for p in paths):
                raise InputError(f"{path} is there twice, as {other} and as {name}: give each folder once")
        folders.setdefault(name, []).append(path)
    counts = {name: len(paths) for name, paths in folders.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(
            f"give as many folders of each system, a training each ({told}): they are compared one by one"
        )
    return folders


def place(out: Path, sources: list[Path]) -> None:
    """Check the folder of a comparison before any work: it can be written, and nothing in it would be lost.

    Args:
        out: the folder, new or with an earlier comparison.
        sources: folders and files that are read; they must not lie where the page is replaced, nor around ``out``.

    Raises:
        InputError: it holds other things, lies among the clips, or a source is missing or would be replaced.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such folder or file")
        if any(source.resolve().is_relative_to((out / name).resolve()) for name in (PAGE, PART)):
            raise InputError(f"{source} lies in {out / PAGE}, which is replaced: choose another --out")
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise InputError(
                f"--out {out} lies in {source}, where the next call would find its sounds: choose another"
            )
    check_place(out / RECORD)
    if out.is_dir() and not (out / RECORD).is_file():
        # what a run leaves that was killed before its record; another's page is not ours to replace
        ours = {PART, CLASSES, CLIPS} | ({PAGE} if (out / PAGE / FIGURE).is_file() else set())
        others = [p for p in out.iterdir() if p.name not in ours]
        if others:
            raise InputError(
                f"{out} holds other things than a comparison ({plain(others[0].name)}): choose another folder"
            )
