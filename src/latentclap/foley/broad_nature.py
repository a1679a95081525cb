"""Further families from nature, beside the seven classes: air, water, fire, animals, voices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.breath import Speaker, tract, voice
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import INDOORS, OUTDOORS, Source, family

QUIET_AIR = {"hiss": 1.0, "room tone": 1.0, "wind": 1.0}


@family("wind", places=OUTDOORS, backgrounds=QUIET_AIR, quiet=0.7)
def wind(rng: Rng, n: int, sr: int) -> Source:
    """Gusts of turbulent air, at times whistling past an edge (Strouhal tones follow the wind's speed)."""
    strength = dsp.pick(rng, ("a light breeze", "a strong wind", "a howling storm"))
    gust = np.exp(dsp.uniform(rng, 0.2, 0.7) * dsp.wander(rng, n, dsp.uniform(rng, 0.5, 3), sr))
    x = dsp.coloured(rng, n, dsp.uniform(rng, -8, -4), sr) * gust
    edge = strength == "a howling storm" or dsp.chance(rng, 0.2)
    if edge:
        f = dsp.log_uniform(rng, 250, 1200)
        for k, tone in enumerate((0.8, 1.0, 1.25)):  # three narrow bands, mixed by the speed of the air
            band = dsp.unit(dsp.resonate(rng.standard_normal(n), f * tone, 0.03 * f, sr))
            near = np.exp(-2 * (np.log(gust) / np.log(gust).std() - (k - 1)) ** 2)
            x += dsp.log_uniform(rng, 0.2, 1.5) * band * near * gust
    return Source(x, strength + (" whistling round a corner" if edge else ""), {"strength": strength})


@family("stream", places=OUTDOORS, backgrounds={"birds": 1.0, "wind": 1.0, "hiss": 0.5}, quiet=0.6)
def stream(rng: Rng, n: int, sr: int) -> Source:
    """Running water: a dense shower of bubbles, each a short rising tone (Minnaert), over soft noise."""
    kind, rate, low, high = dsp.pick(
        rng, (("a dripping tap", 3, 400, 2000), ("a trickle of water", 60, 500, 4000),
              ("a babbling brook", 400, 300, 3500), ("a rushing river", 3000, 150, 3000)),
    )  # fmt: skip
    bubbles = []
    for _ in range(12 if rate > 100 else 6):
        t60 = dsp.uniform(rng, 0.01, 0.08)
        m = dsp.samples(t60, sr)
        f = dsp.log_uniform(rng, low, high) * np.linspace(1, dsp.uniform(rng, 1, 1.5), m)
        bubbles.append(np.sin(2 * np.pi * np.cumsum(f) / sr) * dsp.decay(m, t60, sr, 0.002))
    x = dsp.unit(dsp.shower(rng, n, rate * dsp.log_uniform(rng, 0.6, 1.6), bubbles, sr, 0.9))
    x += (
        dsp.log_uniform(rng, 0.02, 0.3)
        * (rate / 400) ** 0.5
        * dsp.coloured(rng, n, dsp.uniform(rng, -4, -1), sr)
    )
    return Source(x, kind, {"kind": kind})


@family("sea_waves", places=OUTDOORS, backgrounds={"wind": 2.0, "birds": 0.5, "hiss": 0.5}, quiet=0.5)
def sea_waves(rng: Rng, n: int, sr: int) -> Source:
    """Breakers that swell, crash and run out: noise whose highs come with the foam."""
    shore = dsp.pick(rng, ("sand", "pebbles", "rocks"))
    rumble = dsp.coloured(rng, n, -5, sr)
    foam = dsp.butter(
        rng.standard_normal(n), "highpass", {"sand": 1200, "pebbles": 2000, "rocks": 800}[shore], sr, 1
    )
    period, start = dsp.uniform(rng, 2.5, 7), dsp.uniform(rng, -2.0, 2.0)
    phase = ((np.arange(n) / sr - start) / period) % 1.0
    swell = np.where(phase < 0.3, (phase / 0.3) ** 2, np.exp(-(phase - 0.3) * dsp.uniform(rng, 2, 6)))
    late = np.where(phase < 0.35, (phase / 0.35) ** 4, np.exp(-(phase - 0.35) * dsp.uniform(rng, 1.5, 5)))
    x = rumble * (0.2 + swell) + dsp.log_uniform(rng, 0.1, 0.8) * dsp.unit(foam) * (0.1 + late)
    return Source(x, f"sea waves breaking on {shore}", {"shore": shore, "period_s": round(period, 1)})


@family("fire", places={**OUTDOORS, "room": 1.0}, backgrounds=QUIET_AIR, quiet=0.5)
def fire(rng: Rng, n: int, sr: int) -> Source:
    """A fire: crackles and snaps of wood over the low flutter of the flame."""
    kind, rate = dsp.pick(rng, (("a small fire", 12), ("a campfire", 40), ("a blazing fire", 150)))
    snaps = []
    for _ in range(6):
        m = dsp.samples(0.03, sr)
        snap = rng.standard_normal(m) * dsp.decay(m, dsp.log_uniform(rng, 0.002, 0.025), sr)
        f = dsp.log_uniform(rng, 600, 6000)
        snaps.append(dsp.peak_one(dsp.butter(snap, "bandpass", (0.5 * f, 2 * f), sr, 1)))
    crackle = dsp.shower(rng, n, rate * dsp.log_uniform(rng, 0.5, 2), snaps, sr, 1.2)
    flutter = dsp.coloured(rng, n, -7, sr) * np.exp(0.5 * dsp.wander(rng, n, 9, sr))
    roar = dsp.coloured(rng, n, -3, sr) * dsp.log_uniform(rng, 0.02, 0.3)
    x = dsp.unit(crackle) + dsp.log_uniform(rng, 0.05, 1.0) * flutter + roar
    return Source(x, f"{kind} crackling", {"kind": kind})


@family("birds", places=OUTDOORS, backgrounds={"wind": 1.0, "traffic": 1.0, "hiss": 1.0}, quiet=0.3)
def birds(rng: Rng, n: int, sr: int) -> Source:
    """Songbirds: phrases of whistled syllables that glide and trill, repeated with small changes."""
    singers = int(rng.integers(1, 4))
    out = np.zeros(n)
    for _ in range(singers):
        base = dsp.log_uniform(rng, 1500, 6000)
        syllable = [
            (0, dsp.uniform(rng, 0.7, 1.4)),
            (0.5, dsp.uniform(rng, 0.7, 1.4)),
            (1, dsp.uniform(rng, 0.7, 1.4)),
        ]
        length, gap, trill = (
            dsp.uniform(rng, 0.04, 0.25),
            dsp.uniform(rng, 0.02, 0.3),
            dsp.uniform(rng, 0, 0.08),
        )
        t, sung = dsp.uniform(rng, 0, 1), 0
        level = dsp.log_uniform(rng, 0.2, 1)
        while t < n / sr:
            m = dsp.samples(length * dsp.uniform(rng, 0.8, 1.2), sr)
            f = base * dsp.curve(m, syllable) * (1 + trill * np.sin(2 * np.pi * 35 * np.arange(m) / sr))
            phase = 2 * np.pi * np.cumsum(f) / sr
            dsp.add(out, t * sr, (np.sin(phase) + 0.1 * np.sin(2 * phase)) * np.hanning(m), level)
            sung += 1
            t += length + gap + (sung % 6 == 0) * dsp.uniform(rng, 0.2, 1.2)
    words = ("a bird", "two birds", "three birds")[singers - 1]
    return Source(out, f"{words} singing", {"singers": singers})


def _cries(
    rng: Rng, n: int, sr: int, make: Callable[[], Array], pause: tuple[float, float]
) -> tuple[Array, int]:
    out, t, count = np.zeros(n), min(dsp.uniform(rng, 0, 0.4), 0.25 * n / sr), 0
    while count == 0 or t < n / sr - 0.1:
        x = make()
        dsp.add(out, t * sr, x)
        t, count = t + len(x) / sr + dsp.uniform(rng, *pause), count + 1
    return out, count


@family("rooster", places=OUTDOORS, backgrounds={"birds": 1.0, "wind": 1.0, "hiss": 1.0}, quiet=0.4, loop=0.3)
def rooster(rng: Rng, n: int, sr: int) -> Source:
    """A cock crows: three short notes and a long one that falls, rich in harmonics."""
    who = Speaker(
        dsp.log_uniform(rng, 380, 700), dsp.uniform(rng, 0.08, 0.13), 1.0, 0.2, dsp.log_uniform(rng, 8, 40)
    )

    def crow() -> Array:
        notes = []
        for length, pitch in ((0.12, 0.8), (0.15, 1.0), (0.2, 1.25), (dsp.uniform(rng, 0.5, 1.1), 1.3)):
            m = dsp.samples(length * dsp.uniform(rng, 0.8, 1.2), sr)
            glide = [(0, 0.85 * pitch), (0.2, pitch), (1, pitch * (0.6 if length > 0.4 else 0.95))]
            note = dsp.unit(tract(voice(rng, who, m, sr, glide), who, "a", sr))
            notes += [
                note * dsp.curve(m, [(0, 0), (0.15, 1), (0.7, 0.8), (1, 0)]),
                np.zeros(dsp.samples(0.04, sr)),
            ]
        return np.concatenate(notes)

    out, count = _cries(rng, n, sr, crow, (0.5, 2.0))
    return Source(out, f"a rooster crowing {dsp.times(count)}", {"count": count})


@family("baby_cry", places=INDOORS, quiet=0.4)
def baby_cry(rng: Rng, n: int, sr: int) -> Source:
    """An infant cries: long arched voiced wails at 350-600 Hz, with breath between."""
    mood = dsp.pick(rng, ("softly", "loudly", "hoarsely"))
    rough = {"softly": 0.05, "loudly": 0.2, "hoarsely": 0.8}[mood]
    who = Speaker(
        dsp.log_uniform(rng, 330, 600), dsp.uniform(rng, 0.08, 0.1), 1.0, rough, dsp.log_uniform(rng, 5, 40)
    )

    def wail() -> Array:
        m = dsp.samples(dsp.uniform(rng, 0.4, 1.4), sr)
        x = voice(
            rng, who, m, sr, [(0, 0.75), (0.25, dsp.uniform(rng, 1.0, 1.3)), (1, dsp.uniform(rng, 0.6, 0.9))]
        )
        x = dsp.unit(tract(x, who, dsp.pick(rng, ("a", "schwa")), sr)) + 0.05 * rng.standard_normal(m)
        return x * dsp.curve(m, [(0, 0), (0.1, 1), (0.75, 0.8), (1, 0)])

    out, count = _cries(rng, n, sr, wail, (0.1, 0.5))
    return Source(out, f"a baby crying {mood}", {"mood": mood, "count": count})
