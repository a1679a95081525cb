"""What every forward process offers to the readings of eq. 3, whatever its time and its network's target are.

A noised latent is s_n = a_n s_0 + b_n eps. A network may predict eps, s_0, or a mixture of both; as s_n is known,
each of them leads to the others. A subclass gives a and b, and what its time is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: what a network may predict, by diffusers' names (``prediction_type``)
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """Give a (B,) tensor trailing axes of size one, so that it broadcasts over (B, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


class Process(nn.Module):
    """A forward process s_n = a_n s_0 + b_n eps; latents are (B, ...), steps ``n`` are (B,).

    Attributes:
        prediction: what its network predicts, one of :attr:`predictions`.
        predictions: what a network of this process may predict.
        continuous: whether ``n`` is a time within 0 ... 1 instead of a step number.
        zero_terminal_snr: whether nothing of s_0 is left at the last of a finite number of steps.
    """

    prediction: str = "epsilon"
    predictions: tuple[str, ...] = ("epsilon", "v_prediction", "sample")
    continuous: bool = False
    zero_terminal_snr: bool = False

    # ------------------------------------------------------------------- what a subclass says

    @property
    def steps(self) -> int:
        """N: step numbers, as w(n) counts them, are 0 ... N-1."""
        raise NotImplementedError

    def coefficients(self, n: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a_n and b_n at steps ``n`` (B,), shaped to broadcast over ``like`` (B, ...)."""
        raise NotImplementedError

    def grid(self) -> Tensor:
        """Every step (N,); of a continuous time, N times of equal distance."""
        raise NotImplementedError

    def as_steps(self, n: Tensor) -> Tensor:
        """Steps of any of the types in which they may be given, in the one that is computed with."""
        raise NotImplementedError

    def number(self, n: Tensor) -> Tensor:
        """The step numbers of steps ``n``, for w(n)."""
        raise NotImplementedError

    def at_number(self, number: Tensor) -> Tensor:
        """The steps of step numbers: the inverse of :meth:`number`."""
        raise NotImplementedError

    def posterior_mean(self, s_0: Tensor, s_n: Tensor, n: Tensor) -> Tensor:
        """Mean of q(s_{n-1} | s_n, s_0).

        Raises:
            ValueError: the process has no s_{n-1}.
        """
        raise NotImplementedError

    def jump(self, s_0: Tensor, eps: Tensor, n: Tensor, jumps: int) -> Tensor:
        """The latent of s_0 and eps one of ``jumps`` equal jumps before ``n``: a deterministic sampler's step."""
        raise NotImplementedError

    def snr(self, n: Tensor) -> Tensor:
        """Signal-to-noise ratio a_n^2 / b_n^2 at steps n."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what follows from that

    def q_sample(self, s_0: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """Forward process: s_n = a_n s_0 + b_n eps. Shapes (B, ...), (B,), (B, ...)."""
        a, b = self.coefficients(n, s_0)
        return a * s_0 + b * eps

    def predict_x0(self, s_n: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """Inverse of :meth:`q_sample` for a predicted noise: the one-step estimate of s_0.

        Where a_n is 0, at the last step of a schedule with zero terminal SNR, there is none: it is not finite.
        """
        a, b = self.coefficients(n, s_n)
        return (s_n - b * eps) / a

    def predict_eps(self, s_n: Tensor, n: Tensor, s_0: Tensor) -> Tensor:
        """Inverse of :meth:`q_sample` for a known s_0: the noise that leads from it to s_n."""
        a, b = self.coefficients(n, s_n)
        return (s_n - a * s_0) / b

    def checked(self, prediction: str | None) -> str:
        """What is predicted: as told, or with None as :attr:`prediction` says.

        Raises:
            ValueError: nothing that a network of this process predicts.
        """
        chosen = self.prediction if prediction is None else prediction
        if chosen not in self.predictions:
            raise ValueError(
                f"unknown prediction {chosen!r} for a {type(self).__name__}; there are"
                f" {', '.join(self.predictions)}"
            )
        return chosen

    def training_target(
        self, s_0: Tensor, eps: Tensor, n: Tensor, *, prediction: str | None = None
    ) -> Tensor:
        """What the network is trained to predict, of the latents' shape.

        eps itself ("epsilon"), v = a_n eps - b_n s_0 ("v_prediction"), s_0 ("sample"), or u = eps - s_0
        ("flow_prediction").

        Raises:
            ValueError: unknown prediction.
        """
        chosen = self.checked(prediction)
        if chosen == "epsilon":
            return eps
        if chosen == "sample":
            return s_0
        if chosen == "flow_prediction":
            return eps - s_0
        a, b = self.coefficients(n, s_0)
        return a * eps - b * s_0

    def output_to_x0(
        self, output: Tensor, s_n: Tensor, n: Tensor, *, prediction: str | None = None
    ) -> Tensor:
        """The one-step estimate of s_0 by what the network predicted; the gradient runs through it.

        (s_n - b_n eps) / a_n ("epsilon"), a_n s_n - b_n v ("v_prediction": a_n^2 + b_n^2 = 1), the output itself
        ("sample"), or s_n - b_n u ("flow_prediction": a_n + b_n = 1).

        Raises:
            ValueError: unknown prediction.
        """
        chosen = self.checked(prediction)
        if chosen == "epsilon":
            return self.predict_x0(s_n, n, output)
        if chosen == "sample":
            return output
        a, b = self.coefficients(n, s_n)
        return s_n - b * output if chosen == "flow_prediction" else a * s_n - b * output

    def output_to_eps(
        self, output: Tensor, s_n: Tensor, n: Tensor, *, prediction: str | None = None
    ) -> Tensor:
        """The noise by what the network predicted; the gradient runs through it.

        The output itself ("epsilon"), b_n s_n + a_n v ("v_prediction"), (s_n - a_n s_0) / b_n ("sample"), or
        s_n + a_n u ("flow_prediction").

        Raises:
            ValueError: unknown prediction.
        """
        chosen = self.checked(prediction)
        if chosen == "epsilon":
            return output
        if chosen == "sample":
            return self.predict_eps(s_n, n, output)
        a, b = self.coefficients(n, s_n)
        return s_n + a * output if chosen == "flow_prediction" else b * s_n + a * output


class ContinuousProcess(Process):
    """A process whose time t runs from 0, a clean latent, to 1, noise alone; where a ``n`` is asked for, t is given.

    Args:
        steps: N, by which times are counted for w(n), as n = t N, and of how many a mean over all times is taken.
    """

    continuous = True

    def __init__(self, *, steps: int = 1000) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: it is 1 or more")
        self._steps = steps

    @property
    def steps(self) -> int:
        """N: the time t counts as step number t N."""
        return self._steps

    def grid(self) -> Tensor:
        """N times at equal distances, in the middles of N parts of 0 ... 1: (N,)."""
        return (torch.arange(self.steps) + 0.5) / self.steps

    def as_steps(self, n: Tensor) -> Tensor:
        """Times in single precision; NaN outside 0 ... 1, to be seen in the loss where values are not looked at."""
        n = n.float()
        return n.where((n >= 0) & (n <= 1), torch.nan)

    def number(self, n: Tensor) -> Tensor:
        """The number t N of a time t."""
        return n * self.steps

    def at_number(self, number: Tensor) -> Tensor:
        """The time n / N of a number n."""
        return number / self.steps

    def posterior_mean(self, s_0: Tensor, s_n: Tensor, n: Tensor) -> Tensor:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f'reading "posterior" is the mean of the step before, and a {type(self).__name__} has no steps;'
            " choose x0, ddim or renoised"
        )

    def jump(self, s_0: Tensor, eps: Tensor, n: Tensor, jumps: int) -> Tensor:
        """The latent of s_0 and eps at the time t - 1/jumps, and at 0 where that is below it."""
        return self.q_sample(s_0, (n - 1 / jumps).clamp(min=0), eps)

    def snr(self, n: Tensor) -> Tensor:
        """Signal-to-noise ratio a^2 / b^2 at times n; finite at 0, where it is infinite in truth."""
        a, b = self.coefficients(n, n)
        return (a / b.clamp(min=1e-6)).square()
