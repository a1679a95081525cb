"""Checkpoints on disk: where they lie, and whether their files are whole, told without torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_json

#: our own file in a system's folder: what diffusers' model_index.json has no place for
INDEX = "latentclap.json"
#: the samplers that there are, for whoever does not import torch to ask (``diffusion.SAMPLERS`` has them)
SAMPLERS = ("ddim", "dpmsolver++", "unipc")
#: what that says
SETTINGS = frozenset({"frames", "tuning", "polish", "sampling"})
#: the parts without which no sound can be generated
SYSTEM_PARTS = ("unet", "vae", "vocoder", "scheduler", "tokenizer")
WEIGHTED = ("unet", "vae", "vocoder")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: Entries of a state dict that are no parameters: statistics, index tables, a vocoder's normalisation.
BUFFERS = frozenset(
    {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "position_ids",
        "token_type_ids",
        "relative_position_index",
        "mean",
        "scale",
    }
)
#: Those of them that a module computes when it is built: nothing is lost where a file lacks them.
COMPUTED = frozenset({"num_batches_tracked", "position_ids", "token_type_ids", "relative_position_index"})


@dataclass(frozen=True)
class Sampling:
    """How a system is sampled where nobody says otherwise.

    Where it does not say: the paper's 200 steps and guidance 2.0 (IV-B), by DDIM, which the paper does not name and
    AudioLDM's code takes (facts A4).

    Attributes:
        sampler: "ddim", "dpmsolver++" or "unipc".
        steps: denoising steps.
        guidance_scale: of classifier-free guidance.
    """

    sampler: str = "ddim"
    steps: int = 200
    guidance_scale: float = 2.0

    def but(
        self, sampler: str | None = None, steps: int | None = None, guidance_scale: float | None = None
    ) -> Sampling:
        """These settings, but for what is given; with another sampler than ours, our steps mean nothing."""
        ours = self if sampler in (None, self.sampler) else Sampling(guidance_scale=self.guidance_scale)
        return Sampling(
            self.sampler if sampler is None else sampler,
            ours.steps if steps is None else steps,
            ours.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def asdict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


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


def check_system(folder: Path) -> None:
    """Look whether a folder is a whole system: its parts are there and none of their files is damaged.

    Only headers are read, so that a damaged checkpoint is known before torch is imported.

    Raises:
        InputError: a part is missing, a file of it is damaged, its scheduler is not AudioLDM's, or its index says
            what no index does.
    """
    missing = [part for part in SYSTEM_PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"{folder} is no AudioLDM system: {', '.join(missing)} is missing")
    told = json_or_nothing(folder / INDEX)
    if unknown := sorted(set(told) - SETTINGS):  # a misspelt one would be AudioLDM's own value
        raise InputError(
            f"{folder / INDEX}: {unknown[0]!r} is no setting of a system; there are {', '.join(sorted(SETTINGS))}"
        )
    if told.get("tuning") and not (folder / "tuning").is_dir():
        raise InputError(
            f"{folder} is to have a tuning layer, and tuning is missing; copy or download it again"
        )
    clip_frames(folder)
    polish_iterations(folder)
    own_sampling(folder)
    check_schedule(folder)
    for part in (*SYSTEM_PARTS, "clap", "text_encoder", "tuning"):
        if (folder / part).is_dir():
            check_files(folder / part)
        if part in WEIGHTED and not weight_files(folder / part):
            raise InputError(f"{folder / part}: no weights file; the checkpoint is not complete")


def is_computed(name: str, module: Any) -> bool:
    """Whether a module has the right value for an entry of its state where no file holds it."""
    if name in ("mean", "scale"):
        # of a vocoder: only one that normalises its mels reads them
        return not getattr(getattr(module, "config", None), "normalize_before", True)
    return name.rpartition(".")[2] in COMPUTED


def check_files(folder: Path) -> None:
    """Look at every safetensors and JSON file of a folder.

    Raises:
        InputError: one is damaged; the message names it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            header(path)
        elif path.name.endswith("config.json"):
            json_or_nothing(path)
        elif path.suffix == ".json":
            read_json(path)


def weight_files(folder: Path) -> list[Path]:
    """One set of weights: safetensors where there are any, since checkpoints often hold them twice."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS]
    return [p for p in files if p.suffix == ".safetensors"] or files


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a safetensors file: name -> dtype and shape, from its first bytes only.

    Raises:
        InputError: it is missing, no safetensors file, or cut short.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            told = _tensors(json.loads(stream.read(length)))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the checkpoint is not complete") from None
    except (struct.error, ValueError) as error:
        raise InputError(
            f"{path}: not a safetensors file, or a damaged one ({error}); copy or download it again"
        ) from None
    ends = [tensor["data_offsets"][1] for tensor in told.values()]
    if path.stat().st_size < 8 + length + max(ends, default=0):
        raise InputError(f"{path}: cut short; copy or download it again")
    return told


def _tensors(told: Any) -> dict[str, dict[str, Any]]:
    """The tensors of a header, each with dtype, shape and its place; a ValueError where it is no such thing."""
    try:
        tensors = {name: tensor for name, tensor in told.items() if name != "__metadata__"}
        for tensor in tensors.values():
            start, end = tensor["data_offsets"]
            numbers = [start, end, *tensor["shape"]]
            if not isinstance(tensor["dtype"], str) or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ValueError("the header does not list tensors with dtype, shape and data_offsets") from None
    return tensors


def json_or_nothing(path: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is no such file.

    Raises:
        InputError: it is not JSON, or no object.
    """
    told = read_json(path) if path.is_file() else {}
    if not isinstance(told, dict):
        raise InputError(
            f"{path}: a JSON object is needed, this is {str(told)[:40]}; copy or download it again"
        )
    return told


def check_schedule(folder: Path) -> None:
    """Look whether a system's scheduler is of the kind that AudioLDM is trained with, the only one sampled here.

    Raises:
        InputError: its betas are others, or none, or its UNet predicts something else than noise.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return
    # "linear" is what diffusers takes where the file does not say
    config = {"beta_schedule": "linear", **json_or_nothing(path)}
    needed = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    needed |= {"trained_betas": None, "rescale_betas_zero_snr": False}
    for key, value in needed.items():
        own = config.get(key, value)
        if own != value:
            raise InputError(
                f"{path}: {key}={str(own)[:40]} is not AudioLDM's, {value}; choose another checkpoint"
            )
    # diffusers' own, where the file does not say
    steps, *betas = (
        config.get(k, v)
        for k, v in (("num_train_timesteps", 1000), ("beta_start", 0.0001), ("beta_end", 0.02))
    )
    if type(steps) is not int or steps < 1:
        raise InputError(
            f"{path}: num_train_timesteps={str(steps)[:40]} is no number of steps; copy or download it again"
        )
    if any(type(beta) not in (int, float) or not 0 < beta < 1 for beta in betas) or betas[0] > betas[1]:
        told = ", ".join(str(beta)[:40] for beta in betas)
        raise InputError(
            f"{path}: beta_start and beta_end are {told}, and not between 0 and 1, the smaller first;"
            " copy or download it again"
        )


def clip_frames(folder: Path) -> int:
    """Mel frames of a system's clips, as its own index says; AudioLDM's 1024 where there is none.

    Raises:
        InputError: the index is damaged.
    """
    index = folder / INDEX
    frames = json_or_nothing(index).get("frames", 1024)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise InputError(f"{index}: frames={frames!r} is no number of mel frames; save the system again")
    return frames


def polish_iterations(folder: Path) -> int | None:
    """How a system's vocoder is polished, as its own index says; None, as AudioLDM's, where there is none.

    Raises:
        InputError: the index says something that is no number of iterations.
    """
    iterations = json_or_nothing(folder / INDEX).get("polish")
    if iterations is not None and (type(iterations) is not int or iterations < 0):
        raise InputError(
            f"{folder / INDEX}: polish={iterations!r} is no number of iterations;"
            " take it out or save the system again"
        )
    return iterations


def own_sampling(folder: Path) -> Sampling:
    """The settings that a system is sampled with, as its own index says; the paper's where it says none.

    Raises:
        InputError: the index says something that is no such setting.
    """
    index = folder / INDEX
    told = json_or_nothing(index).get("sampling") or {}
    kinds: dict[str, tuple[type, ...]] = {"sampler": (str,), "steps": (int,), "guidance_scale": (int, float)}
    try:
        wrong = [name for name in told if type(told[name]) not in kinds[name]]
        wrong += [name for name in ("sampler",) if told.get(name, "ddim") not in SAMPLERS]
        if wrong or not (told.get("steps", 1) >= 1 and 0 <= told.get("guidance_scale", 0) < math.inf):
            raise ValueError
        return Sampling(**told)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise InputError(
            f"{index}: sampling={told!r} is no sampler, steps and guidance_scale;"
            " take it out or save the system again"
        ) from None
