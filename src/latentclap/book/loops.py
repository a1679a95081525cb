"""Seamless loops of the listening page's clips, for the page on clips for a mix or a game."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from latentclap.book.media import Shelf
from latentclap.book.pages import read_items
from latentclap.book.players import FADE
from latentclap.classes import LABELS
from latentclap.errors import InputError
from latentclap.files import write_text
from latentclap.finish import Finish

#: Sounds that go on, and the system whose first clip of each is looped.
CLASSES = ("rain", "moving_motor_vehicle")
SYSTEM = "LDM+Tuning+Latent"
#: Milliseconds that are blended.
BLEND = 500.0


def loops_page(
    sources: Sequence[str | Path],
    out: str | Path = "book/generated/loops.md",
    static: str | Path = "book/_static",
) -> int:
    """Write players that go round and round; return how many.

    Args:
        sources: ``listening.json`` files of notebook 04.
        out: the Markdown file to write, included by a page in the parent folder of ``static``.
        static: the book's ``_static``; loops go to ``static/audio/loops/``, as WAV, whose ends have no silence.

    Raises:
        InputError: a source is missing or malformed, or has no clip of a class.
    """
    from latentclap.audio import read_wave, write_wave

    cells, _ = read_items(sources)
    shelf, book = Shelf(static, "loops"), Path(static).parent
    shelf.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for cls in CLASSES:
        found = sorted(key for key in cells if key[:2] == (cls, SYSTEM))
        if not found:
            named = ", ".join(str(source) for source in sources)
            raise InputError(f"{named}: no clip of {LABELS[cls]} by {SYSTEM}; run notebook 04")
        wave, sr = read_wave(cells[found[0]].audio.path)
        unfaded = wave[0][: len(wave[0]) - round(FADE / 1000 * sr)]
        whole = shelf.folder / f"{cls}_{found[0][2]:03d}.wav"
        write_wave(whole, Finish(loop=BLEND)(unfaded, sr), sr)
        file = shelf.put(whole)
        whole.unlink()
        label = html.escape(f"{LABELS[cls]}, clip {found[0][2]}")
        source = file.relative_to(book).as_posix()
        rows.append(
            f'<figure class="lc-loop"><figcaption>{label}</figcaption><audio controls loop preload="none"'
            f' src="{source}" aria-label="loop: {label}"></audio></figure>'
        )
    shelf.sweep()
    write_text(out, f'<div class="lc-loops">{"".join(rows)}</div>\n')
    return len(rows)
