"""What a scan finds: clips, problems, and the report of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from latentclap.errors import InputError
from latentclap.files import plain
from latentclap.wording import few, plural


@dataclass(frozen=True)
class Clip:
    """One usable sound file.

    ``group`` names the recording it was cut from (None: a recording of its own), ``keys`` are all names that tables
    give that recording, ``digest`` names its samples; a ``silent`` clip is there where the scan was told to keep it.
    """

    path: Path
    cls: str
    group: str | None = None
    caption: str | None = None
    split: str | None = None
    seconds: float = 0.0
    sr: int = 0
    channels: int = 1
    licence: str | None = None
    source: str | None = None
    digest: str = ""
    keys: frozenset[str] = frozenset()
    silent: bool = False

    @property
    def recording(self) -> str:
        """Name of the recording: the group, or the file itself where no meta file gives one."""
        return self.group or self.path.as_posix()


@dataclass(frozen=True)
class Problem:
    """One thing wrong: ``kind`` is one of a few fixed words, ``detail`` says what was found."""

    path: Path
    kind: str
    detail: str


@dataclass(frozen=True)
class DataReport:
    """What a scan found: usable clips, problems, and remarks that are no problems (stale meta rows)."""

    folder: Path
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row per problem: path (relative to the folder), kind, detail."""
        rows = [(relative(p.path, self.folder), p.kind, p.detail) for p in self.problems]
        return pd.DataFrame(rows, columns=["path", "kind", "detail"])

    def one_line(self) -> str:
        """Counts and the first problem, in one line."""
        if not self.problems:
            return f"{self.folder}: {len(self.clips)} clips, no problem"
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in self.problems).items())
        first = self.problems[0]
        where = relative(first.path, self.folder)
        return (
            f"{self.folder}: {plural(len(self.problems), 'problem')} ({counts}), {len(self.clips)} usable clips; "
            f"first: {where}: {first.kind}, {first.detail}"
        )

    def raise_if_bad(self, ignore: Iterable[str] = ("missing class",)) -> None:
        """Raise InputError with one line, which names all bad files, if a problem's kind is not in ``ignore``."""
        kept = tuple(p for p in self.problems if p.kind not in set(ignore))
        if kept:
            names = list(dict.fromkeys(relative(p.path, self.folder) for p in kept))
            others = f"; also {few(names[1:])}" if names[1:] else ""
            raise InputError(f"{replace(self, problems=kept).one_line()}{others}; mend or remove such files")


def relative(path: Path, folder: Path) -> str:
    """``path`` below ``folder``, or the whole path where it lies elsewhere, as text that can be written."""
    return plain(path.relative_to(folder) if path.is_relative_to(folder) else path)
