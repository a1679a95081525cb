"""The CLAP that judges, of a system's own or of another checkpoint, with its front end and its tokenizer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from torch import nn

from latentclap.checkpoints import resolve
from latentclap.errors import InputError
from latentclap.storage.finding import is_original, tokenizer_beside
from latentclap.storage.parts import load_clap, load_tokenizer


def load_judge(judge: str | Path, conditioning: Any) -> tuple[nn.Module, Any, Any]:
    """The CLAP that judges, a LAION .pt file, a folder, or a hub name, with its front end and its tokenizer.

    The tokenizer is None where it has none of its own: that of the conditioning CLAP is taken if it fits.

    Raises:
        InputError: there is no such CLAP, or it is damaged.
    """
    if not is_original(judge):
        folder = resolve(judge)
        clap, extractor = load_clap(folder)
        words = tokenizer_in(folder, clap)
        if words is None and folder.name == "clap":  # a part of a system's folder
            words = tokenizer_in(folder.parent / "tokenizer", clap)
        return clap, extractor, words
    from latentclap.convert import convert_clap, read_checkpoint
    from latentclap.convert.audioldm import load_tokenizer

    converted = convert_clap(read_checkpoint(judge))
    vocabulary, words = converted.model.config.text_config.vocab_size, None
    if vocabulary != len(conditioning):
        # without one only texts cannot be judged, and FoleySystem says so
        with contextlib.suppress(InputError):
            words = shortened(load_tokenizer(tokenizer_beside(Path(judge)), vocabulary), converted.model)
    return converted.model, converted.feature_extractor, words


def tokenizer_in(folder: Path, clap: nn.Module) -> Any:
    """The tokenizer of a ClapModel that a folder holds, or None.

    Raises:
        InputError: it has more words than the ClapModel.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    words, known = load_tokenizer(folder), clap.config.text_config.vocab_size
    if len(words) > known:
        raise InputError(f"{folder}: its tokenizer has {len(words)} tokens, the text tower {known}")
    return shortened(words, clap)


def shortened(tokenizer: Any, clap: nn.Module) -> Any:
    """The tokenizer with texts no longer than the text tower's positions, which RoBERTa counts from 2."""
    positions = clap.config.text_config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - 2)
    return tokenizer
