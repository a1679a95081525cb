"""Guidance, and the samplers: from noise, or from a noised latent, to a clean one (eq. 1 turned round)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from latentclap.diffusion.schedule import NoiseSchedule

#: (s_n, n) -> predicted noise, both of the latent's shape; n is a tensor (B,) of step numbers
NoiseModel = Callable[[Tensor, Tensor], Tensor]


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
        schedule: the training schedule; one that ends in noise alone, or whose network predicts something else than
            noise, is not sampled here.
        steps: number of model calls (the paper: 200). One gives little but noise, and a warning.
        sampler: one of :data:`SAMPLERS`; DDIM is ours, the few-step solvers are diffusers'.
        eta: DDIM's stochasticity (the original AudioLDM samples with 1.0, diffusers with 0.0).
        scheduler_config: the checkpoint's scheduler config: betas, and the offset of the steps, which are the same
            for all samplers (:func:`sampling_steps`).
        generators: one per item, for the noise that eta > 0 adds, so that an item does not depend on its batch.
        progress: show a progress bar over the steps.
        start: the step n of an s_n to begin with; None: pure noise.

    Raises:
        ValueError: unknown sampler, steps or start out of range, or a schedule that is not sampled here.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    _check_schedule(schedule, scheduler_config or {})
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


def _check_schedule(schedule: NoiseSchedule, config: dict[str, Any]) -> None:
    """Only predicted noise is sampled from: another output would be taken for noise, and give noise."""
    for prediction in (schedule.prediction, config.get("prediction_type", "epsilon")):
        if prediction != "epsilon":
            raise ValueError(
                f"prediction {prediction!r}: only models that predict noise (epsilon) are sampled here; take"
                " diffusers' own scheduler"
            )
    if schedule.zero_terminal_snr:
        raise ValueError(
            "zero terminal SNR: at the last step predicted noise says nothing of the latent, and sampling cannot"
            " begin there; take diffusers' own scheduler, and a model that predicts v"
        )


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
    if not schedule.scaled_linear:  # a schedule that the names above do not tell
        config["trained_betas"] = schedule.betas.tolist()
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
    "trained_betas",
}
