"""What the stages of pretraining are trained on: computed once from the corpus, and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentclap.embeddings import log_mel_patches
from latentclap.files import weights_digest
from latentclap.pretrain.work import Work, cached, in_batches


def mels(work: Work) -> Tensor:
    """Log-mels of the corpus (n, frames, 64), half precision, cached."""
    system = work.system()
    path = work.folder / "mel.safetensors"
    return cached(
        path,
        lambda: {"mel": in_batches(work, lambda w: (system.log_mel(w)[:, 0],), "log-mels")[0]},
        work.key,
    )["mel"]


def latents(work: Work) -> dict[str, Tensor]:
    """Posteriors and embeddings of the corpus: mean, logvar (n, C, T, F), E_audio (n, 512), E_text (n, 2, 512)."""
    work.need("vae", "clap")
    system = work.system()

    def posteriors() -> dict[str, Tensor]:
        mean, logvar = in_batches(work, lambda w: system.posterior(w.numpy()), "latents")
        return {"mean": mean, "logvar": logvar}

    def conditions() -> dict[str, Tensor]:
        (E_audio,) = in_batches(work, lambda w: (system.encode_audio(w.numpy()),), "E_audio", 32)
        texts = work.corpus.texts()
        unique = sorted({t for pair in texts for t in pair})
        E = torch.cat([system.encode_text(unique[i : i + 256]).cpu() for i in range(0, len(unique), 256)])
        row = {t: i for i, t in enumerate(unique)}
        E_text = torch.stack([E[[row[t] for t in pair]] for pair in texts])
        return {"E_audio": E_audio, "E_text": E_text.half()}

    # what makes a latent: the decoder may be trained on
    encoder = nn.ModuleList([system.vae.encoder, system.vae.quant_conv])
    # in two files: the slow half does not depend on CLAP, which may be trained on
    return {
        **cached(work.folder / "latents.safetensors", posteriors, f"{work.key} {weights_digest(encoder)}"),
        **cached(
            work.folder / "embeddings.safetensors", conditions, f"{work.key} {weights_digest(system.clap)}"
        ),
    }


def judge_patches(waves: Tensor) -> Tensor:
    """The judge's input for waves (b, samples) at 16 kHz: (b, windows, 96, 64)."""
    peak = waves.abs().amax(1, keepdim=True).clamp(min=1e-8)
    return torch.stack([torch.from_numpy(log_mel_patches(w)) for w in (waves / peak).numpy()])
