"""What ``speed.py`` measures: rates, agreement, memory, kernels and compilation of training and generation."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentclap.finetune import FinetuneTask
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss
from latentclap.memory import training_footprint
from latentclap.models import audioldm_unet, random_system, size
from latentclap.system import FoleySystem
from latentclap.train import TensorBatches, TrainConfig, TrainingError, train

LAM = 1000.0  # the paper's λ of fine-tuning without a tuning layer
GIB = 2**30


@dataclass(frozen=True)
class Training:
    """A row of the table of training: how, and how much at a time."""

    precision: str
    compile: bool
    batch: int
    loss: bool
    checkpointing: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class Generation:
    """A row of the table of generation."""

    precision: str
    compile: bool
    batch: int
    sampler: str = "ddim"
    steps: int = 200
    channels_last: bool = False


TRAINING = (
    Training("no", False, 4, False),
    Training("tf32", False, 16, False),
    Training("bf16", False, 16, False),
    Training("bf16", True, 16, False),
    Training("bf16", True, 16, True),
    Training("bf16", True, 64, False),
    Training("bf16", True, 64, True),
    Training("bf16", True, 64, True, channels_last=True),
    Training("bf16", True, 64, True, checkpointing=True),
)
GENERATION = (
    Generation("no", False, 1),
    Generation("bf16", False, 20),
    Generation("bf16", True, 100),
    Generation("bf16", True, 100, channels_last=True),
    Generation("bf16", True, 100, "dpmsolver++", 25),
    Generation("bf16", True, 100, "unipc", 25),
)


# -------------------------------------------------------------------------------------- what is measured


def bench_system(name: str, device: str) -> tuple[FoleySystem, LatentCLAP]:
    """A system with random weights, and a Latent CLAP encoder; of "paper" only the UNet has full size, and φ."""
    if name != "paper":
        return random_system(name).to(device), LatentCLAP(**size(name)["phi"]).to(device)
    system = random_system("tiny")
    system.unet, system.frames = audioldm_unet(), 1024
    return system.eval().to(device), LatentCLAP().to(device)


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
    system.unet.requires_grad_(True)
    task = FinetuneTask(system, loss, LAM if row.loss else 0.0)
    config = TrainConfig(
        steps=steps,
        batch_size=row.batch,
        precision=row.precision,
        compile=row.compile,
        checkpointing=row.checkpointing,
        channels_last=row.channels_last,
        log_every=log_every,
        checkpoint_seconds=1e9,
    )
    data = fixed_data(system, max(256, row.batch))
    try:
        return train(task, data, config, folder, progress=False).history
    finally:
        system.unet.zero_grad(set_to_none=True)
        if row.checkpointing:
            system.unet.disable_gradient_checkpointing()


def train_row(name: str, device: str, row: Training, steps: int, peak: float) -> dict[str, Any]:
    """Clips per second of a row after a warm-up as long as what is timed, share of the peak, memory."""
    system, phi = bench_system(name, device)
    flops = 3 * forward_flops(system)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        history = run_training(system, phi, row, 2 * steps, Path(folder), log_every=steps)
    at = {line["step"]: line["seconds"] for line in history}
    rate = row.batch * steps / (at[2 * steps] - at[steps])
    return asdict(row) | {
        "clips_per_second": rate,
        "share": rate * flops / peak,
        "gib": torch.cuda.max_memory_allocated() / GIB if device != "cpu" else None,
        "first_step_seconds": at[1],
    }


@contextmanager
def in_precision(precision: str, device: str) -> Iterator[None]:
    """fp32 ("no") or autocast to bf16."""
    with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bf16"):
        yield


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


def generate_row(name: str, device: str, row: Generation, clips: int, peak: float) -> dict[str, Any]:
    """Seconds for ``clips`` clips, after a warm-up of two steps in the same shapes."""
    system, _ = bench_system(name, device)
    flops = 2 * forward_flops(system) * row.steps * clips  # twice: guidance
    if row.channels_last:
        system.unet.to(memory_format=torch.channels_last)
    if row.compile:
        system.unet.compile()
    begin = time.perf_counter()
    latents(system, replace(row, steps=2), min(clips, row.batch), device)
    wait(device)
    first, begin = time.perf_counter() - begin, time.perf_counter()
    latents(system, row, clips, device)
    wait(device)
    seconds = time.perf_counter() - begin
    return asdict(row) | {
        "clips": clips,
        "seconds": seconds,
        "share": flops / seconds / peak,
        "first_call_seconds": first,
    }


def agreement(name: str, device: str, steps: int, batch: int) -> dict[str, Any]:
    """Losses of the fast ways against fp32 over the same steps, and generated latents against fp32's.

    bf16's own noise is what plain autocast gives: compilation may not add to it.
    """
    rows = {
        "fp32": Training("no", False, batch, True),
        "bf16": Training("bf16", False, batch, True),
        "bf16, compiled": Training("bf16", True, batch, True),
        "fp32, checkpointing": Training("no", False, batch, True, checkpointing=True),
        "fp32, channels last": Training("no", False, batch, True, channels_last=True),
    }
    losses, made = {}, {}
    for label, row in rows.items():
        system, phi = bench_system(name, device)
        with tempfile.TemporaryDirectory() as folder:
            losses[label] = np.array([h["loss"] for h in run_training(system, phi, row, steps, Path(folder))])
        if not row.checkpointing:
            system, _ = bench_system(name, device)
            if row.channels_last:
                system.unet.to(memory_format=torch.channels_last)
            if row.compile:
                system.unet.compile()
            made[label] = latents(system, Generation(row.precision, row.compile, 2, steps=25), 2, device)
    exact, clean = losses["fp32"], made["fp32"]
    return {
        "steps": steps,
        "batch": batch,
        "loss": {
            label: {
                "largest": float(np.abs(values / exact - 1).max()),
                "mean": float(np.abs(values / exact - 1).mean()),
            }
            for label, values in losses.items()
            if label != "fp32"
        },
        "latents_rms": {
            label: float((x.float() - clean).pow(2).mean().sqrt() / clean.pow(2).mean().sqrt())
            for label, x in made.items()
            if label != "fp32"
        },
    }


def memory_rows(name: str, device: str, batches: Iterable[int]) -> list[dict[str, Any]]:
    """Peak memory of a training step by batch, with and without checkpointing; a row without figure did not fit."""
    rows = []
    for checkpointing in (False, True):
        for batch in batches:
            torch.cuda.empty_cache()
            try:
                row = train_row(
                    name, device, Training("bf16", False, batch, True, checkpointing), 1, peak=1.0
                )
            except TrainingError:
                rows.append({"batch": batch, "checkpointing": checkpointing, "gib": None})
                break
            rows.append({"batch": batch, "checkpointing": checkpointing, "gib": row["gib"]})
    return rows


def fitting(rows: list[dict[str, Any]], sizes: Iterable[int] = CARDS, spare: float = 1.0) -> dict:
    """Memory in GiB -> the largest measured batch that leaves ``spare`` GiB: (without, with checkpointing)."""
    return {
        str(held): [
            max(
                (
                    r["batch"]
                    for r in rows
                    if r["gib"] and r["checkpointing"] is way and r["gib"] <= held - spare
                ),
                default=0,
            )
            for way in (False, True)
        ]
        for held in sizes
    }


#: a kernel's name has one of these words -> where its time goes in the table; the first that fits counts
KINDS = {
    "convolution": ("conv", "implicit", "cudnn", "xmma", "winograd", "fprop", "dgrad", "wgrad"),
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix product": ("gemm", "addmm", "::mm", "bmm", "matmul", "cutlass", "linear"),
    "normalisation": ("group_norm", "groupnorm", "layer_norm", "native_norm", "batch_norm", "rowwise"),
    "layout and copies": ("copy", "memcpy", "transpose", "nchw", "nhwc", "cat", "memset", "_to_"),
    "optimiser": ("adam", "multi_tensor", "foreach", "lpnorm"),
}


def kind(kernel: str) -> str:
    """Where a kernel belongs in the table; fused and pointwise ones are the rest."""
    name = kernel.lower()
    return next(
        (k for k, words in KINDS.items() if any(word in name for word in words)), "pointwise and fused"
    )


def profile_step(name: str, device: str, row: Training, steps: int = 5) -> dict[str, Any]:
    """Time of kernels by kind, ms a step, and what the device was not busy with: gaps between launches."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device != "cpu"
    system, phi = bench_system(name, device)
    with tempfile.TemporaryDirectory() as folder:
        run_training(system, phi, row, 3, Path(folder) / "warm")
        with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as prof:
            history = run_training(system, phi, row, steps, Path(folder) / "profiled")
    wall = 1000 * history[-1]["seconds"] / steps
    times: dict[str, float] = {}
    kernels = []
    for event in prof.key_averages():
        ms = (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1000 / steps
        times[kind(event.key)] = times.get(kind(event.key), 0.0) + ms
        kernels.append({"name": event.key[:100], "kind": kind(event.key), "ms": ms})
    kernels.sort(key=lambda k: -k["ms"])
    busy = sum(times.values())
    return asdict(row) | {
        "ms_per_step": wall,
        "by_kind": dict(sorted(times.items(), key=lambda item: -item[1])),
        "idle_ms": max(0.0, wall - busy),
        "kernels": kernels[:20],
    }


def compile_seconds(name: str, device: str, batch: int) -> dict[str, float]:
    """Seconds until a compiled training step has run once: with an empty cache, and again in a new process."""
    code = (
        "import sys, runpy; m = runpy.run_path(sys.argv[1]);"
        "row = m['Training'](sys.argv[4], True, int(sys.argv[5]), True);"
        "print(m['train_row'](sys.argv[2], sys.argv[3], row, 1, 1.0)['first_step_seconds'])"
    )
    precision = "bf16" if device != "cpu" else "no"
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        arguments = [sys.executable, "-c", code, __file__, name, device, precision, str(batch)]
        first, again = (
            float(
                subprocess.run(
                    arguments, env=environment, check=True, capture_output=True, text=True
                ).stdout.split()[-1]
            )
            for _ in range(2)
        )
    return {"first": first, "cached": again}
