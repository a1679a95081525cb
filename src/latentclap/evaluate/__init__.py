"""Evaluate generated clips: FAD per class with intervals (Table I), CLAP similarity scores (section V-A).

Clips come as arrays, as files, as a folder with one for each class, or as embeddings made before. The reference is
the same, or statistics (`fad.GaussianStats`, or an npz of them) such as the challenge organisers'. Silent clips are
measured like any other and counted: whoever leaves out what a system failed at flatters it.
"""

from __future__ import annotations

from latentclap.evaluate.change import Change, compare_averages, with_holm
from latentclap.evaluate.clips import Clips, embed_clips, prepare_clip
from latentclap.evaluate.folders import clips_in_folder
from latentclap.evaluate.result import EvalResult
from latentclap.evaluate.similarity import SimilarityResult, clap_similarity
from latentclap.evaluate.table import Side, evaluate

__all__ = [
    "Change",
    "Clips",
    "EvalResult",
    "Side",
    "SimilarityResult",
    "clap_similarity",
    "clips_in_folder",
    "compare_averages",
    "embed_clips",
    "evaluate",
    "prepare_clip",
    "with_holm",
]
