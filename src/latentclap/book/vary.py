"""What was measured of variations of sounds, and some of them to be heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.figures import provenance_line
from latentclap.book.markdown import counted, table
from latentclap.book.media import Shelf
from latentclap.book.pages import shelved_grid
from latentclap.book.players import AudioFile, spectrogram_png
from latentclap.errors import InputError
from latentclap.files import read_json, write_text

#: what takes are compared with
OTHER = "Another sound of its class"
#: measures in the record, their heading, and their decimals
_MEASURES = {
    "similarity": ("similarity to the sound (CLAP)", 2),
    "mel_distance": ("log-mel distance, nats", 2),
    "between": ("distance between two takes", 2),
    "recognised": ("recognised as its class", 2),
}


def vary_page(
    record: str | Path,
    out: str | Path = "book/generated/vary.md",
    static: str | Path = "book/_static",
) -> Path:
    """Write the measures of variations by strength, and a grid of players.

    Args:
        record: the folder that ``data_scripts/benchmarks/vary.py`` wrote.
        out: the Markdown file to write, included by a page in the parent folder of ``static``.
        static: the book's ``_static``; clips and their pictures go to ``static/audio/vary/``.

    Raises:
        InputError: it is no such folder, or lacks a clip.
    """
    folder, out = Path(record), Path(out)
    if not (folder / "vary.json").is_file():
        raise InputError(f"{folder}: no vary.json; data_scripts/benchmarks/vary.py writes it")
    told = read_json(folder / "vary.json")
    write_text(out, "\n\n".join([_players(told, folder, Path(static)), *_measures(told)]) + "\n")
    return out


def _measures(told: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in told["rows"]:
        cells = []
        for key, (_, digits) in _MEASURES.items():
            value = row.get(key)
            if value and key == "recognised":  # a share: Student's interval may go beyond
                value = {**value, "low": max(0.0, value["low"]), "high": min(1.0, value["high"])}
            cells.append(
                f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
                if value
                else "–"
            )
        name = f"Strength {row['strength']:g}, {row['steered']}" if "strength" in row else row["what"]
        rows.append((name, *cells))
    sampling = told["sampling"]
    near = _nearer(told["rows"])
    return [
        "## How far a strength goes",
        f"{counted(told['sounds'], 'held-out sound')} of the seven classes, {told['takes']} takes of each; means with"
        f" Student's 95 % interval over sounds. By {sampling['sampler']}, {sampling['steps']} steps for a whole"
        f" generation, guidance {sampling['guidance_scale']:g}.",
        "Nearer to their sound than another sound of its class, by both distances and beyond both intervals, are"
        f" takes at strength {', '.join(near)}."
        if near
        else "No takes are nearer to their sound, beyond the intervals, than another sound of its class.",
        table(("clips", *(head for head, _ in _MEASURES.values())), rows, numbers=len(_MEASURES)),
        str(provenance_line({**told, "profile": told["model"]})),
    ]


def _nearer(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Strengths at which takes, however steered, are nearer to their sound than another sound of its class."""
    (other,) = (row for row in rows if row["what"] == OTHER)
    takes: dict[float, bool] = {}
    for row in rows:
        if "strength" in row:
            near = row["mel_distance"]["high"] < other["mel_distance"]["low"]
            near &= row["similarity"]["low"] > other["similarity"]["high"]
            takes[row["strength"]] = takes.get(row["strength"], True) and near
    return [f"{strength:g}" for strength, near in takes.items() if near]


def _players(told: Mapping[str, Any], folder: Path, static: Path) -> str:
    from latentclap.audio import read_wave

    shelf = Shelf(static, "vary")
    pictures = static.parent / "generated" / "vary"
    pictures.mkdir(parents=True, exist_ok=True)
    cells = {}
    for cell in told["cells"]:
        file = folder / cell["file"]
        if not file.is_file():
            raise InputError(f"{folder}: {cell['file']} is missing; measure again")
        wave, sr = read_wave(file)
        picture = spectrogram_png(wave[0], sr, pictures / f"{file.stem}.png")
        cells[cell["row"], cell["column"]] = AudioFile(file, picture, "")
    rows, columns = (list(dict.fromkeys(cell[key] for cell in told["cells"])) for key in ("row", "column"))
    grid = shelved_grid(rows, columns, cells, shelf, "sounds and their variations", footnote=True)
    shelf.sweep()
    return grid.html(static.parent)
