"""The work of a cache in parts: each input part becomes one output shard, whole or not at all."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from latentclap.cache.exclude import EXCLUDED, Exclusion
from latentclap.cache.items import Item
from latentclap.cache.listing import described, list_clips
from latentclap.cache.source import Comparison, clips_source, compare_clips, compare_tar, tar_source
from latentclap.cache.tars import Group, count_items, tar_groups
from latentclap.errors import InputError
from latentclap.files import below, plain

#: (rank, world size) as launchers tell them: torchrun and accelerate, then SLURM's srun
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))

COMPRESSED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
#: how the names of compressed tar files end
PACKERS = (".tgz", ".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Part:
    """What becomes one shard: a tar file, or a run of clips of a folder.

    Attributes:
        name: the shard's name below the cache folder, without suffix.
        tar: the webdataset shard, or None.
        clips: the clips, where there is no tar.
        exclude: keys of clips of the tar that are left out.
        layout: of the folder of clips, see ``list_clips``.
    """

    name: str
    tar: Path | None = None
    clips: tuple[Item, ...] = ()
    exclude: Exclusion = field(default_factory=Exclusion)
    layout: str = ""

    def entries(self) -> Iterator[Item | Group]:
        """The clips, one after the other; what has to be read of one is read by its ``load``, which gives an item."""
        if self.tar is None:
            yield from self.clips
            return
        for group in tar_groups(self.tar):
            out = not group.problem and group.key in self.exclude
            yield Item(group.key, problem=EXCLUDED) if out else group

    def count(self) -> int:
        """Number of clips, the unusable ones with them.

        Raises:
            InputError: the tar cannot be read.
        """
        return len(self.clips) if self.tar is None else count_items(self.tar)

    @cached_property
    def source(self) -> dict[str, Any]:
        """What says which input this is, as it is when first asked for: see the module ``source``."""
        return clips_source(self.clips) if self.tar is None else tar_source(self.tar)

    def compare(self, entry: Mapping[str, Any], crops: int = 1) -> Comparison:
        """Whether a shard with this entry in the journal was made of this input, and leaves out the same clips.

        Args:
            entry: of the shard.
            crops: of the cache, clips of one sound.
        """
        way = self._compare(entry, crops)
        return "retry" if way != "changed" and entry.get("retry") else way

    def _compare(self, entry: Mapping[str, Any], crops: int) -> Comparison:
        if self.tar is None:  # whose excluded clips are in the listing
            return compare_clips(self.clips, entry["source"])
        excluded = [key for key, reason in entry["problems"] if reason == EXCLUDED]
        if not self.exclude.agrees(entry["keys"], excluded, crops):
            return "changed"
        return compare_tar(self.tar, entry["source"])


def find_parts(
    source: str | Path, *, per_shard: int = 1000, side: str = "dev", exclude: Exclusion | None = None
) -> list[Part]:
    """The parts of a source, in a fixed order: its tar files, or else its clips in runs of ``per_shard``.

    Args:
        source: a folder with webdataset shards (``*.tar``, also in subfolders and linked ones; hidden ones are not
            looked at), one tar file, or a folder of clips as ``list_clips`` knows it.
        per_shard: clips per shard; tar files are taken as they are.
        side: of a folder in DCASE layout: "dev", "eval" or "all".
        exclude: clips that are left out, see ``exclude.read_exclusion``.

    Raises:
        InputError: nothing there, a compressed tar file, or ``per_shard`` below 1.
    """
    source, exclude = Path(source), exclude or Exclusion()
    if per_shard < 1:
        raise InputError(f"per_shard={per_shard}: at least one clip goes into a shard")
    if source.is_file() and source.suffix == ".tar":
        return [Part(plain(source.stem), source, exclude=exclude)]
    if source.is_file() and COMPRESSED.search(source.name):
        raise InputError(f"{source} is compressed: unpack it first (gunzip), plain tar files are read")
    # a killed packer leaves hidden files, and file systems have hidden folders of snapshots
    there = below(source, (".tar", *PACKERS)) if source.is_dir() else []
    tars = [path for path in there if path.suffix.lower() == ".tar"]
    if any(not tar.is_dir() for tar in tars):  # a folder of clips may be called anything
        compressed = [path for path in there if COMPRESSED.search(path.name) and not path.is_dir()]
        # what it was unpacked to may lie beside it
        lost = {path for path in compressed if path.with_name(COMPRESSED.sub(".tar", path.name)) not in tars}
        if lost:
            warnings.warn(
                f"{source}: {len(lost)} compressed tar files are passed over, the first is {min(lost)}: unpack them"
                " first (gunzip)",
                stacklevel=2,
            )
        return [Part(plain(tar.relative_to(source).with_suffix("")), tar, exclude=exclude) for tar in tars]
    layout, clips = list_clips(source, side=side, exclude=exclude)
    return [
        Part(f"{i // per_shard:05d}", clips=tuple(clips[i : i + per_shard]), layout=layout)
        for i in range(0, len(clips), per_shard)
    ]


def described_parts(parts: Sequence[Part]) -> str:
    """One line on the captions of a folder's clips, see ``listing.described``; "" for tar files, not yet read."""
    clips = [item for part in parts for item in part.clips]
    return described(parts[0].layout, clips) if clips and parts[0].layout else ""


def rank_and_world(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun, accelerate launch or srun say; (0, 1) alone.

    Raises:
        InputError: what they say are no such numbers.
    """
    environment = os.environ if environment is None else environment
    for rank, world in LAUNCHERS:
        if rank in environment and world in environment:
            told = environment[rank], environment[world]
            if all(number.isdecimal() for number in told) and int(told[0]) < int(told[1]):
                return int(told[0]), int(told[1])
            raise InputError(
                f"the environment says {rank}={told[0]} and {world}={told[1]}, but ranks count from 0 to"
                f" {world} - 1: unset both, or give --rank and --world"
            )
    return 0, 1
