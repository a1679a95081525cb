"""Convert the DCASE 2023 Task 7 reference statistics (gt_embedding.pkl) to one npz, without TensorFlow.

    python data_scripts/convert_dcase_stats.py <repository>/data/eval dcase_eval_vggish_stats.npz

`python data_scripts/get.py stats` downloads the pickles and does this too. Nothing in a pickle is executed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from latentclap.classes import CLASSES
from latentclap.errors import run_app
from latentclap.fad import save_stats
from latentclap.getting.dcase_stats import convert, read_gt_embedding
from latentclap.options import application

__all__ = ["app", "main", "read_gt_embedding"]

app = application()


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Folder with <class>/gt_embedding.pkl.")],
    output: Annotated[Path, typer.Argument(help="Npz to write.")],
) -> None:
    """Convert <class>/gt_embedding.pkl of the DCASE 2023 Task 7 FAD tool to one npz."""
    stats = convert(folder)
    save_stats(output, stats)
    for name, item in stats.items():
        typer.echo(f"{name}: {item.n} windows, dimension {item.mu.size}, trace {np.trace(item.sigma):.4f}")
    missing = [c for c in CLASSES if c not in stats]
    if missing:
        typer.echo(f"note: no statistics for {', '.join(missing)}", err=True)
    typer.echo(f"wrote {output}")


if __name__ == "__main__":
    sys.exit(run_app(app))
