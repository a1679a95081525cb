"""Clips that are to be left out by name: WavCaps' blacklists, or lists of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from latentclap.audio import FORMATS
from latentclap.errors import InputError

#: the reason that left-out clips are listed with
EXCLUDED = "excluded"


@dataclass(frozen=True)
class Exclusion:
    """Names of clips that are left out; ``key in exclusion`` says whether a clip is one of them.

    Attributes:
        everywhere: ids without a source, which are left out wherever they occur.
        sources: of other ids the sources (folders) that they belong to, in lower case.
    """

    everywhere: frozenset[str] = frozenset()
    sources: dict[str, frozenset[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.everywhere) + sum(map(len, self.sources.values()))

    def __contains__(self, key: str) -> bool:
        *folders, name = key.split("/")
        if name in self.everywhere:
            return True
        # WavCaps' blacklists say AudioSet where its captions lie in AudioSet_SL
        return any(
            f"{folder.lower()}_".startswith(f"{source}_")
            for source in self.sources.get(name, ())
            for folder in folders
        )

    def agrees(self, keys: Iterable[str], excluded: Iterable[str], crops: int = 1) -> bool:
        """Whether a shard with these clips, from which those were left out, is what it would be now.

        With several ``crops`` of a sound, clip k of sound ``key`` is called ``key#k``.
        """
        sounds = (key.rpartition("#")[0] if crops > 1 else key for key in keys)
        return all(key in self for key in excluded) and not (len(self) and any(key in self for key in sounds))


def read_exclusion(paths: Sequence[str | Path]) -> Exclusion:
    """Read lists of clips to leave out, and join them.

    A JSON file holds ``{source: [ids]}``, as WavCaps' blacklists do (``json_files/blacklist/*.json``, sources
    AudioSet and FreeSound), or a list of names; any other file a name per line, ``#`` begins a comment line. A name
    is an id, which is left out wherever it occurs, or ``source/id``. A sound file's suffix does not count.

    Raises:
        InputError: no such file, or it has another form.
    """
    everywhere: set[str] = set()
    sources: dict[str, set[str]] = {}
    for path in map(Path, paths):
        for source, name in _names(path):
            if source:
                sources.setdefault(_id(name), set()).add(source.lower())
            else:
                everywhere.add(_id(name))
    return Exclusion(frozenset(everywhere), {name: frozenset(them) for name, them in sources.items()})


def _names(path: Path) -> list[tuple[str, str]]:
    """(source, id) of every entry of a list; the source is "" where none is told."""
    if not path.is_file():
        raise InputError(f"--exclude {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin files so
        data = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are
        raise InputError(f"--exclude {path}: neither JSON nor text ({error})") from None
    told = list(data.items()) if isinstance(data, dict) else [("", data)]
    if not all(isinstance(ids, list) and all(isinstance(n, str | int) for n in ids) for _, ids in told):
        raise InputError(
            f'--exclude {path}: not in the form {{"source": ["id", ...]}}, ["id", ...], or an id per line'
        )
    pairs = [(source, str(n).strip()) for source, ids in told for n in ids]
    return [
        (source or PurePosixPath(name).parent.name, PurePosixPath(name).name)
        for source, name in pairs
        if name and not name.startswith("#")
    ]


def _id(name: str) -> str:
    """An id as it stands in a clip's key: no sound file's suffix, no dots."""
    for suffix in FORMATS:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name.replace(".", "_")
