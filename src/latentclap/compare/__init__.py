"""Compare systems with one another, against real clips: by FAD, and by what FAD does not tell.

- `kernel_distance`: KAD, without FAD's bias at small n;
- `manifold`: fidelity and diversity, each for itself;
- `data_copying`: whether training clips are given back;
- `clip_rows`: which clips are odd, and which real clip each is nearest to;
- `score` and `Comparison`: all of it for several systems and trainings, with tests of their differences.

``latentclap compare`` is the command; it writes a page that plays the systems side by side (`comparison_page`).
"""

from __future__ import annotations

from latentclap.compare.changes import said, verdict
from latentclap.compare.clips import clip_rows
from latentclap.compare.copying import Copying, data_copying
from latentclap.compare.kernel import KernelDistance, clip_kernel, kernel_distance, median_distance
from latentclap.compare.manifold import Manifold, expected_coverage, manifold
from latentclap.compare.page import Heard, comparison_page
from latentclap.compare.scores import Scores, score
from latentclap.compare.table import Comparison

__all__ = [
    "Comparison",
    "Copying",
    "Heard",
    "KernelDistance",
    "Manifold",
    "Scores",
    "clip_kernel",
    "clip_rows",
    "comparison_page",
    "data_copying",
    "expected_coverage",
    "kernel_distance",
    "manifold",
    "median_distance",
    "said",
    "score",
    "verdict",
]
