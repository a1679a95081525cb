"""What the last step of a fine-tuning has made so far, clips and losses: a call after one that was killed goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.files import atomic_path, read_json, write_json

#: the folder of them, in the run's; it goes when the run is finished
PARTS = ".parts"
_PLAN = "plan.json"


class Parts:
    """Arrays by name, each kept in a file as soon as it is made; those of another plan go.

    Args:
        folder: theirs.
        plan: all that decides what they are, JSON-ready.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        told = json.loads(json.dumps(plan))
        known = None
        with contextlib.suppress(OSError, ValueError):
            known = read_json(folder / _PLAN)
        if known != told:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / _PLAN, told)

    def get(
        self,
        name: str,
        make: Callable[[], dict[str, np.ndarray]],
        good: Callable[[dict[str, np.ndarray]], bool] = bool,
    ) -> dict[str, np.ndarray]:
        """The arrays of a name: those that were kept, where they are good, else what ``make`` returns."""
        path = self.folder / f"{name}.npz"
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as kept:
                arrays = {key: kept[key] for key in kept.files}
            if good(arrays):
                return arrays
        arrays = make()
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
        return arrays
