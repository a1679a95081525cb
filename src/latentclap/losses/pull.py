"""How hard eq. 3 pulls at the network's output, whatever φ says: derivatives of the readings, and their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from latentclap.diffusion import NoiseSchedule, Process
from latentclap.losses.readings import latent_reading
from latentclap.losses.weights import Weighting, step_weight


def gradient_factor(
    reading: str,
    schedule: Process,
    n: Tensor,
    *,
    inference_steps: int = 200,
    prediction: str | None = None,
) -> Tensor:
    """``|d reading / d output|`` at steps n (B,): by autograd, the same number for every element (facts H).

    With a = sqrt(abar_n) and b = sqrt(1 - abar_n), a' and b' where a jump lands, and c_0 = a_{n-1} beta_n / b^2, the
    weight of s_0 in the mean of s_{n-1}, it is

    ============= ============= ============= ============= ===============
    prediction    x0            posterior     ddim          renoised
    ============= ============= ============= ============= ===============
    epsilon       b / a         c_0 b / a     b a' / a - b' b
    v_prediction  b             c_0 b         b a' - a b'   a b
    sample        1             c_0           a' - a b' / b a
    ============= ============= ============= ============= ===============

    With v no factor exceeds 1, while epsilon's grows without bound where little of s_0 is left. Of a
    :class:`~latentclap.diffusion.RectifiedFlow` the factors are t, none, t - t' and t (1 - t); of a
    :class:`~latentclap.diffusion.CosineTime` those of v.

    Args:
        reading: a key of :data:`READINGS`.
        schedule: the noise schedule, or a process in continuous time.
        n: steps (B,); of a continuous process, times.
        inference_steps: as for :func:`latent_reading`.
        prediction: what the network predicts. None: as the schedule says.

    Raises:
        ValueError: as :func:`latent_reading`.
    """
    output = torch.zeros(len(n), 1, device=n.device, requires_grad=True)
    zero = torch.zeros_like(output)
    latent = latent_reading(
        reading, schedule, zero, n, output, s_0=zero, inference_steps=inference_steps, prediction=prediction
    )
    (gradient,) = torch.autograd.grad(latent.sum(), output)
    return gradient.abs().flatten()


def mean_pull(
    weighting: Weighting = "paper",
    reading: str = "x0",
    *,
    schedule: Process | None = None,
    inference_steps: int = 200,
    prediction: str | None = None,
) -> float:
    """``E_n[w(n) |d reading / d output|]``: how hard eq. 3 pulls at the LDM for one λ, whatever φ says.

    Weights, readings and predictions differ in it by orders of magnitude: at one λ, variants of eq. 3 differ in
    strength first of all. Dividing λ by it leaves what lies in the variant itself. So λ of the paper becomes
    ``λ * mean_pull() / mean_pull(weighting, reading, schedule=..., prediction=...)`` for another model. The
    expectation is over uniform n; where training draws others, or weights eq. 1 by the step, it is a first guess.
    """
    schedule = schedule or NoiseSchedule()
    n = schedule.grid()
    f = gradient_factor(reading, schedule, n, inference_steps=inference_steps, prediction=prediction)
    return float((step_weight(schedule.number(n), weighting, schedule=schedule) * f).mean())
