"""FoleySystem: the whole of Fig. 1 at inference, text CLAP, tuning layer, UNet, VAE and vocoder.

Every part is a standard class of diffusers or transformers, so that a saved system opens in
``diffusers.AudioLDMPipeline`` and any AudioLDM checkpoint opens here.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap import storage
from latentclap.audio import MelConfig, clap_features, log_mel, polish, repeat_to
from latentclap.checkpoints import Sampling
from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.diffusion import NoiseModel, NoiseSchedule, guide, randn_per_item, sample
from latentclap.errors import InputError

# transformers and diffusers announce deprecated pipelines and unused weights on import; none concerns a user here
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def tuning_layer(dim: int = 512) -> nn.Linear:
    """The fully connected tuning layer after the text CLAP encoder (III-A): dim -> dim, starting as identity.

    The paper gives neither shape, activation nor start, and there is no code (facts B): a linear map that begins as
    the identity changes nothing before it is trained.
    """
    layer = nn.Linear(dim, dim)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim))
        layer.bias.zero_()
    return layer


def item_seed(seed: int, text: str, index: int) -> int:
    """Seed of one generated item: it depends on nothing but (seed, prompt, index), not on batch or company."""
    words = np.random.SeedSequence([seed, zlib.crc32(text.encode()), index]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])


@dataclass
class FoleySystem:
    """A text-to-Foley latent diffusion system (Fig. 1).

    Attributes:
        text_encoder: ``transformers.ClapTextModelWithProjection``, the CLAP that conditions the UNet.
        tokenizer: its tokenizer.
        unet: ``diffusers.UNet2DConditionModel``, FiLM-conditioned through class embeddings.
        vae: ``diffusers.AutoencoderKL`` over log-mels (B, 1, T, 64).
        vocoder: ``transformers.SpeechT5HifiGan``.
        scheduler: ``diffusers.DDIMScheduler``, kept for its configuration.
        tuning: the tuning layer of III-A, or None.
        clap: ``transformers.ClapModel`` that judges (E_audio, similarity scores); may be another checkpoint than
            the one that conditions (design: two CLAPs). None where a checkpoint has no audio branch.
        feature_extractor: the audio front end of ``clap``.
        frames: mel frames of a clip, a multiple of 4 x the UNet's stride (AudioLDM 1024, mini 416).
        polish: iterations by which the vocoder's wave is made to agree with its log-mel
            (:func:`latentclap.audio.polish`); None, as in AudioLDM's checkpoints, trusts the vocoder.
        sampling: sampler, steps and guidance where :meth:`generate` is told none; the paper's 200 steps and guidance
            2.0 (IV-B) by DDIM, as AudioLDM's code, unless the checkpoint has its own, as "mini" has.
        name: what the system was loaded from.
        half: the UNet's weights are rounded to bf16, and its products are bf16 (:meth:`for_generation`).
        judge_tokenizer: the tokenizer of ``clap``; None where it is ``tokenizer`` too.
    """

    text_encoder: nn.Module
    tokenizer: Any
    unet: nn.Module
    vae: nn.Module
    vocoder: nn.Module
    scheduler: Any
    tuning: nn.Linear | None = None
    clap: nn.Module | None = None
    feature_extractor: Any = None
    frames: int = 1024
    polish: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    name: str = "unnamed"
    mel: MelConfig = field(default_factory=MelConfig)
    half: bool = False
    judge_tokenizer: Any = None
    #: batch sizes that a compiled UNet has seen
    sizes: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.schedule = NoiseSchedule.from_config(dict(self.scheduler.config))
        self.eval()

    # ------------------------------------------------------------------------------- bookkeeping

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Name -> module of every part that has weights."""
        parts = {
            "text_encoder": self.text_encoder,
            "tuning": self.tuning,
            "unet": self.unet,
            "vae": self.vae,
            "vocoder": self.vocoder,
            "clap": self.clap,
        }
        return {k: v for k, v in parts.items() if v is not None}

    def eval(self) -> FoleySystem:
        """Evaluation mode, and no gradients to the frozen parts (IV-B: only UNet and tuning layer train)."""
        for name, part in self.parts.items():
            part.eval()
            if name not in ("unet", "tuning"):
                part.requires_grad_(False)
        return self

    def to(self, device: torch.device | str) -> FoleySystem:
        """Move every part to a device."""
        for part in self.parts.values():
            part.to(device)
        self.schedule.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the UNet."""
        return next(self.unet.parameters()).device

    @property
    def sampling_rate(self) -> int:
        """Samples per second of what :meth:`generate` returns."""
        return self.mel.sampling_rate

    @property
    def samples(self) -> int:
        """Samples of a generated clip: frames x hop."""
        return self.frames * self.mel.hop

    @property
    def seconds(self) -> float:
        """Duration of a generated clip in seconds."""
        return self.samples / self.sampling_rate

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, T, F) of a latent: (8, 256, 16) for AudioLDM."""
        ratio = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, self.frames // ratio, self.mel.n_mels // ratio

    @property
    def embed_dim(self) -> int:
        """Dimension of CLAP's space (512)."""
        return self.text_encoder.config.projection_dim

    # ---------------------------------------------------------------------------------- encoders

    @torch.no_grad()
    def encode_text(
        self, texts: Sequence[str], *, judge: bool = False, padding: str = "max_length"
    ) -> Tensor:
        """E_text, unit length: n texts -> (n, 512), before any tuning layer.

        Args:
            texts: any number of them.
            judge: by the judging CLAP instead of the conditioning one.
            padding: "max_length" as in AudioLDM; "longest" spares the work on padding, which is most of it for
                many short captions, and differs by rounding only.

        Raises:
            InputError: the judging CLAP is asked for and there is none, or not its tokenizer.
        """
        if not judge:
            return self._texts(self.text_encoder, self.tokenizer, texts, padding)
        self._need_clap("its text embeddings")
        words, own = self.clap.config.text_config.vocab_size, self.text_encoder.config.vocab_size
        if self.judge_tokenizer is None and words != own:
            # another's numbers of words would give embeddings of nothing, without a word
            raise InputError(
                f"the judging CLAP knows {words} words, the conditioning one {own}, and its tokenizer was not found:"
                " put its files (for LAION's, roberta-base's) into the judge's folder, or for a LAION file into"
                " roberta-base/ beside it"
            )
        return self._texts(self.clap, self.judge_tokenizer or self.tokenizer, texts, padding)

    def _texts(self, model: nn.Module, tokenizer: Any, texts: Sequence[str], padding: str) -> Tensor:
        tokens = tokenizer(
            list(texts),
            padding=padding,
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if hasattr(model, "get_text_features"):
            return F.normalize(
                model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output, dim=-1
            )
        return F.normalize(model(ids, attention_mask=mask).text_embeds, dim=-1)

    def condition(self, E_text: Tensor) -> Tensor:
        """What the UNet is conditioned on: E_text, through the tuning layer where there is one."""
        return E_text if self.tuning is None else self.tuning(E_text)

    @torch.no_grad()
    def encode_audio(self, waves: np.ndarray, *, batch_size: int = 16, progress: bool = False) -> Tensor:
        """E_audio of the judging CLAP, unit length, of waves (n, samples) at 16 kHz: (n, 512).

        Deterministic: CLAP's feature extractor crops long clips at random; here the first seconds are taken,
        and short clips are repeated by the extractor.

        Raises:
            InputError: the system has no CLAP with an audio branch, or the waves are not (n, samples).
        """
        self._need_clap("audio embeddings")
        waves = _waves(waves)
        out = []
        for start in tqdm(
            range(0, len(waves), batch_size), desc="CLAP audio", leave=False, disable=not progress
        ):
            features = clap_features(
                self.feature_extractor, waves[start : start + batch_size], self.sampling_rate
            )
            out.append(self.embed_features(features))
        return torch.cat(out)

    @torch.no_grad()
    def embed_features(self, features: Tensor) -> Tensor:
        """E_audio of the judging CLAP, unit length, from ``audio.clap_features`` (n, 1, frames, mels): (n, 512)."""
        self._need_clap("audio embeddings")
        embedding = self.clap.get_audio_features(input_features=features.to(self.device)).pooler_output
        return F.normalize(embedding.float(), dim=-1)

    @torch.no_grad()
    def similarity(self, waves: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Cosine similarity of each wave with its text by the judging CLAP, in [-1, 1]: (n,).

        No embedding is replaced at random, as the original wrapper does at inference too.
        """
        self._need_clap("similarity scores")
        E_audio = self.encode_audio(waves)
        unique = sorted(set(texts))
        E_text = dict(zip(unique, self.encode_text(unique, judge=True), strict=True))
        return (E_audio * torch.stack([E_text[t] for t in texts])).sum(-1).cpu().numpy()

    def _need_clap(self, what: str) -> None:
        if self.clap is None:
            raise InputError(
                f"{self.name} has no CLAP audio branch, needed for {what}: pass judge=<a ClapModel folder>"
                " to from_pretrained"
            )

    # ------------------------------------------------------------------------- mel, latent, wave

    def log_mel(self, waves: np.ndarray | Tensor) -> Tensor:
        """Waves (n, samples) at 16 kHz, repeated or cut to the clip length -> (n, 1, frames, 64)."""
        waves = repeat_to(_waves(waves), self.samples)
        return log_mel(torch.from_numpy(waves).to(self.device), self.mel)

    @torch.no_grad()
    def posterior(self, waves: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the VAE's posterior, scaled: s_0 = mean + exp(logvar / 2) eps. (n, C, T, F)."""
        distribution = self.vae.encode(self.log_mel(waves)).latent_dist
        scale = self.vae.config.scaling_factor
        return distribution.mean * scale, distribution.logvar + 2 * math.log(scale)

    @torch.no_grad()
    def encode(self, waves: np.ndarray, *, seed: int | None = None, batch_size: int = 8) -> Tensor:
        """Latents s_0 (n, C, T, F) of waves (n, samples) at 16 kHz: the posterior mean, or a sample for a seed."""
        pieces = [self.posterior(waves[i : i + batch_size]) for i in range(0, len(_waves(waves)), batch_size)]
        mean, logvar = (torch.cat(p) for p in zip(*pieces, strict=True))
        if seed is None:
            return mean
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
        return mean + (logvar / 2).exp() * eps

    @torch.no_grad()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """Latents (n, C, T, F) -> log-mel (n, 1, frames, 64)."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> np.ndarray:
        """Log-mel (n, 1, frames, 64) -> waves (n, frames x hop), float32 at 16 kHz, polished if the system is."""
        # SpeechT5HifiGan's odd upsampling factors add a few samples at the end
        wave = self.vocoder(mel.squeeze(1)).reshape(len(mel), -1)[:, : mel.shape[2] * self.mel.hop]
        if self.polish is not None:
            wave = polish(wave, mel, self.polish, self.mel)
        return wave.float().cpu().numpy()

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch_size: int = 4, progress: bool = False) -> np.ndarray:
        """Latents (n, C, T, F) -> waves (n, samples), float32 at 16 kHz, through VAE decoder and vocoder."""
        starts = tqdm(range(0, len(latents), batch_size), desc="decoding", leave=False, disable=not progress)
        return np.concatenate([self.vocode(self.decode_mel(latents[i : i + batch_size])) for i in starts])

    def reconstruct(self, waves: np.ndarray) -> np.ndarray:
        """Waves through VAE and vocoder: what the system can sound like at its best. (n, samples) at 16 kHz."""
        return self.decode(self.encode(waves))

    # ---------------------------------------------------------------------------------- generate

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
        chosen = self.sampling.but(sampler, steps, guidance_scale)
        sampler, steps, guidance_scale = chosen.sampler, chosen.steps, chosen.guidance_scale
        if guidance_scale < 0 or not math.isfinite(guidance_scale):
            raise InputError(f"guidance_scale={guidance_scale}: must be zero or more (the paper: 2.0)")
        if not 0 <= eta <= 1:
            raise InputError(f"eta={eta}: must be between 0 (DDIM) and 1 (DDPM's noise)")
        _need_whole("batch_size", batch_size, 1)
        if not (isinstance(steps, Integral) and 1 <= steps <= self.schedule.steps):
            raise InputError(f"steps={steps}: must be between 1 and {self.schedule.steps} (the paper: 200)")
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
            out.append(
                sample(
                    self.guided(E_cond, E[-1:].expand_as(E_cond), guidance_scale),
                    noise,
                    self.schedule,
                    steps=steps,
                    sampler=sampler,
                    eta=eta,
                    scheduler_config=dict(self.scheduler.config),
                    generators=generators,
                    progress=progress,
                )
            )
        return torch.cat(out)[:wanted]

    def for_generation(self, *, compile: bool = True) -> FoleySystem:
        """A copy for many clips on a GPU: compiled, in fewer passes over memory, products in bf16.

        Clips differ from this system's by bf16's rounding, 200 steps of it; a seed still gives the same clip again.
        Without a GPU that has bf16, everything stays float32. The copy shares all but the UNet's weights; it is not
        for training.

        Args:
            compile: torch.compile the UNet: most of a minute at the first batch, and again for a batch of another
                size; worth it from some hundred clips on.

        Raises:
            InputError: there is no C compiler, which torch.compile needs.
        """
        from latentclap.fast import half_weights, speed_up
        from latentclap.train.compiler import need_compiler
        from latentclap.train.config import has_bf16

        if compile:
            need_compiler()

        fast = copy.copy(self)
        fast.unet = speed_up(copy.deepcopy(self.unet)).requires_grad_(False)
        fast.half, fast.sizes = self.device.type == "cuda" and has_bf16(), set()
        if fast.half:
            half_weights(fast.unet)
        if compile:
            fast.unet.compile(dynamic=False)
        return fast

    def with_lora(self, path: str | Path) -> FoleySystem:
        """A copy with LoRA adapters merged into its UNet, and the tuning layer that was trained along.

        The copy is an ordinary system: it generates, trains and saves as any other.

        Args:
            path: the file that fine-tuning with ``lora_rank`` leaves, or its folder; or one that diffusers'
                ``save_lora_adapter`` wrote.

        Raises:
            InputError: no such file, one that is damaged, or adapters for another UNet. (For the same UNet with other
                weights there is a warning.)
        """
        from latentclap.lora import Adapter

        return Adapter.read(path).applied(self)

    def need_own_weights(self, what: str) -> None:
        """Refuse what the rounded weights of :meth:`for_generation` would spoil.

        Raises:
            InputError: this is such a copy.
        """
        if self.half:
            raise InputError(
                f"this copy from for_generation() has rounded weights: take the system itself {what}"
            )

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
        if not self.half:
            return self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample.float()

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
        try:
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
        except ValueError as error:
            raise InputError(str(error)) from None
        return self.decode(latents, progress=progress)

    @staticmethod
    def texts(
        classes: Sequence[str] | str | None = None, prompts: Sequence[str] | str | None = None
    ) -> list[str]:
        """The texts that :meth:`generate` conditions on."""
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

    # ------------------------------------------------------------------------------------- files

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, judge: str | Path | None = None, device: str = "cpu"
    ) -> FoleySystem:
        """Load a system.

        Args:
            name_or_path: "mini" (shipped with the package), a folder written by :meth:`save_pretrained` or by
                diffusers, a repository of the Hugging Face hub such as "cvssp/audioldm-m-full", or an original
                AudioLDM file (.ckpt; :func:`latentclap.convert.convert_audioldm` has the options).
            judge: the ``ClapModel`` that judges instead of the checkpoint's own, if it has one: a folder, a hub
                name, or LAION's file (630k-audioset-best.pt).
            device: where to put it.

        Raises:
            InputError: nothing to load there; the message says what is missing.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return storage.load_system(cls, name_or_path, judge=judge).to(device)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, pipeline: bool = True
    ) -> Path:
        """Write the system to a folder that ``diffusers.AudioLDMPipeline.from_pretrained`` opens.

        The tuning layer survives exactly: AudioLDM feeds E_text to one linear layer of the UNet, so a linear
        tuning layer folds into it, W' = W W_t and b' = W b_t + b. The folded UNet is what the pipeline opens;
        the factors are kept in ``tuning/``, so that :meth:`from_pretrained` gives both back for further training.

        Args:
            folder: written whole or not at all; an existing system there is replaced.
            dtype: e.g. torch.float16 to halve the size; None keeps it.
            pipeline: also write what only diffusers' pipeline needs (a second copy of the text encoder).

        Returns:
            The folder.
        """
        self.need_own_weights("to save it")
        return storage.save_system(self, Path(folder), dtype=dtype, pipeline=pipeline)


def _need_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}={value}: must be a whole number of at least {least}")


def _waves(waves: np.ndarray) -> np.ndarray:
    """Check and return waves (n, samples), float32."""
    if isinstance(waves, list | tuple) and len({len(np.atleast_1d(w)) for w in waves}) > 1:
        raise InputError("waves of several lengths make no array; give those of one length at a time")
    waves = np.asarray(waves)
    if waves.dtype.kind not in "f":
        raise InputError(
            f"waves are {waves.dtype}; give floats within +-1: whole numbers of 16 bits divided by 32768"
        )
    waves = waves.astype(np.float32, copy=False)
    if waves.ndim != 2 or not waves.size:
        raise InputError(f"waves must be (n, samples), got {waves.shape}")
    return waves
