"""What every public command says to bad input, tried: cases, broken things to give them, and what came of it.

``data_scripts/bad_input.py`` runs it; the book's page *Messages for bad input* shows the record.
"""

from __future__ import annotations

from badinput import checkpoints, sounds, texts  # noqa: F401  they register their materials
from badinput.cases import Case, read_cases
from badinput.material import MATERIALS, Shelf
from badinput.trial import Outcome, run_case

__all__ = ["MATERIALS", "Case", "Outcome", "Shelf", "read_cases", "run_case"]
