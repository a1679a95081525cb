"""The page that plays a system before and after fine-tuning, beside the sounds that it was fine-tuned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentclap.audio import resample
from latentclap.audio.waves import MODEL_RATE
from latentclap.book.grid import listening_grid
from latentclap.book.players import PICTURE_SECONDS, AudioFile, save_player
from latentclap.book.standalone import paragraph, write_page
from latentclap.cache.listing import Item
from latentclap.cache.windows import decode_head
from latentclap.errors import InputError
from latentclap.files import write_json

#: the column of the folder's own sounds
YOURS = "Yours"
#: what the page plays, for other pages
CELLS = "listen.json"


def own_wave(item: Item) -> np.ndarray:
    """The beginning of one of the folder's sounds, float32 (samples,) at 16 kHz, as long as a player plays."""
    wave, sr = decode_head(item, PICTURE_SECONDS)
    return resample(wave.mean(0), sr, MODEL_RATE)


def listening_page(
    folder: Path,
    texts: Sequence[str],
    own: Mapping[str, Sequence[Item]],
    made: Mapping[str, Mapping[str, np.ndarray]],
    sampling_rate: int,
    lines: Sequence[str],
) -> Path:
    """Write ``folder/index.html`` with its players' files beside it; it opens from a disk.

    ``listen.json`` beside it says which file is in which row and column.

    Args:
        folder: for the page.
        texts: captions, in order; each makes a row per clip.
        own: caption -> sounds of the folder, as many as rows at most.
        made: column -> caption -> clips (n, samples).
        sampling_rate: of the clips, in Hz.
        lines: what stands above the table, a paragraph each.
    """
    cells: dict[tuple[str, str], AudioFile] = {}
    rows = []
    for number, text in enumerate(texts):
        clips = {column: list(made[column][text]) for column in made}
        for i in range(max(map(len, clips.values()))):
            row = f"{text} ({i + 1})"
            rows.append(row)
            name = f"{number:02d}_{i:02d}"
            for column, waves in clips.items():
                path = folder / f"{name}_{column.lower()}.mp3"
                cells[row, column] = save_player(waves[i], sampling_rate, path)
            if i < len(own[text]):
                item = own[text][i]
                try:
                    wave = own_wave(item)
                except InputError:  # it is in the cache's list of problems
                    continue
                path = folder / f"{name}_{YOURS.lower()}.mp3"
                cells[row, YOURS] = save_player(wave, MODEL_RATE, path, caption=item.key)
    columns = [YOURS, *made]
    grid = listening_grid(
        rows, columns, cells, title="before and after", allow_missing=True, folder=folder
    ).html(folder)
    write_json(
        folder / CELLS,
        {
            "rows": rows,
            "columns": columns,
            "cells": [
                {"row": row, "column": column, "file": clip.path.name, "caption": clip.caption}
                for (row, column), clip in cells.items()
            ],
        },
    )
    return write_page(folder / "index.html", "Before and after", [*map(paragraph, lines), grid])
