"""DCASE 2023 Task 7: the sounds, and the organisers' statistics."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.getting.contents import Contents
from latentclap.getting.manifest import Manifest
from latentclap.getting.plain import announce, get_plain
from latentclap.getting.plan import Options, Plan, Say
from latentclap.getting.sources import Source
from latentclap.getting.unpack import Unfit
from latentclap.getting.unpacking import (
    doubted,
    drop,
    left_to_unpack,
    note_lost,
    refuse_foreign,
    unpack_contents,
)


def dcase_place(name: str) -> str | None:
    """Put dev/, eval/ and the tables at the top, whatever folder the archive wraps them in; no system's droppings."""
    parts = PurePosixPath(name).parts
    if "__MACOSX" in parts or parts[-1].startswith("."):
        return None
    lower = [part.lower() for part in parts]
    for split in ("dev", "eval"):
        if split in lower[:-1]:
            return PurePosixPath(split, *parts[lower.index(split) + 1 :]).as_posix()
    return parts[-1] if parts[-1].lower().endswith((".csv", ".md", ".txt", ".pdf")) else None


def get_dcase(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> None:
    """Download and unpack the sounds, and look whether they are the set of Task 7."""
    folder = options.out or Path(source.out)
    archive = source.files[0].name
    contents = Contents(Manifest(folder), archive)
    intact = contents.intact()
    plan = Plan(source, options, done=frozenset([archive] if intact else []))
    contents.manifest = plan.manifest
    note_lost(plan, contents)
    here = not any(item.state == "unpacked" for item in plan.items)
    unpacked = left_to_unpack(plan, contents, source.unpacked) if here else 0
    if not announce(plan, say, unpacked):
        return
    if not intact:
        refuse_foreign(plan, contents, [("dev",), ("eval",)])
    with plan.alone():
        plan.preflight(unpacked)
        paths = plan.run(say)
        with doubted(plan, paths):
            if paths:
                unpack_contents(plan, contents, paths, dcase_place, say)
            check_dcase(folder, source, say)
        drop(plan, paths, say)
    say(f'DATA="{folder}" is what make book and the notebooks take')


def check_dcase(folder: Path, source: Source, say: Say) -> None:
    """Read every clip as ``latentclap.data`` will, and say what is there.

    Raises:
        Unfit: a side or a class is missing.
    """
    from latentclap.scan import scan

    report = scan(folder)
    sides = {side: sum(clip.split == side for clip in report.clips) for side in source.clips}
    classes = {clip.cls for clip in report.clips}
    if not all(sides.values()) or len(classes) < len(CLASSES):
        raise Unfit(f"{folder}: {sides} clips of {len(classes)} classes; not the set of Task 7")
    say(report.one_line())
    for note in report.notes:
        say(f"note: {note}")
    if sides != source.clips:
        say(f"note: {sides} usable clips, {source.clips} are published")


def get_stats(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> None:
    """Download the statistics, convert them, and compare their numbers with those that were tested."""
    from latentclap.getting.dcase_stats import convert, values_digest

    plan = get_plain(source, options, say)
    if plan is None:
        return
    folder = plan.folder / source.folder
    try:
        stats = convert(folder)
        for name, item in stats.items():
            found = values_digest(item)
            if found != source.values[name]:
                raise InputError(
                    f"{name}: the numbers are not those that this package was tested with (sha256 {found}, expected"
                    f" {source.values[name]})"
                )
    except InputError as error:
        # what turned out to be wrong must not be what later downloads are compared with
        plan.manifest.forget([item.remote.name for item in plan.items])
        raise InputError(f"{error}; no statistics were written; move {folder} away to get it again") from None
    from latentclap.fad import save_stats

    path = plan.folder / "dcase_eval_vggish_stats.npz"
    save_stats(path, stats)
    say(f"{path}: {len(stats)} classes, numbers as expected")
