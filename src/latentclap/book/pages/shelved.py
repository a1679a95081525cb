"""What the pages are put together from: grids whose players lie in the book, and links to sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from tempfile import TemporaryDirectory

from latentclap.book.grid import Listening, listening_grid
from latentclap.book.media import Shelf
from latentclap.book.players import AudioFile


def shelved_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    clips: Mapping[tuple[str, str], AudioFile],
    shelf: Shelf,
    title: str,
    *,
    footnote: bool,
) -> Listening:
    """A grid with its players on the shelf; items of older runs may still have to be levelled."""
    with TemporaryDirectory() as folder:
        grid = listening_grid(rows, columns, clips, title=title, footnote=footnote, folder=folder)
        grid.cells = {key: _shelved(clip, shelf) for key, clip in grid.cells.items()}
    return grid


def _shelved(audio: AudioFile, shelf: Shelf) -> AudioFile:
    picture = shelf.put(audio.picture) if audio.picture else None
    return dataclasses.replace(audio, path=shelf.put(audio.path), picture=picture)


def section_links(sections: Iterable[str]) -> str:
    """A line of links to a page's sections, for pages that show no list of contents."""
    from docutils.nodes import make_id  # part of the extra [book], as Sphinx names the sections

    links = (f'<a href="#{make_id(name)}">{name}</a>' for name in sections)
    return f'<p class="lc-nav">{" · ".join(links)}</p>'
