"""The seven sound classes of DCASE 2023 Task 7, under every name they go by, and the names of any other class."""

from __future__ import annotations

import re
import unicodedata

from latentclap.errors import InputError

#: Folder names of the published evaluation data, in Table I's order.
CLASSES: tuple[str, ...] = (
    "dog_bark",
    "footstep",
    "gunshot",
    "keyboard",
    "moving_motor_vehicle",
    "rain",
    "sneeze_cough",
)

#: Folder names of the challenge's development set as the baseline code expects them.
CAMEL_CASE: dict[str, str] = {
    "dog_bark": "DogBark",
    "footstep": "Footstep",
    "gunshot": "GunShot",
    "keyboard": "Keyboard",
    "moving_motor_vehicle": "MovingMotorVehicle",
    "rain": "Rain",
    "sneeze_cough": "Sneeze_Cough",
}

#: The <label> of the paper's prompt. The paper does not list them; these are the classes as section II-B names them,
#: with "or" for the stroke of its "sneeze/cough", as in speech.
LABELS: dict[str, str] = {
    "dog_bark": "dog bark",
    "footstep": "footstep",
    "gunshot": "gunshot",
    "keyboard": "keyboard",
    "moving_motor_vehicle": "moving motor vehicle",
    "rain": "rain",
    "sneeze_cough": "sneeze or cough",
}

_ALIASES = {
    alias.replace("_", "").replace("-", "").lower(): name
    for name in CLASSES
    for alias in (name, CAMEL_CASE[name], LABELS[name].replace(" ", ""))
}
#: what sorts a folder among others, "001 - ", and where a word begins in the middle of another, "DoorSlam"
_NUMBERED = re.compile(r"^(0\d*[\W_]+|\d+(\. | - ))(?=\w)")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def canonical_class(name: str) -> str:
    """Return the snake_case class for any of its spellings (``DogBark``, ``dog-bark``, ``dog_bark``).

    Raises:
        ValueError: the name is none of the seven classes; the message lists them.
    """
    key = name.replace("_", "").replace("-", "").replace(" ", "").replace("/", "").lower()
    try:
        return _ALIASES[key]
    except KeyError:
        raise ValueError(f"unknown class {name!r}; the classes are {', '.join(CLASSES)}") from None


def sentence(label: str) -> str:
    """Return the paper's sentence around any label, "This is a sound of <label>." (section IV-A)."""
    return f"This is a sound of {label}."


def prompt(name: str) -> str:
    """Return the paper's prompt for a class, "This is a sound of <label>." (section IV-A)."""
    return sentence(LABELS[canonical_class(name)])


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
    text = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in name)
    return unicodedata.normalize("NFC", label(unicodedata.normalize("NFC", text)))


def label(name: str) -> str:
    """A folder's name in words: "Door_Slam", "door-slam", "DoorSlam" and "001 - Door slam" are "door slam"."""
    # bytes of a file's name that are no UTF-8, as `files.plain` writes them
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    words = _HUMP.sub(" ", _NUMBERED.sub("", text))
    return " ".join(re.sub(r"[\s_+-]+", " ", words).lower().split())
