"""Rain: very many drops far away are filtered noise; the near ones are heard one by one on a surface.

A drop on water makes a bubble (a short tone that rises, Pumphrey and Elmore 1990), on a hard surface a click,
on a roof it rings the sheet. Density turns drops into noise: both layers are always there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import Source, family


@dataclass(frozen=True)
class Surface:
    """Ranges of what the rain falls on."""

    words: str
    band: tuple[float, float]  #: centre of the noise, Hz
    slope: tuple[float, float]  #: dB per octave of the noise
    drop: tuple[float, float]  #: pitch of drops, Hz
    ring: tuple[float, float]  #: t60 of drops, s
    bubble: float  #: share of drops that ring as bubbles


SURFACES = {
    "leaves": Surface("on leaves", (2500, 6000), (-2.5, 0.5), (1500, 6000), (0.002, 0.008), 0.05),
    "pavement": Surface("on pavement", (1500, 6000), (-3.5, 0.0), (1200, 6000), (0.002, 0.012), 0.3),
    "a tin roof": Surface("on a tin roof", (800, 3500), (-4, -1), (500, 4500), (0.01, 0.06), 0.0),
    "a window": Surface("on a window", (800, 3000), (-5, -2), (500, 2500), (0.004, 0.02), 0.0),
    "an umbrella": Surface("on an umbrella", (400, 2000), (-5, -2), (150, 900), (0.008, 0.03), 0.0),
    "a puddle": Surface("in puddles", (1500, 5000), (-3, 0), (700, 4500), (0.01, 0.05), 0.9),
    "grass": Surface("on grass", (1500, 5000), (-4, -0.5), (800, 4000), (0.002, 0.006), 0.0),
    "a tent": Surface("on a tent", (300, 1500), (-6, -3), (120, 700), (0.01, 0.04), 0.0),
}

#: density: drops per second one by one, level of the noise layer against them
DENSITIES = {"drizzle": (4, 60, 0.3, 3.0),
             "light rain": (15, 200, 0.6, 4.0), "steady rain": (40, 500, 1.0, 6.0),
             "heavy rain": (150, 2000, 1.5, 12.0), "a downpour": (400, 4000, 2.5, 20.0)}  # fmt: skip


def drop(rng: Rng, surface: Surface, sr: int) -> Array:
    """Return the sound of one near drop."""
    t60 = dsp.log_uniform(rng, *surface.ring)
    m = dsp.samples(1.3 * t60 + 0.006, sr)
    f = dsp.log_uniform(rng, *surface.drop)
    click = rng.standard_normal(m) * dsp.decay(m, dsp.log_uniform(rng, 0.001, 0.006), sr)
    click = dsp.butter(click, "bandpass", (0.5 * f, 2.5 * f), sr, 1)
    if dsp.chance(rng, surface.bubble):
        rise = np.linspace(1, dsp.uniform(rng, 1.0, 1.35), m)
        return (
            dsp.peak_one(np.sin(2 * np.pi * f * np.cumsum(rise) / sr) * dsp.decay(m, t60, sr, 0.001))
            + 0.2 * click
        )
    ratios = np.array([1.0, 1.59, 2.3, 3.1]) * np.exp(0.1 * rng.standard_normal(4))
    ring = dsp.modes(m, f * ratios, t60 * rng.uniform(0.4, 1.0, 4), rng.random(4), sr)
    return dsp.peak_one(ring) * dsp.uniform(rng, 0.2, 1.0) + 0.7 * dsp.peak_one(click)


def drops(rng: Rng, surface: Surface, n: int, rate: float, sr: int) -> Array:
    """Return a Poisson shower of near drops of a few kinds."""
    return dsp.shower(rng, n, rate, [drop(rng, surface, sr) for _ in range(5)], sr, 0.9)


def far(rng: Rng, surface: Surface, n: int, sr: int) -> Array:
    """Return the noise of all the far drops: a broad hump over a sloping floor, swaying slowly."""
    x = dsp.coloured(rng, n, dsp.uniform(rng, *surface.slope), sr)
    f = dsp.log_uniform(rng, *surface.band)
    hump = dsp.unit(dsp.resonate(rng.standard_normal(n), f, f * dsp.uniform(rng, 0.5, 1.5), sr))
    x = x + dsp.log_uniform(rng, 0.3, 2.0) * hump
    rough = dsp.unit(dsp.butter(np.abs(rng.standard_normal(n)), "lowpass", 60, sr, 1) ** 2)
    x *= 1 + dsp.uniform(rng, 0, 0.25) * rough
    return dsp.unit(x * np.exp(dsp.uniform(rng, 0.0, 0.25) * dsp.wander(rng, n, 0.7, sr)))


def thunder(rng: Rng, n: int, sr: int) -> Array:
    """Return a roll of thunder somewhere in the clip."""
    m = min(n, dsp.samples(dsp.uniform(rng, 1.5, 3.5), sr))
    x = dsp.butter(dsp.coloured(rng, m, -5, sr), "lowpass", dsp.log_uniform(rng, 120, 700), sr, 2)
    x = dsp.unit(x) * dsp.curve(m, [(0, 0), (dsp.uniform(rng, 0.03, 0.3), 1), (0.6, 0.4), (1, 0)])
    out = np.zeros(n)
    dsp.add(out, rng.integers(0, n - m + 1), x * np.exp(0.7 * dsp.wander(rng, m, 4, sr)))
    return out


@family(
    "rain",
    places={"outdoors": 6, "forest": 1, "yard": 1, "studio": 3, "small room": 1},
    backgrounds={"wind": 2.0, "rumble": 2.0, "traffic": 1.0, "hiss": 1.0, "birds": 0.3},
    snr=(0, 45), quiet=0.35, low_cut=(20, 250),
)  # fmt: skip
def rain(rng: Rng, n: int, sr: int) -> Source:
    """Rain from drizzle to downpour on one of eight surfaces, perhaps indoors, perhaps with thunder."""
    name = dsp.pick(rng, tuple(SURFACES), (2, 3, 1.5, 1.5, 1, 1.5, 1.5, 1))
    surface = SURFACES[name]
    density = dsp.pick(rng, tuple(DENSITIES), (1.3, 2, 3, 2.5, 1.2))
    few, many, quiet, loud = DENSITIES[density]
    rate = dsp.log_uniform(rng, few, many)
    near = dsp.unit(drops(rng, surface, n, rate, sr))
    bed = dsp.log_uniform(rng, quiet, loud)
    x = near + bed * far(rng, surface, n, sr)
    inside = dsp.chance(rng, 0.12)
    if inside:
        x = dsp.butter(x, "lowpass", dsp.log_uniform(rng, 300, 1800), sr, 1)
    roll = dsp.chance(rng, 0.12)
    if roll:
        x = dsp.unit(x) + dsp.log_uniform(rng, 0.5, 4) * thunder(rng, n, sr)
    phrase = (
        f"{density} {surface.words}"
        + (" with thunder" if roll else "")
        + (" heard through a wall" if inside else "")
    )
    params = {
        "surface": name,
        "density": density,
        "drops_per_second": round(rate),
        "thunder": roll,
        "inside": inside,
    }
    return Source(x, phrase, params)
