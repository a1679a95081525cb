"""The parts of a system, and what follows from their configurations: device, duration, shape of a latent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from latentclap.audio import MelConfig
from latentclap.checkpoints import Sampling
from latentclap.diffusion import NoiseSchedule
from latentclap.errors import InputError
from latentclap.train.replay import Recorded


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


@dataclass
class Parts:
    """Everything of Fig. 1 that has weights, with the settings that its checkpoint came with."""

    #: ``transformers.ClapTextModelWithProjection``, the CLAP that conditions the UNet
    text_encoder: nn.Module
    #: its tokenizer
    tokenizer: Any
    #: ``diffusers.UNet2DConditionModel``, FiLM-conditioned through class embeddings
    unet: nn.Module
    #: ``diffusers.AutoencoderKL`` over log-mels (B, 1, T, 64)
    vae: nn.Module
    #: ``transformers.SpeechT5HifiGan``
    vocoder: nn.Module
    #: ``diffusers.DDIMScheduler``, kept for its configuration
    scheduler: Any
    #: the tuning layer of III-A, or None
    tuning: nn.Linear | None = None
    #: ``transformers.ClapModel`` that judges (E_audio, similarity scores); may be another checkpoint than the one
    #: that conditions (design: two CLAPs). None where a checkpoint has no audio branch
    clap: nn.Module | None = None
    #: the audio front end of ``clap``
    feature_extractor: Any = None
    #: mel frames of a clip, a multiple of 4 x the UNet's stride (AudioLDM 1024, mini 416)
    frames: int = 1024
    #: iterations by which the vocoder's wave is made to agree with its log-mel (:func:`latentclap.audio.polish`);
    #: None, as in AudioLDM's checkpoints, trusts the vocoder
    polish: int | None = None
    #: sampler, steps and guidance where :meth:`generate` is told none; the paper's 200 steps and guidance 2.0 (IV-B)
    #: by DDIM, as AudioLDM's code, unless the checkpoint has its own, as "mini" has
    sampling: Sampling = field(default_factory=Sampling)
    #: what the system was loaded from
    name: str = "unnamed"
    #: the front end of the VAE and of the vocoder
    mel: MelConfig = field(default_factory=MelConfig)
    #: the UNet's weights are rounded to bf16, and its products are bf16 (:meth:`for_generation`)
    half: bool = False
    #: the tokenizer of ``clap``; None where it is ``tokenizer`` too
    judge_tokenizer: Any = None
    #: batch sizes that a compiled UNet has seen
    sizes: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    #: the UNet's passes as CUDA graphs (:meth:`for_generation`)
    replay: Recorded | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.schedule = NoiseSchedule.from_config(dict(self.scheduler.config))
        self.eval()

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

    def eval(self) -> Self:
        """Evaluation mode, and no gradients to the frozen parts (IV-B: only UNet and tuning layer train)."""
        for name, part in self.parts.items():
            part.eval()
            if name not in ("unet", "tuning"):
                part.requires_grad_(False)
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move every part to a device."""
        if self.replay:
            self.replay.close()
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

    def need_own_weights(self, what: str) -> None:
        """Refuse what the rounded weights of :meth:`for_generation` would spoil.

        Raises:
            InputError: this is such a copy.
        """
        if self.half:
            raise InputError(
                f"this copy from for_generation() has rounded weights: take the system itself {what}"
            )
