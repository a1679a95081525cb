"""Getting data and checkpoints: resumable, checksummed, unpacked safely, with licences said first.

``data_scripts/get.py`` is the command line. What is got, from where: ``sources.toml``. Bytes travel by pooch,
the hub's listings and checksums by huggingface_hub; the rules around them are in this package.
"""

from __future__ import annotations

from latentclap.getting.errors import Stopped
from latentclap.getting.plan import Options, Plan
from latentclap.getting.recipes import RECIPES, get
from latentclap.getting.sources import SOURCES, Source

__all__ = ["RECIPES", "SOURCES", "Options", "Plan", "Source", "Stopped", "get"]
