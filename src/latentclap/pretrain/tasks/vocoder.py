"""The vocoder, from log-mels to waves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentclap.audio import MelConfig, log_mel
from latentclap.pretrain.adversary import WaveCritic, adversarial_terms
from latentclap.pretrain.tasks.draws import crop, randint
from latentclap.train import Task

#: (FFT size, hop) of the multi-resolution STFT loss
RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))


def stft_loss(wave: Tensor, target: Tensor, resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS) -> Tensor:
    """Multi-resolution STFT loss (arXiv:1910.11480): spectral convergence plus L1 of log magnitudes.

    Args:
        wave: (B, samples).
        target: (B, samples).
        resolutions: pairs of FFT size and hop.

    Returns:
        The mean over the resolutions, a scalar.
    """
    total = wave.new_zeros(())
    for n_fft, hop in resolutions:
        window = torch.hann_window(n_fft, device=wave.device)
        a, b = (
            torch.stft(x, n_fft, hop, window=window, return_complex=True).abs().clamp(min=1e-5)
            for x in (wave, target)
        )
        # the floor keeps near-silent crops from dominating the gradient
        convergence = (b - a).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp(min=1.0)
        total = total + convergence.mean() + (a.log() - b.log()).abs().mean()
    return total / len(resolutions)


class VocoderTask(Task):
    """HiFi-GAN's generator by multi-resolution STFT and log-mel distance, and against spectrogram critics.

    Args:
        vocoder: transformers' SpeechT5HifiGan.
        crop_frames: frames of the crops.
        mel_weight: of the log-mels' L1 beside the STFT loss.
        critic_weight: of the critics' scores; 0 leaves the critics out: a first, cheaper phase.
        feature_weight: of the critics' features.
    """

    def __init__(
        self,
        vocoder: nn.Module,
        *,
        crop_frames: int = 32,
        mel_weight: float = 1.0,
        critic_weight: float = 0.0,
        feature_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.vocoder = vocoder
        if critic_weight:
            self.critic = WaveCritic()
        self.crop_frames, self.mel = crop_frames, MelConfig()
        self.mel_weight, self.critic_weight, self.feature_weight = mel_weight, critic_weight, feature_weight

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mel (B, frames, 64), wave (B, frames x hop) int16.

        Returns:
            loss, stft, mel_l1 and, with critics, the adversarial terms.
        """
        frames, hop = self.crop_frames, self.mel.hop
        starts = randint(rngs, batch["mel"].shape[1] - frames + 1)
        mel = crop(batch["mel"], starts, frames).float()
        target = crop(batch["wave"], starts * hop, frames * hop).float() / 32767
        wave = self.vocoder(mel)[:, : frames * hop]
        stft = stft_loss(wave, target)
        mel_l1 = (log_mel(wave, self.mel) - log_mel(target, self.mel)).abs().mean()
        terms = {"stft": stft, "mel_l1": mel_l1}
        loss = stft + self.mel_weight * mel_l1
        if self.critic_weight:
            terms |= adversarial_terms(self.critic, target, wave)
            loss = loss + terms["critic"] + self.critic_weight * terms["deceive"]
            loss = loss + self.feature_weight * terms["features"]
        return {"loss": loss, **terms}
