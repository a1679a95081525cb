"""A cache of any number of clips: parts in, shards out, one after the other, in the memory of one shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentclap.cache.front import Bad, Front, Sample, stream
from latentclap.cache.parts import Part
from latentclap.cache.settings import settings
from latentclap.cache.shards import entry_of, settle, write_manifest, write_shard
from latentclap.errors import InputError
from latentclap.system import FoleySystem


@dataclass
class Summary:
    """What a call of :func:`cache_parts` did.

    Attributes:
        clips: encoded in this call.
        problems: unusable clips found in this call.
        shards: written in this call.
        kept: shards of this process that were there already.
        manifest: of the whole cache, once every process's shards are there; None before.
    """

    clips: int = 0
    problems: int = 0
    shards: int = 0
    kept: int = 0
    manifest: dict[str, Any] | None = None


@dataclass
class _Shard:
    """The shard being made: what was encoded, and the samples that wait for a full batch."""

    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[Sample] = field(default_factory=list)

    def take(self, encode: Callable[[list[Sample]], dict[str, Tensor]]) -> None:
        """Encode what waits; a clip whose latent is not finite is a problem, not training data."""
        if not self.waiting:
            return
        tensors = encode(self.waiting)
        good = torch.stack([v.flatten(1).isfinite().all(1) for v in tensors.values()]).all(0)
        for sample, fine in zip(self.waiting, good.tolist(), strict=True):
            if fine:
                self.keys.append(sample.key)
                self.captions.append(sample.caption)
            else:
                self.problems.append((sample.key, "its latent or embedding is not finite"))
        for name, value in tensors.items():
            self.columns.setdefault(name, []).append(value[good])
        self.waiting.clear()


def encoder(system: FoleySystem, dtype: torch.dtype) -> Callable[[list[Sample]], dict[str, Tensor]]:
    """The frozen parts as a function of samples: mean, logvar (b, C, T, F) in ``dtype``, E_audio, E_text (b, 512)."""

    def encode(samples: list[Sample]) -> dict[str, Tensor]:
        mean, logvar = system.posterior(torch.stack([s.wave for s in samples]).numpy())
        E_audio = system.embed_features(torch.stack([s.features for s in samples]))
        texts = list(dict.fromkeys(s.caption for s in samples))
        E = system.encode_text(texts, padding="longest")[[texts.index(s.caption) for s in samples]]
        out = {"mean": mean.to(dtype), "logvar": logvar.to(dtype), "E_audio": E_audio, "E_text": E}
        return {name: value.cpu() for name, value in out.items()}

    return encode


def cache_parts(
    system: FoleySystem,
    parts: Sequence[Part],
    folder: str | Path,
    *,
    batch_size: int = 8,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype = torch.float16,
    progress: bool = True,
    total: int | None = None,
) -> Summary:
    """Encode this process's share of the parts, each into a shard; shards that are complete are kept.

    Part i belongs to process i mod ``world``; processes share nothing but the folder. Clips that cannot be used are
    left out and listed, with the reason, in the shard's entry and at the end in problems.csv.

    Args:
        system: gives VAE, CLAP audio branch and text encoder, on its device.
        parts: all parts, the same list in every process, see ``parts.find_parts``.
        folder: the cache.
        batch_size: clips per forward pass.
        workers: processes that decode and resample; 0 decodes in this one. The result does not depend on it.
        rank: this process's number.
        world: number of processes.
        dtype: of mean and logvar on disk.
        progress: show a progress bar.
        total: clips that this process has to encode, for the bar; None where they were not counted.

    Raises:
        InputError: no parts, a rank that is none, a system without CLAP audio branch, or a folder that holds a
            cache of another system.
    """
    if not parts:
        raise InputError("there are no clips to encode")
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} processes: ranks count from 0 to {world - 1}")
    if system.clap is None:
        raise InputError(f"{system.name} has no CLAP audio branch: name a judge (--judge)")
    folder = Path(folder)
    settle(folder, settings(system, dtype))
    mine = parts[rank::world]
    todo = [p for p in mine if entry_of(folder, p.name, p.identity()) is None]
    summary = Summary(kept=len(mine) - len(todo))
    bar = tqdm(total=total, unit="clip", desc="encoding", disable=not progress, smoothing=0.05)
    with bar:
        _encode_all(system, todo, folder, batch_size, workers, dtype, summary, bar)
    summary.manifest = write_manifest(folder, [part.name for part in parts])
    return summary


def _encode_all(
    system: FoleySystem,
    parts: Sequence[Part],
    folder: Path,
    batch_size: int,
    workers: int,
    dtype: torch.dtype,
    summary: Summary,
    bar: Any,
) -> None:
    front, encode = Front(system.seconds, system.feature_extractor), encoder(system, dtype)
    shard = _Shard()
    for number, result in stream(parts, front, workers=workers) if parts else ():
        if isinstance(result, Sample):
            shard.waiting.append(result)
            if len(shard.waiting) == batch_size:
                shard.take(encode)
        elif isinstance(result, Bad):
            shard.problems.append((result.key, result.reason))
        else:
            shard.take(encode)
            _write(folder, parts[number], shard)
            summary.clips += len(shard.keys)
            summary.problems += len(shard.problems)
            summary.shards += 1
            bar.set_postfix(shards=f"{summary.shards}/{len(parts)}", bad=summary.problems, refresh=False)
            shard = _Shard()
        bar.update(result is not None)


def _write(folder: Path, part: Part, shard: _Shard) -> None:
    (folder / part.name).parent.mkdir(parents=True, exist_ok=True)
    write_shard(
        folder,
        part.name,
        {name: torch.cat(values) for name, values in shard.columns.items()} if shard.keys else {},
        keys=shard.keys,
        captions=shard.captions,
        problems=shard.problems,
        source=part.identity(),
    )


def bytes_per_clip(system: FoleySystem, dtype: torch.dtype = torch.float16) -> int:
    """Bytes that a clip takes in a shard: mean and logvar in ``dtype``, two embeddings in float32."""
    channels, frames, mels = system.latent_shape
    width = torch.empty((), dtype=dtype).element_size()
    return 2 * width * channels * frames * mels + 2 * 4 * system.embed_dim


def free_bytes(folder: Path) -> int:
    """Free space where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
