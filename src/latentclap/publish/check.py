"""What goes into a published folder, and whether it is whole: safetensors, finite, loadable."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import INDEX, SYSTEM_PARTS, check_system, header
from latentclap.errors import InputError
from latentclap.files import below
from latentclap.wording import plural

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: folders of a system that are published, and the files of its own
PARTS = (*SYSTEM_PARTS, "clap", "text_encoder", "tuning", "latent_clap")
FILES = ("model_index.json", INDEX)
#: what a part's files end in: weights, configurations, a tokenizer's lists of words
KINDS = (".safetensors", ".json", ".txt")
#: formats that can run code when they are opened, or hold the same weights for others
OTHERS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class Selection:
    """Files of a system's folder.

    Attributes:
        files: those that are published, by their names below the folder.
        left_out: the others.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]


def select(folder: Path) -> Selection:
    """Choose the files of a system's folder that whoever loads it needs.

    Raises:
        InputError: a part has its weights in another form than safetensors only, or diffusers' index is not there.
    """
    check_system(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder}: no model_index.json, so that diffusers does not open it; write it whole with"
            " FoleySystem.from_pretrained(FOLDER).save_pretrained(OTHER)"
        )
    every = [path.relative_to(folder) for path in below(folder) if path.is_file()]
    wanted = [
        name
        for name in every
        if name.as_posix() in FILES
        or (len(name.parts) == 2 and name.parts[0] in PARTS and name.suffix in KINDS)
    ]
    for part in PARTS:
        names = [name for name in every if name.parts[0] == part]
        pickles = [name for name in names if name.suffix in OTHERS]
        if pickles and not any(name.suffix == ".safetensors" for name in names):
            raise InputError(
                f"{folder / pickles[0]}: only safetensors are published, since a file of this kind can run code when"
                " it is opened; write the system anew with FoleySystem.from_pretrained(FOLDER).save_pretrained(OTHER)"
            )
    told = {name.as_posix() for name in wanted}
    rest = sorted(name.as_posix() for name in every if name.as_posix() not in told)
    return Selection(tuple(sorted(told)), tuple(rest))


def check_finite(folder: Path) -> int:
    """Read every tensor of every safetensors file below a folder; return how many numbers there are.

    Raises:
        InputError: a file is damaged, or a number in it is NaN or infinite.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in below(folder, (".safetensors",)):
        header(path)  # says in words what is damaged
        try:
            with safe_open(path, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - no mapping
                    value = opened.get_tensor(key)
                    if value.is_floating_point() and not value.isfinite().all():
                        raise InputError(
                            f"{path}: {key} has numbers that are not finite: the training went"
                            " wrong, or the file is damaged"
                        )
                    count += value.numel()
        except SafetensorError as error:
            raise InputError(f"{path}: damaged ({error}); copy it again") from None
    return count


def load_whole(folder: Path, device: str) -> FoleySystem:
    """Load a system as a stranger will: ours with all its parts, φ where there is one, and diffusers' pipeline.

    Raises:
        InputError: one of them does not load.
    """
    from diffusers import AudioLDMPipeline
    from diffusers.utils import logging

    from latentclap.latent_clap import LatentCLAP
    from latentclap.system import FoleySystem

    system = FoleySystem.from_pretrained(folder, device=device)
    if (folder / "latent_clap").is_dir():
        LatentCLAP.from_pretrained(folder / "latent_clap")
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            AudioLDMPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except Exception as error:  # diffusers' many: a stranger would meet each of them
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: diffusers does not open it ({reason})") from None
    return system


def inventory(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below a folder, by its name there."""
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in below(folder) if p.is_file()}


def left_out(selection: Selection) -> str:
    """What was not taken, in a line; empty where all was."""
    if not selection.left_out:
        return ""
    shown = ", ".join(selection.left_out[:3]) + (", ..." if len(selection.left_out) > 3 else "")
    return f"left out, {plural(len(selection.left_out), 'file')} that nobody needs to load it: {shown}"


def values_of(system: FoleySystem) -> dict[str, Any]:
    """What a system's own index says of sampling and sound, for the card."""
    return {
        "sampling": system.sampling.asdict(),
        "polish": system.polish,
        "seconds": system.seconds,
        "sampling_rate": system.sampling_rate,
        "tuning": system.tuning is not None,
        "clap": system.clap is not None,
    }
