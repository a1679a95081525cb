"""The record beside the clips: what made each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.files import write_json
from latentclap.finish import Finish
from latentclap.generation.plan import PLAN, RECORD

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


def makers_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """File -> what made it, of a record: one for all of its clips, or call by call."""
    if "calls" in record:
        calls = [({k: v for k, v in call.items() if k != "clips"}, call["clips"]) for call in record["calls"]]
        return {file: maker for maker, files in calls for file in files}
    maker = {key: record[key] for key in ("device", "versions", "code") if key in record}
    maker["batch_size"] = record["settings"].get("batch_size")
    return {clip["file"]: maker for clip in record["clips"]}


def calls_of(made: dict[Path, dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """What made some clips, each with its clips: the contrary of `makers_of`."""
    calls: list[tuple[dict[str, Any], list[str]]] = []
    for path, maker in made.items():
        clips = next((clips for known, clips in calls if known == maker), None)
        if clips is None:
            clips = []
            calls.append((maker, clips))
        clips.append(path.relative_to(out).as_posix())
    return [{**maker, "clips": clips} for maker, clips in calls]


def write_record(
    out: Path,
    model: str,
    system: FoleySystem,
    settings: dict[str, Any],
    names: dict[str, str],
    made: dict[Path, dict[str, Any]],
    plan: dict[str, Any],
    finish: Finish = Finish(),
    more: Mapping[str, Mapping[str, Any]] | None = None,
    commands: Sequence[str] = (),
) -> None:
    """Write what made the clips: model, settings, device, versions, and the prompt of every file.

    Where not all clips were made alike (a run went on elsewhere), device, versions and batch size stand call by call.
    ``more`` is what else is to be said of each name's clips, which may replace what is said of all; ``commands`` are
    those that make the clips again.
    """
    order = {name: i for i, name in enumerate(names)}
    number = {path: int(path.stem.rpartition("_")[2]) for path in made}
    paths = sorted(made, key=lambda path: (order[path.parent.name], number[path]))
    clips = [
        {
            "file": path.relative_to(out).as_posix(),
            "class": path.parent.name,
            "prompt": names[path.parent.name],
            "index": number[path],
            **(more or {}).get(path.parent.name, {}),
        }
        for path in paths
    ]
    calls = calls_of({path: made[path] for path in paths}, out)
    how: dict[str, Any] = {"calls": calls}
    if len(calls) == 1:
        how = {key: value for key, value in calls[0].items() if key not in ("clips", "batch_size")}
        settings = settings | {"batch_size": calls[0].get("batch_size")}
    record = {
        **({"commands": list(commands)} if commands else {}),
        "model": model,
        "settings": settings,
        "sampling_rate": finish.rate(system.sampling_rate),
        "seconds": finish.length(system.seconds),
        **how,
        "clips": clips,
        "plan": plan,
    }
    write_json(out / RECORD, record)
    (out / PLAN).unlink(missing_ok=True)
