"""The seven-class data set: a validated folder, split by recording (section IV-A).

``load_dataset(folder)`` validates first (``latentclap.scan``), takes the folder's own dev and eval where it
has both, and else splits each class so that no recording is on both sides.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from latentclap.audio import read_wave, repeat_to, to_model_rate
from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.errors import InputError
from latentclap.scan import Clip, DataReport, Problem, scan

if TYPE_CHECKING:
    from latentclap.profiles import DataSection

__all__ = [
    "Clip",
    "DataReport",
    "FoleyDataset",
    "Problem",
    "clip_statistics",
    "load_dataset",
    "open_dataset",
    "read_clip",
    "scan",
]

Split = Literal["dev", "eval"]


@dataclass(frozen=True)
class FoleyDataset:
    """Clips, each on the dev or the eval side, with the report of their validation.

    ``split_by`` says who split: ``"folder"`` (dev/ and eval/, or DevMeta.csv and EvalMeta.csv) or
    ``"recording"`` (us).
    """

    folder: Path
    clips: tuple[Clip, ...]
    report: DataReport
    split_by: Literal["folder", "recording"]

    def __len__(self) -> int:
        return len(self.clips)

    def split(self, name: Split, cls: str | None = None) -> list[Clip]:
        """Clips of one side, optionally of one class, sorted by path.

        Raises:
            InputError: the side is neither ``"dev"`` nor ``"eval"``.
            ValueError: the class is none of the seven.
        """
        if name not in ("dev", "eval"):
            raise InputError(f"unknown split {name!r}; it is 'dev' or 'eval'")
        wanted = None if cls is None else canonical_class(cls)
        return [c for c in self.clips if c.split == name and wanted in (None, c.cls)]

    def at_most(self, *, dev: int = 0, evaluation: int = 0, seed: int = 0) -> FoleyDataset:
        """A part of the set: so many clips per class on each side (0: all), drawn by seed over the recordings.

        Every recording gives one clip before any gives a second, so that few clips still are many sounds.
        """
        kept: list[Clip] = []
        for side, count in (("dev", dev), ("eval", evaluation)):
            for cls in self.classes:
                clips = self.split(side, cls)
                kept += _spread(clips, count, seed) if count else clips
        order = {clip.path: i for i, clip in enumerate(self.clips)}
        return replace(self, clips=tuple(sorted(kept, key=lambda clip: order[clip.path])))

    @property
    def classes(self) -> list[str]:
        """The classes that have a clip, in Table I's order."""
        present = {clip.cls for clip in self.clips}
        return [cls for cls in CLASSES if cls in present]

    @property
    def prompts(self) -> dict[str, str]:
        """The paper's sentence for each class present: "This is a sound of <label>." (section IV-A)."""
        return {cls: prompt(cls) for cls in self.classes}

    @property
    def captions(self) -> dict[Path, str]:
        """Captions by file, where a meta file gives them."""
        return {clip.path: clip.caption for clip in self.clips if clip.caption}

    def summary(self) -> pd.DataFrame:
        """One row per class and a total: clips and recordings on each side, seconds, sampling rates in Hz."""
        rows = [_row(cls, [c for c in self.clips if c.cls == cls]) for cls in self.classes]
        return pd.DataFrame([*rows, _row("total", self.clips)])

    def licences(self) -> pd.DataFrame:
        """Clips by licence and class, as the meta file tells them ("not told" where it does not)."""
        rows = [(clip.licence or "not told", clip.cls) for clip in self.clips]
        table = pd.DataFrame(rows, columns=["licence", "class"])
        return pd.crosstab(table["licence"], table["class"])[self.classes]

    def crossing(self) -> dict[str, list[Clip]]:
        """Recordings with clips on both sides: none where we split, maybe some where the folder did."""
        sides: dict[str, list[Clip]] = defaultdict(list)
        for clip in self.clips:
            sides[clip.recording].append(clip)
        return {name: clips for name, clips in sides.items() if len({c.split for c in clips}) > 1}

    @cached_property
    def digest(self) -> str:
        """Hexadecimal digest of what is in the set: samples, classes, sides and captions, not paths."""
        lines = sorted(f"{c.split} {c.cls} {c.digest} {c.sr} {c.caption or ''}" for c in self.clips)
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _spread(clips: list[Clip], count: int, seed: int) -> list[Clip]:
    """``count`` clips, round by round over the recordings in an order drawn by seed."""
    recordings: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        recordings[clip.recording].append(clip)
    names = sorted(recordings)
    names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    rounds = itertools.zip_longest(*(recordings[name] for name in names))
    return [clip for clip in itertools.chain.from_iterable(rounds) if clip is not None][:count]


def _row(name: str, clips: list[Clip] | tuple[Clip, ...]) -> dict[str, Any]:
    sides = [[c for c in clips if c.split == side] for side in ("dev", "eval")]
    recordings = [len({c.recording for c in side}) for side in sides]
    return {
        "class": name,
        "dev": len(sides[0]),
        "eval": len(sides[1]),
        "recordings dev": recordings[0],
        "recordings eval": recordings[1],
        "seconds": round(sum(c.seconds for c in clips), 1),
        "rates": ", ".join(str(sr) for sr in sorted({c.sr for c in clips})),
    }


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
        raise InputError(f"no usable clip; {report.one_line()}")
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
        from filelock import FileLock

        from latentclap.foley import make_dataset

        name = f"foley-{section.dev_per_class}-{section.eval_per_class}-{section.seed}"
        folder = Path(root) / name
        Path(root).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(root) / f".{name}.lock"):
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


def read_clip(clip: Clip, *, seconds: float | None = None, model_rate: bool = True) -> np.ndarray:
    """Read one clip, first channel, repeated or cut to ``seconds``.

    Args:
        clip: from a scan or a data set.
        seconds: length of the result; None keeps the clip's own.
        model_rate: as the model takes it (16 kHz, zero mean, peak 0.5: ``audio.to_model_rate``); else the
            samples as they are, at ``clip.sr``.

    Returns:
        float32 (samples,).

    Raises:
        InputError: the file has gone or changed into something unreadable since the scan, or a bad duration.
    """
    wave, sr = read_wave(clip.path)
    if model_rate:
        return to_model_rate(wave, sr, seconds)
    if seconds is None:
        return wave[0]
    return repeat_to(wave[0], round(seconds * sr))


def clip_statistics(clips: Iterable[Clip]) -> pd.DataFrame:
    """Level and brightness of clips as they lie on disk, one row per clip.

    Columns: class, split, seconds, rms_dbfs, crest_db (peak over rms), centroid_hz (mean frequency of the power
    spectrum of the whole clip), active (share of 25 ms frames within 60 dB of the loudest one).
    """
    rows = []
    for clip in clips:
        wave = read_clip(clip, model_rate=False).astype(np.float64)
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / clip.sr)
        rms = np.sqrt(np.mean(wave**2))
        frame = max(1, clip.sr // 40)
        levels = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
        rows.append(
            {
                "class": clip.cls,
                "split": clip.split,
                "seconds": clip.seconds,
                "rms_dbfs": 20 * np.log10(rms),
                "crest_db": 20 * np.log10(np.abs(wave).max() / rms),
                "centroid_hz": float((hertz * power).sum() / power.sum()),
                "active": float((levels > levels.max() * 1e-6).mean()),
            }
        )
    return pd.DataFrame(rows)
