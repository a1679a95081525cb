"""Locks between runs that want the same folder; what becomes of them on a file system that has none."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from latentclap.errors import InputError
from latentclap.files import check_place

#: what a file system without locks says to a lock: NFS without its daemon, Lustre without its option, some of FUSE
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


class Taken(Exception):
    """Another run holds the lock."""


@contextmanager
def locked(path: str | Path, *, wait: bool = True, strict: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs; that of a run that was killed is free at once.

    On a file system without locks the block runs all the same, with a warning: our files are written beside their
    place and renamed, so that two runs at once do work twice or stop each other, and leave nothing half.

    Args:
        path: of the lock's file; its folder is there.
        wait: until it is free.
        strict: refuse a file system without locks, where two runs at once would spoil a file.

    Raises:
        Taken: ``wait`` is off, and another run holds it.
        InputError: ``strict`` is on, and the file system has none.
    """
    lock = FileLock(path)
    if not take(lock, wait=wait, strict=strict):
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(folder: str | Path, what: str, patience: float = 0) -> Iterator[None]:
    """Keep a folder for this run while the block runs; that of a run that was killed is free at once.

    The lock is on the folder itself: nothing more lies in it. A folder that had to be made goes again where nothing
    came to lie in it. On a file system without locks the block runs all the same.

    Args:
        folder: made where it is not there.
        what: another run does there, in words, for the error.
        patience: seconds to wait for another run that holds it.

    Raises:
        InputError: another run holds it.
        OSError: it cannot be made or written to.
    """
    folder = Path(folder)
    made = check_place(folder / "any")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + patience
    try:
        while not _held(descriptor):
            if time.monotonic() < end:
                time.sleep(0.02)
                continue
            raise InputError(f"{folder}: {what}; wait for it, or choose another folder")
        yield
    finally:
        os.close(descriptor)
        for place in made:  # the innermost first; one that holds something stays
            with contextlib.suppress(OSError):
                place.rmdir()


def _held(descriptor: int) -> bool:
    """Whether an open folder is ours now; on a file system without locks it is."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def take(lock: FileLock, *, wait: bool = True, strict: bool = False) -> bool:
    """Take a lock as :func:`locked` does, for as long as the caller wants; False on a file system without locks."""
    try:
        lock.acquire(blocking=wait)
        return True
    except Timeout:
        raise Taken from None
    except NotImplementedError:  # what an older filelock makes of ENOSYS
        why = os.strerror(errno.ENOSYS)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        why = error.strerror or str(error)
    said = f"{lock.lock_file}: the file system has no locks ({why})"
    if strict:
        raise InputError(f"{said}; choose a folder on another one")
    warnings.warn(f"{said}, so nothing keeps a second run out: start none in the same folder", stacklevel=2)
    return False
