"""A recorded run of ``latentclap finetune``, and the part of a page that shows and plays it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.book.figures import provenance_line
from latentclap.book.markdown import counted, table
from latentclap.book.media import Shelf
from latentclap.book.pages import shelved_grid
from latentclap.book.players import AudioFile
from latentclap.errors import InputError
from latentclap.files import read_json, write_json, write_text

#: the losses in the record, and what they are called
LOSSES = {"ddpm": "eq. 1", "lclap": "eq. 3"}


def keep_own(folder: str | Path, out: str | Path) -> Path:
    """Keep a finished run of ``latentclap finetune`` in a small folder: its record, and the clips of its page.

    Args:
        folder: the run's.
        out: the folder to write; it is replaced.

    Raises:
        InputError: it is not the folder of a finished run with a page.
    """
    folder, out = Path(folder), Path(out)
    try:
        told, summary, page = (
            read_json(folder / name) for name in ("finetune.json", "summary.json", "listen/listen.json")
        )
        kept = {
            "model": told["model"],
            "sounds": {k: told["sounds"][k] for k in ("layout", "held_out")} | {"train": told["used"]},
            **{k: told[k] for k in ("profile", "clips", "steps", "training")},
            "held_out_losses": told.get("held_out_losses", {}),
            **{k: summary[k] for k in ("seconds", "device", "commit", "versions")},
            "listen": page,
        }
        files = [cell["file"] for cell in page["cells"]]
    except (OSError, KeyError, TypeError):
        raise InputError(f"{folder}: not a finished run of latentclap finetune with its page") from None
    if out.exists() and not (out / "own.json").is_file():
        raise InputError(f"{out} holds other things: choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in files:
        for file in (folder / "listen" / name, (folder / "listen" / name).with_suffix(".png")):
            shutil.copyfile(file, out / file.name)
    write_json(out / "own.json", kept)
    return out


def own_page(
    record: str | Path,
    out: str | Path = "book/generated/own.md",
    static: str | Path = "book/_static",
) -> Path:
    """Write what a kept run measured, and its clips as a grid of players.

    Args:
        record: a folder of :func:`keep_own`.
        out: the Markdown file to write, included by a page in the parent folder of ``static``.
        static: the book's ``_static``; the clips go to ``static/audio/own/``.

    Raises:
        InputError: it is no such folder.
    """
    folder, out = Path(record), Path(out)
    if not (folder / "own.json").is_file():
        raise InputError(f"{folder}: no own.json; python -m latentclap.book keep-own writes it")
    told = read_json(folder / "own.json")
    write_text(out, "\n\n".join([_found(told), _players(told, folder, Path(static)), _losses(told)]) + "\n")
    return out


def _found(told: Mapping[str, Any]) -> str:
    training, sounds = told["training"], told["sounds"]
    return (
        f"{told['model']} was fine-tuned on {counted(told['clips'], 'clip')} of"
        f" {counted(sounds['train'], 'sound')}: {counted(told['steps'], 'step')} of"
        f" {counted(training['batch_size'], 'clip')}, λ = {training['lam']:g}, learning rate {training['lr']:g}."
        f" {counted(len(sounds['held_out']), 'sound').capitalize()} were held out."
    )


def _losses(told: Mapping[str, Any]) -> str:
    rows = []
    for name, loss in told["held_out_losses"].items():
        # one sound has no interval
        interval = f" [{loss['ci'][0]:+.2g}, {loss['ci'][1]:+.2g}]" if loss["ci"] else ""
        change = f"{loss['change']:+.2g}{interval}"
        rows.append((LOSSES[name], f"{loss['before']:.3g}", f"{loss['after']:.3g}", change))
    line = provenance_line(told, wall_seconds=told["seconds"])
    head = ("loss on held-out sounds (lower is better)", "before", "after", "change [95 % over sounds]")
    return f"{table(head, rows, numbers=3)}\n\n{line}" if rows else f"{line}"


def _players(told: Mapping[str, Any], folder: Path, static: Path) -> str:
    shelf, page = Shelf(static, "own"), told["listen"]
    cells = {}
    for cell in page["cells"]:
        file = folder / cell["file"]
        if not file.is_file() or not file.with_suffix(".png").is_file():
            raise InputError(f"{folder}: {cell['file']} or its picture is missing; keep the run again")
        shown = AudioFile(file, file.with_suffix(".png"), cell["caption"])
        cells[cell["row"], cell["column"]] = shown
    grid = shelved_grid(
        page["rows"], page["columns"], cells, shelf, "before and after fine-tuning", footnote=True
    )
    shelf.sweep()
    return grid.html(static.parent)
