"""The registry of sound families, and :func:`synthesize`, which turns (class, seed) into one clip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentclap.classes import CLASSES, canonical_class
from latentclap.errors import InputError
from latentclap.foley import dsp
from latentclap.foley.place import Banded, record

#: How the two splits enter the seeds; they also draw some parameters from different bands (``Banded``).
SPLITS = ("dev", "eval")
#: least and largest length in seconds, and sampling rate in Hz
SECONDS, RATES = (0.25, 60.0), (8000, 96000)


@dataclass(frozen=True)
class Source:
    """What a family hands to the recording chain: the dry sound and the words for it.

    Attributes:
        wave: (samples,) float64, any level.
        phrase: caption so far, for example "a large dog barking three times".
        params: what was drawn, for the reader and for tests.
    """

    wave: np.ndarray
    phrase: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A way of making one class of sound, and how it is usually recorded."""

    name: str
    make: Callable[[np.random.Generator, int, int], Source]
    places: dict[str, float]
    backgrounds: dict[str, float]
    loop: float = 0.0  #: probability that a shorter take is repeated to length, as DCASE's short files were
    loop_seconds: tuple[float, float] = (0.5, 2.2)
    snr: tuple[float, float] = (8.0, 60.0)
    quiet: float = 0.3  #: probability of digital silence behind the sound
    low_cut: tuple[float, float] = (20.0, 160.0)


@dataclass(frozen=True)
class Foley:
    """One procedural clip: ``wave`` (samples,) float32 within +-1, its caption, and all that was drawn."""

    wave: np.ndarray
    caption: str
    params: dict[str, Any] = field(repr=False)
    cls: str
    seed: int


#: Every registered family by name: the seven classes, and further ones for pretraining.
FAMILIES: dict[str, Family] = {}

OUTDOORS = {"outdoors": 3.0, "street": 1.5, "forest": 1.0, "yard": 1.5}
INDOORS = {"studio": 1.5, "small room": 3.0, "room": 2.0, "tiled room": 1.0, "hall": 1.0, "garage": 0.7}
ANYWHERE = {**OUTDOORS, **INDOORS}
BEDS = {"hiss": 2.0, "room tone": 2.0, "hum": 1.0, "traffic": 1.0, "wind": 1.0, "birds": 0.6, "fan": 0.6}


def family(
    name: str,
    *,
    places: dict[str, float] | None = None,
    backgrounds: dict[str, float] | None = None,
    **options: Any,
) -> Callable[
    [Callable[[np.random.Generator, int, int], Source]], Callable[[np.random.Generator, int, int], Source]
]:
    """Register ``make(rng, samples, sr) -> Source`` as a family that :func:`synthesize` knows.

    Args:
        name: class name in snake_case.
        places: weights over the names of ``place.PLACES``.
        backgrounds: weights over the names of ``place.BEDS``.
        options: the remaining fields of :class:`Family`.
    """

    def register(make: Callable[[np.random.Generator, int, int], Source]) -> Callable:
        FAMILIES[name] = Family(name, make, places or ANYWHERE, backgrounds or BEDS, **options)
        return make

    return register


def clip_seed(seed: int, cls: str, split: str, index: int) -> int:
    """Return the 63-bit seed of one clip of a data set. It depends on nothing but its four arguments."""
    digest = hashlib.sha256(cls.encode()).digest()
    entropy = [seed, int.from_bytes(digest[:4], "little"), SPLITS.index(split), index]
    high, low = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


def synthesize(cls: str, seed: int, *, seconds: float = 4.0, sr: int = 22050, split: str = "dev") -> Foley:
    """Make one procedural clip; the same arguments give the same 16-bit samples on any machine.

    Args:
        cls: one of the seven classes under any of its spellings, or any other name in ``FAMILIES``.
        seed: non-negative integer.
        seconds: length of the clip, 0.25 to 60.
        sr: sampling rate in Hz, 8000 to 96000.
        split: "dev" or "eval": the two never share a value of the banded parameters (room, noise, equaliser).

    Raises:
        InputError: unknown class, negative seed, or a length, rate or split out of range.
    """
    spec = find_family(cls)
    check_number("seed", seed, 0, 2**64 - 1, whole=True)
    check_number("seconds", seconds, *SECONDS)
    check_number("sr", sr, *RATES, whole=True)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    rng = np.random.default_rng(np.random.SeedSequence([int(seed), SPLITS.index(split)]))
    n = dsp.samples(seconds, sr)
    looped = dsp.chance(rng, spec.loop) and seconds > spec.loop_seconds[1]
    take = dsp.samples(dsp.uniform(rng, *spec.loop_seconds), sr) if looped else n
    source = spec.make(rng, take, sr)
    wave, words, params = record(rng, source.wave, n, sr, spec, Banded(split))
    caption = " ".join([source.phrase, *words]) + (", repeated" if looped else "")
    return Foley(wave, caption, {**source.params, **params, "looped": looped}, spec.name, int(seed))


def find_family(cls: str) -> Family:
    """Return the family of a class under any of its spellings; :class:`InputError` lists what there is."""
    try:
        return FAMILIES[cls]
    except (KeyError, TypeError):
        pass
    try:
        return FAMILIES[canonical_class(str(cls))]
    except ValueError:
        more = sorted(set(FAMILIES) - set(CLASSES))
        known = ", ".join(CLASSES) + (f"; further families: {', '.join(more)}" if more else "")
        raise InputError(f"unknown class {cls!r}; the classes are {known}") from None


def check_number(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    """Raise :class:`InputError` unless ``value`` is a (whole) number within bounds."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{name} must be {kind} between {low} and {high}, got {value!r}")


def families(names: Sequence[str] | None = None) -> list[str]:
    """Return canonical family names, by default the seven classes in Table I's order."""
    return list(CLASSES) if names is None else [find_family(name).name for name in names]
