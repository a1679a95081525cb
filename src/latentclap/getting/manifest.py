"""What was got, kept beside the data: the memory behind "trust on first use".

``latentclap-get.json`` in a folder names each file with its SHA-256, where it came from and who vouched for it.
Where no checksum is published, the first download is trusted and its SHA-256 is written down; every later
download, and every file found in place, has to have the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.getting.leftovers import sweep
from latentclap.locks import locked

NAME = "latentclap-get.json"


@dataclass(frozen=True)
class Known:
    """One file as it was when it was checked."""

    source: str
    url: str
    size: int
    sha256: str
    published: str = ""
    told_by: str = ""
    mtime_ns: int = 0
    seen: str = ""

    def unchanged(self, path: Path) -> bool:
        """Whether the file on disk still has the size and the time of its last check."""
        try:
            stat = path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Manifest:
    """The manifest of one folder; every change is written at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.files: dict[str, Known] = {}
        self.revisions: dict[str, str] = {}
        self.unpacked: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        names = {f.name for f in fields(Known)}
        try:
            raw = read_json(self.path)
            for name, item in raw["files"].items():
                self.files[name] = Known(**{key: value for key, value in item.items() if key in names})
            self.revisions, self.unpacked = dict(raw["revisions"]), dict(raw["unpacked"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not readable as a manifest ({error}); remove it to trust the present files anew"
            ) from None

    def update(
        self,
        *,
        files: Mapping[str, Known] | None = None,
        revisions: Mapping[str, str] | None = None,
        unpacked: Mapping[str, dict[str, Any]] | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Add, replace or (``without``) leave out entries and write the file.

        Entries that another process has added since are kept.
        """
        with locked(self.path.with_name(f".{NAME}.lock"), strict=True):
            sweep(self.path)  # of killed runs: whoever writes holds the lock
            if self.path.is_file():
                self._read()
            self.files.update(files or {})
            self.files = {name: item for name, item in self.files.items() if name not in without}
            self.revisions.update(revisions or {})
            self.unpacked.update(unpacked or {})
            about = "written by data_scripts/get.py: what was downloaded, and what it is checked against"
            write_json(
                self.path,
                {
                    "about": about,
                    "files": {name: asdict(item) for name, item in sorted(self.files.items())},
                    "revisions": self.revisions,
                    "unpacked": self.unpacked,
                },
            )

    def forget(self, names: Collection[str]) -> None:
        """Trust files no longer; they themselves stay."""
        self.update(without=names)

    def remember(
        self, name: str, path: Path, sha256: str, *, source: str, url: str, published: str, told_by: str
    ) -> None:
        """Write down a file that was just checked."""
        stat = path.stat()
        first = self.files.get(name)
        seen = first.seen if first and first.sha256 == sha256 else ""
        known = Known(
            source=source,
            url=url,
            size=stat.st_size,
            sha256=sha256,
            published=published,
            told_by=told_by,
            mtime_ns=stat.st_mtime_ns,
            seen=seen or datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.update(files={name: known})
