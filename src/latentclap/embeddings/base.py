"""What every embedding is: a wave in, (windows, dim) out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from latentclap.errors import InputError


class Embedding(ABC):
    """A wave in, (windows, dim) float64 out.

    Attributes:
        name: goes into every FAD's name and statistics file; of a network that has other weights, another name.
        sampling_rate: the rate it works at, Hz.
        dim: dimensions.
        front_end: what happens before the network, for the FAD's full name.
    """

    name: str
    sampling_rate: int
    dim: int
    front_end: str

    def __call__(self, wave: np.ndarray, sr: int) -> np.ndarray:
        """Embed one clip.

        Args:
            wave: (samples,); integers are taken in their own unit.
            sr: its rate, Hz.

        Returns:
            (windows, dim) float64.

        Raises:
            InputError: not one-dimensional, empty, not finite, or a rate the embedding cannot take.
        """
        wave = np.asarray(wave)
        if wave.ndim != 1 or wave.size == 0:
            raise InputError(f"{self.name}: wave of shape {wave.shape}; expected (samples,), one channel")
        if not np.isfinite(wave).all():
            raise InputError(f"{self.name}: the wave holds NaN or infinity")
        return np.asarray(self._embed(wave, int(sr)), dtype=np.float64)

    @abstractmethod
    def _embed(self, wave: np.ndarray, sr: int) -> np.ndarray: ...


def weights_hash(state: Mapping[str, torch.Tensor], settings: Any = None) -> str:
    """Eight hexadecimal digits of a network's weights, and of JSON settings that its output depends on too."""
    hasher = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(state):
        hasher.update(name.encode())
        # as float32, so that weights are the same wherever they were loaded
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()[:8]
