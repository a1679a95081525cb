"""The clips of a survey: found in the folder of every system, class by class, and drawn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentclap.asked import heard
from latentclap.classes import CLASSES, LABELS, class_key, class_words
from latentclap.errors import InputError
from latentclap.evaluate.folders import OWN, by_class, in_order, own_folders, side_of
from latentclap.files import plain, read_json
from latentclap.generation import RECORD
from latentclap.naming import spoken
from latentclap.scan import DataReport, Problem, examine, scan
from latentclap.scan.layout import Found, find, packed, sounds_below, visible
from latentclap.wording import plural


@dataclasses.dataclass(frozen=True)
class Choice:
    """The clips that are asked about.

    Attributes:
        files: {class: {model: files}}, classes by their `class_key`.
        labels: {class: words that raters read}.
        left_out: {class: models without it}: classes that some systems have and others lack.
    """

    files: dict[str, dict[str, list[Path]]]
    labels: dict[str, str]
    left_out: dict[str, list[str]]


def choose(models: Mapping[str, str | Path], items: int, classes: Sequence[str], seed: int) -> Choice:
    """Draw ``items`` clips of each system and class, where there are more.

    Args:
        models: {name: folder}.
        items: clips of each system and class.
        classes: names in any spelling, "all" for every one that a folder has; empty: those that every folder has.
        seed: of the draw.

    Raises:
        InputError: a folder without clips or with bad ones, two names of one class, an unknown class, or too few
            clips.
    """
    for name, folder in models.items():
        if not Path(folder).is_dir():
            raise InputError(f"{name}: {folder}: no such folder of clips, <class>/*.wav")
    found, labels = _by_class({name: Path(folder) for name, folder in models.items()})
    every = in_order(dict.fromkeys(cls for by in found.values() for cls in by))
    lacking = {cls: [name for name, by in found.items() if cls not in by] for cls in every}
    wanted = _asked(classes, every) if classes else [cls for cls in every if not lacking[cls]]
    if not wanted:
        told = "; ".join(f"{models[name]} has {_few(in_order(by))}" for name, by in found.items())
        raise InputError(f"no class has clips in every folder: {told}")
    draw = np.random.default_rng([seed, 0])
    chosen: dict[str, dict[str, list[Path]]] = {}
    for cls in wanted:
        for name, by in found.items():
            paths = sorted(by.get(cls, []))
            _enough(name, models[name], cls, len(paths), items)
            kept = sorted(draw.choice(len(paths), items, replace=False))
            chosen.setdefault(cls, {})[name] = [paths[i] for i in kept]
    left_out = {} if classes else {cls: names for cls, names in lacking.items() if names}
    return Choice(chosen, {cls: labels.get(cls) or spoken(cls) for cls in wanted}, left_out)


def _enough(name: str, folder: str | Path, cls: str, number: int, items: int) -> None:
    if number < items:
        fewer = f", or ask for fewer (--items {number})" if number else ""
        clips = plural(number, "clip") if number else "no clips"
        asked = f"{items} {'is' if items == 1 else 'are'} asked for"
        raise InputError(f"{name}: {folder} has {clips} of {cls}, and {asked}; generate more{fewer}")


def _asked(names: Sequence[str], every: Sequence[str]) -> list[str]:
    """Classes by their names in any spelling; between some, a space may stand for a comma."""
    keys: list[str] = []
    for name in names:
        parts = [name] if _key(name) in every or name.strip() == "all" else name.split()
        if not all(_key(part) in (*every, *CLASSES) for part in parts):
            parts = [name]
        for part in parts:
            keys += every if part.strip() == "all" else [_known(part, every)]
    return list(dict.fromkeys(keys))


def _key(name: str) -> str:
    """`class_key`, or "" for a name that has none."""
    try:
        return class_key(name)
    except InputError:
        return ""


def _known(name: str, every: Sequence[str]) -> str:
    key = class_key(name)
    if key not in every and key not in CLASSES:  # of the seven, it is said which folder has none
        raise InputError(f"unknown class {name.strip()!r}; the folders have {_few(every)}")
    return key


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:7]) + (f" and {len(names) - 7} more" if len(names) > 7 else "")


def _by_class(
    models: Mapping[str, Path],
) -> tuple[dict[str, dict[str, list[Path]]], dict[str, str]]:
    """{model: {class: files}} under one name for each class, and the words for classes of one's own.

    Folders of one class are found as `latentclap evaluate` finds them: ``Door Slam`` is ``door_slam``.
    """
    found = {name: _folders(folder) for name, folder in models.items()}
    texts = {name: _texts(folder) for name, folder in models.items()}
    first = list(next(iter(found.values())))
    by: dict[str, dict[str, list[Path]]] = {}
    labels: dict[str, str] = {}
    for name, own in found.items():
        by[name] = by_class(own, models[name], like=first)
        for written, key in zip(own, by[name], strict=True):
            words = texts[name].get(written) or class_words(written)
            # what the key leaves out, "l'eau" or the end of a long text; not what a folder's name leaves out
            if key not in LABELS and class_key(written) == key and words.casefold() != spoken(key):
                labels.setdefault(key, words)
    return by, labels


def _texts(folder: Path) -> dict[str, str]:
    """What the clips of each class were asked to be, where `latentclap generate` made them: {folder: words}."""
    try:
        clips = read_json(folder / RECORD)["clips"]
        asked = {clip["class"]: heard(clip["prompt"]) for clip in clips}
        return {cls: " ".join(text.split()).rstrip(".") for cls, text in asked.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # other clips, or another program's record: the folder's name says it


def _folders(folder: Path) -> dict[str, list[Path]]:
    """Sound files of a folder by the names of its class folders, of its evaluation side where it has both.

    Recordings may be there twice, as in the organisers' set; a silent clip is what a system made, and raters hear it.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    _, problems, seen = find(folder)
    if locked := next((p for p in problems if p.path == folder and p.kind == "unreadable"), None):
        raise InputError(f"{folder}: {locked.detail}")
    others = [problem for problem in problems if problem.kind != OWN]
    clips = []
    if seen:
        report = scan(folder, keep_silent=True)
        clips, others = list(report.clips), [p for p in report.problems if p.kind != OWN]
    own = [found for place in own_folders(problems) for found in _own(place, folder)]
    looked_at = examine(own, min_seconds=0.0, keep_silent=True, desc=f"reading {folder.name}")
    clips += [clip for clip in looked_at if not isinstance(clip, Problem)]
    others += [problem for problem in looked_at if isinstance(problem, Problem)]
    ignored = ("missing class", "stray file", "bad meta", "duplicate")
    DataReport(folder, tuple(clips), tuple(others)).raise_if_bad(ignore=ignored)
    if not clips:
        raise InputError(f"{folder}: {_nothing(folder, others)}")
    both = {clip.split for clip in clips} >= {"dev", "eval"}
    by: dict[str, list[Path]] = {}
    for clip in clips:
        if not both or clip.split == "eval":
            by.setdefault(clip.cls, []).append(Path(clip.path))
    return by


def _own(place: Path, folder: Path) -> list[Found]:
    """The sounds of a class folder of one's own.

    Raises:
        InputError: its name is no text, or has nothing that can be read.
    """
    try:
        place.name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{plain(place)}: the folder's name is no text in UTF-8; rename it, for raters read it"
        ) from None
    try:
        class_key(place.name)
    except InputError as error:
        raise InputError(f"{folder}: {error}; rename the folder, for raters read it") from None
    return [Found(path, place.name, side_of(place, folder)) for path in sounds_below(place, [])]


def _nothing(folder: Path, problems: Sequence[Problem]) -> str:
    """Words for a folder without clips of any class."""
    example = f"such as {folder}/door_slam/*.wav"
    if any(problem.kind == "stray file" for problem in problems):
        return (
            "sounds lie in no folder of a class, and raters are asked how well a clip fits its class: put them into"
            f" folders named by what is heard, {example}"
        )
    if archives := packed(visible(folder)):
        return f"found {archives}: unpack them there"
    return f"no clips; expected a folder for each class, {example}"
