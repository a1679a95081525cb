"""Footsteps: heel, then toe, strike a surface that rings (modal) or gives way in grains (granular).

After the picture of Farnell, Designing Sound (2010), and Bresin and Fontana's surfaces: a force curve of heel
and ball drives either a few damped modes, or a shower of tiny impacts whose rate follows the force.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import ANYWHERE, BEDS, Source, family


@dataclass(frozen=True)
class Surface:
    """Ranges of one kind of floor: modes of the body, click of the contact, grains."""

    modes: tuple[float, float]  #: Hz
    t60: tuple[float, float]  #: s
    ring: float  #: level of the modes
    click: tuple[float, float]  #: contact corner frequency, Hz
    clicks: float
    grain: tuple[float, float] = (0.0, 0.0)  #: band of the grains, Hz
    grains: float = 0.0
    rate: float = 0.0  #: grains per second at full force
    outdoors: bool = False


SURFACES = {
    "a wooden floor": Surface((90, 1100), (0.04, 0.2), 1.0, (500, 3500), 0.5),
    "a hollow wooden stage": Surface((60, 700), (0.08, 0.3), 1.4, (300, 1800), 0.4),
    "concrete": Surface((120, 1200), (0.02, 0.07), 0.5, (700, 6000), 0.8, (1500, 7000), 0.15, 1500),
    "stone tiles": Surface((250, 1800), (0.02, 0.09), 0.5, (1500, 9000), 1.0),
    "metal": Surface((180, 2600), (0.06, 0.5), 0.6, (1500, 8000), 0.6),
    "carpet": Surface((60, 500), (0.03, 0.09), 1.0, (300, 1000), 0.3, (300, 2500), 0.08, 3000),
    "earth": Surface((60, 700), (0.03, 0.1), 1.0, (400, 1500), 0.3, (400, 3500), 0.15, 1200, True),
    "grass": Surface((60, 500), (0.02, 0.07), 0.4, (500, 2000), 0.2, (1500, 7500), 0.5, 2500, True),
    "dry leaves": Surface((60, 200), (0.02, 0.05), 0.2, (1500, 5000), 0.2, (1800, 8500), 1.0, 500, True),
    "gravel": Surface((80, 300), (0.02, 0.06), 0.35, (1500, 5000), 0.3, (900, 7000), 1.0, 700, True),
    "snow": Surface((60, 200), (0.02, 0.06), 0.3, (500, 2000), 0.1, (400, 4500), 1.0, 4000, True),
    "sand": Surface((60, 160), (0.02, 0.06), 0.4, (400, 1500), 0.1, (600, 6500), 0.8, 6000, True),
    "mud": Surface((60, 260), (0.04, 0.12), 0.7, (300, 1200), 0.3, (250, 1800), 0.7, 350, True),
    "wet ground": Surface((90, 400), (0.02, 0.08), 0.4, (1500, 6000), 0.4, (1200, 7000), 0.7, 900, True),
}

#: shoe: (hardness of the contact, weight of the low end, delay heel to toe in s)
SHOES = {
    "bare feet": (0.25, 1.0, (0.03, 0.09)),
    "trainers": (0.45, 1.0, (0.04, 0.12)),
    "leather shoes": (0.9, 0.9, (0.05, 0.14)),
    "boots": (0.8, 1.4, (0.06, 0.16)),
    "high heels": (1.5, 0.35, (0.03, 0.08)),
}


def impact(
    rng: Rng, floor: tuple[Array, Array, Array], corner: float, clicks: float, ring: float, sr: int
) -> Array:
    """Return one strike: a short noisy contact plus the modes it sets off."""
    freqs, t60, gains = floor
    m = dsp.samples(min(1.2 * float(t60.max()), 1.0) + 0.02, sr)
    hits = gains * np.exp(0.25 * rng.standard_normal(len(gains)))
    x = ring * dsp.modes(m, freqs, t60, hits, sr)
    k = dsp.samples(0.12, sr)
    contact = rng.standard_normal(k) * dsp.decay(k, dsp.log_uniform(rng, 0.02, 0.2), sr, 0.0005)
    dsp.add(x, 0, dsp.butter(contact, "lowpass", corner, sr, 1), clicks)
    return x


def crush(rng: Rng, surface: Surface, band: tuple[float, float], length: float, sr: int) -> Array:
    """Return the shower of grains under one sole: the rate follows the force of heel and ball."""
    m = dsp.samples(length, sr)
    force = dsp.curve(m, [(0, 0), (0.12, 1), (0.4, 0.45), (0.6, 0.9), (1, 0)])
    thin = rng.random(m) < surface.rate / sr * (0.15 + force)
    grains = thin * np.exp(0.9 * rng.standard_normal(m)) * rng.choice([-1.0, 1.0], m)
    k = dsp.samples(0.006, sr)
    grain = rng.standard_normal(k) * dsp.decay(k, 0.004, sr)
    x = dsp.butter(dsp.convolve(grains, grain), "bandpass", band, sr, 1)
    return dsp.unit(x) * force * 0.5


def scuff(rng: Rng, corner: float, sr: int) -> Array:
    """Return the rub of a sole that rolls over the floor: a soft swell of filtered noise, RMS about one."""
    m = dsp.samples(dsp.uniform(rng, 0.1, 0.3), sr)
    x = dsp.unit(dsp.butter(rng.standard_normal(m), "bandpass", (0.12 * corner, 0.7 * corner), sr, 1))
    return x * dsp.curve(m, [(0, 0), (dsp.uniform(rng, 0.08, 0.5), 1), (1, 0)])


def floor_modes(rng: Rng, surface: Surface) -> tuple[Array, Array, Array]:
    """Draw the modes of one floor: frequencies (Hz), decay times (s) and gains."""
    count = int(rng.integers(3, 9))
    freqs = np.exp(rng.uniform(*np.log(surface.modes), count))
    t60 = rng.uniform(*surface.t60, count) * (freqs.min() / freqs) ** 0.3
    return freqs, t60, rng.random(count) * (freqs.min() / freqs) ** 0.25


@family(
    "footstep", places={**ANYWHERE, "studio": 5.0}, backgrounds=BEDS,
    loop=0.2, loop_seconds=(0.6, 2.0), snr=(18, 60), quiet=0.55, low_cut=(18, 90),
)  # fmt: skip
def footstep(rng: Rng, n: int, sr: int) -> Source:
    """Somebody walks, runs, or climbs over one of fourteen surfaces in one of five kinds of shoe."""
    name = dsp.pick(rng, tuple(SURFACES))
    surface = SURFACES[name]
    shoe = dsp.pick(rng, tuple(SHOES), (1, 3, 3, 3, 1))
    hard, weight, (early, late) = SHOES[shoe]
    gait = dsp.pick(rng, ("slowly", "walking", "briskly", "running"), (2, 4, 2, 1.5))
    period = dsp.uniform(
        rng,
        *{"slowly": (0.7, 1.1), "walking": (0.48, 0.75), "briskly": (0.36, 0.5), "running": (0.24, 0.38)}[
            gait
        ],
    )
    feet = [floor_modes(rng, surface) for _ in range(2)]
    corner = min(dsp.log_uniform(rng, *surface.click) * (0.5 + 0.6 * hard), 0.45 * sr)
    band = (surface.grain[0] * dsp.uniform(rng, 0.7, 1.4), surface.grain[1] * dsp.uniform(rng, 0.6, 1.1))
    thump, thump_f = weight * dsp.log_uniform(rng, 0.05, 1.5), dsp.log_uniform(rng, 50, 350)
    knock = 1.3 * surface.clicks * dsp.log_uniform(rng, 0.4, 2.5)
    rub, slow = dsp.log_uniform(rng, 0.005, 0.25), dsp.uniform(rng, 0.12, 0.5)
    length = dsp.uniform(rng, 0.12, 0.4) * (0.6 if gait == "running" else 1)
    toe = dsp.uniform(rng, early, late) * (0.4 if gait == "running" else 1)
    out, onsets, t = np.zeros(n), [], min(dsp.uniform(rng, 0.0, 0.5 * period), 0.25 * n / sr)
    while t < n / sr - 0.05:
        onsets.append(t)
        at, level = dsp.samples(t, sr), np.exp(0.2 * rng.standard_normal())
        for delay, gain in (
            (0.0, 1.0),
            (toe * np.exp(0.1 * rng.standard_normal()), dsp.uniform(rng, 0.15, 0.7)),
        ):
            x = impact(rng, feet[len(onsets) % 2], corner, knock * hard, surface.ring, sr)
            dsp.add(out, at + delay * sr, x, level * gain)
        dsp.add(out, at, scuff(rng, corner, sr), level * rub * dsp.uniform(rng, 0.5, 1.5))
        m = dsp.samples(0.4, sr)

        body = dsp.modes(m, np.array([thump_f]), np.array([slow]), np.array([1.0]), sr)
        dsp.add(out, at, body, level * thump)
        if surface.grains:
            dsp.add(
                out,
                at,
                crush(rng, surface, band, length, sr),
                level * surface.grains * dsp.log_uniform(rng, 0.7, 1.4),
            )
        t += period * np.exp(0.05 * rng.standard_normal())
    manner = "at a walk" if gait == "walking" else gait
    phrase = f"footsteps in {shoe} {manner} on {name}, {dsp.count_of(len(onsets), 'step')}"
    params = {"surface": name, "shoe": shoe, "gait": gait, "count": len(onsets), "period_s": round(period, 3)}
    return Source(out, phrase, params)
