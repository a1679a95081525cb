"""``python -m latentclap.workflow``: small steps of the Snakefile and the Makefile."""

from __future__ import annotations

import csv
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_text
from latentclap.limits import check_profile
from latentclap.needs import every_class, missing
from latentclap.options import application
from latentclap.profiles import load_profile

app = application(__doc__, no_args_is_help=True)


def run_folder(notebook: Path) -> Path:
    """The run folder that an executed notebook printed.

    Raises:
        InputError: the notebook did not get as far as its second cell.
    """
    for cell in read_json(notebook)["cells"]:
        for output in cell.get("outputs", []):
            found = re.search(r"^artefacts: (.+)$", "".join(output.get("text", "")), re.MULTILINE)
            if found:
                return Path(found[1])
    raise InputError(f"{notebook} names no run folder: it did not run")


@app.command()
def check(
    profile: Annotated[str, typer.Option(help="Name, or path of a .toml file.")] = "quick",
    data: Annotated[str, typer.Option(help="Folder in DCASE layout; empty: the profile's.")] = "",
) -> None:
    """Look at a profile, what it names, and every file of a data folder, before anything runs; list what is amiss."""
    chosen = load_profile(profile)
    check_profile(chosen)
    lacking = missing(chosen, data)
    if lacking:
        typer.echo("\n".join(lacking))
        raise InputError(
            f"{len(lacking)} that profile {chosen.name} names are not there; the book's page How to reproduce"
            " (book/reproduce.md) has all commands in their order"
        )
    folder = os.path.expanduser(data or chosen.data.folder)
    if not folder:
        return
    from latentclap.data import load_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table says more
        dataset = load_dataset(folder, dev_fraction=chosen.data.dev_fraction, seed=chosen.data.seed)
    problems = dataset.report.table()
    if len(problems):
        typer.echo(f"not used of {folder}:\n{problems.to_string(index=False)}")
    empty = [side for side in ("dev", "eval") if not dataset.split(side)]
    if empty:
        raise InputError(
            f"{folder}: {len(dataset)} clips of {len({c.recording for c in dataset.clips})} recordings leave the"
            f" {empty[0]} side empty; a class needs clips of at least two recordings"
        )
    every_class(dataset, folder)
    typer.echo(f"{folder}: {len(dataset.split('dev'))} dev and {len(dataset.split('eval'))} eval clips")


@app.command()
def artefacts(
    notebook: Annotated[Path, typer.Argument(help="An executed notebook.")],
    listening: Annotated[bool, typer.Option(help="Also note its listening items beside it.")] = False,
) -> None:
    """Print the run folder of an executed notebook."""
    folder = run_folder(notebook)
    items = folder / "listening.json"
    if listening and items.is_file():
        write_text(notebook.with_suffix(".listening"), f"{items}\n")
    typer.echo(folder)


@app.command()
def summary(
    executed: Annotated[
        Path, typer.Argument(help="Folder of executed notebooks, with Snakemake's benchmarks.")
    ],
    seconds: Annotated[float, typer.Option(help="Wall time of the whole command.")] = 0.0,
    install: Annotated[Path | None, typer.Option(help="File with the installation's seconds.")] = None,
    html: Annotated[Path, typer.Option(help="The built book.")] = Path("book/_build/html"),
) -> None:
    """Print time and memory per stage, pages and players, and where the book lies."""
    typer.echo(f"{'stage':<20}{'seconds':>9}{'peak MB':>9}")
    if install and install.is_file():
        typer.echo(f"{'installation':<20}{float(install.read_text()):>9.0f}{'':>9}")
    for path in sorted(executed.glob("*.tsv")):
        with open(path, encoding="utf-8", newline="") as stream:
            row = next(csv.DictReader(stream, delimiter="\t"))
        typer.echo(f"{path.stem:<20}{float(row['s']):>9.0f}{_number(row['max_rss']):>9}")
    index = html / "index.html"
    if not index.is_file():
        raise InputError(f"{index} is missing: the book was not built")
    # sources that the reference links to are no pages
    pages = sorted(p for p in html.glob("**/*.html") if "_modules" not in p.relative_to(html).parts)
    players = sum(page.read_text(encoding="utf-8").count("<audio ") for page in pages)
    typer.echo(
        f"{'this call':<20}{seconds:>9.0f}   stages of earlier calls are listed with the time they took then"
    )
    typer.echo(f"{len(pages)} pages, {players} players: {index.resolve()}")


def _number(text: str) -> str:
    return f"{float(text):.0f}" if text not in ("-", "") else "-"


if __name__ == "__main__":
    sys.exit(run_app(app))
