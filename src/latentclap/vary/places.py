"""What a call would replace, checked before anything is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from latentclap.errors import InputError
from latentclap.files import check_place, replaceable
from latentclap.generation import RECORD
from latentclap.vary.sounds import MARK, PAGE, TABLE, Source


def check_places(out: Path, page: bool, overwrite: bool) -> None:
    """Refuse to replace what no earlier run wrote beside the clips."""
    table = out / TABLE
    check_place(table)
    if table.exists() and not (out / RECORD).is_file() and not overwrite:
        raise InputError(f"{table} would be replaced; choose another --out or say --overwrite")
    if page:
        replaceable(out / PAGE, MARK, "a page of variations")


def check_kept(sources: Sequence[Source], out: Path, replaced: Iterable[Path]) -> None:
    """Refuse to vary what would be replaced or removed: an earlier variation, or a player of the page."""
    gone, page = set(map(os.path.realpath, replaced)), os.path.realpath(out / PAGE)
    for source in sources:
        place = os.path.realpath(source.path)
        if place in gone or Path(place).is_relative_to(page):
            raise InputError(
                f"{source.path} lies in --out and would be replaced or removed: copy it, or choose another --out"
            )
