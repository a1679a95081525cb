"""The work of a cache in parts: each input part becomes one output shard, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentclap.cache.listing import Item, list_clips
from latentclap.cache.tars import count_items, tar_items
from latentclap.errors import InputError

#: (rank, world size) as launchers tell them: torchrun and accelerate, then SLURM's srun
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Part:
    """What becomes one shard: a tar file, or a run of clips of a folder.

    Attributes:
        name: the shard's name below the cache folder, without suffix.
        tar: the webdataset shard, or None.
        clips: the clips, where there is no tar.
    """

    name: str
    tar: Path | None = None
    clips: tuple[Item, ...] = ()

    def items(self) -> Iterator[Item]:
        """The clips, one after the other; of a tar, with their bytes."""
        return iter(self.clips) if self.tar is None else tar_items(self.tar)

    def count(self) -> int:
        """Number of clips, the unusable ones with them."""
        return len(self.clips) if self.tar is None else count_items(self.tar)

    def identity(self) -> dict[str, int | str]:
        """What says, without reading it, whether this is the input that a shard was made of."""
        if self.tar is not None:
            return {"bytes": self.tar.stat().st_size}
        return {"clips": len(self.clips), "first": self.clips[0].key, "last": self.clips[-1].key}


def find_parts(source: str | Path, *, per_shard: int = 1000, side: str = "dev") -> list[Part]:
    """The parts of a source, in a fixed order: its tar files, or else its clips in runs of ``per_shard``.

    Args:
        source: a folder with webdataset shards (``*.tar``, also in subfolders), one tar file, or a folder of
            clips as ``list_clips`` knows it.
        per_shard: clips per shard; tar files are taken as they are.
        side: of a folder in DCASE layout: "dev", "eval" or "all".

    Raises:
        InputError: nothing there, or ``per_shard`` below 1.
    """
    source = Path(source)
    if per_shard < 1:
        raise InputError(f"per_shard={per_shard}: at least one clip goes into a shard")
    if source.is_file() and source.suffix == ".tar":
        return [Part(source.stem, source)]
    tars = sorted(source.rglob("*.tar")) if source.is_dir() else []
    if tars:
        return [Part(tar.relative_to(source).with_suffix("").as_posix(), tar) for tar in tars]
    _, clips = list_clips(source, side=side)
    return [
        Part(f"{i // per_shard:05d}", clips=tuple(clips[i : i + per_shard]))
        for i in range(0, len(clips), per_shard)
    ]


def rank_and_world(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun, accelerate launch or srun say; (0, 1) alone."""
    environment = os.environ if environment is None else environment
    for rank, world in LAUNCHERS:
        if rank in environment and world in environment:
            return int(environment[rank]), int(environment[world])
    return 0, 1
