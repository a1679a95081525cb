"""The diffusion process: schedules, forward process, inverses, guidance and samplers (III-B, eq. 1).

Notation is the paper's: ``s_0`` is a clean latent, ``s_n`` the same latent after ``n`` noise steps,
``eps`` the noise. Steps are counted 0 ... N-1 here, as every public code base does; the paper counts 1 ... N.
Latents have shape (B, C, T, F); nothing below depends on more than the leading B.

:class:`NoiseSchedule` is AudioLDM's unless it is told otherwise, and what this package trains and samples with. The
other schedules, and what a network may predict instead of noise, are there for the losses in a training of one's own.
"""

from __future__ import annotations

from latentclap.diffusion import process, sampling
from latentclap.diffusion.continuous import CosineTime, RectifiedFlow
from latentclap.diffusion.process import Process, append_dims
from latentclap.diffusion.sampling import guide, randn_per_item, sample, sampling_steps
from latentclap.diffusion.schedule import NoiseSchedule

# named here with their words, for the reference: it takes what is said of a value from the module that shows it
#: what a network may predict, by diffusers' names (``prediction_type``)
PREDICTIONS = process.PREDICTIONS
#: name -> (diffusers class, what it is given besides the checkpoint's scheduler config).
SAMPLERS = sampling.SAMPLERS
#: (s_n, n) -> predicted noise, both of the latent's shape; n is a tensor (B,) of step numbers
NoiseModel = sampling.NoiseModel

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
