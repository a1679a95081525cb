"""Recordings of a model card counted once: rows of its corpora hold each of them several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentclap.recordings import REAL, copies, counted
from latentclap.recordings import heard as real_heard


def card_once(content: Mapping[str, Any]) -> dict[str, Any]:
    """The card with recordings counted once: rows of its corpora hold each of them several times."""
    out, corpus, sources = {}, content.get("corpus", []), content.get("real_sources", [])
    for key, value in content.items():
        if key in ("real_clips", "real_copies"):
            if "recordings" not in out and (told := real_heard(corpus, sources)):
                out["recordings"] = told
        elif key == "corpus":
            out[key] = _corpus_once(value, sources)
        elif key == "stages":
            out[key] = _stages_once(value, sources)
        elif key == "earlier":
            out[key], had = [], sources
            for told in value:
                had = told.get("real_sources", had)
                again = {"corpus": _corpus_once(told["corpus"], had)} if "corpus" in told else {}
                out[key].append({**told, "stages": _stages_once(told.get("stages") or {}, had), **again})
        else:
            out[key] = value
    return out


def _corpus_once(
    corpus: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of a corpus with "14 × 3" in place of the 42 clips that 14 recordings are, each in it three times."""
    rows = sum(row.get("clips", 0) for row in corpus if row.get("kind") == REAL)
    often = copies(rows, counted(sources)[0])

    def once(row: Mapping[str, Any]) -> dict[str, Any]:
        n = row.get("clips", 0)
        if row.get("kind") != REAL or not often or n % often:
            return dict(row)
        return {**row, "clips": f"{n // often} × {often}"}

    return [once(row) for row in corpus]


def _stages_once(
    stages: Mapping[str, Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    clips, _ = counted(sources)
    out = {}
    for name, stage in stages.items():
        often = copies(stage.get("corpus_real", 0), clips)
        out[name] = {**stage, "corpus_real": f"{clips} × {often}"} if often else dict(stage)
    return out
