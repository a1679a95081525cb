"""Make the embedded data set: procedural Foley in the layout of DCASE 2023 Task 7."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from latentclap.errors import run_app
from latentclap.foley import FAMILIES, make_dataset
from latentclap.options import Quiet, application

app = application()


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the data set; it is made if it does not exist.")],
    per_class: Annotated[int, typer.Option(help="Development clips per class.")] = 100,
    eval_per_class: Annotated[int, typer.Option(help="Evaluation clips per class.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the whole set: the same seed gives the same files.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; the files do not depend on it.")] = 1,
    classes: Annotated[str, typer.Option(help="Comma-separated families; empty: the seven classes.")] = "",
    seconds: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 4.0,
    list_families: Annotated[bool, typer.Option("--list", help="Print the families and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write procedural Foley clips with captions. Interrupted, the same command goes on where it was."""
    if list_families:
        typer.echo("\n".join(FAMILIES))
        return
    names = [name.strip() for name in classes.split(",") if name.strip()] or None
    with tqdm(unit="clip", disable=True if quiet else None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        make_dataset(
            folder,
            per_class=per_class,
            eval_per_class=eval_per_class,
            seed=seed,
            workers=workers,
            classes=names,
            seconds=seconds,
            progress=show,
        )
    typer.echo(f"{folder}: {per_class} dev and {eval_per_class} eval clips per class")


if __name__ == "__main__":
    sys.exit(run_app(app))
