"""The data set: clips on two sides, with their validation."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.errors import InputError
from latentclap.scan import Clip, DataReport

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

    def __repr__(self) -> str:
        sides = ", ".join(f"{len(self.split(side))} {side}" for side in ("dev", "eval"))
        return f"FoleyDataset({str(self.folder)!r}: {sides} clips, split by {self.split_by})"

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
