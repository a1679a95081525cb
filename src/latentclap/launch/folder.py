"""The folder of a training: one launch at a time writes there, and for good it is one run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.errors import InputError
from latentclap.files import check_place, read_json, write_json
from latentclap.launch.processes import in_main

if TYPE_CHECKING:
    from accelerate import PartialState

#: what says that a folder holds a run that trained
TRAINED = ("checkpoint.pt", "stats.jsonl", "summary.json")


def noted(path: Path) -> dict[str, Any]:
    """What is noted in a folder of a training; nothing where there is no such file.

    Raises:
        InputError: it is not what a training notes: edited, say, or another program's.
    """
    told = read_json(path) if path.is_file() else {}
    if not isinstance(told, dict):
        raise InputError(
            f"{path}: not what a training writes there, which is a JSON object: use another folder, or put the"
            " file back as it was"
        )
    return told


@contextmanager
def locked(folder: Path, state: PartialState) -> Iterator[None]:
    """Keep a folder for this launch; the lock of one that was killed is free at once.

    Args:
        folder: of the training; it is made.
        state: accelerate's; called in every process.

    Raises:
        InputError: another launch trains there.
    """
    from filelock import FileLock

    from latentclap.locks import Taken
    from latentclap.locks import take as take_lock

    lock = FileLock(folder / ".lock")

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            take_lock(lock, wait=False)
        except Taken:
            raise InputError(
                f"{folder}: another launch trains there; wait for it, or take another folder"
            ) from None

    absent = check_place(folder / ".lock") if state.is_main_process else []
    in_main(state, take)
    try:
        yield
    finally:
        if lock.is_locked:
            if [p.name for p in folder.iterdir()] == [".lock"]:  # it did not begin
                with suppress(OSError):
                    (folder / ".lock").unlink()
                    for made in absent:
                        made.rmdir()
            lock.release()


def check_same(folder: Path, about: Mapping[str, Any], weights: Mapping[str, str] | None = None) -> None:
    """Refuse the folder of another run; runs from before weights were noted go on.

    Args:
        folder: of the training.
        about: what decides this run's result, see :meth:`latentclap.launch.Launch.describe`.
        weights: digest of the UNet it begins with and of φ, where they are loaded: their files' names stay what
            they are when others are put there.

    Raises:
        InputError: another run was trained there.
    """
    path = folder / "config.json"
    # a configuration with which nothing was trained holds no place
    if not path.is_file() or not any((folder / name).exists() for name in TRAINED):
        return
    theirs = noted(path)
    differing = [k for k in about if theirs.get(k) != about[k]]
    begun = theirs.get("weights", {})
    begun = begun if isinstance(begun, dict) else {}
    differing += [f"the weights of {k}" for k, v in (weights or {}).items() if begun.get(k, v) != v]
    if differing:
        raise InputError(f"{folder} holds another run ({', '.join(differing)} differ): use another folder")


def claim(folder: Path, about: Mapping[str, Any], weights: Mapping[str, str]) -> None:
    """Take a folder for this run: what it is, and with whose weights it begins, is noted there.

    Args:
        folder: of the training.
        about: as for :func:`check_same`.
        weights: as for :func:`check_same`; empty for a training that begins with none.

    Raises:
        InputError: another run was trained there.
    """
    check_same(folder, about, weights)
    for path in folder.glob(".weights-*.safetensors"):  # of a run that was killed while it wrote them
        path.unlink()
    write_json(folder / "config.json", {**about, **({"weights": weights} if weights else {})})
