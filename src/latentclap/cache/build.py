"""A cache of any number of clips: parts in, shards out, one after the other, in the memory of a piece of a shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentclap.cache.exclude import EXCLUDED
from latentclap.cache.front import Front, Sample, stream
from latentclap.cache.parts import Part
from latentclap.cache.settings import earlier, settings
from latentclap.cache.shards import (
    MANIFEST,
    clear,
    entry_of,
    piece_name,
    settle,
    write_entry,
    write_manifest,
    write_piece,
)
from latentclap.cache.source import Comparison
from latentclap.cache.windows import Crop
from latentclap.errors import InputError
from latentclap.system import FoleySystem

#: bytes of latents and embeddings after which a piece is written: 1,000 clips of AudioLDM's are one piece. While
#: it is written, twice as much is in memory.
PIECE = 160_000_000


@dataclass
class Summary:
    """What a call of :func:`cache_parts` did.

    Attributes:
        clips: encoded in this call.
        problems: unusable clips found in this call.
        excluded: clips left out by name in this call.
        shards: written in this call.
        again: of these, shards that were there and lacked clips which the system had failed to give.
        kept: shards of this process that were there already.
        manifest: of the whole cache, once every process's shards are there; None before.
    """

    clips: int = 0
    problems: int = 0
    excluded: int = 0
    shards: int = 0
    again: int = 0
    kept: int = 0
    manifest: dict[str, Any] | None = None


@dataclass
class _Shard:
    """The shard being made: what was encoded, and the samples that wait for a full batch."""

    folder: Path
    part: Part
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    held: int = 0
    pieces: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    retry: bool = False
    waiting: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / self.part.name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)  # another process may have written it meanwhile
        clear(self.folder, self.part.name)

    def take(self, encode: Callable[[list[Sample]], dict[str, Tensor]]) -> None:
        """Encode what waits; a clip whose latent is not finite is a problem, not training data."""
        if not self.waiting:
            return
        if self.held >= PIECE:
            self._cut(piece_name(self.part.name, len(self.pieces)))
        tensors = encode(self.waiting)
        good = torch.stack([v.flatten(1).isfinite().all(1) for v in tensors.values()]).all(0)
        for sample, fine in zip(self.waiting, good.tolist(), strict=True):
            if fine:
                self.keys.append(sample.key)
                self.captions.append(sample.caption)
                self.starts.append(sample.start)
            else:
                self.problems.append((sample.key, "its latent or embedding is not finite"))
        for name, value in tensors.items():
            self.columns.setdefault(name, []).append(value[good])
            self.held += self.columns[name][-1].nbytes
        self.waiting.clear()

    def close(self) -> None:
        """Write what is left, and the entry that makes the shard complete."""
        if self.held:
            name = self.part.name
            self._cut(piece_name(name, len(self.pieces)) if self.pieces else name)
        write_entry(
            self.folder,
            self.part.name,
            self.pieces,
            keys=self.keys,
            captions=self.captions,
            starts=self.starts,
            problems=self.problems,
            source=self.part.source,
            retry=self.retry,
        )

    def _cut(self, name: str) -> None:
        # one after the other, so that no tensor is there twice
        tensors = {column: torch.cat(self.columns.pop(column)) for column in list(self.columns)}
        self.pieces.append(write_piece(self.folder, name, tensors))
        self.held = 0


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
    crops: int = 1,
    crop: Crop = "first",
    progress: bool = True,
    total: int | None = None,
) -> Summary:
    """Encode this process's share of the parts, each into a shard; complete shards of unchanged input are kept.

    Part i belongs to process i mod ``world``; processes share nothing but the folder. Clips that cannot be used are
    left out and listed, with the reason, in the shard's entry and at the end in problems.csv. A shard that lacks
    clips since a disk or the memory failed is complete, but made again by the next call.

    Args:
        system: gives VAE, CLAP audio branch and text encoder, on its device.
        parts: all parts, the same list in every process, see ``parts.find_parts``.
        folder: the cache.
        batch_size: clips per forward pass.
        workers: processes that decode and resample; 0 decodes in this one. The result does not depend on it.
        rank: this process's number.
        world: number of processes.
        dtype: of mean and logvar on disk.
        crops: clips of one sound, at most: as many as fit beside one another.
        crop: which, "first" or "random", see ``windows.decode_windows``.
        progress: show a progress bar.
        total: sounds that this process has to encode, for the bar; None where they were not counted.

    Raises:
        InputError: no parts, a rank or crops that are none, a system without CLAP audio branch, a folder that holds
            a cache of another system, or a disk that is full.
    """
    if not parts:
        raise InputError("there are no clips to encode")
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} processes: ranks count from 0 to {world - 1}")
    if system.clap is None:
        raise InputError(f"{system.name} has no CLAP audio branch: name a judge (--judge)")
    if crops < 1 or crop not in ("first", "random"):
        raise InputError(f"crops {crops}, crop {crop!r}: at least 1, and first or random")
    folder = Path(folder)
    told = settings(system, dtype, crops=crops, crop=crop)
    settle(folder, told, lambda: earlier(told, system))
    mine = parts[rank::world]
    todo = [p for p in mine if entry_of(folder, p.name, fits(p, crops, "changed", "retry")) is None]
    again = sum("retry" in (entry_of(folder, p.name) or ()) for p in todo)
    if todo:  # nobody is to train on a cache whose shards are of two inputs
        (folder / MANIFEST).unlink(missing_ok=True)
    summary = Summary(kept=len(mine) - len(todo), again=again)
    front = Front(system.seconds, system.feature_extractor, crops, crop)
    bar = tqdm(total=total, unit="clip", desc="encoding", disable=not progress, smoothing=0.05)
    with bar:
        _encode_all(system, todo, folder, front, batch_size, workers, dtype, summary, bar)
    summary.manifest = write_manifest(
        folder, [part.name for part in parts], [fits(part, crops) for part in parts]
    )
    return summary


def fits(part: Part, crops: int, *ways: Comparison) -> Callable[[dict[str, Any]], bool]:
    """What says of a shard's entry whether it is of a part as that is now, for ``shards.entry_of``.

    Args:
        part: the part.
        crops: clips of one sound.
        ways: what it must not have become; "changed" alone if not given.
    """
    return lambda entry: part.compare(entry, crops) not in (ways or ("changed",))


def _encode_all(
    system: FoleySystem,
    parts: Sequence[Part],
    folder: Path,
    front: Front,
    batch_size: int,
    workers: int,
    dtype: torch.dtype,
    summary: Summary,
    bar: Any,
) -> None:
    encode = encoder(system, dtype)
    shard: _Shard | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="source") as noting:
        for number, results in stream(parts, front, workers=workers) if parts else ():
            if shard is None:
                shard = _Shard(folder, parts[number])
                # noted as early as the workers can get at it, and beside the encoding: a change after that is
                # noticed by the next call
                for part in parts[number : number + 2]:
                    noting.submit(getattr, part, "source")
            for result in results or ():
                if isinstance(result, Sample):
                    shard.waiting.append(result)
                    if len(shard.waiting) == batch_size:
                        shard.take(encode)
                else:
                    shard.problems.append((result.key, result.reason))
                    shard.retry |= result.retry
            if results is None:
                shard.take(encode)
                shard.close()
                excluded = sum(reason == EXCLUDED for _, reason in shard.problems)
                summary.clips += len(shard.keys)
                summary.problems += len(shard.problems) - excluded
                summary.excluded += excluded
                summary.shards += 1
                bar.set_postfix(shards=f"{summary.shards}/{len(parts)}", bad=summary.problems, refresh=False)
                shard = None
            bar.update(results is not None)


def bytes_per_clip(system: FoleySystem, dtype: torch.dtype = torch.float16) -> int:
    """Bytes that a clip takes in a shard: mean and logvar in ``dtype``, two embeddings in float32."""
    channels, frames, mels = system.latent_shape
    width = torch.empty((), dtype=dtype).element_size()
    return 2 * width * channels * frames * mels + 2 * 4 * system.embed_dim
