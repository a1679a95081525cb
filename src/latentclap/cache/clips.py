"""A data set's clips, encoded once and read back into memory: what the notebooks train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from latentclap.cache.settings import earlier, settings
from latentclap.cache.shards import entry_of, settle, write_manifest, write_shard
from latentclap.classes import CLASSES, prompt
from latentclap.data import Clip, read_clip
from latentclap.errors import InputError
from latentclap.files import file_sha256
from latentclap.locks import locked
from latentclap.system import FoleySystem
from latentclap.train import Batches, TensorBatches

if TYPE_CHECKING:
    from latentclap.cache.reading import ShardedCache

SHARD = 512


def build_cache(
    system: FoleySystem,
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    """Encode clips into ``folder``, or read what is there already; whole shards of an interrupted call are kept.

    Args:
        system: gives VAE, CLAP audio branch and text encoder.
        clips: in the order of the result.
        folder: one folder per (system, data): the caller's key.
        batch_size: clips per forward pass.
        progress: show a progress bar.

    Returns:
        mean, logvar (n, C, T, F), E_audio (n, 512), E_text (n, 512), label (n,), wave-free.

    Raises:
        InputError: no clips, or a shard's content is not what its entry in the journal says.
    """
    if not clips:
        raise InputError("there are no clips to encode")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i // SHARD:05d}" for i in range(0, len(clips), SHARD)]
    # two notebooks may want the same cache at the same time: one makes it, the other waits
    with locked(folder / ".lock"):
        told = settings(system, torch.float32)
        settle(folder, told, lambda: earlier(told, system))
        shards = [
            _shard(system, clips[i * SHARD : (i + 1) * SHARD], folder, name, batch_size, progress)
            for i, name in enumerate(names)
        ]
        write_manifest(folder, names)
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _shard(
    system: FoleySystem, clips: Sequence[Clip], folder: Path, name: str, batch_size: int, progress: bool
) -> dict[str, torch.Tensor]:
    path, entry = folder / f"{name}.safetensors", entry_of(folder, name)
    if entry is not None:
        if entry["sha256"] != file_sha256(path):
            raise InputError(f"{path} is damaged (its checksum differs): delete it and run again")
        return load_file(path)
    tensors = encode_clips(system, clips, batch_size=batch_size, progress=progress)
    write_shard(
        folder,
        name,
        tensors,
        keys=[clip.path.name for clip in clips],
        captions=[prompt(clip.cls) for clip in clips],
    )
    return tensors


def read_waves(system: FoleySystem, clips: Sequence[Clip]) -> np.ndarray:
    """Clips as the system's front end wants them: (n, samples) float32 at 16 kHz, repeated to length (IV-A)."""
    return np.stack([read_clip(clip, seconds=system.seconds) for clip in clips])


def encode_clips(
    system: FoleySystem, clips: Sequence[Clip], *, batch_size: int = 8, progress: bool = True
) -> dict[str, torch.Tensor]:
    """Run the frozen parts over clips; see :func:`build_cache` for what comes out."""
    columns: dict[str, list[torch.Tensor]] = {"mean": [], "logvar": [], "E_audio": []}
    for i in tqdm(range(0, len(clips), batch_size), desc="encoding clips", leave=False, disable=not progress):
        waves = read_waves(system, clips[i : i + batch_size])
        mean, logvar = system.posterior(waves)
        for name, value in (("mean", mean), ("logvar", logvar), ("E_audio", system.encode_audio(waves))):
            columns[name].append(value.cpu())
    E_class = system.encode_text([prompt(name) for name in CLASSES]).cpu()
    label = torch.tensor([CLASSES.index(clip.cls) for clip in clips])
    out = {name: torch.cat(values).contiguous() for name, values in columns.items()}
    return {**out, "E_text": E_class[label].contiguous(), "label": label}


def batches(cache: Mapping[str, torch.Tensor] | ShardedCache, *names: str) -> Batches:
    """Training data out of some of a cache's tensors, in memory or on disk."""
    if isinstance(cache, Mapping):
        return TensorBatches({name: cache[name] for name in names})
    return cache.select(*names)


def describe(cache: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Shapes and size of a cache, for printing."""
    size = sum(t.numel() * t.element_size() for t in cache.values())
    return {name: tuple(t.shape) for name, t in cache.items()} | {"bytes": size}
