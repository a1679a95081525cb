"""Processes in continuous time, as newer text-to-audio models are trained with: rectified flow, and v on a cosine."""

from __future__ import annotations

import math

from torch import Tensor

from latentclap.diffusion.process import ContinuousProcess, append_dims


class RectifiedFlow(ContinuousProcess):
    """Rectified flow (arXiv:2209.03003): s_t = (1 - t) s_0 + t eps, and the network predicts u = eps - s_0.

    t is what diffusers' FlowMatchEulerDiscreteScheduler calls sigma; its timesteps are 1000 t. Its ``shift`` changes
    which t are sampled or drawn, and nothing here. A step of Euler's method by u, to t' = t - 1/K, is
    (1 - t') s_0 + t' eps, the ``jump``.

    Args:
        steps: N of w(n), with n = t N.
    """

    prediction = "flow_prediction"
    predictions = ("flow_prediction",)

    def coefficients(self, n: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t, at times ``n`` (B,), shaped to broadcast over ``like`` (B, ...)."""
        t = append_dims(n, like)
        return 1 - t, t


class CosineTime(ContinuousProcess):
    """s_t = cos(pi t / 2) s_0 + sin(pi t / 2) eps, and the network predicts v: stable-audio-tools' objective "v".

    The ``jump`` is DDIM's, which turns by the angle pi / (2 K).

    Args:
        steps: N of w(n), with n = t N.
    """

    prediction = "v_prediction"
    predictions = ("v_prediction",)

    def coefficients(self, n: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine and the sine, at times ``n`` (B,), shaped to broadcast over ``like`` (B, ...)."""
        angle = append_dims(n, like) * (math.pi / 2)
        return angle.cos(), angle.sin()
