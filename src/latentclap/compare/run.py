"""What ``latentclap compare`` does, step by step."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from latentclap.classes import CLASSES as SEVEN
from latentclap.classes import prompt
from latentclap.compare.clips import clip_rows
from latentclap.compare.manifold import too_few
from latentclap.compare.notes import Files, same_files, same_sounds, silence, unequal
from latentclap.compare.page import Heard, comparison_page
from latentclap.compare.scores import Scores, score
from latentclap.compare.table import Comparison
from latentclap.comparing import CLASSES, CLIPS, PAGE, PART, RECORD
from latentclap.errors import InputError
from latentclap.evaluate import embed_clips
from latentclap.evaluate.clips import check_sound
from latentclap.evaluate.folders import by_class, sounds_by_folder
from latentclap.evaluate.partners import check_empty, check_partners
from latentclap.fad import ClipEmbeddings, load_stats
from latentclap.files import check_place, plain, write_json, write_text
from latentclap.runs import origin
from latentclap.scan.layout import unused
from latentclap.typed import typed_as


@dataclass
class Run:
    """One comparison: its clips are found, measured and written, in that order.

    Attributes:
        folders: {system: a folder of clips for each training}.
        reference: folder of real clips, or statistics.
        training: folder of training clips.
        seconds, neighbours, n_boot, seed, items: as the command's.
        warnings: what makes figures say less than they seem to.
        written: {class: its folder's name in the first folder, by which draws are dealt}.
    """

    folders: Mapping[str, Sequence[Path]]
    reference: Path
    training: Path | None
    seconds: float
    neighbours: int
    n_boot: int
    seed: int
    items: int
    warnings: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    made: dict[str, list[Files]] = field(default_factory=dict)
    real: Files = field(default_factory=dict)
    known: Files = field(default_factory=dict)

    def find(self, *, texts: bool = False) -> None:
        """Find all clips, before any of them is embedded; ``texts``: classes need theirs, for similarities.

        Raises:
            InputError: bad folders, classes that one side has and another lacks, or with too few clips.
        """
        self.stats = None
        if self.reference.suffix == ".npz":
            self.stats = load_stats(self.reference)
            if self.training is not None:
                raise InputError("--training needs real clips as --reference: statistics have no distances")
        made = {name: [sounds_by_folder(f) for f in folders] for name, folders in self.folders.items()}
        first = next(iter(self.folders.values()))[0]
        written = list(next(iter(made.values()))[0])
        for name, trainings in made.items():
            sides = zip(self.folders[name], trainings, strict=True)
            self.made[name] = [by_class(files, folder, like=written) for folder, files in sides]
        classes = list(next(iter(self.made.values()))[0])
        self.written = dict(zip(classes, written, strict=True))
        for name, trainings in self.made.items():
            for folder, files in zip(self.folders[name], trainings, strict=True):
                check_partners(classes, first, list(files), folder)
                check_partners(list(files), folder, classes, first)
        if self.stats is None:
            self.real = self._beside(self.reference, "--reference", classes)
        else:
            self.stats = by_class(self.stats, self.reference, like=written)
            check_partners(classes, first, list(self.stats), self.reference, "--reference")
            self._check_empty(classes, list(self.stats))
        if self.training is not None:
            self.known = self._beside(self.training, "--training", classes)
        if texts and not set(classes) & set(SEVEN):
            raise InputError("--similarity: none of the classes is one of the seven, whose texts are known")
        self._count()
        self.warnings += [line for side in self.folders.values() for f in side for line in unused(f)]
        for folder in (self.reference, self.training):
            self.warnings += unused(folder, empty=False) if folder is not None else []
        self.warnings += same_files(self.made, self.real, self.known)

    def _beside(self, folder: Path, option: str, classes: Sequence[str]) -> Files:
        """The real clips of the systems' classes in a folder."""
        written = self.written.values()
        files = sounds_by_folder(folder, duplicates_ok=True, measured=written)
        found = by_class(files, folder, like=written)
        check_partners(classes, next(iter(self.folders.values()))[0], list(found), folder, option)
        if folder == self.reference:
            self._check_empty(classes, list(found))
        return {cls: found[cls] for cls in classes}

    def _check_empty(self, classes: Sequence[str], real: Sequence[str]) -> None:
        """Refuse folders of classes that no system has sounds of, and the reference has."""
        for folder in (folder for folders in self.folders.values() for folder in folders):
            check_empty(folder, classes, real, self.reference)

    def _count(self) -> None:
        """Refuse classes of too few clips, and warn of systems with unequal numbers."""
        sides = [
            (folder, files)
            for name, trainings in self.made.items()
            for folder, files in zip(self.folders[name], trainings, strict=True)
        ]
        needed = self.neighbours if self.stats is None else min(1, self.n_boot)
        for folder, files in [*sides, (self.reference, self.real)]:
            for cls, paths in files.items():
                if len(paths) <= needed:
                    few = "1 clip; give 2 or more" if self.stats is not None else too_few(len(paths), needed)
                    raise InputError(f"{folder}: {cls}: {few}")
        self.warnings += unequal([files for _, files in sides], kernel=self.stats is None)

    def measure(self, embedding: Any, system: Any = None, *, progress: bool = True) -> Comparison:
        """Embed everything once, and measure; ``system`` gives similarities where it is not None."""
        clips = [self.real, self.known, *(files for trainings in self.made.values() for files in trainings)]
        total = sum(len(paths) for files in clips for paths in files.values())
        with tqdm(
            total=total, unit="clip", desc=f"embedding ({embedding.name})", disable=None if progress else True
        ) as bar:

            def embed(files: Files) -> dict[str, ClipEmbeddings]:
                out = {}
                for cls, paths in files.items():
                    out[cls] = embed_clips(paths, embedding, 16_000, self.seconds)
                    bar.update(len(paths))
                return out

            real = embed(self.real)
            self._check_sound(real)
            known = embed(self.known) if self.known else None
            made = {name: [embed(files) for files in trainings] for name, trainings in self.made.items()}
        self.warnings += same_sounds((self.made, made), (self.real, real), (self.known, known or {}))
        scores: dict[str, list[Scores]] = {name: [] for name in made}
        rows: dict[str, list[pd.DataFrame]] = {name: [] for name in made}
        for name, trainings in made.items():
            for files, ours in zip(self.made[name], trainings, strict=True):
                similar = self._similarity(system, files) if system is not None else None
                try:
                    told = score(
                        {self.written[cls]: clips for cls, clips in ours.items()},
                        self.stats or real,
                        embedding,
                        training=known,
                        similarity=similar,
                        n_boot=self.n_boot,
                        seed=self.seed,
                        seconds=self.seconds,
                        neighbours=self.neighbours,
                    )
                except InputError as error:
                    raise InputError(f"{name}: {error}") from None
                scores[name].append(told)
                if real:
                    rows[name].append(self._rows(told, ours, real, files))
        self.rows = rows
        self.warnings += silence(scores)
        settings = {
            "systems": {name: [plain(f) for f in folders] for name, folders in self.folders.items()},
            "reference": plain(self.reference),
            "training": plain(self.training) if self.training else None,
            "neighbours": self.neighbours,
            "fad": next(iter(scores.values()))[0].fad.settings,
        }
        self.comparison = Comparison(scores, settings)
        return self.comparison

    def _check_sound(self, real: Mapping[str, ClipEmbeddings]) -> None:
        """Refuse silence alone as real clips of a class; `score` refuses it too, but of a system."""
        for cls, clips in real.items():
            check_sound(clips, f"{self.reference}: {cls}")

    def _similarity(self, system: Any, files: Files) -> dict[str, np.ndarray]:
        """Cosine of every clip's E_audio and its class's text, of classes that have the paper's prompt."""
        from latentclap.audio import read_wave, resample

        out = {}
        for cls, paths in files.items():
            if cls not in SEVEN:
                continue
            values = []
            for path in paths:
                wave, sr = read_wave(path)
                heard = resample(wave[0][: round(self.seconds * sr)], sr, system.sampling_rate)
                values.append(system.similarity(heard[None], [prompt(cls)]))
            out[cls] = np.concatenate(values).astype(np.float64)
        return out

    def _rows(
        self, told: Scores, ours: dict[str, ClipEmbeddings], real: dict[str, ClipEmbeddings], files: Files
    ) -> pd.DataFrame:
        parts = []
        for cls, paths in files.items():
            part = clip_rows(
                ours[cls],
                real[cls],
                [plain(p.name) for p in paths],
                [plain(p.name) for p in self.real[cls]],
                neighbours=self.neighbours,
                kernel=told.kernel[cls],
                copying=told.copying.get(cls),
                training_names=[plain(p.name) for p in self.known.get(cls, ())],
                similarity=told.similarity.get(cls),
            )
            part.insert(0, "class", cls)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def save(self, out: Path, *, progress: bool = True) -> Path:
        """Write page, tables and record into a folder; return the page.

        The page is made beside its place, where it may fail, and goes again if it does. Then the old record goes
        first and the new one comes last: where one is, everything beside it is of the same comparison.
        """
        made = check_place(out / RECORD)  # folders that are not there yet
        part = out / PART
        try:
            shutil.rmtree(part, ignore_errors=True)
            self._page(part, progress)
            (out / RECORD).unlink(missing_ok=True)
            if (out / PAGE).is_symlink():
                (out / PAGE).unlink()
            shutil.rmtree(out / PAGE, ignore_errors=True)
            part.rename(out / PAGE)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        self._tables(out)
        write_json(out / RECORD, typed_as() | self.comparison.to_dict() | origin())
        return out / PAGE / "index.html"

    def _page(self, part: Path, progress: bool) -> None:
        heard = {
            name: Heard(trainings[0], self.rows[name][0] if self.rows[name] else pd.DataFrame())
            for name, trainings in self.made.items()
        }
        comparison_page(
            part,
            self.comparison,
            heard,
            self.real,
            training=self.known,
            items=self.items,
            lines=[*self.comparison.names(), *self.warnings],
            progress=progress,
        )

    def _tables(self, out: Path) -> None:
        write_text(out / CLASSES, self.comparison.table().to_csv(index=False))
        parts = []
        for name, trainings in self.rows.items():
            for i, rows in enumerate(trainings, 1):
                rows = rows.drop(columns=[c for c in ("index", "training_index") if c in rows])
                rows.insert(0, "training", i)
                rows.insert(0, "system", name)
                parts.append(rows)
        if parts:
            write_text(out / CLIPS, pd.concat(parts, ignore_index=True).to_csv(index=False))
        else:
            (out / CLIPS).unlink(missing_ok=True)  # of an earlier comparison with clips
