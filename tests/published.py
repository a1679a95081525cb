"""A small fine-tuning to publish, whose sounds and folders have names that must not come out."""

import shutil

import numpy as np
from typer.testing import CliRunner

from latentclap import cli
from latentclap.audio import write_wave
from latentclap.files import read_json, write_json

#: names of the author's own, none of which may be in what is published
FOLDER, STEM = "janes_secret_sessions", "kitchen_of_mr_smith"
RATE = 22_050


def write_sounds(folder, count=12, seconds=0.4):
    """Beeps and hisses in turn, each with a text beside it."""
    rng = np.random.default_rng(0)
    for i in range(count):
        time = np.arange(int(seconds * RATE)) / RATE
        wave = np.sin(2 * np.pi * (400 + 50 * i) * time) if i % 2 else rng.uniform(-1, 1, len(time))
        write_wave(folder / f"{STEM}_{i:02d}.wav", (0.5 * wave).astype(np.float32), RATE)
        (folder / f"{STEM}_{i:02d}.txt").write_text("a beep" if i % 2 else "a hiss")
    return folder


def fast(family, folder):
    """A copy of a family that is sampled in two steps."""
    shutil.copytree(family, folder)
    told = read_json(folder / "latentclap.json")
    sampling = {"sampler": "dpmsolver++", "steps": 2, "guidance_scale": 2.0}
    write_json(folder / "latentclap.json", told | {"sampling": sampling})
    return folder


def finetuned(family, folder, *more):
    """The folder of a finished run of ``latentclap finetune``."""
    sounds = write_sounds(folder / FOLDER)
    options = ["--model", family, "--epochs", 2, "--lr", 1e-3, "--batch-size", 5, "--hold-out", 0.2]
    options += ["--listen", 0, "--workers", 0, "--device", "cpu", "-q", *more]
    said = CliRunner().invoke(cli.app, ["finetune", *map(str, [sounds, "-o", folder / "run", *options])])
    assert said.exit_code == 0, said.output
    return folder / "run"


def publish(*arguments, catch=True):
    """Call the command; its result."""
    given = ["publish", *map(str, arguments), "--device", "cpu"]
    return CliRunner().invoke(cli.app, given, catch_exceptions=catch)
