"""What a cache is made with: the frozen parts, told apart by their weights, and the form of the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch

from latentclap.system import FoleySystem

#: parts whose weights decide what is in a cache
FROZEN = ("vae", "text_encoder", "clap")


def fingerprint(system: FoleySystem) -> str:
    """Hexadecimal digest of everything that decides a cache's content: VAE, both CLAPs, front end and clip length."""
    hasher = hashlib.sha256()
    for name in FROZEN:
        part = getattr(system, name)
        for key, value in part.state_dict().items() if part is not None else ():
            hasher.update(f"{name}.{key}".encode())
            hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    extractor = system.feature_extractor.to_dict() if system.feature_extractor is not None else {}
    told = [dataclasses.asdict(system.mel), system.frames, system.vae.config.scaling_factor, extractor]
    hasher.update(json.dumps(told, sort_keys=True, default=str).encode())
    return hasher.hexdigest()[:16]


def settings(system: FoleySystem, dtype: torch.dtype) -> dict[str, Any]:
    """What is noted in a cache's folder and has to be the same whenever it is gone on with."""
    return {
        "system": system.name,
        "fingerprint": fingerprint(system),
        "latent_shape": list(system.latent_shape),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": system.seconds,
    }
