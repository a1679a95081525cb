"""Fidelity and diversity, each for itself: precision, recall, density and coverage.

FAD and KAD are one number each: a system that makes one good dog and nothing else may score as one that makes all
dogs badly. These four count neighbours. With B(x) the ball around a clip x that reaches its k-th nearest neighbour
of its own side:

- precision: share of generated clips in the ball of some real clip; recall: the reverse (Kynkaanniemi et al. 2019);
- density: the number of real clips in whose ball a generated clip lies, over k, on average; coverage: share of real
  clips in whose ball some generated clip lies (Naeem et al. 2020; one outlier among the real clips makes precision
  high, one among the generated ones recall, and neither of these two).

A clip is the mean of its windows. Coverage depends on both numbers of clips; `expected_coverage` is what real clips
would reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings
from latentclap.fad.gaussian import same_embedding

#: neighbours that make a ball, as the authors of density and coverage take
NEIGHBOURS = 5
#: clips whose distances to all others are computed at once: some 100 MB against ten thousand
ROWS = 1024


@dataclass(frozen=True)
class Manifold:
    """Fidelity and diversity of generated clips.

    Attributes:
        precision, recall, density, coverage: see above.
        precision_ci: Wilson's interval over the generated clips, the reference as it is. Coverage has none: reference
            clips set each other's balls, so that they are not covered independently of one another.
        expected_coverage: of clips of the reference's own distribution, as many as were generated.
        neighbours: k.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precision_ci: tuple[float, float]
    expected_coverage: float
    neighbours: int


def clip_vectors(clips: ClipEmbeddings) -> np.ndarray:
    """One vector a clip, (clips, d): the mean over its windows."""
    starts = np.concatenate([[0], np.cumsum(clips.counts)[:-1]])
    return np.add.reduceat(clips.values, starts, axis=0) / clips.counts[:, None]


def radii(vectors: np.ndarray, k: int) -> np.ndarray:
    """Distance of each vector (n, d) to its k-th nearest other one, (n,).

    Raises:
        InputError: no more than k vectors.
    """
    if len(vectors) <= k:
        raise InputError(too_few(len(vectors), k))
    parts = (cdist(vectors[i : i + ROWS], vectors) for i in range(0, len(vectors), ROWS))
    return np.concatenate(
        [np.partition(part, k, axis=1)[:, k] for part in parts]
    )  # the 0th is the clip itself


def too_few(clips: int, k: int) -> str:
    """The error message where there are too few clips for k neighbours each."""
    one = "1 clip has" if clips == 1 else f"{clips} clips have"
    mend = f", or ask for fewer neighbours (--neighbours {clips - 1})" if clips > 1 else ""
    return f"{one} too few fellows for {k} neighbours; give more than {k} clips{mend}"


def manifold(
    generated: ClipEmbeddings, reference: ClipEmbeddings, k: int = NEIGHBOURS, *, level: float = 0.95
) -> Manifold:
    """Precision, recall, density and coverage of generated clips among reference clips.

    Args:
        generated: embeddings of more than k clips.
        reference: of more than k clips.
        k: neighbours that make a ball.
        level: of the intervals.

    Raises:
        InputError: k < 1, too few clips, or different embeddings.
    """
    if k < 1:
        raise InputError(f"{k} neighbours: at least 1")
    same_embedding(generated.embedding, reference.embedding)
    g, r = clip_vectors(generated), clip_vectors(reference)
    apart = cdist(g, r)
    in_real = apart <= radii(r, k)  # (n, m)
    in_made = apart <= radii(g, k)[:, None]
    inside, covered = in_real.any(1), in_real.any(0)
    return Manifold(
        precision=float(inside.mean()),
        recall=float(in_made.any(0).mean()),
        density=float(in_real.sum(1).mean() / k),
        coverage=float(covered.mean()),
        precision_ci=_wilson(inside, level),
        expected_coverage=expected_coverage(len(g), len(r), k),
        neighbours=k,
    )


def expected_coverage(n: int, m: int, k: int) -> float:
    """Coverage that n clips of the distribution of m reference clips reach on average (Naeem et al. 2020, lemma 2).

    Around a reference clip, its m - 1 fellows and the n clips lie in random order; it is not covered where the k
    nearest of them are all fellows.
    """
    return 1 - math.prod((m - 1 - i) / (n + m - 1 - i) for i in range(k))


def _wilson(hits: np.ndarray, level: float) -> tuple[float, float]:
    told = binomtest(int(hits.sum()), len(hits)).proportion_ci(level, "wilson")
    return float(told.low), float(told.high)
