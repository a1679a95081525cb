"""What a checkpoint on disk is, read from its configuration files and safetensors headers alone.

No weight is loaded and torch is not imported: it answers at once, for gigabytes too.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_json

#: our own file in a system's folder: what diffusers' model_index.json has no place for
INDEX = "latentclap.json"

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
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_PARTS = ("text_encoder", "tuning", "unet", "vae", "vocoder", "clap", "latent_clap", "judge")
#: Parts that no sound passes through when it is generated: they train or judge.
_BESIDE = ("latent_clap", "judge")
_SCHEDULER = (
    "_class_name",
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "prediction_type",
)


def describe(path: Path) -> dict[str, Any]:
    """Describe a system's folder, a folder with one model, or one safetensors file.

    Returns:
        JSON-ready: path, kind ("system" or "model"), components {name: {class, parameters, dtype, bytes}},
        parameters and bytes in all, model_card (its first line of text, or None). For a system also
        sampling_rate, frames, seconds, latent_shape (C, T, F), scaling_factor, tuning, scheduler; its parameters
        in all are those that generate: not the Latent CLAP, the judge, or a CLAP beside a text encoder.

    Raises:
        InputError: there is nothing of the kind, or a file of it is damaged.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path}: only folders and .safetensors files can be described without running them"
            )
        parts = {path.stem: {"class": None, **_count(_header(path)), "bytes": path.stat().st_size}}
        return {"path": str(path), "kind": "model", **_totals(parts), "model_card": None}
    parts = {part: _component(path / part) for part in _PARTS if (path / part).is_dir()}
    if {"unet", "vae"} <= parts.keys():
        return {"path": str(path), "kind": "system", **_totals(parts), **_system(path, parts)}
    if not path.is_dir() or not weight_files(path):
        raise InputError(
            f"{path}: no checkpoint here, neither a system (unet/, vae/, ...) nor a weights file"
        )
    totals = _totals({path.resolve().name: _component(path)})
    return {"path": str(path), "kind": "model", **totals, "model_card": _card(path)}


def as_text(told: dict[str, Any]) -> str:
    """What `describe` told as a few lines for a terminal."""
    lines = [f"{told['kind']} {told['path']}"]
    if told.get("model_card"):
        lines.append(told["model_card"])
    for name, part in told["components"].items():
        count = "unknown" if part["parameters"] is None else f"{part['parameters']:,}"
        lines.append(
            f"  {name:<14}{part['class'] or '-':<32}{count:>14} parameters  {part['dtype'] or '-':<5}"
            f"{part['bytes'] / 1e6:>9.1f} MB"
        )
    lines.append(
        f"  {'total (parameters that generate, all bytes)':<46}{told['parameters']:>14,} parameters  {'':<5}"
        f"{told['bytes'] / 1e6:>9.1f} MB"
    )
    if told["kind"] == "system":
        scheduler = ", ".join(f"{key} {value}" for key, value in told["scheduler"].items())
        lines += [
            f"sampling rate  {told['sampling_rate']} Hz, clips of {told['seconds']:.2f} s ({told['frames']} frames)",
            f"latent shape   {tuple(told['latent_shape'])} (C, T, F), scaling factor {told['scaling_factor']}",
            f"tuning layer   {'yes' if told['tuning'] else 'no'}",
            f"scheduler      {scheduler or 'not told'}",
        ]
    return "\n".join(lines)


def _totals(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    # a text encoder of its own leaves the CLAP beside it nothing to do but judge
    beside = {*_BESIDE, "clap"} if "text_encoder" in parts else {*_BESIDE}
    return {
        "components": parts,
        "parameters": sum(part["parameters"] or 0 for name, part in parts.items() if name not in beside),
        "bytes": sum(part["bytes"] for part in parts.values()),
    }


def _system(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    if "tuning" in parts:
        # its file also keeps the UNet's class embedding as it was before the two were folded
        tensors = _header(folder / "tuning" / "model.safetensors")
        own = {name: tensor for name, tensor in tensors.items() if name.startswith("tuning.")}
        parts["tuning"] |= {"class": "Linear", **_count(own)}
    vae, vocoder = _json(folder / "vae" / "config.json"), _json(folder / "vocoder" / "config.json")
    frames = clip_frames(folder)
    hop = math.prod(vocoder.get("upsample_rates", [160]))
    rate, mels = vocoder.get("sampling_rate", 16_000), vocoder.get("model_in_dim", 64)
    ratio = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    return {
        "sampling_rate": rate,
        "frames": frames,
        "seconds": frames * hop / rate,
        "latent_shape": [vae.get("latent_channels"), frames // ratio, mels // ratio],
        "scaling_factor": vae.get("scaling_factor"),
        "tuning": "tuning" in parts,
        "scheduler": {key.removeprefix("_"): scheduler[key] for key in _SCHEDULER if key in scheduler},
        "model_card": _card(folder),
    }


def weight_files(folder: Path) -> list[Path]:
    """One set of weights: safetensors where there are any, since checkpoints often hold them twice."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS]
    return [p for p in files if p.suffix == ".safetensors"] or files


def check_files(folder: Path) -> None:
    """Look at every safetensors and JSON file of a folder.

    Raises:
        InputError: one is damaged; the message names it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            _header(path)
        elif path.suffix == ".json":
            read_json(path)


def _component(folder: Path) -> dict[str, Any]:
    config, files = _json(folder / "config.json"), weight_files(folder)
    kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
    tensors = {k: v for path in files if path.suffix == ".safetensors" for k, v in _header(path).items()}
    return {"class": kind, **_count(tensors), "bytes": sum(p.stat().st_size for p in files)}


def _count(tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Parameters and the commonest dtype; None where no safetensors file tells them."""
    own = [t for name, t in tensors.items() if name.rpartition(".")[2] not in BUFFERS]
    dtypes = Counter(t["dtype"] for t in own).most_common(1)
    return {
        "parameters": sum(math.prod(t["shape"]) for t in own) if own else None,
        "dtype": dtypes[0][0] if dtypes else None,
    }


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a safetensors file: name -> dtype and shape, from its first bytes only."""
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the checkpoint is not complete") from None
    except (struct.error, ValueError) as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one ({error})") from None
    header.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    if path.stat().st_size < 8 + length + max(ends, default=0):
        raise InputError(f"{path}: cut short; copy or download it again")
    return header


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def clip_frames(folder: Path) -> int:
    """Mel frames of a system's clips, as its own index says; AudioLDM's 1024 where there is none.

    Raises:
        InputError: the index is damaged.
    """
    index = folder / INDEX
    told = _json(index)
    frames = told.get("frames", 1024) if isinstance(told, dict) else None
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise InputError(f"{index}: frames={frames!r} is no number of mel frames; save the system again")
    return frames


def _card(folder: Path) -> str | None:
    """The first line of a model card that is neither front matter, heading nor picture."""
    card = folder / "README.md"
    if not card.is_file():
        told = _json(folder / "model_card.json")
        clips: Counter[str] = Counter()
        for entry in told.get("corpus", []):
            clips[entry.get("kind", "other")] += entry.get("clips", 0)
        corpus = ", ".join(f"{n} {kind}" for kind, n in clips.items())
        return f"{told.get('name', folder.name)}: trained on {corpus} clips" if corpus else None
    text = card.read_text(encoding="utf-8", errors="replace")
    if text.startswith("---"):
        text = text.partition("\n---")[2]
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and line[0] not in "#!<-|"), None)
