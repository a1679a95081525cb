"""What DataLoader workers do for the cache: read, decode, resample, and CLAP's features. No GPU, no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from latentclap.audio import clap_features, to_model_rate
from latentclap.audio.waves import MODEL_RATE
from latentclap.cache.items import Item
from latentclap.cache.parts import Part
from latentclap.cache.windows import Crop, Unread, Window, decode_windows
from latentclap.errors import InputError


@dataclass(frozen=True)
class Sample:
    """A clip ready to be encoded: wave (samples,) at 16 kHz, CLAP features (1, frames, mels), both float32.

    ``start`` is where it begins in its sound, in seconds.
    """

    key: str
    caption: str
    wave: torch.Tensor
    features: torch.Tensor
    start: float = 0.0


@dataclass(frozen=True)
class Bad:
    """A clip that cannot be used; ``retry`` where it may be the next time."""

    key: str
    reason: str
    retry: bool = False


@dataclass(frozen=True)
class Front:
    """Item in, :class:`Sample` or :class:`Bad` out, one or several; pickled to the workers.

    Attributes:
        seconds: length of a clip; longer sounds are cut, shorter ones repeated (IV-A).
        extractor: CLAP's feature extractor.
        crops: clips of one sound, at most; where it is more than 1, clip k of sound ``key`` is called ``key#k``.
        crop: which part of a sound, see :func:`decode_windows`.
    """

    seconds: float
    extractor: Any
    crops: int = 1
    crop: Crop = "first"

    def __call__(self, item: Item) -> list[Sample | Bad]:
        """Read, decode and resample a sound, and take CLAP's features; never raises for what a file holds."""
        if item.problem:
            return [Bad(item.key, item.problem, item.retry)]
        try:
            windows = decode_windows(item, self.seconds, self.crops, self.crop)
            return [self._clip(item, k, window) for k, window in enumerate(windows) if window is not None]
        except InputError as error:
            return [Bad(item.key, str(error), isinstance(error, Unread))]
        except MemoryError:
            return [Bad(item.key, "does not fit into memory", retry=True)]

    def _clip(self, item: Item, number: int, window: Window | InputError) -> Sample | Bad:
        key = f"{item.key}#{number}" if self.crops > 1 else item.key
        if isinstance(window, InputError):
            return Bad(key, str(window))
        wave = to_model_rate(window.wave, window.sr, self.seconds)
        features = clap_features(self.extractor, wave[None], MODEL_RATE)[0]
        return Sample(key, item.caption, torch.from_numpy(wave), features, round(window.start / window.sr, 6))


class _Stream(IterableDataset):
    """(turn, part number, results); None for the end of a part. Worker w of W does every W-th turn.

    The loader asks the workers in turn, so that results come in the order of the input for any number of them.
    """

    def __init__(self, parts: Sequence[Part], front: Front) -> None:
        self.parts, self.front = parts, front

    def __iter__(self) -> Iterator[tuple[int, int, list[Sample | Bad] | None]]:
        info = get_worker_info()
        me, workers = (info.id, info.num_workers) if info else (0, 1)
        turn = 0
        for number, part in enumerate(self.parts):
            for entry in part.entries():
                if turn % workers == me:
                    yield turn, number, self.front(entry.load())
                turn += 1
            if turn % workers == me:
                yield turn, number, None
            turn += 1


def _same(item: Any) -> Any:
    return item


def stream(
    parts: Sequence[Part], front: Front, *, workers: int = 0, ahead: int = 8
) -> Iterator[tuple[int, list[Sample | Bad] | None]]:
    """Results of all parts in order, (part number, those of one sound), and (part number, None) at a part's end.

    Args:
        parts: the input.
        front: what is done to an item.
        workers: processes that decode; 0 decodes in this one.
        ahead: sounds whose results each worker may have ready.

    Raises:
        InputError: the workers did not read the same input, or the system ended one of them.
    """
    loader = DataLoader(
        _Stream(parts, front),
        batch_size=None,
        num_workers=workers,
        collate_fn=_same,
        prefetch_factor=ahead if workers else None,
    )
    try:
        for expected, (turn, number, results) in enumerate(loader):
            if turn != expected:
                raise InputError("the decoding workers read different data: is the input being changed?")
            yield number, results
    except RuntimeError as error:
        # torch's own words for a process that is gone; an error that one raised is another matter
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"the system ended a decoding process ({str(error).splitlines()[0].rstrip('. ')}), most often for want"
            " of memory: give fewer --workers; the same command goes on"
        ) from None
