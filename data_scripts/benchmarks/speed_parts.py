"""What ``speed.py`` measures: rates, agreement, memory, kernels and compilation of training and generation."""

from __future__ import annotations

import atexit
import copy
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentclap.fast import speed_up
from latentclap.finetune import FinetuneTask
from latentclap.latent_clap import LatentCLAP
from latentclap.lora import add_adapters
from latentclap.losses import LatentCLAPLoss
from latentclap.memory import GIB, training_footprint
from latentclap.models import audioldm_unet, random_system, size
from latentclap.system import FoleySystem
from latentclap.train import TensorBatches, TrainConfig, TrainingError, train
from latentclap.train.replay import WARM

LAPS = 3  # timed laps of a row of training
LAM = 1000.0  # the paper's λ of fine-tuning without a tuning layer


@dataclass(frozen=True)
class Training:
    """A row of the table of training: how, and how much at a time."""

    precision: str
    compile: bool
    batch: int
    loss: bool
    checkpointing: bool = False
    fused: bool = False
    #: rank of adapters that train instead of the weights; 0: all weights train
    lora: int = 0
    #: a step is recorded once and replayed; also of what is not compiled, which the loop itself does not do
    cuda_graph: bool = False

    @property
    def way(self) -> tuple[Any, ...]:
        """What rows that share a system, and what was compiled for it, have in common."""
        return "train", self.compile, self.fused, self.batch, self.checkpointing, self.lora


@dataclass(frozen=True)
class Generation:
    """A row of the table of generation."""

    precision: str
    compile: bool
    batch: int
    sampler: str = "ddim"
    steps: int = 200
    fused: bool = False
    #: of the 100 clips and the steps, how many are run: a slow way's seconds are scaled up from fewer
    clips: int | None = None
    run: int | None = None
    #: the UNet's pass is recorded once and replayed
    cuda_graph: bool = False

    @property
    def way(self) -> tuple[Any, ...]:
        """As that of training."""
        return "generate", self.compile, self.fused, self.batch, self.precision, self.cuda_graph


#: neighbours share what is compiled, where it is the same
TRAINING = (
    Training("bf16", True, 64, True, fused=True, cuda_graph=True),
    Training("bf16", True, 64, False, fused=True, cuda_graph=True),
    Training("bf16", True, 64, True, fused=True),
    Training("bf16", False, 64, True, fused=True, cuda_graph=True),
    Training("bf16", True, 16, True, fused=True, cuda_graph=True),
    Training("bf16", True, 64, True, checkpointing=True, fused=True, cuda_graph=True),
    Training("bf16", True, 64, True),
    Training("bf16", False, 16, False),
    Training("tf32", False, 16, False),
    Training("no", False, 4, False),
    Training("bf16", True, 64, True, fused=True, lora=16, cuda_graph=True),
)
GENERATION = (
    Generation("bf16", True, 100, fused=True, cuda_graph=True),
    Generation("bf16", True, 100, "dpmsolver++", 25, fused=True, cuda_graph=True),
    Generation("bf16", True, 100, "unipc", 25, fused=True, cuda_graph=True),
    Generation("bf16", False, 1, fused=True, clips=1, run=50, cuda_graph=True),
    Generation("bf16", False, 1, fused=True, clips=1, run=50),
    Generation("bf16", True, 100, run=20),
    Generation("bf16", False, 20, clips=20, run=20),
    Generation("no", False, 1, clips=2, run=20),
)


# -------------------------------------------------------------------------------------- what is measured


def bench_system(name: str, device: str) -> tuple[FoleySystem, LatentCLAP]:
    """A system with random weights, and a Latent CLAP encoder; of "paper" only the UNet has full size, and φ.

    The same weights each time, whatever was drawn before: ways of running are compared with one another.
    """
    drawn = _drawn(name)
    # copied to the device at once: drawing the full size's weights takes seconds, and each way wants them
    moved: dict[int, Any] = {}
    for part in (*drawn[0].parts.values(), drawn[1]):
        for p in part.parameters():
            moved[id(p)] = torch.nn.Parameter(p.detach().to(device, copy=True), p.requires_grad)
    system, phi = copy.deepcopy(drawn, moved)
    return system.to(device), phi.to(device)


@cache
def _drawn(name: str) -> tuple[FoleySystem, LatentCLAP]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name != "paper":
            system, phi = random_system(name), LatentCLAP(**size(name)["phi"])
        else:
            system, phi = random_system("tiny"), LatentCLAP()
            system.unet, system.frames = audioldm_unet(), 1024
    return system.eval(), phi


def forward_flops(system: FoleySystem) -> int:
    """Floating point operations of one forward pass of the UNet for one clip; a product and a sum count as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        system.eps_theta(
            torch.zeros(1, *system.latent_shape, device=system.device),
            torch.zeros(1, dtype=torch.long, device=system.device),
            torch.zeros(1, system.embed_dim, device=system.device),
        )
    return counter.get_total_flops()


def counted(width: int = 64) -> dict[str, Any]:
    """What a training step of the full size costs per clip, by its operations and weights: no GPU is needed.

    Args:
        width: of φ (PANN-10: 64).

    Returns:
        GFLOP of the UNet's forward pass, of a training step by eq. 1 (forward and backward, as they are), and of
        eq. 3 on top (φ forward, and backward to its input: φ is frozen), with its share; parameters, and GiB of
        weights, gradients and Adam's two moments in float32; what a step keeps in memory (:func:`estimated`).
    """
    with torch.device("meta"):
        unet, phi = audioldm_unet(), LatentCLAP(width=width).requires_grad_(False)
        latent = torch.zeros(1, 8, 256, 16, requires_grad=True)
        step, condition = torch.zeros(1), torch.zeros(1, 512)
    condition = {"encoder_hidden_states": None, "class_labels": condition}
    forward = _gflop(lambda: unet(latent.detach(), step, **condition))
    eq1 = _gflop(lambda: unet(latent.detach(), step, **condition).sample.sum().backward())
    eq3 = _gflop(lambda: phi(latent).sum().backward())
    parameters = sum(p.numel() for p in unet.parameters())
    return {
        "forward_gflop": forward,
        "eq1_gflop": eq1,
        "eq3_gflop": eq3,
        "eq3_share": eq3 / eq1,
        "parameters": parameters,
        "state_gib": 4 * 4 * parameters / GIB,
        "memory": [estimated(unet.config, phi.config, *way) for way in WAYS],
    }


#: precision and recomputation of the table of estimated memory
WAYS = (("no", False), ("no", True), ("bf16", False), ("bf16", True))
#: GiB of the cards that it speaks of
CARDS = (16, 24, 80)


def estimated(unet: Any, phi: Any, precision: str, checkpointing: bool) -> dict[str, Any]:
    """Memory of an eager step with eq. 3 at full size (``latentclap.memory``), and the largest batch by card."""
    told = training_footprint(unet, phi, (8, 256, 16), precision=precision, checkpointing=checkpointing)
    return {
        "precision": precision,
        "compile": False,
        "checkpointing": checkpointing,
        "least_gib": told.least / GIB,
        "per_clip_gib": told.per_clip / GIB,
        "peak_gib": {str(batch): told.peak(batch) / GIB for batch in (2, 16, 64)},
        "fits": {str(held): told.fits(held * GIB) for held in CARDS},
    }


def _gflop(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def peak_flops(device: str, n: int | None = None) -> float:
    """FLOP/s of a bf16 product of two n x n matrices (GPU), or of an fp32 one (CPU): the device's own best."""
    gpu = device != "cpu"
    n = n or (8192 if gpu else 1024)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    laps = []
    for _ in range(10):
        wait(device)
        begin = time.perf_counter()
        for _ in range(5):
            a @ a
        wait(device)
        laps.append((time.perf_counter() - begin) / 5)
    return 2 * n**3 / min(laps)


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()


def fixed_data(system: FoleySystem, clips: int) -> TensorBatches:
    """Random latents and embeddings, the same for a size."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(clips, *shape, generator=g)

    unit = (torch.nn.functional.normalize(normal(system.embed_dim), dim=1) for _ in range(2))
    names = ("mean", "logvar", "E_text", "E_audio")
    return TensorBatches(
        dict(zip(names, (normal(*system.latent_shape), normal(*system.latent_shape) - 6, *unit), strict=True))
    )


def run_training(
    system: FoleySystem, phi: LatentCLAP, row: Training, steps: int, folder: Path, *, log_every: int = 1
) -> list[dict[str, float]]:
    """The loop, as fine-tuning runs it: a line of its record every ``log_every`` steps."""
    loss = LatentCLAPLoss(phi, schedule=system.schedule) if row.loss else None
    if not row.lora:
        system.unet.requires_grad_(True)
    elif not getattr(system.unet, "peft_config", None):
        add_adapters(system.unet, row.lora)
    if row.fused and not (row.compile or row.cuda_graph):
        speed_up(system.unet)  # the loop does it where it compiles
    task = FinetuneTask(system, loss, LAM if row.loss else 0.0)
    task.frozen = f"rank {row.lora}" if row.lora else ""
    config = TrainConfig(
        steps=steps,
        batch_size=row.batch,
        precision=row.precision,
        compile=row.compile or row.cuda_graph,
        checkpointing=row.checkpointing,
        fused=row.fused,
        cuda_graph=row.cuda_graph,
        log_every=log_every,
        checkpoint_seconds=1e9,
    )
    data = fixed_data(system, max(256, row.batch))
    try:
        with ExitStack() as changed:
            # the full size's checkpoint is 5 GB, which nobody reads here and which takes seconds of a rented GPU
            changed.enter_context(mock.patch("latentclap.train.state.save_checkpoint"))
            if not row.compile:
                changed.enter_context(mock.patch.object(torch.nn.Module, "compile"))
            return train(task, data, config, folder, progress=False).history
    finally:
        system.unet.zero_grad(set_to_none=True)
        if row.checkpointing:
            system.unet.disable_gradient_checkpointing()


class Systems:
    """The last system, for a row that can use what was compiled for the row before."""

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        self.way: tuple[Any, ...] | None = None
        #: the system as it was made; a way may hold a copy of it that is faster
        self.plain: FoleySystem | None = None

    def of(self, *way: Any) -> tuple[FoleySystem, LatentCLAP]:
        """The system of a way of running: the same one for the same way."""
        if way != self.way:
            torch._dynamo.reset()  # or another batch would be compiled for batches of any size
            self.way, self.held, self.plain = way, None, None
            gc.collect()  # accelerate's wrappers hold one another, and with them the weights
            if self.device != "cpu":
                torch.cuda.empty_cache()
            self.held = bench_system(self.name, self.device) if way else None
            self.plain = self.held[0] if self.held else None
        return self.held


def train_row(systems: Systems, row: Training, steps: int, peak: float) -> dict[str, Any]:
    """Clips per second of a row, the median of three laps after a warm-up as long as one, and their range; memory."""
    gpu = systems.device != "cpu"
    system, phi = systems.of(*row.way)
    # where the weights are frozen, no gradient of theirs is computed: a third of the operations
    flops = (2 if row.lora else 3) * forward_flops(system)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        history = run_training(system, phi, row, (1 + LAPS) * steps, Path(folder), log_every=steps)
    at = {line["step"]: line["seconds"] for line in history}
    laps = [at[(k + 1) * steps] - at[k * steps] for k in range(1, 1 + LAPS)]
    rate, *ends = (row.batch * steps / lap for lap in (np.median(laps), max(laps), min(laps)))
    return asdict(row) | {
        "clips_per_second": float(rate),
        "range": ends,
        "share": float(rate * flops / peak),
        "gib": torch.cuda.max_memory_allocated() / GIB if gpu else None,
        "first_step_seconds": at[1],
    }


@contextmanager
def in_precision(precision: str, device: str) -> Iterator[None]:
    """fp32 ("no"), as training means it, or autocast to bf16.

    By itself cuDNN computes float32 in TF32, which is nearly as coarse as bf16, and faster than float32.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def latents(system: FoleySystem, row: Generation, clips: int, device: str) -> torch.Tensor:
    """Latents of ``clips`` clips of rain with guidance 2."""
    with in_precision(row.precision, device):
        return system.generate_latents(
            ["rain"] * clips,
            range(clips),
            steps=row.steps,
            sampler=row.sampler,
            guidance_scale=2.0,
            batch_size=row.batch,
        )


def generate_row(systems: Systems, row: Generation, clips: int, peak: float) -> dict[str, Any]:
    """Seconds for ``clips`` clips, after a warm-up of a few steps in the same shapes."""
    device, run = systems.device, replace(row, steps=min(row.run or row.steps, row.steps))
    held = min(row.clips or clips, clips)
    system, phi = systems.of(*row.way)
    flops = 2 * forward_flops(system) * row.steps * clips  # twice: guidance
    if (row.compile or row.fused) and system is systems.plain:
        if row.fused:
            system = system.for_generation(compile=row.compile, cuda_graph=row.cuda_graph)
        else:
            system.unet.compile(dynamic=False)
        systems.held, systems.plain = (system, phi), None
    begin = time.perf_counter()
    latents(system, replace(row, steps=WARM + 1), min(held, row.batch), device)
    wait(device)
    first, begin = time.perf_counter() - begin, time.perf_counter()
    latents(system, run, held, device)
    wait(device)
    seconds = (time.perf_counter() - begin) * (clips / held) * (row.steps / run.steps)
    return asdict(row) | {
        "clips": clips,
        "seconds": seconds,
        "scaled": (held, run.steps) != (clips, row.steps),
        "share": flops / seconds / peak,
        "first_call_seconds": first,
    }


#: how agreement is measured: against the first
AGREEMENT = {
    "fp32": Training("no", False, 4, True),
    "bf16": Training("bf16", False, 4, True),
    "bf16, fused": Training("bf16", False, 4, True, fused=True),
    "bf16, fused, replayed": Training("bf16", False, 4, True, fused=True, cuda_graph=True),
    "fp32, checkpointing": Training("no", False, 4, True, checkpointing=True),
    "bf16, compiled, fused, replayed": Training("bf16", True, 4, True, fused=True, cuda_graph=True),
}


def agreement(
    name: str, device: str, steps: int, batch: int, *, ways: Iterable[str] = tuple(AGREEMENT)
) -> Iterator[dict[str, Any]]:
    """Losses of the fast ways against fp32 over the same steps, and generated latents against fp32's.

    bf16's own noise is what plain autocast gives: no other way may add to it.

    Yields:
        What is known after each way: at the full size a CPU takes a quarter of an hour for one.
    """
    losses, made = {}, {}
    for label in dict.fromkeys(("fp32", *ways)):
        row = replace(AGREEMENT[label], batch=batch)
        torch._dynamo.reset()
        system, phi = bench_system(name, device)
        with tempfile.TemporaryDirectory() as folder:
            losses[label] = np.array([h["loss"] for h in run_training(system, phi, row, steps, Path(folder))])
        del system, phi
        gc.collect()
        if not row.checkpointing:
            system, _ = bench_system(name, device)
            if row.fused:
                system = system.for_generation(compile=row.compile, cuda_graph=row.cuda_graph)
            made[label] = latents(
                system, Generation(row.precision, row.compile, 2, steps=25), 2, device
            ).float()
            del system
        exact, clean = losses["fp32"], made["fp32"]
        off = {way: np.abs(values / exact - 1) for way, values in losses.items() if way != "fp32"}
        yield {
            "steps": steps,
            "batch": batch,
            "kernels": device != "cpu",
            "loss": {way: {"largest": float(v.max()), "mean": float(v.mean())} for way, v in off.items()},
            "latents_rms": {
                way: float((x - clean).pow(2).mean().sqrt() / clean.pow(2).mean().sqrt())
                for way, x in made.items()
                if way != "fp32"
            },
        }


def replay_agreement(systems: Systems, row: Training, steps: int = WARM + 7) -> dict[str, Any]:
    """Losses of a row's own steps, most of them replays, beside those of other ways, from the same weights.

    The ways are the same step started kernel by kernel, and plain autocast in diffusers' own UNet.
    """
    system, phi = systems.of(*row.way)
    parameters = list(system.unet.parameters())
    first = [p.detach().clone() for p in parameters]
    ways = {
        "as it is": row,
        "kernel by kernel": replace(row, cuda_graph=False),
        "plain": Training(row.precision, False, row.batch, row.loss, row.checkpointing),
    }
    losses = {}
    for label, way in ways.items():
        with torch.no_grad():
            for p, value in zip(parameters, first, strict=True):
                p.copy_(value)
        with tempfile.TemporaryDirectory() as folder:
            history = run_training(system, phi, way, steps, Path(folder))
        losses[label] = np.array([line["loss"] for line in history])
    off = {label: np.abs(losses["as it is"] / other - 1) for label, other in losses.items()}
    return asdict(row) | {
        "steps": steps,
        "replays": max(0, steps - WARM) if row.cuda_graph else 0,
        "against": {
            label: {"largest": float(v.max()), "mean": float(v.mean())}
            for label, v in off.items()
            if label != "as it is"
        },
    }


def memory_row(name: str, device: str, batch: int, checkpointing: bool) -> dict[str, Any]:
    """Peak memory of an eager training step; without a figure where it does not fit."""
    row = Training("bf16", False, batch, True, checkpointing)
    try:
        gib = train_row(Systems(name, device), row, 1, peak=1.0)["gib"]
    except TrainingError:
        gib = None
    return {"batch": batch, "checkpointing": checkpointing, "gib": gib}


def fitting(rows: list[dict[str, Any]], sizes: Iterable[int] = CARDS, spare: float = 1.0) -> dict:
    """Memory in GiB -> the largest measured batch that leaves ``spare`` GiB: (without, with checkpointing).

    None for a way of which nothing was measured.
    """

    def largest(held: float, way: bool) -> int | None:
        of_way = [r for r in rows if r["checkpointing"] is way]
        fit = [r["batch"] for r in of_way if r["gib"] and r["gib"] <= held - spare]
        return max(fit, default=0) if of_way else None

    return {str(held): [largest(held, way) for way in (False, True)] for held in sizes}


#: where a kernel's time goes in the table, by words in its name; the first that fits counts
KINDS = (
    ("layout and copies", ("nchwtonhwc", "nhwctonchw", "memcpy", "memset", "transpose")),
    ("attention", ("sdpa", "flash", "fmha", "attention", "softmax", "compute_dot_do", "convert_dq")),
    ("normalisation", ("group_norm", "groupnorm", "layer_norm", "native_norm", "batch_norm", "rowwise")),
    # latentclap.fast's kernels
    ("normalisation", ("moments", "normalise", "backward_sums", "group_backward", "backward_input")),
    ("pointwise and fused", ("triton_", "geglu")),
    ("convolution", ("conv", "implicit", "cudnn", "xmma", "winograd", "fprop", "dgrad", "wgrad")),
    ("matrix product", ("gemm", "nvjet", "splitk", "addmm", "::mm", "bmm", "matmul", "cutlass", "linear")),
    ("optimiser", ("adam", "multi_tensor", "foreach", "lpnorm")),
    ("layout and copies", ("copy", "cat", "_to_")),
)


def kind(kernel: str) -> str:
    """Where a kernel belongs in the table; pointwise ones are the rest."""
    name = kernel.lower()
    return next((k for k, words in KINDS if any(word in name for word in words)), "pointwise and fused")


def profile_step(systems: Systems, row: Training | Generation, steps: int = 5) -> dict[str, Any]:
    """Time of kernels by kind, ms a step, and what the device was not busy with: gaps between launches."""
    from torch.profiler import ProfilerActivity, profile

    gpu = systems.device != "cpu"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    if isinstance(row, Generation):
        return _profile_sampling(systems, row, activity, steps)
    system, phi = systems.of(*row.way)
    with tempfile.TemporaryDirectory() as folder:
        run_training(system, phi, row, 3, Path(folder) / "warm")
        history = run_training(system, phi, row, 4 * steps, Path(folder) / "timed", log_every=2 * steps)
        # a step that is replayed has to be recorded first; what those steps take is taken off
        ahead = WARM + 1 if row.cuda_graph else 0
        runs = []
        for count in (ahead, ahead + steps) if ahead else (steps,):
            with profile(activities=[activity]) as prof:
                run_training(system, phi, row, count, Path(folder) / f"profiled{count}", log_every=count)
            runs.append(prof)
    # the profiler slows the processor down: what a step takes is measured without it
    wall = 1000 * (history[-1]["seconds"] - history[-2]["seconds"]) / (2 * steps)
    return asdict(row) | _kernels(runs[-1], gpu, steps, wall, without=runs[0] if ahead else None)


def _profile_sampling(systems: Systems, row: Generation, activity: Any, steps: int) -> dict[str, Any]:
    """The same of a sampling step; of what :func:`generate_row` left."""
    from torch.profiler import profile

    gpu = systems.device != "cpu"
    system, _ = systems.of(*row.way)
    walls = []
    for count in (steps, 4 * steps, 8 * steps):  # the first to warm up
        wait(systems.device)
        begin = time.perf_counter()
        latents(system, replace(row, steps=count), row.batch, systems.device)
        wait(systems.device)
        walls.append(time.perf_counter() - begin)
    with profile(activities=[activity]) as prof:
        latents(system, replace(row, steps=steps), row.batch, systems.device)
        wait(systems.device)
    return asdict(row) | _kernels(prof, gpu, steps, 1000 * (walls[2] - walls[1]) / (4 * steps))


def _kernels(prof: Any, gpu: bool, steps: int, wall: float, *, without: Any = None) -> dict[str, Any]:
    """A profile as times by kind and the longest kernels, ms a step; less those of another profile."""
    off = {event.key: event for event in without.key_averages()} if without else {}
    times: dict[str, float] = {}
    kernels = []
    for event in prof.key_averages():
        ms, calls = _spent(event, gpu), event.count
        if other := off.get(event.key):
            ms, calls = max(0.0, ms - _spent(other, gpu)), max(0, calls - other.count)
        if ms and "dtoh" not in event.key.lower():  # reading the losses at the end is not the step's
            name = kind(event.key)
            times[name] = times.get(name, 0.0) + ms / steps
            kernels.append({"name": event.key[:100], "kind": name, "ms": ms / steps, "calls": calls / steps})
    kernels.sort(key=lambda k: -k["ms"])
    busy = sum(times.values())
    return {
        "ms_per_step": wall,
        "by_kind": dict(sorted(times.items(), key=lambda item: -item[1])),
        "idle_ms": max(0.0, wall - busy),
        "kernels": kernels[:40],
    }


def _spent(event: Any, gpu: bool) -> float:
    """Milliseconds of an operation itself."""
    return (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1000


def compile_seconds(
    name: str, device: str, row: Training, runs: int = 2, timeout: float | None = None
) -> list[float]:
    """Seconds until a compiled training step has run once, in new processes: the first one fills the cache.

    The cache is TORCHINDUCTOR_CACHE_DIR's, where :func:`empty_cache` has set it.
    """
    code = (
        "import sys, runpy; m = runpy.run_path(sys.argv[1]); row = m['Training'](**eval(sys.argv[4]));"
        "print(m['train_row'](m['Systems'](*sys.argv[2:4]), row, 1, 1.0)['first_step_seconds'])"
    )
    arguments = [sys.executable, "-c", code, __file__, name, device, repr(asdict(row))]
    told = []
    for _ in range(runs):
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])
        told.append(float(done.stdout.split()[-1]))
    return told


def empty_cache() -> None:
    """From now on compile into an empty folder, which goes when this process ends."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache = tempfile.mkdtemp(prefix="latentclap_compile_")
    os.environ["TRITON_CACHE_DIR"] = str(Path(cache) / "triton")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
