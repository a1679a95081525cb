"""The baselines' CLAP post-filter (sections II-B, IV-B), bounded and with its cost counted.

For each clip wanted, a few candidates are generated; the one most similar to the class's text in CLAP's
space is kept if its similarity reaches the class's threshold, otherwise candidates are generated again. The
public code does so without a bound: a model that never reaches the threshold never returns. Here the number
of tries is bounded; then the best clip seen is returned and flagged.
"""

from __future__ import annotations

from latentclap.postfilter.presets import PAPER, PRESETS, YUAN, PostFilter, load_preset
from latentclap.postfilter.result import FilterResult
from latentclap.postfilter.tries import Generate, Score, clap_score, filter_generate

__all__ = [
    "PAPER",
    "PRESETS",
    "YUAN",
    "FilterResult",
    "Generate",
    "PostFilter",
    "Score",
    "clap_score",
    "filter_generate",
    "load_preset",
]
