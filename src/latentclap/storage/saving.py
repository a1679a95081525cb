"""A system to its folder, whole or not at all."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from latentclap.checkpoints import INDEX
from latentclap.errors import InputError
from latentclap.files import read_json, replaceable, write_json
from latentclap.storage.folding import fold

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


#: what :func:`save_system` writes, and the report that convert writes beside it
OWN = frozenset(
    {"unet", "vae", "vocoder", "clap", "text_encoder", "tokenizer", "scheduler", "tuning"}
    | {INDEX, "model_index.json", "load_report.json"}
)


def save_system(system: FoleySystem, folder: Path, *, dtype: torch.dtype | None, pipeline: bool) -> Path:
    """See :meth:`FoleySystem.save_pretrained`.

    Raises:
        InputError: other things than a system lie there.
    """
    place = _place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        _write_parts(system, temporary, dtype, pipeline)
        os.chmod(temporary, 0o755)
        exchange(_place(folder), temporary)  # is it as it was before the work?
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _place(folder: Path) -> Path:
    """Where a system is to be written, with links followed.

    Raises:
        InputError: other things lie there, which would go with an earlier system.
    """
    place = replaceable(folder, INDEX, "a system")
    if place.is_dir() and (others := sorted({p.name for p in place.iterdir()} - OWN)):
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(f"{folder} holds other things than a system ({named}): choose another folder")
    return place


def exchange(place: Path, new: Path) -> None:
    """Move a folder to a place; an earlier one there goes when the new one has come."""
    if not place.exists():
        new.replace(place)
        return
    aside = new.with_name(f"{new.name}-old")
    place.replace(aside)
    try:
        new.replace(place)
    except OSError:
        aside.replace(place)
        raise
    shutil.rmtree(aside)


def _write_parts(system: FoleySystem, folder: Path, dtype: torch.dtype | None, pipeline: bool) -> None:
    unet = system.unet
    if system.tuning is not None:
        factors = {
            "tuning.weight": system.tuning.weight,
            "tuning.bias": system.tuning.bias,
            "class_embedding.weight": unet.class_embedding.weight,
            "class_embedding.bias": unet.class_embedding.bias,
        }
        (folder / "tuning").mkdir()
        # always float32: these four small matrices are what the exact round trip rests on
        save_file(
            {k: v.detach().float().cpu().contiguous() for k, v in factors.items()},
            folder / "tuning" / "model.safetensors",
        )
        unet = fold(unet, system.tuning)
    shares = system.clap is not None and system.text_encoder.text_model is system.clap.text_model
    modules = {"unet": unet, "vae": system.vae, "vocoder": system.vocoder}
    if system.clap is not None:
        modules["clap"] = system.clap
    if pipeline or not shares:
        modules["text_encoder"] = system.text_encoder
    for name, module in modules.items():
        # a copy, so that neither the dtype nor the device of the live system changes
        module = copy.deepcopy(module).cpu()
        (module.to(dtype) if dtype else module).save_pretrained(folder / name)
        _forget_origin(folder / name / "config.json")
    system.tokenizer.save_pretrained(folder / "tokenizer")
    system.scheduler.save_pretrained(folder / "scheduler")
    if system.feature_extractor is not None:
        system.feature_extractor.save_pretrained(folder / "clap")
    if system.clap is not None and system.judge_tokenizer is not None:
        system.judge_tokenizer.save_pretrained(folder / "clap")
    if pipeline:
        write_json(folder / "model_index.json", _model_index(system))
    write_json(
        folder / INDEX,
        {
            "frames": system.frames,
            "tuning": system.tuning is not None,
            "polish": system.polish,
            "sampling": system.sampling.asdict(),
        },
    )


def _forget_origin(config: Path) -> None:
    """Take out the folder that diffusers loaded a part from: it means nothing on another machine."""
    values = read_json(config)
    if values.pop("_name_or_path", None) is not None:
        write_json(config, values)


def _model_index(system: FoleySystem) -> dict[str, Any]:
    """What diffusers reads first: the pipeline's class and the class of each part."""
    import diffusers

    return {
        "_class_name": "AudioLDMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", type(system.scheduler).__name__],
        "text_encoder": ["transformers", "ClapTextModelWithProjection"],
        "tokenizer": ["transformers", type(system.tokenizer).__name__],
        "unet": ["diffusers", type(system.unet).__name__],
        "vae": ["diffusers", type(system.vae).__name__],
        "vocoder": ["transformers", type(system.vocoder).__name__],
    }
