"""``latentclap runs``: what notebooks have run with which parameters, what came of it, and the way back to each run.

A run is a folder ``<runs>/<profile>/<notebook>/<hash>/`` with the ``metrics.json`` and ``provenance.json`` that
:meth:`latentclap.runs.Run.save_metrics` writes. Nothing here needs torch.
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentclap.errors import InputError
from latentclap.files import check_place, listed, plain, read_json, write_text
from latentclap.tables import csv_text
from latentclap.wording import plural

if TYPE_CHECKING:
    import pandas as pd

HELP = """List what notebooks have run: parameters, numbers, and the command that runs each again.

Without NOTEBOOK, every notebook that has run, and how often. With one (03_finetune, or 03), its runs side by side:
the parameters in which they differ, then the numbers in which they differ. With the folder of one run, or its hash,
all of its parameters and numbers, and the papermill command that runs it again.

latentclap runs
latentclap runs 03_finetune --csv runs.csv
latentclap runs 2cfc13946696

Looked through is runs/ of the working copy, or of the folder that $LATENTCLAP_RUNS names."""

#: Parameters that decide nothing about the numbers.
_ASIDE = ("force", "profile")


@dataclass(frozen=True)
class Past:
    """A run of a notebook that came to its end.

    Attributes:
        folder: of its artefacts.
        provenance: what provenance.json says.
        metrics: what metrics.json says.
    """

    folder: Path
    provenance: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the notebook's first cell, but for those that decide nothing."""
        return {k: v for k, v in self.provenance["parameters"].items() if k not in _ASIDE}

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics that are one number."""
        kinds = (int, float)
        return {k: v for k, v in self.metrics.items() if isinstance(v, kinds) and not isinstance(v, bool)}

    @property
    def when(self) -> str:
        """When it began, in this machine's time; as it was written, where that is no time."""
        started = str(self.provenance.get("started", ""))
        try:
            return datetime.fromisoformat(started).astimezone().strftime("%Y-%m-%d %H:%M")
        except ValueError:
            return started

    @property
    def command(self) -> str:
        """What runs it again, typed in the working copy."""
        notebook = self.provenance["notebook"]
        words = ["papermill", f"notebooks/{notebook}.ipynb", "out.ipynb"]
        profile = str(self.provenance["parameters"].get("profile", self.provenance["profile"]))
        for name, value in {"profile": profile, **self.parameters}.items():
            words += _given(name, value)
        return shlex.join(words)


def _given(name: str, value: Any) -> list[str]:
    """A parameter as papermill takes it; an empty text is every notebook's own default."""
    if isinstance(value, list):
        import yaml

        # in YAML 1e-05 and yes would be no number and no text as they stand
        told = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
        return ["-y", f"{name}: {told.strip()}"]
    if value == "":
        return []
    # -p would make numbers and truth values of texts such as 2023
    return ["-r" if isinstance(value, str) else "-p", name, str(value)]


def past_runs(root: Path) -> list[Past]:
    """Every finished run below a folder of runs, the oldest first. Folders of another form are passed over."""
    folders = sorted(file.parent for file in root.glob("*/*/*/provenance.json"))
    found = [run for folder in folders if (run := _past(folder))]
    return sorted(found, key=lambda run: str(run.provenance.get("started", "")))


def _past(folder: Path) -> Past | None:
    """The run whose artefacts a folder has; None: its records are missing or of another form."""
    try:
        provenance, metrics = read_json(folder / "provenance.json"), read_json(folder / "metrics.json")
        kinds = {"parameters": dict, "notebook": str, "profile": str}
        named = all(isinstance(provenance[key], kind) for key, kind in kinds.items())
    except (InputError, OSError, LookupError, TypeError, RecursionError):
        return None
    return Past(folder, provenance, metrics) if named and isinstance(metrics, dict) else None


def beside(runs: Sequence[Past], *, alike: bool = False) -> pd.DataFrame:
    """Runs as columns; as rows when they began, their commits, parameters and numbers.

    Args:
        runs: one or more.
        alike: also rows in which all of them are the same.
    """
    import pandas as pd

    columns = {}
    for run in runs:
        told: dict[Any, Any] = {("", "began"): run.when, ("", "commit"): run.provenance.get("commit", "")}
        told |= {("", "profile"): run.provenance["profile"]}
        told |= {("parameters", k): _told(v) for k, v in run.parameters.items()}
        columns[run.folder.name] = told | {("numbers", k): _told(v) for k, v in run.numbers.items()}
    rows = list(dict.fromkeys(row for told in columns.values() for row in told))
    rows.sort(key=lambda row: ("", "parameters", "numbers").index(row[0]))
    if not alike and len(runs) > 1:
        rows = [r for r in rows if r[1] == "began" or len({told.get(r, "") for told in columns.values()}) > 1]
    frame = pd.DataFrame({name: [told.get(row, "") for row in rows] for name, told in columns.items()})
    frame.index = [name for _, name in rows]
    return frame


def _told(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def table_text(runs: Sequence[Past]) -> str:
    """Every parameter and number of runs as CSV, a row for each run."""
    parameters = list(dict.fromkeys(name for run in runs for name in run.parameters))
    numbers = list(dict.fromkeys(name for run in runs for name in run.numbers))
    rows: list[list[Any]] = [["run", "notebook", "profile", "started", "commit", *parameters, *numbers]]
    for run in runs:
        told = run.provenance
        first = [run.folder.name, told["notebook"], told["profile"], told.get("started"), told.get("commit")]
        rows.append(
            [
                *first,
                *(run.parameters.get(name, "") for name in parameters),
                *(run.numbers.get(name, "") for name in numbers),
            ]
        )
    return csv_text(rows)


def chosen(runs: Sequence[Past], wanted: str, root: Path) -> list[Past]:
    """The runs that a word means: a notebook's name or the beginning of it, a run's hash, or its folder.

    Raises:
        InputError: nothing has run that it could mean.
    """
    place = Path(wanted)
    if place.is_dir():
        found = [run for run in runs if run.folder.resolve() == place.resolve()]
        if not found and (kept := _past(place)):  # elsewhere
            found = [kept]
        if found:
            return found
    name = place.stem if place.suffix == ".ipynb" else place.name
    for means in (
        [run for run in runs if run.folder.name == name],
        [run for run in runs if run.provenance["notebook"] == name],
        [run for run in runs if name and run.provenance["notebook"].startswith(name)],
    ):
        if means:
            return means
    known = ", ".join(sorted({run.provenance["notebook"] for run in runs})) or "none"
    raise InputError(f"{wanted}: no such run in {root}; notebooks that have run there: {known}")


def runs(
    notebook: Annotated[
        str,
        typer.Argument(help="Notebook (03_finetune, or 03), or a run's hash or folder.", show_default=False),
    ] = "",
    profile: Annotated[str, typer.Option(help="Only runs of this profile.", show_default=False)] = "",
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write all parameters and numbers there, a row for each run."),
    ] = None,
) -> None:
    """See HELP."""
    from latentclap.runs import runs_root

    root = runs_root()
    if csv is not None:
        check_place(csv)
    every = past_runs(root)
    if not every and not Path(notebook, "provenance.json").is_file():
        raise InputError(
            f"{root}: no notebook has run here; run one (papermill notebooks/03_finetune.ipynb out.ipynb), or name"
            " their folder by LATENTCLAP_RUNS"
        )
    found = chosen(every, notebook, root) if notebook else every
    if profile:
        of_it = [run for run in found if run.provenance["profile"] == profile]
        if not of_it:
            there = ", ".join(sorted({run.provenance["profile"] for run in found}))
            raise InputError(f"--profile {profile}: nothing has run with it; there are runs of {there}")
        found = of_it
    try:
        typer.echo(_said(found, bool(notebook)))
    finally:
        if csv is not None:
            write_text(csv, table_text(found))
    if csv is not None:
        typer.echo(f"written: {csv}")


def _said(found: Sequence[Past], asked: bool) -> str:
    """What the command prints."""
    if not asked:
        return "\n".join(_overview(found))
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    lines = []
    for notebook in dict.fromkeys(run.provenance["notebook"] for run in found):
        own = [run for run in found if run.provenance["notebook"] == notebook]
        lines += [f"{notebook}: {plural(len(own), 'run')}", beside(own).to_string(line_width=width)]
    if len(found) == 1:
        (run,) = found
        lines += ["", f"folder: {plain(run.folder)}", run.command]
    else:
        lines += [
            "",
            "rows in which all runs are alike are left out; latentclap runs HASH has all of one, and its command",
        ]
    return "\n".join(lines)


def _overview(found: Sequence[Past]) -> list[str]:
    """A line for every profile and notebook: how many runs, when the last began, and those that did not end."""
    lines = []
    for folder in sorted({run.folder.parent for run in found}):
        own = [run for run in found if run.folder.parent == folder]
        open_ = sum(path.is_dir() for path in listed(folder)) - len(own)
        stopped = f", and {open_} without numbers (stopped, or still running)" if open_ else ""
        lines.append(
            f"{own[-1].provenance['profile']:<10}{own[-1].provenance['notebook']:<18}{plural(len(own), 'run'):>8},"
            f" the last {own[-1].when}{stopped}"
        )
    return lines
