"""Random weights and signals that two environments can make alike: numpy alone, each tensor seeded by its name.

``RandomState`` is numpy's frozen stream: the same numbers in every version. Scales follow a tensor's role, so that
activations neither vanish nor explode and no term of a layer is zero.
"""

import re
import zlib

import numpy as np

#: Entries that are no weights: tables, counters and front ends; they keep their own values.
NOT_WEIGHTS = re.compile(
    r"(position_ids|token_type_ids|relative_position_index|attn_mask|num_batches_tracked|num_updates|decay)$"
    r"|spectrogram_extractor|logmel_extractor|alphas_cumprod|^betas$|^posterior_|^logvar$|^lvlb_|^scale_factor$"
)
SCALE_FACTOR = 0.8371


def _stream(name):
    return np.random.RandomState(zlib.crc32(name.encode()))


def weight(name, shape):
    """The weight of this name and shape, float32."""
    # uniform with variance 1: several times faster than normal numbers, and there are 300 million in the tests
    x = ((_stream(name).random_sample(shape) - 0.5) * np.sqrt(12)).astype(np.float32)
    leaf = name.rpartition(".")[2]
    # model_ema.* names have lost their dots
    if leaf == "running_mean" or leaf.endswith("bias"):
        return 0.1 * x
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(x)
    if len(shape) < 2:
        return 1 + 0.1 * x
    if leaf == "relative_position_bias_table":
        return x
    return x / np.float32(np.sqrt(np.prod(shape[1:])))


def weights(shapes):
    """name -> weight of every entry of a {name: shape} that is one."""
    return {
        name: np.asarray(weight(name, tuple(shape)), dtype=np.float32)
        for name, shape in shapes.items()
        if not NOT_WEIGHTS.search(name)
    }


def signal(name, *shape):
    """A standard normal array for a named input."""
    return _stream(f"signal {name}").standard_normal(shape).astype(np.float32)


def unit(name, n, d=512):
    """n random unit vectors (n, d)."""
    x = signal(name, n, d)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def wave(name, samples):
    """A sound within +-0.9: noise with a decaying tone."""
    t = np.arange(samples) / 16_000
    x = 0.1 * signal(name, samples) + 0.5 * np.sin(2 * np.pi * 440 * t) * np.exp(-3 * t)
    return np.clip(x, -0.9, 0.9).astype(np.float32)


def gaussians():
    """name -> (mu_a, sigma_a, mu_b, sigma_b) float64: random statistics, some of few samples."""
    out = {}
    for d, n in [(8, 40), (64, 400), (128, 1000), (128, 100)]:
        name = f"{d} dimensions, {n} vectors"
        a, b = signal(f"{name} a", n, d).astype(np.float64), signal(f"{name} b", n, d).astype(np.float64)
        b = b * (0.5 + np.arange(d) / d) + 0.3
        out[name] = (a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    return out
