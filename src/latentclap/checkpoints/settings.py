"""What a system's own index says: frames of a clip, polishing, and how it is sampled."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentclap.checkpoints.files import json_or_nothing
from latentclap.errors import InputError

#: our own file in a system's folder: what diffusers' model_index.json has no place for
INDEX = "latentclap.json"
#: what that may say
SETTINGS = frozenset({"frames", "tuning", "polish", "sampling"})
#: the samplers that there are, for whoever does not import torch to ask (``diffusion.SAMPLERS`` has them)
SAMPLERS = ("ddim", "dpmsolver++", "unipc")


@dataclass(frozen=True)
class Sampling:
    """How a system is sampled where nobody says otherwise.

    Where it does not say: the paper's 200 steps and guidance 2.0 (IV-B), by DDIM, which the paper does not name and
    AudioLDM's code takes (facts A4).

    Attributes:
        sampler: "ddim", "dpmsolver++" or "unipc".
        steps: denoising steps.
        guidance_scale: of classifier-free guidance.
    """

    sampler: str = "ddim"
    steps: int = 200
    guidance_scale: float = 2.0

    def but(
        self, sampler: str | None = None, steps: int | None = None, guidance_scale: float | None = None
    ) -> Sampling:
        """These settings, but for what is given; with another sampler than ours, our steps mean nothing."""
        ours = self if sampler in (None, self.sampler) else Sampling(guidance_scale=self.guidance_scale)
        return Sampling(
            self.sampler if sampler is None else sampler,
            ours.steps if steps is None else steps,
            ours.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def asdict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def clip_frames(folder: Path) -> int:
    """Mel frames of a system's clips, as its own index says; AudioLDM's 1024 where there is none.

    Raises:
        InputError: the index is damaged.
    """
    index = folder / INDEX
    frames = json_or_nothing(index).get("frames", 1024)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise InputError(f"{index}: frames={frames!r} is no number of mel frames; save the system again")
    return frames


def polish_iterations(folder: Path) -> int | None:
    """How a system's vocoder is polished, as its own index says; None, as AudioLDM's, where there is none.

    Raises:
        InputError: the index says something that is no number of iterations.
    """
    iterations = json_or_nothing(folder / INDEX).get("polish")
    if iterations is not None and (type(iterations) is not int or iterations < 0):
        raise InputError(
            f"{folder / INDEX}: polish={iterations!r} is no number of iterations;"
            " take it out or save the system again"
        )
    return iterations


def own_sampling(folder: Path) -> Sampling:
    """The settings that a system is sampled with, as its own index says; the paper's where it says none.

    Raises:
        InputError: the index says something that is no such setting.
    """
    index = folder / INDEX
    told = json_or_nothing(index).get("sampling") or {}
    kinds: dict[str, tuple[type, ...]] = {"sampler": (str,), "steps": (int,), "guidance_scale": (int, float)}
    try:
        wrong = any(type(value) not in kinds[name] for name, value in told.items())
        if wrong or told.get("sampler", "ddim") not in SAMPLERS:
            raise ValueError
        if not (told.get("steps", 1) >= 1 and 0 <= told.get("guidance_scale", 0) < math.inf):
            raise ValueError
        return Sampling(**told)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise InputError(
            f"{index}: sampling={told!r} is no sampler, steps and guidance_scale;"
            " take it out or save the system again"
        ) from None
