"""What a run is going to make: what decides how a clip sounds, and the version of the code that makes it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from latentclap.files import file_sha256

#: What a run writes beside its clips, and what it keeps there until it has them all.
RECORD, PLAN = "generation.json", ".generation-plan.json"
#: Bytes of weights up to which a plan names them by their content.
SMALL = 100_000_000
#: Modules whose code decides what a clip is.
MAKERS = (
    "audio",
    "checkpoints",
    "classes",
    "convert",
    "diffusion",
    "fast",
    "finish",
    "generation",
    "lora",
    "storage",
    "system",
    "vary.process",
    "vary.sounds",
)


def make_plan(model: str, settings: dict[str, Any], names: dict[str, str], format: str) -> dict[str, Any]:
    """What decides how a clip sounds. The number of clips does not: a longer run contains the shorter one."""
    from latentclap.storage import checkpoint_files, is_original, resolve

    folder = Path(model).parent if is_original(model) else resolve(model)
    files = [(p, p.relative_to(folder).as_posix(), p.stat()) for p in checkpoint_files(model)]
    # a copied folder or a package installed again has files of another time; but a plan is read at every start, and
    # weights may be gigabytes
    small = sum(stat.st_size for _, _, stat in files) <= SMALL
    stamp = [
        [name, stat.st_size, _digest(path, stat.st_size, stat.st_mtime_ns) if small else stat.st_mtime_ns]
        for path, name, stat in files
    ]
    return {"model": model, "weights": stamp, "settings": settings, "prompts": names, "format": format}


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, time: int) -> str:
    """A file's digest, read once as long as size and time stay: a page makes a plan for every clip."""
    return file_sha256(path)


def code() -> str:
    """Version and source of what makes a clip: clips of other code are never taken for this code's."""
    from latentclap import __version__
    from latentclap.runs import code_hash

    return f"{__version__} {code_hash(MAKERS)}"
