"""What the start page has to hear and to tell at once: two rows of players, and the main result in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from latentclap.book.fig3 import sweep_of
from latentclap.book.longer.common import steps_of
from latentclap.book.markdown import table
from latentclap.book.media import Shelf
from latentclap.book.pages import read_items, shelved_grid
from latentclap.classes import LABELS
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

#: A sound that happens and one that goes on; their first clip is played.
CLASSES = ("dog_bark", "rain")
#: Real clips, and the pair between which the loss is all that differs.
SYSTEMS = ("Real Audio", "LDM", "LDM+Latent")
#: The two changes that the paper's main claim is about, and the heading of each.
CHANGES = {
    "without the tuning layer": ("LDM", "LDM+Latent"),
    "with the tuning layer": ("LDM+Tuning", "LDM+Tuning+Latent"),
}


def start_page(
    sources: Sequence[str | Path],
    record: str | Path,
    sweep: str | Path,
    out: str | Path = "book/generated/start.md",
    static: str | Path = "book/_static",
) -> int:
    """Write the start page's players, and beside them ``result.md``; return how many players there are.

    Args:
        sources: ``listening.json`` files of notebook 04.
        record: of the longest run of notebook 04, by ``python -m latentclap.book keep``.
        sweep: of the longest run of notebook 06, likewise.
        out: the Markdown file of the players, included by a page in the parent folder of ``static``.
        static: the book's ``_static``; players go to ``static/audio/start/``.

    Raises:
        InputError: a source is missing or malformed, or has no clip of a class; or the record is of something else.
    """
    result = f"{_result(record)}\n\n{_over_lambda(sweep)}\n"
    cells, _ = read_items(sources)
    clips = {}
    for cls in CLASSES:
        for system in SYSTEMS:
            found = sorted(key for key in cells if key[:2] == (cls, system))
            if not found:
                named = ", ".join(str(source) for source in sources)
                raise InputError(f"{named}: no clip of {LABELS[cls]} by {system}; run notebook 04")
            clips[LABELS[cls], system] = cells[found[0]].audio
    shelf = Shelf(static, "start")
    grid = shelved_grid([LABELS[c] for c in CLASSES], SYSTEMS, clips, shelf, "first clips", footnote=False)
    shelf.sweep()
    write_text(out, grid.html(Path(static).parent) + "\n")
    write_text(Path(out).with_name("result.md"), result)
    return len(clips)


def _result(record: str | Path) -> str:
    """What the loss changed in the paper and in a kept run, as a table."""
    told: Mapping[str, Any] = read_json(record)
    try:
        change = {(row["from"], row["to"]): row for row in told["change"]}
        rows = [change[pair] for pair in CHANGES.values()]
        ours = (
            f"our longest run: small models, {_sounds(told['data'])},"
            f" {steps_of(told, told['settings']['finetune']['epochs']):,} steps,"
            f" {len(told['seeds'])} trainings of each system"
        )
    except (KeyError, TypeError):
        raise InputError(
            f"{record}: not a record of notebook 04, as `latentclap.book keep` writes it"
        ) from None
    if any(row.get(key) is None for row in rows for key in ("2.5 %", "97.5 %")):
        raise InputError(
            f"{record}: one training of each system has no interval; keep a run of two seeds or more"
        )
    return table(
        ("the average FAD changes by", *CHANGES),
        [
            ("the paper: `audioldm-m-full`, recordings, 500 epochs", *(f"{r['paper']:+.2f}" for r in rows)),
            (
                ours,
                *(
                    f"{r['this run']:+.2f} (95 % interval {r['2.5 %']:+.2f} to {r['97.5 %']:+.2f}):"
                    f" {r['this run shows']}"
                    for r in rows
                ),
            ),
        ],
    )


def _over_lambda(record: str | Path) -> str:
    """What more of the loss did in a kept sweep."""
    told: Mapping[str, Any] = read_json(record)
    try:
        points = pd.DataFrame(told["points"])
        steps, largest = steps_of(told, told["epochs"]), points["lam"].max()
        fad = points.groupby(["tuning", "lam"])["fad"].mean()
        (plain, plain_most), (tuned, tuned_most) = (
            (fad[tuning, 0.0], fad[tuning, largest]) for tuning in (False, True)
        )
        verdict = sweep_of(points).verdict()
    except (KeyError, TypeError):
        raise InputError(
            f"{record}: not a record of notebook 06, as `latentclap.book keep` writes it"
        ) from None
    trainings = points["seed"].nunique()
    return (
        f"The weight of the loss is {{term}}`λ <λ (lambda)>`. In our [longest sweep over it](longer_fig3.md) ({steps}"
        f" steps, {trainings} trainings of each point): {verdict} From λ = 0 to {largest:g}, FAD goes"
        f" from {plain:.2f} to {plain_most:.2f} without the tuning layer, and from {tuned:.2f} to {tuned_most:.2f}"
        " with it."
    )


def _sounds(data: str) -> str:
    """What a run's clips were, for a reader who knows no name of ours yet."""
    return "synthesised sounds" if data == "embedded procedural set" else f"recordings of {data}"
