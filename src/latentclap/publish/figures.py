"""Figures that were measured, as a run's records and ``latentclap evaluate`` wrote them down."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_json

#: what evaluate's JSON has
_EVALUATION = {"name", "average", "average_ci", "classes", "settings"}


def held_out(losses: dict[str, Any]) -> list[dict[str, Any]]:
    """Losses on held-out sounds by ``latentclap finetune``, as rows: what, before, after, change_ci, of."""
    names = {"ddpm": "eq. 1 on held-out sounds", "lclap": "eq. 3 on held-out sounds"}
    return [
        {
            "what": names[key],
            "before": loss["before"],
            "after": loss["after"],
            "change_ci": loss["ci"],
            "of": f"{loss['sounds']} sounds",
        }
        for key, loss in losses.items()
        if key in names
    ]


def before_after(metrics: dict[str, Any], record: dict[str, Any]) -> list[dict[str, Any]]:
    """What notebook 03 measures before and after, as rows like those of :func:`held_out`."""
    count = record.get("clips_per_class", "some")
    names = {
        "ddpm": ("eq. 1 on held-out clips", "ten noise levels"),
        "lclap": ("eq. 3 on held-out clips", "ten noise levels"),
        "similarity": ("similarity with the prompt, by the judging CLAP", f"{count} clips a class"),
    }
    rows = []
    for key, (what, of) in names.items():
        before, after = (metrics.get(pair) for pair in _pair(key))
        if isinstance(before, int | float) and isinstance(after, int | float):
            rows.append({"what": what, "before": before, "after": after, "change_ci": None, "of": of})
    return rows


def _pair(key: str) -> tuple[str, str]:
    """A metric's names before and after: of a loss, and of the similarity."""
    return (
        ("similarity_before", "similarity_after")
        if key == "similarity"
        else (f"before_{key}", f"after_{key}")
    )


def evaluations(run: Path | None, given: Iterable[Path]) -> list[dict[str, Any]]:
    """Results that ``latentclap evaluate --json`` wrote: those in the run's folder, and those that are named.

    Returns:
        For each its name (embedding, counts, interval), average, average_ci and {class: {"fad", "ci"}}.

    Raises:
        InputError: a named file is no such result, or a number in it is none.
    """
    there = [] if run is None else [path for path in sorted(run.glob("*.json")) if _is_evaluation(path)]
    named = list(given)
    for path in named:
        if not path.is_file():
            raise InputError(f"--evaluation {path}: no such file")
        if not _is_evaluation(path):
            raise InputError(f"--evaluation {path}: not what latentclap evaluate --json writes")
    seen = {path.resolve(): path for path in [*there, *named]}
    return [_evaluation(path) for path in seen.values()]


def _is_evaluation(path: Path) -> bool:
    told = read_json(path)
    return isinstance(told, dict) and told.keys() >= _EVALUATION


def _evaluation(path: Path) -> dict[str, Any]:
    told = read_json(path)
    try:
        return {
            "name": str(told["name"]),
            "average": float(told["average"]),
            "average_ci": _interval(told["average_ci"]),
            "classes": {
                str(cls): {"fad": float(row["fad"]), "ci": _interval(row["ci"])}
                for cls, row in told["classes"].items()
            },
        }
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not what latentclap evaluate --json writes ({error})") from None


def _interval(given: Any) -> list[float] | None:
    low, high = given
    return None if low is None or high is None else [float(low), float(high)]
