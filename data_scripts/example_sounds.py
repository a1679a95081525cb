"""Make a folder of sounds that no model here has learnt, for a first try of ``latentclap finetune``.

Laser zaps and bubbles: gliding tones at random places in a faint hiss, each sound with its caption in a text beside
it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from latentclap.errors import run_app
from latentclap.files import check_place, write_text
from latentclap.options import application, at_least
from latentclap.wording import plural

RATE = 22_050
CAPTIONS = {"zap": "a laser gun zapping", "bubbles": "bubbles rising in a tank"}

app = application()


def glide(rng: np.random.Generator, kind: str) -> np.ndarray:
    """One tone that falls (a zap) or rises (a bubble) and dies away, (samples,)."""
    falls = kind == "zap"
    seconds = rng.uniform(0.15, 0.5) if falls else rng.uniform(0.03, 0.09)
    begin, end = (
        (rng.uniform(3000, 6500), rng.uniform(200, 500)) if falls else rng.uniform((300, 900), (700, 1800))
    )
    time = np.arange(int(seconds * RATE)) / RATE
    frequency = begin * (end / begin) ** (time / seconds)
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE) * np.exp(-3 * time / seconds)


def sound(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A take of 1.5 to 5 s, float32 (samples,) with a peak of 0.7."""
    wave = rng.normal(0, 1e-3, int(rng.uniform(1.5, 5) * RATE))
    for _ in range(rng.integers(2, 6) if kind == "zap" else rng.integers(15, 50)):
        tone = glide(rng, kind) * rng.uniform(0.3, 1)
        start = rng.integers(0, len(wave) - len(tone))
        wave[start : start + len(tone)] += tone
    return (0.7 * wave / np.abs(wave).max()).astype(np.float32)


@app.command(help=__doc__)
def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the sounds; it is made if it does not exist.")],
    number: Annotated[int, typer.Option("-n", "--number", help="Sounds of each kind.")] = 30,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sounds.")] = 0,
) -> None:
    """Write the sounds and their captions."""
    at_least(("--number", number, 1), ("--seed", seed, 0))
    check_place(folder / "zap_000.wav")
    from latentclap.audio import write_wave  # it brings torch: --help and a wrong option do not wait for it

    for kind, caption in CAPTIONS.items():
        for i in range(number):
            wave = sound(np.random.default_rng([seed, len(kind), i]), kind)
            write_wave(folder / f"{kind}_{i:03d}.wav", wave, RATE)
            write_text(folder / f"{kind}_{i:03d}.txt", f"{caption}\n")
    print(f"{folder}: {plural(number, 'sound')} each of {' and '.join(CAPTIONS)}")


if __name__ == "__main__":
    sys.exit(run_app(app))
