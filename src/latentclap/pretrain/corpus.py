"""The broad captioned corpus that the mini family is trained on, as arrays in one file.

Procedural clips are made from seeds that no data set of ``make_foley.py`` uses; real recordings come from folders
in DCASE layout, or with one sub-folder per class of any name, and only their dev side by recording is taken, so
that every figure can be measured on recordings never seen.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from latentclap.audio import read_wave, repeat_to, to_model_rate
from latentclap.classes import CLASSES, prompt
from latentclap.data import load_dataset
from latentclap.errors import InputError
from latentclap.files import atomic_path, write_json
from latentclap.foley import FAMILIES, synthesize
from latentclap.meta import join_recordings, read_meta
from latentclap.recordings import REAL

#: added to every procedural seed, far from those of clip_seed (which are 63-bit hashes)
SEED_BASE = 1_000_000_007
PROCEDURAL = "procedural"


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

    @cached_property
    def digest(self) -> str:
        """Hexadecimal digest of waves and words: what was computed of other clips has to be made anew."""
        hasher = hashlib.sha256(self.wave.contiguous().numpy().data)
        hasher.update(json.dumps([self.cls, self.caption]).encode())
        return hasher.hexdigest()[:16]

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


@dataclass(frozen=True)
class Recording:
    """One real clip: its file, class, recording, caption, whom to credit for it, and its recording's other names."""

    path: Path
    cls: str
    recording: str
    caption: str
    source: str
    licence: str
    author: str
    keys: frozenset[str] = frozenset()


def authors(folder: Path) -> dict[Path, str]:
    """Author of each file as the nearest ``meta.csv`` names it (CC-BY asks for the name)."""
    found: dict[Path, str] = {}
    for base in (folder.resolve(), folder.resolve().parent):
        if (base / "meta.csv").is_file():
            try:
                with open(base / "meta.csv", encoding="utf-8-sig", newline="") as stream:
                    rows = list(csv.DictReader(stream))
            except (UnicodeDecodeError, csv.Error) as error:
                if base == folder.resolve():
                    raise InputError(f"{base / 'meta.csv'}: not a readable csv table ({error})") from None
                continue  # what lies in the folder above may have nothing to do with us
            for row in rows:
                found.setdefault(base / (row.get("file") or ""), row.get("author") or "")
    return found


def dcase_recordings(folder: str | Path, split: str, seed: int) -> list[Recording]:
    """Clips of the seven classes on one side of a folder in DCASE layout, split by recording."""
    names = authors(Path(folder))
    return [
        Recording(
            clip.path,
            clip.cls,
            clip.recording,
            clip.caption or prompt(clip.cls),
            clip.source or "not stated",
            clip.licence or "not stated",
            names.get(clip.path.resolve(), "") or "not stated",
            clip.keys | {f"samples:{clip.digest}"},
        )
        for clip in load_dataset(folder, seed=seed).split(split)
    ]


def other_recordings(
    folder: str | Path, split: str, seed: int, *, dev_fraction: float = 0.8
) -> list[Recording]:
    """Clips of other classes: ``<folder>/<class>/*`` with a ``meta.csv``, split by recording.

    A recording's side is drawn by its name and the seed, so that it does not depend on what else is there.

    Raises:
        InputError: no folder, or no clip on that side of it.
    """
    out = _sided(Path(folder), seed, dev_fraction)[split]
    if not out:
        raise InputError(
            f"{folder}: no clip on the {split} side; it needs <class>/<file> as meta.csv names them"
        )
    return out


def _sided(folder: Path, seed: int, dev_fraction: float = 0.8) -> dict[str, list[Recording]]:
    if not (folder / "meta.csv").is_file():
        raise InputError(f"{folder}: no meta.csv; it must name file, class, licence and author of each clip")
    rows = {folder / row.file: row for row in read_meta(folder / "meta.csv")}
    names, recording = authors(folder), join_recordings({p: r.keys for p, r in rows.items()})
    out: dict[str, list[Recording]] = {"dev": [], "eval": []}
    for path, row in sorted(rows.items()):
        name = recording.get(path, path.as_posix())
        side = "dev" if zlib.crc32(f"{seed} {name}".encode()) % 1000 < 1000 * dev_fraction else "eval"
        if path.is_file():
            caption = f"the sound of {path.parent.name.replace('_', ' ')}"
            credit = row.source or "not stated", row.licence or "not stated", names.get(path.resolve(), "")
            out[side].append(Recording(path, path.parent.name, name, caption, *credit, row.keys))
    return out


def attribution(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Where real clips come from: one row per class, source and licence, with files, recordings and authors."""
    rows: dict[tuple[str, str, str], list[Recording]] = {}
    for clip in recordings:
        rows.setdefault((clip.cls, clip.source, clip.licence), []).append(clip)
    return [
        {
            "class": cls,
            "source": source,
            "licence": licence,
            "files": len(clips),
            "recordings": sorted({clip.recording for clip in clips}),
            "authors": sorted({clip.author for clip in clips}),
        }
        for (cls, source, licence), clips in sorted(rows.items())
    ]


def recorded_wave(clip: Recording, samples: int) -> np.ndarray:
    """The clip as the model takes it, repeated or cut to ``samples``: int16 (samples,)."""
    return to_int16(to_model_rate(*read_wave(clip.path)), samples)


def build(
    path: str | Path,
    *,
    samples: int,
    per_class: int,
    per_family: int = 0,
    real: Sequence[str | Path] = (),
    other: Sequence[str | Path] = (),
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
        other: folders of other recordings (see :func:`other_recordings`); likewise.
        real_copies: how often each recording is in, since recordings are few beside procedural clips.
        seed: of the procedural clips and of the split.
        workers: processes.

    Raises:
        InputError: ``path`` holds a corpus that was asked for otherwise, or nothing was asked for.
    """
    path = Path(path)
    asked = {
        "samples": samples,
        "per_class": per_class,
        "per_family": per_family,
        "real": [Path(folder).absolute().as_posix() for folder in real],
        "other": [Path(folder).absolute().as_posix() for folder in other],
        "real_copies": real_copies,
        "seed": seed,
    }
    if path.is_file():
        _need_same(path, asked)
        return load(path)
    jobs = [
        (name, SEED_BASE + 7_919 * seed + i, samples)
        for name in FAMILIES
        for i in range(per_class if name in CLASSES else per_family)
    ]
    # processes that do not run the caller's script again (foley.dataset.run_jobs)
    pool = Parallel(workers, backend="loky", batch_size=16, return_as="generator", idle_worker_timeout=5)
    made = list(tqdm(pool(delayed(_make)(job) for job in jobs), total=len(jobs), desc="procedural clips"))
    rows = [(wave, cls, caption, PROCEDURAL) for wave, cls, caption in made]
    recordings = _recordings(real, other, seed)
    for clip in tqdm(recordings, desc="recordings", disable=not recordings):
        rows += [(recorded_wave(clip, samples), clip.cls, clip.caption, REAL)] * real_copies
    if not rows:
        raise InputError("the corpus would be empty: ask for procedural clips or give a folder of recordings")
    waves, classes, captions, kinds = zip(*rows, strict=True)
    corpus = Corpus(torch.from_numpy(np.stack(waves)), list(classes), list(captions), list(kinds))
    write_json(path.with_suffix(".json"), {"real": attribution(recordings)})
    with atomic_path(path) as temporary:
        columns = {"cls": corpus.cls, "caption": corpus.caption, "kind": corpus.kind}
        told = {"columns": json.dumps(columns), "asked": json.dumps(asked)}
        save_file({"wave": corpus.wave}, temporary, metadata=told)
    return corpus


def _recordings(real: Sequence[str | Path], other: Sequence[str | Path], seed: int) -> list[Recording]:
    """The clips on the dev side. Each folder is split by itself, and tables name a recording differently: whatever
    shares a name or its samples with a clip on another folder's eval side stays out, or it were heard here and
    measured there.
    """
    dev = [clip for folder in real for clip in dcase_recordings(folder, "dev", seed)]
    dev += [clip for folder in other for clip in other_recordings(folder, "dev", seed)]
    held = [clip for folder in real for clip in dcase_recordings(folder, "eval", seed)]
    held += [clip for folder in other for clip in _sided(Path(folder), seed)["eval"]]
    joined = join_recordings({clip.path: clip.keys for clip in (*dev, *held)})
    held_out = {joined.get(clip.path, clip.path) for clip in held}
    return [clip for clip in dev if joined.get(clip.path, clip.path) not in held_out]


def _need_same(path: Path, asked: dict[str, Any]) -> None:
    """Refuse a corpus that was asked for otherwise; one of an earlier version does not say how.

    Raises:
        InputError: it was; names what differs.
    """
    with safe_open(path, "pt") as stream:
        theirs = json.loads((stream.metadata() or {}).get("asked", "null"))
    differing = [name for name, value in asked.items() if theirs and theirs.get(name) != value]
    if differing:
        name = differing[0]
        raise InputError(
            f"{path} was made with {name}={theirs.get(name)}, not {asked[name]}: take another --work, or remove it"
        )


def load(path: str | Path) -> Corpus:
    """Read what :func:`build` wrote.

    Raises:
        InputError: it is no corpus, or its words are not those of its clips.
    """
    try:
        with safe_open(path, "pt") as stream:
            meta = stream.metadata() or {}
            if "columns" in meta:
                columns = json.loads(meta["columns"])
            else:  # of an earlier version: a line each
                columns = {name: meta[name].split("\n") for name in ("cls", "caption", "kind")}
            # no mapping
            wave = stream.get_tensor("wave") if "wave" in stream.keys() else torch.empty(0)  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: damaged, or no corpus ({' '.join(str(error).split())}): remove it, and make it again"
        ) from None
    corpus = Corpus(wave, columns["cls"], columns["caption"], columns["kind"])
    if {len(column) for column in columns.values()} != {len(wave)}:
        raise InputError(
            f"{path}: {len(wave)} clips and words for {len(corpus.caption)}: remove it, and make it again"
        )
    return corpus
