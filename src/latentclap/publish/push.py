"""To the Hugging Face hub: what is there already, the upload, and each thing that can go wrong in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import below, file_sha256
from latentclap.wording import plural

#: files and folders that a system or an editor hides, which may name a user's other files: they are not sent
HIDDEN = (".*", "*/.*")
#: what the hub puts into every new repository by itself
_HUBS_OWN = {".gitattributes"}


@dataclass(frozen=True)
class Remote:
    """A repository on the hub.

    Attributes:
        exists: it is there.
        private: only its owner sees it.
        commit: its last one; empty for a new one.
        files: name -> (bytes, digest), the digest of a large file SHA-256, of a small one git's.
    """

    exists: bool = False
    private: bool = False
    commit: str = ""
    files: dict[str, tuple[int, str]] | None = None

    def same(self, folder: Path) -> set[str]:
        """Names of its files that are the same in a folder."""
        found = set()
        for name, (size, digest) in (self.files or {}).items():
            path = folder / name
            if path.is_file() and path.stat().st_size == size:
                ours = file_sha256(path) if len(digest) == 64 else git_digest(path)
                found |= {name} if ours == digest else set()
        return found

    def other(self, folder: Path, name: str) -> bool:
        """Whether it holds a small file of this name with another content than a folder does."""
        told = (self.files or {}).get(name)
        return told is not None and told[1] != git_digest(folder / name)


def git_digest(path: Path) -> str:
    """What git calls a file's content: SHA-1 with its kind and size in front."""
    body = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def check_name(name: str) -> None:
    """Check a name for a repository before any work.

    Raises:
        InputError: it is not OWNER/NAME in letters that the hub takes.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(
            f"--push {name}: give OWNER/NAME, your name or organisation on the hub and the model's"
        )
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(
            f"--push {name}: letters, digits, '-', '_' and '.' make a name on the hub, 96 at most, and it neither"
            " begins nor ends with '-' or '.'"
        ) from None


def check_online() -> None:
    """Check, without asking the hub, that it may be asked and that there is a token.

    Raises:
        InputError: it may not, or there is none.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "--push: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing is sent; unset it, or leave --push"
            " out"
        )
    if not get_token():
        raise InputError(
            "--push: no token for the hub: hf auth login keeps one, or HF_TOKEN holds one; it has to be one that may"
            " write"
        )


def look(name: str) -> Remote:
    """What is on the hub under a name.

    Raises:
        InputError: the hub cannot be asked, or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, files_metadata=True)
    except RepositoryNotFoundError as error:
        # a token that the hub does not know gets the same answer as a name that it does not know
        if _status(error) == 401:
            raise InputError(_told(error, name)) from None
        return Remote()
    except Exception as error:
        raise InputError(_told(error, name)) from None
    files = {}
    for file in info.siblings or []:
        large = getattr(file, "lfs", None)
        digest = (large["sha256"] if isinstance(large, dict) else large.sha256) if large else file.blob_id
        files[file.rfilename] = (file.size or 0, digest or "")
    return Remote(True, bool(info.private), info.sha or "", files)


def check_remote(remote: Remote, name: str, folder: Path, *, private: bool, overwrite: bool) -> bool:
    """Check that a folder may go to a repository; return whether there is anything to send.

    Raises:
        InputError: it is public where it should be private, or it holds other files.
    """
    if not remote.exists:
        return True
    if private and not remote.private:
        raise InputError(
            f"{name} is there and public, which --private does not change: make it private in its settings, or choose"
            " another name"
        )
    same = remote.same(folder)
    others = sorted(set(remote.files or {}) - same - _HUBS_OWN)
    if others and not overwrite:
        raise InputError(
            f"{name} is there and holds {plural(len(others), 'file')} of another content ({others[0]}): choose"
            " another name, or --overwrite replaces all that it holds"
        )
    ours = {path.relative_to(folder).as_posix() for path in below(folder) if path.is_file()}
    return bool(others or ours - same)


def push(folder: Path, name: str, remote: Remote, *, private: bool, overwrite: bool, quiet: bool) -> str:
    """Create a repository where there is none, upload a folder in one commit, and look whether it has arrived.

    Args:
        folder: what :func:`latentclap.publish.prepare.prepare` wrote.
        name: OWNER/NAME.
        remote: of :func:`look`.
        private: of a new repository.
        overwrite: remove what the folder does not hold.
        quiet: no progress bars.

    Returns:
        The repository's address.

    Raises:
        InputError: it did not work, in a line that says why and what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()  # it says every try again in lines of its own
    if quiet:
        disable_progress_bars()
    api = HfApi()
    try:
        url = str(api.create_repo(name, private=private or None, exist_ok=True))
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="latentclap publish",
            ignore_patterns=list(HIDDEN),
            parent_commit=remote.commit or None,
            delete_patterns="*" if overwrite and remote.exists else None,
        )
    except Exception as error:
        raise InputError(_told(error, name)) from None
    missing = sorted(
        {p.relative_to(folder).as_posix() for p in below(folder) if p.is_file()} - look(name).same(folder)
    )
    if missing:
        raise InputError(
            f"{name}: {plural(len(missing), 'file')} did not arrive as they are here ({missing[0]}); the same command"
            " goes on"
        )
    return url


# --- what went wrong --------------------------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it: the upload's wraps the connection's."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _status(error: BaseException) -> int:
    """The hub's status code; 0 where it did not come to an answer."""
    for found in _chain(error):
        response: Any = getattr(found, "response", None)
        if response is not None:
            return int(response.status_code)
    return 0


def _told(error: BaseException, name: str) -> str:
    """A line for whatever huggingface_hub raises."""
    from huggingface_hub import constants

    status, owner = _status(error), name.partition("/")[0]
    again = "what has arrived is kept there, and the same command goes on"
    lines = {
        401: "the hub does not take the token (401): hf auth login, with one that may write",
        403: f"the token may not write to {owner} (403): take one with the right to write there, or another name",
        404: f"the hub does not find {name} (404): the token may not see it, or {owner} is nobody there",
        409: f"{name} was changed by somebody meanwhile (409): look at it, then give the same command again",
        412: f"{name} was changed by somebody meanwhile (412): look at it, then give the same command again",
        413: "the hub refuses something as too large (413)",
        429: f"the hub asks to wait (429): {again} later",
    }
    if status:
        said = _server(error)
        line = lines.get(status) or (
            f"the hub has a fault of its own ({status}): {again}"
            if status >= 500
            else f"the hub refused it ({status})"
        )
        return f"--push {name}: {line}" + (f"; it says: {said}" if said else "")
    kinds = {kind.__name__ for found in _chain(error) for kind in type(found).__mro__}
    if "OfflineModeIsEnabled" in kinds:
        return "--push: HF_HUB_OFFLINE is set, so nothing is sent; unset it, or leave --push out"
    if "ConnectError" in kinds or "ConnectTimeout" in kinds:
        return f"--push {name}: {constants.ENDPOINT} cannot be reached: {again} when it can"
    if kinds & {"TransportError", "ConnectionError", "TimeoutError"}:
        return f"--push {name}: the connection to {constants.ENDPOINT} was cut: {again}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"--push {name}: the upload failed ({first}): {again}"


def _server(error: BaseException) -> str:
    """What the hub itself says of it: one line, not long, nothing that a terminal obeys."""
    text = next((str(m) for found in _chain(error) if (m := getattr(found, "server_message", None))), "")
    line = "".join(c if c.isprintable() else " " for c in text.partition("\n")[0])
    return line if len(line) <= 200 else f"{line[:200]}..."
