"""What a family can do, measured on recordings that its training never held (``pretrain_mini.py measure``).

The yardstick is a judge network trained on real recordings only, in a work folder of its own; it takes part in no
training of a generator. Every share comes with the number of clips and a Wilson interval.
"""

from __future__ import annotations

from latentclap.pretrain.quality.clips import HELD_OUT_SEED, HeldOut, procedural_clips, real_clips
from latentclap.pretrain.quality.measures import (
    LEVELS,
    denoising_errors,
    generated,
    judged,
    nearest,
    reconstructions,
    shares,
    spectral_distance,
    text_clap,
    ways,
)
from latentclap.pretrain.quality.report import lines, measure_family
from latentclap.pretrain.quality.samplers import sampler_grid, sampler_point, sampler_sweep

__all__ = [
    "HELD_OUT_SEED",
    "LEVELS",
    "HeldOut",
    "denoising_errors",
    "generated",
    "judged",
    "lines",
    "measure_family",
    "nearest",
    "procedural_clips",
    "real_clips",
    "reconstructions",
    "sampler_grid",
    "sampler_point",
    "sampler_sweep",
    "shares",
    "spectral_distance",
    "text_clap",
    "ways",
]
