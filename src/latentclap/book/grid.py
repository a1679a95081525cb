"""Rows and grids of native audio players as HTML.

The HTML names its files by paths relative to the folder of the notebook, so that they play in Jupyter;
``python -m latentclap.book collect`` moves the files into the book and rewrites those paths
(:mod:`latentclap.book.collect`). Playing needs no JavaScript: ``book/_static/listen.js`` makes one player pause the
others, number keys switch between the systems of a row, and pictures show the moment that is heard.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from latentclap.book.levels import Levelled, level_rows, sentence
from latentclap.book.players import DB_RANGE, PICTURE_SECONDS, AudioFile
from latentclap.errors import InputError

#: Set to "embed", players carry their bytes in the page: for notebooks on Colab or sent by mail.
EMBED_VARIABLE = "LATENTCLAP_PLAYERS"
#: The class by which :mod:`latentclap.book.collect` knows our blocks.
MARK = "lc-listen"


def footnote_of(span: float, heard: str = "") -> str:
    """What is printed once under a grid after the line on loudness: nobody has to trust the ear against the page.

    Args:
        span: seconds that its players play at most, and that its pictures are wide.
        heard: what of a clip that is, in words; by default the part that is evaluated.
    """
    heard = heard or f"the first {span:g} s of each clip, as FAD takes them"
    return (
        f"Heard and drawn are {heard}. Pictures share one scale: {span:g} s across, 64 mel bands from 0 to 8 kHz,"
        f" {DB_RANGE[0]:g} to {DB_RANGE[1]:+g} dB. A click on one plays from there. One player pauses the others; the"
        " number keys switch between the players of a row."
    )


#: of the book's own grids
FOOTNOTE = footnote_of(PICTURE_SECONDS)


class Listening:
    """A block of players: Jupyter shows it, :meth:`html` returns its HTML.

    Attributes:
        rows, columns, cells, title: what :func:`listening_grid` was given; clips of a row are at one loudness.
        levels: how loud the rows are, for the line below.
        heard: see :func:`footnote_of`.
        footnote: print the line on loudness and scales.
    """

    def __init__(
        self,
        rows: Sequence[str],
        columns: Sequence[str],
        cells: Mapping[tuple[str, str], AudioFile],
        *,
        title: str = "",
        footnote: bool = True,
        levels: Sequence[Levelled] = (),
        heard: str = "",
    ) -> None:
        self.rows, self.columns, self.cells = list(rows), list(columns), dict(cells)
        self.title, self.footnote, self.levels, self.heard = title, footnote, list(levels), heard

    def html(self, base: str | Path | None = None) -> str:
        """Return the HTML, with paths relative to the folder ``base``. None: the folder of the notebook."""
        base = Path(base) if base is not None else notebook_folder()
        heads = "".join(
            f'<th scope="col"><span class="lc-key" aria-hidden="true">{k}</span> {html.escape(column)}</th>'
            if k < 10
            else f'<th scope="col">{html.escape(column)}</th>'
            for k, column in enumerate(self.columns, 1)
        )
        body = "".join(self._row(row, base) for row in self.rows)
        label = html.escape(self.title or "audio examples", quote=True)
        span = max((clip.span for clip in self.cells.values()), default=PICTURE_SECONDS)
        words = html.escape(f"{sentence(self.levels)} {footnote_of(span, self.heard)}")
        note = f'<p class="lc-note">{words}</p>' if self.footnote else ""
        # one line: in Markdown an empty line or four blanks would end the HTML block
        return (
            f'<div class="{MARK}" data-seconds="{span:g}" '
            f'style="--lc-columns:{len(self.columns)};--lc-half:{(len(self.columns) + 1) // 2}">'
            f'<div class="lc-scroll" style="overflow-x:auto" tabindex="0" role="region" aria-label="{label}">'
            f'<table class="lc-grid"><thead><tr><td></td>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
            f"{note}</div>"
        )

    def _row(self, row: str, base: Path) -> str:
        cells = "".join(
            _cell(
                self.cells.get((row, column)),
                f"{self.title}, {row}, {column}".removeprefix(", "),
                base,
                # the style sheet writes each player's heading over it, with the key that plays it
                f' data-column="{html.escape(column, quote=True)}"' + (f' data-key="{k}"' if k < 10 else ""),
            )
            for k, column in enumerate(self.columns, 1)
        )
        return f'<tr class="lc-row"><th scope="row">{html.escape(row)}</th>{cells}</tr>'

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        return self.html()


def player_row(
    items: Mapping[str, AudioFile] | Sequence[tuple[str, AudioFile]],
    *,
    title: str = "",
    footnote: bool = False,
) -> Listening:
    """Return one row of players, e.g. the same prompt by several systems.

    Args:
        items: heading -> clip, in order; headings must differ.
        title: what the row is, shown at its left and read out by screen readers.
        footnote: print the line on loudness and scales under it.
    """
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    return listening_grid(
        [title], [name for name, _ in pairs], {(title, k): v for k, v in pairs}, footnote=footnote
    )


def listening_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], AudioFile],
    *,
    title: str = "",
    footnote: bool = True,
    allow_missing: bool = False,
    folder: str | Path | None = None,
    heard: str = "",
) -> Listening:
    """Return a table of players: rows are items (class and index), columns are systems.

    The clips of a row are brought to one loudness (:mod:`latentclap.book.levels`).

    Args:
        rows: headings of the rows, in order.
        columns: headings of the columns, in order.
        cells: (row, column) -> clip.
        title: what the table shows, for screen readers.
        footnote: print the line on loudness and scales under it.
        allow_missing: leave a dash where a cell has no clip, instead of failing.
        folder: where copies at a row's loudness go; None: beside the clips.
        heard: what of each clip is heard and drawn, for the footnote; by default the part that is evaluated.

    Raises:
        InputError: nothing to show, a heading twice, or a cell without a clip.
    """
    for what, names in (("row", rows), ("column", columns)):
        if not names or len(set(names)) != len(names):
            raise InputError(
                f"listening grid {title!r}: {what} headings must be there and differ: {list(names)}"
            )
    missing = [f"{row} / {column}" for row in rows for column in columns if (row, column) not in cells]
    if missing and not allow_missing:
        raise InputError(
            f"listening grid {title!r}: no clip for {'; '.join(missing[:5])} ({len(missing)} in all)"
        )
    keys = {row: [(row, column) for column in columns if (row, column) in cells] for row in rows}
    levelled = level_rows({row: [cells[key] for key in keys[row]] for row in rows}, folder)
    at_level = {key: clip for row in rows for key, clip in zip(keys[row], levelled[row].clips, strict=True)}
    return Listening(
        rows,
        columns,
        at_level,
        title=title,
        footnote=footnote,
        levels=list(levelled.values()),
        heard=heard,
    )


def notebook_folder() -> Path:
    """Return the folder from which a notebook's output resolves relative paths.

    Jupyter's server names the notebook in ``JPY_SESSION_NAME``. Under papermill it is the working directory:
    the README's commands write the executed notebook there.
    """
    session = Path(os.environ.get("JPY_SESSION_NAME", ""))
    return session.parent if session.is_absolute() else Path.cwd()


def select_examples(n: int, k: int, seed: int = 0) -> tuple[list[int], str]:
    """Choose which k of n clips a page shows; return their indices and the sentence that states the rule.

    The rule looks at nothing but the count and the seed: nobody listened before.

    Args:
        n: clips that there are, numbered by the seed index of their generation.
        k: clips to show.
        seed: 0 shows the first k; any other seed draws k without replacement, in ascending order.

    Raises:
        InputError: fewer clips than wanted, or k < 1.
    """
    if not 1 <= k <= n:
        raise InputError(f"cannot show {k} of {n} clips; generate more or show fewer")
    if seed == 0:
        return list(range(k)), f"Shown are the first {k} of {n} clips by seed index; none was picked by ear."
    chosen = sorted(random.Random(seed).sample(range(n), k))
    return chosen, f"Shown are {k} of {n} clips, drawn at random with seed {seed}; none was picked by ear."


# --------------------------------------------------------------------------------------------- HTML


def _cell(audio: AudioFile | None, label: str, base: Path, heading: str) -> str:
    if audio is None:
        return f'<td class="lc-missing"{heading}>–</td>'
    source = _source(audio.path, base)
    spoken = html.escape(label, quote=True)
    picture = ""
    if audio.picture is not None:
        picture = (
            f'<span class="lc-picture"><img src="{_source(audio.picture, base)}" loading="lazy" width="240" '
            f'height="80" alt="Log-mel spectrogram: {spoken}"></span>'
        )
    name = html.escape(audio.path.name, quote=True)
    kind = audio.path.suffix.removeprefix(".")
    link = f'<a href="{source}" download="{name}" aria-label="Download: {spoken}">{kind}</a>'
    caption = f"{html.escape(audio.caption)} · {link}" if audio.caption else link
    return (
        f'<td{heading}><audio controls controlslist="nodownload noplaybackrate" preload="none" '
        f'src="{source}" aria-label="{spoken}"></audio>{picture}'
        f'<div class="lc-caption">{caption}</div></td>'
    )


def data_url(path: Path) -> str:
    """A file's bytes as a URL of their own."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _source(path: Path, base: Path) -> str:
    """A relative URL for a file, or its bytes as a data URL when the environment asks for it."""
    if not path.is_file():
        raise InputError(f"{path}: the player's file is not there; run the notebook's cell that writes it")
    if os.environ.get(EMBED_VARIABLE) == "embed":
        return data_url(path)
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())
