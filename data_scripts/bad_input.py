"""Give every public command bad input and write down what it says.

\b
python data_scripts/bad_input.py run                    # all cases, to the record that the book shows
python data_scripts/bad_input.py run --only generate    # those whose group or name has the word

The cases are in data_scripts/badinput/cases.toml. A case is as it should be when the command ends with a status
that is not zero, says one line (of a notebook: its last line), shows no traceback and leaves nothing behind, except a
notebook's log.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from badinput import Case, Outcome, Shelf, read_cases, run_case
from latentclap.book.badinput import tables
from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json, write_text
from latentclap.options import application

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book" / "runs" / "bad_input.json"

app = application(__doc__, no_args_is_help=True)
Only = Annotated[str, typer.Option(help="A word of the group or the name; empty: all.")]


@app.command("list")
def list_cases(only: Only = "") -> None:
    """Print the cases."""
    for case in chosen(only):
        typer.echo(f"{case.group}: {case.name}: {case.shown}")


@app.command()
def run(
    only: Only = "",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Record to write; its rows of other cases stay.", show_default="the book's"
        ),
    ] = RECORD,
    markdown: Annotated[Path | None, typer.Option(help="Also write the whole record as tables.")] = None,
    jobs: Annotated[int, typer.Option(help="Commands at a time.", min=1)] = 1,
) -> None:
    """Run the cases, put them into the record, and print those that are not as they should be."""
    outcomes = run_all(chosen(only), jobs)
    rows = merged(read_json(out) if out.is_file() else [], outcomes)
    write_json(out, rows)
    if markdown:
        write_text(markdown, tables(rows))
    failed = [outcome for outcome in outcomes if outcome.faults]
    for outcome in failed:
        typer.echo(f"{outcome.group}: {outcome.name}: {', '.join(outcome.faults)}")
        typer.echo(f"  {outcome.command}\n  {outcome.says}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(outcomes)} cases are not as they should be; they are listed above"
        )
    typer.echo(f"{len(outcomes)} cases, all as they should be; {out} has {len(rows)} of {len(read_cases())}")


def merged(old: list[dict[str, Any]], new: list[Outcome]) -> list[dict[str, Any]]:
    """Rows of a record with new ones in their place, in the order of the cases; rows of other cases are dropped."""
    rows = {(row["group"], row["name"], row["command"]): row for row in [*old, *map(asdict, new)]}
    keys = ((case.group, case.name, case.shown) for case in read_cases())
    return [rows[key] for key in keys if key in rows]


def run_all(cases: list[Case], jobs: int) -> list[Outcome]:
    """Run cases, ``jobs`` at a time, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as scratch, ThreadPoolExecutor(jobs) as pool:
        shelf = Shelf(Path(scratch) / "materials")
        try:
            for name in dict.fromkeys(name for case in cases for name in case.materials):
                shelf.get(name)
            tried = pool.map(lambda case: run_case(case, Path(scratch), shelf, ROOT), cases)
            return list(tqdm(tried, total=len(cases), unit="case", disable=None))
        finally:
            shelf.unlock()


def chosen(only: str) -> list[Case]:
    """The cases with a word in their group or name."""
    cases = [case for case in read_cases() if only.lower() in f"{case.group} {case.name}".lower()]
    if not cases:
        raise InputError(f"--only {only}: no such case; the command list prints them")
    return cases


if __name__ == "__main__":
    sys.exit(run_app(app))
