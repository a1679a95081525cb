"""Kernel audio distance: unbiased at any number of clips, and told apart clip by clip.

KAD (Chung et al. 2025, arXiv:2502.15602) is the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) of two
sets of embeddings under a Gaussian kernel, times 100::

    KAD / 100 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),    k(a, b) = exp(-|a - b|^2 / (2 s^2))

over pairs of different clips, with s the median distance within the reference. FAD is biased upwards by about c / n,
so that figures at different n cannot be compared; KAD is not, and may come out below 0.

Windows of one clip are alike. Where an embedding has several, pairs are taken between clips, and the kernel of two
clips is the mean over their windows: whole clips are what was drawn. With one window a clip that is KAD as published.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist

from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings
from latentclap.fad.gaussian import same_embedding
from latentclap.fad.intervals import percentile_interval

#: by which the published figures are multiplied
SCALE = 100.0
#: windows among which the median distance is looked for; more of them are drawn from
MEDIAN_OF = 4000
#: windows whose kernel is computed at once: some 80 MB against ten thousand others
ROWS = 1024


@dataclass(frozen=True)
class KernelDistance:
    """One KAD with its uncertainty.

    Attributes:
        kad: the unbiased estimate, times 100; below 0 where two sets are as alike as halves of one.
        ci_low, ci_high: bootstrap interval over clips; NaN without draws, and of two clips on a side, which are one
            pair whatever is drawn.
        p: of both sets coming from one distribution, by permutation of clips; NaN without draws.
        bandwidth: s.
        n_clips, n_ref_clips: sizes.
        draws: (n_boot,) of the bootstrap, moved so that their mean is ``kad``; empty where there is no interval.
        parts: (n_clips,) what each generated clip adds: their mean is ``kad``.
    """

    kad: float
    ci_low: float
    ci_high: float
    p: float
    bandwidth: float
    n_clips: int
    n_ref_clips: int
    level: float = 0.95
    draws: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))
    parts: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))


def median_distance(clips: ClipEmbeddings, *, seed: int = 0) -> float:
    """Median Euclidean distance between windows of different clips: the kernel's s.

    Raises:
        InputError: fewer than two clips, or most windows are the same.
    """
    if len(clips) < 2:
        raise InputError(f"{len(clips)} clip: a distance between clips needs at least 2")
    apart = _distances(clips, seed)
    s = float(np.median(apart)) if apart.size else 0.0
    if not s > 0:
        raise InputError("most of the reference clips have the same embedding: they are copies, or silent")
    return s


def _distances(clips: ClipEmbeddings, seed: int) -> np.ndarray:
    """Distances between windows of different clips, of some of them where they are many, (pairs,)."""
    owner = np.repeat(np.arange(len(clips)), clips.counts)
    rows = np.arange(len(owner))
    if len(rows) > MEDIAN_OF:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), MEDIAN_OF, replace=False))
    values, owner = clips.values[rows], owner[rows]
    return cdist(values, values)[np.triu(owner[:, None] != owner[None], 1)]


def clip_kernel(a: ClipEmbeddings, b: ClipEmbeddings, bandwidth: float) -> np.ndarray:
    """Gaussian kernel between every clip of a and every clip of b: the mean over all pairs of their windows.

    Args:
        a, b: embeddings.
        bandwidth: s of the module's formula.

    Returns:
        (len(a), len(b)), between 0 and 1.
    """
    starts_a, starts_b = (np.concatenate([[0], np.cumsum(x.counts)[:-1]]) for x in (a, b))
    # distances by products, many times faster than one by one; from a common centre, so that little is lost
    centre = b.values.mean(0)
    x, y = a.values - centre, b.values - centre
    x_squares, y_squares = (x**2).sum(1), (y**2).sum(1)
    out = np.empty((len(a), len(b)))
    ends_a = starts_a + a.counts
    first = 0
    while first < len(a):
        # whole clips, so that nothing is kept of their windows; one at least, however many it has
        last = max(first + 1, int(np.searchsorted(ends_a, starts_a[first] + ROWS, side="right")))
        rows = slice(starts_a[first], ends_a[last - 1])
        k = x[rows] @ y.T
        k *= -2
        k += x_squares[rows, None]
        k += y_squares
        np.maximum(k, 0, out=k)
        k *= -0.5 / bandwidth**2
        np.exp(k, out=k)
        sums = np.add.reduceat(
            np.add.reduceat(k, starts_b, axis=1), starts_a[first:last] - rows.start, axis=0
        )
        out[first:last] = sums / (a.counts[first:last, None] * b.counts)
        first = last
    return out


def kernel_distance(
    generated: ClipEmbeddings,
    reference: ClipEmbeddings,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> KernelDistance:
    """KAD of generated clips against reference clips, with a bootstrap interval over both and a permutation test.

    In a bootstrap draw, a clip that was drawn twice makes no pair with itself, as in the estimate. Which reference
    clips are drawn depends on the seed alone, so that draws of two systems can be subtracted.

    Args:
        generated: embeddings of n clips.
        reference: of m clips.
        n_boot: draws of the bootstrap and of the test; 0 for neither.
        level: of the interval.
        seed: of the draws.

    Raises:
        InputError: fewer than two clips on a side, different embeddings, bad options.
    """
    if n_boot < 0 or not 0 < level < 1:
        raise InputError(f"n_boot={n_boot}, level={level}; give 0 draws or more, a level such as 0.95")
    same_embedding(generated.embedding, reference.embedding)
    n, m = len(generated), len(reference)
    for side, count in (("generated", n), ("reference", m)):
        if count < 2:
            raise InputError(f"{count} {side} clip: KAD looks at pairs of different clips, of 2 or more")
    s = median_distance(reference, seed=seed)
    k_gg, k_rr, k_gr = (
        clip_kernel(a, b, s)
        for a, b in ((generated, generated), (reference, reference), (generated, reference))
    )
    within = (k_gg.sum(1) - np.diag(k_gg)) / (n - 1)
    parts = SCALE * (within + _pairs(k_rr, np.ones((1, m)))[0] - 2 * k_gr.mean(1))
    kad = float(parts.mean())
    draws, low, high, p = np.zeros(0), np.nan, np.nan, np.nan
    if n_boot:
        ours, theirs, labels = np.random.default_rng(seed).spawn(3)
        if min(n, m) > 2:
            w, v = _resample(ours, n_boot, n), _resample(theirs, n_boot, m)
            draws = SCALE * (_pairs(k_gg, w) + _pairs(k_rr, v) - 2 * _between(k_gr, w, v))
            draws += kad - draws.mean()
            low, high = percentile_interval(draws, level)
        p = _test(generated, reference, n_boot, labels, seed)
    return KernelDistance(kad, float(low), float(high), float(p), s, n, m, level, draws, parts)


def _resample(rng: np.random.Generator, draws: int, clips: int) -> np.ndarray:
    """Bootstrap multiplicities (draws, clips); never one clip alone, which has no pairs."""
    w = rng.multinomial(clips, np.full(clips, 1 / clips), size=draws)
    while (lone := w.max(1) == clips).any():
        w[lone] = rng.multinomial(clips, np.full(clips, 1 / clips), size=int(lone.sum()))
    return w.astype(np.float64)


def _pairs(k: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mean of a kernel (n, n) over pairs of different clips, (draws,), for weights (draws, n)."""
    squares = w**2
    total = ((w @ k) * w).sum(1) - squares @ np.diag(k)
    return total / (w.sum(1) ** 2 - squares.sum(1))


def _between(k: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Weighted mean of a kernel (n, m) over all pairs, (draws,)."""
    return ((w @ k) * v).sum(1) / (w.sum(1) * v.sum(1))


def _test(a: ClipEmbeddings, b: ClipEmbeddings, draws: int, rng: np.random.Generator, seed: int) -> float:
    """p of one distribution behind both: how often as large a distance comes of clips that were dealt out at random.

    The bandwidth is that of all clips together. The reference's own would tell the sides apart by itself, and the
    test would not be exact. Distances of 0 are left out of it: a system that makes one sound again and again has
    nothing else, and is to be told apart all the same.
    """
    both = ClipEmbeddings(np.concatenate([a.values, b.values]), np.concatenate([a.counts, b.counts]))
    apart = _distances(both, seed)
    if not (apart > 0).any():
        return 1.0
    k = clip_kernel(both, both, float(np.median(apart[apart > 0])))
    n, size = len(a), len(both)
    first = np.zeros((draws + 1, size))
    first[0, :n] = 1
    for row in first[1:]:
        row[rng.permutation(size)[:n]] = 1
    second = 1 - first
    found = _pairs(k, first) + _pairs(k, second) - 2 * _between(k, first, second)
    # rounding must not let a deal that is the same as the true one count as a smaller distance
    return float((found >= found[0] - 1e-12).mean())
