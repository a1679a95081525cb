"""The model card's page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.book.media import Shelf
from latentclap.book.pages.entries import card_sections
from latentclap.book.pages.items import read_items
from latentclap.book.pages.once import card_once
from latentclap.book.pages.shelved import section_links, shelved_grid
from latentclap.classes import CLASSES, LABELS
from latentclap.errors import InputError
from latentclap.files import read_json, write_text
from latentclap.recordings import heard as real_heard

#: what the model card lets one hear
CARD_SYSTEMS = ("Real Audio", "Reconstruction", "Pretrained")


def model_card(
    card: str | Path,
    out: str | Path = "book/generated/model_card.md",
    *,
    times: str | Path | None = None,
    listen: str | Path | None = None,
    static: str | Path = "book/_static",
) -> Path:
    """Write the model card's page from the card that ships with the weights.

    Args:
        card: ``model_card.json``; a ``README.md`` beside it comes first, as text, then the figures of
            ``quality.json`` and ``samplers.json``.
        out: the Markdown file to write.
        times: what ``data_scripts/benchmarks/family.py`` wrote; may be absent.
        listen: a ``listening.json`` with the clips of :data:`CARD_SYSTEMS`, as notebook 03 writes it; may be absent.
        static: the book's ``_static``; players go to ``static/audio/model_card/``.

    Raises:
        InputError: the card is not there or not a JSON object.
    """
    card = Path(card)
    if not card.is_file():
        raise InputError(
            f"{card}: no such model card; data_scripts/pretrain_mini.py writes it with the weights"
        )
    content = read_json(card)
    if not isinstance(content, Mapping):
        raise InputError(f"{card}: a model card is a JSON object, not a {type(content).__name__}")
    from latentclap.book.quality import quality_sections, sampler_sections, speed_sections

    readme = card.with_name("README.md")
    measured = quality_sections(card.with_name("quality.json"))
    measured += sampler_sections(card.with_name("samplers.json"), Path(out).with_name("samplers.png"))
    measured += speed_sections(times) if times else []
    heard = _card_grid(listen, static) if listen and Path(listen).is_file() else []
    text = _as_section(readme.read_text(encoding="utf-8")) if readme.is_file() else ""
    parts = "\n\n".join(
        filter(None, (*heard, *measured, *_licence(content), *card_sections(card_once(content))))
    )
    links = section_links(re.findall(r"^## (.+)$", parts, re.MULTILINE))
    # records of earlier versions count "1 threads"
    page = re.sub(r"\b1 threads\b", "1 thread", "\n\n".join(filter(None, (text, links, parts))))
    write_text(out, f"{page}\n")
    return Path(out)


def _licence(content: Mapping[str, Any]) -> list[str]:
    """What may be done with the weights, and whose recordings they heard; nothing for a card without recordings."""
    sources = content.get("real_sources")
    if not sources:
        return []
    listed = sorted({row.get("licence", "not stated") for row in sources})
    return [
        "## Licence",
        "The weights are released by us under Apache-2.0. They were trained on procedural sounds and on recordings"
        f" ({real_heard(content.get('corpus', []), sources)}), and each recording keeps the licence that it has:"
        f" {', '.join(listed)}. The table under *Real sources* lists them all, with their authors. Neither this"
        " repository nor the weights' files contain the recordings.",
        "What the licence of a recording means for weights that were trained on it is not settled, and some of these"
        " ask for attribution, for the same licence on derived works, or leave open what they allow. Look at the list"
        " before you redistribute the weights or use them commercially.",
    ]


def _card_grid(source: str | Path, static: str | Path) -> list[str]:
    """One clip per class: real, reconstructed, generated, with the line that says how they were chosen."""
    cells, rules = read_items([source])
    shelf = Shelf(static, "model_card")
    clips = {(LABELS[c], s): item.audio for (c, s, _), item in cells.items() if s in CARD_SYSTEMS}
    rows = [LABELS[c] for c in CLASSES if (LABELS[c], CARD_SYSTEMS[0]) in clips]
    grid = shelved_grid(
        rows, CARD_SYSTEMS, clips, shelf, "what the shipped networks sound like", footnote=True
    )
    shelf.sweep()
    return [
        "## What it sounds like",
        f"Held-out clips of the data that this book was built with, the same through VAE and vocoder, and what the"
        f" networks generate from the paper's prompts without fine-tuning. {' '.join(rules)}",
        grid.html(Path(static).parent),
    ]


def _as_section(markdown: str) -> str:
    """A README as part of a page: no YAML front matter, no title of its own, code blocks untouched."""
    body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL).strip()
    return re.sub(r"\A# .*\n+", "", body)
