"""Measure training and generation of AudioLDM's full-size architecture, with random weights.

Run by hand, on the GPU that one wants to know about; each command adds its part to one JSON file, and says so first
where it replaces one of an earlier run:

\b
python data_scripts/benchmarks/speed.py all                      # everything below, in this order
python data_scripts/benchmarks/speed.py train                    # clips/s by precision, compilation, batch, loss
python data_scripts/benchmarks/speed.py generate                 # seconds for 100 clips
python data_scripts/benchmarks/speed.py agree                    # is it the same mathematics?
python data_scripts/benchmarks/speed.py replays                  # and are steps that are replayed the same steps?
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

import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from speed_parts import (
    AGREEMENT,
    GENERATION,
    TRAINING,
    Generation,
    Systems,
    Training,
    agreement,
    compile_seconds,
    counted,
    empty_cache,
    fitting,
    generate_row,
    memory_row,
    peak_flops,
    profile_step,
    replay_agreement,
    train_row,
)

from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json
from latentclap.gpus import use
from latentclap.options import Device, application, device_for
from latentclap.runs import commit, device_name, versions
from latentclap.train import TrainingError

app = application(__doc__)
Size = Annotated[str, typer.Option("--size", help="paper (audioldm-m-full), mini or tiny.")]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="JSON file; parts that are measured again are replaced, others stay."),
]
Minutes = Annotated[
    float, typer.Option(help="Begin no row that will not end in this time; 0: all rows.", min=0)
]
Steps = Annotated[int, typer.Option(help="Training steps that are timed, after as many to warm up.", min=1)]
OUT = Path("runs/speed.json")


# -------------------------------------------------------------------------------------- commands


def named(device: str) -> str:
    """A device for ``auto``; another is looked at by :func:`start`, with an error that says what else can be run."""
    return device_for(device) if device == "auto" else device


def start(name: str, device: str, *, patient: bool = False) -> float:
    """Check what was asked for, and measure the device's peak; who is patient may take the full size on a CPU."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"--device {device}: there is no GPU here; --device cpu --size tiny runs everything small"
        )
    if device == "cpu" and name == "paper" and not patient:
        raise InputError("--size paper needs a GPU: a step takes minutes on a CPU; take --size mini or tiny")
    if name not in ("paper", "mini", "tiny"):
        raise InputError(f"--size {name}: there are paper, mini and tiny")
    return peak_flops(use(device))


def earlier(out: Path, name: str, device: str) -> dict[str, Any]:
    """What is in the file; parts of another device or size are not mixed with it."""
    where = "any, by counting" if device == "any" else device_name()
    old = read_json(out) if out.is_file() else {}
    if old and (old.get("size"), old.get("device")) != (name, where):
        raise InputError(f"{out} is of {old.get('size')} on {old.get('device')}: name another --out")
    return old | {"size": name, "device": where}


#: what the file may hold, of each a command
PARTS = ("train", "replays", "generate", "agree", "memory", "profile", "compile", "count")


def tell_earlier(out: Path, old: dict[str, Any], parts: Iterable[str]) -> None:
    """Say in a line what of an earlier run is going to be replaced, all rows of it; nothing where nothing is."""
    there = [part for part in parts if part in old]
    if there:
        by = f" of commit {old['commit']}" if "commit" in old else ""
        typer.echo(
            f"{out} holds {', '.join(there)}{by}: replaced, as a whole, once its first row is measured again"
        )


def record(out: Path, name: str, device: str, part: str, found: Any) -> None:
    """Put a part into the file."""
    about = {"versions": versions(), "commit": commit()}
    write_json(out, earlier(out, name, device) | about | {part: found})


def bearable(rows: Iterable[Any], device: str, batch: int) -> list[Any]:
    """The rows as they are on a GPU; on a CPU with small batches, and without what only a GPU has."""
    if device != "cpu":
        return list(rows)
    small = [
        replace(row, batch=min(row.batch, batch), cuda_graph=False) for row in rows if row.precision != "tf32"
    ]
    return list(dict.fromkeys(small))


@dataclass
class Measurement:
    """What the commands share: device, file, and the time after which nothing is begun.

    What fails is told, and costs nothing of the rest; the status says so at the end (:meth:`close`).
    """

    name: str
    device: str
    out: Path
    minutes: float = 0.0
    patient: bool = False
    #: parts that the command measures
    parts: tuple[str, ...] = PARTS
    #: what was not measured since it failed
    failed: list[str] = field(default_factory=list)
    #: seconds that compilation took so far, at most
    compiling: float = 0.0

    def __post_init__(self) -> None:
        self.device = named(self.device)
        self.end = time.monotonic() + 60 * self.minutes if self.minutes else math.inf
        self.peak = start(self.name, self.device, patient=self.patient)
        # not after the first minutes of measuring
        tell_earlier(self.out, earlier(self.out, self.name, self.device), self.parts)
        self.systems = Systems(self.name, self.device)
        self.tables: dict[str, dict[int, dict[str, Any]]] = {}

    def close(self) -> None:
        """Say what failed, by the status too."""
        if self.failed:
            typer.echo(f"not measured, by an error: {'; '.join(self.failed)}", err=True)
            raise SystemExit(1)

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Go on with the next part where one fails: nobody stands by while it runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(what)
            typer.echo(f"{what:<50} failed: {reason(error)}")
            self.let_go()

    def let_go(self) -> None:
        """Drop the last system, whose memory is wanted; a GPU in an error, which all that follows has, may refuse."""
        try:
            self.systems.of()
        except Exception as error:
            typer.echo(f"the memory of the last part was not given back: {reason(error)}", err=True)

    def in_time(self, what: str, row: Training | Generation | None = None) -> bool:
        """Whether there is time for it: what has to be compiled takes as long as what was compiled before."""
        needed = self.compiling if row is not None and row.compile and row.way != self.systems.way else 0.0
        if time.monotonic() + needed > self.end:
            typer.echo(f"{what:<50} not measured: out of time")
            return False
        return True

    def rows(self, part: str, rows: Iterable[tuple[int, Any]], measure: Callable[[Any], dict]) -> None:
        """Measure numbered rows of a table; what is there is written after each of them."""
        for number, row in rows:
            if not self.in_time(label(row), row):
                continue
            told = attempt(lambda row=row: measure(row), row)
            if "error" in told:
                self.let_go()  # what is left of it is in the way of the next
            if told.get("failed"):
                self.failed.append(label(row))
            first = told.get("first_step_seconds", told.get("first_call_seconds", 0.0))
            self.compiling = max(self.compiling, first if row.compile else 0.0)
            typer.echo(f"{label(row):<50} {told['error'] if 'error' in told else shown(told)}")
            self.tables.setdefault(part, {})[number] = told
            found = [row for _, row in sorted(self.tables[part].items())]
            self.record(part, {"peak_flops": self.peak, "rows": found})

    def train(self, steps: int, numbers: Iterable[int] | None = None) -> None:
        """Clips per second of rows of the table of training."""
        rows = numbered(TRAINING, self.device, numbers)
        self.rows("train", rows, lambda row: train_row(self.systems, row, steps, self.peak))

    def generate(self, clips: int, most_steps: int, numbers: Iterable[int] | None = None) -> None:
        """Seconds for so many clips by rows of the table of generation."""
        rows = numbered(GENERATION, self.device, numbers)
        rows = [(n, replace(row, steps=min(row.steps, most_steps))) for n, row in rows]
        self.rows("generate", rows, lambda row: generate_row(self.systems, row, clips, self.peak))

    def profile(self, ways: Iterable[int] = (0, 1, 2)) -> None:
        """Kernels of an eager step of training, of the fastest, and of a step of the fastest sampling."""
        rows = bearable((Training("bf16", False, 16, True), TRAINING[0], GENERATION[0]), self.device, 4)
        for way in ways:
            if not self.in_time("profile", rows[way]):
                continue
            with self.going_on(f"profile of {label(rows[way])}"):
                if way == 2 and self.systems.way != rows[way].way:
                    generate_row(self.systems, replace(rows[way], steps=2), 2, self.peak)
                told = profile_step(self.systems, rows[way])
                self.tables.setdefault("profile", {})[way] = told
                typer.echo(f"{label(rows[way])}: {told['ms_per_step']:.1f} ms a step")
                for what, ms in (*told["by_kind"].items(), ("device idle", told["idle_ms"])):
                    typer.echo(f"  {what:<22} {ms:8.1f} ms")
                self.record("profile", [row for _, row in sorted(self.tables["profile"].items())])

    def replays(self) -> None:
        """Losses of the fastest way's steps against the same steps in other ways."""
        (row,) = bearable(TRAINING[:1], self.device, 4)
        if not self.in_time("replays", row):
            return
        with self.going_on("replays"):
            told = replay_agreement(self.systems, row)
            for other, value in told["against"].items():
                typer.echo(f"{label(row)}, against {other}: loss {value['largest']:.2e} at most (relative)")
            self.record("replays", told)

    def memory(self, batches: Iterable[int]) -> None:
        """Peak memory by batch, until one does not fit."""
        self.let_go()
        rows: list[dict[str, Any]] = []
        for checkpointing in (False, True):
            how = "checkpointing" if checkpointing else ""
            for batch in batches:
                what = f"memory of batch {batch} {how}".strip()
                if not self.in_time(what):
                    break
                with self.going_on(what):
                    rows.append(memory_row(self.name, self.device, batch, checkpointing))
                if what in self.failed:
                    break
                gib = f"{rows[-1]['gib']:.1f} GiB" if rows[-1]["gib"] else "too large"
                typer.echo(f"batch {batch:<4} {how:<14} {gib}")
                self.record("memory", {"rows": rows, "fits": fitting(rows)})
                if rows[-1]["gib"] is None:
                    break

    def agree(self, steps: int, batch: int, ways: Iterable[str]) -> None:
        """Losses and generated latents of the fast ways against fp32."""
        if not self.in_time("agreement"):
            return
        with self.going_on("agreement"):
            self._agree(steps, batch, ways)

    def _agree(self, steps: int, batch: int, ways: Iterable[str]) -> None:
        self.systems.of()
        told: set[str] = set()
        for found in agreement(self.name, self.device, steps, batch, ways=ways):
            for way, value in found["loss"].items():
                if way not in told:
                    largest, mean = value["largest"], value["mean"]
                    typer.echo(f"loss, {way:<22} {largest:.2e} at most, {mean:.2e} on average (relative)")
                    if way in found["latents_rms"]:
                        typer.echo(f"latents, {way:<19} {found['latents_rms'][way]:.2e} of their RMS")
            told = set(found["loss"])
            self.record("agree", found)
            if not self.in_time("the rest of agreement"):
                return

    def compile(self, first: float | None = None) -> None:
        """Seconds to compile the fastest way's step: with an empty cache (unless it was measured), and again."""
        if not self.in_time("compilation"):
            return
        self.let_go()  # another process wants the GPU
        (row,) = bearable(TRAINING[:1], self.device, 4)
        runs = 2 if first is None else 1
        timeout = None if math.isinf(self.end) else max(60.0, self.end - time.monotonic())
        with self.going_on("compilation"):
            told = compile_seconds(self.name, self.device, row, runs, timeout)
            first, cached = told if first is None else (first, told[0])
            typer.echo(f"compilation: first {first:.0f} s, from the cache {cached:.0f} s")
            self.record("compile", {"first": first, "cached": cached})

    def record(self, part: str, found: Any) -> None:
        """Put a part into the file."""
        record(self.out, self.name, self.device, part, found)


def shown(told: dict[str, Any]) -> str:
    """A row's figures in words."""
    if "clips_per_second" in told:
        gib = f" {told['gib']:5.1f} GiB" if told["gib"] else ""
        return f"{told['clips_per_second']:8.1f} clips/s {100 * told['share']:5.1f} %{gib}"
    return f"{told['seconds']:8.1f} s {100 * told['share']:5.1f} %" + " (scaled up)" * told["scaled"]


def numbered(rows: Iterable[Any], device: str, numbers: Iterable[int] | None) -> list[tuple[int, Any]]:
    """The rows that this device can bear, or some of them, with their numbers."""
    rows = list(enumerate(bearable(rows, device, 4)))
    return rows if numbers is None else [rows[n] for n in numbers if n < len(rows)]


@app.command("train")
def train_command(
    name: Size = "paper", device: Device = "auto", out: Out = OUT, steps: Steps = 40, minutes: Minutes = 0.0
) -> None:
    """Clips per second by precision, compilation, batch and loss."""
    run = Measurement(name, device, out, minutes, parts=("train",))
    run.train(steps)
    run.close()


@app.command("generate")
def generate_command(
    name: Size = "paper",
    device: Device = "auto",
    out: Out = OUT,
    clips: Annotated[int, typer.Option(help="Clips that are generated.", min=1)] = 100,
    most_steps: Annotated[int, typer.Option(help="At most so many steps (to try it out).", min=2)] = 200,
    minutes: Minutes = 0.0,
) -> None:
    """Seconds for 100 clips with guidance: latents, as the rest takes little."""
    run = Measurement(name, device, out, minutes, parts=("generate",))
    run.generate(clips, most_steps)
    run.close()


@app.command()
def agree(
    name: Size = "paper",
    device: Device = "auto",
    out: Out = OUT,
    steps: Annotated[int, typer.Option(help="Training steps.", min=2)] = 100,
    batch: Annotated[int, typer.Option(help="Clips a step.", min=1)] = 4,
) -> None:
    """Losses and generated latents of the fast ways against fp32; on a CPU in an hour or two, with --batch 1."""
    run = Measurement(name, device, out, patient=True, parts=("agree",))
    run.agree(steps, batch, AGREEMENT)
    run.close()


@app.command("replays")
def replays_command(name: Size = "paper", device: Device = "auto", out: Out = OUT) -> None:
    """Losses of steps that are compiled and replayed against the same steps in other ways."""
    run = Measurement(name, device, out, parts=("replays",))
    run.replays()
    run.close()


@app.command()
def memory(
    name: Size = "paper",
    device: Device = "auto",
    out: Out = OUT,
    batches: Annotated[str, typer.Option(help="Batches to try, until one does not fit.")] = "2,4,8,16,32,64",
) -> None:
    """Peak memory by batch, and which batch fits a card of 16, 24 and 80 GiB."""
    if named(device) == "cpu":
        raise InputError("memory: peak memory is measured on a GPU only")
    run = Measurement(name, device, out, parts=("memory",))
    run.memory([int(b) for b in batches.split(",")])
    run.close()


@app.command("profile")
def profile_command(name: Size = "paper", device: Device = "auto", out: Out = OUT) -> None:
    """Where the time of a training step goes, without and with compilation."""
    run = Measurement(name, device, out, parts=("profile",))
    run.profile()
    run.close()


@app.command("compile")
def compile_command(name: Size = "paper", device: Device = "auto", out: Out = OUT) -> None:
    """Seconds to compile a training step, with an empty cache and in a later run."""
    empty_cache()
    run = Measurement(name, device, out, parts=("compile",))
    run.compile()
    run.close()


@app.command()
def count(out: Out = Path("runs/speed_counts.json")) -> None:
    """Operations of a step of the full size, the share of eq. 3 in them, and the memory of weights and Adam."""
    tell_earlier(out, earlier(out, "paper", "any"), ["count"])
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
def all_parts(
    name: Size = "paper", device: Device = "auto", out: Out = OUT, steps: Steps = 40, minutes: Minutes = 0.0
) -> None:
    """Every part, what matters most first: rented minutes end."""
    empty_cache()
    run = Measurement(name, device, out, minutes)
    rows = numbered(TRAINING, run.device, None)
    run.train(steps, [0, 1, 2])
    first = run.tables.get("train", {}).get(0, {}).get("first_step_seconds")
    run.profile([1])  # of what is compiled already
    run.replays()
    run.generate(100, 200, [0, 1, 2])
    run.profile([2])
    run.compile(first)
    run.agree(100, 4, [way for way, row in AGREEMENT.items() if not row.compile])
    if run.device != "cpu":
        run.memory([2, 16, 64])
    run.train(steps, [n for n, row in rows if row.lora])
    run.train(steps, [n for n, row in rows if not row.compile])
    run.generate(100, 200, [n for n, row in numbered(GENERATION, run.device, None) if not row.compile])
    run.profile([0])
    run.train(steps, [n for n, row in rows if n > 2 and row.compile and not row.lora])
    run.generate(100, 200, [n for n, row in numbered(GENERATION, run.device, None) if n > 2 and row.compile])
    run.close()


def label(row: Training | Generation) -> str:
    """A row in words."""
    words = ["fp32" if row.precision == "no" else row.precision, "compiled" if row.compile else "eager"]
    words.append(f"batch {row.batch}")
    if isinstance(row, Generation):
        words.append(f"{row.sampler}, {row.steps} steps")
    else:
        words += ["with eq. 3"] * row.loss + ["checkpointing"] * row.checkpointing
        words += [f"LoRA of rank {row.lora}"] * bool(row.lora)
    words += ["fused"] * row.fused + ["replayed"] * row.cuda_graph
    return ", ".join(words)


def attempt(measure: Callable[[], dict[str, Any]], row: Training | Generation) -> dict[str, Any]:
    """A row's figures, or why there are none: one that does not fit must not cost the others."""
    try:
        return measure()
    except (TrainingError, torch.OutOfMemoryError) as error:
        return asdict(row) | {"error": reason(error)}
    except Exception as error:  # a compiler's that is not there, say, or another version's
        traceback.print_exc()
        return asdict(row) | {"error": f"failed: {reason(error)}", "failed": True}


def reason(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    sys.exit(run_app(app))
