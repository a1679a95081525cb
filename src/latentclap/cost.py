"""Hours of the paper's experiments, at full scale or at a small one, from measured rates.

Training costs clips x epochs / rate, generation costs clips x steps in proportion to a measured time; each is
multiplied by the number of systems or points and by the seeds. FAD, similarity scores and the latent cache are left
out: the frozen parts run once per clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentclap.classes import CLASSES
from latentclap.postfilter import load_preset
from latentclap.profiles import Profile

#: the fine-tuned systems of Table I, rows 2 to 5, each scored without and with the post-filter
TABLE_1_SYSTEMS = 4


@dataclass(frozen=True)
class Work:
    """What an experiment asks of a GPU.

    Attributes:
        trained: clips that pass through training, with repetition: clips x epochs x runs.
        generated: clips generated.
        filtered: clips generated for the post-filter, at the least: one try per clip kept.
        filtered_most: at the most: every try that is allowed, for all clips.
    """

    trained: int
    generated: int
    filtered: int = 0
    filtered_most: int = 0


@dataclass(frozen=True)
class Hours:
    """Device-hours of :class:`Work`, part by part."""

    training: float
    generation: float
    post_filter: float
    post_filter_most: float = 0.0

    @property
    def total(self) -> float:
        """All of it, with the post-filter at its least."""
        return self.training + self.generation + self.post_filter

    def scaled(self, factor: float) -> Hours:
        """The hours of a device that is ``1 / factor`` times as fast."""
        parts = (self.training, self.generation, self.post_filter, self.post_filter_most)
        return Hours(*(part * factor for part in parts))


def table_1(profile: Profile, clips: int) -> Work:
    """Table I: four systems fine-tuned, 100 clips per class of each, and of one seed as many through the post-filter.

    Args:
        profile: gives seeds, epochs, clips per class, and the post-filter with its candidates per try.
        clips: of the development set.
    """
    section = profile.evaluate
    runs = TABLE_1_SYSTEMS * len(section.seeds)
    candidates = load_preset(section.postfilter, section.candidates).candidates
    once = TABLE_1_SYSTEMS * section.clips_per_class * sum(candidates.values())
    return Work(
        trained=runs * profile.finetune.epochs * clips,
        generated=runs * section.clips_per_class * len(CLASSES),
        filtered=once,
        filtered_most=once * section.max_tries,
    )


def figure_3(profile: Profile, clips: int) -> Work:
    """Fig. 3: every λ (0 among them) with and without the tuning layer, for each of the profile's seeds.

    Args:
        profile: gives λ, epochs, seeds and clips per class.
        clips: of the development set.
    """
    sweep = profile.sweep
    points = 2 * len({0.0, *sweep.lams}) * len(sweep.seeds)
    return Work(
        trained=points * sweep.epochs * clips, generated=points * sweep.clips_per_class * len(CLASSES)
    )


def ablation(profile: Profile, clips: int) -> Work:
    """Notebook 02: plain fine-tuning, every w(n), and every reading but the profile's own; nothing is generated."""
    sweep = profile.sweep
    variants = 1 + len(sweep.weightings) + sum(r != profile.finetune.reading for r in sweep.readings)
    return Work(trained=variants * len(sweep.seeds) * sweep.ablation_epochs * clips, generated=0)


def hours(work: Work, rate: Mapping[str, Any], *, measured_steps: int, steps: int) -> Hours:
    """Hours of a device with measured rates.

    Args:
        work: see :func:`table_1` and :func:`figure_3`.
        rate: train_clips_per_second, and generate_100_clips_seconds at ``measured_steps`` steps with guidance.
        measured_steps: of that measurement.
        steps: of the experiment; generation is in proportion.
    """
    each = rate["generate_100_clips_seconds"] / 100 * steps / measured_steps
    return Hours(
        work.trained / rate["train_clips_per_second"] / 3600,
        work.generated * each / 3600,
        work.filtered * each / 3600,
        work.filtered_most * each / 3600,
    )
