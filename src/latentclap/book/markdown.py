"""Markdown of values and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: int | None = None) -> str:
    """A Markdown table; cells are worded and escaped.

    Args:
        head: names of the columns.
        rows: a cell for each column.
        numbers: how many columns from the last one on stand to the right; by default those, from the second on, that
            hold nothing but numbers.
    """
    told = [list(map(cell, row)) for row in rows]
    if numbers is None:
        right = [bool(i) and _numeric([row[i] for row in told]) for i in range(len(head))]
    else:
        right = [i >= len(head) - numbers for i in range(len(head))]
    lines = [head, ["---:" if r else "---" for r in right], *told]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def counted(n: int, noun: str) -> str:
    """ "one seed", "3 seeds": a count that prose can take as it is."""
    return f"one {noun}" if n == 1 else f"{n} {noun}s"


def _numeric(cells: list[str]) -> bool:
    """Whether all are numbers, some of them possibly left out."""
    plain = [c.replace(",", "").replace("%", "").strip() for c in cells]
    try:
        return bool([float(text) for text in plain if text])
    except ValueError:
        return False


#: entries of a list that a cell shows; more are counted, and unfold
LISTED = 2

_NAMES = {
    "unet": "UNet",
    "vae": "VAE",
    "clap": "CLAP",
    "latent_clap": "Latent CLAP",
    "latentclap": "latentclap",
}


def worded(entry: tuple[Any, Any]) -> tuple[str, Any]:
    """A key in words, and its value."""
    return words(str(entry[0])), entry[1]


def words(key: str) -> str:
    """A key of a record as a reader says it."""
    if key in _NAMES:
        return _NAMES[key]
    said = key.replace("_", " ")
    return said[:1].upper() + said[1:]


def cell(value: Any) -> str:
    """A value of a record in one line of Markdown; a long list unfolds."""
    if isinstance(value, Mapping):
        return "; ".join(f"{words(str(k))}: {cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        listed = ", ".join(map(cell, value))
        if len(value) <= LISTED:
            return listed
        # a table of sources is read row by row; whom they are by is there for who asks
        return f"<details><summary>{len(value)}</summary>{listed}</details>"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return str(value).replace("|", "\\|").replace("\n", " ")
