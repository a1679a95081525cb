"""Measure training and generation of AudioLDM's full-size architecture, with random weights.

Run by hand, on the GPU that one wants to know about; each command adds its part to one JSON file:

\b
python data_scripts/benchmarks/speed.py all                      # everything below, in this order
python data_scripts/benchmarks/speed.py train                    # clips/s by precision, compilation, batch, loss
python data_scripts/benchmarks/speed.py generate                 # seconds for 100 clips
python data_scripts/benchmarks/speed.py agree                    # is it the same mathematics?
python data_scripts/benchmarks/speed.py memory                   # which batch fits 16, 24, 80 GiB
python data_scripts/benchmarks/speed.py profile                  # where the time of a step goes
python data_scripts/benchmarks/speed.py compile                  # seconds to compile, first and later runs
python data_scripts/benchmarks/speed.py count                    # operations and memory by counting: no GPU needed

Training is `latentclap.train`'s own loop on `FinetuneTask`, generation `FoleySystem.generate_latents`: the rates
include all that Python adds. Without a GPU everything runs too, in fp32 and bf16, if one asks for a size that a CPU
can bear (--size tiny or mini); memory is a GPU's only. FLOPs are counted, not estimated; training counts as three
forward passes; shares are of the bf16 matrix product that this very device reaches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from speed_parts import (
    GENERATION,
    TRAINING,
    Generation,
    Training,
    agreement,
    compile_seconds,
    counted,
    fitting,
    generate_row,
    memory_rows,
    peak_flops,
    profile_step,
    train_row,
)

from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json
from latentclap.runs import commit, device_name, versions
from latentclap.train import TrainingError

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Size = Annotated[str, typer.Option("--size", help="paper (audioldm-m-full), mini or tiny")]
Device = Annotated[str, typer.Option(help="cuda or cpu")]
Out = Annotated[Path, typer.Option(help="JSON file; parts that are not measured now stay")]
Steps = Annotated[int, typer.Option(help="training steps that are timed, after as many to warm up", min=1)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT = Path("runs/speed.json")


# -------------------------------------------------------------------------------------- commands


def start(name: str, device: str) -> float:
    """Check what was asked for, and measure the device's peak."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"--device {device}: there is no GPU here; --device cpu --size tiny runs everything small"
        )
    if device == "cpu" and name == "paper":
        raise InputError("--size paper needs a GPU: a step takes minutes on a CPU; take --size mini or tiny")
    if name not in ("paper", "mini", "tiny"):
        raise InputError(f"--size {name}: there are paper, mini and tiny")
    return peak_flops(device)


def record(out: Path, name: str, device: str, part: str, found: Any) -> None:
    """Put a part into the file; parts of another device or size are not mixed with it."""
    where = "any, by counting" if device == "any" else device_name()
    about = {"size": name, "device": where, "versions": versions(), "commit": commit()}
    old = read_json(out) if out.is_file() else {}
    if old and {k: old.get(k) for k in ("size", "device")} != {k: about[k] for k in ("size", "device")}:
        raise InputError(f"{out} is of {old.get('size')} on {old.get('device')}: name another --out")
    write_json(out, old | about | {part: found})
    typer.echo(f"{part}: written to {out}")


def bearable(rows: Iterable[Any], device: str, batch: int) -> list[Any]:
    """The rows as they are on a GPU; on a CPU with small batches, and without what only a GPU has."""
    if device != "cpu":
        return list(rows)
    return list(
        dict.fromkeys(replace(row, batch=min(row.batch, batch)) for row in rows if row.precision != "tf32")
    )


@app.command("train")
def train_command(name: Size = "paper", device: Device = DEVICE, out: Out = OUT, steps: Steps = 20) -> None:
    """Clips per second by precision, compilation, batch and loss."""
    peak, found = start(name, device), []
    for row in bearable(TRAINING, device, 4):
        found.append(attempt(lambda row=row: train_row(name, device, row, steps, peak), row))
        told = found[-1]
        typer.echo(
            f"{label(row):<46} {told['clips_per_second']:8.1f} clips/s {100 * told['share']:5.1f} %"
            + (f" {told['gib']:5.1f} GiB" if told["gib"] else "")
            if "clips_per_second" in told
            else f"{label(row):<46} {told['error']}"
        )
    record(out, name, device, "train", {"peak_flops": peak, "rows": found})


@app.command("generate")
def generate_command(
    name: Size = "paper",
    device: Device = DEVICE,
    out: Out = OUT,
    clips: Annotated[int, typer.Option(help="clips that are generated", min=1)] = 100,
    most_steps: Annotated[int, typer.Option(help="at most so many steps (to try it out)", min=2)] = 200,
) -> None:
    """Seconds for 100 clips with guidance: latents, as the rest takes little."""
    peak, found = start(name, device), []
    for row in bearable(GENERATION, device, 4):
        row = replace(row, steps=min(row.steps, most_steps))
        found.append(attempt(lambda row=row: generate_row(name, device, row, clips, peak), row))
        told = found[-1]
        typer.echo(
            f"{label(row):<46} {told['seconds']:8.1f} s {100 * told['share']:5.1f} %"
            if "seconds" in told
            else f"{label(row):<46} {told['error']}"
        )
    record(out, name, device, "generate", {"peak_flops": peak, "rows": found})


@app.command()
def agree(
    name: Size = "paper",
    device: Device = DEVICE,
    out: Out = OUT,
    steps: Annotated[int, typer.Option(help="training steps", min=2)] = 100,
    batch: Annotated[int, typer.Option(help="clips a step", min=1)] = 4,
) -> None:
    """Losses and generated latents of the fast ways against fp32."""
    start(name, device)
    found = agreement(name, device, steps, batch)
    for way, value in found["loss"].items():
        typer.echo(
            f"loss, {way:<22} {value['largest']:.2e} at most, {value['mean']:.2e} on average (relative)"
        )
    for way, value in found["latents_rms"].items():
        typer.echo(f"latents, {way:<19} {value:.2e} of their RMS")
    record(out, name, device, "agree", found)


@app.command()
def memory(
    name: Size = "paper",
    device: Device = DEVICE,
    out: Out = OUT,
    batches: Annotated[str, typer.Option(help="batches to try, until one does not fit")] = "2,4,8,16,32,64",
) -> None:
    """Peak memory by batch, and which batch fits a card of 16, 24 and 80 GiB."""
    start(name, device)
    if device == "cpu":
        raise InputError("memory: peak memory is measured on a GPU only")
    rows = memory_rows(name, device, [int(b) for b in batches.split(",")])
    for row in rows:
        how = "checkpointing" if row["checkpointing"] else ""
        typer.echo(
            f"batch {row['batch']:<4} {how:<14} {row['gib']:.1f} GiB"
            if row["gib"]
            else f"batch {row['batch']:<4} {how:<14} too large"
        )
    record(out, name, device, "memory", {"rows": rows, "fits": fitting(rows)})


@app.command("profile")
def profile_command(name: Size = "paper", device: Device = DEVICE, out: Out = OUT) -> None:
    """Where the time of a training step goes, without and with compilation."""
    start(name, device)
    ways = (Training("bf16", False, 16, True), Training("bf16", True, 64, True))
    found = [profile_step(name, device, row) for row in bearable(ways, device, 4)]
    for told in found:
        typer.echo(f"{'compiled' if told['compile'] else 'eager'}: {told['ms_per_step']:.1f} ms a step")
        for what, ms in told["by_kind"].items():
            typer.echo(f"  {what:<22} {ms:8.1f} ms")
        typer.echo(f"  {'device idle':<22} {told['idle_ms']:8.1f} ms")
    record(out, name, device, "profile", found)


@app.command("compile")
def compile_command(name: Size = "paper", device: Device = DEVICE, out: Out = OUT) -> None:
    """Seconds to compile a training step, with an empty cache and in a later run."""
    start(name, device)
    found = compile_seconds(name, device, 64 if device != "cpu" else 4)
    typer.echo(f"first {found['first']:.0f} s, from the cache {found['cached']:.0f} s")
    record(out, name, device, "compile", found)


@app.command()
def count(out: Out = Path("runs/speed_counts.json")) -> None:
    """Operations of a step of the full size, the share of eq. 3 in them, and the memory of weights and Adam."""
    found = counted()
    typer.echo(
        f"per clip: forward {found['forward_gflop']:.1f} GFLOP, a step by eq. 1 {found['eq1_gflop']:.1f},"
        f" eq. 3 on top {found['eq3_gflop']:.1f} ({found['eq3_share']:.2%})\n"
        f"{found['parameters'] / 1e6:.2f} M parameters: {found['state_gib']:.1f} GiB of weights, gradients and Adam"
    )
    for row in found["memory"]:
        typer.echo(
            f"{row['precision']:<5} {'checkpointing' if row['checkpointing'] else '':<14}"
            + ", ".join(f"batch {batch}: {gib:.1f} GiB" for batch, gib in row["peak_gib"].items())
            + "; largest batch: "
            + ", ".join(f"{batch} in {held} GiB" for held, batch in row["fits"].items())
        )
    record(out, "paper", "any", "count", found)


@app.command("all")
def all_parts(name: Size = "paper", device: Device = DEVICE, out: Out = OUT) -> None:
    """Every part, the short ones first."""
    start(name, device)
    for part in (train_command, generate_command, agree, profile_command, compile_command, memory):
        if part is not memory or device != "cpu":
            part(name=name, device=device, out=out)


def label(row: Training | Generation) -> str:
    """A row in words."""
    words = ["fp32" if row.precision == "no" else row.precision, "compiled" if row.compile else "eager"]
    words.append(f"batch {row.batch}")
    if isinstance(row, Generation):
        words.append(f"{row.sampler}, {row.steps} steps")
    else:
        words += ["with eq. 3"] * row.loss + ["checkpointing"] * row.checkpointing
    words += ["channels last"] * row.channels_last
    return ", ".join(words)


def attempt(measure: Callable[[], dict[str, Any]], row: Training | Generation) -> dict[str, Any]:
    """A row's figures, or why there are none: one that does not fit must not cost the others."""
    try:
        return measure()
    except (TrainingError, torch.OutOfMemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return asdict(row) | {"error": str(error).splitlines()[0]}


if __name__ == "__main__":
    sys.exit(run_app(app))
