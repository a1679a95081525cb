"""Motor vehicles: the firing cycle of an engine, its intake and gears, tyres and wind, passing by or steady.

One engine cycle (two turns of a four-stroke) is a table: a pulse per cylinder, uneven from one to the next,
which gives the half orders. The table is read along the crank angle, so that load, gear changes and Doppler
are only ways of bending that angle in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentclap.foley import dsp
from latentclap.foley.dsp import Array, Rng
from latentclap.foley.registry import Source, family


@dataclass(frozen=True)
class Motor:
    """Ranges of one kind of vehicle."""

    cylinders: tuple[int, ...]
    idle: tuple[float, float]  #: rpm
    drive: tuple[float, float]  #: rpm
    sharp: tuple[float, float]  #: sharpness of the exhaust pulse
    muffler: tuple[float, float]  #: low-pass of the exhaust, Hz
    knock: float  #: level of the clatter at each firing
    speed: tuple[float, float]  #: m/s


MOTORS = {
    "car": Motor((4, 4, 4, 6), (650, 1000), (1300, 4000), (4, 40), (250, 2500), 0.15, (5, 35)),
    "sports car": Motor((6, 8, 12), (800, 1200), (2500, 7500), (10, 80), (800, 5000), 0.1, (10, 50)),
    "diesel van": Motor((4, 4, 6), (650, 900), (1200, 3200), (10, 60), (250, 1500), 0.7, (5, 28)),
    "truck": Motor((6, 6, 8), (500, 750), (900, 2200), (6, 50), (150, 1200), 0.6, (3, 25)),
    "bus": Motor((6,), (500, 700), (800, 2100), (5, 40), (150, 1000), 0.4, (3, 18)),
    "motorcycle": Motor((1, 2, 2, 4), (900, 1400), (2200, 8500), (15, 120), (700, 5000), 0.15, (5, 40)),
    "moped": Motor((1,), (1500, 2200), (4000, 9000), (15, 90), (800, 5000), 0.1, (4, 14)),
    "tractor": Motor((2, 3, 4), (500, 800), (900, 2200), (10, 90), (200, 1800), 0.7, (1, 9)),
}


def cycle_table(rng: Rng, cylinders: int, sharp: float, top: int, size: int = 8192) -> Array:
    """Return one engine cycle: a pulse per cylinder, uneven in height and timing, up to order ``top``."""
    angle = np.arange(size) / size
    uneven = dsp.log_uniform(rng, 0.02, 0.5)
    table = np.zeros(size)
    for c in range(cylinders):
        late = 0.15 * uneven * rng.standard_normal() / cylinders
        turn = 2 * np.pi * (angle - (c + late) / cylinders)
        table += np.exp(uneven * rng.standard_normal()) * dsp.pulses(turn, sharp * cylinders**1.5)
    spectrum = np.fft.rfft(table)
    spectrum[0] = 0
    spectrum[min(top, size // 2) :] = 0
    return dsp.unit(np.fft.irfft(spectrum, size))


def revs(rng: Rng, n: int, sr: int, motion: str, motor: Motor) -> tuple[Array, float]:
    """Return the engine speed in rpm over time, and its load 0..1."""
    idle, drive = dsp.uniform(rng, *motor.idle), dsp.log_uniform(rng, *motor.drive)
    if motion == "idling":
        rpm, load = np.full(n, idle), dsp.uniform(rng, 0.0, 0.3)
    elif motion == "revving":
        peaks = [(0.0, idle)]
        for at in np.linspace(0.1, 0.9, int(rng.integers(1, 4)) * 2 + 1):
            peaks.append((float(at), dsp.uniform(rng, 0.5, 1) * drive if len(peaks) % 2 else idle))
        rpm, load = dsp.curve(n, [*peaks, (1.0, idle)]), 0.8
    elif motion in ("accelerating", "slowing down"):
        low = dsp.uniform(rng, 0.35, 0.75) * drive
        rpm = dsp.curve(n, [(0, low), (1, drive)])
        if dsp.chance(rng, 0.5):  # a gear change
            cut = dsp.uniform(rng, 0.3, 0.7)
            rpm = dsp.curve(n, [(0, low), (cut, drive), (cut + 0.1, 0.7 * drive), (1, 0.95 * drive)])
        rpm, load = (rpm, 0.9) if motion == "accelerating" else (rpm[::-1].copy(), 0.3)
    else:
        rpm, load = np.full(n, drive), dsp.uniform(rng, 0.3, 0.9)
    shake = dsp.log_uniform(rng, 0.001, 0.015)
    return rpm * np.exp(shake * dsp.wander(rng, n, 8, sr) + 2 * shake * dsp.wander(rng, n, 0.8, sr)), load


def engine(rng: Rng, n: int, sr: int, motor: Motor, rpm: Array, load: float) -> Array:
    """Return engine and exhaust: table along the crank angle, pipe resonances, clatter, intake noise."""
    cylinders = int(dsp.pick(rng, motor.cylinders))
    cycles = np.cumsum(rpm / 120.0 / sr)
    top = int(0.45 * sr / (rpm.max() / 120.0))
    table = cycle_table(rng, cylinders, dsp.log_uniform(rng, *motor.sharp), top)
    x = np.interp(cycles % 1.0, np.arange(len(table) + 1) / len(table), np.append(table, table[0]))
    muffler = dsp.log_uniform(rng, *motor.muffler) * (0.6 + 0.8 * load)
    exhaust = dsp.butter(x, "lowpass", muffler, sr, int(rng.integers(1, 3)))
    # a tail pipe is small against the wave: it radiates the change of flow, so the lowest orders fade
    exhaust = dsp.butter(exhaust, "highpass", dsp.log_uniform(rng, 40, 300), sr, 1)
    fire = dsp.pulses(2 * np.pi * cycles * cylinders, dsp.uniform(rng, 0.3, 12))
    edge = np.diff(x, prepend=x[0])  # a valve or a piston knocks where the pressure jumps
    knock = dsp.unit(edge) + dsp.log_uniform(rng, 0.1, 1.2) * dsp.unit(rng.standard_normal(n) * fire)
    body = np.zeros(n)
    for _ in range(int(rng.integers(3, 8))):  # pipe, block, body and cabin resonances
        f = dsp.log_uniform(rng, 80, 5000)
        tuned = dsp.unit(dsp.resonate(knock, f, dsp.log_uniform(rng, 0.05, 0.4) * f + 10, sr))
        body += dsp.log_uniform(rng, 0.1, 1.0) * (300 / (300 + f)) ** 0.3 * tuned
    low = dsp.log_uniform(rng, 500, 2500)
    clatter = dsp.butter(rng.standard_normal(n), "bandpass", (low, low * dsp.uniform(rng, 1.5, 4)), sr, 1)
    out = (
        dsp.unit(exhaust)
        + dsp.log_uniform(rng, 0.2, 4.0) * dsp.unit(body)
        + motor.knock * dsp.log_uniform(rng, 0.3, 2) * dsp.unit(clatter * fire)
    )
    hiss = dsp.coloured(rng, n, dsp.uniform(rng, -5, -2), sr) * (0.3 + fire)
    out += dsp.log_uniform(rng, 0.03, 0.5) * dsp.unit(hiss)
    if dsp.chance(rng, 0.5):  # gears, belt and turbo whine at high orders
        order = dsp.uniform(rng, 8, 50)
        whine = np.sin(2 * np.pi * 2 * order * cycles) * (2 * order * rpm.max() / 120 < 0.45 * sr)
        out += dsp.log_uniform(rng, 0.01, 0.2) * whine
    return out


def rolling(rng: Rng, n: int, sr: int, wet: bool) -> Array:
    """Return tyre and wind noise."""
    road = dsp.coloured(rng, n, -4, sr)
    road += dsp.uniform(rng, 0.5, 2) * dsp.unit(
        dsp.resonate(rng.standard_normal(n), dsp.uniform(rng, 600, 1200), 700, sr)
    )
    if wet:
        road += dsp.butter(dsp.coloured(rng, n, -1, sr), "highpass", 2000, sr, 1)
    return dsp.unit(road) * np.exp(0.15 * dsp.wander(rng, n, 3, sr))


def pass_by(rng: Rng, x: Array, n: int, sr: int, speed: float) -> tuple[Array, float]:
    """Move the source along a straight line: Doppler shift, 1/r loss, air dulls what is far."""
    nearest = dsp.log_uniform(rng, 2.0, 25.0)
    moment = dsp.uniform(rng, 0.15, 0.85) * n / sr
    t = np.arange(n) / sr
    r = np.hypot(nearest, speed * (t - moment))
    heard = np.interp((t - (r - nearest) / 343.0) * sr, np.arange(len(x)) - 0.3 * sr, x)
    far = np.clip((r - nearest) / 60.0, 0, 1)
    dull = dsp.butter(heard, "lowpass", 1200, sr, 1)
    return (heard * (1 - far) + dull * far) * nearest / r, nearest


MOTIONS = ("idling", "driving steadily", "accelerating", "slowing down", "passing by", "revving")


@family(
    "moving_motor_vehicle",
    places={"outdoors": 6, "street": 2, "yard": 1, "garage": 0.7, "studio": 3},
    backgrounds={"hiss": 1, "traffic": 2, "wind": 2, "birds": 0.5, "rumble": 1},
    loop=0.08, loop_seconds=(0.6, 2.5), snr=(6, 50), quiet=0.3, low_cut=(25, 250),
)  # fmt: skip
def moving_motor_vehicle(rng: Rng, n: int, sr: int) -> Source:
    """One of eight vehicles idles, drives, speeds up, slows down, revs or passes by."""
    name = dsp.pick(rng, tuple(MOTORS), (5, 2, 2, 2, 1, 2, 1, 1))
    motor = MOTORS[name]
    motion = dsp.pick(rng, MOTIONS, (3, 3, 2, 1, 3, 0.8))
    inside = motion != "passing by" and dsp.chance(rng, 0.2)
    m = n + dsp.samples(0.8, sr)  # what Doppler reads before and after the clip
    rpm, load = revs(rng, m, sr, motion, motor)
    x = dsp.unit(engine(rng, m, sr, motor, rpm, load))
    x *= 0.5 + 0.5 * (rpm / rpm.max()) ** 1.5
    wet = motion not in ("idling", "revving") and dsp.chance(rng, 0.15)
    if motion not in ("idling", "revving"):
        x += dsp.log_uniform(rng, 0.05, 1.2) * rolling(rng, m, sr, wet)
    nearest = None
    if motion == "passing by":
        x, nearest = pass_by(rng, x, n, sr, dsp.uniform(rng, *motor.speed))
    x = x[:n]
    if inside:
        x = dsp.butter(x, "lowpass", dsp.log_uniform(rng, 250, 900), sr, 1)
    phrase = (
        f"a {name} {motion}" + (" on a wet road" if wet else "") + (", heard from inside," if inside else "")
    )
    params = {
        "vehicle": name,
        "motion": motion,
        "rpm": round(float(np.mean(rpm))),
        "inside": inside,
        "wet": wet,
    }
    return Source(x, phrase, params | {"nearest_m": nearest and round(nearest, 1)})
