"""Variations as a folder has them: how long each is, how they are made, and what is written about them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.errors import InputError
from latentclap.files import plain
from latentclap.finish import Finish
from latentclap.vary.sounds import MARK, PAGE, TABLE, Sounds, Source

if TYPE_CHECKING:
    import numpy as np

    from latentclap.generation import Make
    from latentclap.system import FoleySystem


def lengths_of(finish: Finish, heard: Sounds, seconds: float) -> dict[str, float]:
    """Name -> length in seconds of its variations.

    Args:
        finish: how they are finished.
        heard: the sounds.
        seconds: length of the system's clips.

    Raises:
        InputError: what cannot be asked of a sound, which is named.
    """
    if finish.seconds:
        finish.check(seconds)  # no sound's variations are as long
    lengths = {}
    for name, length in heard.seconds.items():
        own = finish.within(length)
        try:
            own.check(length)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        lengths[name] = own.length(length)
    return lengths


def make_takes(
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Mapping[str, np.ndarray],
    settings: dict[str, Any],
    batch_size: int,
) -> Make:
    """What :func:`latentclap.generation.write_clips` calls for a sound's variations.

    Args:
        system: that makes them.
        sources: the sounds, with their strengths.
        heard: name -> samples at 16 kHz.
        settings: of :func:`latentclap.vary.process.vary`.
        batch_size: clips per UNet call.
    """
    from latentclap.vary.process import vary as process

    strength = {source.name: source.strength for source in sources}

    def make(name: str, text: str, first: int, count: int) -> np.ndarray:
        return process(
            system,
            [heard[name]],
            count,
            strength=strength[name],
            prompts=[text] if text else None,
            first=first,
            batch_size=batch_size,
            **settings,
        )[0]

    return make


def told_of(sources: Sequence[Source], lengths: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Name -> what the record says of a sound and of the length in seconds of its variations."""
    return {
        s.name: {"sound": plain(s.path), **s.asdict(), "seconds": round(lengths[s.name], 4)} for s in sources
    }


def write_about(
    out: Path,
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Sounds,
    made: Iterable[Path],
    lengths: Mapping[str, float],
    *,
    page: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write the table and the page of all variations that are there."""
    from latentclap.vary.page import variations_page
    from latentclap.vary.result import measure, write_table

    # also those of an earlier call that asked for more
    there = {s.name: [path for path in made if path.parent.name == s.name] for s in sources}
    for paths in there.values():
        paths.sort(key=lambda path: int(path.stem.rpartition("_")[2]))
    rows = measure(system, sources, heard, there, lengths, quiet=quiet)
    write_table(out / TABLE, rows)
    if page:
        variations_page(out, system, sources, heard, there, rows, lengths)
    elif overwrite and (out / PAGE / MARK).is_file():  # of clips that are no more
        shutil.rmtree(out / PAGE, ignore_errors=True)
