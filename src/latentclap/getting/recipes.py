"""What each ``get.py`` command does beyond downloading: unpacking, checking, converting."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.getting.errors import human
from latentclap.getting.manifest import Manifest
from latentclap.getting.plan import Options, Plan, Say
from latentclap.getting.remote import RemoteFile
from latentclap.getting.sources import SOURCES, Source
from latentclap.getting.splitzip import split_parts
from latentclap.getting.unpack import Member, Place, unpack

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


def _announce(plan: Plan, say: Say, unpacked: int = 0) -> bool:
    """Say source, licence and sizes; False for a dry run."""
    say(plan.source.said())
    say(plan.table(unpacked))
    if plan.options.dry_run:
        plan.preflight(unpacked)
        say("  --dry-run: nothing was written")
    return not plan.options.dry_run


# --- unpacked contents and their trace in the manifest ------------------------------------------------------


def listing(folder: Path, roots: list[str]) -> tuple[int, int, str]:
    """Number, bytes and digest of names and sizes of the files below some roots of a folder."""
    lines = []
    total = 0
    for root in sorted(roots):
        below = (folder / root).rglob("*") if (folder / root).is_dir() else [folder / root]
        for path in below:
            if path.is_file():
                size = path.stat().st_size
                lines.append(f"{path.relative_to(folder).as_posix()} {size}")
                total += size
    return len(lines), total, hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def intact(manifest: Manifest, folder: Path, archive: str) -> bool:
    """Whether an archive was unpacked and all its files are still there with their sizes."""
    done = manifest.unpacked.get(archive)
    return bool(done) and listing(folder, done["roots"])[2] == done["listing"]


def _unpack(
    plan: Plan, archive: str, parts: list[Path], into: str, place: Place, say: Say, *, force: bool
) -> None:
    """Unpack into a hidden folder, then move it to its place in one step per root."""
    digest = _digest(plan, parts)
    done = plan.manifest.unpacked.get(archive, {})
    if done.get("archive") == digest and intact(plan.manifest, plan.folder, archive) and not force:
        say(f"{archive}: unpacked already, {done['files']} files")
        return
    home = plan.folder / into
    # named by the archive's bytes: what an interrupted run unpacked from another version is of no use
    staging = home / f".{PurePosixPath(archive).name}.{digest[:12]}.unpacking"
    packed = sum(part.stat().st_size for part in parts)
    quiet = True if plan.options.quiet else None
    with tqdm(total=None, unit="B", unit_scale=True, desc=f"unpacking {human(packed)}", disable=quiet) as bar:
        members = unpack(parts, staging, place=place, progress=bar.update)
    if not members:
        raise InputError(f"{archive}: nothing in it that is wanted")
    roots = sorted({PurePosixPath(m.place).parts[0] for m in members})
    _refuse_foreign(plan, [PurePosixPath(into, root).as_posix() for root in roots])
    for root in roots:
        _move(staging / root, home / root)
    for left in home.glob(f".{PurePosixPath(archive).name}.*.unpacking"):
        shutil.rmtree(left, ignore_errors=True)
    kept = [PurePosixPath(into, root).as_posix() for root in roots]
    _trace(plan, archive, digest, kept, members)
    say(f"{archive}: {len(members)} files, {human(sum(m.size for m in members))} unpacked")


def _refuse_foreign(plan: Plan, roots: list[str]) -> None:
    """Stop where something of the user's lies in the way; only what an earlier unpacking made is replaced."""
    ours = {root for done in plan.manifest.unpacked.values() for root in done["roots"]}
    for root in roots:
        path = plan.folder / root
        if root not in ours and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
            raise InputError(
                f"{path} is there already and was not unpacked by get.py; move it, or take another --out"
            )


def _move(source: Path, target: Path) -> None:
    """Rename a file or folder to its place; what an earlier unpacking left there goes."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    source.replace(target)


def _digest(plan: Plan, parts: list[Path]) -> str:
    """One SHA-256 for an archive in parts, from those that the manifest holds."""
    names = [part.relative_to(plan.folder).as_posix() for part in parts]
    return hashlib.sha256("\n".join(plan.manifest.files[name].sha256 for name in names).encode()).hexdigest()


def _trace(plan: Plan, archive: str, digest: str, roots: list[str], members: list[Member]) -> None:
    files, total, names = listing(plan.folder, roots)
    if (files, total) != (len(members), sum(m.size for m in members)):
        raise InputError(f"{archive}: {len(members)} files were unpacked, {files} are in {plan.folder}")
    trace = {"archive": digest, "roots": roots, "files": files, "bytes": total, "listing": names}
    plan.manifest.update(unpacked={archive: trace})


def _drop(plan: Plan, parts: list[Path], say: Say) -> None:
    if not plan.options.keep_archives:
        for part in parts:
            part.unlink(missing_ok=True)
        say(f"{len(parts)} archives removed (--drop-archives)")


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
    plan = Plan(source, options, done=_done(folder, [archive]))
    unpacked = 0 if intact(plan.manifest, folder, archive) else source.unpacked
    if not _announce(plan, say, unpacked):
        return
    _refuse_foreign(plan, ["dev", "eval"])
    with plan.alone():
        plan.preflight(unpacked)
        paths = plan.run(say)
        if paths:
            _unpack(plan, archive, paths, "", dcase_place, say, force=options.verify)
        check_dcase(folder, source, say)
        _drop(plan, paths, say)
    say(f'DATA="{folder}" is what make book and the notebooks take')


def check_dcase(folder: Path, source: Source, say: Say) -> None:
    """Read every clip as ``latentclap.data`` will, and say what is there.

    Raises:
        InputError: a side or a class is missing.
    """
    from latentclap.scan import scan

    report = scan(folder)
    sides = {side: sum(clip.split == side for clip in report.clips) for side in source.clips}
    classes = {clip.cls for clip in report.clips}
    if not all(sides.values()) or len(classes) < len(CLASSES):
        raise InputError(f"{folder}: {sides} clips of {len(classes)} classes; not the set of Task 7")
    say(report.one_line())
    for note in report.notes:
        say(f"note: {note}")
    if sides != source.clips:
        say(f"note: {sides} usable clips, {source.clips} are published")


def _done(folder: Path, archives: list[str]) -> frozenset[str]:
    manifest = Manifest(folder)
    return frozenset(name for name in archives if intact(manifest, folder, name))


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
    done = [s for s in subsets if intact(manifest, folder, f"{s}.zip")]
    plan = Plan(source, options, subsets=subsets, done=_parts_of(manifest, done))
    unpacked = _still_packed(plan, [s for s in subsets if s not in done])
    if not _announce(plan, say, unpacked):
        return
    _refuse_foreign(plan, [f"audio/{subset}" for subset in subsets])
    with plan.alone():
        plan.preflight(unpacked)
        plan.run(say)
        for subset in subsets:
            _wavcaps_subset(plan, subset, say, here=subset not in done)
    say(f"wavcaps: {', '.join(subsets)} in {folder}/audio, captions in {folder}/json_files")


def _wavcaps_subset(plan: Plan, subset: str, say: Say, *, here: bool) -> None:
    zip_path = plan.folder / "Zip_files" / subset / f"{subset}.zip"
    if not zip_path.is_file() and not here:
        return  # unpacked by an earlier run, which dropped the archive
    parts = split_parts(zip_path)
    place: Callable[[str], str | None] = lambda name: (  # noqa: E731
        f"{subset}/{found}" if (found := wavcaps_place(name)) else None
    )
    _unpack(plan, f"{subset}.zip", parts, "audio", place, say, force=plan.options.verify)
    _drop(plan, parts, say)


def _still_packed(plan: Plan, subsets: list[str]) -> int:
    """Bytes that unpacking will take, to a good approximation."""
    sizes = [_size(item.remote) for item in plan.items if _subset(item.remote) in subsets]
    return int(_ZIP_OF_FLAC * sum(sizes))


def _parts_of(manifest: Manifest, subsets: list[str]) -> frozenset[str]:
    return frozenset(n for n in manifest.files if n.startswith(tuple(f"Zip_files/{s}/" for s in subsets)))


def _subset(remote: RemoteFile) -> str:
    parts = PurePosixPath(remote.name).parts
    return parts[1] if parts[0] == "Zip_files" else ""


def _size(remote: RemoteFile) -> int:
    return remote.size or 0


# --- the organisers' statistics -----------------------------------------------------------------------------


def _stats(source: Source, options: Options, say: Say, _: tuple[str, ...] = ()) -> None:
    from latentclap.getting.dcase_stats import convert, values_digest

    plan = _plain(source, options, say)
    if plan is None:
        return
    stats = convert(plan.folder / source.folder)
    for name, item in stats.items():
        found = values_digest(item)
        if found != source.values[name]:
            raise InputError(
                f"{name}: the numbers are not those that this package was tested with (sha256 {found}, expected"
                f" {source.values[name]}); no statistics were written"
            )
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
