"""What a checkpoint on disk is, read from its configuration files and safetensors headers alone.

No weight is loaded and torch is not imported: it answers at once, for gigabytes too.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from latentclap.checkpoints import (
    BUFFERS,
    check_system,
    clip_frames,
    header,
    json_or_nothing,
    own_sampling,
    polish_iterations,
    weight_files,
)
from latentclap.errors import InputError
from latentclap.recordings import REAL, heard

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
        sampling_rate, frames, seconds, latent_shape (C, T, F), scaling_factor, tuning, polish, sampling, scheduler,
        refused (why it would not be loaded, or None);
        its parameters in all are those that generate: not φ, the judge, or a CLAP beside a text encoder.

    Raises:
        InputError: there is nothing of the kind, or a file of it is damaged.
    """
    try:
        return _described(path)
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: a configuration or the model card is of another form ({reason}); copy or download it again"
        ) from None


def _described(path: Path) -> dict[str, Any]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path}: only folders and .safetensors files can be described without running them"
            )
        parts = {path.stem: {"class": None, **_count(header(path)), "bytes": path.stat().st_size}}
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
            f"vocoder        {_polish(told['polish'])}",
            "sampling       {sampler}, {steps} steps, guidance {guidance_scale:g}".format(**told["sampling"]),
            f"scheduler      {scheduler or 'not told'}",
        ]
        if told["refused"]:
            lines.append(f"it would not be loaded: {told['refused']}")
    return "\n".join(lines)


def _polish(iterations: int | None) -> str:
    return (
        "trusted"
        if iterations is None
        else f"its wave is made to agree with its log-mel, {iterations} iterations"
    )


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
        tensors = header(folder / "tuning" / "model.safetensors")
        own = {name: tensor for name, tensor in tensors.items() if name.startswith("tuning.")}
        parts["tuning"] |= {"class": "Linear", **_count(own)}
    vae, vocoder = (json_or_nothing(folder / part / "config.json") for part in ("vae", "vocoder"))
    frames = clip_frames(folder)
    hop = math.prod(vocoder.get("upsample_rates", [160]))
    rate, mels = vocoder.get("sampling_rate", 16_000), vocoder.get("model_in_dim", 64)
    ratio = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    scheduler = json_or_nothing(folder / "scheduler" / "scheduler_config.json")
    return {
        "sampling_rate": rate,
        "frames": frames,
        "seconds": frames * hop / rate,
        "latent_shape": [vae.get("latent_channels"), frames // ratio, mels // ratio],
        "scaling_factor": vae.get("scaling_factor"),
        "tuning": "tuning" in parts,
        "polish": polish_iterations(folder),
        "sampling": own_sampling(folder).asdict(),
        "scheduler": {key.removeprefix("_"): scheduler[key] for key in _SCHEDULER if key in scheduler},
        "refused": _refused(folder),
        "model_card": _card(folder),
    }


def _refused(folder: Path) -> str | None:
    """What loading a system would say, as far as headers and configurations tell; None where nothing is wrong."""
    try:
        check_system(folder)
    except InputError as error:
        return str(error)
    return None


def _component(folder: Path) -> dict[str, Any]:
    config, files = json_or_nothing(folder / "config.json"), weight_files(folder)
    kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
    tensors = {k: v for path in files if path.suffix == ".safetensors" for k, v in header(path).items()}
    return {"class": kind, **_count(tensors), "bytes": sum(p.stat().st_size for p in files)}


def _count(tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Parameters and the commonest dtype; None where no safetensors file tells them."""
    own = [t for name, t in tensors.items() if name.rpartition(".")[2] not in BUFFERS]
    dtypes = Counter(t["dtype"] for t in own).most_common(1)
    return {
        "parameters": sum(math.prod(t["shape"]) for t in own) if own else None,
        "dtype": dtypes[0][0] if dtypes else None,
    }


def _card(folder: Path) -> str | None:
    """The first line of a model card that is neither front matter, heading nor picture."""
    card = folder / "README.md"
    if not card.is_file():
        told = json_or_nothing(folder / "model_card.json")
        corpus = told.get("corpus", [])
        clips: Counter[str] = Counter()
        for entry in corpus:
            clips[entry.get("kind", "other")] += entry.get("clips", 0)
        del clips[REAL]  # the corpus holds each several times
        parts = [f"{n} {kind} clips" for kind, n in clips.items()]
        parts += [f"recordings ({real})"] if (real := heard(corpus, told.get("real_sources", []))) else []
        return f"{told.get('name', folder.name)}: trained on {' and '.join(parts)}" if parts else None
    text = card.read_text(encoding="utf-8", errors="replace")
    if text.startswith("---"):
        text = text.partition("\n---")[2]
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and line[0] not in "#!<-|"), None)
