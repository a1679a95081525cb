"""WavCaps: one subset after the other, each an archive in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from latentclap.errors import InputError
from latentclap.getting.contents import Contents
from latentclap.getting.manifest import Manifest
from latentclap.getting.plain import announce
from latentclap.getting.plan import Item, Options, Plan, Say
from latentclap.getting.remote import RemoteFile
from latentclap.getting.sources import Source
from latentclap.getting.splitzip import split_parts
from latentclap.getting.unpacking import (
    doubted,
    drop,
    left_to_unpack,
    note_lost,
    refuse_foreign,
    unpack_contents,
)

#: FLAC in a zip is as large as FLAC beside it.
_ZIP_OF_FLAC = 1.0


def wavcaps_place(name: str) -> str | None:
    """Sounds by their file name alone: the archives carry the folders of the machine they were packed on."""
    last = PurePosixPath(name).name
    return last if last.lower().endswith(".flac") and not last.startswith(".") else None


def get_wavcaps(source: Source, options: Options, say: Say, subsets: tuple[str, ...] = ()) -> None:
    """Download and unpack subsets, by default all."""
    subsets = subsets or source.subsets
    unknown = [s for s in subsets if s not in source.subsets]
    if unknown:
        raise InputError(
            f"--subset {unknown[0]}: no such part of WavCaps; there are {', '.join(source.subsets)}"
        )
    folder = options.out or Path(source.out)
    manifest = Manifest(folder)
    all_contents = {s: Contents(manifest, f"{s}.zip", "audio") for s in subsets}
    intact = [s for s in subsets if all_contents[s].intact()]
    plan = Plan(source, options, subsets=subsets, done=_parts_of(manifest, intact))
    if renewed := [s for s in intact if _renewed(plan, s)]:
        intact = [s for s in intact if s not in renewed]
        plan = Plan(source, options, subsets=subsets, done=_parts_of(manifest, intact))
    for contents in all_contents.values():
        contents.manifest = plan.manifest
        note_lost(plan, contents)
    packs = {s: _Pack.of(plan, s, all_contents[s]) for s in subsets}
    if not options.keep_archives:
        # what is dropped early leaves room for what comes later; the largest is the one that needs it
        packs = dict(sorted(packs.items(), key=lambda item: -item[1].size))
    unpacked = sum(pack.to_unpack for pack in packs.values())
    peak = _peak(plan, list(packs.values()))
    if not announce(plan, say, unpacked, peak):
        return
    for subset in subsets:
        if subset not in intact:
            refuse_foreign(plan, all_contents[subset], [("audio", subset)])
    with plan.alone():
        plan.preflight(unpacked, peak)
        plan.run(say, [item for item in plan.items if not _subset(item.remote)])
        for subset, pack in packs.items():
            plan.run(say, pack.items)
            _wavcaps_subset(plan, subset, pack, say)
    say(f"wavcaps: {', '.join(subsets)} in {folder}/audio, captions in {folder}/json_files")


def _renewed(plan: Plan, subset: str) -> bool:
    """Whether some parts of a dropped archive are others at this revision: then all are needed once more."""
    states = {item.state for item in plan.items if _subset(item.remote) == subset}
    return "unpacked" in states and bool(states & {"to download", "begun"})


@dataclass(frozen=True)
class _Pack:
    """The archive of one subset: its parts, and the bytes that unpacking them will add."""

    items: list[Item]
    contents: Contents
    to_unpack: int

    @classmethod
    def of(cls, plan: Plan, subset: str, contents: Contents) -> _Pack:
        items = [item for item in plan.items if _subset(item.remote) == subset]
        here = not any(item.state == "unpacked" for item in items)
        size = int(_ZIP_OF_FLAC * sum(item.remote.size or 0 for item in items))
        return cls(items, contents, left_to_unpack(plan, contents, size) if here else 0)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(item.remote.size or 0 for item in self.items)

    @property
    def missing(self) -> int:
        """Bytes to download."""
        return sum(item.missing for item in self.items)


def _peak(plan: Plan, packs: list[_Pack]) -> int:
    """Most bytes that a run will add at any time: one subset after the other is got, unpacked and dropped."""
    used = plan.missing - sum(pack.missing for pack in packs)
    peak = used
    for pack in packs:
        used += pack.missing + pack.to_unpack
        peak = max(peak, used)
        if not plan.options.keep_archives:
            used -= sum(item.remote.size or 0 for item in pack.items if item.state != "unpacked")
    return peak


def _wavcaps_subset(plan: Plan, subset: str, pack: _Pack, say: Say) -> None:
    targets = [item.target for item in pack.items]
    if not any(item.state == "unpacked" for item in pack.items):
        parts = split_parts(plan.folder / "Zip_files" / subset / f"{subset}.zip", targets)
        place: Callable[[str], str | None] = lambda name: (  # noqa: E731
            f"{subset}/{found}" if (found := wavcaps_place(name)) else None
        )
        with doubted(plan, parts):
            unpack_contents(plan, pack.contents, parts, place, say)
    else:
        pack.contents.clear()  # unpacked by an earlier run, which dropped the archive or some of its parts
    drop(plan, targets, say)


def _parts_of(manifest: Manifest, subsets: list[str]) -> frozenset[str]:
    return frozenset(n for n in manifest.files if n.startswith(tuple(f"Zip_files/{s}/" for s in subsets)))


def _subset(remote: RemoteFile) -> str:
    parts = PurePosixPath(remote.name).parts
    return parts[1] if parts[0] == "Zip_files" else ""
