"""A folder of generated clips: what lies there is kept, clips are written as they come, a record says how.

``<folder>/<class>/<class>_000.wav``, ... and ``generation.json`` with model, settings and versions. While a run is
unfinished, ``.generation-plan.json`` says what it is making: the same command goes on with the clips that are
missing, which come out as they would have, since a clip depends on its prompt, number and seed alone.
"""

from __future__ import annotations

from latentclap.generation.clips import LOUDEST, Make, within_full_scale, write_clips
from latentclap.generation.folder import (
    alone,
    commands,
    drop_stale,
    earlier_clips,
    kept_clips,
    with_earlier,
)
from latentclap.generation.plan import MAKERS, PLAN, RECORD, SMALL, code, make_plan
from latentclap.generation.record import calls_of, makers_of, write_record

__all__ = [
    "LOUDEST",
    "MAKERS",
    "PLAN",
    "RECORD",
    "SMALL",
    "Make",
    "alone",
    "calls_of",
    "code",
    "commands",
    "drop_stale",
    "earlier_clips",
    "kept_clips",
    "make_plan",
    "makers_of",
    "with_earlier",
    "within_full_scale",
    "write_clips",
    "write_record",
]
