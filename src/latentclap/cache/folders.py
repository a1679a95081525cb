"""Captions from the names of folders: a sound in ``Door_Slam/`` is "a sound of door slam"."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from latentclap.cache.items import Item, sound_item
from latentclap.classes import canonical_class, label, prompt, sentence
from latentclap.errors import InputError
from latentclap.scan.layout import SPLITS

#: --side -> the sides it stands for
SIDES = {"dev": ("dev",), "eval": ("eval",), "all": ("dev", "eval")}
#: folders that sort sounds, and say nothing of what is heard
SAYING_NOTHING = {
    *SPLITS,
    *("train", "training", "test", "testing", "valid", "validation", "val"),
    *("audio", "sound", "sounds", "wav", "wavs", "flac", "mp3", "ogg", "data", "clips", "samples"),
}


def wanted(side: str) -> tuple[str, ...]:
    """The sides that ``--side`` stands for.

    Raises:
        InputError: it is none of them.
    """
    if side not in SIDES:
        raise InputError(f"side {side!r}: it is dev, eval or all")
    return SIDES[side]


def caption_for(place: Path) -> str:
    """The caption of a sound by the folders above it: the innermost whose name says what is heard; "" for none.

    Passed over are names without a letter ("01", "2024-05-01") and those of ``SAYING_NOTHING`` ("wav", "train").
    One of the seven classes has the paper's prompt.

    Args:
        place: the sound's path below the data folder.
    """
    for name in reversed(place.parts[:-1]):
        try:
            return prompt(canonical_class(name))
        except ValueError:
            words = label(name)
        if name.lower() not in SAYING_NOTHING and any(c.isalpha() for c in words):
            return sentence(words)
    return ""


def side_of(place: Path) -> str:
    """The side on which a sound lies, by the first folder (dev/, eval/); dev where that says none."""
    return SPLITS.get(place.parts[0].lower(), "dev") if len(place.parts) > 1 else "dev"


def first(place: Path) -> str:
    """The folder that is a class in DCASE's layout: the first one, or the first of a side; "" for none."""
    parts = place.parts[:-1]
    return next(iter(parts[1:] if parts and parts[0].lower() in SPLITS else parts), "")


def in_class(place: Path) -> bool:
    """Whether a sound lies where DCASE's layout has it: in a class folder, of the folder or of one of its sides."""
    try:
        return bool(canonical_class(first(place)))
    except ValueError:
        return False


def items_by_folder(paths: Iterable[Path], folder: Path) -> list[Item]:
    """Sounds as clips, captioned by the folder they lie in."""
    return [sound_item(path, folder, caption_for(path.relative_to(folder))) for path in paths]
