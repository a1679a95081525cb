"""The seven sound classes of DCASE 2023 Task 7, under every name they go by."""

from __future__ import annotations

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
