"""Runs of notebooks that are too long for `make book`: kept as records, and the pages that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from latentclap.book.figures import provenance_line
from latentclap.book.longer import ablation, fig3, table1
from latentclap.errors import InputError
from latentclap.files import read_json, write_json, write_text

__all__ = ["keep", "longer_page"]


class _Kind(Protocol):
    """What a module of this package has for its notebook."""

    def keep(self, config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
        """What of a run's config.json and metrics.json is kept, beside its provenance and settings."""
        ...

    def page(self, told: dict[str, Any], figure: Path) -> list[str]:
        """The page's parts in Markdown; draws its figure, which they name."""
        ...


#: notebook -> how its run is kept and shown
KINDS = {
    name: cast("_Kind", module)
    for name, module in (("02_ablation", ablation), ("04_table1", table1), ("06_fig3", fig3))
}


def keep(folder: str | Path, out: str | Path) -> Path:
    """Keep what a run of notebook 02, 04 or 06 measured in one small file, with its settings and provenance.

    Args:
        folder: the run's folder, with config.json, metrics.json and provenance.json.
        out: the JSON to write.

    Raises:
        InputError: it is no folder of such a run.
    """
    folder = Path(folder)
    try:
        config, metrics, told = (
            read_json(folder / f"{name}.json") for name in ("config", "metrics", "provenance")
        )
        kind = KINDS[told["notebook"]]
        record = {**told, "settings": config["profile"], **kind.keep(config, metrics)}
    except (OSError, KeyError, TypeError, StopIteration):
        raise InputError(f"{folder}: not the folder of a finished run of {', '.join(KINDS)}") from None
    write_json(out, record)
    return Path(out)


def longer_page(record: str | Path, out: str | Path) -> Path:
    """Write what a longer run found, with its figure beside the page.

    Args:
        record: a file of :func:`keep`.
        out: the Markdown file to write; the figure is a PNG of the same name.

    Raises:
        InputError: there is no such file, or it is not of that kind.
    """
    path, out = Path(record), Path(out)
    if not path.is_file():
        raise InputError(f"{path}: no such file; python -m latentclap.book keep writes it")
    told = read_json(path)
    try:
        parts = KINDS[told["notebook"]].page(told, out.with_suffix(".png"))
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a record of python -m latentclap.book keep") from None
    write_text(out, "\n\n".join([*parts, str(provenance_line(told))]) + "\n")
    return out
