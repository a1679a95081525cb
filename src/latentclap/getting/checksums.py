"""Checksums of what was downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from latentclap.errors import InputError
from latentclap.getting.errors import host
from latentclap.getting.partial import forget, part_of
from latentclap.getting.plausible import implausible
from latentclap.getting.remote import RemoteFile
from latentclap.wording import human

CHUNK = 1 << 20


def digests(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Hexadecimal digests of a file, read once; ``git-sha1`` is git's name of a blob of these bytes."""
    hashes = {name: hashlib.new("sha1" if name == "git-sha1" else name) for name in algorithms}
    if "git-sha1" in hashes:
        hashes["git-sha1"].update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            for item in hashes.values():
                item.update(chunk)
    return {name: item.hexdigest() for name, item in hashes.items()}


def checked(remote: RemoteFile, target: Path, *, keep: bool) -> str:
    """SHA-256 of the finished part; on a mismatch the part goes, and "" comes back if another try is due."""
    part = part_of(target)
    algorithm, _, expected = remote.checksum.partition(":")
    found = digests(part, {"sha256", *([algorithm] if algorithm else [])})
    if expected and found[algorithm] != expected.lower():
        if keep:
            return ""
        forget(target)
        raise InputError(
            f"{remote.name}: {algorithm} is {found[algorithm]}, expected {expected} (told by {remote.told_by});"
            f" what {host(remote.url)} sent was not kept"
        )
    if not expected and (wrong := implausible(part, remote.name)):
        size = part.stat().st_size
        forget(target)
        raise InputError(
            f"{remote.name}: what {host(remote.url)} sent is {wrong} ({human(size)}); it was not kept"
        )
    return found["sha256"]
