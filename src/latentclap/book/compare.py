"""The records behind the page on comparing systems: a comparison that was kept, and a simulation of its measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.book.figures import provenance_line
from latentclap.book.markdown import counted, table
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

_KEYS = ("fad", "kad", "precision", "recall", "coverage")


def compare_page(
    comparison: str | Path,
    real: str | Path,
    measures: str | Path,
    out: str | Path = "book/generated/compare.md",
) -> Path:
    """Write the tables of a kept comparison, and beside it (``..._measures.md``) those of the simulation.

    Args:
        comparison: ``compare.json`` of ``latentclap compare``.
        real: another one, of real clips in the place of a system.
        measures: what ``data_scripts/benchmarks/measures.py`` wrote.
        out: the Markdown file to write.

    Raises:
        InputError: a file is missing or of another kind.
    """
    out = Path(out)
    found, simulated = _read(comparison, "summary"), _read(measures, "rows")
    floor = _read(real, "summary")
    if any(row["kad"] is None for row in (*found["summary"], *floor["summary"])):
        raise InputError(f"{comparison}: made against statistics, without KAD; compare with real clips")
    parts = [
        _summary(found, floor),
        _changes(found),
        str(provenance_line(found, profile="evening, scored by latentclap compare")),
    ]
    write_text(out, "\n\n".join(parts) + "\n")
    told = out.with_name(f"{out.stem}_measures.md")
    write_text(told, "\n\n".join([_simulated(simulated), *_simulated_in_words(simulated)]) + "\n")
    return out


def _read(path: str | Path, key: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such record; the page on comparing systems says which command writes it"
        )
    told = read_json(path)
    if not isinstance(told, dict) or key not in told:
        raise InputError(f"{path}: not a record of that page; it has no {key!r}")
    return told


def _summary(told: Mapping[str, Any], real: Mapping[str, Any]) -> str:
    first = told["summary"][0]
    keys = [*_KEYS, *(key for key in ("similarity", "nearer_training") if first[key] is not None)]
    rows = [
        (row["system"], *("" if row[key] is None else f"{row[key]:.2f}" for key in keys))
        for row in (*told["summary"], *real["summary"])
    ]
    head = ["system", "FAD", "KAD", "precision", "recall", "coverage"]
    head += [
        name
        for key, name in (("similarity", "similarity"), ("nearer_training", "nearer to training"))
        if first[key] is not None
    ]
    clips = sum(row["n_clips"] for row in told["summary"])
    lead = f"{counted(first['trainings'], 'training')} of each system, {clips:,} clips in all; means over classes:"
    return f"{lead}\n\n{table(head, rows, numbers=len(head) - 1)}"


def _changes(told: Mapping[str, Any]) -> str:
    first = told["summary"][0]["system"]
    rows = [
        (
            f"{measure}, {name}",
            c["verdict"],
            f"{c['value']:+.2f}",
            f"[{c['low']:+.2f}, {c['high']:+.2f}]" if c["low"] is not None else "",
            f"{c['p']:.2g}" if c["p"] is not None else "",
        )
        for measure, changes in told["changes"].items()
        for name, c in changes.items()
    ]
    families = [
        [c["p"] for c in changes.values() if c["p"] is not None] for changes in told["changes"].values()
    ]
    tests = sum(map(len, families))
    # the smallest p of a family was multiplied by its size
    least = min([1.0, *(min(family) / len(family) * tests for family in families if family)])
    words = (
        "Each interval is of one change alone, while p is corrected for the systems of a measure: an interval may"
        f" leave out 0 where p does not call it a difference. Corrected for all {tests} tests of this table, the"
        f" smallest p is {least:.2f}."
    )
    head = ("measure, system", "this shows", f"change from {first}", "95 % interval", "p (Holm)")
    return table(head, rows, numbers=3) + f"\n\n{words}"


def _simulated(told: Mapping[str, Any]) -> str:
    rows = []
    for row in told["rows"]:
        cells = [row["case"], row["clips"]]
        for key in ("fad", "kad"):
            one = row[key]
            cells += [
                f"{one['true']:.2f}",
                f"{one['mean']:.2f} ± {one['standard_error']:.2f}",
                f"{one['held']:.0%}",
            ]
        rows.append((*cells, f"{row['told_apart']:.0%}"))
    head = ("clips of", "n", "FAD, true", "mean", "held", "KAD, true", "mean", "held", "p < 0.05")
    return table(head, rows, numbers=8)


def _simulated_in_words(told: Mapping[str, Any]) -> list[str]:
    return [
        f"Means over {told['trials']} sets with their standard errors, against {told['reference_clips']} reference"
        f" clips; clips of {told['windows']} windows of {told['dimensions']} dimensions. *Held* is the share of"
        " 95 % intervals that have the true value in them; *p < 0.05* is the share of permutation tests of KAD that"
        " tell the sets apart.",
        str(provenance_line(told, profile="a simulation", wall_seconds=told["seconds"])),
    ]
