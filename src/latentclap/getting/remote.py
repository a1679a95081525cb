"""What the servers have: names, addresses, sizes and published checksums, before anything is downloaded."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import requests
from pooch.downloaders import REQUESTS_HEADERS, ZenodoRepository

from latentclap.errors import InputError
from latentclap.getting.errors import host, passing, pause, reason
from latentclap.getting.sources import Source

#: Bytes are wanted as they lie on the server: a size or a Range would mean nothing in a compressed body.
HEADERS = {**REQUESTS_HEADERS, "Accept-Encoding": "identity"}
_TABLE = "latentclap's table of sources"
#: what calls a function again where it failed for a while
Patiently = Callable[[Callable[[], Any]], Any]


class NoRevision(InputError):
    """A hub that lacks the branch, tag or commit that was asked for."""


@dataclass(frozen=True)
class RemoteFile:
    """One file on a server.

    ``name`` is its place below the source's folder, ``checksum`` "algorithm:hex" (md5, sha256, or git-sha1 as
    git names a blob) or "" where none is published, ``told_by`` who published it.
    """

    name: str
    url: str
    size: int | None = None
    checksum: str = ""
    told_by: str = ""
    headers: dict[str, str] = field(default_factory=lambda: dict(HEADERS), repr=False)


@dataclass(frozen=True)
class Listing:
    """The files of one source as a server lists them; ``revision`` is a hub repository's commit."""

    files: tuple[RemoteFile, ...]
    revision: str = ""
    notes: tuple[str, ...] = ()


def safe_name(name: str) -> str:
    """Return a relative POSIX path that stays below its folder.

    Raises:
        InputError: absolute, with "..", a backslash, a drive or a control character.
    """
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":"
    if bad or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise InputError(f"refused the file name {name!r}: it does not stay inside the folder")
    return path.as_posix()


def list_files(
    source: Source,
    *,
    mirror: str = "",
    revision: str = "",
    subsets: tuple[str, ...] = (),
    timeout: float = 60,
    attempts: int = 5,
    wait: float = 1.0,
) -> Listing:
    """Ask the server what there is.

    Args:
        source: from ``SOURCES``.
        mirror: another place: for a hub source its endpoint, else a folder that holds the files under their names.
        revision: a hub repository's branch, tag or commit; empty for "main".
        subsets: fills ``{subset}`` in the source's patterns.
        timeout: seconds without an answer.
        attempts: how often a hub, a record, or a file's server is asked.
        wait: seconds after the first of them; they grow by powers of two, or are what the server asks for.

    Raises:
        NoRevision: the hub has no such ``revision``.
        InputError: unreachable, not there, or not what such a server answers.
    """
    patiently = partial(_patiently, attempts=attempts, wait=wait)
    if source.kind == "hub":
        return _hub(source, mirror, revision, subsets, timeout, patiently)
    sized = partial(_sized, timeout=timeout, patiently=patiently)
    if source.kind == "zenodo":
        return _zenodo(source, mirror, timeout, sized, patiently)
    base = (mirror or source.base).rstrip("/")
    names = [(safe_name(e.name), e.checksum) for e in source.files]
    return Listing(
        tuple(sized(f"{base}/{quote(name)}", _join(source.folder, name), known) for name, known in names)
    )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


# --- zenodo -------------------------------------------------------------------------------------------------


def _zenodo(
    source: Source, mirror: str, timeout: float, sized: Callable[..., RemoteFile], patiently: Patiently
) -> Listing:
    """Addresses, sizes and MD5 sums from the record; a mirror only replaces the addresses."""
    repository = ZenodoRepository(
        f"10.5281/zenodo.{source.record}",
        source.page,
        timeout=timeout,
        headers=REQUESTS_HEADERS,
        hooks={"response": _raise_for_status},  # pooch would look for files in an error's page
    )
    record = f"record {source.record} of {host(repository.base_api_url)}"
    published, sizes, notes = SimpleNamespace(registry={}), {}, []
    try:
        patiently(lambda: repository.populate_registry(published))
        sizes = {i.get("key", i.get("filename")): i["size"] for i in repository.api_response["files"]}
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        # the files themselves may well be there; what is lost is the published checksum, and that is said
        why = "no list of files in its answer"
        if isinstance(error, requests.RequestException) and not isinstance(error, ValueError):
            why = reason(error, repository.base_api_url, timeout)
        notes.append(f"{record} could not be read ({why})")
    found = []
    for entry in source.files:
        name = safe_name(entry.name)
        if sizes and name not in sizes:
            raise InputError(f"{name}: {record} has no such file; it has {', '.join(sizes)}")
        size = sizes.get(name)
        checksum = _agreed(name, entry.checksum, published.registry.get(name, ""), record)
        told_by = record if name in published.registry else _TABLE if checksum else ""
        if size is not None and not mirror:
            remote = RemoteFile(name, repository.download_url(name), size, checksum, told_by)
        else:
            base = mirror.rstrip("/") or f"{source.page}/files"
            remote = sized(f"{base}/{quote(name)}", name, checksum)
            remote = replace(remote, size=remote.size if size is None else size, told_by=told_by)
        found.append(remote)
    return Listing(tuple(found), notes=tuple(notes))


def _agreed(name: str, pinned: str, published: str, record: str) -> str:
    if pinned and published and pinned != published:
        raise InputError(
            f"{name}: {record} says {published}, this package knows {pinned}; nothing was downloaded"
        )
    return published or pinned


def _raise_for_status(response: requests.Response, *_: Any, **__: Any) -> None:
    response.raise_for_status()


def _sized(url: str, name: str, checksum: str, *, timeout: float, patiently: Patiently) -> RemoteFile:
    """A file of which only the address is known: ask for its size."""
    try:
        response = patiently(lambda: _head(url, timeout))
    except requests.RequestException as error:
        hint = "try again later" if passing(error) else "--mirror takes another address"
        raise InputError(f"{name}: {reason(error, url, timeout)} ({url}); {hint}") from None
    told = response.ok and not compressed(response, name)
    length = response.headers.get("Content-Length", "") if told else ""
    # 0 is what servers say that have not looked
    size = int(length) or None if length.isdigit() else None
    return RemoteFile(name, url, size, checksum, _TABLE if checksum else "")


def _head(url: str, timeout: float) -> requests.Response:
    response = requests.head(url, headers=HEADERS, timeout=timeout, allow_redirects=True)
    # servers that do not answer HEAD may still give the file
    if response.status_code not in (403, 405, 501):
        response.raise_for_status()
    return response


def _patiently(ask: Callable[[], Any], *, attempts: int, wait: float) -> Any:
    """Ask about files as patiently as for them: what may pass is asked again."""
    tries = 1
    while True:
        try:
            return ask()
        except Exception as error:  # the hub's is of several libraries; what does not pass goes on up
            if not passing(error) or tries >= attempts:
                raise
            time.sleep(pause(error, tries, wait))
            tries += 1


def compressed(response: requests.Response, name: str) -> bool:
    """Whether a body was compressed for the way; of a .gz that is called gzip, this is a label of the file itself."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    label = encoding in ("gzip", "x-gzip") and name.lower().endswith((".gz", ".tgz"))
    return encoding not in ("", "identity") and not label


# --- the Hugging Face hub -----------------------------------------------------------------------------------


def _hub(
    source: Source,
    mirror: str,
    revision: str,
    subsets: tuple[str, ...],
    timeout: float,
    patiently: Patiently,
) -> Listing:
    """Names, sizes and checksums of one commit; huggingface_hub asks, with a time limit."""
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    endpoint = (mirror or constants.ENDPOINT).rstrip("/")
    # an account's token is for the hub that issued it, not for whatever --mirror names
    token = False if mirror else None
    try:
        info = patiently(
            lambda: HfApi(endpoint=endpoint, token=token).repo_info(
                source.repo,
                repo_type=source.repo_type,
                revision=revision or "main",
                files_metadata=True,
                timeout=timeout,
            )
        )
    except Exception as error:  # huggingface_hub passes on errors of several libraries
        if revision and _lacks_revision(error):
            raise NoRevision(f"{source.repo}: no revision {revision!r} on {host(endpoint)}") from None
        raise InputError(_hub_reason(error, source.repo, endpoint, timeout)) from None
    if not info.sha or info.siblings is None:
        raise InputError(_no_hub(source.repo, endpoint))
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    found = []
    for item in info.siblings:
        name = safe_name(item.rfilename)
        if not _wanted(name, source, subsets):
            continue
        sha256 = getattr(item.lfs, "sha256", None) if item.lfs else None
        checksum = f"sha256:{sha256}" if sha256 else f"git-sha1:{item.blob_id}" if item.blob_id else ""
        url = hf_hub_url(source.repo, name, repo_type=source.repo_type, revision=info.sha, endpoint=endpoint)
        found.append(RemoteFile(name, url, item.size, checksum, host(endpoint) if checksum else "", headers))
    if not found:
        raise InputError(f"{source.repo}: none of its {len(info.siblings)} files is one of those wanted")
    return Listing(_without_twins(found), revision=info.sha)


def _wanted(name: str, source: Source, subsets: tuple[str, ...]) -> bool:
    def matches(patterns: tuple[str, ...]) -> bool:
        full = [p.format(subset=s) for p in patterns for s in (subsets or ("*",))]
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in full)

    return matches(source.include) and not matches(source.exclude)


def _without_twins(found: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Leave out pickled weights where the same folder has safetensors: never loaded, and twice the size."""
    safe = {PurePosixPath(f.name).parent for f in found if f.name.endswith(".safetensors")}
    return tuple(f for f in found if not (f.name.endswith(".bin") and PurePosixPath(f.name).parent in safe))


def _names(error: Exception) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _lacks_revision(error: Exception) -> bool:
    """Whether this is the hub's word for it, or the bare 404 of a simpler mirror."""
    bare = getattr(getattr(error, "response", None), "status_code", None) == 404
    return "RevisionNotFoundError" in _names(error) or (
        bare and "RepositoryNotFoundError" not in _names(error)
    )


def _no_hub(repo: str, endpoint: str) -> str:
    return f"{repo}: {host(endpoint)} does not answer as a Hugging Face hub does; --mirror takes the address of one"


def _hub_reason(error: Exception, repo: str, endpoint: str, timeout: float) -> str:
    names = _names(error)
    if "OfflineModeIsEnabled" in names:
        return f"{repo}: HF_HUB_OFFLINE is set; unset it to download"
    if "GatedRepoError" in names:
        return f"{repo}: {host(endpoint)} wants its terms accepted first, with an account (hf auth login)"
    if "RepositoryNotFoundError" in names:
        return f"{repo}: no such repository on {host(endpoint)}"
    unread = isinstance(error, (ValueError, TypeError, LookupError, AttributeError))
    if "JSONDecodeError" in names or (unread and not isinstance(error, OSError)):
        return _no_hub(repo, endpoint)  # a web page, or other JSON
    return (
        f"{repo}: {reason(error, endpoint, timeout)} ({endpoint}); try again later, or --mirror another hub"
    )
