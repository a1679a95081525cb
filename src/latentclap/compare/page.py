"""The page of a comparison: figures, and the systems' clips beside real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from latentclap.audio import read_wave
from latentclap.book.grid import FOOTNOTE, listening_grid
from latentclap.book.players import PICTURE_SECONDS, AudioFile, save_player
from latentclap.book.standalone import figure, heading, number_table, paragraph, write_page
from latentclap.compare.changes import verdict
from latentclap.compare.figure import WHAT_IT_SHOWS, draw, every
from latentclap.compare.table import Comparison
from latentclap.comparing import FIGURE, REAL
from latentclap.evaluate.clips import is_silent
from latentclap.files import plain
from latentclap.naming import spoken

WHAT_IT_SAYS = (
    "FAD and KAD: how far a system's clips as a whole are from the real ones, 0 being best; FAD is too high with few"
    " clips, KAD is right on average and may fall below 0. Precision: share of clips that are near real ones."
    " Coverage: share of real clips with a generated one near; it is low where a system makes one sound again and"
    " again."
)
#: where the reference is statistics
WHAT_FAD_SAYS = (
    "FAD: how far a system's clips as a whole are from real ones; 0 is best, few clips make it too high."
)
#: what the line under players says of the length of what was measured
AS_FAD = ", as FAD takes them"


@dataclass(frozen=True)
class Heard:
    """Clips of one training of a system, for the page.

    Attributes:
        files: {class: sound files}.
        rows: `clip_rows` of all classes, with a column ``class``; empty where the reference is statistics.
    """

    files: Mapping[str, Sequence[Path]]
    rows: pd.DataFrame


def comparison_page(
    folder: Path,
    comparison: Comparison,
    heard: Mapping[str, Heard],
    real: Mapping[str, Sequence[Path]],
    *,
    training: Mapping[str, Sequence[Path]] | None = None,
    items: int = 2,
    lines: Sequence[str] = (),
    progress: bool = False,
) -> Path:
    """Write ``folder/index.html`` with its sound files beside it; it opens from a disk.

    It has the figures; the first ``items`` clips of each class by every system, which are chosen by nothing but their
    names; the clips of each system that lie furthest from real ones; and, with ``training``, those that lie nearest
    to a training clip, beside it.

    Args:
        folder: for the page.
        comparison: what was measured.
        heard: {system: the clips of its first training}.
        real: {class: real clips}, for the first column; empty where the reference is statistics.
        training: {class: training clips}.
        items: clips of each class, of the odd ones, and of the nearest; 0: figures alone.
        lines: what stands above, a paragraph each.
        progress: show a bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seconds = every(comparison)[0].fad.settings.get("seconds", PICTURE_SECONDS)
    words = draw(comparison, folder / FIGURE)
    blocks = [
        *map(paragraph, lines),
        _summary(comparison),
        _changes(comparison),
        figure(FIGURE, words),
        paragraph(WHAT_IT_SHOWS),
        paragraph(WHAT_IT_SAYS if real else WHAT_FAD_SAYS),
        heading("Class by class"),
        *_classes(comparison),
    ]
    with tqdm(desc="page", unit="player", disable=None if progress and items else True) as bar:
        players = _Players(folder, bar, seconds)
        if items:
            blocks += [heading("Side by side"), *_side_by_side(players, heard, real, items)]
            if real:
                blocks += [heading("Furthest from real clips"), *_odd(players, heard, items)]
            if training:
                blocks += [heading("Nearest to a training clip"), *_near(players, heard, training, items)]
    return write_page(folder / "index.html", "Comparison", blocks)


class _Players:
    """Sound files of the page, made once each."""

    def __init__(self, folder: Path, bar: Any, seconds: float) -> None:
        self.folder, self.bar, self.seconds = folder, bar, seconds
        self.made: dict[Path, AudioFile] = {}
        self.silent: set[Path] = set()

    def clip(self, path: Path, caption: str) -> AudioFile:
        if path not in self.made:
            wave, sr = read_wave(path)
            wave, file = wave[0], self.folder / f"{len(self.made):03d}.mp3"
            if is_silent(heard := wave[: round(PICTURE_SECONDS * sr)]):
                # raised to the others' loudness, a hum that no figure takes for a sound would be one
                self.made[path] = save_player(heard - heard.mean(), sr, file, lufs=None)
            else:
                self.made[path] = save_player(wave, sr, file)
            if is_silent(wave[: round(self.seconds * sr)]):
                self.silent.add(path)
            self.bar.update()
        return self.made[path].with_caption(caption + (" (silent)" if path in self.silent else ""))

    def grid(
        self, rows: list[str], columns: list[str], cells: dict[tuple[str, str], AudioFile], title: str
    ) -> str:
        shown = listening_grid(rows, columns, cells, title=title, allow_missing=True, folder=self.folder)
        text = shown.html(self.folder)
        if self.seconds != PICTURE_SECONDS:  # players have one length, whatever was measured
            text = text.replace(
                FOOTNOTE, FOOTNOTE.replace(AS_FAD, f"; measured are the first {self.seconds:g} s")
            )
        return text


def _side_by_side(
    players: _Players, heard: Mapping[str, Heard], real: Mapping[str, Sequence[Path]], items: int
) -> list[str]:
    columns = [REAL, *heard] if real else list(heard)
    rows, cells = [], {}
    for cls in next(iter(heard.values())).files:
        sources = {REAL: real.get(cls, ()), **{name: one.files[cls] for name, one in heard.items()}}
        for i in range(min(items, max(len(sources[column]) for column in columns))):
            row = f"{spoken(cls)} ({i + 1})"
            rows.append(row)
            for column in columns:
                if i < len(sources[column]):
                    path = sources[column][i]
                    cells[row, column] = players.clip(path, plain(path.name))
    first = "The first clip" if items == 1 else f"The first {items} clips"
    rule = f"{first} of each class by name; none was picked by ear."
    return [paragraph(rule), players.grid(rows, columns, cells, "side by side")]


def _odd(players: _Players, heard: Mapping[str, Heard], items: int) -> list[str]:
    rows, cells = [f"{i + 1}" for i in range(items)], {}
    for name, one in heard.items():
        worst = one.rows.sort_values(["oddness", "distance"], ascending=False, kind="stable").head(items)
        for row, told in zip(rows, worst.to_dict("records"), strict=False):
            out = "every real clip" if told["oddness"] == 1 else f"{told['oddness']:.0%} of real clips"
            path = one.files[told["class"]][told["index"]]
            words = f"{spoken(told['class'])}, {told['file']}: further out than {out}"
            cells[row, name] = players.clip(path, words)
    rule = (
        "Of each system the clips whose neighbours among real clips are furthest; clips.csv has all of them."
    )
    rows = [row for row in rows if any((row, name) in cells for name in heard)]
    return [paragraph(rule), players.grid(rows, list(heard), cells, "furthest from real clips")]


def _near(
    players: _Players, heard: Mapping[str, Heard], training: Mapping[str, Sequence[Path]], items: int
) -> list[str]:
    blocks = [
        paragraph(
            "Of each system the clips that lie nearest to a clip of the training set, beside that clip: whoever hears"
            " the same sound twice hears a copy."
        )
    ]
    made, known = "Generated", "Training"
    rows, cells = [], {}
    for name, one in heard.items():
        near = one.rows.sort_values("training_distance", kind="stable").head(items)
        for i, told in enumerate(near.to_dict("records"), 1):
            row = f"{name} ({i})"
            rows.append(row)
            cls = told["class"]
            found = training[cls][told["training_index"]]
            cells[row, made] = players.clip(
                one.files[cls][told["index"]],
                f"{spoken(cls)}, {told['file']}: {told['training_distance']:.3g} away",
            )
            cells[row, known] = players.clip(found, told["nearest_training"])
    return [*blocks, players.grid(rows, [made, known], cells, "nearest to a training clip")]


def _summary(comparison: Comparison) -> str:
    heads = {"fad": "FAD", "kad": "KAD", "precision": "precision", "coverage": "coverage"}
    heads |= {"similarity": "similarity", "nearer_training": "nearer to training"}
    rows = comparison.summary().to_dict("records")
    shown = [key for key in heads if any(row[key] == row[key] for row in rows)]
    several = any(row["trainings"] > 1 for row in rows)
    silent = any(row["n_silent"] > 0 for row in rows)
    table = [
        [
            row["system"],
            *([str(row["trainings"])] if several else []),
            *(_value(row, key) for key in shown),
            str(row["n_clips"]),
            *([f"{row['n_silent']:.0f}"] if silent else []),
        ]
        for row in rows
    ]
    if expected := comparison.expected_coverage():
        blank = ["" if key != "coverage" else expected for key in shown]
        table.append(
            ["real clips, as many", *([""] if several else []), *blank, "", *([""] if silent else [])]
        )
    head = ["", *(["trainings"] if several else []), *(heads[key] for key in shown), "clips"]
    head += ["of them silent"] if silent else []
    return number_table(head, table)


def _changes(comparison: Comparison) -> str:
    first, rows = next(iter(comparison.systems)), []
    for measure, changes in comparison.changes().items():
        for name, c in changes.items():
            interval = f"[{c.low:+.3f}, {c.high:+.3f}]" if math.isfinite(c.low) else ""
            p = f"{c.p:.2g}" if math.isfinite(c.p) else ""
            rows.append(
                [f"{measure}, {name}", f"{c.value:+.3f}", interval, p, str(c.trainings), verdict(c, measure)]
            )
    if not rows:
        return ""
    corrected = "p (Holm)" if len(comparison.systems) > 2 else "p"
    head = ["", f"against {first}", f"{comparison.level:.0%}", corrected, "trainings", "this shows"]
    return number_table(head, rows)


def _classes(comparison: Comparison) -> list[str]:
    table = comparison.table()
    blocks = []
    for key, name in (("fad", "FAD"), ("kad", "KAD"), ("precision", "precision"), ("coverage", "coverage")):
        if table[key].isna().all():
            continue
        rows = [
            [
                spoken(cls),
                *(
                    _mean(table[(table["system"] == s) & (table["class"] == cls)], key)
                    for s in comparison.systems
                ),
            ]
            for cls in dict.fromkeys(table["class"])
        ]
        blocks.append(number_table([name, *comparison.systems], rows))
    silent = table.groupby(["class", "system"], sort=False)["n_silent"].sum()
    if (silent > 0).any():
        rows = [
            [spoken(cls), *(f"{silent[cls, s]:.0f}" for s in comparison.systems)]
            for cls in dict.fromkeys(table["class"])
        ]
        blocks.append(number_table(["silent clips", *comparison.systems], rows))
    return blocks


def _mean(rows: pd.DataFrame, key: str) -> str:
    """A class's figure: with its interval of one training, the mean of several."""
    row: dict[str, Any] = rows.iloc[0].to_dict() if len(rows) == 1 else {key: rows[key].mean()}
    return _value(row, key)


def _value(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if value != value:
        return "–"
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    digits = 3 if key in ("fad", "kad") else 2
    return f"{value:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")
