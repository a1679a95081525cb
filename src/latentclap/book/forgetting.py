"""What fine-tuning on other sounds does to what a system knew: the tables of a record, for a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.book.figures import provenance_line
from latentclap.book.markdown import counted, table
from latentclap.classes import LABELS
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

_KEYS = {"systems", "old", "new", "number", "reference"}


def forgetting_page(record: str | Path, out: str | Path = "book/generated/forgetting.md") -> Path:
    """Write the FAD of new sounds and of the old classes, before and after each fine-tuning.

    Args:
        record: JSON of data_scripts/benchmarks/forgetting.py.
        out: the Markdown file to write.

    Raises:
        InputError: there is no such file, or it is not of that kind.
    """
    if not Path(record).is_file():
        raise InputError(f"{record}: no such file; data_scripts/benchmarks/forgetting.py writes it")
    told = read_json(record)
    if not isinstance(told, dict) or not set(told) >= _KEYS:
        raise InputError(f"{record}: not a record of data_scripts/benchmarks/forgetting.py")
    parts = [_summary(told), _words(told), _classes(told), str(provenance_line(told, profile="mini"))]
    write_text(out, "\n\n".join(parts) + "\n")
    return Path(out)


def _summary(told: Mapping[str, Any]) -> str:
    """A row for each system: what it learnt, and what became of the rest."""
    old, new = ({row["system"]: row for row in told[kind]["summary"]} for kind in ("old", "new"))
    trained = {row["system"]: row for row in told["systems"]}
    rows = []
    for system in old:
        change = told["old"]["changes"].get(system)
        rows.append(
            (
                system,
                change["verdict"] if change else "",
                trained[system]["clips"] if system in trained else "",
                _interval(new[system]),
                _interval(old[system]),
                f"{change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]" if change else "",
            )
        )
    head = (
        "system",
        "seven classes",
        "clips learnt",
        "FAD, new kinds",
        "FAD, seven classes",
        "change of these",
    )
    return table(head, rows, numbers=4)


def _words(told: Mapping[str, Any]) -> str:
    first, lora = told["systems"][0], next(row for row in told["systems"] if row["rank"])
    return (
        f"`{told['model']}`, one training each, λ = {first['lam']:g}; learning rate {first['lr']:g}, of the"
        f" adapters (rank {lora['rank']}) {lora['lr']:g}; {first['steps']:,} steps of"
        f" {counted(first['batch_size'], 'clip')}; with old sounds, {counted(told['old_clips'], 'clip')} of each"
        f" class, {told['systems'][-1]['steps']:,} steps."
        f" {told['number']} generated clips of each kind and system ({told['sampler']},"
        f" {told['generation_steps']} steps) against {told['reference']} real ones; means over kinds."
        f" {told['fad_name']}. Intervals are over clips, not trainings. {_silent(told['silent'])}"
    )


def _silent(told: Mapping[str, Mapping[str, int]]) -> str:
    """Which clips were left out of the comparison."""
    found = [
        f"{number} of {system} ({kind})"
        for kind, of in (("seven classes", told["old"]), ("new kinds", told["new"]))
        for system, number in of.items()
        if number
    ]
    return f"Silent clips are left out: {', '.join(found)}." if found else "No generated clip is silent."


def _classes(told: Mapping[str, Any]) -> str:
    """FAD of each old class, a column for each system."""
    systems = [row["system"] for row in told["old"]["summary"]]
    fad = {(row["class"], row["system"]): row["fad"] for row in told["old"]["classes"]}
    rows = [
        (LABELS[cls], *(f"{fad[cls, system]:.2f}" for system in systems))
        for cls in dict.fromkeys(cls for cls, _ in fad)
    ]
    return table(("FAD of", *systems), rows, numbers=len(systems))


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['fad']:.2f} [{row['fad_low']:.2f}, {row['fad_high']:.2f}]"
