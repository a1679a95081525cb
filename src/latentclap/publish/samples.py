"""Clips that come with a system, so that it can be heard before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: the folder of the clips, and texts of which some are made, at most
SAMPLES, SAMPLED = "samples", 8


def make_samples(
    system: FoleySystem, texts: list[str], count: int, folder: Path, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Make the first clips of each text by seed 0, as ``latentclap generate`` does.

    Returns:
        text -> its files, named below the folder.
    """
    import numpy as np

    from latentclap.audio import write_wave
    from latentclap.generation import within_full_scale

    named = {prompt(cls): cls for cls in CLASSES}
    made: dict[str, list[str]] = {}
    for number, text in enumerate(texts):
        say(f"samples of {text!r}")
        waves = system.generate(prompts=[text], n=count, seed=0)
        if not np.isfinite(waves).all():
            raise InputError(f"{text!r}: the system generated NaN; its weights are damaged")
        stem = named.get(text, f"text{number:02d}")
        made[text] = [f"{SAMPLES}/{stem}_{i:03d}.flac" for i in range(count)]
        for file, wave in zip(made[text], waves, strict=True):
            (folder / SAMPLES).mkdir(exist_ok=True)
            write_wave(folder / file, within_full_scale(wave), system.sampling_rate)
    return made


def sampled_texts(record: dict[str, Any]) -> list[str]:
    """The texts of which samples are made: the most frequent it was trained with, or those of the seven classes."""
    texts = list(record.get("data", {}).get("texts", {})) or [prompt(cls) for cls in CLASSES]
    return texts[:SAMPLED]
