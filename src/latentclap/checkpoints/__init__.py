"""Checkpoints on disk: where they lie, and whether their files are whole, told without torch."""

from latentclap.checkpoints.files import (
    BUFFERS,
    COMPUTED,
    check_files,
    header,
    is_computed,
    json_or_nothing,
    weight_files,
)
from latentclap.checkpoints.places import latent_clap_folder, resolve, shipped
from latentclap.checkpoints.settings import (
    INDEX,
    SAMPLERS,
    SETTINGS,
    Sampling,
    clip_frames,
    own_sampling,
    polish_iterations,
)
from latentclap.checkpoints.systems import SYSTEM_PARTS, WEIGHTED, check_schedule, check_system

__all__ = [
    "BUFFERS",
    "COMPUTED",
    "INDEX",
    "SAMPLERS",
    "SETTINGS",
    "SYSTEM_PARTS",
    "WEIGHTED",
    "Sampling",
    "check_files",
    "check_schedule",
    "check_system",
    "clip_frames",
    "header",
    "is_computed",
    "json_or_nothing",
    "latent_clap_folder",
    "own_sampling",
    "polish_iterations",
    "resolve",
    "shipped",
    "weight_files",
]
