"""Sneezes and coughs: bursts of breath noise, and the voice that goes along, through a vocal tract.

A cough is a burst when the glottis opens, a noisy outflow, and often a voiced end (Korpas et al. 1996).
A sneeze is one or more indrawn breaths, then a burst through the teeth or the nose that may end in a vowel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import BEDS, INDOORS, Source, family

#: speaker: (pitch range in Hz, vocal tract length range in m)
SPEAKERS = {
    "man": ((85, 190), (0.165, 0.19)),
    "woman": ((170, 330), (0.14, 0.16)),
    "child": ((250, 480), (0.105, 0.135)),
}

#: relative formants of a few vowels (F1..F4 over those of the neutral tube)
VOWELS = {"a": (1.45, 0.80, 1.0, 1.0), "schwa": (1.0, 1.0, 1.0, 1.0), "o": (0.95, 0.58, 0.98, 1.0),
          "u": (0.65, 0.55, 0.95, 1.0), "i": (0.58, 1.5, 1.15, 1.05)}  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """One person."""

    pitch: float
    tract: float
    voiced: float  #: how much voice goes with the breath
    rough: float
    bright: float


def tract(x: Array, who: Speaker, vowel: str, sr: int, wide: float = 1.0) -> Array:
    """Filter by the formants of a vowel; ``wide`` broadens them, as an open glottis does."""
    neutral = 350.0 / (4 * who.tract)
    out = 0.1 * x
    for k, (ratio, gain) in enumerate(zip(VOWELS[vowel], (1.0, 0.7, 0.7, 0.6), strict=True)):
        f = neutral * (2 * k + 1) * ratio
        out = out + gain * dsp.resonate(x, f, wide * (60 + 0.08 * f), sr)
    return out


def voice(rng: Rng, who: Speaker, m: int, sr: int, contour: list[tuple[float, float]]) -> Array:
    """Return glottal pulses along a relative pitch contour, with the roughness of a strained throat."""
    f0 = who.pitch * dsp.curve(m, contour, log=True)
    f0 *= np.exp(0.015 * dsp.wander(rng, m, 30, sr) + 0.12 * who.rough * dsp.wander(rng, m, 120, sr))
    phase = 2 * np.pi * np.cumsum(f0) / sr
    glottis = dsp.pulses(phase, who.bright) * (1 + who.rough * dsp.wander(rng, m, 150, sr))
    return dsp.unit(np.diff(glottis, prepend=glottis[0]))


def turbulence(rng: Rng, m: int, sr: int, low: float, high: float) -> Array:
    """Return breath noise in a band, of unit RMS."""
    return dsp.unit(dsp.butter(rng.standard_normal(m), "bandpass", (low, high), sr, 1))


def cough(rng: Rng, who: Speaker, sr: int) -> Array:
    """Return one cough: opening burst, outflow, voiced end."""
    m = dsp.samples(dsp.uniform(rng, 0.18, 0.5), sr)
    burst = dsp.uniform(rng, 0.03, 0.09) * sr / m
    flow = dsp.uniform(rng, 0.12, 0.5)
    env = dsp.curve(
        m,
        [
            (0, 0),
            (min(dsp.log_uniform(rng, 0.006, 0.04) * sr / m, 0.1), 1),
            (burst + 0.1, flow),
            (0.75, 0.5 * flow),
            (1, 0),
        ],
    )
    air = tract(
        turbulence(rng, m, sr, 250, dsp.log_uniform(rng, 3000, 9000)),
        who,
        dsp.pick(rng, ("a", "schwa", "u", "i")),
        sr,
        2.5,
    )
    air = dsp.unit(air) + dsp.log_uniform(rng, 0.05, 0.8) * turbulence(
        rng, m, sr, dsp.uniform(rng, 1200, 3500), 7000
    )
    x = air * env
    late = dsp.uniform(rng, 0.2, 0.6)
    hum = tract(
        voice(rng, who, m, sr, [(0, 1.0), (0.5, 1.25), (1, 0.8)]), who, dsp.pick(rng, ("a", "schwa", "o")), sr
    )
    gate = dsp.curve(m, [(0, 0.4), (late, 0.15), (min(late + 0.2, 0.9), 1), (1, 0)])
    x = x + who.voiced * dsp.log_uniform(rng, 0.6, 3) * dsp.unit(hum) * gate * (0.4 + env)
    return x * np.exp(0.15 * rng.standard_normal())


def inhale(rng: Rng, who: Speaker, sr: int) -> Array:
    """Return the indrawn "ah" before a sneeze: thin breath that swells, at times voiced."""
    m = dsp.samples(dsp.uniform(rng, 0.2, 0.7), sr)
    env = dsp.curve(m, [(0, 0), (0.7, 1), (0.9, 0.8), (1, 0)])
    x = dsp.unit(tract(turbulence(rng, m, sr, 500, 7000), who, dsp.pick(rng, ("a", "schwa")), sr, 2.0))
    high = Speaker(1.4 * who.pitch, who.tract, who.voiced, who.rough, who.bright)
    x = x + who.voiced * dsp.uniform(rng, 0, 1.5) * dsp.unit(
        tract(voice(rng, high, m, sr, [(0, 1), (1, 1.4)]), who, "a", sr)
    )
    return x * env * dsp.log_uniform(rng, 0.06, 0.5)


def explosion(rng: Rng, who: Speaker, sr: int) -> Array:
    """Return the "tchoo": a fricative through the teeth, then a vowel that dies away."""
    hiss = dsp.samples(dsp.uniform(rng, 0.06, 0.25), sr)
    m = hiss + dsp.samples(dsp.uniform(rng, 0.1, 0.5), sr)
    centre = dsp.log_uniform(rng, 1500, 4500)
    cut = hiss / m
    teeth = turbulence(rng, m, sr, 0.6 * centre, 2.2 * centre)
    x = teeth * dsp.curve(
        m,
        [
            (0, 0),
            (min(dsp.log_uniform(rng, 0.015, 0.12), cut / 2), 1),
            (cut, 0.6),
            (min(cut + 0.15, 0.95), 0.1),
            (1, 0),
        ],
    )
    vowel = dsp.pick(rng, ("u", "o", "a", "i"))
    air = dsp.unit(tract(turbulence(rng, m, sr, 200, 6000), who, vowel, sr, 1.5))
    after = dsp.curve(m, [(0, 0.3), (cut, 1), (0.5 + 0.5 * cut, 0.5), (1, 0)])
    x += dsp.uniform(rng, 0.1, 0.7) * air * after
    shout = Speaker(dsp.uniform(rng, 1.3, 2.2) * who.pitch, who.tract, who.voiced, who.rough, who.bright)
    sung = dsp.unit(tract(voice(rng, shout, m, sr, [(0, 1.1), (cut, 1.2), (1, 0.55)]), who, vowel, sr))
    return x + who.voiced * dsp.log_uniform(rng, 0.5, 4) * sung * after


def sneezes(rng: Rng, who: Speaker, n: int, sr: int) -> tuple[Array, int]:
    """Return one or more sneezes with their indrawn breaths."""
    out, t, count = np.zeros(n), dsp.uniform(rng, 0, 0.3) * min(n / sr, 2) / 2, 0
    most = int(rng.integers(1, 4))
    while count == 0 or (t < n / sr - 0.3 and count < most):
        for _ in range(int(rng.integers(0, 3))):
            if t < n / sr - 1.0:
                x = inhale(rng, who, sr)
                dsp.add(out, t * sr, x)
                t += len(x) / sr + dsp.uniform(rng, 0, 0.15)
        x = explosion(rng, who, sr)
        dsp.add(out, t * sr, x)
        t += len(x) / sr + dsp.uniform(rng, 0.1, 1.0)
        count += 1
    return out, count


def coughs(rng: Rng, who: Speaker, n: int, sr: int) -> tuple[Array, int]:
    """Return a fit of coughs: one or several close together, perhaps a second fit."""
    out, t, count = np.zeros(n), dsp.uniform(rng, 0, 0.4) * min(n / sr, 2) / 2, 0
    fit, most = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    while count == 0 or (t < n / sr - 0.15 and count < most):
        x = cough(rng, who, sr)
        dsp.add(out, t * sr, x)
        count += 1
        t += len(x) / sr + dsp.uniform(rng, 0.0, 0.2) + (count % fit == 0) * dsp.uniform(rng, 0.2, 1.2)
    return out, count


@family(
    "sneeze_cough", places={**INDOORS, "studio": 4.0, "outdoors": 0.7},
    backgrounds={**BEDS, "room tone": 4.0},
    loop=0.5, loop_seconds=(0.7, 2.2), snr=(12, 55), quiet=0.4, low_cut=(40, 180),
)  # fmt: skip
def sneeze_cough(rng: Rng, n: int, sr: int) -> Source:
    """A man, a woman or a child sneezes or coughs."""
    person = dsp.pick(rng, tuple(SPEAKERS), (3, 3, 1.5))
    pitch, length = SPEAKERS[person]
    who = Speaker(
        pitch=dsp.log_uniform(rng, *pitch),
        tract=dsp.uniform(rng, *length),
        voiced=dsp.uniform(rng, 0.05, 1.2),
        rough=0.7 * dsp.uniform(rng, 0, 1) ** 2,
        bright=dsp.log_uniform(rng, 3, 60),
    )
    kind = dsp.pick(rng, ("sneezing", "coughing"))
    out, count = (sneezes if kind == "sneezing" else coughs)(rng, who, n, sr)
    manner = "with a loud voice" if who.voiced > 0.8 else "without voice" if who.voiced < 0.2 else ""
    phrase = f"a {person} {kind} {dsp.times(count)} {manner}".rstrip()
    return Source(out, phrase, {"person": person, "kind": kind, "count": count, "pitch_hz": round(who.pitch)})
