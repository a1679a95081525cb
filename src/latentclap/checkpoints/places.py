"""Where a checkpoint lies: with the package, in a folder, or on the hub."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from latentclap.errors import InputError


def shipped(name: str) -> Path:
    """The folder of weights that the package ships under a name ("mini")."""
    return Path(str(files("latentclap"))) / "weights" / name


def resolve(name_or_path: str | Path) -> Path:
    """Turn "mini", a folder, or a hub repository's name into a local folder.

    Raises:
        InputError: there is no such folder and the hub cannot be reached or does not know the name.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    name = str(name_or_path)
    if shipped(name).is_dir() and "/" not in name and "." not in name:
        return shipped(name)
    if name.startswith(("checkpoints/", "data/", "runs/")):  # a profile's folder, and nobody's name on a hub
        raise InputError(
            f"no folder {name!r} here: python data_scripts/get.py gets checkpoints (get.py list names them), and the"
            " book's page How to reproduce says what makes the others"
        )
    if name.count("/") != 1 or path.is_absolute() or name.startswith("."):
        raise InputError(
            f"no system at {name!r}: give a folder, 'mini', or a hub name such as cvssp/audioldm-m-full"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.msgpack", "*.h5", "*.ckpt"]))
    except Exception as error:  # the hub's many errors all mean: it is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"no folder {name!r} here, and the hub did not give it ({reason})") from None


def latent_clap_folder(name_or_path: str | Path) -> Path:
    """Folder of a Latent CLAP encoder: the one that comes with a system (shipped or a folder), or its own."""
    systems = [shipped(str(name_or_path)), Path(name_or_path)]
    within = [folder / "latent_clap" for folder in systems]
    return next((folder for folder in within if folder.is_dir()), Path(name_or_path))
