"""Gunshots: muzzle blast, for supersonic bullets an N-wave before it, then the tail of the place.

The blast is Friedlander's pressure wave p(t) = (1 - t/T) exp(-b t/T); the ballistic shock is an N of some
hundred microseconds (Maher 2007). Hot gas makes noise after it; the place answers with echoes and a tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import OUTDOORS, Source, family


@dataclass(frozen=True)
class Gun:
    """Ranges of one kind of weapon."""

    blast: tuple[float, float]  #: positive phase T, ms
    gas: tuple[float, float]  #: t60 of the gas noise, s
    supersonic: float  #: probability
    rate: tuple[float, float]  #: shots per second
    burst: tuple[int, int]


GUNS = {
    "a pistol": Gun((0.3, 1.0), (0.02, 0.18), 0.3, (0.5, 3.0), (1, 7)),
    "a revolver": Gun((0.4, 1.2), (0.03, 0.25), 0.2, (0.5, 2.0), (1, 6)),
    "a rifle": Gun((0.5, 1.6), (0.03, 0.35), 0.8, (0.3, 1.5), (1, 4)),
    "a shotgun": Gun((0.9, 2.5), (0.12, 0.45), 0.1, (0.3, 1.2), (1, 3)),
    "a machine gun": Gun((0.4, 1.4), (0.05, 0.16), 0.6, (7.0, 15.0), (3, 40)),
    "a submachine gun": Gun((0.3, 0.9), (0.03, 0.12), 0.2, (9.0, 18.0), (3, 40)),
    "a cannon": Gun((2.5, 7.0), (0.4, 1.5), 0.0, (0.2, 0.6), (1, 2)),
}


def shot(rng: Rng, gun: Gun, near: float, gas_t60: float, bright: float, sonic: bool, sr: int) -> Array:
    """Return one dry shot; ``near`` 0..1 scales how sharp its first millisecond is."""
    m = dsp.samples(min(gas_t60, 1.0) + 0.03, sr)
    phase = dsp.uniform(rng, *gun.blast) * 1e-3 * (2.5 - 1.5 * near)
    t = np.arange(m) / sr / phase
    x = dsp.log_uniform(rng, 0.5, 2) * (1 - t) * np.exp(-dsp.uniform(rng, 0.8, 1.6) * t)
    noise = dsp.butter(rng.standard_normal(m), "lowpass", bright, sr, 1)
    x += noise * dsp.decay(m, gas_t60, sr, 0.0004) * dsp.uniform(rng, 0.5, 1.5)
    low = dsp.butter(rng.standard_normal(m), "lowpass", dsp.uniform(rng, 200, 900), sr, 1)
    x += dsp.unit(low) * dsp.decay(m, 1.3 * gas_t60, sr, 0.003) * dsp.uniform(rng, 0.05, 0.6)
    k = dsp.samples(dsp.uniform(rng, 0.0015, 0.008), sr)  # reflection from the ground
    x[k:] += dsp.uniform(rng, 0.2, 0.7) * x[:-k].copy()
    if sonic:
        w = max(3, dsp.samples(dsp.uniform(rng, 0.0002, 0.0006), sr))
        lead = dsp.samples(dsp.uniform(rng, 0.002, 0.06), sr)
        x = np.concatenate([np.zeros(lead), x])
        dsp.add(x, 0, np.linspace(1, -1, w), dsp.uniform(rng, 0.5, 2.0))
    return x


def tail(rng: Rng, t60: float, dark: float, echoes: int, sr: int) -> Array:
    """Return the answer of open land: a diffuse tail whose highs die first, and a few echoes."""
    m = dsp.samples(min(t60, 3.0), sr)
    noise = rng.standard_normal(m)
    swell = dsp.log_uniform(rng, 0.003, 0.1)
    out = dsp.unit(dsp.butter(noise, "lowpass", dark / 3, sr, 1)) * dsp.decay(m, t60, sr, swell)
    out += dsp.unit(dsp.butter(noise, "lowpass", 1.5 * dark, sr, 1)) * dsp.decay(m, 0.55 * t60, sr, swell)

    late = np.zeros(dsp.samples(dsp.log_uniform(rng, 0.002, 0.12), sr))
    out = np.concatenate([late, out])
    k = dsp.samples(0.03, sr)
    for _ in range(echoes):
        puff = dsp.butter(rng.standard_normal(k), "lowpass", dark, sr, 1) * dsp.decay(k, 0.04, sr, 0.004)
        dsp.add(out, dsp.samples(dsp.uniform(rng, 0.06, 0.7), sr), puff, dsp.uniform(rng, 0.3, 3.0))
    return dsp.butter(out, "highpass", dsp.log_uniform(rng, 40, 400), sr, 2)


def action(rng: Rng, sr: int) -> Array:
    """Return the metallic rattle of a bolt or a falling case."""
    m = dsp.samples(0.12, sr)
    freqs = np.exp(rng.uniform(np.log(1200), np.log(7000), 6))
    x = dsp.modes(m, freqs, rng.uniform(0.01, 0.08, 6), rng.random(6), sr)
    return x + np.concatenate([np.zeros(m // 3), 0.7 * x[: m - m // 3]])


@family(
    "gunshot",
    places={**OUTDOORS, "studio": 4, "room": 1, "hall": 1, "garage": 1},
    backgrounds={"hiss": 2, "room tone": 1, "wind": 1.5, "traffic": 0.7, "birds": 0.7, "rumble": 0.7},
    loop=0.65, loop_seconds=(0.4, 2.6), snr=(24, 60), quiet=0.7, low_cut=(20, 120),
)  # fmt: skip
def gunshot(rng: Rng, n: int, sr: int) -> Source:
    """One of seven weapons fires single shots or bursts, near or far, with more or less of a tail."""
    name = dsp.pick(rng, tuple(GUNS), (3.5, 1.5, 3.5, 2, 1.5, 1, 0.5))
    gun = GUNS[name]
    near = dsp.uniform(rng, 0, 1) if dsp.chance(rng, 0.25) else 1.0
    gas = 0.75 * dsp.log_uniform(rng, *gun.gas)
    bright = dsp.log_uniform(rng, 1200, 9000) * (0.25 + 0.75 * near)
    sonic = dsp.chance(rng, gun.supersonic) and near > 0.3
    most = (
        int(rng.integers(gun.burst[0], gun.burst[1] + 1)) if gun.burst[0] > 1 or dsp.chance(rng, 0.35) else 1
    )
    gap = 1 / dsp.log_uniform(rng, *gun.rate)
    dry, onsets, t = np.zeros(n), [], dsp.uniform(rng, 0, 0.03)
    reports = [shot(rng, gun, near, gas, bright, sonic, sr) for _ in range(min(most, 3))]
    while t < n / sr - 0.05 and len(onsets) < most:
        dsp.add(
            dry, dsp.samples(t, sr), reports[len(onsets) % len(reports)], np.exp(0.08 * rng.standard_normal())
        )
        onsets.append(t)
        t += gap * np.exp(0.02 * rng.standard_normal())
    length = dsp.log_uniform(rng, 0.25, 2.5)
    level = dsp.log_uniform(rng, 0.003, 0.035) * (3 - 2 * near)
    answer = tail(
        rng, length, dsp.log_uniform(rng, 1000, 7000) * (0.3 + 0.7 * near), int(rng.integers(0, 5)), sr
    )
    out = dry + level * dsp.convolve(dry, answer)
    if near > 0.9 and dsp.chance(rng, 0.4):
        dsp.add(
            out,
            dsp.samples(onsets[-1] + dsp.uniform(rng, 0.08, 0.4), sr),
            action(rng, sr),
            dsp.log_uniform(rng, 0.02, 0.2),
        )
    if dsp.chance(rng, 0.5):  # the microphone overloads, as it nearly always does near a gun
        out = np.tanh(dsp.log_uniform(rng, 1.2, 8) * dsp.peak_one(out))
    far = "nearby" if near > 0.7 else "far away" if near < 0.35 else "at some distance"
    phrase = f"{name} firing {dsp.times(len(onsets))} {far}"
    phrase += " with a long echo" if length > 1.3 else ""
    params = {
        "weapon": name,
        "count": len(onsets),
        "near": round(near, 2),
        "tail_s": round(length, 2),
        "supersonic": sonic,
    }
    return Source(out, phrase, params)
