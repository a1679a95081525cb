"""Names of sound classes of any kind: the one in tables and files, and the words that people read."""

from __future__ import annotations

import unicodedata

from latentclap.classes import LABELS, canonical_class
from latentclap.errors import InputError


def class_key(name: str) -> str:
    """The one name of a class, however it is spelt: "Door Slam", "door-slam" and "DoorSlam" are ``door_slam``.

    It has lower-case letters, digits and single ``_`` alone, so that no spreadsheet, page or file system takes it for
    something else. The paper's seven keep their names.

    Args:
        name: of a folder, or as somebody typed it.

    Raises:
        InputError: it has neither a letter nor a digit.
    """
    spelling = name
    for _ in range(2):
        try:
            return canonical_class(spelling)
        except ValueError:
            spelling = class_words(name)
    key = ""
    for sign in spelling:
        # a mark belongs to its letter: a vowel of Hindi, an accent that has no sign of its own
        mark = key[-1:] not in ("", "_") and unicodedata.category(sign).startswith("M")
        if mark or sign.isalnum():
            key += sign
        elif not key.endswith("_"):
            key += "_"
    key = key.strip("_")
    if not key:
        raise InputError(f"class {name!r}: its name needs a letter or a digit")
    return key


def class_words(name: str) -> str:
    """A folder's name as people read it, "door slam" for "Door_Slam": the words with which its sounds are learnt."""
    from latentclap.cache.folders import label  # needs torch

    text = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in name)
    return unicodedata.normalize("NFC", label(unicodedata.normalize("NFC", text)))


def spoken(cls: str) -> str:
    """The words for a class by its :func:`class_key`: "door slam" for ``door_slam``; of the seven, the paper's."""
    return LABELS.get(cls) or cls.replace("_", " ")
