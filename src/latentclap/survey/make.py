"""Surveys from folders of clips: a page per class, sound files with names that tell nothing, and the key."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentclap import papers
from latentclap.errors import InputError
from latentclap.files import check_place, file_sha256, listed, plain, replaceable, write_json, write_text
from latentclap.locks import alone
from latentclap.survey.clips import Choice, choose
from latentclap.survey.pages import write_index, write_page
from latentclap.tables import csv_text
from latentclap.typed import typed_as

#: What is in the folder of a survey: what is published, what is not, and how it was made.
PAGES, KEY, RECORD = "pages", "key.csv", "survey.json"
#: Where pages are until all of them are there.
PART = ".pages"
#: Loudness that all clips of a survey share, in LUFS, as far as the peak of each allows.
LUFS, PEAK = -23.0, 0.9
#: A clip that cannot come within so many LU of it is nearly silent: the others do not follow it down.
FOLLOWED = 20.0
FADE = 10.0  # milliseconds: a clip that is cut in the middle of a sound clicks


@dataclasses.dataclass(frozen=True)
class Survey:
    """What :func:`make_survey` made.

    Attributes:
        folder: where.
        pages: a page for each class.
        clips: number of sound files.
        levels: LUFS of each class.
        rates: {model: sampling rates of its files, in Hz}.
        labels: {class: the words that raters read}.
        left_out: {class: systems without it}: classes that were not asked for and that some systems have.
    """

    folder: Path
    pages: dict[str, Path]
    clips: int
    levels: dict[str, float]
    rates: dict[str, list[int]]
    labels: dict[str, str]
    left_out: dict[str, list[str]]


def make_survey(
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    items: int = papers.LISTENING_DESIGN["items_per_model"],
    classes: Sequence[str] = (),
    seed: int = 0,
    seconds: float = 4.0,
    sampling_rate: int = 0,
    intro: Sequence[str] = (),
    thanks: Sequence[str] = (),
    send_to: str = "",
    overwrite: bool = False,
    progress: bool = True,
) -> Survey:
    """Make blind surveys, one for each class, from folders of clips (``<class>/*.wav``) of several systems.

    Classes may have any names: raters read those of the folders, as words.

    ``out/pages`` is what is published, on any web server or from a disk. ``out/key.csv`` says which system made
    which clip; without it nobody can tell. Clips of a class are brought to one loudness, cut to ``seconds`` of their
    first channel, faded out, followed by silence where others are longer, and written as 16-bit WAV.

    Args:
        models: {name: folder}, two or more; ``latentclap.papers.MODELS`` are the paper's.
        out: a new folder, or one that holds a survey.
        items: clips of each system and class, drawn at random where there are more.
        classes: those asked for, in any spelling; empty: those that every folder has.
        seed: of the draw and of the names.
        seconds: kept from the start of a clip.
        sampling_rate: in Hz, that all clips are brought to; 0: they stay as they are.
        intro: paragraphs before the page's own: who asks, and what becomes of the answers.
        thanks: paragraphs for whoever has rated every clip: a code of completion, say.
        send_to: address for complete ratings, see `survey_form`.
        overwrite: replace a survey of other clips that is there; answers to it then have no key any more.
        progress: show a bar.

    Raises:
        InputError: one system only, a class or clips that are missing, a clip that cannot be read, or a folder with
            other things in it.
    """
    _check(models, items, seconds, sampling_rate)
    out = _place(Path(out))
    for name, folder in models.items():
        if out.resolve().is_relative_to(Path(folder).resolve()):
            raise InputError(f"{out} lies in {folder}, among the clips of {name}: choose another folder")
    with alone(out, "another run makes a survey there"):
        return _made(
            models,
            out,
            items,
            classes,
            seed,
            seconds,
            sampling_rate,
            intro,
            thanks,
            send_to,
            overwrite,
            progress,
        )


def _made(
    models: Mapping[str, str | Path],
    out: Path,
    items: int,
    classes: Sequence[str],
    seed: int,
    seconds: float,
    sampling_rate: int,
    intro: Sequence[str],
    thanks: Sequence[str],
    send_to: str,
    overwrite: bool,
    progress: bool,
) -> Survey:
    """What :func:`make_survey` does in a folder of its own."""
    choice = choose(models, items, classes, seed)
    clips = _named(choice, seed)
    key = csv_text(
        [("clip", "class", "model", "item", "file"), *((*clip[:4], plain(clip[4])) for clip in clips)]
    )
    begun = (out / KEY).is_file() or (out / PAGES).is_dir()  # pages or key may have been moved to their place
    if begun and not overwrite and _text(out / KEY) != key:
        raise InputError(
            f"{out} holds a survey of other clips: choose another folder, or say --overwrite (in notebook 04: force);"
            " answers to the old one then have no key any more"
        )
    part = out / PART  # pages that are not all there are nobody's to publish
    pages, levels = {}, {}
    rates: dict[str, set[int]] = {model: set() for model in models}
    with tqdm(total=len(clips), desc="clips", unit="clip", disable=None if progress else True) as bar:
        for cls, label in choice.labels.items():
            waves = {}
            for name, _, model, _, path in (clip for clip in clips if clip[1] == cls):
                waves[name] = _read(path, seconds, sampling_rate)
                rates[model].add(waves[name][1])
                bar.update()
            levels[cls] = _write(waves, part / "clips")
            pages[cls] = write_page(part, cls, label, sorted(waves), intro, thanks, send_to)
    write_index(part, pages, choice.labels)
    found = {model: sorted(values) for model, values in rates.items()}
    # the record first, by which the folder is known as ours, and the key before the pages: whoever is stopped between
    # them says the same command again
    write_json(
        out / RECORD,
        typed_as()
        | {
            "models": {name: plain(folder) for name, folder in models.items()},
            "items": items,
            "seed": seed,
            "seconds": seconds,
            "sampling_rates": found,
            "lufs": levels,
            "classes": choice.labels,
        },
    )
    write_text(out / KEY, key)
    shutil.rmtree(out / PAGES, ignore_errors=True)
    part.rename(out / PAGES)
    pages = {cls: out / PAGES / path.name for cls, path in pages.items()}
    return Survey(out, pages, len(clips), levels, found, choice.labels, choice.left_out)


def write_clips(
    models: Mapping[str, Mapping[str, np.ndarray]], folder: str | Path, sr: int
) -> dict[str, Path]:
    """Write clips of several systems as folders that `make_survey` takes; return {model: folder}.

    Args:
        models: {name: {class: (clips, samples)}}, float.
        folder: where; each system has a folder of its name in it.
        sr: rate in Hz.
    """
    from latentclap.audio import write_wave
    from latentclap.generation import within_full_scale

    folders = {}
    for model, by_class in models.items():
        folders[model] = Path(folder) / re.sub(r"[^\w+-]+", "_", model)
        for cls, waves in by_class.items():
            for i, wave in enumerate(waves):
                write_wave(folders[model] / cls / f"{cls}_{i:03d}.wav", within_full_scale(wave), sr)
    return folders


def _check(models: Mapping[str, str | Path], items: int, seconds: float, sampling_rate: int) -> None:
    if len(models) < 2:
        raise InputError("a survey compares systems: name two or more folders, NAME=FOLDER for each")
    if items < 1 or not 0 < seconds < float("inf") or sampling_rate < 0:
        raise InputError(
            f"items={items}, seconds={seconds:g}, sampling_rate={sampling_rate}: must be above 0"
            " (sampling_rate 0: as the files are)"
        )


def _place(out: Path) -> Path:
    """The folder, looked at before any work."""
    if (out / RECORD).is_file() or [path.name for path in listed(out)] == [PART]:
        shutil.rmtree(out / PART, ignore_errors=True)  # of a run that was killed
    out = replaceable(out, RECORD, "a survey")
    check_place(out / RECORD)
    return out


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _named(choice: Choice, seed: int) -> list[tuple[str, str, str, str, Path]]:
    """Every clip as (name that tells nothing, class, model, item, file)."""
    clips = [
        (cls, model, str(item), path)
        for cls, by in choice.files.items()
        for model, paths in by.items()
        for item, path in enumerate(paths)
    ]
    names = _names(len(clips), np.random.default_rng([seed, 1, _content(choice.files)]))
    return [(name, *clip) for name, clip in zip(names, clips, strict=True)]


def _content(chosen: Mapping[str, Mapping[str, Sequence[Path]]]) -> int:
    """A number that only who has the files can tell: from a seed alone anybody could draw the names again."""
    told = "".join(file_sha256(path) for by in chosen.values() for paths in by.values() for path in paths)
    return int(hashlib.sha256(told.encode()).hexdigest(), 16)


def _names(n: int, draw: np.random.Generator) -> list[str]:
    """n different names of eight hexadecimal digits."""
    names: dict[str, None] = {}
    while len(names) < n:
        names[f"{draw.integers(2**32):08x}"] = None
    return list(names)


def _read(path: Path, seconds: float, sampling_rate: int) -> tuple[np.ndarray, int]:
    from latentclap.audio import read_wave, resample
    from latentclap.finish import faded

    wave, sr = read_wave(path)
    mono = wave[0][: round(seconds * sr)].astype(np.float32)
    if sampling_rate and sr != sampling_rate:
        mono, sr = resample(mono, sr, sampling_rate), sampling_rate
    return faded(mono[: round(seconds * sr)], sr, end=FADE), sr  # resampling may round up


def _write(waves: Mapping[str, tuple[np.ndarray, int]], folder: Path) -> float:
    """Write the clips of a class at one loudness, which is returned: the loudest, up to -23 LUFS, that all reach.

    Neither a file's length nor its place or time among the others tells whose it is.
    """
    from latentclap.audio import loudness, write_wave

    heard = {name: loudness(wave, sr) for name, (wave, sr) in waves.items()}
    reached = {
        name: min(LUFS, heard[name] + 20 * np.log10(PEAK / max(float(np.abs(wave).max()), 1e-9)))
        for name, (wave, _) in waves.items()
    }
    followed = [value for value in reached.values() if value >= LUFS - FOLLOWED]
    level = min(followed, default=LUFS)
    longest = max(len(wave) / sr for wave, sr in waves.values())
    now = time.time()
    for name, (wave, sr) in sorted(waves.items()):
        # one that is nearly silent is as loud as its peak allows; silence stays silence
        gain = min(level, reached[name]) - heard[name] if np.isfinite(heard[name]) else 0.0
        alike = np.pad(wave * np.float32(10 ** (gain / 20)), (0, round(longest * sr) - len(wave)))
        write_wave(folder / f"{name}.wav", alike, sr)
        os.utime(folder / f"{name}.wav", (now, now))
    return round(float(level), 1)
