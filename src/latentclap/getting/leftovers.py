"""What a killed process leaves behind: the temporary files of ``files.atomic_path``."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

_TEMPORARY = re.compile(r"\..*-[a-z0-9_]{8}(\.[^.]+)?", re.S)


def sweep(path: Path) -> None:
    """Remove the temporary files of earlier writers of ``path``; there must be no other writer now."""
    ours = re.compile(rf"\.{re.escape(path.stem)}-[a-z0-9_]{{8}}{re.escape(path.suffix)}")
    for found in path.parent.glob(".*"):
        if ours.fullmatch(found.name):
            found.unlink(missing_ok=True)


def sweep_tree(folder: Path, keep: Collection[str]) -> None:
    """Remove every temporary file below a folder that is only ours, but for the places in ``keep``."""
    for above, _, names in os.walk(folder):
        for name in names:
            path = Path(above, name)
            if _TEMPORARY.fullmatch(name) and path.relative_to(folder).as_posix() not in keep:
                path.unlink(missing_ok=True)
