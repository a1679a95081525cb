"""Count what LoRA trains of the paper's UNet, and train adapters of mini at several learning rates; no GPU is needed.

Run by hand; each part is added to the record, which the book's page on LoRA shows:

\b
python data_scripts/benchmarks/lora.py count     # parameters, file, Adam's moments; a step's memory by the estimate
python data_scripts/benchmarks/lora.py train     # mini on the clips of profile quick, losses on held-out ones
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from latentclap.errors import run_app
from latentclap.files import read_json, write_json
from latentclap.options import application
from latentclap.runs import origin

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book" / "runs" / "lora.json"
#: full training beside LoRA: rank, learning rates; 1e-4 is that of profile quick
FULL, RATES = (1e-4,), (3e-6, 1e-4, 3e-4, 1e-3, 3e-3)
#: ranks that are counted
RANKS = (4, 16, 64)

app = application(__doc__)


def _add(out: Path, part: str, value: dict[str, Any]) -> None:
    told = read_json(out) if out.is_file() else {}
    write_json(out, told | {part: value | origin()})
    typer.echo(f"{out}: {part}")


@app.command()
def count(
    rank: Annotated[int, typer.Option(help="Rank whose step is walked through.")] = 16,
    width: Annotated[int, typer.Option(help="Width of φ; PANN-10: 64.")] = 64,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")] = RECORD,
) -> None:
    """Count at the paper's full size, with tensors that have no memory."""
    from latentclap.lora import adapter_parameters
    from latentclap.memory import GIB, training_footprint
    from latentclap.models import audioldm_unet

    with torch.device("meta"):
        unet = audioldm_unet().config
    rows = []
    for r in (0, *RANKS):
        trained, total = adapter_parameters(unet, r)
        rows.append({"rank": r, "trained": trained, "file_bytes": 4 * trained, "moments_bytes": 8 * trained})
    phi = {"channels": 8, "freq": 16, "width": width, "embed_dim": 512}
    memory = []
    for r in (0, rank):
        for checkpointing in (False, True):
            footprint = training_footprint(
                unet, phi, (8, 256, 16), precision="bf16", checkpointing=checkpointing, lora_rank=r
            )
            memory.append(
                {
                    "rank": r,
                    "checkpointing": checkpointing,
                    "one_clip_gib": footprint.peak(1) / GIB,
                    "largest_batch": {str(held): footprint.fits(held * GIB) for held in (8, 12, 16, 24)},
                }
            )
    _add(out, "count", {"total": total, "rows": rows, "memory": memory, "precision": "bf16"})


@app.command()
def train(
    rank: Annotated[int, typer.Option(help="Rank of the adapters.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the development clips.")] = 10,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")] = RECORD,
) -> None:
    """Fine-tune mini by eq. 4, all weights and adapters, and measure eq. 1 and 3 on held-out clips."""
    from latentclap.finetune import FinetuneConfig
    from latentclap.lab import Lab
    from latentclap.measure import heldout_losses, summarise
    from latentclap.profiles import load_profile

    lab = Lab(load_profile("quick"))
    base = FinetuneConfig.of(lab.profile.finetune, epochs=epochs)

    def measured(system: Any) -> dict[str, float]:
        return summarise(heldout_losses(system, lab.phi, lab.cache("eval")))

    clips = {"dev": len(lab.cache("dev")["mean"]), "eval": len(lab.cache("eval")["mean"])}
    about = {"model": "mini", "lam": base.lam, "batch_size": base.batch_size, "clips": clips}
    rows = [{"rank": None, "lr": None, **measured(lab.system)}]
    for r, lr in [(0, lr) for lr in FULL] + [(rank, lr) for lr in RATES]:
        point = lab.point(replace(base, lora_rank=r, lr=lr))
        told = measured(lab.load(point))
        rows.append(
            {"rank": r, "lr": lr, "steps": point.history[-1]["step"], "seconds": point.seconds, **told}
        )
        typer.echo(f"rank {r}, lr {lr:g}: eq. 1 {told['ddpm']:.5f}, eq. 3 {told['lclap']:.3e}")
        # after each: a rented GPU may be gone before the last
        _add(out, "train", about | {"rows": rows})


if __name__ == "__main__":
    raise SystemExit(run_app(app))
