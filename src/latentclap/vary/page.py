"""The page that plays sounds beside their variations."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.book.grid import listening_grid
from latentclap.book.players import AudioFile, save_player
from latentclap.book.standalone import number_table, paragraph, write_page
from latentclap.files import plain, replaceable, write_json
from latentclap.system import FoleySystem
from latentclap.vary.process import through_model
from latentclap.vary.result import beginning, model_wave
from latentclap.vary.sounds import MARK, PAGE, Source

#: the first columns: a sound, and what is left of it without any noise
SOUND, THROUGH = "Sound", "Through the model"
#: rows and variations of each that the page plays; the folder has all
ROWS, CLIPS = 40, 6


def variations_page(
    out: Path,
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Mapping[str, np.ndarray],
    files: Mapping[str, Sequence[Path]],
    rows: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> Path:
    """Write ``out/listen/index.html`` with its players' files beside it, in place of an earlier one.

    Args:
        out: the folder of the variations.
        system: that made them.
        sources: what was varied, in order.
        heard: name -> the sound (samples,) at 16 kHz.
        files: name -> its variations.
        rows: of :func:`latentclap.vary.result.measure`.
        seconds: name -> length of its variations; of the sound as much is played.
    """
    folder = replaceable(out / PAGE, MARK, "a page of variations")
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / MARK, [])  # also where this is broken off, the folder can be replaced
    away = {row["file"]: row for row in rows}
    # whole clips on one time axis; of a click there is still something to be seen
    span = math.ceil(10 * max(1.0, *(seconds[source.name] for source in sources[:ROWS]))) / 10
    cells: dict[tuple[str, str], AudioFile] = {}
    heads, through = [], {}
    titles = Counter(title for _, title in {(source.path, source.title) for source in sources})
    for number, source in enumerate(sources[:ROWS]):
        # files of one name are told apart by their folders
        title = source.title if titles[source.title] == 1 else plain(source.path)
        head = f"{title}, strength {source.strength:g}"
        heads.append(head)
        sound = heard[source.name][: system.samples]
        if source.path not in through:
            through[source.path] = through_model(system, sound)
        for column, wave in ((SOUND, sound), (THROUGH, through[source.path])):
            name = f"{number:02d}_{'sound' if column == SOUND else 'model'}.mp3"
            part = beginning(wave, seconds[source.name])
            cells[head, column] = save_player(part, system.sampling_rate, folder / name, seconds=span)
        for i, path in enumerate(files[source.name][:CLIPS]):
            told = away[path.relative_to(out).as_posix()]
            words = path.name + (
                f" \u00b7 similarity {told['similarity']:.2f}" if "similarity" in told else ""
            )
            cells[head, f"Take {i + 1}"] = save_player(
                model_wave(path),
                system.sampling_rate,
                folder / f"{number:02d}_{i + 1:02d}.mp3",
                caption=words,
                seconds=span,
            )
    most = max(map(len, files.values()))
    columns = [SOUND, THROUGH, *(f"Take {i + 1}" for i in range(min(CLIPS, most)))]
    grid = listening_grid(
        heads, columns, cells, title="variations", allow_missing=True, folder=folder, heard="whole variations"
    )
    files_of = [{"row": r, "column": c, "file": clip.path.name} for (r, c), clip in cells.items()]
    write_json(folder / MARK, files_of)
    lines = [
        "Each row is a sound, what the model's encoder, decoder and vocoder leave of it, and its variations. A row"
        " has one loudness. The number keys play the row that was heard last.",
    ]
    parts = [f"the first {ROWS} of {len(sources)} rows"] if len(sources) > ROWS else []
    parts += [f"the first {CLIPS} variations of each sound"] if most > CLIPS else []
    if parts:
        lines.append(f"Played are {' and '.join(parts)}; the folder has all.")
    blocks = [*map(paragraph, lines), grid.html(folder)]
    return write_page(folder / "index.html", "Variations", [*blocks, _table(rows)])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over all variations of a strength."""
    lines = []
    for strength in sorted({row["strength"] for row in rows}, key=float):
        part = [row for row in rows if row["strength"] == strength]
        alike = [row["similarity"] for row in part if "similarity" in row]
        lines.append(
            (
                strength,
                f"{len(part)}",
                f"{np.mean(alike):.3f}" if alike else "\u2013",
                f"{np.mean([row['mel_distance'] for row in part]):.3f}",
            )
        )
    head = ("strength", "variations", "similarity to the sound (CLAP)", "log-mel distance, nats")
    return number_table(head, lines)
