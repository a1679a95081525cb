"""A folder of generated clips: what lies there is kept, clips are written as they come, a record says how.

``<folder>/<class>/<class>_000.wav``, ... and ``generation.json`` with model, settings and versions. While a run is
unfinished, ``.generation-plan.json`` says what it is making: the same command goes on with the clips that are
missing, which come out as they would have, since a clip depends on its prompt, number and seed alone.
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

#: Peak of a clip that came out beyond full scale.
LOUDEST = 0.99
#: What a run writes beside its clips, and what it keeps there until it has them all.
RECORD, PLAN = "generation.json", ".generation-plan.json"


def make_plan(model: str, settings: dict[str, Any], names: dict[str, str], format: str) -> dict[str, Any]:
    """What decides how a clip sounds. The number of clips does not: a longer run contains the shorter one."""
    from latentclap.storage import checkpoint_files, is_original, resolve

    folder = Path(model).parent if is_original(model) else resolve(model)
    # size and time instead of content: a plan is read at every start, and weights may be gigabytes
    stamp = [
        [p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns]
        for p in checkpoint_files(model)
    ]
    return {"model": model, "weights": stamp, "settings": settings, "prompts": names, "format": format}


def kept_clips(out: Path, files: list[Path], plan: dict[str, Any]) -> set[Path]:
    """Those of ``files`` that an earlier run of the same plan made, broken off or complete."""
    kept: set[Path] = set()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        record = read_json(out / RECORD)
        if record["plan"] == plan:
            kept |= {out / clip["file"] for clip in record["clips"]}
    with contextlib.suppress(OSError, ValueError):
        if read_json(out / PLAN) == plan:
            # an older clip is of what --overwrite was replacing when it was stopped
            since = (out / PLAN).stat().st_mtime_ns
            kept |= {path for path in files if path.exists() and path.stat().st_mtime_ns >= since}
    return {path for path in files if path in kept and path.exists()}


def earlier_clips(out: Path, files: list[Path], overwrite: bool, kept: set[Path]) -> set[str]:
    """Refuse to touch what another run made; with --overwrite, return the clips an earlier record lists."""
    try:
        check_place(out / RECORD)
    except OSError as error:
        raise InputError(f"--out {out}: {error.filename} {error.strerror}") from None
    there = [path for path in [out / RECORD, *files] if path.exists() and path not in kept]
    if kept and there == [out / RECORD]:
        return set()
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{more} would be replaced, by clips of other settings or weights; choose another --out or"
            " say --overwrite"
        )
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
    kept: set[Path],
    plan: dict[str, Any],
) -> dict[str, list[Path]]:
    """Generate batch by batch and write each clip as soon as it is there, but for those in ``kept``.

    The plan is written just before the first clip: a run that fails earlier leaves nothing. A clip beyond full scale
    is turned down (:func:`within_full_scale`).
    """
    from latentclap.audio import write_wave

    total = sum(len(paths) for paths in files.values())
    begun = False
    watched = not quiet and sys.stderr.isatty()
    bar = tqdm(total=total, unit="clip", disable=True if quiet else None)
    with bar, contextlib.ExitStack() as undo:
        for name, text in names.items():
            bar.set_description(name)
            for first in range(0, len(files[name]), batch_size):
                paths = files[name][first : first + batch_size]
                if kept.issuperset(paths):
                    bar.update(len(paths))
                    continue
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
                if not (kept or begun):
                    write_json(paths[0].parents[1] / PLAN, plan)
                    undo.callback(_forget, paths[0].parents[1])
                    begun = True
                for path, wave in zip(paths, waves, strict=True):
                    write_wave(path, within_full_scale(wave), system.sampling_rate)
                    undo.pop_all()  # from here on there is something to go on from
                    bar.update()
    return files


def within_full_scale(wave: np.ndarray) -> np.ndarray:
    """A wave that a file can hold: one too loud is turned down as a whole, since cut peaks are heard as a crackle."""
    peak = float(np.abs(wave).max(initial=0.0))
    return wave if peak <= 1 else wave * (LOUDEST / peak)


def _forget(out: Path) -> None:
    """Take back the plan of a run that failed at its first clip, and the folder if it is empty."""
    (out / PLAN).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()


def write_record(
    out: Path,
    model: str,
    system: FoleySystem,
    settings: dict[str, Any],
    names: dict[str, str],
    written: dict[str, list[Path]],
    plan: dict[str, Any],
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
        "plan": plan,
    }
    write_json(out / RECORD, record)
    (out / PLAN).unlink(missing_ok=True)
