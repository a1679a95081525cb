"""The tables of the page that compares our parts with implementations that are not ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latentclap.book.markdown import table
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

_COLUMNS = ("what", "size", "largest difference", "largest value", "at most")
_ROW = {"what", "size", "against", "how", "difference", "scale", "tolerance"}


def fidelity_tables(results: str | Path, out: str | Path = "book/generated/fidelity.md") -> int:
    """Write one table for each implementation, and one of what is no comparison; return how many rows.

    Args:
        results: ``results.json`` of tests/fidelity/compare.py.
        out: the Markdown file to write.

    Raises:
        InputError: there is no such file, it is not of that kind, or a comparison in it does not hold.
    """
    path = Path(results)
    if not path.is_file():
        raise InputError(f"{path}: no such file; tests/fidelity/compare.py writes it")
    told = read_json(path)
    try:
        rows = [row for group in told["groups"].values() for row in group]
        notes = told["notes"]
        wrong = [row["what"] for row in rows if not row["difference"] <= row["tolerance"]]
        complete = all(row.keys() >= _ROW for row in rows)
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete or not rows:
        raise InputError(f"{path}: not the results of tests/fidelity/compare.py; run it again")
    if wrong:
        raise InputError(f"{path}: {len(wrong)} comparisons do not hold: {', '.join(wrong[:3])}")
    write_text(out, "\n\n".join([*_sections(rows), *_notes(notes)]) + "\n")
    return len(rows)


def _sections(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """A heading, the versions and a table for each implementation, in the order of the file."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["against"].split(",")[0], []).append(row)
    for name, members in groups.items():
        ran = (
            "Computed beside ours" if members[0]["how"] == "live" else "Recorded in an environment of its own"
        )
        versions = dict.fromkeys(part for row in members for part in row["against"].split(", ")[1:])
        yield f"### {name}"
        yield f"{ran}, with {', '.join(versions)}."
        # a run with --full compares some parts again that a plain one has compared at the same size
        yield table(_COLUMNS, dict.fromkeys(tuple(_cells(row)) for row in members), numbers=3)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["what"],
        row["size"],
        "0" if row["difference"] == 0 else f"{row['difference']:.1e}",
        f"{row['scale']:.3g}",
        f"{row['tolerance']:.1e}",
    ]


def _notes(notes: Mapping[str, Any]) -> Iterable[str]:
    """What compare.py measured that is no comparison with a tolerance."""
    entries = [
        (f"UNet's output with eight heads in every level, {size}: RMS difference", f"{notes[key]:.1%}")
        for key, size in (("eight_heads_tiny", "tiny"), ("eight_heads_m_full", "m-full"))
        if key in notes
    ]
    if "convert_seconds" in notes:
        entries += [
            (
                "m-full .ckpt written from the original's names and shapes",
                f"{notes['file_bytes'] / 1e9:.2f} GB",
            ),
            ("read, converted and checked on a CPU", f"{notes['convert_seconds']:.0f} s"),
        ]
        for report in notes["reports"]:
            if report["parameters"]:
                counted = f"{report['parameters']:,}, {report['share']:.2%} matched"
                entries.append((f"m-full parameters, {report['part']}", counted))
    if entries:
        yield "### Beside the comparisons"
        yield table(("measured", "value"), entries)
