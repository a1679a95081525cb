"""Encode clips once: VAE posterior, E_audio and E_text, for training that never touches audio.

SOURCE is a folder of webdataset shards (*.tar with a sound and a .json or .txt caption per clip; see pack_shards.py),
or a folder of clips as pack_shards.py takes it. Each tar becomes one safetensors shard in OUT; clips that cannot be
used are skipped and listed in OUT/problems.csv. Killed, the same command goes on with the shard it was at.

\b
python data_scripts/cache_latents.py data/wavcaps-shards data/latents/wavcaps

Several processes share the shards among them, a GPU each, and need not know of one another:

\b
torchrun --nproc-per-node 8 data_scripts/cache_latents.py SOURCE OUT
srun --ntasks 64 --gpus-per-task 1 python data_scripts/cache_latents.py SOURCE OUT
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentclap.errors import InputError, run_app

if TYPE_CHECKING:
    from latentclap.cache import Part
    from latentclap.system import FoleySystem

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    source: Annotated[Path, typer.Argument(help="Folder of webdataset shards or of clips.")],
    out: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    system: Annotated[str, typer.Option(help="'mini', a folder, or a hub name.")] = "mini",
    judge: Annotated[
        str, typer.Option(help="CLAP that gives E_audio, where the system has none of its own.")
    ] = "",
    per_shard: Annotated[int, typer.Option(help="Clips per shard, where SOURCE is no shards.")] = 1000,
    side: Annotated[str, typer.Option(help="Of a folder in DCASE layout: dev, eval or all.")] = "dev",
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.")] = 8,
    workers: Annotated[
        int, typer.Option(help="Processes that decode, per GPU; 0: none beside this one.")
    ] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: this process's GPU.")] = "auto",
    rank: Annotated[int, typer.Option(help="This process's number; -1: as the launcher says.")] = -1,
    world: Annotated[int, typer.Option(help="Number of processes; 0: as the launcher says.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a finished cache and compare all checksums.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many clips, shards and GB, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Make a latent cache of any size."""
    from latentclap.cache import cache_parts, find_parts
    from latentclap.cache.parts import rank_and_world

    for option, value, least in (("--batch-size", batch_size, 1), ("--workers", workers, 0)):
        if value < least:
            raise InputError(f"{option} {value}: at least {least}")
    if verify:
        _verify(out)
        return
    told = rank_and_world()
    rank, world = (rank if rank >= 0 else told[0]), (world or told[1])
    if rank >= world:
        raise InputError(f"--rank {rank} of --world {world}: ranks count from 0 to {world - 1}")
    parts = find_parts(source, per_shard=per_shard, side=side)
    loaded = _load(system, judge, device)
    todo = _announce(loaded, parts, out, rank, world)
    if dry_run:
        return
    started = time.monotonic()
    made = cache_parts(
        loaded,
        parts,
        out,
        batch_size=batch_size,
        workers=workers,
        rank=rank,
        world=world,
        progress=not quiet,
        total=todo,
    )
    seconds = time.monotonic() - started
    print(
        f"{made.clips} clips encoded in {seconds:.0f} s ({made.clips / seconds:.1f} a second), {made.shards} shards"
        f" written, {made.kept} kept, {made.problems} clips skipped"
    )
    if made.manifest is None:
        print(f"{out} is complete when the other processes are done")
    else:
        print(f"{out}: {made.manifest['clips']} clips, {made.manifest['problems']} in problems.csv")


def _load(name: str, judge: str, device: str) -> FoleySystem:
    import torch

    from latentclap.system import FoleySystem

    if device == "auto":
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        device = f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return FoleySystem.from_pretrained(name, judge=judge or None, device=device)


def _announce(system: FoleySystem, parts: list[Part], out: Path, rank: int, world: int) -> int:
    """Say what there is to do, refuse what will not fit, and return this process's number of clips to encode."""
    from latentclap.cache.build import bytes_per_clip, free_bytes
    from latentclap.cache.shards import entry_of

    counts = [part.count() for part in parts]
    each, free = bytes_per_clip(system), free_bytes(out)
    left = [i for i, part in enumerate(parts) if entry_of(out, part.name, part.identity()) is None]
    need = each * sum(counts[i] for i in left)
    mine = [i for i in left if i % world == rank]
    print(
        f"{sum(counts)} clips in {len(parts)} shards, {each * sum(counts) / 1e9:.3f} GB;"
        f" {len(parts) - len(left)} shards are there; to write: {need / 1e9:.3f} GB, {free / 1e9:.0f} GB free"
    )
    if world > 1:
        print(f"process {rank} of {world}: {len(mine)} shards, {sum(counts[i] for i in mine)} clips")
    if need > free:
        raise InputError(f"{out}: too little space for {need / 1e9:.1f} GB")
    return sum(counts[i] for i in mine)


def _verify(out: Path) -> None:
    from latentclap.cache import ShardedCache

    cache = ShardedCache(out)
    damaged = cache.verify()
    if damaged:
        raise InputError(
            f"{len(damaged)} of {len(cache.shards)} shards are damaged, the first is {damaged[0]}:"
            " delete them and run the command again"
        )
    print(f"{out}: {len(cache.shards)} shards, {len(cache)} clips, all checksums agree")


if __name__ == "__main__":
    sys.exit(run_app(app))
