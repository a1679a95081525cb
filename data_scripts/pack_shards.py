"""Pack clips with captions into webdataset shards, for data_scripts/cache_latents.py.

SOURCE is WavCaps as get.py unpacks it (json_files/ with captions, sounds named by their ids), a folder in DCASE
layout (captions are the paper's prompts), or any sounds with a .txt or .json caption beside each. Sounds are copied
as they are.

\b
python data_scripts/pack_shards.py data/wavcaps data/wavcaps-shards
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from latentclap.cache.build import free_bytes
from latentclap.cache.listing import list_clips
from latentclap.cache.pack import MISSING, pack
from latentclap.errors import InputError, run_app

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    source: Annotated[Path, typer.Argument(help="Folder of clips.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards, 000000.tar and so on.")],
    per_shard: Annotated[int, typer.Option(help="Clips per shard.")] = 1000,
    side: Annotated[str, typer.Option(help="Of a folder in DCASE layout: dev, eval or all.")] = "dev",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be packed, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Pack clips; the same command goes on where it stopped."""
    if per_shard < 1:
        raise InputError(f"--per-shard {per_shard}: at least one clip goes into a shard")
    layout, items = list_clips(source, side=side)
    size = sum(item.path.stat().st_size for item in items if not item.problem and item.path)
    reasons = Counter(item.problem for item in items if item.problem)
    shards = -(-len(items) // per_shard)
    told = "".join(f"; {count} left out: {reason}" for reason, count in reasons.items())
    print(
        f"{source} ({layout}): {len(items)} clips{told}; {shards} shards, {size / 1e9:.3f} GB,"
        f" {free_bytes(out) / 1e9:.0f} GB free"
    )
    if dry_run:
        return
    if size > free_bytes(out):
        raise InputError(f"{out}: too little space for {size / 1e9:.1f} GB")
    with tqdm(total=len(items), unit="clip", desc="packing", disable=True if quiet else None) as bar:
        packed = pack(items, out, per_shard=per_shard, progress=bar.update)
    print(
        f"{packed.clips} clips in {packed.shards} shards in {out} ({packed.written} written now);"
        f" {packed.left_out} left out, listed in {MISSING}"
    )


if __name__ == "__main__":
    sys.exit(run_app(app))
