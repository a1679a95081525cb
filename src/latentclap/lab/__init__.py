"""What the notebooks call: data, encoders, fine-tuned points, generated clips and scores, each made once.

A point of the experiment (one fine-tuning run, one set of generated clips) lives in a folder named by the hash of
everything it depends on, so that notebooks share it, a second run finds it, and a killed one goes on.

The class is written in four layers, each on the one before: ``bench`` (data, encoders), ``points`` (trainings),
``clips`` and ``scores``.
"""

from latentclap.lab.points import SYSTEMS, Point
from latentclap.lab.scores import Lab

__all__ = ["SYSTEMS", "Lab", "Point"]
