"""What the pages of all notebooks share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.classes import CLASSES
from latentclap.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def trained(told: Mapping[str, Any], epochs: int) -> str:
    """With how many clips, epochs and steps each system of a run was trained, as the start of a sentence."""
    tuning = told["settings"]["finetune"]
    clips = told["settings"]["data"]["dev_per_class"] * len(CLASSES)
    return (
        f"Profile `{told['profile']}`: {clips:,} development clips, {epochs} epochs,"
        f" {steps_of(told, epochs):,} steps of {tuning['batch_size']}, at a learning rate of {tuning['lr']:g}"
    )


def steps_of(told: Mapping[str, Any], epochs: int) -> int:
    """Steps of a training of so many epochs, as finetune counts them."""
    clips = told["settings"]["data"]["dev_per_class"] * len(CLASSES)
    return max(1, epochs * clips // told["settings"]["finetune"]["batch_size"])


def save(figure: Figure, out: Path) -> None:
    """Write a figure as PNG, beside its name first."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def number(x: float, digits: int = 3) -> str:
    """A measure in as many digits as tell something, with a minus at which no line ends."""
    return _typeset(f"{x:.{digits}g}")


def change(low: float, mid: float, high: float) -> tuple[str, str]:
    """A change with its sign, and its interval."""
    signed = [_typeset(f"{x:+.2g}") for x in (low, mid, high)]
    return signed[1], f"{signed[0]} to {signed[2]}"


def _typeset(text: str) -> str:
    """A number as it is printed, -1.5e-06 as \u22121.5\u00d710\u207b\u2076."""
    digits, _, power = text.replace("-", "\u2212").partition("e")
    if not power:
        return digits
    raised = str(int(power.replace("\u2212", "-"))).translate(_RAISED)
    return f"{digits}\u00d710{raised}"
