"""Generation: the reverse process over latents with guidance, and clips of classes or of texts."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.checkpoints import Sampling
from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.diffusion import NoiseModel, guide, randn_per_item, sample
from latentclap.errors import InputError
from latentclap.system.encoders import Encoders
from latentclap.train.replay import NotRecorded


def item_seed(seed: int, text: str, index: int) -> int:
    """Seed of one generated item: it depends on nothing but (seed, prompt, index), not on batch or company."""
    words = np.random.SeedSequence([seed, zlib.crc32(text.encode()), index]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])


class Generator(Encoders):
    """A system that makes clips: the UNet as a noise model, sampled by :mod:`latentclap.diffusion`."""

    def generate(
        self,
        classes: Sequence[str] | str | None = None,
        n: int = 1,
        *,
        prompts: Sequence[str] | str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        eta: float = 0.0,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 16,
        progress: bool = False,
    ) -> np.ndarray:
        """Generate n clips for each class, or for each prompt.

        Args:
            classes: names of the seven classes, turned into the paper's prompts (IV-A). None with no prompts: all.
            n: clips per class or prompt.
            prompts: free texts instead of classes.
            steps: sampling steps (the paper: 200). None: this system's (:attr:`sampling`), or with another sampler
                than its own the paper's.
            guidance_scale: classifier-free guidance (the paper: 2.0 for all classes); 1 switches it off. None: this
                system's.
            sampler: "ddim", "dpmsolver++" or "unipc". None: this system's.
            eta: DDIM's stochasticity, 0 ... 1.
            seed: item i of a prompt is the same for a seed on one machine, whatever is generated beside it.
            first: number of the first item, to go on where an earlier call ended.
            batch_size: clips per UNet call (twice as many rows with guidance).
            progress: show progress bars.

        Returns:
            float32 waves (len(classes) * n, samples) at :attr:`sampling_rate`, classes in the order given.

        Raises:
            InputError: both or no names given, an unknown class, n < 1, or a sampling parameter out of range.
        """
        texts = self.texts(classes, prompts)
        for name, value, least in (("n", n, 1), ("seed", seed, 0), ("first", first, 0)):
            _need_whole(name, value, least)
        items = [(t, item_seed(seed, t, i)) for t in texts for i in range(first, first + n)]
        latents = self.generate_latents(
            [t for t, _ in items],
            [s for _, s in items],
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            eta=eta,
            batch_size=batch_size,
            progress=progress,
        )
        return self.decode(latents, progress=progress)

    @staticmethod
    def texts(
        classes: Sequence[str] | str | None = None, prompts: Sequence[str] | str | None = None
    ) -> list[str]:
        """The texts that :meth:`generate` conditions on.

        Raises:
            InputError: both are given, an empty list or text, or a name that is no class.
        """
        if classes is not None and prompts is not None:
            raise InputError("give classes or prompts, not both")
        if prompts is not None:
            texts = [prompts] if isinstance(prompts, str) else list(prompts)
            if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
                raise InputError("prompts must be one or more texts that are not empty")
            return texts
        names = [classes] if isinstance(classes, str) else list(CLASSES if classes is None else classes)
        if not names:
            raise InputError(f"no class given; the classes are {', '.join(CLASSES)}")
        try:
            return [prompt(canonical_class(name)) for name in names]
        except ValueError as error:
            raise InputError(str(error)) from None

    @torch.no_grad()
    def generate_latents(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        eta: float = 0.0,
        batch_size: int = 16,
        progress: bool = False,
    ) -> Tensor:
        """Latents (n, C, T, F) for n texts, item i from noise of seeds[i]; see :meth:`generate`.

        Raises:
            InputError: not a seed for each text, or a sampling parameter out of range.
        """
        chosen = self._chosen(sampler, steps, guidance_scale)
        if not 0 <= eta <= 1:
            raise InputError(f"eta={eta}: must be between 0 (DDIM) and 1 (DDPM's noise)")
        _need_whole("batch_size", batch_size, 1)
        wanted = len(texts)
        if not wanted or wanted != len(seeds):
            raise InputError(
                f"{wanted} texts and {len(seeds)} seeds: give a seed for each text, one at least"
            )
        if self.unet._compiled_call_impl is not None:
            # each size of a batch is compiled for itself: better a full batch whose surplus is dropped
            if wanted > batch_size or batch_size in self.sizes:
                surplus = -wanted % batch_size
                texts, seeds = ([*given, *[given[-1]] * surplus] for given in (texts, seeds))
            self.sizes.add(min(batch_size, wanted))
        unique = sorted(set(texts))
        E = self.condition(self.encode_text([*unique, ""]))
        row = {text: i for i, text in enumerate(unique)}
        out = []
        batches = range(0, len(texts), batch_size)
        for start in tqdm(batches, desc="generating", leave=False, disable=not progress or len(batches) < 2):
            part = slice(start, start + batch_size)
            E_cond = E[[row[t] for t in texts[part]]]
            generators = [torch.Generator().manual_seed(s) for s in seeds[part]]
            noise = randn_per_item((len(E_cond), *self.latent_shape), generators, device=self.device)
            model = self.guided(E_cond, E[-1:].expand_as(E_cond), chosen.guidance_scale)
            try:
                latents = sample(
                    model,
                    noise,
                    self.schedule,
                    steps=chosen.steps,
                    sampler=chosen.sampler,
                    eta=eta,
                    scheduler_config=dict(self.scheduler.config),
                    generators=generators,
                    progress=progress,
                )
            except ValueError as error:
                raise InputError(str(error)) from None
            out.append(latents)
        return torch.cat(out)[:wanted]

    def _chosen(self, sampler: str | None, steps: int | None, guidance_scale: float | None) -> Sampling:
        """How to sample: what is given, and this system's own settings for the rest."""
        chosen = self.sampling.but(sampler, steps, guidance_scale)
        if chosen.guidance_scale < 0 or not math.isfinite(chosen.guidance_scale):
            raise InputError(f"guidance_scale={chosen.guidance_scale}: must be zero or more (the paper: 2.0)")
        if not (isinstance(chosen.steps, Integral) and 1 <= chosen.steps <= self.schedule.steps):
            raise InputError(
                f"steps={chosen.steps}: must be between 1 and {self.schedule.steps} (the paper: 200)"
            )
        return chosen

    def guided(self, E_cond: Tensor, E_uncond: Tensor, scale: float) -> NoiseModel:
        """The UNet as a noise model with classifier-free guidance, both halves in one batch.

        Args:
            E_cond: what clips are conditioned on (B, 512), see :meth:`condition`.
            E_uncond: the same of the empty text (B, 512).
            scale: of the guidance; 1 switches it off.
        """
        if scale == 1:
            return lambda s, n: self.eps_theta(s, n, E_cond)
        both = torch.cat([E_uncond, E_cond])

        def model(s: Tensor, n: Tensor) -> Tensor:
            eps_uncond, eps_cond = self.eps_theta(torch.cat([s, s]), torch.cat([n, n]), both).chunk(2)
            return guide(eps_uncond, eps_cond, scale)

        return model

    def eps_theta(self, s_n: Tensor, n: Tensor, E: Tensor) -> Tensor:
        """The UNet's noise prediction for latents (B, C, T, F), steps (B,) and condition (B, 512)."""
        # a copy of this system may have got another UNet
        if self.replay and self.replay.of is self.unet and not torch.is_grad_enabled():
            try:
                return self.replay({"s_n": s_n, "n": n, "E": E})["eps"]
            except NotRecorded as error:
                self.replay.close()
                self.replay = None
                warnings.warn(
                    f"the UNet cannot be recorded as a CUDA graph ({error}); clips are generated without one",
                    stacklevel=2,
                )
        return predicted(self.unet, s_n, n, E, half=self.half)


def predicted(unet: nn.Module, s_n: Tensor, n: Tensor, E: Tensor, *, half: bool) -> Tensor:
    """A UNet's noise prediction in float32, by products in bf16 where its weights are rounded to it."""
    if not half:
        return unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
    with torch.autocast(s_n.device.type, torch.bfloat16):
        return unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample.float()


def one_pass(unet: nn.Module, half: bool, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """:func:`predicted` as "eps", from named tensors: what is recorded as a CUDA graph."""
    return {"eps": predicted(unet, **given, half=half)}


def _need_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}={value}: must be a whole number of at least {least}")
