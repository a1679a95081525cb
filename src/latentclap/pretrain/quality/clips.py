"""Held-out clips: recordings, and procedural clips of seeds that no corpus uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentclap.audio import repeat_to, to_model_rate
from latentclap.classes import CLASSES
from latentclap.foley import synthesize
from latentclap.pretrain.corpus import Recording, recorded_wave

#: seeds of held-out procedural clips: far from the corpus' and from those of any data set
HELD_OUT_SEED = 3_000_000_019


@dataclass(frozen=True)
class HeldOut:
    """Held-out clips of the seven classes: waves (n, samples) float32 at 16 kHz, class numbers (n,), captions."""

    waves: np.ndarray
    labels: np.ndarray
    captions: list[str]


def real_clips(recordings: Sequence[Recording], samples: int) -> HeldOut:
    """Recordings as the model hears them."""
    waves = np.stack([recorded_wave(r, samples) for r in recordings]).astype(np.float32) / 32767
    labels = np.array([CLASSES.index(r.cls) for r in recordings])
    return HeldOut(waves, labels, [r.caption for r in recordings])


def procedural_clips(per_class: int, samples: int) -> HeldOut:
    """Procedural clips of the eval side, from seeds that no corpus uses."""
    made = [
        (synthesize(cls, HELD_OUT_SEED + i, split="eval"), k)
        for k, cls in enumerate(CLASSES)
        for i in range(per_class)
    ]
    waves = np.stack([repeat_to(to_model_rate(clip.wave, 22050), samples) for clip, _ in made])
    return HeldOut(
        waves.astype(np.float32), np.array([k for _, k in made]), [clip.caption for clip, _ in made]
    )
