"""Dog barks: glottal pulses with noise, through the formants of a short vocal tract that opens and shuts.

A bark is about 100-250 ms long; its pitch arches (up fast, down slowly), its mouth opens ("wow"), and the
smaller the dog the higher pitch and formants (Riede and Fitch 1999; Yeon 2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import OUTDOORS, Source, family

#: size: (pitch range in Hz, vocal tract length range in m, bark length range in s)
SIZES = {
    "very large": ((150, 320), (0.15, 0.20), (0.14, 0.32)),
    "large": ((240, 500), (0.12, 0.17), (0.12, 0.28)),
    "medium-sized": ((350, 720), (0.10, 0.15), (0.09, 0.24)),
    "small": ((480, 1000), (0.085, 0.12), (0.07, 0.20)),
    "tiny": ((750, 1500), (0.07, 0.1), (0.05, 0.16)),
}


@dataclass(frozen=True)
class Dog:
    """One animal: what stays the same from bark to bark."""

    pitch: float
    tract: float
    length: float
    rough: float
    breath: float
    bright: float
    arch: float


def voice(rng: Rng, dog: Dog, m: int, sr: int, contour: list[tuple[float, float]], open_at: float) -> Array:
    """Return ``m`` samples of the dog's voice along a relative pitch contour, mouth widest at ``open_at``."""
    f0 = dog.pitch * dsp.curve(m, contour, log=True)
    f0 *= np.exp(0.02 * dsp.wander(rng, m, 40, sr) + 0.12 * dog.rough * dsp.wander(rng, m, 90, sr))
    phase = 2 * np.pi * np.cumsum(f0) / sr
    glottis = dsp.pulses(phase, dog.bright)
    # subharmonic and chaotic phonation: every second pulse differs, and the pulse height is uneven
    glottis *= 1 + dog.rough * (0.6 * np.cos(phase / 2) + 0.5 * dsp.wander(rng, m, 300, sr))
    glottis = np.diff(glottis, prepend=glottis[0]) * sr / (2 * np.pi * dog.pitch * max(dog.bright, 1) ** 0.5)
    source = glottis + dog.breath * rng.standard_normal(m) * (0.3 + dsp.pulses(phase, 1.0))
    second = dsp.uniform(rng, 0.3, 1.2)
    formant = 343.0 / (4 * dog.tract)
    opening = dsp.curve(m, [(0, 0.1), (open_at, 1.0), (1, 0.15)])
    out = np.zeros(m)
    for state, mix in ((0.72, 1 - opening), (1.15, opening)):
        y = np.zeros(m)
        for k, gain in ((1, 1.0), (3, second), (5, 0.3 * second), (7, 0.1 * second)):
            f = formant * k * (state if k < 5 else 1)
            y += gain * dsp.resonate(source, f, 120 + 0.2 * f, sr)
        out += mix * y
    return out * (0.4 + opening)


def bark(rng: Rng, dog: Dog, sr: int) -> Array:
    """Return one bark."""
    m = dsp.samples(dog.length * np.exp(0.12 * rng.standard_normal()), sr)
    top = dsp.uniform(rng, 0.15, 0.4)
    contour = [(0, 1 - 0.4 * dog.arch), (top, 1 + 0.25 * dog.arch), (1, max(0.3, 1 - 0.55 * dog.arch))]
    x = voice(rng, dog, m, sr, contour, dsp.uniform(rng, 0.25, 0.5))
    attack = dsp.uniform(rng, 0.05, 0.2)
    env = dsp.curve(m, [(0, 0.0), (attack, 1.0), (dsp.uniform(rng, 0.4, 0.65), 0.7), (1, 0.0)])
    return x * env * np.exp(0.15 * rng.standard_normal())


def drawn_out(rng: Rng, dog: Dog, sr: int, kind: str) -> Array:
    """Return a growl (slow, rough pulses), a howl or a whine (long, tonal)."""
    m = dsp.samples(dsp.uniform(rng, 0.5, 1.3), sr)
    slow = {"growl": 0.3, "howl": 1.0, "whine": 1.6}[kind]
    rough = max(dog.rough, 0.7) if kind == "growl" else 0.1 * dog.rough
    tonal = Dog(dog.pitch * slow, dog.tract, dog.length, rough, 0.3 * dog.breath, dog.bright, dog.arch)
    rise = dsp.uniform(rng, 0.9, 1.4)
    x = voice(rng, tonal, m, sr, [(0, 0.8), (0.3, rise), (1, dsp.uniform(rng, 0.6, 1.0))], 0.5)
    return x * dsp.curve(m, [(0, 0), (0.15, 1), (0.7, 0.8), (1, 0)])


def rhythm(rng: Rng, n: int, sr: int, shortest: float) -> tuple[list[int], str]:
    """Return bark onsets in samples and the word for the rhythm: single, regular, or in groups."""
    length = n / sr
    kind = dsp.pick(rng, ("single", "steady", "groups"), (0.5, 3, 2.5))
    t = dsp.uniform(rng, 0.0, 0.35) * min(length, 2)
    gap = shortest + dsp.log_uniform(rng, 0.08, 0.6)
    onsets = [t]
    if kind != "single":
        group = int(rng.integers(2, 5))
        while onsets[-1] < length - 0.1:
            pause = kind == "groups" and len(onsets) % group == 0
            step = gap * np.exp(0.12 * rng.standard_normal()) + pause * dsp.uniform(rng, 0.3, 1.2)
            onsets.append(onsets[-1] + step)
            if dsp.chance(rng, 0.04):
                break
        onsets = [t for t in onsets if t < length - 0.08] or [0.0]
    quick = kind == "steady" and gap < 0.4
    return [
        dsp.samples(t, sr) for t in onsets
    ], "quickly" if quick else "in groups" if kind == "groups" else ""


@family(
    "dog_bark", places={**OUTDOORS, "studio": 3, "small room": 2, "room": 2, "hall": 0.8, "garage": 0.5},
    loop=0.3, loop_seconds=(0.4, 2.0), snr=(14, 60), quiet=0.35, low_cut=(80, 350),
)  # fmt: skip
def dog_bark(rng: Rng, n: int, sr: int) -> Source:
    """A dog of some size barks one to a dozen times, sometimes with a growl, a howl or a whine."""
    size = dsp.pick(rng, tuple(SIZES), (1, 2.5, 3, 2.5, 1))
    pitch, tract, length = SIZES[size]
    dog = Dog(
        pitch=dsp.log_uniform(rng, *pitch),
        tract=dsp.uniform(rng, *tract),
        length=dsp.uniform(rng, *length),
        rough=dsp.uniform(rng, 0, 1) ** 2,
        breath=dsp.log_uniform(rng, 0.02, 0.6),
        bright=dsp.log_uniform(rng, 1.5, 14),
        arch=dsp.uniform(rng, 0.1, 0.9),
    )
    onsets, manner = rhythm(rng, n, sr, dog.length)
    out = np.zeros(n)
    for at in onsets:
        dsp.add(out, at, bark(rng, dog, sr))
    extra = dsp.pick(rng, ("", "growl", "howl", "whine"), (10, 1, 0.6, 0.6))
    if extra:
        dsp.add(
            out,
            rng.integers(0, max(1, n - sr // 2)),
            drawn_out(rng, dog, sr, extra),
            dsp.uniform(rng, 0.2, 0.8),
        )
    tone = "hoarse " if dog.rough > 0.6 else ""
    phrase = f"a {size} {tone}dog barking {dsp.times(len(onsets))}"
    phrase += f" {manner}" if manner else ""
    phrase += {"": "", "growl": " and growling", "howl": " and howling", "whine": " and whining"}[extra]
    return Source(
        out, phrase, {"size": size, "count": len(onsets), "pitch_hz": round(dog.pitch), "extra": extra}
    )
