"""Whether a system gives back the clips that it was trained on.

Every other measure here takes a perfect copy of the training set for a perfect system. Meehan et al. 2020 ("A
non-parametric test to detect data-copying in generative models") compare distances: of generated clips to their
nearest training clip, and of real clips that were not trained on. A system that learnt clips by heart is nearer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from latentclap.compare.manifold import clip_vectors
from latentclap.fad import ClipEmbeddings
from latentclap.fad.gaussian import same_embedding


@dataclass(frozen=True)
class Copying:
    """How near generated clips are to the training clips.

    Attributes:
        nearer: share of pairs of a generated and a held-out real clip in which the generated one is nearer to the
            training clips; ties count half. 0.5: no nearer than real clips.
        p: of no copying, one-sided (Mann-Whitney U).
        n_training: training clips.
        distances: (n,) of each generated clip to its nearest training clip.
        nearest: (n,) which that is.
    """

    nearer: float
    p: float
    n_training: int
    distances: np.ndarray = field(repr=False)
    nearest: np.ndarray = field(repr=False)


def data_copying(generated: ClipEmbeddings, held_out: ClipEmbeddings, training: ClipEmbeddings) -> Copying:
    """Compare distances to the training clips of generated clips and of real clips that were held out.

    Args:
        generated: embeddings of n clips.
        held_out: of real clips that were not trained on.
        training: of the clips that were.

    Raises:
        InputError: different embeddings.
    """
    same_embedding(generated.embedding, training.embedding)
    same_embedding(held_out.embedding, training.embedding)
    known = clip_vectors(training)
    apart = cdist(clip_vectors(generated), known)
    ours, real = apart.min(1), cdist(clip_vectors(held_out), known).min(1)
    told = mannwhitneyu(ours, real, alternative="less")
    share = 1 - float(told.statistic) / (len(ours) * len(real))
    return Copying(share, float(told.pvalue), len(training), ours, apart.argmin(1))
