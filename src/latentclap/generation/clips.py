"""Clips are written as they come, each with what made it; a run that is stopped leaves a plan to go on from."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.finish import Finish
from latentclap.generation.plan import PLAN, code
from latentclap.generation.record import calls_of

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: Peak of a clip that came out beyond full scale.
LOUDEST = 0.99
#: Makes clips (count, samples) of (name, text, number of the first, count).
Make = Callable[[str, str, int, int], np.ndarray]


def write_clips(
    system: FoleySystem,
    names: dict[str, str],
    files: dict[str, list[Path]],
    settings: dict[str, Any],
    batch_size: int,
    quiet: bool,
    kept: dict[Path, dict[str, Any]],
    plan: dict[str, Any],
    finish: Finish = Finish(),
    make: Make | None = None,
    said: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
) -> dict[Path, dict[str, Any]]:
    """Generate batch by batch and write each clip as soon as it is there, but for those in ``kept``.

    ``make(name, text, first, count)`` returns clips (count, samples); by default they are generated from the text.
    ``said`` is what the files of each name say of themselves before the text; ``commands`` is what a run that goes
    on is to know of this one (:func:`latentclap.generation.commands`).
    The plan is written just before the first clip: a run that fails earlier leaves nothing. A clip beyond full scale
    is turned down (:func:`within_full_scale`).

    Returns:
        Every clip of the plan that is there, and what made it.
    """
    from latentclap.audio import write_wave

    def generated(name: str, text: str, first: int, count: int) -> np.ndarray:
        return system.generate(
            prompts=[text],
            n=count,
            first=first,
            batch_size=batch_size,
            progress=watched,
            **settings,
        )

    make = make or generated
    total = sum(len(paths) for paths in files.values())
    made, maker = dict(kept), _maker(system, batch_size)
    begun = False
    watched = not quiet and sys.stderr.isatty()
    bar = tqdm(total=total, unit="clip", disable=True if quiet else None)
    with bar, contextlib.ExitStack() as undo:
        for name, text in names.items():
            bar.set_description(name)
            bar.update(sum(path in kept for path in files[name]))
            for first, paths in _batches(files[name], kept, batch_size):
                waves = make(name, text, first, len(paths))
                if not np.isfinite(waves).all():
                    raise InputError(
                        f"{name}: the system generated NaN; its weights are damaged, or guidance is far too strong"
                    )
                if not begun:
                    out = paths[0].parents[1]
                    begun_by = {"plan": plan, "maker": maker, "commands": list(commands)}
                    write_json(out / PLAN, begun_by | {"calls": calls_of(kept, out)})
                    if not kept:
                        undo.callback(_forget, out)
                    begun = True
                for path, wave in zip(paths, waves, strict=True):
                    heard = finish(wave, system.sampling_rate)
                    words = ": ".join(part for part in ((said or {}).get(name), text) if part)
                    comment = _comment(words, path, settings | finish.asked(), _named(plan))
                    write_wave(
                        path, within_full_scale(heard), finish.rate(system.sampling_rate), comment=comment
                    )
                    made[path] = maker
                    undo.pop_all()  # from here on there is something to go on from
                    bar.update()
    return made


def _named(plan: dict[str, Any]) -> str:
    """The model's name, with its adapter's."""
    lora = plan["settings"].get("lora")
    return Path(plan["model"]).name + (f" with LoRA {lora['digest']}" if lora else "")


def _comment(text: str, path: Path, settings: dict[str, Any], model: str) -> str:
    """What a clip says of itself once it lies in a sound library, without its folder's record."""
    from latentclap import __version__

    how = ", ".join(
        f"{key.replace('_', '-')} {value:g}"
        if isinstance(value, float)
        else f"{key.replace('_', '-')} {value}"
        for key, value in settings.items()
    )
    number = int(path.stem.rpartition("_")[2])
    return f"{text} (clip {number}, {how}; {model} by latentclap {__version__})"


def _batches(files: list[Path], kept: Collection[Path], size: int) -> Iterator[tuple[int, list[Path]]]:
    """Clips that are missing, so many at once at most, and the number of the first: none is made again."""
    missing = [i for i, path in enumerate(files) if path not in kept]
    while missing:
        first = missing[0]
        count = next((k for k, i in enumerate(missing[:size]) if i != first + k), len(missing[:size]))
        yield first, files[first : first + count]
        missing = missing[count:]


def within_full_scale(wave: np.ndarray) -> np.ndarray:
    """A wave that a file can hold: one too loud is turned down as a whole, since cut peaks are heard as a crackle."""
    peak = float(np.abs(wave).max(initial=0.0))
    return wave if peak <= 1 else wave * (LOUDEST / peak)


def _forget(out: Path) -> None:
    """Take back the plan of a run that failed at its first clip, and the folder if it is empty."""
    (out / PLAN).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()


def _maker(system: FoleySystem, batch_size: int) -> dict[str, Any]:
    """What makes the clips of this run, beside model and settings."""
    import diffusers
    import numpy
    import torch
    import transformers

    from latentclap import __version__

    return {
        "device": str(system.device),
        "versions": {
            "latentclap": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "code": code(),
        "batch_size": batch_size,
    }
