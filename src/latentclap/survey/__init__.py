"""A blind listening test like the paper's (section V-C): pages that ask, and the key that says whose clip was whose.

The paper's study was a series of surveys, one for each class: 15 clips of each of three systems, rated for audio
quality and class relevance from 0 to 10. :func:`make_survey` makes such surveys from folders of clips, of classes of
any names; a page of the book asks the same of its own clips. What raters save is what
:func:`latentclap.stats.read_ratings` reads.
"""

from __future__ import annotations

from latentclap.survey.form import QUESTIONS, RatedClip, survey_form
from latentclap.survey.make import Survey, make_survey
from latentclap.survey.sounds import write_clips

__all__ = ["QUESTIONS", "RatedClip", "Survey", "make_survey", "survey_form", "write_clips"]
