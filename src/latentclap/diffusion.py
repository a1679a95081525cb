"""The diffusion process of AudioLDM: schedule, forward process, inverses, guidance and samplers (III-B, eq. 1).

Notation is the paper's: ``s_0`` is a clean latent, ``s_n`` the same latent after ``n`` noise steps,
``eps`` the noise. Steps are counted 0 ... N-1 here, as every public code base does; the paper counts 1 ... N.
Latents have shape (B, C, T, F); nothing below depends on more than the leading B.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

#: (s_n, n) -> predicted noise, both of the latent's shape; n is a tensor (B,) of step numbers
NoiseModel = Callable[[Tensor, Tensor], Tensor]


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """Give a (B,) tensor trailing axes of size one, so that it broadcasts over (B, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


class NoiseSchedule(nn.Module):
    """AudioLDM's noise schedule, "linear" in its code and "scaled_linear" in diffusers (facts A4).

    beta_n = linspace(sqrt(beta_start), sqrt(beta_end), N)^2, alpha_n = 1 - beta_n and
    abar_n = prod alpha_i. Quantities are computed in float64 and kept as float32 buffers.

    Args:
        steps: N, the number of training steps.
        beta_start: first beta (AudioLDM 0.0015).
        beta_end: last beta (AudioLDM 0.0195).
    """

    betas: Tensor
    alphas: Tensor
    abar: Tensor

    def __init__(self, *, steps: int = 1000, beta_start: float = 0.0015, beta_end: float = 0.0195) -> None:
        super().__init__()
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        abar = torch.cumprod(1 - betas, dim=0)
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
    def from_config(cls, config: dict[str, Any]) -> NoiseSchedule:
        """Build from a diffusers scheduler's config.

        Raises:
            ValueError: its beta schedule is not "scaled_linear" or it does not predict noise.
        """
        if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
            raise ValueError(f"beta_schedule {config['beta_schedule']!r} is not AudioLDM's scaled_linear")
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"prediction_type {config['prediction_type']!r}: eq. 1 predicts noise (epsilon)")
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

    def q_sample(self, s_0: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """Forward process: s_n = sqrt(abar_n) s_0 + sqrt(1 - abar_n) eps. Shapes (B, ...), (B,), (B, ...)."""
        return self.at("sqrt_abar", n, s_0) * s_0 + self.at("sqrt_one_minus_abar", n, s_0) * eps

    def predict_x0(self, s_n: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """Inverse of :meth:`q_sample` for a predicted noise: the one-step estimate of s_0."""
        return (s_n - self.at("sqrt_one_minus_abar", n, s_n) * eps) / self.at("sqrt_abar", n, s_n)

    def predict_eps(self, s_n: Tensor, n: Tensor, s_0: Tensor) -> Tensor:
        """Inverse of :meth:`q_sample` for a known s_0: the noise that leads from it to s_n."""
        return (s_n - self.at("sqrt_abar", n, s_n) * s_0) / self.at("sqrt_one_minus_abar", n, s_n)

    def posterior_mean(self, s_0: Tensor, s_n: Tensor, n: Tensor) -> Tensor:
        """Mean of q(s_{n-1} | s_n, s_0). At n = 0 it is s_0 itself."""
        return self.at("posterior_c0", n, s_n) * s_0 + self.at("posterior_cn", n, s_n) * s_n

    def ddim_step(self, s_0: Tensor, eps: Tensor, n_to: Tensor) -> Tensor:
        """One deterministic DDIM jump (eta 0) to step ``n_to`` (B,); n_to < 0 lands on s_0."""
        clean = append_dims(n_to < 0, s_0)
        n_to = n_to.clamp(min=0)
        jump = self.at("sqrt_abar", n_to, s_0) * s_0 + self.at("sqrt_one_minus_abar", n_to, s_0) * eps
        return torch.where(clean, s_0, jump)

    def snr(self, n: Tensor) -> Tensor:
        """Signal-to-noise ratio abar_n / (1 - abar_n) at steps n (B,)."""
        abar = self.abar[n]
        return abar / (1 - abar)


def guide(eps_uncond: Tensor, eps_cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: eps_u + scale (eps_c - eps_u). The paper uses scale 2.0 for all classes."""
    return eps_uncond + scale * (eps_cond - eps_uncond)


#: name -> (diffusers class, what it is given besides the checkpoint's scheduler config).
#: eta is DDIM's own: 0 is deterministic, 1 is ancestral (DDPM-like).
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}


def sampling_steps(train_steps: int, steps: int, offset: int = 1, start: int | None = None) -> Tensor:
    """Return the sampling steps n in descending order, all different: (steps,) int64.

    They are AudioLDM's and diffusers' (facts A4: 1, 6, ..., 996 of 200): ``offset``, offset + N // steps, ...
    Pure noise stands for the first s_n, offset + (steps - 1) (N // steps): unvisited above it are a distance less
    offset + 1, and the N % steps on top of that, 3 steps of 200 but 85 of 12, which begin at 914, and 498 of 2. Where
    N % steps is a distance or more (300 steps would begin at 898, 501 at 501), the steps are spread over
    offset ... N - 1 instead. ``offset`` gives way where so many steps have no room for it: 1000 are 999, ..., 0.
    A single step begins at ``offset``, so that noise stands for an all but clean latent (:func:`sample` warns).

    Args:
        train_steps: N of the training schedule.
        steps: how many.
        offset: the last one.
        start: begin at this step, with a latent noised up to it; the steps are spread over ``offset`` ... start.

    Raises:
        ValueError: steps is not within 1 ... train_steps, or start not within steps - 1 ... train_steps - 1.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps={steps}: must be between 1 and {train_steps}")
    if start is not None:
        if not steps - 1 <= start < train_steps:
            raise ValueError(f"start={start}: must be between {steps - 1} (steps - 1) and {train_steps - 1}")
        offset = min(offset, start - (steps - 1))
        # from the start down, so that a single step is the start
        return start - torch.arange(steps) * (start - offset) // max(1, steps - 1)
    distance, left = divmod(train_steps, steps)
    offset = min(offset, train_steps - 1 - (steps - 1) * distance)
    i = torch.arange(steps)
    grid = i * distance if left < distance else i * (train_steps - offset) // steps
    return (grid + offset).flip(0)


def sample(
    model: NoiseModel,
    noise: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int,
    sampler: str = "ddim",
    eta: float = 0.0,
    scheduler_config: dict[str, Any] | None = None,
    generators: list[torch.Generator] | None = None,
    progress: bool = False,
    start: int | None = None,
) -> Tensor:
    """Run the reverse process from ``noise`` (B, C, T, F) to a clean latent of the same shape.

    Args:
        model: predicts the noise, guidance included.
        noise: standard normal; with ``start``, the s_n to begin with (:meth:`NoiseSchedule.q_sample`).
        schedule: the training schedule.
        steps: number of model calls (the paper: 200). One gives little but noise, and a warning.
        sampler: one of :data:`SAMPLERS`; DDIM is ours, the few-step solvers are diffusers'.
        eta: DDIM's stochasticity (the original AudioLDM samples with 1.0, diffusers with 0.0).
        scheduler_config: the checkpoint's scheduler config: betas, and the offset of the steps, which are the same
            for all samplers (:func:`sampling_steps`).
        generators: one per item, for the noise that eta > 0 adds, so that an item does not depend on its batch.
        progress: show a progress bar over the steps.
        start: the step n of an s_n to begin with; None: pure noise.

    Raises:
        ValueError: unknown sampler, or steps or start out of range.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    if steps == 1 < schedule.steps and start is None:
        warnings.warn(
            "steps=1: the one step is that of an all but clean latent, and noise comes out; take 2 or more",
            stacklevel=2,
        )
    if sampler != "ddim":
        if eta:
            raise ValueError(f"eta={eta:g}: {sampler} is deterministic; only ddim has an eta")
        return _sample_with_diffusers(
            model, noise, schedule, steps, sampler, scheduler_config, progress, start
        )
    config = scheduler_config or {}
    ladder = sampling_steps(schedule.steps, steps, config.get("steps_offset", 1), start).tolist()
    s = noise
    # where the ladder ends: diffusers' set_alpha_to_one, which AudioLDM leaves off
    final = schedule.abar.new_tensor(1.0) if config.get("set_alpha_to_one", False) else schedule.abar[0]
    ends = [*(schedule.abar[n] for n in ladder[1:]), final]
    for n, abar_to in zip(
        tqdm(ladder, desc="sampling", leave=False, disable=not progress), ends, strict=True
    ):
        eps = model(s, torch.full((len(s),), n, device=s.device))
        s = _ddim_update(s, eps, schedule.abar[n], abar_to, eta, generators)
    return s


def _ddim_update(
    s: Tensor,
    eps: Tensor,
    abar_n: Tensor,
    abar_to: Tensor,
    eta: float,
    generators: list[torch.Generator] | None,
) -> Tensor:
    """DDIM, eq. 12 of arXiv:2010.02502: from abar_n to abar_to with sigma scaled by eta."""
    s_0 = (s - (1 - abar_n).sqrt() * eps) / abar_n.sqrt()
    variance = (1 - abar_to) / (1 - abar_n) * (1 - abar_n / abar_to)
    sigma = eta * variance.clamp(min=0).sqrt()
    s = abar_to.sqrt() * s_0 + (1 - abar_to - sigma**2).clamp(min=0).sqrt() * eps
    if eta > 0:
        s = s + sigma * randn_per_item(s.shape, generators, device=s.device, dtype=s.dtype)
    return s


def randn_per_item(
    shape: torch.Size | tuple[int, ...],
    generators: list[torch.Generator] | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (B, ...), item i from generators[i]: an item does not depend on its batch."""
    if generators is None:
        return torch.randn(shape, device=device, dtype=dtype)
    return torch.stack([torch.randn(shape[1:], generator=g, device=g.device) for g in generators]).to(
        device=device, dtype=dtype
    )


def _sample_with_diffusers(
    model: NoiseModel,
    noise: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    sampler: str,
    scheduler_config: dict[str, Any] | None,
    progress: bool,
    start: int | None,
) -> Tensor:
    import diffusers

    class_name, extra = SAMPLERS[sampler]
    config = dict(scheduler_config or {})
    config.setdefault("num_train_timesteps", schedule.steps)
    config.setdefault("beta_schedule", "scaled_linear")
    config.setdefault("beta_start", float(schedule.betas[0]))
    config.setdefault("beta_end", float(schedule.betas[-1]))
    for name in ("_class_name", "_diffusers_version", "clip_sample", "set_alpha_to_one", "skip_prk_steps"):
        config.pop(name, None)
    solver = getattr(diffusers, class_name)(**{k: v for k, v in config.items() if k in _SOLVER_KEYS}, **extra)
    solver.set_timesteps(steps, device=noise.device)
    # DDIM's steps: for AudioLDM's spacing ("leading") diffusers' multistep solvers take N // (steps + 1) as distance,
    # begin at n = 801 of 200 steps, and take pure noise for s_801
    ladder = sampling_steps(schedule.steps, steps, config.get("steps_offset", 1), start)
    abar = solver.alphas_cumprod[ladder].cpu()
    solver.timesteps = ladder.to(noise.device)
    solver.sigmas = torch.cat([((1 - abar) / abar).sqrt(), abar.new_zeros(1)])
    s = noise * solver.init_noise_sigma
    for n in tqdm(solver.timesteps, desc="sampling", leave=False, disable=not progress):
        eps = model(solver.scale_model_input(s, n), n.expand(len(s)))
        s = solver.step(eps, n, s).prev_sample
    return s


_SOLVER_KEYS = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
}
