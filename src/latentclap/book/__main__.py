"""``python -m latentclap.book``: the steps between executed notebooks and the built book."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from latentclap.book.serve import serve
from latentclap.errors import InputError, run_app

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.command()(serve)
STATIC = Annotated[Path, typer.Option(help="The book's _static folder.")]


@app.command()
def collect(
    notebooks: Annotated[list[Path], typer.Argument(help="Executed notebooks.")],
    out: Annotated[Path, typer.Option(help="The book's folder of notebooks.")] = Path("book/notebooks"),
    static: STATIC = Path("book/_static"),
    base: Annotated[Path, typer.Option(help="Working directory in which they were executed.")] = Path("."),
    name: Annotated[str, typer.Option(help="Name of the page, for a single notebook.")] = "",
) -> None:
    """Copy executed notebooks and their players into the book, and rewrite the players' paths."""
    from latentclap.book.collect import collect_notebook

    if name and len(notebooks) > 1:
        raise InputError("--name goes with a single notebook")
    for notebook in notebooks:
        done = collect_notebook(notebook, out, static, base=base, name=name or None)
        typer.echo(f"{done.notebook}: {done.players} players")


@app.command()
def downloads(
    folder: Annotated[Path, typer.Argument(help="The built book.")] = Path("book/_build/html"),
) -> None:
    """Put the players' files into the notebooks that the built book gives to download."""
    from latentclap.book.collect import self_contained

    typer.echo(f"{folder}: {self_contained(folder)} notebooks carry their players")


@app.command()
def listening(
    sources: Annotated[list[Path], typer.Argument(help="listening.json files of runs.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/listening.md"),
    static: STATIC = Path("book/_static"),
    scale: Annotated[
        Path | None, typer.Option(help="What `similarity` wrote; absent: no such lines.")
    ] = None,
) -> None:
    """Write the listening page's grids from the items that notebooks 03 and 04 saved."""
    from latentclap.book.pages import listening_page

    typer.echo(f"{out}: {listening_page(sources, out, static, scale=scale)} players")


@app.command()
def similarity(
    out: Annotated[Path, typer.Option(help="JSON to write.")],
    profile: Annotated[str, typer.Option(help="Name, or path of a .toml file.")] = "quick",
    data: Annotated[str, typer.Option(help="Folder in DCASE layout; empty: the profile's.")] = "",
) -> None:
    """Measure what evaluation clips reach with their own prompt and with the others', for the listening page."""
    from latentclap.book.similarity import measure_similarity
    from latentclap.lab import Lab
    from latentclap.profiles import load_profile

    typer.echo(str(measure_similarity(Lab(load_profile(profile), data, progress=False), out)))


@app.command()
def modelcard(
    card: Annotated[Path, typer.Argument(help="model_card.json beside the weights.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/model_card.md"),
    times: Annotated[Path | None, typer.Option(help="Record of data_scripts/benchmarks/family.py.")] = None,
    listen: Annotated[
        Path | None, typer.Option(help="listening.json of notebook 03, for its players.")
    ] = None,
    static: STATIC = Path("book/_static"),
) -> None:
    """Write the model card's page from the card that ships with the weights."""
    from latentclap.book.pages import model_card

    typer.echo(str(model_card(card, out, times=times, listen=listen, static=static)))


@app.command()
def fidelity(
    results: Annotated[Path, typer.Argument(help="results.json that tests/fidelity/compare.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/fidelity.md"),
) -> None:
    """Write the tables of the page that compares our parts with implementations that are not ours."""
    from latentclap.book.fidelity import fidelity_tables

    typer.echo(f"{out}: {fidelity_tables(results, out)} comparisons")


@app.command()
def rate(
    sources: Annotated[list[Path], typer.Argument(help="listening.json of notebook 04.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/rate.md"),
    static: Annotated[Path, typer.Option(help="The book's _static.")] = Path("book/_static"),
) -> None:
    """Write the page on which a reader rates the book's clips blind."""
    from latentclap.book.rating import rating_page

    typer.echo(f"{out}: {rating_page(sources, out, static)} clips")


@app.command()
def start(
    sources: Annotated[list[Path], typer.Argument(help="listening.json of notebook 04.")],
    record: Annotated[Path, typer.Option(help="Record of the longest run of notebook 04, by `keep`.")],
    sweep: Annotated[Path, typer.Option(help="Record of the longest run of notebook 06, by `keep`.")],
    out: Annotated[
        Path, typer.Option(help="Markdown to write; the result goes into result.md beside it.")
    ] = Path("book/generated/start.md"),
    static: STATIC = Path("book/_static"),
) -> None:
    """Write what the start page has to hear and to tell at once."""
    from latentclap.book.start import start_page

    typer.echo(f"{out}: {start_page(sources, record, sweep, out, static)} players")


@app.command()
def loops(
    sources: Annotated[list[Path], typer.Argument(help="listening.json of notebook 04.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/loops.md"),
    static: Annotated[Path, typer.Option(help="The book's _static.")] = Path("book/_static"),
) -> None:
    """Write players of seamless loops for the page on clips for a mix or a game."""
    from latentclap.book.loops import loops_page

    typer.echo(f"{out}: {loops_page(sources, out, static)} loops")


@app.command()
def badinput(
    record: Annotated[Path, typer.Argument(help="JSON that data_scripts/bad_input.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/bad_input.md"),
) -> None:
    """Write the page of what the commands say to bad input from its record."""
    from latentclap.book.badinput import bad_input_page

    typer.echo(str(bad_input_page(record, out)))


@app.command()
def cost(
    rates: Annotated[Path, typer.Argument(help="Measured rates and published throughputs (JSON).")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/cost.md"),
    speed: Annotated[
        list[Path] | None,
        typer.Option(help="Record of data_scripts/benchmarks/speed.py; may be given again."),
    ] = None,
    own: Annotated[Path | None, typer.Option(help="Run folder of notebook 07 on this machine.")] = None,
    built: Annotated[str, typer.Option(help="Profile that the book is built with.")] = "quick",
) -> None:
    """Write the tables of the page on GPU-hours."""
    from latentclap.book.scale import cost_tables

    metrics = own / "metrics.json" if own else None
    typer.echo(str(cost_tables(rates, out, speed=speed or (), own=metrics, built=built)))


@app.command()
def cache(
    record: Annotated[Path, typer.Argument(help="JSON that data_scripts/benchmarks/cache_rate.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/cache_rate.md"),
) -> None:
    """Write the table of where the time of the latent cache goes."""
    from latentclap.book.scale import cache_table

    typer.echo(str(cache_table(record, out)))


@app.command()
def lora(
    record: Annotated[Path, typer.Argument(help="JSON that data_scripts/benchmarks/lora.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/lora.md"),
) -> None:
    """Write the tables of what LoRA trains, and how."""
    from latentclap.book.lora import lora_tables

    typer.echo(str(lora_tables(record, out)))


@app.command()
def forgetting(
    record: Annotated[Path, typer.Argument(help="JSON that data_scripts/benchmarks/forgetting.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/forgetting.md"),
) -> None:
    """Write what fine-tuning on other sounds does to what a system knew."""
    from latentclap.book.forgetting import forgetting_page

    typer.echo(str(forgetting_page(record, out)))


@app.command()
def speed(
    records: Annotated[list[Path], typer.Argument(help="JSON that data_scripts/benchmarks/speed.py wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/speed.md"),
) -> None:
    """Write the tables of training and generation at full size."""
    from latentclap.book.speed import speed_page

    typer.echo(str(speed_page(records, out)))


@app.command()
def keep(
    folder: Annotated[Path, typer.Argument(help="Run folder of notebook 02, 04 or 06.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")],
) -> None:
    """Keep what a long run of a notebook measured, for its page in the book."""
    from latentclap.book import longer as module

    typer.echo(str(module.keep(folder, out)))


@app.command()
def longer(
    record: Annotated[Path, typer.Argument(help="JSON that `keep` wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/longer.md"),
) -> None:
    """Write what a long run of a notebook found, with its figure."""
    from latentclap.book.longer import longer_page

    typer.echo(str(longer_page(record, out)))


@app.command()
def keep_own(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished `latentclap finetune`.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it is replaced.")],
) -> None:
    """Keep a run of `latentclap finetune`, for the page on sounds of one's own."""
    from latentclap.book import own as module

    typer.echo(str(module.keep_own(folder, out)))


@app.command()
def own(
    record: Annotated[Path, typer.Argument(help="Folder that `keep-own` wrote.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/own.md"),
    static: Annotated[Path, typer.Option(help="The book's _static.")] = Path("book/_static"),
) -> None:
    """Write what a kept run of `latentclap finetune` measured, with players."""
    from latentclap.book.own import own_page

    typer.echo(str(own_page(record, out, static)))


@app.command()
def vary(
    record: Annotated[Path, typer.Argument(help="Folder that data_scripts/benchmarks/vary.py wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown to write.")] = Path(
        "book/generated/vary.md"
    ),
    static: Annotated[Path, typer.Option(help="The book's _static.")] = Path("book/_static"),
) -> None:
    """Write what was measured of variations of sounds, with players."""
    from latentclap.book.vary import vary_page

    typer.echo(str(vary_page(record, out, static)))


@app.command()
def compare(
    comparison: Annotated[Path, typer.Argument(help="compare.json of `latentclap compare`.")],
    real: Annotated[Path, typer.Argument(help="Another one, of real clips in the place of a system.")],
    measures: Annotated[Path, typer.Argument(help="JSON of data_scripts/benchmarks/measures.py.")],
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/compare.md"),
) -> None:
    """Write what a kept comparison found, and what a simulation says of its measures."""
    from latentclap.book.compare import compare_page

    typer.echo(str(compare_page(comparison, real, measures, out)))


@app.command()
def predictions(
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/predictions.md"),
) -> None:
    """Write how eq. 3 pulls at networks that predict something else than noise, with its figure."""
    from latentclap.book.predictions import predictions_page

    typer.echo(str(predictions_page(out)))


@app.command()
def commands(
    out: Annotated[Path, typer.Option(help="Markdown to write.")] = Path("book/generated/commands.md"),
) -> None:
    """Write the page of what every command says to --help."""
    from latentclap.book.commands import commands_page

    typer.echo(f"{out}: {commands_page(out)} commands")


if __name__ == "__main__":
    sys.exit(run_app(app))
