"""Encode clips once: VAE posterior, E_audio and E_text, for training that never touches audio.

SOURCE is a folder of webdataset shards (*.tar with a sound and a .json or .txt caption per clip; see pack_shards.py),
or a folder of clips as pack_shards.py takes it (its --help lists the layouts: a table of captions, captions beside
the sounds, folder names and others). Each tar becomes one safetensors shard in OUT; clips that cannot be used are
skipped and listed in OUT/problems.csv. Killed, the same command goes on with the shard it was at; shards of input
that has changed since are made again, and so are those that lack clips since a disk or the memory failed.

Of a sound longer than the system's clips the first part is taken, or with --crop random one that its name draws;
--crops K takes up to K of them beside one another. A silent beginning is passed over. --exclude leaves clips out by
name, as pack_shards.py does.

\b
python data_scripts/cache_latents.py data/wavcaps-shards data/latents/wavcaps \\
    --system checkpoints/audioldm-m-full --judge checkpoints/clap-htsat-unfused

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
from latentclap.options import Exclude, Judge, Model, Quiet, Side, application, at_least, device_for
from latentclap.wording import plural

if TYPE_CHECKING:
    from latentclap.cache import Part
    from latentclap.system import FoleySystem

app = application(__doc__)


@app.command(help=__doc__)
def main(
    source: Annotated[Path, typer.Argument(help="Folder of webdataset shards or of clips.")],
    out: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    system: Model = "mini",
    judge: Judge = "",
    per_shard: Annotated[int, typer.Option(help="Clips per shard, where SOURCE is no shards.")] = 1000,
    side: Side = "dev",
    exclude: Exclude = None,
    crops: Annotated[int, typer.Option(help="Clips of one sound, at most, where it is long enough.")] = 1,
    crop: Annotated[str, typer.Option(help="Which part of a sound: first or random.")] = "first",
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.")] = 8,
    workers: Annotated[
        int, typer.Option(help="Processes that decode, per GPU; 0: none beside this one.")
    ] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: this process's GPU.")] = "auto",
    rank: Annotated[int, typer.Option(help="This process's number; -1: as the launcher says.")] = -1,
    world: Annotated[int, typer.Option(help="Number of processes; 0: as the launcher says.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare a finished cache's checksums, and its input.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many clips, shards and GB, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a latent cache of any size."""
    from latentclap.cache import cache_parts, described_parts, find_parts
    from latentclap.cache.exclude import read_exclusion
    from latentclap.cache.parts import rank_and_world

    at_least(("--batch-size", batch_size, 1), ("--workers", workers, 0), ("--crops", crops, 1))
    at_least(("--per-shard", per_shard, 1), ("--rank", rank, -1), ("--world", world, 0))
    if crop not in ("first", "random"):
        raise InputError(f"--crop {crop}: first or random")
    exclusion = read_exclusion(exclude or ())
    if verify:
        there = source.exists()  # it may be gone when its latents are all that is needed
        _verify(out, find_parts(source, per_shard=per_shard, side=side, exclude=exclusion) if there else [])
        return
    told = rank_and_world() if rank < 0 or not world else (rank, world)
    rank, world = (rank if rank >= 0 else told[0]), (world or told[1])
    if rank >= world:
        raise InputError(f"--rank {rank} of --world {world}: ranks count from 0 to {world - 1}")
    parts = find_parts(source, per_shard=per_shard, side=side, exclude=exclusion)
    if said := described_parts(parts):
        print(said)
    loaded = _load(system, judge, device)
    todo = _announce(loaded, parts, out, rank, world, crops)
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
        crops=crops,
        crop="random" if crop == "random" else "first",
        progress=not quiet,
        total=todo,
    )
    seconds = time.monotonic() - started
    again = f" ({made.again} of them again, for clips that could not be read)" if made.again else ""
    print(
        f"{plural(made.clips, 'clip')} encoded in {seconds:.0f} s ({made.clips / seconds:.1f} a second),"
        f" {plural(made.shards, 'shard')} written{again}, {made.kept} kept, {plural(made.problems, 'clip')} skipped"
        + (f", {made.excluded} excluded" if exclusion else "")
    )
    if made.manifest is None:
        print(f"{out} is complete when the other processes are done")
    else:
        print(f"{out}: {plural(made.manifest['clips'], 'clip')}, {made.manifest['problems']} in problems.csv")


def _load(name: str, judge: str, device: str) -> FoleySystem:
    import torch

    from latentclap.system import FoleySystem

    if device == "auto":
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        if not local.isdecimal():
            raise InputError(
                f"LOCAL_RANK or SLURM_LOCALID is {local!r}, no number: unset it, or give --device"
            )
        if torch.cuda.is_available() and not os.environ.get("LATENTCLAP_DEVICE"):
            device = f"cuda:{int(local) % torch.cuda.device_count()}"
    return FoleySystem.from_pretrained(name, judge=judge or None, device=device_for(device))


def _announce(system: FoleySystem, parts: list[Part], out: Path, rank: int, world: int, crops: int) -> int:
    """Say what there is to do, refuse what will not fit, and return this process's number of sounds to encode."""
    from latentclap.cache.build import bytes_per_clip
    from latentclap.files import free_bytes
    from latentclap.wording import human

    counts = _counts(parts)
    each, free = crops * bytes_per_clip(system), free_bytes(out)
    left = [i for i, way in enumerate(_compared(parts, out, crops)) if way in ("absent", "retry", "changed")]
    need = each * sum(counts[i] for i in left)
    mine = [i for i in left if i % world == rank]
    size = f"{'at most ' if crops > 1 else ''}{human(each * sum(counts))}"
    print(
        f"{plural(sum(counts), 'clip')} in {plural(len(parts), 'shard')}, {size};"
        f" {len(parts) - len(left)} shards are there; to write: {human(need)}, {human(free)} free"
    )
    if world > 1:
        print(
            f"process {rank} of {world}: {plural(len(mine), 'shard')}, {plural(sum(counts[i] for i in mine), 'clip')}"
        )
    if need > free:
        raise InputError(f"{out}: too little space for {human(need)}, {human(free)} are free")
    return sum(counts[i] for i in mine)


def _counts(parts: list[Part]) -> list[int]:
    """Clips of each part; one that cannot be read counts none, is said, and will stand in problems.csv."""
    counts, broken = [], []
    for part in parts:
        try:
            counts.append(part.count())
        except InputError as error:
            counts.append(0)
            broken.append(str(error))
    if broken:
        print(f"warning: {len(broken)} of {len(parts)} tar files cannot be read; the first is {broken[0]}")
    return counts


def _compared(parts: list[Part], out: Path, crops: int) -> list[str]:
    """Of each part whether its shard is absent, changed, same, or the same as far as was compared, which is said."""
    from latentclap.cache.shards import entry_of

    entries = [entry_of(out, part.name) for part in parts]
    ways = ["absent" if e is None else part.compare(e, crops) for part, e in zip(parts, entries, strict=True)]
    notes = {
        "retry": "lack clips which the system failed to give (a disk, memory): the same command tries them again",
        "changed": "are of input that has changed since: they are made again",
        "moved": "are of input of another time, but of the same size, beginnings and ends: taken as the same",
        "old": "are of an earlier version, which noted only sizes and first and last names: taken as the same",
    }
    for way, note in notes.items():
        if way in ways:
            print(f"{ways.count(way)} shards {note}")
    return ways


def _verify(out: Path, parts: list[Part]) -> None:
    from latentclap.cache import ShardedCache

    cache = ShardedCache(out)
    damaged = cache.verify()
    if damaged:
        raise InputError(
            f"{len(damaged)} of {len(cache.shards)} shards are damaged, the first is {damaged[0]}:"
            " delete them and run the command again"
        )
    ways = _compared(parts, out, cache.manifest.get("crops", 1))
    stale = [part.name for part, way in zip(parts, ways, strict=True) if way in ("absent", "changed")]
    if stale:
        raise InputError(
            f"{len(stale)} of {len(parts)} shards are not of SOURCE as it is now, the first is {stale[0]}:"
            " run the command without --verify"
        )
    compared = "made of this input" if parts else "SOURCE is not there to be compared"
    print(f"{out}: {len(cache.shards)} shards, {len(cache)} clips, all checksums agree; {compared}")


if __name__ == "__main__":
    sys.exit(run_app(app))
