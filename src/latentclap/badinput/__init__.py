"""What every public command says to bad input, tried: cases, broken things to give them, and what came of it.

``data_scripts/bad_input.py`` runs it; the book's page *What it says to bad input* shows the record.
"""

from __future__ import annotations

from latentclap.badinput import checkpoints, sounds, texts  # noqa: F401  they register their materials
from latentclap.badinput.cases import Case, read_cases
from latentclap.badinput.material import MATERIALS, Shelf
from latentclap.badinput.trial import Outcome, run_case

__all__ = ["MATERIALS", "Case", "Outcome", "Shelf", "read_cases", "run_case"]
