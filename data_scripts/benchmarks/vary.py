"""Measure how far variations are from their sounds, by strength, and keep some to be heard.

    python data_scripts/benchmarks/vary.py --out book/runs/vary

The sounds are this package's own, of its held-out side. Beside the variations stand what VAE and vocoder alone leave
of a sound, and other clips of its class. Intervals are Student's over sounds.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import t as student
from tqdm import tqdm

from latentclap.audio import MODEL_RATE
from latentclap.book.players import save_player
from latentclap.book.vary import OTHER
from latentclap.classes import CLASSES, LABELS, prompt
from latentclap.errors import InputError, run_app
from latentclap.files import write_json
from latentclap.foley import synthesize
from latentclap.options import Device, Model, application, load_system
from latentclap.runs import origin
from latentclap.vary.process import through_model, vary
from latentclap.vary.result import distances

app = application()
TAKES = 2
#: strengths that are kept to be heard
HEARD = (0.2, 0.4, 0.6, 0.8)
SOUND, THROUGH = "Sound", "Through the model"
#: what steers
OWN, TEXT = "its own embedding", "its class's prompt"


def told(values: Sequence[float]) -> dict[str, float]:
    """Mean over sounds, with Student's 95 % interval."""
    v = np.asarray(values, dtype=np.float64)
    half = student.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else float("nan")
    return {"mean": float(v.mean()), "low": float(v.mean() - half), "high": float(v.mean() + half)}


class Scores:
    """What is measured of clips of each sound."""

    def __init__(self, system: Any, waves: list[np.ndarray], classes: list[str]) -> None:
        self.system, self.waves, self.classes = system, waves, classes
        self.E_text = system.encode_text([prompt(cls) for cls in CLASSES], judge=True)

    def row(self, takes: Sequence[np.ndarray]) -> dict[str, Any]:
        """Means over sounds of their clips' distances, of those between clips, and of how many are recognised."""
        rows: dict[str, list[float]] = {"similarity": [], "mel_distance": [], "between": [], "recognised": []}
        for wave, cls, clips in zip(self.waves, self.classes, takes, strict=True):
            away = distances(self.system, wave, list(clips))
            for key in ("similarity", "mel_distance"):
                rows[key].append(float(np.mean([clip[key] for clip in away])))
            if len(clips) > 1:
                rows["between"].append(distances(self.system, clips[0], list(clips[1:]))[0]["mel_distance"])
            heard = (self.system.encode_audio(np.stack(clips)) @ self.E_text.T).argmax(-1)
            rows["recognised"].append(float((heard == CLASSES.index(cls)).float().mean()))
        return {key: told(values) for key, values in rows.items() if values}


@app.command()
def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write: vary.json and clips; replaced.")],
    model: Model = "mini",
    per_class: Annotated[int, typer.Option(help="Sounds of each class.")] = 4,
    strengths: Annotated[str, typer.Option(help="With commas between them.")] = "0.2,0.4,0.6,0.8",
    seed: Annotated[int, typer.Option(help="Of the variations.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure variations by strength."""
    if per_class < 2:
        raise InputError(f"--per-class {per_class}: at least 2, since clips of a class are compared")
    if out.exists() and not (out / "vary.json").is_file():
        raise InputError(f"{out} holds other things: choose another folder")
    chosen = [float(word) for word in strengths.split(",")]
    started = time.monotonic()
    system = load_system(model, device)
    classes = [cls for cls in CLASSES for _ in range(per_class)]
    numbers = [i for _ in CLASSES for i in range(per_class)]
    waves = [
        synthesize(c, i, sr=MODEL_RATE, split="eval").wave for c, i in zip(classes, numbers, strict=True)
    ]
    scores = Scores(system, waves, classes)
    through = [through_model(system, wave) for wave in waves]
    # the next sound of the class, the last one's is the first
    others = [waves[k - i + (i + 1) % per_class] for k, i in enumerate(numbers)]
    rows = [
        {"what": THROUGH, **scores.row([[wave] for wave in through])},
        {"what": OTHER, **scores.row([[wave] for wave in others])},
    ]
    heard: dict[float, list[np.ndarray]] = {}
    guidance = system.sampling.guidance_scale
    ways = {OWN: guidance, f"{OWN}, no guidance": 1.0, TEXT: guidance}
    bar = tqdm(total=len(chosen) * len(ways) * len(waves), unit="sound")
    for strength, (steered, scale) in itertools.product(chosen, ways.items()):
        takes = []
        for cls, wave in zip(classes, waves, strict=True):
            said = [prompt(cls)] if steered == TEXT else None
            takes += vary(
                system, [wave], TAKES, strength=strength, prompts=said, guidance_scale=scale, seed=seed
            )
            bar.update()
        rows.append({"what": "Variations", "strength": strength, "steered": steered, **scores.row(takes)})
        if steered == OWN and strength in HEARD:
            heard[strength] = takes
    bar.close()
    shutil.rmtree(out, ignore_errors=True)
    cells = []
    for cls in CLASSES:
        k = classes.index(cls)
        columns = {SOUND: waves[k], THROUGH: through[k]}
        columns |= {f"Strength {s:g}": takes[k][0] for s, takes in heard.items()}
        for j, (column, wave) in enumerate(columns.items()):
            file = f"{cls}_{j}.mp3"
            save_player(wave, MODEL_RATE, out / file, picture=False)
            cells.append({"row": LABELS[cls], "column": column, "file": file})
    record = {
        "model": model,
        "profile": "none",
        "sounds": len(waves),
        "takes": TAKES,
        "seed": seed,
        "sampling": system.sampling.asdict(),
        "rows": rows,
        "cells": cells,
        **origin(),
        "wall_seconds": round(time.monotonic() - started, 1),
    }
    write_json(out / "vary.json", record)
    typer.echo(str(out / "vary.json"))


if __name__ == "__main__":
    run_app(app)
