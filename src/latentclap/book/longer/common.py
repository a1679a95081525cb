"""What the pages of all notebooks share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.classes import CLASSES
from latentclap.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trained(told: Mapping[str, Any], epochs: int) -> str:
    """With how many clips, epochs and steps each system of a run was trained, as the start of a sentence."""
    tuning = told["settings"]["finetune"]
    clips = told["settings"]["data"]["dev_per_class"] * len(CLASSES)
    steps = max(1, epochs * clips // tuning["batch_size"])  # as finetune counts them
    return (
        f"Profile `{told['profile']}`: {clips:,} development clips, {epochs} epochs, {steps:,} steps of"
        f" {tuning['batch_size']}, at a learning rate of {tuning['lr']:g}"
    )


def save(figure: Figure, out: Path) -> None:
    """Write a figure as PNG, beside its name first."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def number(x: float, digits: int = 3) -> str:
    """A measure in as many digits as tell something, with a minus at which no line ends."""
    return f"{x:.{digits}g}".replace("-", "\u2212")


def change(low: float, mid: float, high: float) -> tuple[str, str]:
    """A change with its sign, and its interval."""
    signed = [f"{x:+.2g}".replace("-", "\u2212") for x in (low, mid, high)]
    return signed[1], f"{signed[0]} to {signed[2]}"
