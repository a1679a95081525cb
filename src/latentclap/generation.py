"""A folder of generated clips: what lies there is kept, clips are written as they come, a record says how.

``<folder>/<class>/<class>_000.wav``, ... and ``generation.json`` with model, settings and versions.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latentclap.errors import InputError
from latentclap.files import check_place, read_json, write_json

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: What a run writes beside its clips.
RECORD = "generation.json"


def earlier_clips(out: Path, files: list[Path], overwrite: bool) -> set[str]:
    """Refuse to touch what is there; with --overwrite, return the clips an earlier record lists."""
    try:
        check_place(out / RECORD)
    except OSError as error:
        raise InputError(f"--out {out}: {error.filename} {error.strerror}") from None
    there = [path for path in [out / RECORD, *files] if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(f"{there[0]}{more} would be replaced; choose another --out or say --overwrite")
    try:
        record = read_json(out / RECORD)
        listed = [clip["file"] for clip in record["clips"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    # a record may have been edited: nothing outside the folder is ever removed
    return {name for name in listed if (out / name).resolve().is_relative_to(out.resolve())}


def drop_stale(out: Path, stale: set[str]) -> None:
    """Remove clips of an earlier run that this one did not write again, and class folders left empty."""
    for path in stale:
        (out / path).unlink(missing_ok=True)
        # an empty class folder would be a problem to `evaluate`; one with other files stays
        with contextlib.suppress(OSError):
            (out / path).parent.rmdir()


def write_clips(
    system: FoleySystem,
    names: dict[str, str],
    files: dict[str, list[Path]],
    settings: dict[str, Any],
    batch_size: int,
    quiet: bool,
) -> dict[str, list[Path]]:
    """Generate batch by batch and write each clip as soon as it is there."""
    from latentclap.audio import write_wave

    total = sum(len(paths) for paths in files.values())
    watched = not quiet and sys.stderr.isatty()
    with tqdm(total=total, unit="clip", disable=True if quiet else None) as bar:
        for name, text in names.items():
            bar.set_description(name)
            for first in range(0, len(files[name]), batch_size):
                paths = files[name][first : first + batch_size]
                waves = system.generate(
                    prompts=[text],
                    n=len(paths),
                    first=first,
                    batch_size=batch_size,
                    progress=watched,
                    **settings,
                )
                if not np.isfinite(waves).all():
                    raise InputError(
                        f"{name}: the system generated NaN; its weights are damaged, or guidance is far too strong"
                    )
                for path, wave in zip(paths, waves, strict=True):
                    write_wave(path, wave, system.sampling_rate)
                    bar.update()
    return files


def write_record(
    out: Path,
    model: str,
    system: FoleySystem,
    settings: dict[str, Any],
    names: dict[str, str],
    written: dict[str, list[Path]],
) -> None:
    """Write what made the clips: model, settings, device, versions, and the prompt of every file."""
    import diffusers
    import numpy
    import torch
    import transformers

    from latentclap import __version__

    clips = [
        {"file": path.relative_to(out).as_posix(), "class": name, "prompt": names[name], "index": i}
        for name, paths in written.items()
        for i, path in enumerate(paths)
    ]
    record = {
        "model": model,
        "settings": settings,
        "sampling_rate": system.sampling_rate,
        "seconds": system.seconds,
        "device": str(system.device),
        "versions": {
            "latentclap": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "clips": clips,
    }
    write_json(out / RECORD, record)
