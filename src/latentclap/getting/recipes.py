"""What each ``get.py`` command does beyond downloading: unpacking, checking, converting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.getting.contents import DONE, MOVING, Contents
from latentclap.getting.manifest import Manifest
from latentclap.getting.plan import Item, Options, Plan, Say
from latentclap.getting.remote import RemoteFile
from latentclap.getting.sources import SOURCES, Source
from latentclap.getting.splitzip import split_parts
from latentclap.getting.unpack import Place, Unfit, unpack
from latentclap.wording import human

#: FLAC in a zip is as large as FLAC beside it.
_ZIP_OF_FLAC = 1.0


def get(name: str, options: Options, say: Say = print, *, subsets: tuple[str, ...] = ()) -> None:
    """Get one source by its name in ``SOURCES``: say what it is, check the disk, download, unpack or convert.

    Interrupted or failed, the same call goes on where it was; with everything in place it only checks.

    Raises:
        InputError: anything in the way, in one line.
    """
    RECIPES[name](SOURCES[name], options, say, subsets)


def _plain(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> Plan | None:
    """Download, and no more."""
    plan = Plan(source, options)
    if not _announce(plan, say):
        return None
    with plan.alone():
        plan.preflight()
        paths = plan.run(say)
    say(f"{source.name}: {len(paths)} files in {plan.folder}")
    return plan


def _announce(plan: Plan, say: Say, unpacked: int = 0, peak: int | None = None) -> bool:
    """Say source, licence and sizes; False for a dry run."""
    say(plan.source.said())
    say(plan.table(unpacked, peak))
    if plan.options.dry_run:
        plan.preflight(unpacked, peak)
        say("  --dry-run: nothing was written")
    return not plan.options.dry_run


# --- unpacked contents --------------------------------------------------------------------------------------


def _unpack(plan: Plan, contents: Contents, parts: list[Path], place: Place, say: Say) -> None:
    """Unpack into a hidden folder, then move what came out to its place.

    A run that was killed is taken up where it was; of an archive that was unpacked, only lost files are.
    """
    archive, digest = contents.archive, _digest(plan, parts)
    same = digest == contents.digest
    if same and contents.state == MOVING and contents.staging(digest).is_dir():
        contents.finish()
    contents.clear(but=contents.staging(digest))
    lost = contents.lost() if same and contents.state == DONE and not plan.options.verify else None
    if lost == {}:
        say(f"{archive}: unpacked already, {len(contents.files)} files")
        contents.clear()
        return

    def wanted(name: str) -> str | None:
        found = place(name)
        return found if lost is None or (found and _below(contents, found) in lost) else None

    packed = sum(part.stat().st_size for part in parts)
    quiet = True if plan.options.quiet else None
    with tqdm(total=None, unit="B", unit_scale=True, desc=f"unpacking {human(packed)}", disable=quiet) as bar:
        members = unpack(parts, contents.staging(digest), place=wanted, progress=bar.update)
    if not members:
        raise Unfit(f"{archive}: nothing in it that is wanted")
    files = {_below(contents, member.place): member.size for member in members}
    depth = len(PurePosixPath(contents.into).parts)
    _refuse_foreign(plan, contents, {PurePosixPath(place).parts[: depth + 1] for place in files})
    if foreign := contents.foreign(files if lost is None else lost):
        raise InputError(
            f"{foreign} is in the way and was not unpacked by get.py; move it, and the same command goes on"
        )
    if lost is not None:
        files = contents.files
    contents.begin(digest, files)
    contents.finish()
    if lost := contents.lost():
        raise InputError(
            f"{plan.folder / next(iter(lost))}: not as it was unpacked; was it changed meanwhile?"
        )
    say(f"{archive}: {len(members)} files, {human(sum(m.size for m in members))} unpacked")


@contextmanager
def _doubted(plan: Plan, parts: list[Path]) -> Iterator[None]:
    """Trust archives no longer that turn out to be unfit and that no published checksum vouches for.

    They would be what every later download is compared with. Those that this run has brought go.
    """
    try:
        yield
    except Unfit as error:
        items = [item for item in plan.items if item.target in parts and item.target.is_file()]
        doubted = [i for i in items if not plan.manifest.files[i.remote.name].published]
        if not doubted:
            raise InputError(f"{error}; --verify --replace downloads it again if it was damaged") from None
        plan.manifest.forget([item.remote.name for item in doubted])
        if not plan.options.replace and any(i.state not in ("to download", "begun") for i in doubted):
            raise InputError(
                f"{error}; it is no longer trusted: move it away, or give --replace, and the same command"
                " downloads it again"
            ) from None
        for item in doubted:
            item.target.unlink()
        raise InputError(f"{error}; it was not kept, and the same command downloads it again") from None


def _below(contents: Contents, place: str) -> str:
    return PurePosixPath(contents.into, place).as_posix()


def _refuse_foreign(plan: Plan, contents: Contents, roots: Iterable[tuple[str, ...]]) -> None:
    """Stop where something of the user's lies in the way; only what an earlier unpacking made is replaced."""
    # the list counts also where the manifest was removed, as its own error message may have told the user to
    ours = {*plan.manifest.unpacked.get(contents.archive, {}).get("roots", ()), *contents.roots}
    for parts in roots:
        root = PurePosixPath(*parts)
        path = plan.folder / root
        if path.is_symlink():
            raise InputError(
                f"{path} is a link, and files cannot be moved there in one step; take another --out"
            )
        if root.as_posix() not in ours and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
            raise InputError(
                f"{path} is there already and was not unpacked by get.py; move it, or take another --out"
            )


def _to_unpack(plan: Plan, contents: Contents, size: int) -> int:
    """Bytes that unpacking will still add; ``size`` is what the whole archive takes, about."""
    if contents.state == MOVING:
        return 0  # all of it is unpacked, and a move takes no room
    if contents.state == DONE and not plan.options.verify:
        size = sum(contents.lost().values())
    return max(0, size - contents.staged())


def _note_lost(plan: Plan, contents: Contents) -> None:
    """Say beforehand that unpacked files are missing: without their archive it has to be downloaded again."""
    lost = contents.lost() if contents.state == DONE else {}
    if lost:
        first = plan.folder / next(iter(lost))
        plan.notes.append(
            f"{len(lost)} of {len(contents.files)} files of {contents.archive} are missing or changed ({first}):"
            " they are unpacked again"
        )


def _digest(plan: Plan, parts: list[Path]) -> str:
    """One SHA-256 for an archive in parts, from those that the manifest holds."""
    names = [part.relative_to(plan.folder).as_posix() for part in parts]
    return hashlib.sha256("\n".join(plan.manifest.files[name].sha256 for name in names).encode()).hexdigest()


def _drop(plan: Plan, parts: list[Path], say: Say) -> None:
    """Remove an archive whose contents are in place; a run killed in the middle of it has left some parts."""
    here = [part for part in parts if part.is_file()]
    if here and not plan.options.keep_archives:
        for part in here:
            part.unlink()
        say(f"{len(here)} archives removed (--drop-archives)")


# --- DCASE 2023 Task 7 --------------------------------------------------------------------------------------


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


def _dcase(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> None:
    folder = options.out or Path(source.out)
    archive = source.files[0].name
    contents = Contents(Manifest(folder), archive)
    intact = contents.intact()
    plan = Plan(source, options, done=frozenset([archive] if intact else []))
    contents.manifest = plan.manifest
    _note_lost(plan, contents)
    here = not any(item.state == "unpacked" for item in plan.items)
    unpacked = _to_unpack(plan, contents, source.unpacked) if here else 0
    if not _announce(plan, say, unpacked):
        return
    if not intact:
        _refuse_foreign(plan, contents, [("dev",), ("eval",)])
    with plan.alone():
        plan.preflight(unpacked)
        paths = plan.run(say)
        with _doubted(plan, paths):
            if paths:
                _unpack(plan, contents, paths, dcase_place, say)
            check_dcase(folder, source, say)
        _drop(plan, paths, say)
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


# --- WavCaps ------------------------------------------------------------------------------------------------


def wavcaps_place(name: str) -> str | None:
    """Sounds by their file name alone: the archives carry the folders of the machine they were packed on."""
    last = PurePosixPath(name).name
    return last if last.lower().endswith(".flac") and not last.startswith(".") else None


def _wavcaps(source: Source, options: Options, say: Say, subsets: tuple[str, ...] = ()) -> None:
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
        _note_lost(plan, contents)
    packs = {s: _Pack.of(plan, s, all_contents[s]) for s in subsets}
    if not options.keep_archives:
        # what is dropped early leaves room for what comes later; the largest is the one that needs it
        packs = dict(sorted(packs.items(), key=lambda item: -item[1].size))
    unpacked = sum(pack.to_unpack for pack in packs.values())
    peak = _peak(plan, list(packs.values()))
    if not _announce(plan, say, unpacked, peak):
        return
    for subset in subsets:
        if subset not in intact:
            _refuse_foreign(plan, all_contents[subset], [("audio", subset)])
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
        return cls(items, contents, _to_unpack(plan, contents, size) if here else 0)

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
        with _doubted(plan, parts):
            _unpack(plan, pack.contents, parts, place, say)
    else:
        pack.contents.clear()  # unpacked by an earlier run, which dropped the archive or some of its parts
    _drop(plan, targets, say)


def _parts_of(manifest: Manifest, subsets: list[str]) -> frozenset[str]:
    return frozenset(n for n in manifest.files if n.startswith(tuple(f"Zip_files/{s}/" for s in subsets)))


def _subset(remote: RemoteFile) -> str:
    parts = PurePosixPath(remote.name).parts
    return parts[1] if parts[0] == "Zip_files" else ""


# --- the organisers' statistics -----------------------------------------------------------------------------


def _stats(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> None:
    from latentclap.getting.dcase_stats import convert, values_digest

    plan = _plain(source, options, say)
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


#: What each source needs.
RECIPES: dict[str, Callable[..., object]] = {
    "dcase": _dcase,
    "wavcaps": _wavcaps,
    "audioldm": _plain,
    "audioldm-ckpt": _plain,
    "clap": _plain,
    "clap-transformers": _plain,
    "vggish": _plain,
    "stats": _stats,
}
