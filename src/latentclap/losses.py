"""The losses of the paper: eq. 1 (DDPM), w(n), eq. 3 (Latent CLAP) in each of its readings, and eq. 4.

Eq. 3 says that the Latent CLAP encoder "operates on the noisy, compressed representation s_n, which is the output
of the LDM model at step n" and leaves open which tensor that is. :data:`READINGS` holds every reading through
which a gradient reaches the LDM; :class:`LatentCLAPLoss` takes the choice as an argument. The encoder φ, CLAP and
the VAE are frozen: no gradient reaches their parameters.

The paper's LDM predicts noise in AudioLDM's schedule, and that is what everything here takes where nothing is said.
Other outputs (``prediction``: v, the clean latent, a flow) and other processes (``schedule``) are for the training of
other models; the derivatives of every reading are at :func:`gradient_factor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from latentclap.diffusion import NoiseSchedule, Process, append_dims
from latentclap.errors import InputError

Reduction = Literal["mean", "sum"]
Weighting = str | Callable[[Tensor], Tensor]


def ddpm_loss(eps_theta: Tensor, eps: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Eq. 1: ||eps - eps_theta||^2, as mean over the elements of each item (AudioLDM's code, facts A4).

    A network that predicts something else is compared with that: give its output, and
    :meth:`~latentclap.diffusion.Process.training_target` in the place of eps.

    Args:
        eps_theta: predicted noise (B, C, T, F).
        eps: the noise that was added, same shape.
        reduction: "mean" over the batch too, or "none" for a (B,) tensor.

    Raises:
        InputError: two shapes, or another reduction.
    """
    if eps_theta.shape != eps.shape:
        raise InputError(
            f"ddpm_loss: eps_theta is {tuple(eps_theta.shape)} and eps {tuple(eps.shape)}; give one shape"
        )
    if reduction not in ("mean", "none"):
        raise InputError(f"ddpm_loss: unknown reduction {reduction!r}; there are mean, none")
    per_item = (eps_theta.float() - eps.float()).square().flatten(1).mean(1)
    return per_item.mean() if reduction == "mean" else per_item


# --------------------------------------------------------------------------------------------- w(n)


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


# --------------------------------------------------------------------- what eq. 3's encoder is given


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
    _check_jump(inference_steps, schedule)
    chosen = schedule.checked(prediction)
    return READINGS[reading](_Step(schedule, s_n, n, output, chosen, s_0, inference_steps))


def _check_jump(inference_steps: int, schedule: Process) -> None:
    if not 1 <= inference_steps <= schedule.steps or inference_steps != int(inference_steps):
        raise ValueError(
            f"inference_steps={inference_steps}: it is a whole number from 1 to {schedule.steps}"
        )


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


# ------------------------------------------------------------------------------------------ eq. 3


class LatentCLAPLoss(nn.Module):
    """Eq. 3: E_n[w(n) ||E_audio - E_latent,n||^2], to be added to the training loop of a latent diffusion model.

    Args:
        phi: the Latent CLAP encoder, (B, C, T, F) -> (B, D). It is used in evaluation mode with its parameters
            held constant, and never receives a gradient; it may be shared with other code.
        schedule: the noise schedule of the LDM, or its process in continuous time. None: AudioLDM's. There are
            :meth:`~latentclap.diffusion.NoiseSchedule.from_scheduler`, :class:`~latentclap.diffusion.RectifiedFlow`
            and :class:`~latentclap.diffusion.CosineTime` for others.
        reading: what φ is given, a key of :data:`READINGS`.
        weighting: w(n), see :func:`step_weight`.
        reduction: of the squared distance over the D dimensions. "mean" is what "MSE" means in torch and keeps
            lambda near 1000 in the range of eq. 1; "sum" is the formula to the letter, D times larger.
        inference_steps: for the reading "ddim": how many jumps make a whole way. The paper's 200 (IV-B), whatever a
            system is sampled with afterwards; with fewer the jumps, and their gradient, are larger.
        normalize: scale E_latent to unit length as CLAP scales E_audio (the paper is silent).
        clamp: clamp the latent that φ is given to +-clamp; x0 of predicted noise has heavy tails at large
            n. None: off, as in the paper.
        prediction: what the LDM predicts, by diffusers' name: "epsilon", "v_prediction", "sample" or
            "flow_prediction". None: as the schedule says. λ means another strength for each (:func:`mean_pull`).

    Raises:
        ValueError: an option that is unknown or would leave no gradient, a reading that the process has not, or one
            by way of predicted noise in a schedule with zero terminal SNR: of the last step it would be infinite.

    Example:
        >>> loss = LatentCLAPLoss(phi, reading="x0")
        >>> s_n = loss.schedule.q_sample(s_0, n, eps)
        >>> eps_theta = unet(s_n, n, E_text)
        >>> total = ddpm_loss(eps_theta, eps) + 1000 * loss(eps_theta, s_n, n, E_audio, s_0=s_0)

        With any output, ``eps`` of eq. 1 being ``loss.training_target(s_0, eps, n)``.
    """

    def __init__(
        self,
        phi: nn.Module,
        *,
        schedule: Process | None = None,
        reading: str = "x0",
        weighting: Weighting = "paper",
        reduction: Reduction = "mean",
        inference_steps: int = 200,
        normalize: bool = False,
        clamp: float | None = None,
        prediction: str | None = None,
    ) -> None:
        super().__init__()
        if reading not in READINGS:
            raise ValueError(f"unknown reading {reading!r} of eq. 3; there are {', '.join(READINGS)}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"unknown reduction {reduction!r}; there are mean, sum")
        self.schedule = schedule or NoiseSchedule()
        self.prediction = self.schedule.checked(prediction)
        _check_reading(reading, self.schedule, self.prediction)
        _check_jump(inference_steps, self.schedule)
        if clamp is not None and not (clamp > 0 and math.isfinite(clamp)):
            raise ValueError(f"clamp={clamp!r}: it is None, or a number above 0")
        step_weight(torch.zeros(1, dtype=torch.long), weighting, schedule=None)  # fail now, not at step one
        # in a list, so that φ is no submodule: its parameters are not ours to train, save or switch to train()
        self._phi = [phi]
        self.reading, self.weighting, self.reduction = reading, weighting, reduction
        self.inference_steps, self.normalize, self.clamp = inference_steps, normalize, clamp

    @property
    def phi(self) -> nn.Module:
        """The Latent CLAP encoder."""
        return self._phi[0]

    def training_target(self, s_0: Tensor, eps: Tensor, n: Tensor) -> Tensor:
        """What the LDM's output is compared with in eq. 1: eps of the paper, or what this model predicts instead."""
        return self.schedule.training_target(s_0, eps, self.schedule.as_steps(n), prediction=self.prediction)

    def embed(self, latent: Tensor) -> Tensor:
        """E_latent,n of a latent (B, C, T, F): (B, D). Gradients reach the latent, never φ's parameters."""
        if self.clamp is not None:
            latent = latent.clamp(-self.clamp, self.clamp)
        phi = self.phi
        first = next(phi.parameters())
        if first.device != latent.device:
            phi.to(latent.device)
        training = [m for m in phi.modules() if m.training]  # of a φ that its owner holds partly frozen, some
        phi.eval()  # batch statistics of half-denoised latents must not enter φ
        try:
            constants = {k: v.detach() for k, v in (*phi.named_parameters(), *phi.named_buffers())}
            E_latent = functional_call(phi, constants, (latent.to(first.dtype),)).float()
        finally:
            for module in training:
                module.training = True
        return F.normalize(E_latent, dim=-1) if self.normalize else E_latent

    def per_item(
        self, output: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, *, s_0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (w(n), squared distance), each (B,): eq. 3 before its expectation.

        Raises:
            InputError: shapes that do not go together, or (looked at on a CPU only) a step that is none.
        """
        self._check(output, s_n, n, E_audio, s_0)
        schedule = self.schedule
        n = schedule.as_steps(n)
        latent = latent_reading(
            self.reading,
            schedule,
            s_n,
            n,
            output,
            s_0=s_0,
            inference_steps=self.inference_steps,
            prediction=self.prediction,
        )
        E_latent = self.embed(latent)
        if E_audio.shape != E_latent.shape:
            raise InputError(
                f"LatentCLAPLoss: E_audio is {tuple(E_audio.shape)}, but φ embeds these latents as"
                f" {tuple(E_latent.shape)}; give the embeddings of the CLAP that φ was trained for"
            )
        squares = (E_audio.detach().float() - E_latent).square()
        distance = squares.mean(1) if self.reduction == "mean" else squares.sum(1)
        w = step_weight(schedule.number(n), self.weighting, schedule=schedule)
        if w.shape != n.shape:
            raise InputError(
                f"LatentCLAPLoss: the weighting makes {tuple(w.shape)} of n {tuple(n.shape)}; give one weight a step"
            )
        return w, distance

    def _check(self, output: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, s_0: Tensor | None) -> None:
        """Shapes cost nothing. Values are looked at on a CPU only: elsewhere every step would wait for the device."""
        shape = tuple(s_n.shape)
        if s_n.ndim < 3:
            raise InputError(f"LatentCLAPLoss: s_n is {shape}; latents are (B, C, T, F), or (B, C, T)")
        for name, latent in (("output", output), ("s_0", s_0)):
            if latent is not None and latent.shape != s_n.shape:
                raise InputError(
                    f"LatentCLAPLoss: {name} is {tuple(latent.shape)} and s_n {shape}; give one shape"
                )
        _check_steps(self.schedule, n, shape[0])
        if E_audio.ndim != 2 or len(E_audio) != len(s_n):
            raise InputError(
                f"LatentCLAPLoss: E_audio is {tuple(E_audio.shape)}; give one embedding for each of the"
                f" {shape[0]} latents, (B, D)"
            )

    def forward(
        self, output: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, *, s_0: Tensor | None = None
    ) -> Tensor:
        """Return eq. 3 as a scalar.

        Args:
            output: the LDM's prediction (B, C, T, F), eps_theta in the paper; the gradient runs through it.
            s_n: the noised latent that it saw (B, C, T, F).
            n: step numbers (B,), 0 ... N-1; of a continuous process, times within 0 ... 1.
            E_audio: CLAP audio embeddings of the same clips (B, D).
            s_0: clean latents, for the reading "renoised".

        Raises:
            InputError: as :meth:`per_item`.
        """
        w, distance = self.per_item(output, s_n, n, E_audio, s_0=s_0)
        return (w * distance).mean()


def _check_reading(reading: str, schedule: Process, prediction: str) -> None:
    """What is known before the first step to fail at some step."""
    if reading == "posterior" and schedule.continuous:
        schedule.posterior_mean(*torch.zeros(3, 1))  # says why there is none
    if schedule.zero_terminal_snr and prediction == "epsilon" and reading != "renoised":
        raise ValueError(
            f"reading {reading!r} of predicted noise in a schedule with zero terminal SNR: at the last step noise"
            " says nothing of s_0; predict v or the sample, or take the reading renoised"
        )


def _check_steps(schedule: Process, n: Tensor, count: int) -> None:
    """One step, of the schedule's kind, for each of ``count`` latents."""
    whole = not (n.dtype.is_floating_point or n.dtype.is_complex or n.dtype == torch.bool)
    if tuple(n.shape) != (count,) or whole == schedule.continuous:
        kind = "time within 0 ... 1" if schedule.continuous else "whole step number"
        raise InputError(
            f"LatentCLAPLoss: n is {n.dtype} {tuple(n.shape)}; give one {kind} for each of the {count} latents"
        )
    # a subclass may have no values (memory is estimated by tensors without contents)
    if type(n) is Tensor and n.device.type == "cpu" and not torch.compiler.is_compiling() and n.numel():
        last = 1 if schedule.continuous else schedule.steps - 1
        low, high = n.min().item(), n.max().item()
        if not (low >= 0 and high <= last):
            kind = "time (diffusers' sigma)" if schedule.continuous else "step"
            wrong = high if low >= 0 else low
            raise InputError(f"LatentCLAPLoss: n={wrong:.6g} is no {kind}; they are 0 to {last}")


# ------------------------------------------------------------------------------------------ eq. 4


def total_loss(terms: Mapping[str, Tensor], lambdas: Mapping[str, float]) -> Tensor:
    """Eq. 4 for any number of named terms: the sum of lambda_k L_k.

    A term whose lambda is 0 is left out altogether, so that eq. 4 with lambda = 0 is eq. 1 bit for bit.

    Raises:
        KeyError: a term has no lambda.
        ValueError: every term is left out.
    """
    total: Tensor | None = None
    for name, value in terms.items():
        lam = lambdas[name]
        if lam == 0:
            continue
        term = value if lam == 1 else lam * value
        total = term if total is None else total + term
    if total is None:
        raise ValueError("every lambda is 0: there is nothing to train")
    return total


__all__ = [
    "READINGS",
    "WEIGHTINGS",
    "LatentCLAPLoss",
    "append_dims",
    "ddpm_loss",
    "gradient_factor",
    "latent_reading",
    "mean_pull",
    "step_weight",
    "total_loss",
]
