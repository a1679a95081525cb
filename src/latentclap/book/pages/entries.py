"""The entries of a model card, as sections and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latentclap.book.markdown import cell, table, worded, words
from latentclap.classes import LABELS


def card_sections(content: Mapping[str, Any]) -> list[str]:
    """Scalars of the card in one table, everything deeper under a heading of its own."""
    scalars = {key: value for key, value in content.items() if not isinstance(value, Mapping | list)}
    parts = ["## Facts", table(("entry", "value"), map(worded, scalars.items()))] if scalars else []
    for key, value in content.items():
        if key == "earlier" and value:
            parts += _rounds(value)
        elif key == "files" and isinstance(value, Mapping):
            rows = ((f"`{name}`", f"`{digest}`") for name, digest in value.items())
            parts += ["## Files", table(("file", "SHA-256"), rows)]
        elif key == "real_sources" and value:
            parts += [f"## {words(key)}", _sources(value)]
        elif isinstance(value, Mapping | list) and value:
            parts += [f"## {words(key)}", _render(value)]
    return parts


def _sources(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recordings with their authors in sight, and no more of a recording's path than its last two names."""
    order = ("class", "source", "licence", "files", "authors", "recordings")
    columns = [*(c for c in order if any(c in row for row in rows)), *sorted({*rows[0]} - {*order})]
    told = (
        {**row, "recordings": ["/".join(str(r).split("/")[-2:]) for r in row.get("recordings", [])]}
        for row in rows
    )
    lines = _columns(columns, told)
    return f":::{{div}} lc-wrap\n\n{lines}\n\n:::"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rounds of training before the last one, the latest first: their stages in one table, then data of their own."""
    columns = ("step", "batch_size", "lr", "seconds", "corpus_clips", "corpus_real")
    rows = [
        (i, words(name), *(stage.get(column, "") for column in columns))
        for i, entry in enumerate(rounds, 1)
        for name, stage in (entry.get("stages") or {}).items()
    ]
    parts = [
        "## Earlier rounds",
        "What each part began with: rounds of training before the one above, which is round 0; the latest first."
        " Unless stated below, round k used the corpus of round k - 1. *Corpus clips* counts a recording as often as"
        " the corpus holds it; *corpus real* is recorded clips × how often each is in it.",
        table(("round", "stage", *map(words, columns)), rows),
    ]
    for i, entry in enumerate(rounds, 1):
        for key in ("corpus", "real_sources"):
            if entry.get(key):
                show = _sources if key == "real_sources" else _render
                parts += [f"### {words(key)} of round {i}", show(entry[key])]
    return parts


def _render(value: Any) -> str:
    if isinstance(value, Mapping) and all(isinstance(entry, Mapping) for entry in value.values()):
        value = [{"name": key, **entry} for key, entry in value.items()]
    if isinstance(value, Mapping):
        return table(("entry", "value"), map(worded, value.items()))
    if all(isinstance(entry, Mapping) for entry in value):
        return _columns(list(dict.fromkeys(key for entry in value for key in entry)), value)
    return "\n".join(f"- {cell(entry)}" for entry in value)


def _columns(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of entries under the same keys; classes in words."""

    def told(row: Mapping[str, Any], column: str) -> Any:
        value = row.get(column, "")
        return LABELS.get(value, value.replace("_", " ")) if column == "class" else value

    return table([words(c) for c in columns], ([told(row, c) for c in columns] for row in rows))
