"""The Fréchet distance of two Gaussians."""

from __future__ import annotations

import numpy as np

from latentclap.errors import InputError

_SYMMETRY = 1e-5  # float32 statistics of the organisers' tool are symmetric to about 1e-7 of their scale
_PSD = 1e-5  # most negative eigenvalue tolerated, relative to the largest


def frechet_distance(mu_a: np.ndarray, sigma_a: np.ndarray, mu_b: np.ndarray, sigma_b: np.ndarray) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance of two Gaussians.

    tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is
    symmetric: no complex square root, no added epsilon, and rank-deficient covariances are exact.

    Args:
        mu_a: mean, (d,).
        sigma_a: covariance, (d, d), symmetric positive semi-definite.
        mu_b: mean, (d,).
        sigma_b: covariance, (d, d).

    Returns:
        The distance, >= 0, in squared units of the embedding. Computed in float64.

    Raises:
        InputError: shapes differ, values are not finite, or a covariance is not symmetric or not PSD.
    """
    mu_a, sigma_a, vals_a, vecs_a = checked(mu_a, sigma_a, "first")
    mu_b, sigma_b, _, _ = checked(mu_b, sigma_b, "second")
    if mu_a.shape != mu_b.shape:
        raise InputError(
            f"Gaussians of different dimension: {mu_a.size} and {mu_b.size}; use the same embedding for both"
        )
    root = matrix_root(vals_a, vecs_a)
    overlap = sum_of_roots(root @ sigma_b @ root)
    gap = mu_a - mu_b
    return float(max(0.0, gap @ gap + np.trace(sigma_a) + np.trace(sigma_b) - 2.0 * overlap))


def checked(mu: np.ndarray, sigma: np.ndarray, which: str) -> tuple[np.ndarray, ...]:
    """Return (mu, symmetrised sigma, eigenvalues, eigenvectors) in float64, or raise InputError."""
    try:
        mu, sigma = np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{which} Gaussian: mean or covariance are no numbers") from None
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or mu.size == 0:
        raise InputError(
            f"{which} Gaussian: mean {mu.shape} and covariance {sigma.shape}; expected (d,) and (d, d)"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(f"{which} Gaussian: NaN or infinity; check the clips it was made from")
    scale = max(float(np.abs(sigma).max()), np.finfo(np.float64).tiny)
    asymmetry = float(np.abs(sigma - sigma.T).max())
    if asymmetry > _SYMMETRY * scale:
        raise InputError(f"{which} Gaussian: covariance not symmetric (largest difference {asymmetry:.3g})")
    sigma = (sigma + sigma.T) / 2
    vals, vecs = np.linalg.eigh(sigma)
    if vals[0] < -_PSD * max(float(vals[-1]), np.finfo(np.float64).tiny):
        raise InputError(
            f"{which} Gaussian: covariance not positive semi-definite (eigenvalue {vals[0]:.3g})"
        )
    return mu, sigma, vals, vecs


def matrix_root(vals: np.ndarray, vecs: np.ndarray) -> np.ndarray:
    """Symmetric square root from an eigen-decomposition, (..., d, d)."""
    return (vecs * _roots(vals)[..., None, :]) @ np.swapaxes(vecs, -1, -2)


def _roots(vals: np.ndarray) -> np.ndarray:
    """Square roots of eigenvalues in ascending order; those that are rounding error of a zero become zero.

    The root of a 1e-16 is 1e-8, and a covariance of few clips has hundreds of them.
    """
    noise = vals.shape[-1] * np.finfo(np.float64).eps * np.abs(vals[..., -1:])
    return np.sqrt(np.where(vals > noise, vals, 0.0))


def sum_of_roots(matrices: np.ndarray) -> np.ndarray:
    """Sum of the square roots of the eigenvalues of symmetric PSD matrices (..., d, d) -> (...)."""
    return _roots(np.linalg.eigvalsh(matrices)).sum(-1)
