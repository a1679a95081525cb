"""Systems on disk: finding, loading and saving them whole."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from latentclap.checkpoints import (
    INDEX,
    check_files,
    check_system,
    clip_frames,
    is_computed,
    own_sampling,
    polish_iterations,
    resolve,
    shipped,  # noqa: F401  others ask storage for it
    weight_files,
)
from latentclap.errors import InputError
from latentclap.files import ORIGINAL, below, load_tensors, read_json, replaceable, write_json

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


#: of a checkpoint's folder, what tells about it and changes nothing
ABOUT = frozenset({"model_card.json", "quality.json", "samplers.json"})


def checkpoint_files(name_or_path: str | Path) -> list[Path]:
    """The files that decide what a checkpoint does: an original file itself, or a folder's weights and settings.

    Raises:
        InputError: there is no such checkpoint.
    """
    if is_original(name_or_path):
        if not Path(name_or_path).is_file():
            raise InputError(f"{name_or_path}: no such checkpoint file")
        return [Path(name_or_path)]
    files = below(resolve(name_or_path), (".safetensors", ".bin", ".json"))
    return [path for path in files if path.name not in ABOUT]


def load_system(cls: type[FoleySystem], name_or_path: str | Path, *, judge: str | Path | None) -> FoleySystem:
    """See :meth:`FoleySystem.from_pretrained`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import SpeechT5HifiGan

    if is_original(name_or_path):
        return _load_original(Path(name_or_path), judge)
    folder = resolve(name_or_path)
    check_system(folder)
    frames = clip_frames(folder)
    tokenizer = _load_tokenizer(folder / "tokenizer")
    own = folder / "clap" if (folder / "clap" / "config.json").is_file() else None
    if judge is not None:
        clap, extractor, words = _load_judge(judge, tokenizer)
    elif own:
        clap, extractor = _load_clap(own)
        words = _tokenizer_in(own, clap)
    else:
        clap, extractor, words = None, None, None
    unet = load_part(UNet2DConditionModel, folder / "unet", torch_dtype=torch.float32)
    vae = load_part(AutoencoderKL, folder / "vae", torch_dtype=torch.float32)
    stride = 2 ** (len(unet.config.block_out_channels) + len(vae.config.block_out_channels) - 2)
    if frames % stride:
        raise InputError(
            f"{folder / INDEX}: frames={frames} is no multiple of {stride}, the stride of VAE and UNet"
        )
    tuning = None
    if (folder / "tuning").is_dir():
        tuning = _unfold(unet, folder / "tuning" / "model.safetensors")
    return cls(
        text_encoder=_load_text_encoder(folder, clap if judge is None else None),
        tokenizer=tokenizer,
        unet=unet,
        vae=vae,
        vocoder=load_part(SpeechT5HifiGan, folder / "vocoder", dtype=torch.float32),
        scheduler=load_part(DDIMScheduler, folder / "scheduler"),
        tuning=tuning,
        clap=clap,
        feature_extractor=extractor,
        judge_tokenizer=words,
        frames=frames,
        polish=polish_iterations(folder),
        sampling=own_sampling(folder),
        name=str(name_or_path),
    )


def is_original(name_or_path: str | Path) -> bool:
    """Whether this names a file in the format of the original code (.ckpt, .pt, .pth)."""
    return Path(name_or_path).suffix in ORIGINAL and not Path(name_or_path).is_dir()


def _load_original(path: Path, judge: str | Path | None) -> FoleySystem:
    from latentclap.convert import convert_audioldm

    system = convert_audioldm(path, tokenizer=_tokenizer_beside(path)).system
    if judge is not None:
        system.clap, system.feature_extractor, system.judge_tokenizer = _load_judge(judge, system.tokenizer)
        system.eval()
    return system


def _tokenizer_beside(path: Path) -> Path | str:
    """RoBERTa's tokenizer, which no original file holds: beside it by itself or in its hub folder, else the hub's."""
    beside = [path.parent / "roberta-base", path.with_suffix("") / "tokenizer"]
    return next((folder for folder in beside if folder.is_dir()), "roberta-base")


def _load_judge(judge: str | Path, conditioning: Any) -> tuple[nn.Module, Any, Any]:
    """The CLAP that judges, a LAION .pt file, a folder, or a hub name, with its front end and its tokenizer.

    The tokenizer is None where it has none of its own: that of the conditioning CLAP is taken if it fits.
    """
    if not is_original(judge):
        folder = resolve(judge)
        clap, extractor = _load_clap(folder)
        words = _tokenizer_in(folder, clap)
        if words is None and folder.name == "clap":  # a part of a system's folder
            words = _tokenizer_in(folder.parent / "tokenizer", clap)
        return clap, extractor, words
    from latentclap.convert import convert_clap, read_checkpoint
    from latentclap.convert.audioldm import load_tokenizer

    converted = convert_clap(read_checkpoint(judge))
    vocabulary, words = converted.model.config.text_config.vocab_size, None
    if vocabulary != len(conditioning):
        # without one only texts cannot be judged, and FoleySystem says so
        with contextlib.suppress(InputError):
            words = _shortened(load_tokenizer(_tokenizer_beside(Path(judge)), vocabulary), converted.model)
    return converted.model, converted.feature_extractor, words


def _tokenizer_in(folder: Path, clap: nn.Module) -> Any:
    """The tokenizer of a ClapModel that a folder holds, or None.

    Raises:
        InputError: it has more words than the ClapModel.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    words, known = _load_tokenizer(folder), clap.config.text_config.vocab_size
    if len(words) > known:
        raise InputError(f"{folder}: its tokenizer has {len(words)} tokens, the text tower {known}")
    return _shortened(words, clap)


def _shortened(tokenizer: Any, clap: nn.Module) -> Any:
    """The tokenizer with texts no longer than the text tower's positions, which RoBERTa counts from 2."""
    positions = clap.config.text_config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - 2)
    return tokenizer


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = load_part(AutoTokenizer, folder)
    if len(tokenizer) <= 100:
        # transformers gives an empty tokenizer, without a word, where its files are missing
        raise InputError(f"{folder} holds only {len(tokenizer)} tokens: its vocabulary is missing")
    return tokenizer


def load_part(cls: Any, folder: Path, **options: Any) -> Any:
    """Load one part with a class of diffusers or transformers, whole: weights that are missing are an error.

    Both libraries put random numbers where a checkpoint lacks a tensor, and say so in a warning only.

    Raises:
        InputError: the folder, its configuration or its weights are damaged, or weights are missing.
    """
    weights = hasattr(cls, "load_state_dict")
    check_files(folder)
    if weights and not weight_files(folder):
        raise InputError(f"{folder}: no weights file; the checkpoint is not complete")
    try:
        loaded = cls.from_pretrained(folder, **options, **({"output_loading_info": True} if weights else {}))
    except MemoryError:
        raise
    except Exception as error:  # the libraries have many for a file that is damaged
        raise InputError(
            f"{folder}: cannot be loaded ({_reason(error)}); copy or download it again"
        ) from None
    if not weights:
        return loaded
    model, report = loaded
    missing = sorted(key for key in report["missing_keys"] if not is_computed(key, model))
    if missing:
        n, first = len(missing), missing[0]
        lacking = f"tensor {first} is missing" if n == 1 else f"{n} tensors are missing, first {first}"
        raise InputError(f"{folder}: {lacking}; copy or download it again")
    return model


def _reason(error: Exception) -> str:
    """The first sentence of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


def _load_clap(folder: Path) -> tuple[nn.Module, Any]:
    from transformers import ClapFeatureExtractor, ClapModel

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no ClapModel: config.json is missing")
    return load_part(ClapModel, folder, dtype=torch.float32), load_part(ClapFeatureExtractor, folder)


def text_encoder_of(clap: nn.Module) -> nn.Module:
    """The text half of a ClapModel as a ClapTextModelWithProjection that shares its weights."""
    from transformers import ClapTextModelWithProjection

    with torch.device("meta"):
        encoder = ClapTextModelWithProjection(clap.config.text_config)
    encoder.text_model, encoder.text_projection = clap.text_model, clap.text_projection
    return encoder


def _load_text_encoder(folder: Path, clap: nn.Module | None) -> nn.Module:
    """The CLAP that conditions: text_encoder/, else the text half of clap/, which is given where it is loaded."""
    from transformers import ClapTextModelWithProjection

    if (folder / "text_encoder").is_dir():
        return load_part(ClapTextModelWithProjection, folder / "text_encoder", dtype=torch.float32)
    if clap is None and not (folder / "clap" / "config.json").is_file():
        raise InputError(f"{folder} has neither text_encoder/ nor clap/: no text can be encoded")
    return text_encoder_of(clap if clap is not None else _load_clap(folder / "clap")[0])


# --------------------------------------------------------------------------------------------- saving


def fold(unet: nn.Module, tuning: nn.Linear) -> nn.Module:
    """A copy of the UNet whose class embedding holds the tuning layer too: W' = W W_t, b' = W b_t + b."""
    folded = copy.deepcopy(unet)
    layer = folded.class_embedding
    with torch.no_grad():
        # in float64, so that rounding once is all that folding changes
        W, b = layer.weight.double(), layer.bias.double()
        layer.weight.copy_(W @ tuning.weight.double())
        layer.bias.copy_(W @ tuning.bias.double() + b)
    return folded


def _unfold(unet: nn.Module, path: Path) -> nn.Linear:
    """Put the UNet's own class embedding back and return the tuning layer.

    Raises:
        InputError: the file lacks one of them, or they are of another size than the UNet's.
    """
    factors, layer = load_tensors(path), unet.class_embedding
    if not isinstance(layer, nn.Linear):
        raise InputError(f"{path}: the UNet beside it has no class embedding that a tuning layer folds into")
    tuning = nn.Linear(layer.in_features, layer.in_features)
    with torch.no_grad():
        for name, module in (("class_embedding", layer), ("tuning", tuning)):
            for key, value in module.named_parameters():
                given, needed = factors.get(f"{name}.{key}"), tuple(value.shape)
                if given is None or given.shape != needed:
                    found = "missing" if given is None else tuple(given.shape)
                    raise InputError(
                        f"{path}: {name}.{key} is {found}, the UNet needs {needed}; copy or download it again"
                    )
                value.copy_(given.float())
    return tuning


def save_system(system: FoleySystem, folder: Path, *, dtype: torch.dtype | None, pipeline: bool) -> Path:
    """See :meth:`FoleySystem.save_pretrained`."""
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


#: what :func:`save_system` writes, and the report that convert writes beside it
OWN = frozenset(
    {"unet", "vae", "vocoder", "clap", "text_encoder", "tokenizer", "scheduler", "tuning"}
    | {INDEX, "model_index.json", "load_report.json"}
)


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
