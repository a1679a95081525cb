"""The table of sources (``sources.toml``), typed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True)
class Entry:
    """One file of a source: its name there, and its checksum ("md5:...", "sha256:...") where one is published."""

    name: str
    checksum: str = ""


@dataclass(frozen=True)
class Source:
    """One thing to get.

    ``out`` is the default folder, ``include`` and ``exclude`` are patterns over a hub repository, ``unpacked``
    is the size in bytes after unpacking where it is known, ``values`` are SHA-256 digests of converted numbers.
    """

    name: str
    title: str
    kind: Literal["zenodo", "hub", "url"]
    page: str
    out: str
    licence: str
    cite: str
    record: str = ""
    repo: str = ""
    repo_type: str = "model"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    base: str = ""
    folder: str = ""
    files: tuple[Entry, ...] = ()
    unpacked: int = 0
    clips: dict[str, int] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def said(self) -> str:
        """What a user has to know before downloading: title, page, licence, citation."""
        lines = [("from", self.page), ("licence", self.licence), ("cite", self.cite)]
        return "\n".join([self.title, *(f"  {key:<9}{value}" for key, value in lines)])


def _load() -> dict[str, Source]:
    text = files("latentclap.getting").joinpath("sources.toml").read_text(encoding="utf-8")
    return {name: _source(name, raw) for name, raw in tomllib.loads(text).items()}


def _source(name: str, raw: dict[str, Any]) -> Source:
    entries = tuple(Entry(**item) for item in raw.pop("files", []))
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Source(name=name, files=entries, **fixed)


#: Every source by name.
SOURCES: dict[str, Source] = _load()
