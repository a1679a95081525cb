"""Files that are either whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import tomllib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.errors import InputError

if TYPE_CHECKING:
    import torch


def check_place(path: str | Path) -> list[Path]:
    """Check that a file can be written at ``path``, before the long work that makes it.

    Returns:
        Folders that have to be made for it, the innermost first.

    Raises:
        OSError: it is a folder, lies below a file, or below a folder that may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the name of a file", str(path))
    absent = list(itertools.takewhile(lambda folder: not folder.exists(), path.absolute().parents))
    place = absent[-1].parent if absent else path.absolute().parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder; choose another place", str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write there; choose another folder", str(place))
    return absent


def replaceable(folder: Path, mark: str, what: str) -> Path:
    """Check that a folder can be replaced as a whole, before the long work that makes the new one.

    It can if it does not exist, is empty, or holds ``mark``.

    Args:
        folder: the place.
        mark: name of a file that tells a folder of this kind from anything else.
        what: what the folder will be, in words, for the error.

    Returns:
        The place with links followed.

    Raises:
        InputError: it holds other things, or is or contains the working folder.
    """
    place = Path(os.path.realpath(folder))
    if place.is_symlink():
        raise InputError(f"{folder}: a link that leads round in circles; choose another folder")
    if Path.cwd().is_relative_to(place):
        raise InputError(
            f"{folder}: the working folder is there and cannot be replaced; choose another folder"
        )
    if place.exists() and not (place.is_dir() and ((place / mark).is_file() or not any(place.iterdir()))):
        raise InputError(f"{folder} holds other things than {what}: choose another folder or empty it")
    return place


def unlisted(error: OSError) -> str:
    """Why a folder could not be listed, in words for an error message."""
    if error.errno == errno.EACCES:
        return "no permission to read this folder"
    return f"this folder cannot be listed ({error.strerror or error})"


def listed(folder: str | Path) -> list[Path]:
    """What lies in a folder, sorted; an empty list where there is no such folder.

    ``Path.glob`` would take a folder that may not be read for an empty one; here that is an error.

    Raises:
        InputError: it may not be read.
    """
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: {unlisted(error)}; allow it, or move the folder away") from None


def below(folder: str | Path, suffixes: Container[str] | None = None) -> list[Path]:
    """Everything below a folder, at any depth, sorted; hidden files and folders are left out.

    Links to folders are followed, but no folder is listed twice, so that links in a circle do no harm; a folder that
    is also there by itself is listed under its own path. ``Path.rglob`` follows no links, and takes a folder that
    may not be read for an empty one; here that is an error.

    Args:
        folder: where to begin.
        suffixes: only paths that end in one of these, in lower case with the dot; None: all.

    Raises:
        InputError: a folder may not be read.
    """
    above = Path(os.path.realpath(folder))
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        for place, folders, files in os.walk(waiting.pop(0), onerror=_refuse):
            told = os.stat(place)
            if (told.st_dev, told.st_ino) in seen:
                folders.clear()
                continue
            seen.add((told.st_dev, told.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            named = [Path(place, n) for n in (*files, *folders) if not n.startswith(".")]
            found += [path for path in named if suffixes is None or path.suffix.lower() in suffixes]
            links = (path for name in folders if os.path.islink(path := os.path.join(place, name)))
            # the real folders first; and a link upwards is a loop
            waiting += [link for link in links if not above.is_relative_to(os.path.realpath(link))]
    return sorted(found)


def _refuse(error: OSError) -> None:
    """What os.walk calls for a folder that it cannot list; by itself it would pass over it without a word."""
    raise InputError(f"{error.filename}: {unlisted(error)}; allow it, or move the folder away") from None


def plain(name: str | Path) -> str:
    """A file's name as text that can be written anywhere: bytes that are no UTF-8 as ``\\xe9``."""
    return os.fsencode(Path(name).as_posix()).decode("utf-8", "backslashreplace")


def existing(path: str | Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    path = Path(path).absolute()
    return next(p for p in [path, *path.parents] if p.exists())


def free_bytes(path: str | Path) -> int:
    """Free space where a file or folder is or will be."""
    return shutil.disk_usage(existing(path)).free


#: what new files may be used for: read once, since asking for it sets it, for every thread of the process
_UMASK = os.umask(0o077)
os.umask(_UMASK)

#: what the system says where a file does not fit: a full disk, a user's share of it, a file's largest size
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: Suffixes of checkpoint files of the original code (AudioLDM, LAION-CLAP).
ORIGINAL = (".ckpt", ".pt", ".pth")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block ends without an error.

    The temporary name keeps the suffix, since libsndfile and matplotlib choose the format by it. Folders that had to
    be made go again where nothing came to lie in them.
    """
    path, made = Path(path), check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp creates 0600 files; a published book or data set must be readable by others
        temporary.chmod(0o666 & ~_UMASK)
        with open(temporary, "rb") as written:  # a name that is there after a crash has all of its content
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        unnamed = error.filename in (None, str(temporary))  # where it is a write that fails
        if error.errno in NO_ROOM and unnamed:
            said = f"{error.strerror}; make room, and the same command goes on"
            raise OSError(error.errno, said, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
        for folder in made:  # the innermost first; one that holds something stays
            with contextlib.suppress(OSError):
                folder.rmdir()


def append_line(path: str | Path, text: str) -> None:
    """Add a line (UTF-8) to a file; one that is cut short stays the last one of a run that was killed.

    Raises:
        OSError: it does not fit, or cannot be written; with the file's name, which the system does not tell.
    """
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    except OSError as error:
        more = "; make room, and the same command goes on" if error.errno in NO_ROOM else ""
        raise OSError(error.errno, f"{error.strerror or error}{more}", str(path)) from None


def write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8), whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON, indented and with a final newline, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n")


def finite(data: Any) -> Any:
    """A copy of the data with None for NaN and infinities, which JSON does not know, and lists for arrays."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    if hasattr(data, "tolist"):
        return finite(data.tolist())
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are
        raise InputError(f"{path}: not JSON ({error}); copy it or make it again") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it is not TOML, or not UTF-8.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML (UTF-8 text): {error}") from None


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise InputError(f"{path}: missing; the checkpoint is not complete")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}); copy or download it again") from None


def file_sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def add_weights(hasher: Any, module: torch.nn.Module, prefix: str = "") -> None:
    """Update a hash with the names and bytes of a module's parameters and buffers, on whatever device they are.

    Args:
        hasher: of ``hashlib``.
        module: whose state dict is hashed.
        prefix: put before each name.
    """
    import torch

    for name, value in module.state_dict().items():
        hasher.update(f"{prefix}{name}".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def weights_digest(module: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits that change with any weight of a module: a key for what is computed with it."""
    hasher = hashlib.sha256()
    add_weights(hasher, module)
    return hasher.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Turn numpy scalars, arrays and paths into what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} is not JSON")
