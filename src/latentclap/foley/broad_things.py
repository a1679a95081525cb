"""Further families of things, beside the seven classes: bells, clocks, doors, glass, machines."""

from __future__ import annotations

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import ANYWHERE, INDOORS, OUTDOORS, Source, family

#: Partials of a tuned church bell over its prime: hum, prime, tierce, quint, nominal, and above.
BELL = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 3.01, 4.17])
#: A free bar (chime, glass rim): the squares of odd numbers, about.
BAR = np.array([1.0, 2.756, 5.404, 8.933, 13.34])
#: clock: (seconds between ticks, lowest mode in Hz)
CLOCKS = {
    "a wall clock": (1.0, 600),
    "a grandfather clock": (0.9, 250),
    "an alarm clock": (0.25, 1200),
    "a watch": (0.2, 3000),
}
#: whistle: (pitch range in Hz, bend, trill, chord)
WHISTLES = {
    "a referee's whistle": ((2300, 4000), 0.04, 1.0, (1.0, 2.0)),
    "a person whistling": ((700, 2200), 0.35, 0.0, (1.0, 2.0)),
    "a train whistle": ((300, 700), 0.04, 0.0, (1.0, 1.26, 1.5)),
}


def strokes(rng: Rng, n: int, sr: int, period: float, jitter: float = 0.02) -> Array:
    """Return the onsets (samples) of blows that come every ``period`` seconds, more or less."""
    gaps = period * np.exp(jitter * rng.standard_normal(int(n / sr / period) + 2))
    onsets = dsp.uniform(rng, 0.0, 0.6 * min(period, 1.0)) + np.concatenate([[0.0], np.cumsum(gaps)])
    return (onsets[onsets < max(n / sr - 0.05, 0.01)] * sr).astype(int)


@family("bell", places=ANYWHERE, quiet=0.4)
def bell(rng: Rng, n: int, sr: int) -> Source:
    """A church bell, a hand bell or chimes: inharmonic partials, the higher the shorter."""
    kind, low, high, ring = dsp.pick(
        rng, (("a church bell", 120, 500, 6.0),
              ("a hand bell", 700, 2500, 1.5), ("wind chimes", 500, 2500, 2.0)),
    )  # fmt: skip
    ratios = BAR if kind == "wind chimes" else BELL
    out, at = (
        np.zeros(n),
        strokes(rng, n, sr, dsp.log_uniform(rng, 0.3, 2.5), 0.5 if kind == "wind chimes" else 0.03),
    )
    base = dsp.log_uniform(rng, low, high)
    freqs = base * ratios * np.exp(0.006 * rng.standard_normal(len(ratios)))
    t60, gains = ring * ratios**-0.8 * dsp.uniform(rng, 0.5, 1.3), rng.random(len(ratios))
    for i in at:
        shift = 2 ** (int(rng.integers(0, 12)) / 12) if kind == "wind chimes" else 1.0
        x = dsp.modes(min(n - i, dsp.samples(2.5, sr)), freqs * shift, t60, gains, sr)
        dsp.add(out, i, dsp.fades(x, sr, 0.0005, 0.02), np.exp(0.3 * rng.standard_normal()))
    phrase = f"{kind} ringing {dsp.times(len(at))}"
    return Source(out, phrase, {"kind": kind, "count": len(at), "prime_hz": round(base)})


@family("clock_tick", places=INDOORS, quiet=0.5)
def clock_tick(rng: Rng, n: int, sr: int) -> Source:
    """A clock: tick and tock of an escapement, each a few tiny clicks on a case."""
    kind = dsp.pick(rng, tuple(CLOCKS))
    period, low = CLOCKS[kind]
    out, m = np.zeros(n), dsp.samples(0.12, sr)
    sides = []
    for _ in range(2):
        freqs = dsp.log_uniform(rng, low, 2.5 * low) * np.array([1, 1.7, 2.9, 4.3])
        tick = dsp.modes(m, freqs, rng.uniform(0.01, 0.07, 4), rng.random(4), sr)
        click = rng.standard_normal(m) * dsp.decay(m, 0.006, sr)
        sides.append(tick + dsp.uniform(rng, 0.2, 1) * np.roll(click, int(rng.integers(0, m // 10))))
    at = strokes(rng, n, sr, period * dsp.uniform(rng, 0.85, 1.15), 0.003)
    for k, i in enumerate(at):
        dsp.add(out, i, sides[k % 2], np.exp(0.08 * rng.standard_normal()))
    return Source(out, f"{kind} ticking {dsp.times(len(at))}", {"kind": kind, "count": len(at)})


@family("door", places=INDOORS, quiet=0.4)
def door(rng: Rng, n: int, sr: int) -> Source:
    """A door: knocks, a slam with its latch, or a creak (stick-slip pulses through the panel)."""
    action = dsp.pick(rng, ("knocking on", "slamming", "creaking of"))
    stuff = dsp.pick(rng, ("wooden", "metal", "heavy"))
    freqs = dsp.log_uniform(rng, 60, 200) * np.exp(np.cumsum(rng.uniform(0.1, 0.5, 8)))
    t60 = rng.uniform(0.05, 0.2, 8) * {"wooden": 1, "metal": 4, "heavy": 1.5}[stuff]
    gains, out, m = rng.random(8) / np.arange(1, 9) ** 0.5, np.zeros(n), dsp.samples(0.8, sr)
    if action == "creaking of":
        rate = dsp.curve(
            n, [(0, 20), (0.3, dsp.uniform(rng, 60, 300)), (0.7, dsp.uniform(rng, 40, 250)), (1, 15)]
        )
        slip = dsp.pulses(2 * np.pi * np.cumsum(rate * np.exp(0.15 * dsp.wander(rng, n, 20, sr))) / sr, 80)
        panel = dsp.modes(dsp.samples(0.2, sr), 3 * freqs, 0.4 * t60, gains, sr)
        x = dsp.convolve(np.diff(slip, prepend=0), panel)
        return Source(
            x * dsp.curve(n, [(0, 0), (0.2, 1), (0.8, 0.8), (1, 0)]),
            f"a {stuff} door creaking",
            {"stuff": stuff},
        )
    knocks = action == "knocking on"
    at = strokes(rng, n, sr, dsp.uniform(rng, 0.18, 0.5) if knocks else dsp.uniform(rng, 1.5, 3), 0.05)
    at = at[: int(rng.integers(2, 7))] if knocks else at
    for i in at:
        blow = rng.standard_normal(m) * dsp.decay(m, 0.03 if knocks else 0.2, sr)
        x = dsp.modes(m, freqs, t60, gains * np.exp(0.2 * rng.standard_normal(8)), sr)
        dsp.add(
            out, i, x + 0.5 * dsp.butter(blow, "lowpass", 1200, sr, 1), np.exp(0.15 * rng.standard_normal())
        )
    phrase = f"knocking on a {stuff} door" if knocks else f"a {stuff} door slamming"
    return Source(out, f"{phrase}, {dsp.count_of(len(at), 'blow')}", {"stuff": stuff, "count": len(at)})


@family("glass", places=INDOORS, quiet=0.5, loop=0.3)
def glass(rng: Rng, n: int, sr: int) -> Source:
    """Glass: clinks of a rim, or a break: a crash and a scatter of ringing shards."""
    breaks = dsp.chance(rng, 0.5)
    base = dsp.log_uniform(rng, 900, 3500)
    out, m = np.zeros(n), dsp.samples(0.5, sr)
    if breaks:
        start, shards = int(dsp.uniform(rng, 0, 0.4) * min(n, sr)), int(rng.integers(20, 70))
        at = start + (rng.exponential(dsp.uniform(rng, 0.08, 0.3), shards) * sr).astype(int)
        crash = dsp.butter(rng.standard_normal(m) * dsp.decay(m, 0.15, sr), "highpass", 800, sr, 1)
        dsp.add(out, start, crash)
    else:
        at = strokes(rng, n, sr, dsp.log_uniform(rng, 0.25, 1.5), 0.2)
    for i in at:
        f = base * (dsp.log_uniform(rng, 0.7, 3.0) if breaks else 1.0) * BAR[:4]
        x = dsp.modes(m, f, rng.uniform(0.03, 0.5, 4) / np.arange(1, 5) ** 0.5, rng.random(4), sr)
        dsp.add(out, i, dsp.fades(x, sr, 0.0004), dsp.log_uniform(rng, 0.05, 0.6) if breaks else 1.0)
    phrase = "glass breaking" if breaks else f"a glass clinking {dsp.times(len(at))}"
    return Source(out, phrase, {"breaks": breaks, "hz": round(base)})


@family("whistle", places=ANYWHERE, quiet=0.4)
def whistle(rng: Rng, n: int, sr: int) -> Source:
    """A whistle: a tone with breath noise in its band; the pea of a referee's whistle makes it trill."""
    kind = dsp.pick(rng, tuple(WHISTLES))
    pitch, bend, pea, chord = WHISTLES[kind]
    base = dsp.log_uniform(rng, *pitch)
    weights = [1.0 if kind == "a train whistle" or k == 0 else 0.15 for k in range(len(chord))]
    out = np.zeros(n)
    at = strokes(rng, n, sr, dsp.uniform(rng, 0.5, 1.6), 0.2)
    for i in at:
        m = dsp.samples(dsp.uniform(rng, 0.2, 1.2), sr)
        f = base * dsp.curve(
            m, [(0, 1 - bend / 2), (0.3, 1 + bend * rng.standard_normal() / 2), (1, 1 - bend / 3)]
        )
        trill = pea * np.sin(2 * np.pi * dsp.uniform(rng, 25, 60) * np.arange(m) / sr)
        phase = 2 * np.pi * np.cumsum(f * (1 + 0.02 * trill)) / sr
        x = sum(w * np.sin(c * phase) for w, c in zip(weights, chord, strict=True)) * (1 + 0.5 * trill)
        air = dsp.unit(dsp.resonate(rng.standard_normal(m), base, 0.2 * base, sr))
        x = x + dsp.log_uniform(rng, 0.05, 0.5) * air
        dsp.add(out, i, x * dsp.curve(m, [(0, 0), (0.08, 1), (0.85, 0.9), (1, 0)]))
    return Source(out, f"{kind} {dsp.times(len(at))}", {"kind": kind, "hz": round(base)})


@family("alarm", places=ANYWHERE, quiet=0.4)
def alarm(rng: Rng, n: int, sr: int) -> Source:
    """An alarm: beeps, a siren that sweeps, or a two-tone horn, with hard harmonics."""
    kind = dsp.pick(rng, ("an alarm beeping", "a siren wailing", "a two-tone siren", "a buzzer"))
    t, base = np.arange(n) / sr, dsp.log_uniform(rng, 350, 2800)
    rate = dsp.log_uniform(rng, 0.5, 6)
    gate = np.ones(n)
    f = np.full(n, base)
    if kind == "an alarm beeping":
        gate = dsp.butter(((t * rate) % 1 < dsp.uniform(rng, 0.2, 0.7)).astype(float), "lowpass", 200, sr, 1)
    elif kind == "a siren wailing":
        f = base * 2 ** (0.5 * np.sin(2 * np.pi * 0.3 * rate * t))
    elif kind == "a two-tone siren":
        f = base * np.where((t * 0.5 * rate) % 1 < 0.5, 1.0, 1.335)
    else:
        f = np.full(n, base / 6)
    phase = 2 * np.pi * np.cumsum(f) / sr
    top = 0.45 * sr / f.max()
    tilt, step = dsp.uniform(rng, 0.7, 1.8), int(rng.integers(1, 3))
    x = sum(np.sin(k * phase) / k**tilt for k in range(1, 9, step) if k < top)
    return Source(x * gate, kind, {"kind": kind, "hz": round(base), "rate": round(rate, 2)})


@family(
    "helicopter",
    places=OUTDOORS,
    backgrounds={"wind": 1.0, "hiss": 1.0, "rumble": 1.0},
    quiet=0.5,
    snr=(15, 50),
)
def helicopter(rng: Rng, n: int, sr: int) -> Source:
    """A helicopter: thumps at the blade rate with noise chopped by them, tail rotor and turbine whine."""
    where = dsp.pick(rng, ("flying overhead", "hovering", "far away"))
    rate = dsp.uniform(rng, 9, 26)
    phase = 2 * np.pi * np.cumsum(rate * np.exp(0.01 * dsp.wander(rng, n, 1, sr))) / sr
    slap = dsp.pulses(phase, dsp.log_uniform(rng, 3, 60))
    thump = dsp.butter(np.diff(slap, prepend=slap[0]), "lowpass", dsp.log_uniform(rng, 150, 900), sr, 1)
    chop = dsp.coloured(rng, n, dsp.uniform(rng, -5, -2), sr) * (0.15 + slap)
    tail = np.sin(phase * dsp.uniform(rng, 4, 7)) + 0.5 * np.sin(phase * dsp.uniform(rng, 60, 130))
    x = (
        dsp.unit(thump)
        + dsp.log_uniform(rng, 0.2, 1.5) * dsp.unit(chop)
        + dsp.log_uniform(rng, 0.02, 0.3) * tail
    )
    if where == "far away":
        x = dsp.butter(x, "lowpass", dsp.uniform(rng, 300, 1000), sr, 1)
    if where == "flying overhead":
        x = x * dsp.curve(n, [(0, 0.4), (dsp.uniform(rng, 0.3, 0.7), 1), (1, 0.4)])
    return Source(x, f"a helicopter {where}", {"where": where, "blades_per_second": round(rate, 1)})


def chainsaw(rng: Rng, n: int, sr: int) -> Source:
    """Make a chain saw: a firing per turn, the ring of its small body, the noise of the chain."""
    pulls = [(0, 0.6), (0.25, dsp.uniform(rng, 0.8, 1)), (0.6, dsp.uniform(rng, 0.5, 1)), (1, 0.8)]
    f = dsp.log_uniform(rng, 70, 190) * dsp.curve(n, pulls) * np.exp(0.02 * dsp.wander(rng, n, 15, sr))
    phase = 2 * np.pi * np.cumsum(f) / sr
    fire = dsp.pulses(phase, dsp.log_uniform(rng, 20, 200)) * (1 + 0.3 * dsp.wander(rng, n, 200, sr))
    x = dsp.unit(np.diff(fire, prepend=fire[0]))
    for _ in range(3):
        ring = dsp.unit(dsp.resonate(x, dsp.log_uniform(rng, 300, 3500), 200, sr))
        x = x + dsp.uniform(rng, 0.3, 1) * ring
    x = x + dsp.log_uniform(rng, 0.1, 0.8) * dsp.unit(dsp.coloured(rng, n, -1, sr) * (0.3 + fire))
    return Source(x, "a chainsaw running", {"kind": "chainsaw", "hz": round(float(f.mean()))})


@family("saw", places={**OUTDOORS, "garage": 2.0}, quiet=0.5, snr=(12, 55))
def saw(rng: Rng, n: int, sr: int) -> Source:
    """A hand saw (noise chopped by its teeth) or a chain saw (a small two-stroke engine)."""
    if dsp.chance(rng, 0.6):
        return chainsaw(rng, n, sr)
    out, pace = np.zeros(n), dsp.uniform(rng, 0.25, 0.7)
    at = strokes(rng, n, sr, pace, 0.05)
    for k, i in enumerate(at):
        m = dsp.samples(0.85 * pace, sr)
        teeth = dsp.pulses(2 * np.pi * np.cumsum(dsp.curve(m, [(0, 60), (0.5, 400), (1, 60)])) / sr, 3)
        low = dsp.uniform(rng, 500, 1500) * (1.25 if k % 2 else 1.0)
        x = dsp.unit(dsp.butter(rng.standard_normal(m) * teeth, "bandpass", (low, 5 * low), sr, 1))
        dsp.add(out, i, x * np.hanning(m), 0.7 if k % 2 else 1.0)
    return Source(
        out,
        f"a hand saw cutting wood, {dsp.count_of(len(at), 'stroke')}",
        {"kind": "hand saw", "count": len(at)},
    )
