"""w(n) of eq. 3: how much a step counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentclap.diffusion import NoiseSchedule, Process

Weighting = str | Callable[[Tensor], Tensor]


def step_weight(
    n: Tensor,
    kind: Weighting = "paper",
    *,
    schedule: Process | None = None,
    gamma: float = 5.0,
) -> Tensor:
    """Return the weight w(n) of eq. 3 for steps n (any shape), as float32 of the same shape.

    Args:
        n: step numbers, 0 ... N-1; of a continuous time t, t N.
        kind: ``"paper"`` is 10^(-n/200) (section IV-B); ``"constant"`` is 1; ``"step"`` is 1 for n <= 200 and 0
            beyond; ``"exponential:H"`` halves every H steps (the paper's own half-life is 200 log10(2) = 60.2);
            ``"step:K"`` cuts beyond K; ``"snr"`` is SNR/(1 + SNR) = abar_n, so that it lies within 0 ... 1;
            ``"min-snr"`` is min(SNR, gamma)/gamma (after arXiv:2303.09556); or any callable of n.
        schedule: the noise schedule, for the two SNR-based weights. None: AudioLDM's.
        gamma: the cap of "min-snr".

    Raises:
        ValueError: the kind is unknown, or its number is not one.
    """
    if callable(kind):
        return kind(n)
    steps = n.float()
    name, _, number = kind.partition(":")
    value = _weight_parameter(kind, number)
    if name == "paper" and not number:
        return 10.0 ** (-steps / 200)
    if name == "constant" and not number:
        return torch.ones_like(steps)
    if name == "step":
        return (steps <= (200 if value is None else value)).float()
    if name == "exponential":
        return 0.5 ** (steps / (200 * math.log10(2) if value is None else value))
    if name in ("snr", "min-snr") and not number:
        known = schedule or NoiseSchedule().to(n.device)
        snr = known.snr(known.at_number(n))
        return snr / (1 + snr) if name == "snr" else snr.clamp(max=gamma) / gamma
    raise ValueError(f"unknown weighting {kind!r}; there are {', '.join(WEIGHTINGS)}")


#: Names that :func:`step_weight` knows; the two with a colon take any positive number.
WEIGHTINGS = ("paper", "constant", "step", "step:100", "exponential:30", "snr", "min-snr")


def _weight_parameter(kind: str, number: str) -> float | None:
    if not number:
        return None
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"weighting {kind!r}: what follows the colon must be a positive number of steps")
    return value
