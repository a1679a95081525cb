"""What a user may choose, and the files of a plan as they stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentclap.getting.partial import downloaded
from latentclap.getting.remote import RemoteFile
from latentclap.wording import human


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    ``mirror`` is a hub's endpoint or a folder of files, ``verify`` reads every file again, ``replace`` downloads
    those that do not match, ``workers`` is how many files travel at once.
    """

    out: Path | None = None
    mirror: str = ""
    revision: str = ""
    dry_run: bool = False
    verify: bool = False
    replace: bool = False
    quiet: bool = False
    keep_archives: bool = True
    workers: int = 4
    timeout: float = 60.0
    attempts: int = 5
    wait: float = 1.0


@dataclass(frozen=True)
class Item:
    """One file of a plan: where it goes, and how it stands there."""

    remote: RemoteFile
    target: Path
    state: str  # "in place", "to be checked", "to download", "begun", "unpacked"

    @property
    def missing(self) -> int:
        """Bytes still to come; 0 where the size is not told."""
        if self.state not in ("to download", "begun"):
            return 0
        return max(0, (self.remote.size or 0) - downloaded(self.target))


def row_of(item: Item) -> str:
    """A file's line of the plan: how it stands, its size, its name, and who tells its checksum."""
    algorithm = item.remote.checksum.partition(":")[0]
    checked = f"{algorithm} told by {item.remote.told_by}" if algorithm else "no published checksum"
    return f"  {item.state:<14}{human(item.remote.size):>14}  {item.remote.name}  ({checked})"
