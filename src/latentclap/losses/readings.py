"""What eq. 3's encoder is given: every latent that the words of the paper may mean (facts H)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from latentclap.diffusion import Process


class _Step(NamedTuple):
    """One noised batch and what the network said of it."""

    schedule: Process
    s_n: Tensor
    n: Tensor
    output: Tensor
    prediction: str
    s_0: Tensor | None
    jumps: int

    def x0(self) -> Tensor:
        return self.schedule.output_to_x0(self.output, self.s_n, self.n, prediction=self.prediction)

    def eps(self) -> Tensor:
        return self.schedule.output_to_eps(self.output, self.s_n, self.n, prediction=self.prediction)


def _x0(step: _Step) -> Tensor:
    """The one-step estimate of the clean latent."""
    return step.x0()


def _posterior(step: _Step) -> Tensor:
    """The mean of p(s_{n-1} | s_n)."""
    return step.schedule.posterior_mean(step.x0(), step.s_n, step.n)


def _ddim(step: _Step) -> Tensor:
    """One deterministic DDIM jump over N/inference_steps steps, without guidance; of a flow, a step of Euler's."""
    return step.schedule.jump(step.x0(), step.eps(), step.n, step.jumps)


def _renoised(step: _Step) -> Tensor:
    """The true clean latent, noised again with the predicted noise."""
    if step.s_0 is None:
        raise ValueError('reading "renoised" needs s_0, the clean latent')
    return step.schedule.q_sample(step.s_0, step.n, step.eps())


#: What φ is given, by the name of the reading (facts H, a, b, d and e). Reading (c), the forward-noised s_n, has no
#: gradient.
#:
#: :meta hide-value:
READINGS: dict[str, Callable[..., Tensor]] = {
    "x0": _x0,
    "posterior": _posterior,
    "ddim": _ddim,
    "renoised": _renoised,
}


def latent_reading(
    reading: str,
    schedule: Process,
    s_n: Tensor,
    n: Tensor,
    output: Tensor,
    *,
    s_0: Tensor | None = None,
    inference_steps: int = 200,
    prediction: str | None = None,
) -> Tensor:
    """Return the latent (B, C, T, F) that one reading of eq. 3 shows to the Latent CLAP encoder.

    Args:
        reading: a key of :data:`READINGS`.
        schedule: the noise schedule, or a process in continuous time.
        s_n: the noised latent that the LDM saw.
        n: its step numbers (B,); of a continuous process, its times.
        output: the LDM's prediction, eps_theta in the paper; the gradient runs through it.
        s_0: the clean latent, needed by "renoised" alone.
        inference_steps: "ddim" jumps N / inference_steps; the paper samples in 200 steps (IV-B).
        prediction: what ``output`` predicts, by diffusers' name. None: as the schedule says, which for AudioLDM's is
            "epsilon".

    Raises:
        ValueError: unknown reading or prediction, "renoised" without s_0, a number of steps that the schedule has
            not, or "posterior" of a continuous process.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r} of eq. 3; there are {', '.join(READINGS)}")
    check_jump(inference_steps, schedule, reading)
    chosen = schedule.checked(prediction)
    return READINGS[reading](_Step(schedule, s_n, n, output, chosen, s_0, inference_steps))


def check_jump(inference_steps: int, schedule: Process, reading: str) -> None:
    """Refuse a number of jumps that the schedule has not, with a ValueError; readings without a jump take any."""
    finite = reading == "ddim" and not schedule.continuous
    most = schedule.steps if finite else math.inf
    if not 1 <= inference_steps <= most or inference_steps != int(inference_steps):
        ends = f"1 to {schedule.steps}" if finite else "1 up"
        raise ValueError(f"inference_steps={inference_steps}: it is a whole number from {ends}")
