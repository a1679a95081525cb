"""Names of sound classes of any kind as people read them; what is the same class, `classes.class_key` says."""

from __future__ import annotations

from latentclap.classes import LABELS


def spoken(cls: str) -> str:
    """The words for a class by its :func:`class_key`: "door slam" for ``door_slam``; of the seven, the paper's."""
    return LABELS.get(cls) or cls.replace("_", " ")
