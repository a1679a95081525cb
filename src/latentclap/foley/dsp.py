"""Small vectorised signal helpers shared by all sound families. Everything is float64 and mono.

Double precision is deliberate: the samples are rounded to 16 bits at the very end, so that differences of
rounding between machines (FFT and SIMD code paths) stay far below one step of the quantiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scipy import signal
from scipy.fft import irfft, next_fast_len, rfft

Array = np.ndarray
Rng = np.random.Generator
T = TypeVar("T")


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a positive number whose logarithm is uniform between ``low`` and ``high``."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a plain float between ``low`` and ``high``."""
    return float(rng.uniform(low, high))


def chance(rng: Rng, probability: float) -> bool:
    """Return True with the given probability."""
    return bool(rng.random() < probability)


def pick(rng: Rng, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Draw one of ``options``; weights need not sum to one."""
    p = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    return options[int(rng.choice(len(options), p=p))]


def db(value: float) -> float:
    """Return the amplitude factor of a level in decibels."""
    return float(10.0 ** (value / 20.0))


def samples(seconds: float, sr: int) -> int:
    """Return a duration in samples, at least one."""
    return max(1, round(seconds * sr))


def add(out: Array, start: float, x: Array, gain: float = 1.0) -> None:
    """Mix ``x`` into ``out`` from sample ``start``; whatever lies outside ``out`` is cut."""
    start = int(start)
    a, b = max(start, 0), min(start + len(x), len(out))
    if b > a:
        out[a:b] += gain * x[a - start : b - start]


def coloured(rng: Rng, n: int, slope: float, sr: int, low: float = 30.0) -> Array:
    """Return noise of unit RMS whose spectrum falls by ``slope`` dB per octave above ``low`` Hz."""
    m = next_fast_len(max(n, 2), True)
    spectrum = rng.standard_normal(m // 2 + 1) + 1j * rng.standard_normal(m // 2 + 1)
    octaves = np.log2(np.maximum(np.arange(m // 2 + 1) * (sr / m), low) / low)
    spectrum *= np.exp(octaves * (slope * np.log(10) / 20))
    spectrum[0] = 0
    return unit(irfft(spectrum, m)[:n])


def unit(x: Array) -> Array:
    """Scale to RMS 1 (silence stays silence)."""
    return x / (np.sqrt(np.mean(x**2)) + 1e-12)


def peak_one(x: Array) -> Array:
    """Scale to a largest magnitude of 1 (silence stays silence)."""
    return x / (np.max(np.abs(x)) + 1e-12)


def butter(x: Array, kind: str, cut: float | tuple[float, float], sr: int, order: int = 2) -> Array:
    """Filter with a Butterworth low-pass, high-pass or band-pass; edges in Hz are kept below Nyquist."""
    edge = np.clip(cut, 5.0, 0.47 * sr)
    if kind == "bandpass" and edge[1] < 1.05 * edge[0]:
        edge = np.array([edge[1] / 1.3, edge[1]])
    return signal.sosfilt(signal.butter(order, edge, kind, fs=sr, output="sos"), x)


def resonate(x: Array, f: float, bandwidth: float, sr: int) -> Array:
    """Two-pole resonator with about unit gain at its peak: one formant or one body mode (Klatt 1980)."""
    f = min(f, 0.46 * sr)
    r = np.exp(-np.pi * bandwidth / sr)
    w = 2 * np.pi * f / sr
    gain = (1 - r) * np.sqrt(1 - 2 * r * np.cos(2 * w) + r * r)
    return signal.lfilter([gain], [1, -2 * r * np.cos(w), r * r], x)


def shelf(x: Array, f: float, gain_db: float, sr: int, high: bool = True) -> Array:
    """First-order shelf: the low or high side of ``f`` Hz is raised by ``gain_db``."""
    g = db(gain_db if high else -gain_db)
    w = np.tan(np.pi * min(f, 0.45 * sr) / sr)
    # bilinear transform of (g s + w sqrt(g)) / (s + w sqrt(g)): unit gain below, g above
    c = w * np.sqrt(g)
    b, a = np.array([c + g, c - g]), np.array([c + 1, c - 1])
    y = signal.lfilter(b / a[0], a / a[0], x)
    return y if high else y * db(gain_db)


def bell(x: Array, f: float, gain_db: float, q: float, sr: int) -> Array:
    """Peaking equaliser (the biquad of the Audio EQ Cookbook by R. Bristow-Johnson)."""
    w = 2 * np.pi * min(f, 0.45 * sr) / sr
    big, alpha = 10 ** (gain_db / 40), np.sin(w) / (2 * q)
    b = np.array([1 + alpha * big, -2 * np.cos(w), 1 - alpha * big])
    a = np.array([1 + alpha / big, -2 * np.cos(w), 1 - alpha / big])
    return signal.lfilter(b / a[0], a / a[0], x)


def decay(n: int, seconds: float, sr: int, attack: float = 0.0) -> Array:
    """Return an envelope that rises in ``attack`` s and falls by 60 dB within ``seconds``."""
    t = np.arange(n) / sr
    env = np.exp(-6.908 * t / max(seconds, 1e-4))
    if attack > 0:
        env *= 1 - np.exp(-3 * t / attack)
    return env


def curve(n: int, points: Sequence[tuple[float, float]], log: bool = False) -> Array:
    """Return ``n`` values through (position 0..1, value) points, smoothly (cosine) joined.

    ``log``: interpolate the logarithm, as pitch wants.
    """
    x, y = np.array(points, float).T
    y = np.log(y) if log else y
    at = np.linspace(0, 1, min(n, 2048))
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    u = np.clip((at - x[i]) / (x[i + 1] - x[i]), 0, 1)
    out = stretch(y[i] + (y[i + 1] - y[i]) * (0.5 - 0.5 * np.cos(np.pi * u)), n)
    return np.exp(out) if log else out


def stretch(y: Array, n: int) -> Array:
    """Interpolate a smooth curve linearly to ``n`` samples."""
    return y if len(y) == n else np.interp(np.linspace(0, len(y) - 1, n), np.arange(len(y)), y)


def wander(rng: Rng, n: int, rate: float, sr: int) -> Array:
    """Return a smooth random curve of unit RMS with about ``rate`` turns per second."""
    knots = max(4, int(n / sr * rate) + 4)
    x = np.linspace(0, knots - 1, min(n, 12 * knots))
    y = rng.standard_normal(knots + 1)
    i = x.astype(int)
    u = 0.5 - 0.5 * np.cos(np.pi * (x - i))
    return unit(stretch(y[i] + (y[i + 1] - y[i]) * u, n))


def pulses(phase: Array, sharpness: float | Array) -> Array:
    """Return smooth pulses exp(k (cos phase - 1)), one per turn: a glottal or exhaust pulse train.

    Its m-th harmonic falls as the Bessel function I_m(k): ``sharpness`` k sets the brightness, and unlike a
    Rosenberg pulse it has no corner, hence next to no aliasing.
    """
    return np.exp(sharpness * (np.cos(phase) - 1))


def modes(n: int, freqs: Array, t60: Array, gains: Array, sr: int, phases: Array | None = None) -> Array:
    """Return a sum of decaying sinusoids: an ideal impact on a body with these modes."""
    t = np.arange(n) / sr
    phases = np.zeros(len(freqs)) if phases is None else phases
    keep = freqs < 0.47 * sr
    f, d, g, p = freqs[keep, None], t60[keep, None], gains[keep, None], phases[keep, None]
    return np.sum(g * np.exp(-6.908 * t / d) * np.sin(2 * np.pi * f * t + p), axis=0)


def fades(x: Array, sr: int, attack: float = 0.002, release: float = 0.005) -> Array:
    """Fade both ends in place of a click; returns the same array."""
    a, r = min(samples(attack, sr), len(x) // 2), min(samples(release, sr), len(x) // 2)
    if a:
        x[:a] *= np.linspace(0, 1, a)
    if r:
        x[-r:] *= np.linspace(1, 0, r)
    return x


def convolve(x: Array, kernel: Array, n: int | None = None) -> Array:
    """FFT convolution cut to ``n`` samples (the length of ``x`` by default)."""
    return signal.oaconvolve(x, kernel)[: n or len(x)]


def shower(
    rng: Rng, n: int, per_second: float, grains: Sequence[Array], sr: int, spread: float = 0.8
) -> Array:
    """Return a Poisson shower of the given grains: a train for each, one inverse transform for all."""
    m = next_fast_len(n + max(map(len, grains)), True)
    total = np.zeros(m // 2 + 1, complex)
    for grain in grains:
        total += rfft(sparse(rng, n, per_second / len(grains), sr, spread), m) * rfft(grain, m)
    return irfft(total, m)[:n]


def sparse(rng: Rng, n: int, per_second: float, sr: int, spread: float = 0.8) -> Array:
    """Return a Poisson train of single-sample hits with log-normal heights and random sign."""
    hits = rng.poisson(per_second * n / sr)
    out = np.zeros(n)
    if hits:
        height = np.exp(spread * rng.standard_normal(hits)) * rng.choice([-1.0, 1.0], hits)
        np.add.at(out, rng.integers(0, n, hits), height)
    return out


NUMBERS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


def times(count: int) -> str:
    """Say a number of events in words: once, twice, three times ... many times."""
    if count <= 0:
        return "faintly"
    if count <= 2:
        return ("once", "twice")[count - 1]
    return f"{NUMBERS[count]} times" if count < len(NUMBERS) else "many times"


def count_of(count: int, noun: str) -> str:
    """Say a number of things in words: one step, two steps, many steps."""
    number = NUMBERS[count] if count < len(NUMBERS) else "many"
    return f"{number} {noun}" + ("s" if count != 1 else "")
