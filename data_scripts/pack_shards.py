"""Pack clips with captions into webdataset shards, for data_scripts/cache_latents.py.

SOURCE is WavCaps as get.py unpacks it (json_files/ with captions, sounds named by their ids); sounds with a table
metadata.csv, .tsv or .jsonl (a column file_name, and one of caption, text, prompt, transcription); a folder in DCASE
layout (captions are the paper's prompts); sounds with a .txt or .json caption beside each; or sounds in folders named
by what is heard (Door_Slam/01.wav is "This is a sound of door slam."). The first of these that fits is taken, and
said with examples of captions: look at them with --dry-run. Sounds are copied as they are.

--exclude leaves clips out by name: one of WavCaps' blacklists, a JSON list, or a text file of ids, one a line, alone
or as source/id. They are listed in missing.csv.

\b
python data_scripts/pack_shards.py data/wavcaps data/wavcaps-shards
python data_scripts/pack_shards.py data/wavcaps data/wavcaps-shards \\
    --exclude data/wavcaps/json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json --exclude dcase-ids.txt
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from latentclap.errors import InputError, run_app
from latentclap.files import free_bytes
from latentclap.options import Exclude, Quiet, Side, application, at_least
from latentclap.wording import human, plural

app = application(__doc__)


@app.command(help=__doc__)
def main(
    source: Annotated[Path, typer.Argument(help="Folder of clips.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards, 000000.tar and so on.")],
    per_shard: Annotated[int, typer.Option(help="Clips per shard.")] = 1000,
    side: Side = "dev",
    exclude: Exclude = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be packed, and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Pack clips; the same command goes on where it stopped."""
    at_least(("--per-shard", per_shard, 1))
    # they bring torch: --help and a wrong option do not wait for it
    from latentclap.cache.exclude import EXCLUDED, read_exclusion
    from latentclap.cache.listing import described, list_clips
    from latentclap.cache.pack import MISSING, pack

    exclusion = read_exclusion(exclude or ())
    layout, items = list_clips(source, side=side, exclude=exclusion)
    size = sum(_size(item.path) for item in items if not item.problem and item.path)
    reasons = Counter(item.problem for item in items if item.problem)
    shards = -(-len(items) // per_shard)
    told = "".join(f"; {count} left out: {reason}" for reason, count in reasons.items())
    print(
        f"{source} ({layout}): {plural(len(items), 'clip')}{told}; {plural(shards, 'shard')}, {human(size)},"
        f" {human(free_bytes(out))} free"
    )
    print(described(layout, items))
    if exclusion:
        print(f"{reasons[EXCLUDED]} clips of the {len(exclusion)} names to leave out are in {source}")
    if dry_run:
        return
    there = sum(path.stat().st_size for path in out.glob("*.tar"))  # an earlier call's, which are kept
    if size - there > free_bytes(out):
        raise InputError(
            f"{out}: too little space for {human(size - there)} more, {human(free_bytes(out))} are free"
        )
    with tqdm(total=len(items), unit="clip", desc="packing", disable=True if quiet else None) as bar:
        packed = pack(items, out, per_shard=per_shard, progress=bar.update)
    again = f", {packed.again} of them again, of clips that have changed" if packed.again else ""
    print(
        f"{plural(packed.clips, 'clip')} in {plural(packed.shards, 'shard')} in {out}"
        f" ({packed.written} written now{again}); {packed.left_out} left out, listed in {MISSING}"
    )
    if packed.old:
        print(
            f"{packed.old} shards are of an earlier version, which did not note what they were made of: kept"
            " without comparing"
        )


def _size(path: Path) -> int:
    """Bytes of a file; none of one that is not there (a link to nowhere), which the packer lists."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(run_app(app))
