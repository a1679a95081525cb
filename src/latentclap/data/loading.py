"""A folder, or the embedded set, as a data set split by recording."""

from __future__ import annotations

import os
import warnings
import zlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentclap.classes import CLASSES
from latentclap.data.dataset import FoleyDataset, Split
from latentclap.errors import InputError
from latentclap.scan import Clip, DataReport, Problem, scan

if TYPE_CHECKING:
    from latentclap.profiles import DataSection


def load_dataset(
    folder: str | Path,
    *,
    dev_fraction: float = 0.8,
    seed: int = 0,
    strict: bool = False,
    **scan_options: Any,
) -> FoleyDataset:
    """Validate a folder in DCASE layout and put every clip on one side.

    Where the folder has both sides (dev/ and eval/ folders, or DevMeta.csv and EvalMeta.csv), they are kept.
    Else each class is split by recording: about ``dev_fraction`` of its clips go to dev, at least one
    recording to each side where the class has two, and no recording to both.

    Args:
        folder: the data set; see ``latentclap.scan.scan`` for what it may look like.
        dev_fraction: share of a class's clips on the dev side, between 0 and 1.
        seed: of the shuffle of recordings; the same seed and files give the same sides.
        strict: raise on any problem instead of leaving bad files out with a warning.
        **scan_options: passed to ``scan`` (min_seconds, silence_dbfs, workers, progress).

    Raises:
        InputError: no such folder, no usable clip, a fraction that is none, or any problem under ``strict``.
    """
    if not 0 < dev_fraction < 1:
        raise InputError(f"dev_fraction is {dev_fraction!r}; it must lie between 0 and 1")
    report = scan(folder, **scan_options)
    if strict:
        report.raise_if_bad()
    if not report.clips:
        raise InputError(f"{report.one_line()}; no clip can be used")
    sides = {clip.split for clip in report.clips}
    if {"dev", "eval"} <= sides:
        report = _without_sideless(report)
        clips, split_by = report.clips, "folder"
    else:
        clips, split_by = _split_by_recording(report.clips, report.folder, dev_fraction, seed), "recording"
    serious = [p for p in report.problems if p.kind != "missing class"]
    if serious:
        line = replace(report, problems=tuple(serious)).one_line()
        warnings.warn(f"{line} (see FoleyDataset.report.table())", stacklevel=2)
    return FoleyDataset(report.folder, clips, report, split_by)


def open_dataset(
    folder: str | Path, section: DataSection, *, root: str | Path, workers: int | None = None
) -> FoleyDataset:
    """Load the data set of a run: a folder of recordings or, where ``folder`` is empty, the embedded set.

    The embedded set is synthesised below ``root`` on its first use, under a name made of its numbers, and
    checked on every later one. Two notebooks may ask for it at once: one makes it, the other waits.

    Args:
        folder: in DCASE layout; empty for the embedded procedural set.
        section: a profile's ``[data]``: dev_per_class, eval_per_class, dev_fraction, seed.
        root: where embedded sets lie.
        workers: processes that synthesise; by default the number of cores.

    Raises:
        InputError: as ``load_dataset``.
    """
    if not folder:
        from latentclap.foley import make_dataset
        from latentclap.locks import locked

        name = f"foley-{section.dev_per_class}-{section.eval_per_class}-{section.seed}"
        folder = Path(root) / name
        Path(root).mkdir(parents=True, exist_ok=True)
        with locked(Path(root) / f".{name}.lock"):
            make_dataset(
                folder,
                per_class=section.dev_per_class,
                eval_per_class=section.eval_per_class,
                seed=section.seed,
                workers=workers or os.cpu_count() or 1,
            )
        return load_dataset(folder, dev_fraction=section.dev_fraction, seed=section.seed)
    dataset = load_dataset(folder, dev_fraction=section.dev_fraction, seed=section.seed)
    part = dataset.at_most(
        dev=section.max_dev_per_class, evaluation=section.max_eval_per_class, seed=section.seed
    )
    if len(part) < len(dataset):
        print(
            f"{len(part)} of {len(dataset)} clips are used: at most {section.max_dev_per_class or 'all'} dev and"
            f" {section.max_eval_per_class or 'all'} eval clips per class (the profile's [data])"
        )
    return part


def _without_sideless(report: DataReport) -> DataReport:
    """Take out clips on neither side where the folder has both, and say so."""
    stray = [c for c in report.clips if c.split is None]
    said = tuple(Problem(c.path, "stray file", "on neither the dev nor the eval side") for c in stray)
    kept = tuple(c for c in report.clips if c.split is not None)
    return replace(report, clips=kept, problems=report.problems + said)


def _split_by_recording(
    clips: tuple[Clip, ...], folder: Path, dev_fraction: float, seed: int
) -> tuple[Clip, ...]:
    """Return the clips with ``split`` set; deterministic in the seed and the files' places in the folder."""
    side: dict[str, Split] = {}
    for cls in CLASSES:
        groups: dict[str, int] = defaultdict(int)
        for clip in clips:
            if clip.cls == cls:
                groups[clip.group or clip.path.relative_to(folder).as_posix()] += 1
        # a recording that an earlier class holds stays on its side
        taken = sum(n for name, n in groups.items() if side.get(name) == "eval")
        free = sorted(name for name in groups if name not in side)
        rng = np.random.default_rng([seed, zlib.crc32(cls.encode())])
        free = [free[i] for i in rng.permutation(len(free))]
        target = (1 - dev_fraction) * sum(groups.values())
        chosen = _fill(free, groups, target - taken)
        settled = {side[name] for name in groups if name in side}
        if free and not chosen and "eval" not in settled and len(groups) > 1:
            chosen = {min(free, key=lambda name: groups[name])}
        if len(free) > 1 and chosen == set(free) and "dev" not in settled:
            chosen.remove(max(chosen, key=lambda name: (groups[name], name)))
        side.update({name: "eval" if name in chosen else "dev" for name in free})
    return tuple(
        replace(clip, split=side[clip.group or clip.path.relative_to(folder).as_posix()]) for clip in clips
    )


def _fill(names: list[str], sizes: dict[str, int], target: float) -> set[str]:
    """Take names in order as long as their sizes bring the sum nearer to the target."""
    chosen: set[str] = set()
    left = target
    for name in names:
        if abs(left - sizes[name]) < abs(left):
            chosen.add(name)
            left -= sizes[name]
    return chosen
