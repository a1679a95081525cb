"""Measurements on held-out latents that need no sampling: eq. 1 and 3 with fixed noise, φ against noise level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentclap.losses import LatentCLAPLoss, ddpm_loss, step_weight
from latentclap.system import FoleySystem


def _noise(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _rows(cache: dict[str, Tensor], clips: int) -> Tensor:
    """Numbers of ``clips`` clips spread evenly over a cache, which is in order of class; all for 0."""
    length = len(cache["mean"])
    return torch.linspace(0, length - 1, min(clips or length, length)).round().long()


def spread_levels(schedule_steps: int, count: int) -> Tensor:
    """Steps at the middle of ``count`` equal parts of 0 ... N-1."""
    return ((torch.arange(count) + 0.5) * schedule_steps / count).long()


def heldout_losses(
    system: FoleySystem,
    phi: nn.Module | None,
    cache: dict[str, Tensor],
    *,
    levels: int = 10,
    clips: int = 0,
    seed: int = 0,
    batch_size: int = 16,
) -> dict[str, list[float]]:
    """Eq. 1 and the CLAP distance of eq. 3 on held-out clips, every clip at every level with the same noise.

    The same noise for every system makes differences between systems paired, so that few clips say much.

    Args:
        system: whose UNet is measured, with its tuning layer.
        phi: the Latent CLAP encoder; None where there is none: clap and cosine are NaN then.
        cache: of held-out clips.
        levels: number of steps n, evenly spread.
        clips: so many clips, spread over the classes; 0: all.
        seed: of the noise.
        batch_size: rows per forward pass.

    Returns:
        Lists over the levels: n, ddpm (eq. 1), clap (mean over 512 dimensions of eq. 3's square, reading x0,
        before w), cosine (of E_latent and E_audio).
    """
    table = heldout_table(system, phi, cache, levels=levels, clips=clips, seed=seed, batch_size=batch_size)
    means = {name: table[name].mean(1).tolist() for name in ("ddpm", "clap", "cosine")}
    return {"n": table["n"].tolist(), **means}


@torch.no_grad()
def heldout_table(
    system: FoleySystem,
    phi: nn.Module | None,
    cache: dict[str, Tensor],
    *,
    levels: int = 10,
    clips: int = 0,
    seed: int = 0,
    batch_size: int = 16,
) -> dict[str, Tensor]:
    """What :func:`heldout_losses` takes the means of.

    Returns:
        n (levels,); ddpm, clap, cosine (levels, clips).
    """
    rows = _rows(cache, clips)
    count = len(rows)
    s_0, E_audio = cache["mean"][rows].to(system.device), cache["E_audio"][rows].to(system.device)
    E = system.condition(cache["E_text"][rows].to(system.device))
    loss = None if phi is None else LatentCLAPLoss(phi, schedule=system.schedule)
    steps = spread_levels(system.schedule.steps, levels)
    out: dict[str, list[Tensor]] = {"ddpm": [], "clap": [], "cosine": []}
    for k, level in enumerate(steps.tolist()):
        eps = _noise(s_0.shape, seed * 1000 + k).to(s_0)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for i in range(0, count, batch_size):
            part = slice(i, i + batch_size)
            n = torch.full((len(s_0[part]),), level, device=s_0.device)
            s_n = system.schedule.q_sample(s_0[part], n, eps[part])
            eps_theta = system.eps_theta(s_n, n, E[part])
            unknown = torch.full_like(E_audio[part], torch.nan)
            E_latent = loss.embed(system.schedule.predict_x0(s_n, n, eps_theta)) if loss else unknown
            columns.append(
                (
                    ddpm_loss(eps_theta, eps[part], reduction="none"),
                    (E_audio[part] - E_latent).square().mean(1),
                    F.cosine_similarity(E_latent, E_audio[part], dim=-1),
                )
            )
        for name, column in zip(out, zip(*columns, strict=True), strict=True):
            out[name].append(torch.cat(column).cpu())
    return {"n": steps} | {name: torch.stack(values) for name, values in out.items()}


def summarise(losses: dict[str, list[float]], *, steps: int = 1000) -> dict[str, float]:
    """Expectations over uniform n: eq. 1, eq. 3 with the paper's w, and the mean cosine over levels up to 200.

    A level stands for the steps that are nearer to it than to any other. The losses change slowly over those, w does
    not (it halves every 60 steps): so it enters as its mean over them, and E[w] is exact whatever the levels.

    Args:
        losses: of :func:`heldout_losses`.
        steps: N, the number of training steps.

    Returns:
        ddpm, lclap, and cosine_200, which is NaN where no level is so low.
    """
    n, levels = torch.arange(steps), torch.tensor(losses["n"])
    cell = (n[:, None] - levels).abs().argmin(1)
    # the sum of w over a level's steps, over N: how much of E[w] is the level's
    w = np.bincount(cell.numpy(), step_weight(n).double().numpy(), len(levels)) / steps
    near = np.array(losses["n"]) <= 200
    return {
        "ddpm": float(np.mean(losses["ddpm"])),
        "lclap": float(np.sum(w * np.array(losses["clap"]))),
        "cosine_200": float(np.array(losses["cosine"])[near].mean()) if near.any() else float("nan"),
    }


@torch.no_grad()
def retrieval(E_latent: Tensor, E_audio: Tensor, label: Tensor) -> dict[str, float]:
    """What a constant embedding cannot reach: does a latent's embedding find its own clip among all?

    Args:
        E_latent: (n, D).
        E_audio: of the same clips (n, D), unit length.
        label: class of each (n,).

    Returns:
        mean cosine; R@1 and R@5, the shares of clips of which less than 1 or 5 others are nearer than the own one;
        same_class, the share whose nearest clip is of the same class.
    """
    similar = F.normalize(E_latent, dim=-1) @ E_audio.T
    rank = (similar > similar.diag()[:, None]).sum(1)
    return {
        "cosine": similar.diag().mean().item(),
        "R@1": (rank == 0).float().mean().item(),
        "R@5": (rank < 5).float().mean().item(),
        "same_class": (label[similar.argmax(1)] == label).float().mean().item(),
    }


@torch.no_grad()
def noise_curve(
    phi: nn.Module,
    system: FoleySystem,
    cache: dict[str, Tensor],
    levels: Sequence[int],
    *,
    constant: Tensor | None = None,
    clips: int = 0,
    seed: int = 0,
    batch_size: int = 16,
) -> dict[str, list[float]]:
    """Cosine of φ's embedding with E_audio against noise: on s_n itself and on the one-step estimate of s_0.

    Args:
        phi: the Latent CLAP encoder.
        system: gives schedule and UNet.
        cache: of held-out clips.
        levels: steps n; 0 is the clean latent.
        constant: the answer (D,) of an encoder that looks at nothing: the mean embedding of the clips that φ was
            trained on. None: that of the held-out clips themselves, which no encoder could know.
        clips: so many clips, spread over the classes; 0: all.
        seed: of the noise.
        batch_size: rows per forward pass.

    Returns:
        Lists over the levels: n, noisy, x0; and mean_vector, the cosine of the constant answer, the line that a
        useless encoder reaches.
    """
    rows = _rows(cache, clips)
    s_0, E_audio = cache["mean"][rows].to(system.device), cache["E_audio"][rows].to(system.device)
    E = system.condition(cache["E_text"][rows].to(system.device))
    out: dict[str, list[float]] = {"n": [], "noisy": [], "x0": [], "mean_vector": []}
    answer = E_audio.mean(0) if constant is None else constant.to(E_audio)
    useless = F.cosine_similarity(answer[None], E_audio, dim=-1).mean().item()
    for level in levels:
        eps = _noise(s_0.shape, seed).to(s_0)
        cosines: dict[str, list[Tensor]] = {"noisy": [], "x0": []}
        for i in range(0, len(s_0), batch_size):
            part = slice(i, i + batch_size)
            s_n = x0 = s_0[part]
            if level:
                n = torch.full((len(s_n),), level, device=s_0.device)
                s_n = system.schedule.q_sample(s_0[part], n, eps[part])
                x0 = system.schedule.predict_x0(s_n, n, system.eps_theta(s_n, n, E[part]))
            for name, latent in (("noisy", s_n), ("x0", x0)):
                cosines[name].append(F.cosine_similarity(phi(latent), E_audio[part], dim=-1))
        out["n"].append(level)
        out["mean_vector"].append(useless)
        for name, values in cosines.items():
            out[name].append(torch.cat(values).mean().item())
    return out


@torch.no_grad()
def embedded(phi: nn.Module, latents: Tensor, *, batch_size: int = 64) -> Tensor:
    """φ's embeddings (n, D) of latents (n, C, T, F), so many at a time, on the CPU."""
    device = next(phi.parameters()).device
    parts = [phi(latents[i : i + batch_size].to(device)).cpu() for i in range(0, len(latents), batch_size)]
    return torch.cat(parts)


def gradient_ratios(
    system: FoleySystem,
    phi: nn.Module,
    cache: dict[str, Tensor],
    readings: Sequence[str],
    levels: Sequence[int],
    *,
    lam: float,
    weighting: str = "paper",
    clips: int = 14,
    seed: int = 0,
) -> dict[str, list[float]]:
    """λ |∂L_LCLAP/∂eps_theta| / |∂L_DDPM/∂eps_theta| at each step n, for each reading: who steers the UNet where.

    Measured at the UNet's output, on real latents with the pretrained prediction, mean over clips.
    """
    rows = _rows(cache, clips)
    s_0, E_audio = cache["mean"][rows].to(system.device), cache["E_audio"][rows].to(system.device)
    E = system.condition(cache["E_text"][rows].to(system.device)).detach()
    losses = {
        r: LatentCLAPLoss(phi, schedule=system.schedule, reading=r, weighting=weighting) for r in readings
    }
    eps = _noise(s_0.shape, seed).to(s_0)
    ratios: dict[str, list[float]] = {r: [] for r in readings}
    for level in levels:
        n = torch.full((len(rows),), level, device=s_0.device)
        s_n = system.schedule.q_sample(s_0, n, eps)
        with torch.no_grad():
            eps_theta = system.eps_theta(s_n, n, E)
        eps_theta = eps_theta.clone().requires_grad_(True)
        (base,) = torch.autograd.grad(ddpm_loss(eps_theta, eps), eps_theta)
        for reading, loss in losses.items():
            value = lam * loss(eps_theta, s_n, n, E_audio, s_0=s_0)
            (ours,) = torch.autograd.grad(value, eps_theta)
            ratio = ours.flatten(1).norm(dim=1) / base.flatten(1).norm(dim=1)
            ratios[reading].append(float(ratio.mean()))
    return ratios
