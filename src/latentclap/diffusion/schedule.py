"""DDPM's schedules of N steps: AudioLDM's, and those of any diffusers scheduler of the kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from latentclap.diffusion.betas import betas_of, zero_terminal
from latentclap.diffusion.process import Process, append_dims


class NoiseSchedule(Process):
    """A schedule of N steps: AudioLDM's "linear", which diffusers calls "scaled_linear" (facts A4), or another.

    alpha_n = 1 - beta_n, abar_n = prod alpha_i, and s_n = sqrt(abar_n) s_0 + sqrt(1 - abar_n) eps. AudioLDM's is
    beta_n = linspace(sqrt(beta_start), sqrt(beta_end), N)^2. Quantities are computed in float64 and kept as float32
    buffers.

    Args:
        steps: N, the number of training steps.
        beta_start: first beta (AudioLDM 0.0015).
        beta_end: last beta (AudioLDM 0.0195).
        beta_schedule: how betas run from one to the other, by diffusers' name: "scaled_linear", "linear",
            "sigmoid", or "squaredcos_cap_v2", which has ends of its own.
        trained_betas: the betas themselves, in the place of a name, two ends and their number.
        rescale_betas_zero_snr: betas changed so that s_{N-1} is noise alone (zero terminal SNR, arXiv:2305.08891).
            There a predicted noise says nothing of s_0: train by "v_prediction" or "sample".
        prediction: what the network predicts, for losses that are not told: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: an unknown name, or betas that are none.
    """

    betas: Tensor
    alphas: Tensor
    abar: Tensor

    def __init__(
        self,
        *,
        steps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction: str = "epsilon",
    ) -> None:
        super().__init__()
        self.prediction = self.checked(prediction)
        trained = None if trained_betas is None else [float(beta) for beta in trained_betas]
        betas = betas_of(beta_schedule, steps, beta_start, beta_end, trained)
        # told by the arguments, not by the last abar: to look at a tensor's value would wait for its device
        self.zero_terminal_snr = rescale_betas_zero_snr or (trained is not None and max(trained) == 1)
        #: whether the betas are those that a scheduler of diffusers makes of "scaled_linear" and two ends
        self.scaled_linear = (
            beta_schedule == "scaled_linear" and trained is None and not rescale_betas_zero_snr
        )
        abar = torch.cumprod(1 - betas, dim=0)
        if rescale_betas_zero_snr:
            abar = zero_terminal(abar)
            betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        # abar_{n-1}, with abar_{-1} = 1: before the first step nothing is noise
        previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        for name, value in {
            "betas": betas,
            "alphas": 1 - betas,
            "abar": abar,
            "abar_previous": previous,
            "sqrt_abar": abar.sqrt(),
            "sqrt_one_minus_abar": (1 - abar).sqrt(),
            # q(s_{n-1} | s_n, s_0) has mean c_0 s_0 + c_n s_n (DDPM, eq. 7)
            "posterior_c0": betas * previous.sqrt() / (1 - abar),
            "posterior_cn": (1 - previous) * (1 - betas).sqrt() / (1 - abar),
        }.items():
            self.register_buffer(name, value.float(), persistent=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """The schedule and the prediction of a diffusers scheduler of DDPM's kind (DDPM, DDIM, DPM-Solver, ...).

        How it samples (spacing and offset of the steps, clipping) is not training's, and is not taken. Noise is
        added by :meth:`q_sample`, or by the ``add_noise`` of DDPM and DDIM: that of diffusers' Euler schedulers
        leaves out the factor sqrt(abar_n).

        Args:
            scheduler: the scheduler, or its config as a mapping. A scheduler is taken at its word: its own
                ``alphas_cumprod`` must be what its config says.

        Raises:
            ValueError: it is of another kind (flow matching, sigmas), or knows a schedule that is unknown here.
        """
        config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", {})
        made = cls(**_arguments(config, type(scheduler).__name__))
        if isinstance(scheduler, Mapping):
            return made
        theirs = getattr(scheduler, "alphas_cumprod", None)
        ours = made.abar.double()
        if theirs is None or theirs.shape != ours.shape or not _close(theirs.detach().cpu().double(), ours):
            raise ValueError(
                f"{type(scheduler).__name__}: its alphas_cumprod are not those of its config's betas; give"
                " NoiseSchedule its betas as trained_betas"
            )
        return made

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NoiseSchedule:
        """Build from the config of an AudioLDM checkpoint's scheduler, and refuse any that is of another kind.

        This package's own systems are trained and sampled by it: they predict noise. For a training of one's own
        there is :meth:`from_scheduler`, which takes the others too.

        Raises:
            ValueError: its betas are not those of "scaled_linear", or it does not predict noise.
        """
        if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
            raise ValueError(f"beta_schedule {config['beta_schedule']!r} is not AudioLDM's scaled_linear")
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"prediction_type {config['prediction_type']!r}: eq. 1 predicts noise (epsilon)")
        for name in ("trained_betas", "rescale_betas_zero_snr"):
            if config.get(name):
                raise ValueError(f"{name} is set: AudioLDM's betas are scaled_linear and nothing else")
        return cls(
            steps=config["num_train_timesteps"], beta_start=config["beta_start"], beta_end=config["beta_end"]
        )

    def _apply(self, fn: Any, recurse: bool = True) -> NoiseSchedule:
        """A schedule goes to other devices, and stays float32: in bf16, abar of the first steps would be 1."""
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = getattr(self, name)
            if moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))
        return self

    @property
    def steps(self) -> int:
        """N, the number of training steps."""
        return len(self.betas)

    def at(self, name: str, n: Tensor, like: Tensor) -> Tensor:
        """Return the buffer ``name`` at steps ``n`` (B,), shaped to broadcast over ``like`` (B, ...)."""
        return append_dims(getattr(self, name)[n], like)

    def coefficients(self, n: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(abar_n) and sqrt(1 - abar_n), shaped to broadcast over ``like`` (B, ...)."""
        return self.at("sqrt_abar", n, like), self.at("sqrt_one_minus_abar", n, like)

    def grid(self) -> Tensor:
        """0 ... N-1, on the schedule's device: (N,)."""
        return torch.arange(self.steps, device=self.betas.device)

    def as_steps(self, n: Tensor) -> Tensor:
        """Whole numbers, with which buffers are read."""
        return n.long()

    def number(self, n: Tensor) -> Tensor:
        """The steps themselves."""
        return n

    def at_number(self, number: Tensor) -> Tensor:
        """The steps themselves, as whole numbers."""
        return number.long()

    def posterior_mean(self, s_0: Tensor, s_n: Tensor, n: Tensor) -> Tensor:
        """Mean of q(s_{n-1} | s_n, s_0). At n = 0 it is s_0 itself."""
        return self.at("posterior_c0", n, s_n) * s_0 + self.at("posterior_cn", n, s_n) * s_n

    def ddim_step(self, s_0: Tensor, eps: Tensor, n_to: Tensor) -> Tensor:
        """One deterministic DDIM jump (eta 0) to step ``n_to`` (B,); n_to < 0 lands on s_0."""
        clean = append_dims(n_to < 0, s_0)
        n_to = n_to.clamp(min=0)
        jump = self.at("sqrt_abar", n_to, s_0) * s_0 + self.at("sqrt_one_minus_abar", n_to, s_0) * eps
        return torch.where(clean, s_0, jump)

    def jump(self, s_0: Tensor, eps: Tensor, n: Tensor, jumps: int) -> Tensor:
        """:meth:`ddim_step` over N // ``jumps`` steps."""
        return self.ddim_step(s_0, eps, n - self.steps // jumps)

    def snr(self, n: Tensor) -> Tensor:
        """Signal-to-noise ratio abar_n / (1 - abar_n) at steps n (B,)."""
        abar = self.abar[n]
        return abar / (1 - abar)


def _arguments(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What :class:`NoiseSchedule` is given for a scheduler's config: nothing is guessed that it does not say."""
    trained = config.get("trained_betas")
    needed = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end") if trained is None else ()
    lacking = [key for key in needed if config.get(key) is None]
    if lacking:
        raise ValueError(
            f"{config.get('_class_name', name)}: no {lacking[0]} in its config, so it is no scheduler of DDPM's kind;"
            " for flow matching there is RectifiedFlow, for stable-audio-tools' v CosineTime"
        )
    told = {key: config[key] for key in needed}
    if needed:
        told["steps"] = told.pop("num_train_timesteps")
    return told | {
        "trained_betas": trained,
        "rescale_betas_zero_snr": bool(config.get("rescale_betas_zero_snr")),
        "prediction": config.get("prediction_type", "epsilon"),
    }


def _close(theirs: Tensor, ours: Tensor) -> bool:
    """To what single precision leaves of a product of N factors."""
    return torch.allclose(theirs, ours, rtol=1e-3, atol=1e-6)
