"""What a family heard, from its model card: recordings counted once, however often the corpus holds each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: How a corpus and a card call its recordings.
REAL = "real"


def counted(sources: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(clips, recordings that they were cut from) in a card's ``real_sources``; each of either once."""
    clips = sum(row.get("files", 0) for row in sources)
    return clips, len({name for row in sources for name in row.get("recordings", ())})


def copies(rows: int, clips: int) -> int | None:
    """How often the corpus holds each clip, from the number of its rows; None where that is no whole number."""
    return rows // clips if clips and rows % clips == 0 else None


def heard(corpus: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]) -> str:
    """ "684 clips of 467 recordings, each three times"; empty where the corpus holds none."""
    rows = sum(row.get("clips", 0) for row in corpus if row.get("kind") == REAL)
    if not rows:
        return ""
    clips, recordings = counted(sources)
    if not clips:
        return f"{rows} clips"
    often = copies(rows, clips)
    return f"{clips} clips of {recordings} recordings, " + (
        f"each {times(often)}" if often else f"{rows} with repetitions"
    )


def times(n: int) -> str:
    """ "once", "twice", "three times", ..., "9 times"."""
    return {1: "once", 2: "twice", 3: "three times", 4: "four times"}.get(n, f"{n} times")
