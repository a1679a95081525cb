"""One part of a system from its folder, by a class of diffusers or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentclap.checkpoints import check_files, is_computed, weight_files
from latentclap.errors import InputError


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


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        InputError: it is damaged, or its vocabulary is missing.
    """
    from transformers import AutoTokenizer

    tokenizer = load_part(AutoTokenizer, folder)
    if len(tokenizer) <= 100:
        # transformers gives an empty tokenizer, without a word, where its files are missing
        raise InputError(f"{folder} holds only {len(tokenizer)} tokens: its vocabulary is missing")
    return tokenizer


def load_clap(folder: Path) -> tuple[nn.Module, Any]:
    """The ClapModel of a folder, float32, and its audio front end.

    Raises:
        InputError: there is none, or a damaged one.
    """
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


def load_text_encoder(folder: Path, clap: nn.Module | None) -> nn.Module:
    """The CLAP that conditions: text_encoder/, else the text half of clap/, which is given where it is loaded."""
    from transformers import ClapTextModelWithProjection

    if (folder / "text_encoder").is_dir():
        return load_part(ClapTextModelWithProjection, folder / "text_encoder", dtype=torch.float32)
    if clap is None and not (folder / "clap" / "config.json").is_file():
        raise InputError(f"{folder} has neither text_encoder/ nor clap/: no text can be encoded")
    return text_encoder_of(clap if clap is not None else load_clap(folder / "clap")[0])
