"""What DataLoader workers do for the cache: read, decode, resample, and CLAP's features. No GPU, no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from latentclap.audio import clap_features, to_model_rate
from latentclap.audio.waves import MODEL_RATE, check_rate
from latentclap.cache.listing import Item
from latentclap.cache.parts import Part
from latentclap.cache.tars import as_file
from latentclap.errors import InputError

#: decoded beyond the clip's length, so that the resampler's edge lies outside of it (seconds)
MARGIN = 0.25
#: quieter than this is silence, as in a folder's scan (dBFS of the peak, offset removed)
SILENCE = -60.0


@dataclass(frozen=True)
class Sample:
    """A clip ready to be encoded: wave (samples,) at 16 kHz, CLAP features (1, frames, mels), both float32."""

    key: str
    caption: str
    wave: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True)
class Bad:
    """A clip that cannot be used."""

    key: str
    reason: str


def decode_head(item: Item, seconds: float) -> tuple[np.ndarray, int]:
    """The beginning of a sound, float32 (channels, samples) and its rate: a ten-hour file takes ten seconds' memory.

    Raises:
        InputError: not a sound, cut short, empty, silent or not finite.
    """
    import soundfile

    try:
        with soundfile.SoundFile(as_file(item)) as sound:
            sr = check_rate(sound.samplerate, item.key)
            wanted = math.ceil((seconds + MARGIN) * sr)
            wave = sound.read(wanted, dtype="float32", always_2d=True).T
            told = sound.frames
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(f"cannot be decoded ({reason})") from None
    if wave.shape[1] < min(told, wanted):
        raise InputError(f"cut short: {wave.shape[1]} of {told} samples can be decoded")
    if not wave.shape[1]:
        raise InputError("no samples")
    if not np.isfinite(wave).all():
        raise InputError("NaN or infinite samples")
    head = wave[0, : math.ceil(seconds * sr)]
    if np.abs(head - head.mean()).max() < 10 ** (SILENCE / 20):
        raise InputError(f"silent in its first {seconds:g} s")
    return wave, sr


@dataclass(frozen=True)
class Front:
    """Item in, :class:`Sample` or :class:`Bad` out; pickled to the workers.

    Attributes:
        seconds: length of a clip; longer sounds are cut, shorter ones repeated (IV-A).
        extractor: CLAP's feature extractor.
    """

    seconds: float
    extractor: Any

    def __call__(self, item: Item) -> Sample | Bad:
        """Read, decode and resample a clip, and take CLAP's features; never raises for what a file holds."""
        if item.problem:
            return Bad(item.key, item.problem)
        try:
            wave = to_model_rate(*decode_head(item, self.seconds), self.seconds)
            features = clap_features(self.extractor, wave[None], MODEL_RATE)[0]
        except InputError as error:
            return Bad(item.key, str(error))
        except MemoryError:
            return Bad(item.key, "does not fit into memory")
        return Sample(item.key, item.caption, torch.from_numpy(wave), features)


class _Stream(IterableDataset):
    """(turn, part number, result); None for the end of a part. Worker w of W does every W-th turn.

    The loader asks the workers in turn, so that results come in the order of the input for any number of them.
    """

    def __init__(self, parts: Sequence[Part], front: Front) -> None:
        self.parts, self.front = parts, front

    def __iter__(self) -> Iterator[tuple[int, int, Sample | Bad | None]]:
        info = get_worker_info()
        me, workers = (info.id, info.num_workers) if info else (0, 1)
        turn = 0
        for number, part in enumerate(self.parts):
            for item in part.items():
                if turn % workers == me:
                    yield turn, number, self.front(item)
                turn += 1
            if turn % workers == me:
                yield turn, number, None
            turn += 1


def _same(item: Any) -> Any:
    return item


def stream(
    parts: Sequence[Part], front: Front, *, workers: int = 0, ahead: int = 8
) -> Iterator[tuple[int, Sample | Bad | None]]:
    """Results of all parts in order, (part number, sample or problem), and (part number, None) at a part's end.

    Args:
        parts: the input.
        front: what is done to an item.
        workers: processes that decode; 0 decodes in this one.
        ahead: samples that each worker may have ready.

    Raises:
        RuntimeError: the workers did not read the same input.
    """
    loader = DataLoader(
        _Stream(parts, front),
        batch_size=None,
        num_workers=workers,
        collate_fn=_same,
        prefetch_factor=ahead if workers else None,
    )
    for expected, (turn, number, result) in enumerate(loader):
        if turn != expected:
            raise RuntimeError("the decoding workers read different data: is the input being changed?")
        yield number, result
