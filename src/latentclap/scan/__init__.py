"""What lies in a folder of clips in DCASE layout, and what is wrong with it.

``<folder>/<class>/*.wav`` or ``<folder>/{dev,eval}/<class>/*.wav``, classes in either spelling, any of
libsndfile's formats, any rate, mono or stereo. A bad file never stops the reading: it is left out and stands
in the report's table.
"""

from __future__ import annotations

from latentclap.scan.folder import examine, scan
from latentclap.scan.layout import SUFFIXES
from latentclap.scan.report import Clip, DataReport, Problem

__all__ = ["SUFFIXES", "Clip", "DataReport", "Problem", "examine", "scan"]
