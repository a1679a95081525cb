"""What the book is made of: players, listening grids, figure style, provenance lines, and the tools that
gather executed notebooks and their audio (``python -m latentclap.book --help``).
"""

from __future__ import annotations

from latentclap.book.figures import (
    CLASS_COLOURS,
    SYSTEM_COLOURS,
    SYSTEMS,
    figure_style,
    paper_beside,
    plot_averages,
    provenance_line,
)
from latentclap.book.grid import Listening, listening_grid, player_row, select_examples
from latentclap.book.markdown import counted
from latentclap.book.pages import listening_item, write_listening_items
from latentclap.book.players import AudioFile, save_player, spectrogram_png

__all__ = [
    "CLASS_COLOURS",
    "SYSTEMS",
    "SYSTEM_COLOURS",
    "AudioFile",
    "Listening",
    "counted",
    "figure_style",
    "listening_grid",
    "listening_item",
    "paper_beside",
    "player_row",
    "plot_averages",
    "provenance_line",
    "save_player",
    "select_examples",
    "spectrogram_png",
    "write_listening_items",
]
