"""The diffusion process: schedules, forward process, inverses, guidance and samplers (III-B, eq. 1).

Notation is the paper's: ``s_0`` is a clean latent, ``s_n`` the same latent after ``n`` noise steps,
``eps`` the noise. Steps are counted 0 ... N-1 here, as every public code base does; the paper counts 1 ... N.
Latents have shape (B, C, T, F); nothing below depends on more than the leading B.

:class:`NoiseSchedule` is AudioLDM's unless it is told otherwise, and what this package trains and samples with. The
other schedules, and what a network may predict instead of noise, are there for the losses in a training of one's own.
"""

from __future__ import annotations

from latentclap.diffusion.continuous import CosineTime, RectifiedFlow
from latentclap.diffusion.process import PREDICTIONS, Process, append_dims
from latentclap.diffusion.sampling import (
    SAMPLERS,
    NoiseModel,
    guide,
    randn_per_item,
    sample,
    sampling_steps,
)
from latentclap.diffusion.schedule import NoiseSchedule

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "CosineTime",
    "NoiseModel",
    "NoiseSchedule",
    "Process",
    "RectifiedFlow",
    "append_dims",
    "guide",
    "randn_per_item",
    "sample",
    "sampling_steps",
]
