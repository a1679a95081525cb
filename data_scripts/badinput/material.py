"""Things to give to a command, made when they are first asked for: the shelf, and who makes what."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path, "Shelf"], None]
#: name -> maker; it is given the path to make, and the shelf for what it starts from
MATERIALS: dict[str, Maker] = {}
_FILE_NAMES: dict[str, str] = {}


def material(name: str = "") -> Callable[[Maker], Maker]:
    """Register a maker under its function's name; ``name`` is the file's where the command looks at it."""

    def register(make: Maker) -> Maker:
        add(make.__name__, make, name)
        return make

    return register


def add(key: str, make: Maker, name: str = "") -> None:
    """Register a maker."""
    MATERIALS[key] = make
    if name:
        _FILE_NAMES[key] = name


def spoilt(source: str, spoil: Callable[[Path], None]) -> Maker:
    """A maker that copies another material and spoils the copy."""

    def make(path: Path, shelf: Shelf) -> None:
        copy = shutil.copytree if (origin := shelf.get(source)).is_dir() else shutil.copy
        copy(origin, path)
        spoil(path)

    return make


class Shelf:
    """Materials below a folder.

    Attributes:
        made: name -> path of what was made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}
        self._lock = threading.RLock()

    def get(self, name: str) -> Path:
        """Path of a material, in a folder of its own."""
        with self._lock:
            if name not in self.made:
                path = self.folder / name / _FILE_NAMES.get(name, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                MATERIALS[name](path, self)
                self.made[name] = path
            return self.made[name]

    def unlock(self) -> None:
        """Give back the rights that some materials lack on purpose, so that they can be removed."""
        for path in self.made.values():
            if path.exists():
                path.chmod(0o755)
        for path in self.folder.rglob("*"):
            path.chmod(0o755)
