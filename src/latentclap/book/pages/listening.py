"""The listening page: a grid per class, systems beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.figures import SYSTEMS, canonical_system
from latentclap.book.levels import Levelled
from latentclap.book.media import Shelf
from latentclap.book.pages.items import Item, read_items
from latentclap.book.pages.shelved import section_links, shelved_grid
from latentclap.book.similarity import similarity_sentences
from latentclap.classes import CLASSES, LABELS, prompt
from latentclap.errors import InputError
from latentclap.files import write_text

#: Items of each class that the listening page must have, as many as notebook 04 has of the smallest set that it takes
MINIMUM_ITEMS = 2


def listening_page(
    sources: Sequence[str | Path],
    out: str | Path = "book/generated/listening.md",
    static: str | Path = "book/_static",
    *,
    systems: Sequence[str] = SYSTEMS,
    classes: Sequence[str] = CLASSES,
    scale: str | Path | None = None,
) -> int:
    """Write the listening page's grids, a section per class, and copy their players; return how many.

    The file is included by ``listening.md`` in the parent folder of ``static``, from where its paths start.

    Args:
        sources: ``listening.json`` files; together they must hold every system for every class and index.
        out: the Markdown file to write.
        static: the book's ``_static``; players go to ``static/audio/listening/``.
        systems: the columns, in order.
        classes: the sections, in order.
        scale: what :func:`latentclap.book.similarity.measure_similarity` wrote; None: the page goes without.

    Raises:
        InputError: a source is missing or malformed, a cell is there twice, or one is missing.
    """
    cells, rules = read_items(sources)
    wanted = [canonical_system(system) for system in systems]
    _check_complete(cells, wanted, classes, sources)
    shelf, book = Shelf(static, "listening"), Path(static).parent
    told = similarity_sentences(scale) if scale else []
    # the first player in sight: what its numbers mean comes after the last one
    parts = [section_links(LABELS[cls] for cls in classes), *(f"*{rule}*" for rule in rules), *told[:1]]
    levels: list[Levelled] = []
    for cls in classes:
        indices = sorted({index for c, _, index in cells if c == cls})
        clips = {(f"clip {i}", s): cells[cls, s, i].audio for i in indices for s in wanted}
        last = cls == classes[-1]
        grid = shelved_grid([f"clip {i}" for i in indices], wanted, clips, shelf, LABELS[cls], footnote=last)
        levels += grid.levels
        grid.levels = levels  # the line under the last grid speaks of all of them
        parts += [f"## {LABELS[cls].capitalize()}", f"Prompt: “{prompt(cls)}”", grid.html(book)]
    parts += ["## What the similarity means", *told[1:]] if told else []
    shelf.sweep()
    write_text(out, "\n\n".join(parts) + "\n")
    return shelf.players


def _check_complete(
    cells: Mapping[tuple[str, str, int], Item], systems: Sequence[str], classes: Sequence[str], sources: Any
) -> None:
    names = ", ".join(str(source) for source in sources)
    missing = []
    for cls in classes:
        indices = sorted({index for c, _, index in cells if c == cls})
        if len(indices) < MINIMUM_ITEMS:
            missing.append(f"{cls}: {len(indices)} of at least {MINIMUM_ITEMS} clips")
        missing += [f"{cls} / {s} / {i}" for i in indices for s in systems if (cls, s, i) not in cells]
    if missing:
        raise InputError(f"listening page: {len(missing)} missing in {names}: {'; '.join(missing[:5])}")
