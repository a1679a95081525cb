"""What a cache is made with: the frozen parts, told apart by their weights, and the form of the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch

from latentclap.classes import CLASSES, prompt
from latentclap.files import add_weights
from latentclap.system import FoleySystem

#: texts whose tokens say how a tokeniser works, beside its vocabulary: the prompts, and what tokenisers differ about
PROBES = (*map(prompt, CLASSES), "", "Two dogs, barking (loudly)…", "don't  STOP\tat 44.1kHz", "Ünïcode 雨 🌧")

#: parts whose weights decide what is in a cache
FROZEN = ("vae", "text_encoder", "clap")


def fingerprint(system: FoleySystem, *, tokenizer: bool = True) -> str:
    """Hexadecimal digest of all that decides a cache's content: VAE, both CLAPs, tokeniser, front end, clip length.

    Args:
        system: the frozen parts.
        tokenizer: False gives the digest of earlier versions, which did not look at the tokeniser.
    """
    hasher = hashlib.sha256()
    for name in FROZEN:
        part = getattr(system, name)
        if part is not None:
            add_weights(hasher, part, f"{name}.")
    extractor = system.feature_extractor.to_dict() if system.feature_extractor is not None else {}
    told = [dataclasses.asdict(system.mel), system.frames, system.vae.config.scaling_factor, extractor]
    hasher.update(json.dumps(told, sort_keys=True, default=str).encode())
    if tokenizer:
        hasher.update(_tokenizer(system.tokenizer).encode())
    return hasher.hexdigest()[:16]


def _tokenizer(tokenizer: Any) -> str:
    """What a tokeniser does, not how it is written: that differs between versions of the package tokenizers."""
    length = tokenizer.model_max_length
    ids = tokenizer(list(PROBES), max_length=length, truncation=True)["input_ids"]
    return json.dumps([sorted(tokenizer.get_vocab().items()), length, ids])


def settings(
    system: FoleySystem, dtype: torch.dtype, *, crops: int = 1, crop: str = "first"
) -> dict[str, Any]:
    """What is noted in a cache's folder and has to be the same whenever it is gone on with."""
    return {
        "system": system.name,
        "fingerprint": fingerprint(system),
        "latent_shape": list(system.latent_shape),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": system.seconds,
        "crops": crops,
        "crop": crop,
    }


def earlier(told: dict[str, Any], system: FoleySystem) -> dict[str, Any]:
    """Settings as an earlier version noted them, which had one clip per sound and no tokeniser in the fingerprint."""
    rest = {k: v for k, v in told.items() if k not in ("crops", "crop")}
    if (told["crops"], told["crop"]) != (1, "first"):
        return told
    return rest | {"fingerprint": fingerprint(system, tokenizer=False)}
