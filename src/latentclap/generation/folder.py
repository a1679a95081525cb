"""What lies in a folder of clips from earlier calls: what of it a run keeps, and what it may touch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from latentclap import locks
from latentclap.earlier import alike, differences, joined, read
from latentclap.errors import InputError
from latentclap.files import check_place, listed, read_json
from latentclap.generation.plan import PLAN, RECORD, code
from latentclap.generation.record import makers_of
from latentclap.typed import typed


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
