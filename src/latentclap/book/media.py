"""The book's shelf of media files: copies named by content under ``_static/audio/<page>/``."""

from __future__ import annotations

import shutil
from pathlib import Path

from latentclap.files import atomic_path, file_sha256


class Shelf:
    """One page's folder of media in the book. Sphinx copies ``_static`` as it is, and nothing else.

    A file gets eight digits of its SHA-256 into its name: two runs may both call a clip ``rain_0.mp3``, and a
    browser never plays a cached old one.
    """

    def __init__(self, static: str | Path, page: str) -> None:
        self.folder = Path(static) / "audio" / page
        self._kept: dict[Path, Path] = {}

    def put(self, file: Path) -> Path:
        """Copy a file onto the shelf, unless its bytes are there already; return the copy's path."""
        file = file.resolve()
        if file not in self._kept:
            target = self.folder / f"{file.stem}-{file_sha256(file)[:8]}{file.suffix}"
            if not target.exists():
                with atomic_path(target) as temporary:
                    shutil.copyfile(file, temporary)
            self._kept[file] = target
        return self._kept[file]

    @property
    def players(self) -> int:
        """Number of audio files put so far."""
        return len({path for path in self._kept.values() if path.suffix != ".png"})

    def sweep(self) -> int:
        """Remove files of earlier builds that nothing refers to any more; return how many."""
        kept = set(self._kept.values())
        old = [path for path in self.folder.glob("*") if path.is_file() and path not in kept]
        for path in old:
            path.unlink()
        return len(old)
