"""One file from a server to its place: resumed, checked, whole or not there.

The bytes are fetched by ``pooch.HTTPDownloader``. It writes into any file-like object and passes hooks on to
requests, which is all that resuming needs: the part of an earlier run is continued by a Range request, and a
server that does not honour it is noticed before the first byte is written.

huggingface_hub's own downloads are not used for the bytes: version 2.4 throws the part of a file away when its
process ends, which for WavCaps means parts of 5 GB.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import requests
from pooch import HTTPDownloader

from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.getting.checksums import checked
from latentclap.getting.errors import Stopped, disk_full, host, passing, pause, reason
from latentclap.getting.partial import (
    can_go_on,
    differ,
    downloaded,
    forget,
    identity,
    note_of,
    part_of,
    same_file,
    tidy,
    version_of,
    version_told,
)
from latentclap.getting.remote import RemoteFile, compressed
from latentclap.wording import human

#: Bytes taken from the network at a time; a cut connection loses less than one such piece.
PIECE = 1 << 16
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Network:
    """How patient to be. ``attempts`` counts tries without a single new byte; ``wait`` s grow by powers of two."""

    timeout: float = 60.0
    attempts: int = 5
    wait: float = 1.0
    progress: Progress = lambda n: None
    stop: threading.Event = field(default_factory=threading.Event)


class Redirected(Exception):
    """The server sent us from https to an address without it."""


def fetch(remote: RemoteFile, target: Path, network: Network | None = None) -> str:
    """Download one file to ``target`` and return its SHA-256.

    The bytes so far are kept in ``.<name>.part`` whatever happens, but for a checksum that does not match.

    Raises:
        InputError: the server, the disk, or the checksum; one line that says which.
        Stopped: ``network.stop`` was set.
    """
    network = network or Network()
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = same_file(remote, target) and downloaded(target) > 0
    _download(remote, target, network)
    digest = checked(remote, target, keep=resumed)
    if not digest:
        # bytes of two versions may have met in the part: one try from nothing
        network.progress(-downloaded(target))
        forget(target)
        _download(remote, target, network)
        digest = checked(remote, target, keep=False)
    part_of(target).replace(target)
    tidy(target)
    return digest


def _download(remote: RemoteFile, target: Path, network: Network) -> None:
    """Fill the part until it is complete; tries again as long as any try brings something."""
    tries = 0
    while True:
        before = downloaded(target)
        try:
            _request(remote, target, network)
            return
        except requests.RequestException as error:
            grown = downloaded(target) > before
            tries = 1 if grown else tries + 1
            if not passing(error) or tries >= network.attempts:
                raise InputError(
                    _failed(remote, target, reason(error, remote.url, network.timeout))
                ) from None
            seconds = pause(error, tries, network.wait)
        except Redirected as error:
            raise InputError(f"{remote.name}: {error}") from None
        except OSError as error:
            full = disk_full(error)
            what = "the disk is full" if full else error.strerror or str(error)
            raise InputError(_failed(remote, target, f"{what} ({target.parent})")) from None
        if network.stop.wait(seconds):
            raise Stopped


def _request(remote: RemoteFile, target: Path, network: Network) -> None:
    """One request that continues the part, or starts it."""
    part = part_of(target)
    have = downloaded(target)
    if remote.size is not None and have == remote.size and same_file(remote, target):
        return
    if have and not can_go_on(remote, target):
        network.progress(-have)
        forget(target)
        have = 0
    with open(part, "ab") as stream:
        version = version_of(remote, target) if have else {}
        sink = _Sink(remote, stream, network, start=have, version=version)
        headers = dict(remote.headers)
        if have:
            headers["Range"] = f"bytes={have}-"
            # a date tells seconds apart only: it is for files of which no checksum would find the mixture
            if version.get("etag") or (version.get("modified") and not remote.checksum):
                # where it does not hold any more the whole file comes
                headers["If-Range"] = version.get("etag") or version["modified"]

        def first_look(response: requests.Response, *_: Any, **__: Any) -> None:
            _check_redirect(response, remote.url)
            if not response.is_redirect:
                sink.begin(response)
                if response.ok:
                    _leave_undecoded(response, remote, sink.total)
                    write_json(note_of(target), {**identity(remote), **sink.version})

        download = HTTPDownloader(
            chunk_size=PIECE, timeout=network.timeout, headers=headers, hooks={"response": first_look}
        )
        try:
            download(remote.url, sink, None)
        except requests.HTTPError as error:
            if error.response.status_code != 416 or not have:
                raise
            # nothing beyond what we have: either the part is whole, or it is of another file
            if sink.total != have:
                stream.truncate(0)
                raise requests.exceptions.ChunkedEncodingError("part does not fit") from None
        sink.finish()


class _Sink:
    """What HTTPDownloader writes into: the part, opened for appending, with every rule about bytes."""

    def __init__(
        self, remote: RemoteFile, stream: IO[bytes], network: Network, start: int, version: dict[str, str]
    ) -> None:
        self.remote, self.stream, self.network = remote, stream, network
        self.at, self.version = start, version
        self.total: int | None = None

    def begin(self, response: requests.Response) -> None:
        """Look at the answer before its body: does it continue the part, and how long is the whole?"""
        length = response.headers.get("Content-Length", "")
        place = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if place and place.group(2) != "*":
            self.total = int(place.group(2))
        if not response.ok:
            return
        continues = response.status_code == 206 and place and place.group(1) == str(self.at)
        # a server that does not know If-Range goes on with whatever it has now
        continues = continues and not differ(self.version, version_told(response))
        if self.at and not continues:
            # no Range support, or a changed file: what we have is of no use
            self.network.progress(-self.at)
            self.stream.truncate(0)
            self.at, self.version = 0, {}
            if response.status_code == 206:
                raise requests.exceptions.ChunkedEncodingError("another range than asked for")
        self.version = {**self.version, **version_told(response)}
        if self.total is None and length.isdigit() and response.status_code == 200:
            self.total = int(length)

    def write(self, chunk: bytes) -> None:
        if self.network.stop.is_set():
            raise Stopped
        limit = self.remote.size if self.remote.size is not None else self.total
        if limit is not None and self.at + len(chunk) > limit:
            self.stream.truncate(0)
            raise InputError(
                f"{self.remote.name}: {host(self.remote.url)} sends more than the {limit} bytes it has"
            )
        self.stream.write(chunk)
        self.at += len(chunk)
        self.network.progress(len(chunk))

    def flush(self) -> None:
        self.stream.flush()

    def finish(self) -> None:
        """Complete? A body that simply ends is a cut connection."""
        wanted = self.remote.size if self.remote.size is not None else self.total
        if wanted is not None and self.at < wanted:
            raise requests.exceptions.ChunkedEncodingError(f"{self.at} of {wanted} bytes")


def _check_redirect(response: requests.Response, url: str) -> None:
    to = response.headers.get("Location", "")
    if response.is_redirect and url.startswith("https:") and to.startswith("http:"):
        raise Redirected(f"{host(url)} redirects to an address without https ({to}); refused")


def _leave_undecoded(response: requests.Response, remote: RemoteFile, total: int | None) -> None:
    """Have the bytes written as they lie on the server, or refuse a body that is not of them."""
    if compressed(response, remote.name) and (total is None or total != remote.size):
        raise InputError(
            f"{remote.name}: {host(remote.url)} sends it compressed, though asked not to; take another --mirror"
        )
    response.raw.headers.pop("Content-Encoding", None)  # requests would decode by it


def _failed(remote: RemoteFile, target: Path, why: str) -> str:
    have = downloaded(target)
    of = f" of {human(remote.size)}" if remote.size else ""
    if have and not can_go_on(remote, target):
        return (
            f"{remote.name}: {why} after {human(have)}{of}; {host(remote.url)} does not tell versions apart, so the"
            " same command starts again"
        )
    kept = f"; {human(have)}{of} are kept, and the same command goes on from there" if have else ""
    return f"{remote.name}: {why}{kept or f' ({remote.url})'}"
