"""Unpacked contents of archives: made, looked after, and taken up again where a run was killed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from latentclap.errors import InputError
from latentclap.getting.contents import DONE, MOVING, Contents
from latentclap.getting.plan import Plan, Say
from latentclap.getting.unpack import Place, Unfit, unpack
from latentclap.wording import human


def unpack_contents(plan: Plan, contents: Contents, parts: list[Path], place: Place, say: Say) -> None:
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
    refuse_foreign(plan, contents, {PurePosixPath(place).parts[: depth + 1] for place in files})
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
def doubted(plan: Plan, parts: list[Path]) -> Iterator[None]:
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


def refuse_foreign(plan: Plan, contents: Contents, roots: Iterable[tuple[str, ...]]) -> None:
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


def left_to_unpack(plan: Plan, contents: Contents, size: int) -> int:
    """Bytes that unpacking will still add; ``size`` is what the whole archive takes, about."""
    if contents.state == MOVING:
        return 0  # all of it is unpacked, and a move takes no room
    if contents.state == DONE and not plan.options.verify:
        size = sum(contents.lost().values())
    return max(0, size - contents.staged())


def note_lost(plan: Plan, contents: Contents) -> None:
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


def drop(plan: Plan, parts: list[Path], say: Say) -> None:
    """Remove an archive whose contents are in place; a run killed in the middle of it has left some parts."""
    here = [part for part in parts if part.is_file()]
    if here and not plan.options.keep_archives:
        for part in here:
            part.unlink()
        say(f"{len(here)} archives removed (--drop-archives)")
