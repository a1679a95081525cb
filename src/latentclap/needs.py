"""What a run needs: files that a profile names and clips of every class; what is not there, and what changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from latentclap.checkpoints import shipped
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import below
from latentclap.profiles import Profile
from latentclap.wording import plural

if TYPE_CHECKING:
    from latentclap.data import FoleyDataset

_GET = "python data_scripts/get.py"
#: what of a profile is a file or folder -> the command that brings it
COMMANDS = {
    "model.system": f"{_GET} audioldm",
    "model.judge": f"{_GET} clap --transformers",
    "model.latent_clap": "python -m latentclap.train data_scripts/train/phi_wavcaps.toml",
    "data.folder": f"{_GET} dcase",
    "evaluate.reference": f"{_GET} stats",
    "evaluate.vggish": f"{_GET} vggish",
}


def every_class(dataset: FoleyDataset, name: str, *, dev: int = 2, eval_: int = 2) -> None:
    """Check that a data set has clips of every class on both sides, before anything is trained on it.

    Args:
        dataset: the clips.
        name: what the message calls them: their folder.
        dev, eval_: how many clips of each class have to be on that side; one has no interval over clips.

    Raises:
        InputError: a class with fewer.
    """
    few = [
        f"{cls} has {plural(count, f'{side} clip')}"
        for cls in CLASSES
        for side, wanted in (("dev", dev), ("eval", eval_))
        if (count := sum(clip.cls == cls for clip in dataset.split(side))) < wanted
    ]
    if few:
        raise InputError(
            f"{name}: {few[0]}"
            + f" (and {len(few) - 1} more)" * (len(few) > 1)
            + f"; the notebooks need all seven classes, with {dev} development and {eval_} evaluation clips at least"
        )


def missing(profile: Profile, data_dir: str = "") -> list[str]:
    """A line for each file or folder that a profile names and that is not there.

    A name of a hub (``owner/model``, nothing of that name on the disk) is left to the hub; a path below
    ``checkpoints``, ``data`` or ``runs`` is none.

    Args:
        profile: any.
        data_dir: a data folder given beside the profile: the profile's own is not needed then.
    """
    return list(_missing(profile, data_dir))


def _missing(profile: Profile, data_dir: str) -> Iterator[str]:
    for name, command in COMMANDS.items():
        section, key = name.split(".")
        value = getattr(getattr(profile, section), key)
        if not value or (name == "data.folder" and data_dir):
            continue
        path = Path(value)
        ours = key in ("system", "latent_clap") and shipped(value).is_dir()
        if ours or path.exists() or (key in ("system", "judge") and on_a_hub(value)):
            continue
        yield f"{name}: {value} (from: {command})"


def uses_hub(profile: Profile) -> bool:
    """Whether a profile names a model that is neither shipped nor on this disk, so that the hub has to give it."""
    names = (profile.model.system, profile.model.judge)
    return any(n and not shipped(n).is_dir() and not Path(n).exists() and on_a_hub(n) for n in names)


def outside(profile: Profile, data_dir: str = "") -> list[str]:
    """A line for each file that a profile names outside the package: place, size and time of its last change.

    For workflows, which look at files' times: reading a data set to see whether it changed would take minutes.

    Args:
        profile: any.
        data_dir: a data folder given beside the profile, instead of its own.
    """
    lines = []
    for name in COMMANDS:
        section, key = name.split(".")
        value = getattr(getattr(profile, section), key)
        if name == "data.folder":
            value = data_dir or value
        if not value:
            continue
        path = Path(value).expanduser()  # a name that ships or is a hub's is no place here
        # names with a dot are locks, and what a copy that is under way writes
        found = below(path) if path.is_dir() else [path]
        for file in found:
            if file.is_file():
                about = file.stat()
                lines.append(f"{name} {file} {about.st_size} {about.st_mtime_ns}")
    return lines


def on_a_hub(name: str) -> bool:
    """Whether a name can be a hub's (``owner/model``); a path below ``checkpoints``, ``data`` or ``runs`` is none."""
    parts = Path(name).parts
    return len(parts) == 2 and parts[0] not in ("checkpoints", "data", "runs", ".", "..", "~", "/")
