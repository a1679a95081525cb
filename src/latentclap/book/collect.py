"""Bring an executed notebook into the book: copy its players, rewrite their paths, drop what no page needs.

Where a notebook runs, its players' paths start from the notebook's folder
(:func:`latentclap.book.grid.notebook_folder`). In the book they lie under ``_static/audio/<notebook>/``,
since Sphinx copies only ``_static``. This step turns one into the other; HTML without our mark stays as is.
"""

from __future__ import annotations

import dataclasses
import html
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from latentclap.book.grid import MARK, data_url
from latentclap.book.media import Shelf
from latentclap.errors import InputError
from latentclap.files import write_text

_REFERENCE = re.compile(r'\b(src|href)="([^"]+)"')
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|#|//)", re.IGNORECASE)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclasses.dataclass(frozen=True)
class Collected:
    """What :func:`collect_notebook` did."""

    notebook: Path
    players: int
    removed: int


def collect_notebook(
    notebook: str | Path,
    out: str | Path = "book/notebooks",
    static: str | Path = "book/_static",
    *,
    base: str | Path = ".",
    name: str | None = None,
) -> Collected:
    """Copy one executed notebook into the book, with its players.

    Args:
        notebook: the executed notebook, e.g. papermill's output.
        out: the book's folder of notebooks.
        static: the book's ``_static``; players go to ``static/audio/<name>/``.
        base: the working directory in which papermill ran; players' paths are looked up from the folder
            of the notebook first, then from here.
        name: the page's name without ``.ipynb``; default is the notebook's own.

    Raises:
        InputError: not a notebook, never executed, a cell failed, or a player's file is missing.
    """
    notebook, out, base = Path(notebook), Path(out), Path(base)
    page = name or notebook.stem
    content = _read(notebook)
    _check_executed(content, notebook)
    shelf = Shelf(static, page)
    for number, cell in enumerate(content.cells):
        if "outputs" in cell:
            # widgets are progress bars here: their scripts come from a CDN, and their text says nothing afterwards
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", ()):
            where = f"{notebook}, cell {number}"
            _clean_output(output, f"{base.resolve()}{os.sep}")
            _rewrite_output(output, shelf, out, (notebook.parent, base), where)
    _describe_figures(content)
    _clean_metadata(content)
    write_text(out / f"{page}.ipynb", _dumps(content))
    return Collected(out / f"{page}.ipynb", shelf.players, shelf.sweep())


def rewrite_paths(
    block: str, shelf: Shelf, out: Path, bases: tuple[Path, ...], where: str = "players"
) -> str:
    """Return our HTML with every file on the shelf and every path relative to ``out``.

    Args:
        block: HTML of a :class:`latentclap.book.Listening`.
        shelf: where the files go.
        out: the folder of the page in the book's source.
        bases: folders from which the paths in ``block`` may start, tried in order.
        where: for the message.

    Raises:
        InputError: a file is in none of the folders.
    """

    def move(match: re.Match[str]) -> str:
        attribute, url = match[1], html.unescape(match[2])
        if _ELSEWHERE.match(url):
            return match[0]
        found = next((base / unquote(url) for base in bases if (base / unquote(url)).is_file()), None)
        if found is None:
            raise InputError(f"{where}: player file {unquote(url)} is not there; run the notebook again")
        target = os.path.relpath(shelf.put(found).resolve(), out.resolve())
        return f'{attribute}="{quote(Path(target).as_posix())}"'

    return _REFERENCE.sub(move, block)


def self_contained(html_folder: str | Path) -> int:
    """Put the players' files into the notebooks that the built book gives to download; return how many.

    A notebook that is saved from the book and opened elsewhere has no folder of players beside it.

    Args:
        html_folder: the built book; its ``_sources/notebooks`` are rewritten.

    Raises:
        InputError: a player's file is not in the book.
    """
    html_folder, count = Path(html_folder), 0
    for notebook in sorted((html_folder / "_sources" / "notebooks").glob("*.ipynb")):

        def carry(match: re.Match[str], page: str = notebook.name) -> str:
            url = html.unescape(match[2])
            if _ELSEWHERE.match(url):
                return match[0]
            file = html_folder / "notebooks" / unquote(url)
            if not file.is_file():
                raise InputError(f"{page}: {unquote(url)} is not in {html_folder}; build the book again")
            return f'{match[1]}="{data_url(file)}"'

        content, done = _read(notebook), 0
        for cell in content.cells:
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                for mime in [m for m in data if m.endswith("text/html") and MARK in data[m]]:
                    data[mime], found = _REFERENCE.subn(carry, data[mime])
                    done += found
        if done:
            write_text(notebook, _dumps(content))
            count += 1
    return count


def _read(notebook: Path) -> Any:
    import nbformat  # part of the extra [book]

    if not notebook.is_file():
        raise InputError(f"{notebook}: no such notebook; run it with papermill first")
    try:
        return nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises half a dozen types for half a dozen kinds of broken file
        raise InputError(f"{notebook}: not a Jupyter notebook ({type(error).__name__})") from error


def _dumps(content: Any) -> str:
    import nbformat

    return nbformat.writes(content) + "\n"


def _check_executed(content: Any, notebook: Path) -> None:
    code = [
        (k, cell) for k, cell in enumerate(content.cells) if cell.cell_type == "code" and cell.source.strip()
    ]
    for number, cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                raise InputError(
                    f"{notebook}, cell {number}: failed with {output.ename}: {output.evalue}; "
                    "mend it and run the notebook again"
                )
    if code and not any(cell.execution_count for _, cell in code):
        raise InputError(f"{notebook}: was never executed; the book shows executed notebooks only")


def _rewrite_output(output: Any, shelf: Shelf, out: Path, bases: tuple[Path, ...], where: str) -> None:
    data = output.get("data", {})
    for mime in data:
        # glue keeps its copies under application/papermill.record/text/html
        if mime.endswith("text/html") and MARK in data[mime]:
            data[mime] = rewrite_paths(data[mime], shelf, out, bases, where)


def _clean_output(output: Any, root: str) -> None:
    """Absolute paths of this machine tell a reader nothing."""
    data = output.get("data", {})
    for mime in data:
        if mime.startswith("text/") or mime.endswith(("text/html", "text/plain")):
            data[mime] = data[mime].replace(root, "")
    if "text" in output:
        output["text"] = output["text"].replace(root, "")


def _describe_figures(content: Any) -> None:
    """Give pictures a text for those who cannot see them, where MyST-NB looks for it: in the cell's metadata.

    The text is the figure's own (:func:`latentclap.book.figures.describe_figure`); a figure that has none is called
    by the heading above it.
    """
    heading = ""
    for cell in content.cells:
        if cell.cell_type == "markdown":
            found = _HEADING.findall(cell.source)
            heading = re.sub(r"[*`$\\{}]", "", found[-1]).strip() if found else heading
            continue
        shown = [output.data for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
        if not shown:
            continue
        texts = [data.get("text/plain", "").strip() for data in shown]
        texts = [f"Figure: {heading}" if not text or text.startswith("<") else text for text in texts]
        options = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
        options.setdefault("alt", "; ".join(dict.fromkeys(texts)))


def _clean_metadata(content: Any) -> None:
    content.metadata.pop("widgets", None)
    papermill = content.metadata.get("papermill", {})
    for key in ("input_path", "output_path", "environment_variables"):
        papermill.pop(key, None)
