"""The seven-class data set: a validated folder, split by recording (section IV-A).

``load_dataset(folder)`` validates first (``latentclap.scan``), takes the folder's own dev and eval where it
has both, and else splits each class so that no recording is on both sides.
"""

from __future__ import annotations

from latentclap.data.dataset import FoleyDataset, Split
from latentclap.data.loading import load_dataset, open_dataset
from latentclap.data.reading import clip_statistics, read_clip
from latentclap.scan import Clip, DataReport, Problem, scan

__all__ = [
    "Clip",
    "DataReport",
    "FoleyDataset",
    "Problem",
    "Split",
    "clip_statistics",
    "load_dataset",
    "open_dataset",
    "read_clip",
    "scan",
]
