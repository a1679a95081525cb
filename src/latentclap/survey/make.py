"""Surveys from folders of clips: a page per class, sound files with names that tell nothing, and the key."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from latentclap import papers
from latentclap.errors import InputError
from latentclap.files import check_place, listed, plain, replaceable, write_json, write_text
from latentclap.locks import alone
from latentclap.survey.clips import choose
from latentclap.survey.names import Named, named
from latentclap.survey.pages import write_index, write_page
from latentclap.survey.sounds import read_clip, write_class
from latentclap.tables import csv_text
from latentclap.typed import typed_as

#: What is in the folder of a survey: what is published, what is not, and how it was made.
PAGES, KEY, RECORD = "pages", "key.csv", "survey.json"
#: Where pages are until all of them are there.
PART = ".pages"


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
        silent: {model: {class: how many of its clips are silent}}, where any are.
    """

    folder: Path
    pages: dict[str, Path]
    clips: int
    levels: dict[str, float]
    rates: dict[str, list[int]]
    labels: dict[str, str]
    left_out: dict[str, list[str]]
    silent: dict[str, dict[str, int]]


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
        choice = choose(models, items, classes, seed)
        clips = named(choice.files, seed)
        key = csv_text(
            [("clip", "class", "model", "item", "file"), *((*clip[:4], plain(clip[4])) for clip in clips)]
        )
        _check_key(out, key, overwrite)
        part = out / PART  # pages that are not all there are nobody's to publish
        levels, rates, silent = _write_sounds(part, clips, seconds, sampling_rate, progress)
        pages = {}
        for cls, label in choice.labels.items():
            names = sorted(name for name, of, *_ in clips if of == cls)
            told = any(cls in by for by in silent.values())
            pages[cls] = write_page(part, cls, label, names, intro, thanks, send_to, told)
        write_index(part, pages, choice.labels)
        # the record first, by which the folder is known as ours, and the key before the pages: whoever is stopped
        # between them says the same command again
        write_json(
            out / RECORD,
            typed_as()
            | {
                "models": {name: plain(folder) for name, folder in models.items()},
                "items": items,
                "seed": seed,
                "seconds": seconds,
                "sampling_rates": rates,
                "lufs": levels,
                "classes": choice.labels,
                "silent": silent,
            },
        )
        write_text(out / KEY, key)
        shutil.rmtree(out / PAGES, ignore_errors=True)
        part.rename(out / PAGES)
    pages = {cls: out / PAGES / path.name for cls, path in pages.items()}
    return Survey(out, pages, len(clips), levels, rates, choice.labels, choice.left_out, silent)


def _check_key(out: Path, key: str, overwrite: bool) -> None:
    """Refuse to replace a survey of other clips, to which there may be answers."""
    begun = (out / KEY).is_file() or (out / PAGES).is_dir()  # pages or key may have been moved to their place
    if begun and not overwrite and _text(out / KEY) != key:
        raise InputError(
            f"{out} holds a survey of other clips: choose another folder, or say --overwrite (in notebook 04: force);"
            " answers to the old one then have no key any more"
        )


def _write_sounds(
    part: Path, clips: Sequence[Named], seconds: float, sampling_rate: int, progress: bool
) -> tuple[dict[str, float], dict[str, list[int]], dict[str, dict[str, int]]]:
    """Write the sound files, class by class; return `Survey`'s levels, rates and silent."""
    from latentclap.evaluate.clips import is_silent

    levels: dict[str, float] = {}
    silent: dict[str, dict[str, int]] = {}
    rates: dict[str, set[int]] = {model: set() for _, _, model, _, _ in clips}
    with tqdm(total=len(clips), desc="clips", unit="clip", disable=None if progress else True) as bar:
        for cls in dict.fromkeys(cls for _, cls, *_ in clips):
            waves = {}
            for name, _, model, _, path in (clip for clip in clips if clip[1] == cls):
                waves[name] = read_clip(path, seconds, sampling_rate)
                rates[model].add(waves[name][1])
                if is_silent(waves[name][0]):
                    by = silent.setdefault(model, {})
                    by[cls] = by.get(cls, 0) + 1
                bar.update()
            levels[cls] = write_class(waves, part / "clips")
    return levels, {model: sorted(found) for model, found in rates.items()}, silent


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
    """A file's text; what is no UTF-8, as a spreadsheet may have saved it, is not the text that was written."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
