"""Keyboards: each key is a pair of clicks (down, up) that sets off modes of the key, the case and the desk.

Going down a key clicks (if it has a click), then bottoms out; 50-150 ms later it returns, softer and higher.
The modes differ a little from key to key, the case and the desk are common to all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import Source, family


@dataclass(frozen=True)
class Board:
    """Ranges of one kind of keyboard."""

    click: float  #: level of the high click
    cap: tuple[float, float]  #: modes of the key cap, Hz
    case: tuple[float, float]  #: modes of the case, Hz
    ring: tuple[float, float]  #: t60 of the cap's modes, s
    body: float  #: level of case and desk
    hold: tuple[float, float] = (0.05, 0.16)


BOARDS = {
    "a clicky mechanical keyboard": Board(1.4, (1800, 7000), (250, 1200), (0.006, 0.03), 0.7),
    "a mechanical keyboard": Board(0.7, (1200, 5000), (180, 1000), (0.008, 0.05), 1.0),
    "a soft membrane keyboard": Board(0.3, (600, 3000), (100, 600), (0.005, 0.02), 1.3),
    "a laptop keyboard": Board(0.6, (1500, 6000), (300, 1500), (0.004, 0.015), 0.6),
    "an old buckling-spring keyboard": Board(1.5, (1500, 5500), (200, 900), (0.02, 0.1), 1.0),
    "a typewriter": Board(1.8, (1200, 7000), (200, 1500), (0.02, 0.1), 1.2, (0.04, 0.1)),
}


@dataclass(frozen=True)
class Desk:
    """What all keys share: case modes, desk modes, the colour of the contact noise."""

    freqs: Array
    t60: Array
    gains: Array
    noise: float
    snap: float
    tonal: float
    sr: int


def strike(rng: Rng, board: Board, desk: Desk, cap: Array, click: float, body: float) -> Array:
    """Return one contact: noise of a millisecond or so, the cap's modes, the case and the desk."""
    m = dsp.samples(min(float(desk.t60.max()), 0.35) + 0.01, desk.sr)
    x = body * dsp.modes(
        m, desk.freqs, desk.t60, desk.gains * np.exp(0.3 * rng.standard_normal(len(desk.gains))), desk.sr
    )
    k = dsp.samples(0.05, desk.sr)
    ring = rng.uniform(*board.ring, len(cap))
    snap = (
        click
        * desk.tonal
        * dsp.modes(k, cap, ring, rng.random(len(cap)), desk.sr, rng.uniform(0, 6.28, len(cap)))
    )
    noise = rng.standard_normal(k) * dsp.decay(k, desk.snap, desk.sr, 0.0004)
    snap += click * dsp.butter(noise, "lowpass", desk.noise, desk.sr, 1)
    dsp.add(x, 0, snap)
    return x


def press(rng: Rng, board: Board, desk: Desk, cap: Array, force: float, up: float) -> Array:
    """Return one key: click, bottom-out a few milliseconds later, release."""
    hold = dsp.samples(dsp.uniform(rng, *board.hold), desk.sr)
    out = np.zeros(hold + dsp.samples(0.4, desk.sr))
    travel = dsp.samples(dsp.uniform(rng, 0.004, 0.02), desk.sr)
    dsp.add(out, 0, strike(rng, board, desk, cap, board.click, 0.2 * board.body), 0.6)
    dsp.add(out, travel, strike(rng, board, desk, 0.8 * cap, 0.6 * board.click, board.body), force)
    dsp.add(out, hold, strike(rng, board, desk, 1.15 * cap, board.click, 0.4 * board.body), up)
    return out


def typing(rng: Rng, length: float, style: str, speed: float) -> list[float]:
    """Return the times of key presses in seconds: steady single keys, or words with pauses between."""
    t, times = dsp.uniform(rng, 0.0, 0.3), []
    word = int(rng.integers(3, 9))
    while t < length - 0.05:
        times.append(t)
        spread = 0.03 if style == "one key at a time" else 0.3
        gap = np.exp(spread * rng.standard_normal()) / speed
        if style == "in bursts" and len(times) % word == 0:
            gap += dsp.uniform(rng, 0.2, 0.9)
            word = int(rng.integers(3, 9))
        t += max(gap, 0.045)
    return times or [0.0]


@family(
    "keyboard",
    places={"studio": 6, "small room": 4, "room": 3, "hall": 0.3},
    backgrounds={"hiss": 2, "room tone": 2.5, "hum": 1, "fan": 1.5, "rumble": 7, "traffic": 0.5},
    loop=0.1, snr=(4, 50), quiet=0.35, low_cut=(15, 120),
)  # fmt: skip
def keyboard(rng: Rng, n: int, sr: int) -> Source:
    """Somebody types on one of six kinds of keyboard, key by key, in bursts or without a pause."""
    name = dsp.pick(rng, tuple(BOARDS), (3, 3, 2.5, 2.5, 1.5, 0.7))
    board = BOARDS[name]
    style = dsp.pick(rng, ("one key at a time", "steadily", "in bursts"), (4, 2.5, 2.5))
    speed = (
        dsp.log_uniform(rng, 0.9, 4.0) if style == "one key at a time" else dsp.log_uniform(rng, 3.0, 13.0)
    )
    case, bench = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    freqs = np.concatenate(
        [np.exp(rng.uniform(*np.log(board.case), case)), np.exp(rng.uniform(np.log(30), np.log(130), bench))]
    )
    t60 = np.concatenate([rng.uniform(0.01, 0.06, case), rng.uniform(0.06, 0.25, bench)])
    thump = dsp.log_uniform(rng, 0.05, 3.0)
    colour = (dsp.log_uniform(rng, *r) for r in ((2000, 12000), (0.003, 0.035), (0.05, 0.5)))
    gains = np.concatenate([0.35 * rng.random(case), thump * rng.random(bench)])
    desk = Desk(freqs, t60, gains, *colour, sr)
    bank = np.exp(rng.uniform(*np.log(board.cap), int(rng.integers(3, 7))))
    keys = []
    for _ in range(6):
        cap = bank * np.exp(0.08 * rng.standard_normal(len(bank)))
        keys.append(press(rng, board, desk, cap, dsp.log_uniform(rng, 0.6, 1.6), dsp.uniform(rng, 0.1, 0.7)))
    out, onsets = np.zeros(n), typing(rng, n / sr, style, speed)
    only = int(rng.integers(6)) if style == "one key at a time" and dsp.chance(rng, 0.6) else None
    for t in onsets:
        key = keys[int(rng.integers(6)) if only is None else only]
        dsp.add(out, t * sr, key, np.exp(0.25 * rng.standard_normal()))
    pace = "slowly" if speed < 2 else "fast" if speed > 7 else ""
    phrase = f"typing {pace} {style} on {name}, {len(onsets)} keystroke{'s' * (len(onsets) > 1)}".replace(
        "  ", " "
    )
    params = {"board": name, "style": style, "keys_per_second": round(speed, 2), "count": len(onsets)}
    return Source(out, phrase, params)
