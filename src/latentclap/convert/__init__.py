"""Checkpoints in the formats of the original code, AudioLDM's .ckpt and LAION-CLAP's .pt, as our standard parts.

Key maps follow the modules' published structure (facts A, E); no code of theirs is needed or used. Every
conversion gives one :class:`LoadReport` per part, and a part that is not whole is an error.
"""

from __future__ import annotations

from latentclap.convert.audioldm import Converted, convert_audioldm
from latentclap.convert.checkpoint import Checkpoint, read_checkpoint
from latentclap.convert.clap import ConvertedClap, convert_clap
from latentclap.convert.report import LoadReport, table

__all__ = [
    "Checkpoint",
    "Converted",
    "ConvertedClap",
    "LoadReport",
    "convert_audioldm",
    "convert_clap",
    "read_checkpoint",
    "table",
]
