"""Gaussian statistics of embeddings: from clips, streaming, and as files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentclap.errors import InputError
from latentclap.fad.distance import checked, frechet_distance
from latentclap.files import atomic_path


@dataclass(frozen=True)
class GaussianStats:
    """Mean and covariance (n - 1) of an embedding.

    Attributes:
        mu: (d,) float64.
        sigma: (d, d) float64.
        n: number of embedding vectors (windows) behind them.
        n_clips: number of clips behind them, 0 if not known.
        embedding: name of the embedding, "" if not known.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int
    n_clips: int = 0
    embedding: str = ""

    @classmethod
    def from_embeddings(
        cls, embeddings: np.ndarray | Sequence[np.ndarray], embedding: str = ""
    ) -> GaussianStats:
        """Make statistics of (n, d) vectors, or of a list with one (windows, d) array per clip.

        Raises:
            InputError: fewer than two vectors, or values that are not finite.
        """
        if isinstance(embeddings, np.ndarray):
            moments = StreamingMoments()
            moments.update(embeddings)
            return moments.stats(embedding)
        return ClipEmbeddings.from_clips(embeddings, embedding).stats()

    def distance(self, other: GaussianStats) -> float:
        """Return the Fréchet distance to other statistics.

        Raises:
            InputError: both name their embedding and the names differ.
        """
        same_embedding(self.embedding, other.embedding)
        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    def save(self, path: str | Path) -> None:
        """Write one set of statistics as npz (keys mu, sigma, n, n_clips, embedding)."""
        save_stats(path, {"": self})

    @classmethod
    def load(cls, path: str | Path, name: str = "") -> GaussianStats:
        """Read one set from an npz; ``name`` picks the class in a file of many.

        Raises:
            InputError: no such file, no such class, or not a statistics file.
        """
        many = load_stats(path)
        if name not in many:
            raise InputError(f"{path}: no statistics for {name or 'a single set'!r}; it has {sorted(many)}")
        return many[name]


def save_stats(path: str | Path, stats: Mapping[str, GaussianStats]) -> None:
    """Write many statistics to one npz: ``<class>/mu``, ``<class>/sigma``, ``<class>/n``, ..."""
    arrays: dict[str, np.ndarray] = {}
    for name, item in stats.items():
        for key in ("mu", "sigma", "n", "n_clips", "embedding"):
            arrays[f"{name}/{key}" if name else key] = np.asarray(getattr(item, key))
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def load_stats(path: str | Path) -> dict[str, GaussianStats]:
    """Read a statistics npz into {class: statistics}; a file of one set has the key "".

    Raises:
        InputError: the file is absent, unreadable, holds pickled objects, or lacks mu, sigma or n.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such statistics file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (
        *(ValueError, TypeError, OSError, EOFError, AttributeError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError),
    ) as error:  # numpy's, and zip's of a file that is damaged inside
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a statistics npz ({reason}); latentclap.fad.save_stats writes one"
        ) from None
    names = sorted({key.rpartition("/")[0] for key in arrays if key.rpartition("/")[2] == "mu"})
    if not names:
        raise InputError(f"{path}: no mean in it; expected keys such as rain/mu, rain/sigma, rain/n")
    return {name: _from_arrays(path, name, arrays) for name in names}


def _from_arrays(path: Path, name: str, arrays: dict[str, np.ndarray]) -> GaussianStats:
    prefix = f"{name}/" if name else ""
    missing = [key for key in ("sigma", "n") if prefix + key not in arrays]
    if missing:
        raise InputError(f"{path}: {name or 'statistics'} lacks {' and '.join(missing)}")
    try:
        mu, sigma, _, _ = checked(arrays[prefix + "mu"], arrays[prefix + "sigma"], name or "stored")
        n = _count(arrays[prefix + "n"], f"{prefix}n")
        n_clips = _count(arrays.get(prefix + "n_clips", np.asarray(0)), f"{prefix}n_clips")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return GaussianStats(mu, sigma, n, n_clips, str(arrays.get(prefix + "embedding", np.asarray(""))))


def _count(value: np.ndarray, name: str) -> int:
    if value.ndim or value.dtype.kind not in "iuf" or not (value >= 0 and value == np.floor(value) < np.inf):
        raise InputError(f"{name} is {str(value)[:40]}, no number of vectors or clips")
    return int(value)


def same_embedding(a: str, b: str) -> None:
    """Refuse statistics whose embeddings are named and differ."""
    if a and b and a != b:
        raise InputError(f"statistics of different embeddings: {a!r} and {b!r} are not comparable")


class StreamingMoments:
    """Mean and scatter of vectors that arrive in pieces (pairwise update of Chan, Golub and LeVeque)."""

    def __init__(self) -> None:
        self.n, self.clips = 0, 0
        self.mean = self.scatter = np.zeros(0)

    def update(self, embeddings: np.ndarray, clips: int = 0) -> None:
        """Add (n, d) vectors; ``clips`` is how many clips they come from."""
        x = _matrix(embeddings)
        mean = x.mean(0)
        scatter = (x - mean).T @ (x - mean)
        if self.n == 0:
            self.n, self.mean, self.scatter = len(x), mean, scatter
        else:
            gap, total = mean - self.mean, self.n + len(x)
            self.scatter = self.scatter + scatter + np.outer(gap, gap) * (self.n * len(x) / total)
            self.mean = self.mean + gap * (len(x) / total)
            self.n = total
        self.clips += clips

    def stats(self, embedding: str = "") -> GaussianStats:
        """Return the statistics of everything added so far."""
        if self.n < 2:
            raise InputError(f"{self.n} embedding vectors: a covariance needs at least 2 (add clips)")
        return GaussianStats(self.mean, self.scatter / (self.n - 1), self.n, self.clips, embedding)


def _matrix(values: np.ndarray) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise InputError(f"embeddings of shape {x.shape}; expected (windows, dimensions), not empty")
    if not np.isfinite(x).all():
        raise InputError("embeddings with NaN or infinity; check the clips they were made from")
    return x


@dataclass(frozen=True)
class ClipEmbeddings:
    """Embedding vectors that remember their clip.

    Attributes:
        values: (windows, d) float64, all clips one after the other.
        counts: (clips,) windows of each clip.
        embedding: name of the embedding.
        silent: (clips,) whether each is silent; None where nobody looked.
    """

    values: np.ndarray
    counts: np.ndarray
    embedding: str = ""
    silent: np.ndarray | None = None

    @classmethod
    def from_clips(cls, clips: Iterable[np.ndarray], embedding: str = "") -> ClipEmbeddings:
        """Gather one (windows, d) array per clip."""
        arrays = [_matrix(clip) for clip in clips]
        if not arrays:
            raise InputError("no clips to embed")
        return cls(np.concatenate(arrays), np.array([len(a) for a in arrays]), embedding)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def n_silent(self) -> int | None:
        """How many clips are silent; None where nobody looked."""
        return None if self.silent is None else int(self.silent.sum())

    def stats(self) -> GaussianStats:
        """Return the statistics over all windows."""
        moments = StreamingMoments()
        moments.update(self.values, clips=len(self))
        return moments.stats(self.embedding)
