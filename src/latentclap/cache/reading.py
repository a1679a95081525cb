"""A cache as training data: random access by clip number, in the memory of a few shards."""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentclap.cache.shards import MANIFEST
from latentclap.errors import InputError
from latentclap.files import file_sha256, read_json


class ShardedCache:
    """The clips of a finished cache, numbered through; ``latentclap.train.Batches``.

    Shards are memory-mapped, and only the rows asked for are read: the training loop's stream, its shuffling and
    its exact resume are the same as with tensors in memory.

    Args:
        folder: where ``cache_parts`` or ``build_cache`` wrote.
        names: tensors that :meth:`batch` gives; all by default.
        open_shards: shards kept mapped, the least recently used ones go first.

    Raises:
        InputError: no finished cache there, a shard is missing or cut, or it has no such tensor.
    """

    def __init__(
        self, folder: str | Path, names: Sequence[str] | None = None, *, open_shards: int = 64
    ) -> None:
        self.folder, self.open_shards = Path(folder), open_shards
        path = self.folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{self.folder} holds no finished cache ({MANIFEST} is missing):"
                " run data_scripts/cache_latents.py, the same command goes on where one stopped"
            )
        self.manifest: dict[str, Any] = read_json(path)
        if not (isinstance(self.manifest, dict) and {"shards", "tensors", "digest"} <= self.manifest.keys()):
            raise InputError(f"{path} is not a cache's: delete it and run cache_latents.py again")
        try:
            self.shards = [s for s in self.manifest["shards"] if s["clips"]]
            self.starts = [0, *itertools.accumulate(s["clips"] for s in self.shards)]
            whole = all(s["bytes"] and s["name"] and s["sha256"] for s in self.shards)
        except (KeyError, TypeError):
            whole = False
        if not whole or not isinstance(self.manifest["tensors"], dict):
            raise InputError(f"{path} is not a cache's: delete it and run cache_latents.py again")
        self.names = tuple(names if names is not None else self.manifest["tensors"])
        missing = [n for n in self.names if n not in self.manifest["tensors"]]
        if missing:
            raise InputError(
                f"{self.folder} has no {', '.join(missing)}; it has {', '.join(self.manifest['tensors'])}"
            )
        for shard in self.shards:
            file = self._path(shard)
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise InputError(f"{file} is missing or cut: cache_latents.py makes it again")
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[int, ...], Future | None] = ((), None)

    def __len__(self) -> int:
        return self.starts[-1]

    def select(self, *names: str) -> ShardedCache:
        """The same clips with some of the tensors only."""
        return ShardedCache(self.folder, names, open_shards=self.open_shards)

    def shape(self, name: str) -> tuple[int, ...]:
        """(n, ...) of a tensor."""
        return (len(self), *self.manifest["tensors"][name][1:])

    @property
    def digest(self) -> str:
        """Changes when any shard's content does."""
        return self.manifest["digest"]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the clips as tensors (len(indices), ...); floats come as float32 whatever is on disk."""
        asked, future = self._ahead
        if future is not None:
            self._ahead = ((), None)
            ready = future.result()  # one thread at a time has the files open
            if asked == tuple(indices):
                return ready
        return self._read(indices)

    def _read(self, indices: Sequence[int]) -> dict[str, Tensor]:
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"clip {index} of {len(self)}")
            shard = bisect.bisect_right(self.starts, index) - 1
            places[shard].append((place, index - self.starts[shard]))
        rows: dict[str, list[Any]] = {name: [None] * len(indices) for name in self.names}
        for shard, wanted in sorted(places.items()):
            file = self._file(shard)
            for name in self.names:
                tensor = file.get_slice(name)
                for place, row in wanted:
                    rows[name][place] = tensor[row : row + 1]
        return {name: _joined(pieces) for name, pieces in rows.items()}

    def prepare(self, indices: Sequence[int]) -> None:
        """Read a batch in the background, for the next call of :meth:`batch` that asks for it."""
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._ahead = (tuple(indices), self._reader.submit(self._read, tuple(indices)))

    def load(self) -> dict[str, Tensor]:
        """All clips in memory, name -> (n, ...)."""
        return self.batch(range(len(self)))

    def verify(self) -> list[Path]:
        """The shards whose checksum is not the manifest's: all files are read."""
        return [p for s in self.shards if file_sha256(p := self._path(s)) != s["sha256"]]

    def _path(self, shard: dict[str, Any]) -> Path:
        return self.folder / f"{shard['name']}.safetensors"

    def _file(self, number: int) -> Any:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = self._path(self.shards[number])
        try:
            self._open[number] = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is damaged ({error}): delete it and run cache_latents.py again"
            ) from None
        if len(self._open) > self.open_shards:
            self._open.popitem(last=False)
        return self._open[number]


def _joined(pieces: list[Tensor]) -> Tensor:
    joined = torch.cat(pieces)
    return joined.float() if joined.is_floating_point() else joined
