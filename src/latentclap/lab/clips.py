"""Clips of an experiment's points, each set generated once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import atomic_path, read_json, write_json
from latentclap.lab.points import Point, Points
from latentclap.locks import locked
from latentclap.postfilter import FilterResult, clap_score, filter_generate, load_preset
from latentclap.runs import config_hash
from latentclap.system import FoleySystem


class Clips(Points):
    """Generation on the bench."""

    def generating(self, point: Point | None) -> FoleySystem:
        """A point's system as clips are made by it: compiled, where the profile says so."""
        system = self.load(point)
        return system.for_generation() if self._compiles else system

    def _sampling(self) -> list[Any]:
        """What decides a clip beside its seed and the weights; compiled ones differ by bf16's rounding."""
        return [asdict(self.profile.generate)] + ["compiled"] * self._compiles

    def generate(
        self, point: Point | None, n: int, *, seed: int = 0, first: int = 0, classes: Sequence[str] = CLASSES
    ) -> dict[str, np.ndarray]:
        """n clips per class, (n, samples) float32 at 16 kHz, made once per (point, sampling, seed)."""
        path = self._generated(point, n, seed, first, classes)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                system = self.generating(point)
                started = time.monotonic()
                waves = system.generate(
                    list(classes),
                    n,
                    seed=seed,
                    first=first,
                    progress=self.progress,
                    **asdict(self.profile.generate),
                )
                # before the clips: where they are, their time is known
                write_json(path.with_suffix(".json"), {"seconds": time.monotonic() - started})
                with atomic_path(path) as temporary:
                    arrays = {c: waves[i * n : (i + 1) * n].copy() for i, c in enumerate(classes)}
                    save_arrays(arrays, temporary)
        try:
            arrays = load_arrays(path)
        except SafetensorError as error:
            raise InputError(f"{path}: damaged ({error}); delete it, and it is made again") from None
        return {c: arrays[c] for c in classes}

    def generation_seconds(
        self, point: Point | None, n: int, *, seed: int = 0, first: int = 0, classes: Sequence[str] = CLASSES
    ) -> float:
        """Wall time that :meth:`generate` took when it made these clips, without that of loading the system."""
        path = self._generated(point, n, seed, first, classes)
        return read_json(path.with_suffix(".json"))["seconds"]

    def _generated(self, point: Point | None, n: int, seed: int, first: int, classes: Sequence[str]) -> Path:
        """The file of what :meth:`generate` makes."""
        key = config_hash([*self._sampling(), seed, first, n, list(classes), self.checkpoint_id])
        return self._point_folder(point) / "generated" / f"{key}.safetensors"

    def filtered(self, point: Point | None, n: int, *, seed: int = 0) -> FilterResult:
        """n clips per class through the profile's post-filter (II-B), made once like :meth:`generate`.

        With the profile's guidance, whatever the filter's authors took: rows with and without it are then alike.
        """
        section = self.profile.evaluate
        options = [section.postfilter, section.max_tries, section.candidates]
        key = config_hash([*self._sampling(), options, seed, n, self.checkpoint_id])
        path = self._point_folder(point) / "filtered" / f"{key}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                system = self.generating(point)
                result = filter_generate(
                    system.generate,
                    clap_score(system),
                    CLASSES,
                    n,
                    load_preset(section.postfilter, section.candidates),
                    seed=seed,
                    max_tries=section.max_tries,
                    batch=max(32, self.profile.generate.batch_size),
                    **asdict(self.profile.generate),
                )
                result.save(path)
        return FilterResult.load(path)

    def _point_folder(self, point: Point | None) -> Path:
        return point.folder if point else self.root / "pretrained" / self.checkpoint_id
