"""E_audio of a system's CLAP as an embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from latentclap.embeddings.base import Embedding, weights_hash
from latentclap.errors import InputError


class CLAPEmbedding(Embedding):
    """E_audio of a `FoleySystem`'s CLAP, one unit vector a clip.

    Fewer clips than dimensions give a rank-deficient covariance: the distance stays exact, its upward bias
    grows. Two CLAPs are two embeddings: the name ends with a hash of the audio branch's weights and front end.

    Args:
        system: whose judging CLAP embeds.
        name: in place of "clap-<hash>".
    """

    def __init__(self, system: Any, name: str = "") -> None:
        self.system, self.name = system, name or _name(system)
        self.sampling_rate = int(system.sampling_rate)
        self.dim = 512
        self.front_end = "CLAP audio branch, one vector a clip"

    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray:
        from latentclap.audio import resample

        if wave.dtype.kind != "f":
            raise InputError(
                f"a wave of {wave.dtype}; give floats within +-1: whole numbers of 16 bits divided by 32768"
            )
        wave = resample(wave.astype(np.float32), sr, self.sampling_rate)
        E_audio = self.system.encode_audio(wave[None])
        return np.asarray(torch.as_tensor(E_audio).detach().float().cpu())


def _name(system: Any) -> str:
    clap = getattr(system, "clap", None)
    if clap is None:
        return "clap"
    audio = {
        n: t for n, t in clap.state_dict().items() if n.startswith(("audio_model.", "audio_projection."))
    }
    return f"clap-{weights_hash(audio, system.feature_extractor.to_dict())}"
