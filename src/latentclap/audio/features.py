"""CLAP's audio features: what goes into its audio branch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from latentclap.audio.waves import resample


def clap_features(extractor: Any, waves: np.ndarray, sr: int) -> torch.Tensor:
    """Features of waves by CLAP's own extractor, the same on every call.

    The extractor crops long clips at random; here it is given the first seconds only, so that nothing
    is left to crop. Short clips are repeated by it.

    Args:
        extractor: ``transformers.ClapFeatureExtractor``.
        waves: (n, samples) float32.
        sr: their rate in Hz.

    Returns:
        (n, 1, frames, mels) float32 on the CPU.
    """
    rate = extractor.sampling_rate
    batch = resample(waves, sr, rate)[..., : extractor.nb_max_samples]
    return extractor(
        list(batch), sampling_rate=rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt"
    )["input_features"]
