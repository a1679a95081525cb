"""Eq. 3, the Latent CLAP loss."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from latentclap.diffusion import NoiseSchedule, Process
from latentclap.errors import InputError
from latentclap.losses.readings import READINGS, check_jump, latent_reading
from latentclap.losses.weights import Weighting, step_weight

Reduction = Literal["mean", "sum"]


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
        ValueError: a schedule that is none of this package's, an option that is unknown or would leave no gradient, a
            reading that the process has not, or one by way of predicted noise in a schedule with zero terminal SNR:
            of the last step it would be infinite.

    Example:
        >>> loss = LatentCLAPLoss(phi, reading="x0")
        >>> s_n = loss.schedule.q_sample(s_0, n, eps)
        >>> eps_theta = unet(s_n, n, E_text)
        >>> total = ddpm_loss(eps_theta, eps) + 1000 * loss(eps_theta, s_n, n, E_audio, s_0=s_0)

        With another prediction, ``loss.training_target(s_0, eps, n)`` stands in the place of ``eps``.
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
        if schedule is not None and not isinstance(schedule, Process):
            raise ValueError(
                f"schedule is a {type(schedule).__name__}; give NoiseSchedule.from_scheduler of it,"
                " or RectifiedFlow()"
            )
        self.schedule = schedule or NoiseSchedule()
        self.prediction = self.schedule.checked(prediction)
        _check_reading(reading, self.schedule, self.prediction)
        check_jump(inference_steps, self.schedule, reading)
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
