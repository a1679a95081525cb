"""The way from a dry sound to a recording: place, background, microphone, level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng

if TYPE_CHECKING:
    from latentclap.foley.registry import Family


@dataclass(frozen=True)
class Banded:
    """Uniform draws from interleaved bands: dev takes bands 0, 1, 3, 4, ..., eval takes 2, 5, ...

    Both splits cover the whole range, yet no value occurs in both: eval is new without being foreign.
    """

    split: str
    bands: int = 12

    def uniform(self, rng: Rng, low: float, high: float) -> float:
        """Draw from this split's bands between ``low`` and ``high``."""
        mine = [i for i in range(self.bands) if (i % 3 == 2) == (self.split == "eval")]
        band = mine[int(rng.integers(len(mine)))] + rng.random()
        return float(low + (high - low) * band / self.bands)


@dataclass(frozen=True)
class Place:
    """A room (t60 in seconds, damping of highs) or an outdoor place (late, sparse echoes)."""

    words: str
    t60: tuple[float, float]
    wet_db: tuple[float, float]
    bright: tuple[float, float]  #: corner of the tail's low-pass, Hz
    predelay: tuple[float, float] = (0.001, 0.01)
    echoes: int = 0


PLACES = {
    "studio": Place("recorded dry", (0.03, 0.1), (-40, -18), (3000, 9000)),
    "small room": Place("in a small room", (0.15, 0.45), (-28, -8), (2500, 9000)),
    "room": Place("in a room", (0.3, 0.8), (-28, -8), (2500, 8000), (0.003, 0.02)),
    "tiled room": Place("in a tiled room", (0.5, 1.4), (-20, -4), (4000, 10000), (0.002, 0.01)),
    "hall": Place("in a hall", (1.2, 3.2), (-22, -5), (2000, 6000), (0.01, 0.05)),
    "garage": Place("in a garage", (0.8, 2.0), (-20, -5), (2000, 6000), (0.005, 0.03)),
    "outdoors": Place("outdoors", (0.05, 0.3), (-45, -25), (1500, 5000), (0.01, 0.06), 1),
    "yard": Place("in a yard", (0.3, 0.9), (-32, -14), (1500, 5000), (0.02, 0.06), 3),
    "street": Place("in a street", (0.7, 1.8), (-30, -12), (1500, 5000), (0.02, 0.08), 4),
    "forest": Place("in a forest", (0.8, 2.2), (-32, -14), (1200, 4000), (0.03, 0.1), 2),
}


def reverberate(rng: Rng, x: Array, name: str, sr: int, banded: Banded) -> tuple[Array, dict[str, Any]]:
    """Add early reflections and a decaying noise tail whose highs die sooner (Moorer 1979)."""
    place = PLACES[name]
    t60 = banded.uniform(rng, *place.t60)
    wet = banded.uniform(rng, *place.wet_db)
    bright = dsp.uniform(rng, *place.bright)
    m = dsp.samples(min(t60, 2.5), sr)
    tail = rng.standard_normal(m) * dsp.decay(m, t60, sr)
    dark = dsp.butter(tail, "lowpass", bright / 4, sr, 1)
    fast = dsp.butter(tail * dsp.decay(m, t60, sr), "lowpass", bright, sr, 1)
    tail = dsp.butter(dark + 0.7 * fast, "highpass", dsp.uniform(rng, 60, 250), sr, 1)
    pre = dsp.samples(dsp.uniform(rng, *place.predelay), sr)
    kernel = np.zeros(pre + m + dsp.samples(0.7, sr) * (place.echoes > 0))
    dsp.add(kernel, pre, tail / (np.sqrt(np.sum(tail**2)) + 1e-12) * dsp.db(wet))
    for _ in range(place.echoes + 3):
        late = dsp.uniform(rng, 0.08, 0.6) if place.echoes else dsp.uniform(rng, 0.001, 0.03)
        kernel[min(dsp.samples(late, sr), len(kernel) - 1)] += dsp.db(
            wet + dsp.uniform(rng, -14, 0)
        ) * rng.choice([-1, 1])
    kernel[0] += 1.0
    return dsp.convolve(x, kernel), {"place": name, "t60": round(t60, 3), "wet_db": round(wet, 1)}


def _birds(rng: Rng, n: int, sr: int) -> Array:
    out = 0.15 * dsp.coloured(rng, n, -4, sr)
    for _ in range(int(rng.integers(3, 14))):
        m = dsp.samples(dsp.uniform(rng, 0.04, 0.2), sr)
        f = dsp.curve(m, [(0, dsp.uniform(rng, 2200, 6000)), (1, dsp.uniform(rng, 2200, 6000))], log=True)
        chirp = np.sin(2 * np.pi * np.cumsum(f) / sr) * np.hanning(m)
        dsp.add(out, rng.integers(0, n), chirp, dsp.uniform(rng, 0.2, 1.5))
    return out


def _traffic(rng: Rng, n: int, sr: int) -> Array:
    x = dsp.butter(dsp.coloured(rng, n, -5, sr), "lowpass", dsp.log_uniform(rng, 300, 1500), sr, 1)
    return x * np.exp(0.4 * dsp.wander(rng, n, 0.6, sr))


def _wind(rng: Rng, n: int, sr: int) -> Array:
    x = dsp.coloured(rng, n, dsp.uniform(rng, -9, -6), sr)
    return x * np.exp(0.7 * dsp.wander(rng, n, 1.5, sr))


def _hum(rng: Rng, n: int, sr: int) -> Array:
    base = dsp.pick(rng, (50.0, 60.0))
    k = np.arange(1, 9)
    gains = rng.random(8) / k ** dsp.uniform(rng, 0.5, 1.5)
    t = np.arange(n) / sr
    tone = np.sum(
        gains[:, None] * np.sin(2 * np.pi * base * k[:, None] * t + rng.uniform(0, 6.28, (8, 1))), axis=0
    )
    return dsp.unit(tone) + dsp.uniform(rng, 0.05, 0.6) * dsp.coloured(rng, n, -3, sr)


def _fan(rng: Rng, n: int, sr: int) -> Array:
    x = dsp.coloured(rng, n, -3.5, sr)
    f = dsp.log_uniform(rng, 90, 400)
    return (
        x
        + dsp.uniform(rng, 0.1, 0.6) * dsp.unit(dsp.resonate(x, f, 4, sr))
        + 0.2 * dsp.unit(dsp.resonate(x, 2 * f, 8, sr))
    )


def _flat(slope: tuple[float, float]):
    return lambda rng, n, sr: dsp.coloured(rng, n, dsp.uniform(rng, *slope), sr)


#: Noise beds: words for the caption, and the function that makes them.
BEDS = {
    "hiss": ("with tape hiss", _flat((-1.5, 0.5))),
    "room tone": ("with room tone", _flat((-6, -2))),
    "rumble": ("with a low rumble", _flat((-12, -8))),
    "hum": ("with mains hum", _hum),
    "traffic": ("with distant traffic", _traffic),
    "wind": ("with wind", _wind),
    "birds": ("with birds singing", _birds),
    "fan": ("with a fan running", _fan),
}


def loud_level(x: Array, sr: int) -> float:
    """Return the RMS of the loudest 50 ms: what a background is weighed against."""
    m = max(1, len(x) // max(1, sr // 20))
    return float(np.sqrt(max(np.mean(part**2) for part in np.array_split(x, m))) + 1e-12)


def microphone(
    rng: Rng, x: Array, sr: int, low_cut: tuple[float, float], banded: Banded
) -> tuple[Array, dict[str, Any]]:
    """Colour the recording: low cut, sometimes a narrow band, tilt, one resonance, sometimes overload."""
    tilt = banded.uniform(rng, -9, 7)
    x = dsp.shelf(x, dsp.log_uniform(rng, 400, 3000), tilt, sr)
    x = dsp.bell(x, dsp.log_uniform(rng, 100, 5000), dsp.uniform(rng, -7, 7), dsp.uniform(rng, 0.5, 2.0), sr)
    if dsp.chance(rng, 0.8):
        x = dsp.butter(x, "highpass", dsp.log_uniform(rng, *low_cut), sr, int(rng.integers(1, 3)))
    band = dsp.log_uniform(rng, 3500, 9000) if dsp.chance(rng, 0.2) else 0.0
    if band:
        x = dsp.butter(x, "lowpass", band, sr, int(rng.integers(1, 4)))
    overload = dsp.chance(rng, 0.12)
    if overload:
        x = np.tanh(dsp.uniform(rng, 1.5, 5.0) * dsp.peak_one(x))
    return x, {"tilt_db": round(tilt, 1), "band_hz": round(band), "overload": overload}


def record(
    rng: Rng, x: Array, n: int, sr: int, spec: Family, banded: Banded
) -> tuple[Array, list[str], dict[str, Any]]:
    """Put a dry sound in a place, behind a background, before a microphone; repeat it to ``n`` samples.

    Returns the wave (n,) float32 with a peak of at most 0.99, words for the caption, and the parameters.
    """
    place = dsp.pick(rng, tuple(spec.places), tuple(spec.places.values()))
    x, params = reverberate(rng, dsp.peak_one(x), place, sr, banded)
    words = [PLACES[place].words]
    bed, snr = "none", None
    if not dsp.chance(rng, spec.quiet):
        bed = dsp.pick(rng, tuple(spec.backgrounds), tuple(spec.backgrounds.values()))
        snr = banded.uniform(rng, *spec.snr)
        x = x + loud_level(x, sr) * dsp.db(-snr) * dsp.unit(BEDS[bed][1](rng, len(x), sr))
        if snr < 35:
            words.append(BEDS[bed][0])
    x, colour = microphone(rng, x, sr, spec.low_cut, banded)
    dsp.fades(x, sr, 0.001, 0.003)
    if len(x) < n:
        gap = np.zeros(dsp.samples(dsp.uniform(rng, 0.0, 0.8), sr) if dsp.chance(rng, 0.5) else 0)
        x = np.resize(np.concatenate([x, gap]), n)
    peak = dsp.uniform(rng, 0.93, 0.98) if dsp.chance(rng, 0.4) else dsp.db(banded.uniform(rng, -13, -0.5))
    wave = (dsp.peak_one(x) * peak).astype(np.float32)
    params |= colour | {
        "background": bed,
        "snr_db": None if snr is None else round(snr, 1),
        "peak": round(peak, 3),
    }
    return wave, words, params
