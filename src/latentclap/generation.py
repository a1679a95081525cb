"""A folder of generated clips: what lies there is kept, clips are written as they come, a record says how.

``<folder>/<class>/<class>_000.wav``, ... and ``generation.json`` with model, settings and versions. While a run is
unfinished, ``.generation-plan.json`` says what it is making: the same command goes on with the clips that are
missing, which come out as they would have, since a clip depends on its prompt, number and seed alone.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latentclap import locks
from latentclap.earlier import alike, differences, joined, read
from latentclap.errors import InputError
from latentclap.files import check_place, file_sha256, listed, read_json, write_json
from latentclap.finish import Finish
from latentclap.typed import typed

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: Peak of a clip that came out beyond full scale.
LOUDEST = 0.99
#: Makes clips (count, samples) of (name, text, number of the first, count).
Make = Callable[[str, str, int, int], np.ndarray]
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


def _earlier(out: Path) -> list[dict[str, Any]]:
    """What earlier calls left to say of a folder's clips: the record, and the plan of a stopped one.

    Each is as :func:`latentclap.earlier.read` gives it; one that cannot be read is passed over.
    """
    found = []
    for name in (RECORD, PLAN):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            found.append(read(read_json(out / name)))
    return found


def with_earlier(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, with classes and texts of the folder's clips that were made as it says: the record keeps them."""
    return joined(plan, [told["plan"] for told in _earlier(out)])


def commands(out: Path, kept: Collection[Path], files: Collection[Path]) -> list[str]:
    """The commands that make a folder's clips again: those of the kept clips, and this one if it makes any."""
    words = [word for told in _earlier(out) for word in told.get("commands", [])] if kept else []
    if set(files) - set(kept) or not words:
        words.append(typed())
    return list(dict.fromkeys(word for word in words if word))


def kept_clips(out: Path, plan: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Clips that earlier runs made as the plan says, by the same code, broken off or complete, and what made each.

    Runs of other names count too: a run of more classes or sounds goes on from one of fewer.
    """
    there = {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in _clips_in(out, plan)}
    makers: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        record = read_json(out / RECORD)
        makers |= _of(makers_of(record), alike(record["plan"], plan))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        begun = read_json(out / PLAN)
        # an older clip is of what --overwrite was replacing when it was stopped
        since = (out / PLAN).stat().st_mtime_ns
        newer = [file for file, time in there.items() if time >= since]
        makers = {file: maker for file, maker in makers.items() if file not in newer}
        # a plan by itself is of before it said what makes the clips
        made = makers_of({"calls": begun.get("calls", [])}) | dict.fromkeys(newer, begun.get("maker", {}))
        makers |= _of(made, alike(begun.get("plan", begun), plan))
    present = code()
    return {
        out / file: maker
        for file, maker in makers.items()
        # older records do not tell the code
        if file in there and maker.get("code", present) == present
    }


def _of(makers: dict[str, dict[str, Any]], names: set[str]) -> dict[str, dict[str, Any]]:
    """Those of some names' files."""
    return {file: maker for file, maker in makers.items() if file.partition("/")[0] in names}


def _clips_in(out: Path, plan: dict[str, Any]) -> list[Path]:
    """Files that have the names of a plan's clips, however many it was to be."""
    found = []
    for name in plan["prompts"]:
        for path in listed(out / name):
            number = path.stem.removeprefix(f"{name}_")
            named = path.name.startswith(f"{name}_") and path.suffix == f".{plan['format']}"
            if named and number.isdecimal() and number == f"{int(number):03d}":
                found.append(path)
    return found


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


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a folder of clips for this run: of two at once with other settings, clips of both would lie in it.

    Raises:
        InputError: another run writes there, or nothing can be written there.
    """
    try:
        check_place(out / RECORD)
    except OSError as error:
        raise InputError(f"--out {out}: {error.filename} {error.strerror}") from None
    with locks.alone(out, "another run writes clips there"):
        yield


def earlier_clips(
    out: Path, files: list[Path], overwrite: bool, kept: Collection[Path], plan: dict[str, Any]
) -> set[str]:
    """Refuse to touch what another run made; with --overwrite, return the clips that earlier runs made.

    Raises:
        InputError: something there would be replaced, or belongs to names that are not asked for, which the record
            would no longer tell of.
    """
    there = [path for path in [out / RECORD, *files] if path.exists() and path not in kept]
    recorded = _recorded(out)
    if overwrite:
        return recorded
    if there and not (kept and there == [out / RECORD]):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{more} would be replaced, by clips of other settings, weights or code{_why(out, plan)};"
            " choose another --out or say --overwrite"
        )
    asked = {path.parent.name for path in [*files, *kept]}
    others = {file.partition("/")[0] for file in recorded if (out / file).is_file()} - asked
    if others:
        raise InputError(
            f"{out} holds clips of {', '.join(sorted(others))}, which this call does not name: name them too, choose"
            " another --out, or say --overwrite, which removes them"
        )
    return set()


def _why(out: Path, plan: dict[str, Any]) -> str:
    """In brackets, what differs from what earlier calls did in a folder; nothing where that cannot be told."""
    found: list[str] = []
    for told in _earlier(out):
        found += differences(told["plan"], plan)
        makers = [*told.get("calls", []), told.get("maker", {}), told]
        if {maker["code"] for maker in makers if "code" in maker} - {code()}:
            found.append("made by another version of the code")
    return f" ({'; '.join(dict.fromkeys(found))})" if found else ""


def _recorded(out: Path) -> set[str]:
    """Clips that earlier runs made, by their record, and by the plan of one that was stopped."""
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        found += [clip["file"] for clip in read_json(out / RECORD)["clips"]]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        begun = read_json(out / PLAN)
        found += [path.relative_to(out).as_posix() for path in _clips_in(out, begun.get("plan", begun))]
    inside = set()
    for file in found:
        # a record may have been edited: nothing outside the folder is ever removed
        with contextlib.suppress(OSError, ValueError, TypeError):
            if (out / file).resolve().is_relative_to(out.resolve()):
                inside.add(file)
    return inside


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
    on is to know of this one (:func:`commands`).
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
