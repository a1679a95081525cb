"""One task per part of the mini family."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentclap.audio import MelConfig, log_mel
from latentclap.diffusion import NoiseSchedule, append_dims
from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP, latent_clap_loss
from latentclap.losses import ddpm_loss
from latentclap.pretrain.adversary import MelCritic, WaveCritic, adversarial_terms
from latentclap.train import Task, onto


def uniform(rngs: list[torch.Generator], *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), one draw of ``shape`` per item: (B, *shape)."""
    return torch.stack([torch.rand(shape, generator=g) for g in rngs])


def randint(rngs: list[torch.Generator], high: int) -> Tensor:
    """Whole numbers in 0 ... high - 1, one per item: (B,)."""
    return torch.stack([torch.randint(high, (), generator=g) for g in rngs])


def normal(rngs: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise of the shape, device and type of ``like`` (B, ...), one generator per item."""
    return onto(torch.stack([torch.randn(like.shape[1:], generator=g) for g in rngs]), like.device).to(like)


def crop(tensor: Tensor, starts: Tensor, length: int) -> Tensor:
    """Cut ``length`` entries of axis 1 from ``starts`` (B,) on: (B, N, ...) -> (B, length, ...)."""
    return torch.stack([row[s : s + length] for row, s in zip(tensor, starts.tolist(), strict=True)])


class ClapTask(Task):
    """Symmetric contrastive training of a ClapModel on audio and each of its texts: caption, and class prompt.

    Several clips of a batch may carry the same text (the paper's class prompts): all of them are right answers,
    so the target is spread over equal texts instead of the diagonal. Captions are compared with captions and
    prompts with prompts: among both together, a prompt would be a wrong answer to another clip of its own class.

    Args:
        clap: the ClapModel.
        others: texts that the last column is compared with too, whatever the batch: tokens and mask (N, L), and
            text_id (N,). A batch of few classes holds few of their prompts to choose from.
        prompt_weight: weight of the last column's loss beside the other columns', whose weight is one.
        mask_time: longest masked span, as a share of the frames.
        mask_mel: widest masked band, as a share of the mel bands.
    """

    divisible = False

    def __init__(
        self,
        clap: nn.Module,
        *,
        others: dict[str, Tensor] | None = None,
        prompt_weight: float = 2.0,
        mask_time: float = 0.15,
        mask_mel: float = 0.15,
    ) -> None:
        super().__init__()
        self.clap = clap
        self.others, self.prompt_weight = others, prompt_weight
        self.mask_time, self.mask_mel = mask_time, mask_mel

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: features (B, 1, T, M), tokens and mask (B, K texts, L), text_id (B, K).

        Returns:
            loss, the weighted mean over the K texts; accuracy and prompt_accuracy, the share of clips whose first
            text (the caption) and last one is the likeliest of those it is compared with; scale of the logits.
        """
        audio = self.clap.get_audio_features(input_features=self.augment(batch["features"].float(), rngs))
        # batch by batch of one kind of text: (K B, L)
        tokens, mask = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("tokens", "mask"))
        ids = list(batch["text_id"].T)
        if self.others:
            more = {name: value.to(tokens.device) for name, value in self.others.items()}
            tokens, mask = torch.cat([tokens, more["tokens"]]), torch.cat([mask, more["mask"]])
            ids[-1] = torch.cat([ids[-1], more["text_id"]])
        text = self.clap.get_text_features(input_ids=tokens.long(), attention_mask=mask.long())
        E_audio, E_text = (F.normalize(e.pooler_output, dim=-1) for e in (audio, text))
        scale = self.clap.logit_scale_a.exp().clamp(max=100)
        losses, hits = zip(
            *(
                contrastive(scale * E_audio @ E.T, of)
                for E, of in zip(E_text.split([len(of) for of in ids]), ids, strict=True)
            ),
            strict=True,
        )
        weights = torch.ones(len(losses), device=scale.device)
        weights[-1] = self.prompt_weight
        loss = (weights * torch.stack(losses)).sum() / weights.sum()
        return {"loss": loss, "accuracy": hits[0], "prompt_accuracy": hits[-1], "scale": scale}

    def augment(self, features: Tensor, rngs: list[torch.Generator]) -> Tensor:
        """Roll in time, change the level, and mask one span of time and one of mel bands."""
        u = uniform(rngs, 6)
        out = []
        for x, r in zip(features, u.tolist(), strict=True):
            frames, mels = x.shape[-2:]
            x = torch.roll(x, int(r[0] * frames), dims=-2) + 12 * (r[1] - 0.5)  # dB
            floor = x.amin()
            span = int(r[2] * self.mask_time * frames)
            start = int(r[3] * (frames - span))
            x[:, start : start + span] = floor
            span = int(r[4] * self.mask_mel * mels)
            start = int(r[5] * (mels - span))
            x[:, :, start : start + span] = floor
            out.append(x)
        return torch.stack(out)


def contrastive(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross entropy of audio against texts where equal texts are all right.

    Args:
        logits: (B audio, N >= B texts), the i-th text the i-th audio's own; texts beyond B are answers to choose
            from, and are not asked for audio themselves.
        ids: number of each text (N,), the same for equal ones.

    Returns:
        The loss, and the share of audio whose likeliest text is right; scalars.
    """
    size = len(logits)
    right = (ids[:size, None] == ids[None, :]).float()
    to_text = right / right.sum(1, keepdim=True)
    to_audio = right[:, :size] / right[:, :size].sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, to_text) + F.cross_entropy(logits[:, :size].T, to_audio)) / 2
    rows = torch.arange(size, device=ids.device)
    return loss, right[rows, logits.argmax(1)].mean()


def mel_terms(reconstruction: Tensor, mel: Tensor) -> dict[str, Tensor]:
    """L1 of log-mels (B, 1, T, F), and L1 of their slopes along time and frequency.

    The slopes keep edges and texture that plain L1 averages away.
    """
    slope = sum((reconstruction.diff(dim=d) - mel.diff(dim=d)).abs().mean() for d in (2, 3))
    return {"l1": (reconstruction - mel).abs().mean(), "slope": slope}


class VAETask(Task):
    """The VAE over log-mels: L1 reconstruction and a small KL term (AudioLDM, arXiv:2301.12503, appendix)."""

    def __init__(self, vae: nn.Module, *, crop_frames: int = 128, kl_weight: float = 1e-4) -> None:
        super().__init__()
        self.vae = vae
        self.crop_frames, self.kl_weight = crop_frames, kl_weight

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mel (B, frames, 64)."""
        mel = mel_crop(batch["mel"], self.crop_frames, rngs)
        posterior = self.vae.encode(mel).latent_dist
        z = posterior.mean + posterior.std * normal(rngs, posterior.mean)
        terms = mel_terms(self.vae.decode(z).sample, mel)
        kl = posterior.kl().mean() / z[0].numel()
        loss = terms["l1"] + 0.25 * terms["slope"] + self.kl_weight * kl
        return {"loss": loss, "l1": terms["l1"], "kl": kl}


def mel_crop(mel: Tensor, frames: int, rngs: list[torch.Generator]) -> Tensor:
    """Random crops of log-mels: (B, T, F) -> (B, 1, frames, F)."""
    return crop(mel, randint(rngs, mel.shape[1] - frames + 1), frames).float()[:, None]


class DecoderTask(Task):
    """The VAE's decoder by itself, or against a patch discriminator as AudioLDM's VAE has one.

    The encoder stands still, so the latents stay what they are: a diffusion model trained on them need not know that
    the decoder goes on learning. L1 alone smooths noise textures away, which is what the critic is for.

    A generator's latents are a little off the encoder's, and a decoder that has learned to fill in texture takes
    such errors for texture: the silence between two steps comes out as noise. So it sees latents with noise of up to
    ``noise`` and has to give what they are nearest to.

    Args:
        vae: diffusers' AutoencoderKL.
        crop_frames: frames of the crops.
        deceive_weight: of the critic's scores.
        feature_weight: of the critic's features; with both weights zero there is no critic.
        noise: largest standard deviation of the noise, in units of 1 / scaling_factor; each item draws its own.
    """

    def __init__(
        self,
        vae: nn.Module,
        *,
        crop_frames: int = 128,
        deceive_weight: float = 0.1,
        feature_weight: float = 0.5,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= noise < math.inf:
            raise InputError(f"noise={noise}: must be zero or more")
        # post_quant_conv belongs to the decoder's side of the latent
        self.decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
        self.critic = MelCritic() if deceive_weight or feature_weight else None
        # in a list: its encoder is no part of the task
        self.whole = [vae]
        self.crop_frames = crop_frames
        self.noise = noise / vae.config.scaling_factor
        self.weights = {"l1": 1.0, "slope": 0.25, "deceive": deceive_weight, "features": feature_weight}

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mel (B, frames, 64)."""
        (vae,) = self.whole
        mel = mel_crop(batch["mel"], self.crop_frames, rngs)
        with torch.no_grad():
            posterior = vae.encode(mel).latent_dist
            z = posterior.mean + posterior.std * normal(rngs, posterior.mean)
            z = z + append_dims(self.noise * uniform(rngs).to(z), z) * normal(rngs, z)
        fake = vae.decode(z).sample
        terms = mel_terms(fake, mel)
        if self.critic is not None:
            terms |= adversarial_terms(self.critic, mel, fake)
        # the critic's own loss counts once
        loss = terms.get("critic", 0.0) + sum(w * terms[name] for name, w in self.weights.items() if w)
        return {"loss": loss, **terms}


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

    ``critic_weight`` 0 leaves the critics out: a first, cheaper phase.
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
        """Batch: mel (B, frames, 64), wave (B, frames x hop) int16."""
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


def level_weight(snr: Tensor, *, gamma: float = 5.0, most: float = 200.0) -> Tensor:
    """Weight of eq. 1's error at a noise level, so that the error of s_0 counts by min(SNR + 1, gamma).

    Eq. 1 as it stands counts the error of s_0 by the SNR, which falls to 1e-4 at the last steps: what a network does
    there, where a sampler begins and decides what happens when, hardly shows in the loss. One that sees a hundred
    thousand clips and not hundreds of millions then learns little there; the model card shows how much by level
    (``quality.denoising_errors``). SNR + 1 is the weight of training on v (arXiv:2202.00512), the bound at gamma is
    min-SNR's (arXiv:2303.09556): little is heard of the cleanest steps.

    Args:
        snr: signal-to-noise ratios (any shape).
        gamma: largest weight of the error of s_0.
        most: largest weight of the error of eps: with more, the last fifth of the steps would drown the others.
    """
    return ((snr + 1).clamp(max=gamma) / snr).clamp(max=most)


class LDMTask(Task):
    """The base LDM by eq. 1, conditioned on audio or text embeddings, dropped to "" at a rate (CFG).

    AudioLDM trains on E_audio, which needs no captions; with a small CLAP the two modalities lie further apart,
    so each item draws which of its embeddings it is shown. Levels are weighted by :func:`level_weight`;
    ``weighted`` False is eq. 1 as it stands.
    """

    def __init__(
        self,
        unet: nn.Module,
        E_empty: Tensor,
        schedule: NoiseSchedule,
        *,
        drop: float = 0.1,
        roll: bool = True,
        weighted: bool = True,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.drop, self.roll, self.weighted = drop, roll, weighted
        self.constants = [E_empty, schedule]

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mean, logvar (B, C, T, F), E (B, K, 512): K embeddings to choose from."""
        self.constants = [c.to(batch["mean"].device) for c in self.constants]  # moves but once
        E_empty, schedule = self.constants
        u = uniform(rngs, 2)
        n = onto(randint(rngs, schedule.steps), E_empty.device)
        s_0 = batch["mean"].float() + (batch["logvar"].float() / 2).exp() * normal(
            rngs, batch["mean"].float()
        )
        if self.roll:
            shifts = (u[:, 1] * s_0.shape[2]).long().tolist()
            s_0 = torch.stack([torch.roll(s, k, dims=1) for s, k in zip(s_0, shifts, strict=True)])
        chosen = onto(randint(rngs, batch["E"].shape[1]), E_empty.device)
        E = batch["E"].float()[torch.arange(len(rngs), device=E_empty.device), chosen]
        dropped = append_dims(onto(u[:, 0] < self.drop, E.device), E)
        E = torch.where(dropped, E_empty.expand_as(E), E)
        eps = normal(rngs, s_0)
        s_n = schedule.q_sample(s_0, n, eps)
        eps_theta = self.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        per_item = ddpm_loss(eps_theta, eps, reduction="none")
        ddpm = per_item.mean()
        if not self.weighted:
            return {"loss": ddpm}
        return {"loss": (level_weight(schedule.snr(n)) * per_item).mean(), "ddpm": ddpm}


class LatentCLAPTask(Task):
    """Eq. 2: φ on clean latents against the frozen audio branch (Fig. 2)."""

    def __init__(self, phi: LatentCLAP) -> None:
        super().__init__()
        self.phi = phi

    def draw(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """The latent's noise."""
        return {"z": normal(rngs, torch.empty_like(batch["mean"], device="cpu", dtype=torch.float32))}

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: mean, logvar (B, C, T, F), E_audio (B, 512)."""
        mean = batch["mean"].float()
        z = batch["z"] if "z" in batch else onto(self.draw(batch, rngs)["z"], mean.device)
        latent = mean + (batch["logvar"].float() / 2).exp() * z
        E_latent, E_audio = self.phi(latent), batch["E_audio"].float()
        similarity = F.cosine_similarity(E_latent.detach(), E_audio).mean()
        # per-dimension means of unit vectors are near 1/512: scaled by D so that Adam's epsilon stays small beside
        return {"loss": latent_clap_loss(E_audio, E_latent) * E_audio.shape[1], "cosine": similarity}


class JudgeTask(Task):
    """The evaluation network: class of a clip, as the mean of its windows' probabilities.

    A window between two footsteps is silent and says nothing: the clip is judged, not the window. Augmented by
    level, noise and a masked band and span.
    """

    divisible = False  # each batch is normalised by its own weights

    def __init__(self, judge: nn.Module, *, windows: int = 3, mask: float = 0.2) -> None:
        super().__init__()
        self.judge = judge
        self.windows, self.mask = windows, mask

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: patches (B, P, 96, 64), label (B,), weight (B,). Some patches of each clip are drawn."""
        order = uniform(rngs, batch["patches"].shape[1]).argsort(1)[:, : self.windows]
        x = torch.stack([p[o] for p, o in zip(batch["patches"], order, strict=True)]).float()
        u = uniform(rngs, 6).to(x)
        x = x + 3 * (u[:, :1, None, None] - 0.5) + 0.3 * normal(rngs, x) * u[:, 1:2, None, None]
        for row, r in zip(x, u.tolist(), strict=True):
            for axis, (share, place) in ((1, r[2:4]), (2, r[4:6])):
                span = int(share * self.mask * row.shape[axis])
                row.narrow(axis, int(place * (row.shape[axis] - span)), span).fill_(row.mean())
        _, logits = self.judge(x.flatten(0, 1)[:, None])
        windows = x.shape[1]  # a short clip has fewer
        log_p = logits.view(len(rngs), windows, -1).log_softmax(-1).logsumexp(1) - math.log(windows)
        label, weight = batch["label"].long(), batch["weight"].float()
        loss = (F.nll_loss(log_p, label, reduction="none") * weight).sum() / weight.sum()
        return {"loss": loss, "accuracy": (log_p.argmax(1) == label).float().mean()}
