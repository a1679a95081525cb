"""``latentclap survey``: a blind listening test, of folders of clips."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentclap.errors import InputError
from latentclap.options import (
    Quiet,
    at_least,
    check_seconds,
    named_folder,
)
from latentclap.wording import plural

if TYPE_CHECKING:
    from latentclap.survey import Survey

HELP = """Make blind listening tests as the paper's, a page for each class, from folders of clips of several systems.

Classes may have any names, the paper's seven or others: raters read those of the folders, as words ("door slam" for
Door_Slam or door_slam).

Put pages/ on a web server, or open it from a disk, and keep key.csv, which says whose clip is whose. What raters
save goes into one folder, which notebook 05 analyses with that key."""


def survey(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER...", help="Systems, and their clips, <class>/*.wav.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pages/, key.csv and survey.json.")],
    items: Annotated[int, typer.Option(help="Clips of each system and class; the paper: 15 (V-C).")] = 15,
    classes: Annotated[
        str,
        typer.Option(help="Class names with commas between them, or all; default: those in every folder."),
    ] = "",
    seed: Annotated[
        int, typer.Option(help="Seed of the draw among a folder's clips, and of their new names.")
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Seconds kept, from the start of each clip.")] = 4.0,
    sampling_rate: Annotated[
        int, typer.Option(help="Bring all clips to this rate in Hz; default: as they are.")
    ] = 0,
    intro: Annotated[
        Path | None,
        typer.Option(help="Text that raters read first: who asks, and what becomes of the answers."),
    ] = None,
    thanks: Annotated[
        Path | None, typer.Option(help="Text for whoever has rated every clip: a code of completion, say.")
    ] = None,
    send_to: Annotated[
        str,
        typer.Option(help="Address that takes complete ratings (POST, csv); default: raters save a file."),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a survey of other clips there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """See HELP."""
    folders = _folders(models)
    at_least(("--items", items, 1), ("--seed", seed, 0), ("--sampling-rate", sampling_rate, 0))
    check_seconds(seconds)
    if send_to and not re.match(r"https?://[^/]", send_to):
        raise InputError(f"--send-to {send_to}: give an address that begins with https:// or http://")
    from latentclap.scan.layout import unused
    from latentclap.survey import make_survey  # needs torch

    made = make_survey(
        folders,
        out,
        items=items,
        classes=[name for name in classes.split(",") if name.strip()],
        seed=seed,
        seconds=seconds,
        sampling_rate=sampling_rate,
        intro=_paragraphs(intro),
        thanks=_paragraphs(thanks),
        send_to=send_to,
        overwrite=overwrite,
        progress=not quiet,
    )
    pages = plural(len(made.pages), "class", "classes")
    typer.echo(f"{plural(made.clips, 'clip')}, {pages}: {made.folder / 'pages' / 'index.html'}")
    typer.echo(f"raters read: {', '.join(made.labels.values())}")
    answers, key = (shlex.quote(str(made.folder / name)) for name in ("answers", "key.csv"))
    typer.echo(
        f"with the raters' files in {answers}: papermill notebooks/05_table2.ipynb out.ipynb"
        f" -p ratings_csv {answers} -p ratings_key {key}"
    )
    for line in (line for folder in folders.values() for line in unused(folder)):
        typer.echo(f"warning: {line}", err=True)
    _warn(made, items)


def _warn(made: Survey, items: int) -> None:
    """Tell of classes left out, of silent clips, and of rates by which raters can tell the systems apart."""
    if made.left_out:
        told = "; ".join(
            f"{cls} (not in {', '.join(names)})" for cls, names in list(made.left_out.items())[:5]
        )
        more = f"; and {len(made.left_out) - 5} more" if len(made.left_out) > 5 else ""
        typer.echo(f"warning: classes left out, which not every folder has: {told}{more}", err=True)
    for name, by in made.silent.items():
        told = ", ".join(f"{cls} {count} of {items}" for cls, count in by.items())
        typer.echo(
            f"warning: silent clips of {name}: {told}; they stay silent, and raters are told that a clip may be",
            err=True,
        )
    if len({rate for rates in made.rates.values() for rate in rates}) > 1:
        told = "; ".join(f"{name} {', '.join(map(str, rates))}" for name, rates in made.rates.items())
        typer.echo(
            f"warning: sampling rates in Hz differ ({told}): raters hear that; --sampling-rate brings all to one",
            err=True,
        )


def _folders(models: list[str]) -> dict[str, Path]:
    """NAME=FOLDER arguments as a mapping.

    Raises:
        InputError: an argument of another form, or a name that comes twice.
    """
    folders: dict[str, Path] = {}
    for text in models:
        name, folder = named_folder(text)
        if name in folders:
            raise InputError(f"{name!r} is there twice: each system has a name of its own")
        folders[name] = folder
    return folders


def _paragraphs(path: Path | None) -> list[str]:
    """A text's paragraphs, each as one line."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8") from None
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
