"""Simulate what FAD and KAD say of few clips, and how often their intervals hold what they should.

    python data_scripts/benchmarks/measures.py --out book/runs/measures.json

Embeddings are drawn from normal distributions: clips of several windows that are alike, as real ones are. Of many
small sets, the mean of each measure is set beside the value of the distributions themselves.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.stats import chi2
from tqdm import tqdm

from latentclap.compare import kernel_distance
from latentclap.compare.kernel import SCALE
from latentclap.errors import InputError, run_app
from latentclap.fad import ClipEmbeddings, fad_with_ci
from latentclap.files import write_json
from latentclap.options import application
from latentclap.runs import origin

app = application()
DIMENSIONS, WINDOWS, REFERENCE = 40, 7, 100
#: clips of one distribution, and clips that are moved along every dimension by a share of the standard deviation
CASES = {"the same distribution": 0.0, "moved by a quarter": 0.25}
SIZES = (8, 16, 32, 100)


def draw(rng: np.random.Generator, clips: int, shift: float) -> ClipEmbeddings:
    """Clips of windows that share three quarters of their variance."""
    centres = rng.normal(size=(clips, 1, DIMENSIONS)) * np.sqrt(0.75) + shift
    return ClipEmbeddings.from_clips(list(centres + rng.normal(size=(clips, WINDOWS, DIMENSIONS)) * 0.5))


def true_kad(shift: float) -> float:
    """KAD of the two distributions: differences of windows of different clips are normal, with variance 2."""
    squared = 2 * chi2.median(DIMENSIONS)  # the bandwidth's
    alike = (1 + 2 / squared) ** (-DIMENSIONS / 2)
    return SCALE * 2 * alike * (1 - np.exp(-DIMENSIONS * shift**2 / (2 * (squared + 2))))


@app.command()
def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    trials: Annotated[int, typer.Option(help="Small sets of each size.")] = 200,
    n_boot: Annotated[int, typer.Option(help="Bootstrap draws of each.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Simulate what FAD and KAD say of few clips."""
    if trials < 2 or n_boot < 2:
        raise InputError(f"--trials {trials}, --n-boot {n_boot}: at least 2")
    started = time.monotonic()
    rows = []
    bar = tqdm(total=len(CASES) * len(SIZES) * trials, unit="set")
    for case, shift in CASES.items():
        rng = np.random.default_rng([seed, round(shift * 100)])
        truth = {"fad": DIMENSIONS * shift**2, "kad": true_kad(shift)}  # covariances are the same
        for n in SIZES:
            found: dict[str, list[tuple[float, float, float]]] = {"fad": [], "kad": []}
            p = []
            for trial in range(trials):
                ours, real = draw(rng, n, shift), draw(rng, REFERENCE, 0)
                fad = fad_with_ci(ours, real, n_boot=n_boot, resample_reference=True, seed=trial)
                kad = kernel_distance(ours, real, n_boot=n_boot, seed=trial)
                found["fad"].append((fad.fad, fad.ci_low, fad.ci_high))
                found["kad"].append((kad.kad, kad.ci_low, kad.ci_high))
                p.append(kad.p)
                bar.update()
            row: dict[str, object] = {"case": case, "clips": n}
            for name, values in found.items():
                value, low, high = np.array(values).T
                held = (low <= truth[name]) & (truth[name] <= high)
                row[name] = {
                    "true": truth[name],
                    "mean": value.mean(),
                    "standard_error": value.std(ddof=1) / np.sqrt(trials),
                    "held": held.mean(),
                }
            row["told_apart"] = (np.array(p) < 0.05).mean()
            rows.append(row)
    bar.close()
    write_json(
        out,
        {
            "rows": rows,
            "trials": trials,
            "n_boot": n_boot,
            "seed": seed,
            "dimensions": DIMENSIONS,
            "windows": WINDOWS,
            "reference_clips": REFERENCE,
            "seconds": time.monotonic() - started,
            **origin("cpu"),
        },
    )
    typer.echo(f"{len(rows)} rows: {out}")


if __name__ == "__main__":
    raise SystemExit(run_app(app))
