"""Waveform to log-mel and back: the front end of section IV-A, and sound files.

The model's world is 16 kHz mono. A clip of 4 s is resampled, brought to zero mean and peak 0.5, repeated to
10.24 s (163,840 samples) and turned into a log-mel of 1024 frames by 64 bins.
"""

from __future__ import annotations

from latentclap.audio.features import clap_features
from latentclap.audio.files import FORMATS, decode, read_wave, write_wave
from latentclap.audio.mel import MelConfig, Variant, griffin_lim, log_mel, mel_to_magnitude
from latentclap.audio.polish import polish
from latentclap.audio.waves import (
    MODEL_RATE,
    PAPER_SAMPLES,
    Wave,
    loudness,
    normalise_loudness,
    repeat_to,
    resample,
    to_model_rate,
)

__all__ = [
    "FORMATS",
    "MODEL_RATE",
    "PAPER_SAMPLES",
    "MelConfig",
    "Variant",
    "Wave",
    "clap_features",
    "decode",
    "griffin_lim",
    "log_mel",
    "loudness",
    "mel_to_magnitude",
    "normalise_loudness",
    "polish",
    "read_wave",
    "repeat_to",
    "resample",
    "to_model_rate",
    "write_wave",
]
