"""The book's page *What it says to bad input*, from the record of ``data_scripts/bad_input.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from latentclap.book.markdown import table
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

_KEYS = ("group", "name", "command", "status", "says", "lines", "traceback", "left")


def bad_input_page(record: str | Path, out: str | Path = "book/generated/bad_input.md") -> Path:
    """Write the tables of the page.

    Args:
        record: JSON, a list of outcomes.
        out: the Markdown file to write.

    Raises:
        InputError: the record is not there or no list of outcomes.
    """
    record = Path(record)
    if not record.is_file():
        raise InputError(f"{record}: no such record; data_scripts/bad_input.py writes it")
    rows = read_json(record)
    if not isinstance(rows, list) or not all(
        isinstance(row, Mapping) and set(_KEYS) <= set(row) for row in rows
    ):
        raise InputError(f"{record}: expected a list of outcomes with {', '.join(_KEYS)}")
    write_text(out, tables(rows))
    return Path(out)


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Outcomes as Markdown: one table a group, and a line that counts them."""
    shown = sum(bool(row["traceback"]) for row in rows)
    parts = [
        f"{len(rows)} mistakes were made. {sum(row['status'] != 0 for row in rows)} ended with a status that is not"
        f" zero, {sum(row['lines'] == 1 for row in rows)} with exactly one line on stderr; {shown} showed a traceback"
        " (papermill's own, of a notebook). Nothing stays behind where the last column does not say what."
    ]
    for group, members in groupby(rows, key=lambda row: row["group"]):
        lines = []
        for row in members:
            left = ", ".join(_code(name) for name in row["left"])
            status = f"{row['status']}<br>leaves {left}" if left else row["status"]
            lines.append((f"{row['name']}<br>{_code(row['command'])}", _code(row["says"]), status))
        told = table(("mistake, command", "what it says", "status"), lines, numbers=0)
        parts.append(f"## {group}\n\n:::{{div}} lc-wrap\n\n{told}\n\n:::")
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    """Inline code that may hold backticks itself."""
    fence = "``" if "`" in text else "`"
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"
