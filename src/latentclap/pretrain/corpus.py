"""The broad captioned corpus that the mini family is trained on, as arrays in one file.

Procedural clips are made from seeds that no data set of ``make_foley.py`` uses; real recordings come from folders
in DCASE layout, and only their dev side is taken, so that every figure can be measured on recordings never seen.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from latentclap.audio import repeat_to, to_model_rate
from latentclap.classes import CLASSES, prompt
from latentclap.data import Clip, load_dataset, read_clip
from latentclap.errors import InputError
from latentclap.files import atomic_path, write_json
from latentclap.foley import FAMILIES, synthesize

#: added to every procedural seed, far from those of clip_seed (which are 63-bit hashes)
SEED_BASE = 1_000_000_007
REAL, PROCEDURAL = "real", "procedural"


@dataclass
class Corpus:
    """Clips in memory.

    Attributes:
        wave: (n, samples) int16 at 16 kHz, peak 0.5 of full scale.
        cls: class or family of each clip.
        caption: words for each clip.
        kind: "procedural" or "real".
    """

    wave: torch.Tensor
    cls: list[str]
    caption: list[str]
    kind: list[str]

    def __len__(self) -> int:
        return len(self.wave)

    def texts(self) -> list[list[str]]:
        """Texts of each clip: its caption, and the paper's prompt where it is of the seven classes (IV-A)."""
        return [[c, prompt(k) if k in CLASSES else c] for c, k in zip(self.caption, self.cls, strict=True)]

    def subset(self, keep: Callable[[int], bool]) -> Corpus:
        """The clips whose number satisfies ``keep``."""
        rows = [i for i in range(len(self)) if keep(i)]
        pick = [self.cls, self.caption, self.kind]
        return Corpus(self.wave[rows], *[[column[i] for i in rows] for column in pick])


def to_int16(wave: np.ndarray, samples: int) -> np.ndarray:
    """A prepared wave (peak 0.5), repeated to length and quantised."""
    return np.round(repeat_to(wave, samples) * 32767).astype(np.int16)


def _make(job: tuple[str, int, int]) -> tuple[np.ndarray, str, str]:
    cls, seed, samples = job
    clip = synthesize(cls, seed, sr=22050, split="dev")
    return to_int16(to_model_rate(clip.wave, 22050), samples), cls, clip.caption


def attribution(real: Sequence[str | Path], seed: int) -> list[dict[str, Any]]:
    """Where the real clips of a corpus come from: one row per class, source and licence, with files and recordings.

    Only the dev side by recording counts: it is what :func:`build` takes.
    """
    rows: dict[tuple[str, str, str], list[Clip]] = {}
    for folder in real:
        for clip in load_dataset(folder, seed=seed).split("dev"):
            key = (clip.cls, clip.source or "not stated", clip.licence or "not stated")
            rows.setdefault(key, []).append(clip)
    return [
        {
            "class": cls,
            "source": source,
            "licence": licence,
            "files": len(clips),
            "recordings": sorted({clip.recording for clip in clips}),
        }
        for (cls, source, licence), clips in sorted(rows.items())
    ]


def build(
    path: str | Path,
    *,
    samples: int,
    per_class: int,
    per_family: int = 0,
    real: Sequence[str | Path] = (),
    real_copies: int = 1,
    seed: int = 0,
    workers: int = 2,
) -> Corpus:
    """Make the corpus, or read it where ``path`` holds it already.

    Args:
        path: a .safetensors file.
        samples: length of a clip at 16 kHz.
        per_class: procedural clips of each of the seven classes.
        per_family: procedural clips of each further family.
        real: folders of recordings in DCASE layout; their dev split (by recording) is taken.
        real_copies: how often each recording is in, since recordings are few beside procedural clips.
        seed: of the procedural clips and of the split.
        workers: processes.
    """
    path = Path(path)
    if path.is_file():
        return load(path)
    jobs = [
        (name, SEED_BASE + 7_919 * seed + i, samples)
        for name in FAMILIES
        for i in range(per_class if name in CLASSES else per_family)
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        made = list(tqdm(pool.imap(_make, jobs, chunksize=16), total=len(jobs), desc="procedural clips"))
    rows = [(wave, cls, caption, PROCEDURAL) for wave, cls, caption in made]
    for folder in real:
        for clip in load_dataset(folder, seed=seed).split("dev"):
            wave = to_int16(read_clip(clip, seconds=None), samples)
            rows += [(wave, clip.cls, clip.caption or prompt(clip.cls), REAL)] * real_copies
    if not rows:
        raise InputError("the corpus would be empty: ask for procedural clips or give a folder of recordings")
    waves, classes, captions, kinds = zip(*rows, strict=True)
    corpus = Corpus(torch.from_numpy(np.stack(waves)), list(classes), list(captions), list(kinds))
    write_json(path.with_suffix(".json"), {"real": attribution(real, seed)})
    with atomic_path(path) as temporary:
        columns = {"cls": corpus.cls, "caption": corpus.caption, "kind": corpus.kind}
        save_file({"wave": corpus.wave}, temporary, metadata={k: "\n".join(v) for k, v in columns.items()})
    return corpus


def load(path: str | Path) -> Corpus:
    """Read what :func:`build` wrote."""
    with safe_open(path, "pt") as stream:
        meta = {name: value.split("\n") for name, value in stream.metadata().items()}
        return Corpus(stream.get_tensor("wave"), meta["cls"], meta["caption"], meta["kind"])
