"""From a sound to sounds like it: noise is added to its latent, part of the way, and taken away again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from latentclap.audio import MODEL_RATE, repeat_to
from latentclap.diffusion import randn_per_item, sample
from latentclap.errors import InputError
from latentclap.system import FoleySystem, item_seed
from latentclap.vary.sounds import STRENGTH

if TYPE_CHECKING:
    from torch import Tensor

    from latentclap.checkpoints import Sampling

#: Peak below which a sound is silence.
SILENT = 1e-6
#: Samples between a sound's end and its next repetition: the onset of that one, which a window of the log-mel (1024
#: samples) or a strength moves forward, would be heard as a click at the end of every variation.
PAUSE = 2400
#: By how much a variation is made louder at most (40 dB): one that came out all but silent would be a hiss.
MOST_GAIN = 100.0


def start_of(strength: float, steps: int, train_steps: int) -> tuple[int, int]:
    """The step n that a sound is noised up to, and the number of steps back.

    The steps lie as far apart as ``steps`` over the whole process, or closer.

    Args:
        strength: share of the process, above 0 and up to 1.
        steps: of a whole generation.
        train_steps: N of the training schedule.
    """
    start = max(1, round(strength * (train_steps - 1)))
    # steps have one distance less between them than they are; 0.07 * 100 is a little more than 7
    distances = math.ceil(round((steps - 1) * strength, 6))
    return start, min(start + 1, steps, 1 + distances)


def vary(
    system: FoleySystem,
    waves: Sequence[np.ndarray],
    n: int = 1,
    *,
    strength: float = STRENGTH,
    prompts: Sequence[str] | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Make n variations of each sound: SDEdit (arXiv:2108.01073), AudioLDM's "style transfer" (arXiv:2301.12503).

    A sound's latent s_0 is noised up to step ``strength * N`` and denoised from there. A sound that is shorter than
    the system's clips is repeated for it (:func:`filled`), and its variations are cut to its length.

    Args:
        system: whose VAE, UNet and vocoder make them.
        waves: sounds (samples,) at 16 kHz, any level; of those longer than the system's clips, the beginning.
        n: variations of each.
        strength: above 0, where all stays but what VAE and vocoder change, up to 1, where hardly anything does.
        prompts: a text for each sound; None: each is conditioned on its own CLAP embedding.
        steps: of a whole generation, of which ``strength`` is taken. None: the system's own, as for the next two.
        guidance_scale: classifier-free guidance.
        sampler: "ddim", "dpmsolver++" or "unipc".
        eta: DDIM's stochasticity, 0 ... 1.
        seed: variation i of a sound is the same for a seed on one machine, whatever is made beside it. The same noise
            is added at every strength.
        first: number of the first variation, to go on where an earlier call ended.
        batch_size: clips per UNet call.

    Returns:
        For each sound float32 (n, samples), as long as it was given, or as the system's clips, and of its energy.

    Raises:
        InputError: no sound, one that is silent or empty, not a prompt for each, a value out of range, or a system
            without the CLAP that ``prompts=None`` needs (:func:`check_steering`).
    """
    if not 0 < strength <= 1:
        raise InputError(
            f"strength={strength:g}: it lies above 0 (the sound itself) and up to 1 (another sound)"
        )
    chosen = system.sampling.but(sampler, steps, guidance_scale)
    if not 1 <= chosen.steps <= system.schedule.steps:
        raise InputError(f"steps={chosen.steps}: must be between 1 and {system.schedule.steps}")
    if not 0 <= chosen.guidance_scale < math.inf:
        raise InputError(f"guidance_scale={chosen.guidance_scale}: must be zero or more")
    if not 0 <= eta <= 1:
        raise InputError(f"eta={eta}: must be between 0 (DDIM) and 1 (DDPM's noise)")
    if not waves or n < 1:
        raise InputError("nothing to vary: give one sound and n=1 at least")
    if batch_size < 1 or seed < 0 or first < 0:
        raise InputError(f"batch_size={batch_size}, seed={seed}, first={first}: at least 1, 0 and 0")
    if prompts is not None and len(prompts) != len(waves):
        raise InputError(f"{len(prompts)} prompts for {len(waves)} sounds: give one for each, or none")
    if prompts is None:
        check_steering(system)
    heard = [level(wave, system.samples, f"sound {i}") for i, wave in enumerate(waves)]
    full = np.stack([filled(wave, system.samples) for wave, _ in heard])
    s_0 = system.encode(full)
    with torch.no_grad():
        E_none = system.condition(system.encode_text([""]))
        # in E_text's place: through the tuning layer too, which a saved system's UNet may hold (storage.fold)
        E = system.condition(
            system.encode_audio(full) if prompts is None else system.encode_text(list(prompts))
        )
    items = [(k, i) for k in range(len(waves)) for i in range(first, first + n)]
    # of the sound and its number, not of its place among others
    names = [hashlib.sha256(wave.tobytes()).hexdigest() for wave in full]
    seeds = [item_seed(seed, names[k], i) for k, i in items]
    start, count = start_of(strength, chosen.steps, system.schedule.steps)
    out = []
    for at in range(0, len(items), batch_size):
        rows = [k for k, _ in items[at : at + batch_size]]
        generators = [torch.Generator().manual_seed(s) for s in seeds[at : at + batch_size]]
        out.append(
            system.decode(
                _back(system, s_0[rows], E[rows], E_none, generators, start, count, chosen, eta),
                batch_size=batch_size,
            )
        )
    made = np.concatenate(out).reshape(len(waves), n, -1)
    return [_as_loud(clips, wave, gain) for clips, (wave, gain) in zip(made, heard, strict=True)]


def _as_loud(clips: np.ndarray, wave: np.ndarray, gain: float) -> np.ndarray:
    """Cut clips (n, samples) to a sound's length, and bring them to its energy times ``gain``.

    What the model makes of a sound may be several dB weaker, and each take by another amount.
    """
    clips = clips[:, : len(wave)].astype(np.float64)
    made = np.sqrt((clips**2).mean(axis=1, keepdims=True))
    wanted = float(np.sqrt((wave.astype(np.float64) ** 2).mean()))
    return (clips * gain * np.minimum(wanted / np.maximum(made, 1e-12), MOST_GAIN)).astype(np.float32)


def _back(
    system: FoleySystem,
    s_0: Tensor,
    E: Tensor,
    E_none: Tensor,
    generators: list[torch.Generator],
    start: int,
    count: int,
    chosen: Sampling,
    eta: float,
) -> Tensor:
    """Noise latents up to a step and denoise them."""
    eps = randn_per_item(s_0.shape, generators, device=system.device)
    s_n = system.schedule.q_sample(s_0, torch.full((len(s_0),), start, device=system.device), eps)
    try:
        with torch.no_grad():
            return sample(
                system.guided(E, E_none.expand_as(E), chosen.guidance_scale),
                s_n,
                system.schedule,
                steps=count,
                sampler=chosen.sampler,
                eta=eta,
                scheduler_config=dict(system.scheduler.config),
                generators=generators,
                start=start,
            )
    except ValueError as error:
        raise InputError(str(error)) from None


def through_model(system: FoleySystem, wave: np.ndarray) -> np.ndarray:
    """What a system's encoder, decoder and vocoder leave of a sound (samples,) that goes the way of :func:`vary`."""
    heard, gain = level(wave, system.samples)
    return system.reconstruct(filled(heard, system.samples)[None])[0][: len(heard)] * gain


def check_steering(system: FoleySystem) -> None:
    """Check that a sound's embedding can take the place of a text's in a system.

    Raises:
        InputError: it has no CLAP for sounds, or one that judges only: the UNet knows nothing of its space.
    """
    if system.clap is None:
        raise InputError(
            f"{system.name} has no CLAP audio branch, by which a sound steers its variations: give a text, --prompt"
            " or --class"
        )
    ours, judge = (part.text_projection.state_dict() for part in (system.text_encoder, system.clap))
    # files may hold the two at different precision
    same = ours.keys() == judge.keys() and all(
        ours[k].shape == judge[k].shape and torch.allclose(ours[k], judge[k], rtol=0.02, atol=1e-3)
        for k in ours
    )
    if not same:
        raise InputError(
            f"{system.name} is conditioned by another CLAP than the one it has for sounds: give a text, --prompt or"
            " --class"
        )


def level(wave: np.ndarray, samples: int, what: str = "the sound") -> tuple[np.ndarray, float]:
    """Bring a sound to zero mean and peak 0.5, as the model takes it, and cut it to a clip's length.

    Args:
        wave: (samples,), any level.
        samples: of a clip.
        what: names it in an error.

    Returns:
        The sound, and the factor that takes its level back.

    Raises:
        InputError: no samples of one channel, some that are not finite, or silence.
    """
    wave = np.asarray(wave, dtype=np.float64)
    if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
        raise InputError(f"{what}: give finite samples of one channel, not {wave.shape}")
    longer = len(wave) > samples
    wave = wave[:samples] - wave[:samples].mean()
    peak = float(np.abs(wave).max())
    if peak < SILENT:
        part = f"its first {samples / MODEL_RATE:g} s are silent, and only those are varied; cut them off"
        raise InputError(f"{what}: {part if longer else 'silence has no variations'}")
    return (wave * (0.5 / peak)).astype(np.float32), peak / 0.5


def filled(wave: np.ndarray, samples: int) -> np.ndarray:
    """Repeat a sound to a clip's length, with a pause before each repetition, in which its end dies away.

    In training (IV-A) sounds are repeated without one. The pause holds the sound's end backwards, at most half of
    the sound, faded: rain goes on for a moment, and behind a shot there is quiet.

    Args:
        wave: (samples,), float.
        samples: of a clip; of a longer wave the beginning is taken.
    """
    if len(wave) >= samples:
        return wave[:samples]
    rest = np.zeros(PAUSE, wave.dtype)
    if back := min(len(wave) // 2, PAUSE):
        rest[:back] = wave[: -back - 1 : -1] * np.linspace(1, 0, back, dtype=wave.dtype)
    return repeat_to(np.concatenate([wave, rest]), samples)
