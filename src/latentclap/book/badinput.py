"""The book's page *Messages for bad input*, from the record of ``data_scripts/bad_input.py``."""

from __future__ import annotations

import html
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


def faults(row: Mapping[str, Any]) -> list[str]:
    """What is not as it should be in an outcome; papermill's own words and its log of the notebook are."""
    notebook = row["command"].startswith("papermill")
    left = [name for name in row["left"] if not (notebook and name == "out.ipynb")]
    checks = {
        f"status {row['status']}": row["status"] <= 0,
        "a traceback": row["traceback"] and not notebook,
        f"{row['lines']} lines": row["lines"] != 1 and not notebook,
        "the last line is not ours": not row["says"].startswith("InputError: " if notebook else "error: "),
        f"left {', '.join(left)}": bool(left),
    }
    return [what for what, wrong in checks.items() if wrong]


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Outcomes as Markdown: a summary, contents by command, and a folded table for each command."""
    groups = [(name, list(members)) for name, members in groupby(rows, key=lambda row: row["group"])]
    parts = [*_summary(rows, len(groups)), _contents(groups)]
    for group, members in groups:
        names = _anchors(group, members)
        lines = [_line(row, name) for row, name in zip(members, names, strict=True)]
        told = table(("mistake, command", "what it says", "status"), lines, numbers=0)
        # closed, it is opened by links to one of its cases, and by Chromium's search
        parts.append(
            f'## {group}\n\n<details class="lc-cases">\n<summary>{_cases(len(members))}</summary>\n\n'
            f":::{{div}} lc-wrap\n\n{told}\n\n:::\n\n</details>"
        )
    return "\n\n".join(parts) + "\n"


def _summary(rows: Sequence[Mapping[str, Any]], groups: int) -> list[str]:
    good = sum(not faults(row) for row in rows)
    shown = sum(bool(row["traceback"]) for row in rows)
    ours = sum(row["lines"] == 1 for row in rows)
    return [
        f"**{_cases(len(rows))} of {groups} commands were tried; {good} ended as they should.**"
        f" {sum(row['status'] != 0 for row in rows)} ended with a status that is not zero, {ours} with"
        f" exactly one line on stderr. {shown} showed a traceback: papermill's own, of a notebook"
        ' (<a href="#how-to-read-the-cases">how to read the cases</a>).'
        " Nothing stays behind where the last column does not say what."
    ]


def _contents(groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Links to every command with its number of cases."""
    from docutils.nodes import make_id  # part of the extra [book], as Sphinx names the sections

    links = "\n".join(
        f'<li><a href="#{make_id(name)}">{html.escape(name)}</a> ({len(members)})</li>'
        for name, members in groups
    )
    return (
        "Each command's cases are folded, and a click on its line opens them. Chrome and its relatives search what is"
        " folded, too; in another browser, open all first. The name of a case is a link to it.\n\n"
        f'<ul class="lc-contents">\n{links}\n</ul>\n\n'
        # shown by a script: without one there is nothing that it could do
        '<p class="lc-folds" hidden><button type="button" data-open="Open all" data-close="Close all"'
        ' data-folds="details.lc-cases">Open all</button></p>'
    )


def _anchors(group: str, members: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name in the page for each case, of its command and its own words."""
    from docutils.nodes import make_id

    names: list[str] = []
    for row in members:
        name = make_id(f"case {group} {row['name']}")
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names


def _line(row: Mapping[str, Any], anchor: str) -> tuple[str, str, str]:
    left = ", ".join(_code(name) for name in row["left"])
    status = f"{row['status']}<br>leaves {left}" if left else str(row["status"])
    case = f'<a id="{anchor}" href="#{anchor}">{html.escape(row["name"])}</a><br>{_code(row["command"])}'
    return case, _code(row["says"]), status


def _cases(n: int) -> str:
    return f"{n} mistake" + "s" * (n != 1)


def _code(text: str) -> str:
    """Inline code that may hold backticks itself."""
    fence = "``" if "`" in text else "`"
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"
