"""The beta schedules that diffusers' schedulers of DDPM's kind know by name, in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _linear(steps: int, start: float, end: float) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _scaled_linear(steps: int, start: float, end: float) -> Tensor:
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def _sigmoid(steps: int, start: float, end: float) -> Tensor:
    return torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start


def _squaredcos(steps: int, start: float, end: float) -> Tensor:
    """Of abar(t) = cos^2 (arXiv:2102.09672), each beta at most 0.999; the two ends have no part in it."""

    def abar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - abar((i + 1) / steps) / abar(i / steps), 0.999) for i in range(steps)]
    return torch.tensor(betas, dtype=torch.float64)


#: diffusers' ``beta_schedule`` -> betas of (N, the first, the last)
BETA_SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "scaled_linear": _scaled_linear,
    "linear": _linear,
    "squaredcos_cap_v2": _squaredcos,
    "sigmoid": _sigmoid,
}


def betas_of(schedule: str, steps: int, start: float, end: float, trained: list[float] | None) -> Tensor:
    """The betas (N,) of a named schedule, or those that are given, in float64.

    Raises:
        ValueError: the name is unknown, there is no step, or a beta is not above 0 and at most 1.
    """
    if trained is None and schedule not in BETA_SCHEDULES:
        raise ValueError(f"unknown beta_schedule {schedule!r}; there are {', '.join(BETA_SCHEDULES)}")
    if trained is None:
        if steps < 1:
            raise ValueError(f"steps={steps}: it is 1 or more")
        outside = [beta for beta in (start, end) if not 0 < beta < 1]
    else:
        outside = [beta for beta in trained if not 0 < beta <= 1]
        if not trained:
            raise ValueError("trained_betas: there is none")
    if outside:
        raise ValueError(f"beta {outside[0]:g}: betas are above 0 and below 1")
    if trained is None:
        return BETA_SCHEDULES[schedule](steps, start, end)
    return torch.tensor(trained, dtype=torch.float64)


def zero_terminal(abar: Tensor) -> Tensor:
    """abar (N,) with sqrt(abar) shifted and scaled so that its last is 0 and its first stays (arXiv:2305.08891).

    Raises:
        ValueError: there are fewer than two steps.
    """
    if len(abar) < 2:
        raise ValueError("rescale_betas_zero_snr: one step cannot be without noise and nothing but noise")
    root = abar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
