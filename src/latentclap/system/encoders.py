"""The frozen encoders and their way back: texts and waves to CLAP's space, waves to latents and latents to waves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.audio import clap_features, log_mel, polish, repeat_to
from latentclap.errors import InputError
from latentclap.system.parts import Parts


class Encoders(Parts):
    """CLAP, VAE and vocoder of a system at work. None of them trains."""

    # ------------------------------------------------------------------------ texts and waves to CLAP's space

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

    # ----------------------------------------------------------------------------- mel, latent, wave

    def log_mel(self, waves: np.ndarray | Tensor) -> Tensor:
        """Waves (n, samples) at 16 kHz, repeated or cut to the clip length -> (n, 1, frames, 64)."""
        waves = repeat_to(_waves(waves), self.samples)
        return log_mel(torch.from_numpy(waves).to(self.device), self.mel)

    @torch.no_grad()
    def posterior(self, waves: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (n, C, T, F) of the VAE's posterior of waves (n, samples) at 16 kHz.

        They are of the scaled latent, which diffusion works on: s_0 = mean + exp(logvar / 2) eps.
        """
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


def _waves(waves: np.ndarray) -> np.ndarray:
    """Check and return waves (n, samples), float32.

    Raises:
        InputError: of several lengths, not floats, or not (n, samples).
    """
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
