"""Measure what fine-tuning on other sounds does to the seven classes that a system knew.

    python data_scripts/benchmarks/forgetting.py forgetting --out book/runs/forgetting.json

The sounds are the laser zaps and bubbles of example_sounds.py, which no model here knew. Three fine-tunings stand
beside the system as it was: of all weights; of LoRA adapters; and of all weights with some clips of each class
among the sounds. What each has learnt and what it has forgotten are measured alike, by clips of the new kinds and of
the old classes. Each step is a command, is printed, and goes on where it was stopped.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from latentclap.asked import named_texts
from latentclap.audio import read_wave, write_wave
from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json, write_text
from latentclap.options import application, at_least
from latentclap.runs import origin

app = application()
SCRIPTS = Path(__file__).resolve().parents[1]
BEFORE, RANK = "Before", 16
#: how long mini's clips are: what it learns from is padded to this length, and so is what it is compared with
SECONDS = 4.0
#: a clip whose peak is below it is silent
SILENT = 1e-3
#: what the record holds of a training, and of a comparison's rows
TRAINING = ("lora_rank", "lam", "lr", "batch_size")
FAD = ("system", "fad", "fad_low", "fad_high")


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning that is measured.

    Attributes:
        name: in the tables.
        sounds: folder that it learns from.
        options: of ``latentclap finetune``.
    """

    name: str
    sounds: str
    options: tuple[str, ...] = ()

    def model(self, folder: Path) -> list[str]:
        """What ``latentclap generate`` is told to load."""
        if self.options:
            return ["--model", "mini", "--lora", str(folder / self.slug)]
        return ["--model", str(folder / self.slug / "system")]

    @property
    def slug(self) -> str:
        """Its folder."""
        return self.name.lower().replace(" ", "-")


TUNED = (
    Tuned("All weights", "takes"),
    Tuned("LoRA", "takes", ("--lora-rank", str(RANK))),
    Tuned("With old sounds", "mixed"),
)


def run(*words: str | Path) -> None:
    """A command, printed before it runs; what it says goes on to the terminal."""
    command = [str(word) for word in words]
    typer.echo("$ " + shlex.join(["python", *command]))
    done = subprocess.run([sys.executable, *command])
    if done.returncode:
        raise InputError(
            f"this command failed ({done.returncode}); the message is above. The same call goes on."
        )


def mix(folder: Path) -> None:
    """The sounds, and the old ones beside them, each with its text; a folder that is there is whole."""
    out, part = folder / "mixed", folder / ".mixed"
    if out.is_dir():
        return
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder / "takes", part)
    for cls in CLASSES:
        for clip in sorted((folder / "foley" / "dev" / cls).glob("*.wav")):
            shutil.copyfile(clip, part / f"{cls}_{clip.stem}.wav")
            write_text(part / f"{cls}_{clip.stem}.txt", prompt(cls) + "\n")
    part.rename(out)


def sort(sounds: Path, out: Path) -> list[str]:
    """Sounds with texts beside them into folders named as those of generated clips; their texts."""
    found = {
        path: path.with_suffix(".txt").read_text("utf-8").strip() for path in sorted(sounds.glob("*.wav"))
    }
    texts = list(dict.fromkeys(found.values()))
    folders = {text: name for name, text in named_texts("", texts).items()}
    for path, text in found.items():
        wave, rate = read_wave(path)
        whole = np.zeros(round(SECONDS * rate), dtype=np.float32)
        whole[: wave.shape[1]] = wave[0, : len(whole)]
        write_wave(out / folders[text] / path.name, whole, rate)
    return texts


def audible(clips: Path, out: Path) -> int:
    """Link the clips that are not silent; return how many are.

    The record was measured without them. ``latentclap compare`` takes them since then, and counts them.
    """
    shutil.rmtree(out, ignore_errors=True)
    silent = 0
    for path in sorted(clips.glob("*/*.wav")):
        wave, _ = read_wave(path)
        if np.abs(wave[0] - wave[0].mean()).max() < SILENT:
            silent += 1
            continue
        (out / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, out / path.parent.name / path.name)
    return silent


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Folder for sounds, systems and clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    number: Annotated[int, typer.Option("--number", "-n", help="Clips of each kind and system.")] = 25,
    reference: Annotated[int, typer.Option(help="Real clips of each kind.")] = 100,
    old: Annotated[int, typer.Option(help="Old clips of each class in the third fine-tuning.")] = 8,
    sounds: Annotated[int, typer.Option(help="Sounds of each new kind.")] = 30,
    steps: Annotated[int, typer.Option(help="Steps of a generation.")] = 25,
    sampler: Annotated[str, typer.Option(help="Sampler, as of latentclap generate.")] = "dpmsolver++",
    epochs: Annotated[int, typer.Option(help="Passes of each fine-tuning; 0: the command's own choice.")] = 0,
) -> None:
    """Fine-tune, generate old and new sounds before and after, compare, and write the record."""
    at_least(
        ("--number", number, 2), ("--reference", reference, 2), ("--old", old, 2), ("--sounds", sounds, 2)
    )
    at_least(("--steps", steps, 1), ("--epochs", epochs, 0))
    folder.mkdir(parents=True, exist_ok=True)
    run(SCRIPTS / "example_sounds.py", folder / "takes", "-n", str(sounds))
    run(SCRIPTS / "example_sounds.py", folder / "fresh", "-n", str(reference), "--seed", "1")
    # a seed of its own: neither the clips of the notebooks nor those that mini was pretrained with
    foley = ("--per-class", str(old), "--eval-per-class", str(reference), "--seed", "20261127")
    run(SCRIPTS / "make_foley.py", folder / "foley", *foley)
    mix(folder)
    prompts = [word for text in sort(folder / "fresh", folder / "new") for word in ("--prompt", text)]
    command = ("-m", "latentclap")
    passes = ("--epochs", str(epochs)) if epochs else ()
    for tuned in TUNED:
        run(*command, "finetune", folder / tuned.sounds, "-o", folder / tuned.slug, *tuned.options, *passes)
    systems = [(BEFORE, ["--model", "mini"]), *((tuned.name, tuned.model(folder)) for tuned in TUNED)]
    silent: dict[str, dict[str, int]] = {}
    wanted = ("-n", str(number), "--steps", str(steps), "--sampler", sampler)
    for kind, texts, real in (
        ("old", ["--classes", "all"], folder / "foley" / "eval"),
        ("new", prompts, folder / "new"),
    ):
        clips = {name: folder / f"clips-{kind}" / name.lower().replace(" ", "-") for name, _ in systems}
        for name, model in systems:
            run(*command, "generate", "-o", clips[name], *texts, *wanted, *model)
        heard = {name: folder / f"heard-{kind}" / place.name for name, place in clips.items()}
        silent[kind] = {name: audible(clips[name], heard[name]) for name in clips}
        named = [f"{name}={place}" for name, place in heard.items()]
        where = ("--reference", real, "-o", folder / f"compared-{kind}")
        run(*command, "compare", *named, *where, "--items", "0")
    sizes = {
        "number": number,
        "reference": reference,
        "old_clips": old,
        "generation_steps": steps,
        "sampler": sampler,
        "silent": silent,
    }
    write_json(out, {"model": "mini", **sizes, **kept(folder), **origin("cpu")})
    typer.echo(f"{out}: {len(systems)} systems")


def kept(folder: Path) -> dict[str, Any]:
    """What the page needs of the fine-tunings and the comparisons."""
    rows = []
    for tuned in TUNED:
        told, summary = (read_json(folder / tuned.slug / f"{name}.json") for name in ("finetune", "summary"))
        training = {"rank" if key == "lora_rank" else key: told["training"][key] for key in TRAINING}
        rows.append(
            {
                "system": tuned.name,
                "clips": told["clips"],
                "steps": told["steps"],
                **training,
                "seconds": summary["seconds"],
            }
        )
    compared = {kind: read_json(folder / f"compared-{kind}" / "compare.json") for kind in ("old", "new")}
    return {
        "fad_name": compared["old"]["names"][0],
        "systems": rows,
        **{
            kind: {
                "summary": [{key: row[key] for key in FAD} for row in told["summary"]],
                "changes": told["changes"]["FAD"],
                "classes": [{key: row[key] for key in ("class", *FAD)} for row in told["classes"]],
            }
            for kind, told in compared.items()
        },
    }


if __name__ == "__main__":
    raise SystemExit(run_app(app))
