"""Numbers as people read them: "1 clip", "3 clips", "288.6 MB"."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def plural(number: int, noun: str, many: str = "") -> str:
    """A number with its noun: ``plural(3, "clip")`` is "3 clips", ``plural(1, "clip")`` is "1 clip".

    Args:
        number: how many.
        noun: of one.
        many: of several, where that is not ``noun`` with an s.
    """
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def few(names: Iterable[str]) -> str:
    """Up to seven names, and how many more there are."""
    told = list(names)
    return ", ".join(told[:7]) + (f" and {len(told) - 7} more" if len(told) > 7 else "")


def human(size: int | None) -> str:
    """Bytes as text, in powers of ten as disks and downloads are sold: "288.6 MB"; None is "size not told"."""
    if size is None:
        return "size not told"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def file_size(path: Path) -> str:
    """Size of a file as text, see :func:`human`."""
    return human(path.stat().st_size)
