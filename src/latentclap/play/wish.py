"""What the page asks for: JSON in, checked before any work, a :class:`Wish` or one clear line out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from latentclap.asked import named_texts
from latentclap.checkpoints import SAMPLERS, Sampling
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.finish import Finish
from latentclap.formats import check_format
from latentclap.vary.sounds import STRENGTH

#: Clips of one press of the button, and the largest seed of one: scripts of a page know whole numbers up to 2**53.
MOST, LARGEST_SEED = 100, 2**53 - 1
#: Letters of a text; the encoder reads far fewer.
LONGEST = 500
#: Field of a request -> its name on the page.
LABELS = {
    "class": "Class",
    "prompt": "Words",
    "sound": "Sound",
    "strength": "Strength",
    "n": "Clips",
    "seed": "Seed",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "sampler": "Sampler",
    "seconds": "Length",
    "lufs": "Loudness",
    "fade": "Fade",
    "loop": "Loop",
    "sampling_rate": "Sampling rate",
}
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
_FINISH = tuple(field.name for field in fields(Finish))


@dataclass(frozen=True)
class Wish:
    """Clips that are asked for.

    Attributes:
        cls: one of the seven classes; empty for a text of one's own, or a sound.
        name: word for folder and files; empty for a sound, which has its own.
        text: what the clips are conditioned on; empty for a sound that steers its own takes.
        sound: number of the sound on the page that takes are made of; None: clips are made from the text alone.
        strength: how far takes go from the sound.
        n: clips, of the seeds ``seed`` to ``seed + n - 1``.
        seed: of the first one.
        sampling: how they are sampled.
        finish: how they are finished.
    """

    cls: str
    name: str
    text: str
    sound: int | None
    strength: float
    n: int
    seed: int
    sampling: Sampling
    finish: Finish


def read_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        InputError: it is not JSON (NaN and infinities are not), or no object.
    """
    try:
        told = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise InputError("the request is not JSON") from None
    if not isinstance(told, dict):
        raise InputError("the request is no JSON object")
    return told


def read_field(told: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of a request that has to be there, a whole number or true and false.

    Raises:
        InputError: it is of another kind.
    """
    value = told.get(name)
    if type(value) is not kind:
        words = "true or false" if kind is bool else "a whole number"
        raise InputError(f"{name}: give {words}, not {_shown(value)}")
    return value


def _refuse(name: str) -> None:
    raise ValueError(name)


def read_wish(told: Mapping[str, Any], own: Sampling, steps: int, seconds: float) -> Wish:
    """Check what a page asks for; None, or a field that is not there, is the default.

    Args:
        told: the request.
        own: how the model is sampled where nothing is said.
        steps: most that there can be, those of the model's training schedule.
        seconds: length of the model's clips.

    Raises:
        InputError: an unknown field, a value of another kind or out of range, named as on the page.
    """
    if unknown := sorted(map(str, set(told) - set(LABELS))):
        raise InputError(f"unknown field {unknown[0][:40]!r}; there are {', '.join(LABELS)}")
    given = {key: value for key, value in told.items() if value is not None}
    sound = _whole(given, "sound", None, 1, LARGEST_SEED)
    cls, name, text = _what(given, sound)
    n = _whole(given, "n", 1, 1, MOST)
    try:
        finish = Finish(**_finish(given))
        check_format("wav", finish)
        if sound is None:  # a take has its sound's length, which is looked at with the sound
            finish.check(seconds)
    except InputError as error:
        raise InputError(on_the_page(str(error))) from None
    return Wish(
        cls=cls,
        name=name,
        text=text,
        sound=sound,
        strength=_strength(given, sound),
        n=n,
        seed=_whole(given, "seed", 0, 0, LARGEST_SEED + 1 - n),
        sampling=_sampling(given, own, steps),
        finish=finish,
    )


def on_the_page(text: str) -> str:
    """An error's words with fields as the page calls them, instead of the command's options."""

    def label(found: re.Match[str]) -> str:
        return LABELS.get(found[1].replace("-", "_"), found[0])

    return _OPTION.sub(label, text)


def _what(given: Mapping[str, Any], sound: int | None) -> tuple[str, str, str]:
    """Class, name and text."""
    ways = [key for key in ("class", "prompt", "sound") if key in given]
    if len(ways) != 1 and ways != ["prompt", "sound"]:
        raise InputError("ask for a class, for words, or for takes of a sound, one of the three")
    if "class" in given:
        if given["class"] not in CLASSES:
            raise InputError(f"Class: give one of {', '.join(CLASSES)}")
        ((name, text),) = named_texts(given["class"], []).items()
        return name, name, text
    text = given.get("prompt", "")
    if not isinstance(text, str):
        raise InputError(f"Words: give a text, not {_shown(text)}")
    text = " ".join(text.split())
    if len(text) > LONGEST or not text.isprintable():
        raise InputError(f"Words: give at most {LONGEST} letters, without control characters")
    if sound is not None:
        return "", "", text
    try:
        ((name, text),) = named_texts("", [text]).items()
    except InputError:
        raise InputError("Words: say what is to be heard") from None
    return "", name, text


def _sampling(given: Mapping[str, Any], own: Sampling, most: int) -> Sampling:
    sampler = given.get("sampler", own.sampler)
    if sampler not in SAMPLERS:
        raise InputError(f"Sampler: give one of {', '.join(SAMPLERS)}")
    chosen = own.but(
        sampler,
        _whole(given, "steps", None, 1, most),
        _number(given, "guidance_scale", None, 0, 1000),
    )
    # 5 and 5.0 are one guidance; files say it as the model's own index does
    same = chosen.guidance_scale == own.guidance_scale
    return Sampling(chosen.sampler, chosen.steps, own.guidance_scale if same else chosen.guidance_scale)


def _strength(given: Mapping[str, Any], sound: int | None) -> float:
    if sound is None and "strength" in given:
        raise InputError("Strength is of takes of a sound")
    strength = _number(given, "strength", STRENGTH, 0, 1)
    if not strength > 0:
        raise InputError("Strength: give a number above 0 (the sound itself) and up to 1 (another sound)")
    return strength


def _finish(given: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for key in _FINISH:
        if key not in given:
            continue
        if key == "sampling_rate":
            asked[key] = _whole(given, key, None, 1, 10**6)
        else:
            asked[key] = _number(given, key, None, -(10**6), 10**6)
    return asked


def _whole(given: Mapping[str, Any], key: str, default: Any, low: int, high: int) -> Any:
    value = given.get(key, default)
    if value is default:
        return default
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{LABELS[key]}: give a whole number from {low} to {high}, not {_shown(value)}")
    return value


def _number(given: Mapping[str, Any], key: str, default: Any, low: float, high: float) -> Any:
    value = given.get(key, default)
    if value is default:
        return default
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise InputError(f"{LABELS[key]}: give a number from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"
