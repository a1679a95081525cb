"""The losses of the paper: eq. 1 (DDPM), w(n), eq. 3 (Latent CLAP) in each of its readings, and eq. 4.

Eq. 3 says that the Latent CLAP encoder "operates on the noisy, compressed representation s_n, which is the output
of the LDM model at step n" and leaves open which tensor that is. :data:`READINGS` holds every reading through
which a gradient reaches the LDM; :class:`LatentCLAPLoss` takes the choice as an argument. The encoder φ, CLAP and
the VAE are frozen: no gradient reaches their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from latentclap.diffusion import NoiseSchedule, append_dims
from latentclap.errors import InputError

Reduction = Literal["mean", "sum"]
Weighting = str | Callable[[Tensor], Tensor]


def ddpm_loss(eps_theta: Tensor, eps: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Eq. 1: ||eps - eps_theta||^2, as mean over the elements of each item (AudioLDM's code, facts A4).

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
    schedule: NoiseSchedule | None = None,
    gamma: float = 5.0,
) -> Tensor:
    """Return the weight w(n) of eq. 3 for steps n (any shape), as float32 of the same shape.

    Args:
        n: step numbers, 0 ... N-1.
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
        snr = (schedule or NoiseSchedule().to(n.device)).snr(n.long())
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


def _x0(schedule: NoiseSchedule, s_n: Tensor, n: Tensor, eps: Tensor, jump: int) -> Tensor:
    """The one-step estimate of the clean latent. |d/d eps| = sqrt((1 - abar)/abar)."""
    return schedule.predict_x0(s_n, n, eps)


def _posterior(schedule: NoiseSchedule, s_n: Tensor, n: Tensor, eps: Tensor, jump: int) -> Tensor:
    """The mean of p(s_{n-1} | s_n). |d/d eps| = beta / (sqrt(1 - abar) sqrt(alpha))."""
    return schedule.posterior_mean(schedule.predict_x0(s_n, n, eps), s_n, n)


def _ddim(schedule: NoiseSchedule, s_n: Tensor, n: Tensor, eps: Tensor, jump: int) -> Tensor:
    """One deterministic DDIM jump over N/inference_steps training steps, without guidance.

    |d/d eps| = |sqrt(1 - abar') - sqrt((1 - abar) abar'/abar)|, abar' being where it lands: it grows with the jump.
    """
    return schedule.ddim_step(schedule.predict_x0(s_n, n, eps), eps, n - jump)


def _renoised(schedule: NoiseSchedule, s_n: Tensor, n: Tensor, eps: Tensor, jump: int, s_0: Tensor) -> Tensor:
    """The true clean latent, noised again with the predicted noise. |d/d eps| = sqrt(1 - abar)."""
    return schedule.q_sample(s_0, n, eps)


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
    schedule: NoiseSchedule,
    s_n: Tensor,
    n: Tensor,
    eps_theta: Tensor,
    *,
    s_0: Tensor | None = None,
    inference_steps: int = 200,
) -> Tensor:
    """Return the latent (B, C, T, F) that one reading of eq. 3 shows to the Latent CLAP encoder.

    Args:
        reading: a key of :data:`READINGS`.
        schedule: the noise schedule.
        s_n: the noised latent that the LDM saw.
        n: its step numbers (B,).
        eps_theta: the LDM's prediction; the gradient runs through it.
        s_0: the clean latent, needed by "renoised" alone.
        inference_steps: "ddim" jumps N / inference_steps; the paper samples in 200 steps (IV-B).

    Raises:
        ValueError: unknown reading, "renoised" without s_0, or a number of steps that the schedule has not.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r} of eq. 3; there are {', '.join(READINGS)}")
    _check_jump(inference_steps, schedule)
    jump = schedule.steps // inference_steps
    if reading == "renoised":
        if s_0 is None:
            raise ValueError('reading "renoised" needs s_0, the clean latent')
        return _renoised(schedule, s_n, n, eps_theta, jump, s_0)
    return READINGS[reading](schedule, s_n, n, eps_theta, jump)


def _check_jump(inference_steps: int, schedule: NoiseSchedule) -> None:
    if not 1 <= inference_steps <= schedule.steps or inference_steps != int(inference_steps):
        raise ValueError(
            f"inference_steps={inference_steps}: it is a whole number from 1 to {schedule.steps}"
        )


def gradient_factor(
    reading: str, schedule: NoiseSchedule, n: Tensor, *, inference_steps: int = 200
) -> Tensor:
    """``|d reading / d eps_theta|`` at steps n (B,): by autograd, the same number for every element (facts H)."""
    eps = torch.zeros(len(n), 1, device=n.device, requires_grad=True)
    zero = torch.zeros_like(eps)
    latent = latent_reading(reading, schedule, zero, n, eps, s_0=zero, inference_steps=inference_steps)
    (gradient,) = torch.autograd.grad(latent.sum(), eps)
    return gradient.abs().flatten()


def mean_pull(
    weighting: Weighting = "paper",
    reading: str = "x0",
    *,
    schedule: NoiseSchedule | None = None,
    inference_steps: int = 200,
) -> float:
    """``E_n[w(n) |d reading / d eps_theta|]``: how hard eq. 3 pulls at the LDM for one λ, whatever φ says.

    Weights and readings differ in it by orders of magnitude: at one λ, variants of eq. 3 differ in strength first of
    all. Dividing λ by it leaves what lies in the variant itself.
    """
    schedule = schedule or NoiseSchedule()
    n = torch.arange(schedule.steps, device=schedule.betas.device)
    f = gradient_factor(reading, schedule, n, inference_steps=inference_steps)
    return float((step_weight(n, weighting, schedule=schedule) * f).mean())


# ------------------------------------------------------------------------------------------ eq. 3


class LatentCLAPLoss(nn.Module):
    """Eq. 3: E_n[w(n) ||E_audio - E_latent,n||^2], to be added to any eps-prediction training loop.

    Args:
        phi: the Latent CLAP encoder, (B, C, T, F) -> (B, D). It is used in evaluation mode with its parameters
            held constant, and never receives a gradient; it may be shared with other code.
        schedule: the noise schedule of the LDM. None: AudioLDM's.
        reading: what φ is given, a key of :data:`READINGS`.
        weighting: w(n), see :func:`step_weight`.
        reduction: of the squared distance over the D dimensions. "mean" is what "MSE" means in torch and keeps
            lambda near 1000 in the range of eq. 1; "sum" is the formula to the letter, D times larger.
        inference_steps: for the reading "ddim": how many jumps make a whole way. The paper's 200 (IV-B), whatever a
            system is sampled with afterwards; with fewer the jumps, and their gradient, are larger.
        normalize: scale E_latent to unit length as CLAP scales E_audio (the paper is silent).
        clamp: clamp the latent that φ is given to +-clamp; x0 has heavy tails at large n. None: off, as in the paper.

    Example:
        >>> loss = LatentCLAPLoss(phi, reading="x0")
        >>> s_n = loss.schedule.q_sample(s_0, n, eps)
        >>> eps_theta = unet(s_n, n, E_text)
        >>> total = ddpm_loss(eps_theta, eps) + 1000 * loss(eps_theta, s_n, n, E_audio, s_0=s_0)
    """

    def __init__(
        self,
        phi: nn.Module,
        *,
        schedule: NoiseSchedule | None = None,
        reading: str = "x0",
        weighting: Weighting = "paper",
        reduction: Reduction = "mean",
        inference_steps: int = 200,
        normalize: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        if reading not in READINGS:
            raise ValueError(f"unknown reading {reading!r} of eq. 3; there are {', '.join(READINGS)}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"unknown reduction {reduction!r}; there are mean, sum")
        self.schedule = schedule or NoiseSchedule()
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
        self, eps_theta: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, *, s_0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (w(n), squared distance), each (B,): eq. 3 before its expectation.

        Raises:
            InputError: shapes that do not go together, or (looked at on a CPU only) a step that is none.
        """
        self._check(eps_theta, s_n, n, E_audio, s_0)
        n = n.long()
        latent = latent_reading(
            self.reading, self.schedule, s_n, n, eps_theta, s_0=s_0, inference_steps=self.inference_steps
        )
        E_latent = self.embed(latent)
        if E_audio.shape != E_latent.shape:
            raise InputError(
                f"LatentCLAPLoss: E_audio is {tuple(E_audio.shape)}, but φ embeds these latents as"
                f" {tuple(E_latent.shape)}; give the embeddings of the CLAP that φ was trained for"
            )
        squares = (E_audio.detach().float() - E_latent).square()
        distance = squares.mean(1) if self.reduction == "mean" else squares.sum(1)
        w = step_weight(n, self.weighting, schedule=self.schedule)
        if w.shape != n.shape:
            raise InputError(
                f"LatentCLAPLoss: the weighting makes {tuple(w.shape)} of n {tuple(n.shape)}; give one weight a step"
            )
        return w, distance

    def _check(self, eps_theta: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, s_0: Tensor | None) -> None:
        """Shapes cost nothing. Values are looked at on a CPU only: elsewhere every step would wait for the device."""
        shape = tuple(s_n.shape)
        if s_n.ndim != 4:
            raise InputError(f"LatentCLAPLoss: s_n is {shape}; latents are (B, C, T, F)")
        for name, latent in (("eps_theta", eps_theta), ("s_0", s_0)):
            if latent is not None and latent.shape != s_n.shape:
                raise InputError(
                    f"LatentCLAPLoss: {name} is {tuple(latent.shape)} and s_n {shape}; give one shape"
                )
        if tuple(n.shape) != shape[:1] or n.dtype.is_floating_point or n.dtype == torch.bool:
            raise InputError(
                f"LatentCLAPLoss: n is {n.dtype} {tuple(n.shape)}; give one whole step number for each of the"
                f" {shape[0]} latents"
            )
        if E_audio.ndim != 2 or len(E_audio) != len(s_n):
            raise InputError(
                f"LatentCLAPLoss: E_audio is {tuple(E_audio.shape)}; give one embedding for each of the"
                f" {shape[0]} latents, (B, D)"
            )
        # a subclass may have no values (memory is estimated by tensors without contents)
        if type(n) is Tensor and n.device.type == "cpu" and not torch.compiler.is_compiling() and n.numel():
            low, high = int(n.min()), int(n.max())
            if low < 0 or high >= self.schedule.steps:
                wrong = low if low < 0 else high
                raise InputError(
                    f"LatentCLAPLoss: n={wrong} is no step; they are 0 to {self.schedule.steps - 1}"
                )

    def forward(
        self, eps_theta: Tensor, s_n: Tensor, n: Tensor, E_audio: Tensor, *, s_0: Tensor | None = None
    ) -> Tensor:
        """Return eq. 3 as a scalar.

        Args:
            eps_theta: the LDM's prediction (B, C, T, F); the gradient runs through it.
            s_n: the noised latent that it saw (B, C, T, F).
            n: step numbers (B,), 0 ... N-1.
            E_audio: CLAP audio embeddings of the same clips (B, D).
            s_0: clean latents, for the reading "renoised".

        Raises:
            InputError: as :meth:`per_item`.
        """
        w, distance = self.per_item(eps_theta, s_n, n, E_audio, s_0=s_0)
        return (w * distance).mean()


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
