"""Time what a shipped family must do on a CPU: generate 100 clips, and fine-tune 300 steps with the Latent CLAP loss.

Run by hand, on a machine that does nothing else:

\b
python data_scripts/benchmarks/family.py                 # to book/runs/family.json, which the model card shows

Each part runs in a process of its own, so that its peak memory is its own; loading the family counts. The times
are of this machine: the bars are 3 minutes for the clips, 6 for the training, and 4 GB.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from latentclap.errors import run_app
from latentclap.files import write_json
from latentclap.gpus import use
from latentclap.options import application
from latentclap.runs import origin

ROOT = Path(__file__).resolve().parents[2]

app = application(__doc__)


def generating(family: str, clips: int, steps: int, sampler: str) -> dict[str, Any]:
    """Clips of the seven classes in turn, with guidance 2, from text to wave."""
    from latentclap import FoleySystem
    from latentclap.classes import CLASSES, prompt

    system = FoleySystem.from_pretrained(family)
    prompts = [prompt(CLASSES[i % len(CLASSES)]) for i in range(clips)]
    waves = system.generate(
        prompts=prompts, n=1, steps=steps, sampler=sampler, guidance_scale=2.0, progress=True
    )
    return {"clips": len(waves), "steps": steps, "sampler": sampler}


def finetuning(family: str, steps: int, batch: int) -> dict[str, Any]:
    """Eq. 4 on latents of the family's own size; what the latents are changes no time."""
    from latentclap import FoleySystem
    from latentclap.checkpoints import resolve
    from latentclap.finetune import FinetuneConfig, finetune
    from latentclap.latent_clap import LatentCLAP

    system = FoleySystem.from_pretrained(family)
    phi = LatentCLAP.from_pretrained(resolve(family) / "latent_clap")
    g = torch.Generator().manual_seed(0)
    clips = 10 * batch
    unit = torch.nn.functional.normalize(torch.randn(2, clips, system.embed_dim, generator=g), dim=-1)
    cache = {
        "mean": torch.randn(clips, *system.latent_shape, generator=g),
        "logvar": torch.randn(clips, *system.latent_shape, generator=g) - 6,
        "E_text": unit[0],
        "E_audio": unit[1],
    }
    config = FinetuneConfig(lam=1000.0, tuning=True, epochs=-(-steps * batch // clips), batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        _, result = finetune(system, phi, cache, config, folder)
    return {"steps": result.step, "batch": batch, "lam": config.lam}


def measured(work: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What a part returns, with its seconds and its process's peak memory."""
    begin = time.perf_counter()
    found = work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"seconds": time.perf_counter() - begin, "gb": peak / 1e9}


@app.command()
def run(
    family: Annotated[str, typer.Option(help="A family's folder, or mini: the package's own.")] = "mini",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON file to write.", show_default="the book's")
    ] = ROOT / "book/runs/family.json",
    clips: Annotated[int, typer.Option(help="Clips to generate.", min=1)] = 100,
    steps: Annotated[int, typer.Option(help="Sampling steps.", min=1)] = 25,
    sampler: Annotated[str, typer.Option(help="ddim, dpmsolver++ or unipc.")] = "ddim",
    training_steps: Annotated[int, typer.Option(help="Fine-tuning steps at batch 8.", min=1)] = 300,
) -> None:
    """Time both parts."""
    use("cpu")  # the parts' processes as well, which would train on a GPU where there is one
    context = multiprocessing.get_context("spawn")  # forked, torch's threads would not come along
    report: dict[str, Any] = {}
    parts = {
        "generate": (generating, (family, clips, steps, sampler)),
        "finetune": (finetuning, (family, training_steps, 8)),
    }
    for name, (work, arguments) in parts.items():
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            report[name] = pool.submit(measured, work, arguments).result()
        typer.echo(f"{name}: {report[name]['seconds']:.0f} s, {report[name]['gb']:.2f} GB")
    write_json(out, report | origin())


if __name__ == "__main__":
    sys.exit(run_app(app))
