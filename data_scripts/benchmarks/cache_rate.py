"""Measure the latent cache: clips per second, where the time goes, and what WavCaps would take.

Run by hand, on the machine and with the system that one wants to know about:

\b
python data_scripts/benchmarks/cache_rate.py --system mini --clips 64
python data_scripts/benchmarks/cache_rate.py --system checkpoints/audioldm-m-full --device cuda
# the same sizes, nothing to download; sounds as long as WavCaps' are on average, so that reading counts
python data_scripts/benchmarks/cache_rate.py --system random --device cuda --seconds 68 --workers 4,8,16

Each stage is timed in one process (on a CPU by processor time, which other work on the machine hardly changes), then
the whole loop by the clock, with some numbers of decoding workers: from the first shard to the last, so that neither
the start of the workers nor anything else that is done once is counted for each of 400,000 clips; it is told apart.
Sounds are procedural, as FLAC at 32 kHz, like WavCaps', and have just been written: a disk is slower. The result is a
JSON file that the book's page on data at scale shows.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file

from latentclap.audio import clap_features, repeat_to, to_model_rate, write_wave
from latentclap.cache import ShardedCache, cache_parts, find_parts, list_clips
from latentclap.cache.listing import Item
from latentclap.cache.pack import pack
from latentclap.cache.windows import decode_head
from latentclap.classes import CLASSES
from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json
from latentclap.foley import synthesize
from latentclap.models import random_system
from latentclap.options import Device, application, device_for
from latentclap.runs import commit, device_name, versions
from latentclap.storage import text_encoder_of
from latentclap.system import FoleySystem

#: clips of WavCaps (Mei et al., arXiv:2303.17395): FreeSound, BBC, SoundBible and AudioSet SL together
WAVCAPS = 403_050
RATE = 32_000
#: sounds that are made; and how long they are before they are repeated to the wanted length (seconds)
DIFFERENT, LONGEST = 64, 10.0
#: shards of a measurement: of the first one the time is not counted
SHARDS = 8

app = application(__doc__)


class Clock:
    """Seconds per stage: of the clock on a GPU, of the processor without one."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        gpu = "cuda" in device
        self.wait: Callable[[], None] = torch.cuda.synchronize if gpu else (lambda: None)
        self.now: Callable[[], float] = time.perf_counter if gpu else time.process_time

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        self.wait()
        started = self.now()
        yield
        self.wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started


def full_size() -> FoleySystem:
    """VAE and CLAP of audioldm-m-full's sizes with random weights, all that a cache needs; the rest is tiny."""
    from diffusers import AutoencoderKL
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    system = random_system("tiny")
    system.vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        layers_per_block=2,
        block_out_channels=(128, 256, 512),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    system.clap = ClapModel(ClapConfig(projection_dim=512))  # HTSAT-tiny and RoBERTa-base
    system.text_encoder = text_encoder_of(system.clap)
    system.feature_extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")
    system.frames, system.name = 1024, "audioldm-m-full's VAE and CLAP, random weights"
    return system.eval()


def make_clips(folder: Path, clips: int, seconds: float) -> list[Item]:
    """Procedural sounds with captions, as FLAC at 32 kHz: some different ones, again where many are wanted."""
    for i in range(min(clips, DIFFERENT)):
        clip = synthesize(CLASSES[i % len(CLASSES)], i, seconds=min(seconds, LONGEST), sr=RATE)
        write_wave(folder / f"{i:05d}.flac", repeat_to(clip.wave, round(seconds * RATE)), RATE)
        (folder / f"{i:05d}.txt").write_text(clip.caption, encoding="utf-8")
    items = list_clips(folder)[1]
    return [replace(items[i % len(items)], key=f"{i:06d}") for i in range(clips)]


@torch.no_grad()
def time_stages(system: FoleySystem, items: list[Item], batch_size: int, folder: Path) -> dict[str, float]:
    """Seconds per clip of every stage, one after the other in this process."""
    clock = Clock(str(system.device))
    for turn, chunk in enumerate([items[:batch_size], *_chunks(items, batch_size)]):
        if turn == 1:
            clock.seconds.clear()  # the first batch warmed up
        with clock.stage("read and decode"):
            sounds = [decode_head(item, system.seconds) for item in chunk]
        with clock.stage("resample to 16 kHz"):
            waves = np.stack([to_model_rate(wave, sr, system.seconds) for wave, sr in sounds])
        with clock.stage("CLAP features"):
            features = torch.cat([clap_features(system.feature_extractor, w[None], 16_000) for w in waves])
        with clock.stage("log-mel"):
            mel = system.log_mel(waves)
        with clock.stage("VAE encoder"):
            posterior = system.vae.encode(mel).latent_dist
            tensors = {"mean": posterior.mean.half(), "logvar": posterior.logvar.half()}
        with clock.stage("CLAP audio branch"):
            tensors["E_audio"] = system.embed_features(features)
        with clock.stage("CLAP text branch"):
            tensors["E_text"] = system.encode_text([item.caption for item in chunk], padding="longest")
        with clock.stage("write"):
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / f"{turn}.safetensors")
    return {name: seconds / len(items) for name, seconds in clock.seconds.items()}


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _chunks(items: list[Item], size: int) -> list[list[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def time_loop(system: FoleySystem, tars: Path, out: Path, batch_size: int, workers: int) -> dict[str, float]:
    """Clips per second between the first shard and the last, and the seconds that the start took beside its shard."""
    started = time.time()
    cache_parts(system, find_parts(tars), out, batch_size=batch_size, workers=workers, progress=False)
    entries = sorted((p.stat().st_mtime, read_json(p)["clips"]) for p in out.glob("*.entry.json"))
    (first, clips), last = entries[0], entries[-1][0]
    rate = sum(count for _, count in entries[1:]) / (last - first)
    start = max(0.0, first - started - clips / rate)
    return {"workers": workers, "clips_per_second": rate, "start_seconds": start}


def time_reading(folder: Path, batch: int, batches: int = 20) -> float:
    """Clips per second that the training loop can draw at random from a cache."""
    data, rng = ShardedCache(folder), np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(batches):
        data.batch(rng.integers(len(data), size=batch).tolist())
    return batch * batches / (time.perf_counter() - started)


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")] = Path(
        "book/runs/cache_rate.json"
    ),
    system: Annotated[str, typer.Option(help="'mini', a folder, a hub name, or 'random'.")] = "mini",
    judge: Annotated[str, typer.Option(help="CLAP that gives E_audio, where the system has none.")] = "",
    clips: Annotated[int, typer.Option(help="Clips to encode; 0: 64, on a GPU 2048.")] = 0,
    seconds: Annotated[float, typer.Option(help="Length of a sound; WavCaps' mean is 68.")] = 10.0,
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.")] = 8,
    workers: Annotated[str, typer.Option(help="Numbers of decoding workers to try.")] = "0,1,2",
    minutes: Annotated[
        float, typer.Option(help="Try no further number after this time; 0: all.", min=0)
    ] = 0.0,
    device: Device = "auto",
) -> None:
    """Measure and write: after each number of workers, since a rented GPU may be gone before the last."""
    started = time.monotonic()
    device = device_for(device)
    if device == "cpu":
        torch.set_num_threads(1)  # a core is the device
    clips = clips or (64 if device == "cpu" else 2048)
    if clips < max(2, batch_size) or batch_size < 1:
        raise InputError(f"--clips {clips}, --batch-size {batch_size}: a batch and two clips are needed")
    counts = [int(n) for n in workers.split(",") if n.strip().isdigit()]
    if not counts:
        raise InputError(f"--workers {workers}: numbers with commas between them, for example 0,1,2")
    if system == "random":
        loaded = full_size().to(device)
        system = loaded.name
    else:
        loaded = FoleySystem.from_pretrained(system, judge=judge or None, device=device)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("clips", "tars", "stages"):
            (folder / part).mkdir()
        items = make_clips(folder / "clips", clips, seconds)
        # whole batches, in two shards at least
        per_shard = min(max(batch_size, clips // SHARDS), clips // 2)
        pack(items, folder / "tars", per_shard=per_shard)
        stages = time_stages(loaded, items[: max(DIFFERENT, batch_size)], batch_size, folder / "stages")
        for stage, each in stages.items():
            print(f"{stage:<20}{1000 * each:>9.1f} ms a clip", flush=True)
        loop: list[dict[str, float]] = []
        failed: list[str] = []
        for n in dict.fromkeys(counts):
            if loop and minutes and time.monotonic() - started > 60 * minutes:
                print(f"{n} workers: not measured: out of time")
                continue
            try:
                row = time_loop(loaded, folder / "tars", folder / f"cache-{n}", batch_size, n)
                reading = time_reading(folder / f"cache-{n}", batch=64)
            except Exception as error:  # of workers that the system ended, say: it must not cost the others
                traceback.print_exc()
                failed.append(f"{n} workers")
                print(f"{n} workers: failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
                continue
            loop.append(row)
            print(
                f"{n} workers: {row['clips_per_second']:.2f} clips a second,"
                f" after {row['start_seconds']:.1f} s to start",
                flush=True,
            )
            measured = {"stages": stages, "loop": loop, "reading_clips_per_second": reading}
            result = told(loaded, device, measured) | {
                "system": system,
                "clips": clips,
                "seconds": seconds,
                "batch_size": batch_size,
            }
            result["machine"]["load"] = load
            write_json(out, result)
    if loop:
        _say(result)
    if failed:
        typer.echo(f"not measured, by an error: {'; '.join(failed)}", err=True)
        raise SystemExit(1)


def _say(result: dict[str, Any]) -> None:
    """What follows from the rates, in words."""
    print(f"reading at random: {result['reading_clips_per_second']:.0f} clips a second")
    for row in result["projection"]:
        hours, basis = row["hours"], result["projection_basis"]
        print(f"{WAVCAPS} clips on {row['devices']} such devices ({basis}): {hours:.1f} hours")


def told(system: FoleySystem, device: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The record of what was measured, with what follows from it for WavCaps."""
    if device == "cpu":
        basis, best = "one core, by processor time", 1 / sum(measured["stages"].values())
    else:
        best = max(row["clips_per_second"] for row in measured["loop"])
        basis = "the whole loop, its start left out"
    return measured | {
        "clip_seconds": system.seconds,
        "rate": RATE,
        "format": "FLAC",
        "parameters": {name: _parameters(getattr(system, name)) for name in ("vae", "clap")},
        "projection_clips": WAVCAPS,
        "projection_basis": basis,
        "projection_rate": best,
        "projection": [{"devices": n, "hours": WAVCAPS / best / n / 3600} for n in (1, 8)],
        "machine": {"device": device_name(), "cores": os.cpu_count()},
        "versions": versions(),
        "commit": commit(),
    }


if __name__ == "__main__":
    sys.exit(run_app(app))
