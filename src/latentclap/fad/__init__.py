"""Fréchet audio distance: the distance, its Gaussian statistics, and its uncertainty over clips.

Kilgour et al. 2019 [14]: ``FAD = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``.

Three things about the figure that Table I leaves out, and that this module reports beside it:

- It varies with the clips drawn: `fad_with_ci` resamples whole clips (windows of one clip are correlated).
- It is biased upwards at small n, by about c / n: compare figures at equal n, or use `fad_infinity`.
- It has no meaning without its embedding: statistics carry the embedding's name, and a mismatch is an error.
"""

from __future__ import annotations

from latentclap.fad.distance import frechet_distance
from latentclap.fad.gaussian import ClipEmbeddings, GaussianStats, StreamingMoments, load_stats, save_stats
from latentclap.fad.uncertainty import FadEstimate, FadInfinity, fad_infinity, fad_with_ci

__all__ = [
    "ClipEmbeddings",
    "FadEstimate",
    "FadInfinity",
    "GaussianStats",
    "StreamingMoments",
    "fad_infinity",
    "fad_with_ci",
    "frechet_distance",
    "load_stats",
    "save_stats",
]
