"""What is measured of a family: what its parts lose, what is heard in its clips, how near they are to copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from tqdm.auto import tqdm

from latentclap.audio import griffin_lim, log_mel
from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import JudgeEmbedding
from latentclap.errors import InputError
from latentclap.pretrain.quality.clips import HeldOut
from latentclap.pretrain.tasks import stft_loss
from latentclap.system import FoleySystem

#: steps at which :func:`denoising_errors` looks
LEVELS = (20, 100, 200, 350, 500, 650, 800, 900, 999)


def shares(hit: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy in all and per class, with n and Wilson's 95% interval; hit and labels are (n,).

    Raises:
        InputError: no clips.
    """
    if not len(hit):
        raise InputError("no clips: there is no share of them")
    interval = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    return {
        "accuracy": float(hit.mean()),
        "ci": [float(interval.low), float(interval.high)],
        "n": len(hit),
        "per_class": {
            c: float(hit[labels == k].mean()) for k, c in enumerate(CLASSES) if (labels == k).any()
        },
    }


def judged(judge: JudgeEmbedding, waves: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How often the yardstick names the right class for waves (n, samples)."""
    return shares(judge.classify(waves).argmax(1) == labels, labels)


@torch.no_grad()
def spectral_distance(waves: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Multi-resolution STFT loss and log-mel L1 between waves and targets, (n, samples) each, mean over clips."""
    a, b = torch.from_numpy(np.ascontiguousarray(waves)), torch.from_numpy(np.ascontiguousarray(targets))
    stft = [stft_loss(x[None], y[None]).item() for x, y in zip(a, b, strict=True)]
    mel = [(log_mel(x[None]) - log_mel(y[None])).abs().mean().item() for x, y in zip(a, b, strict=True)]
    return {"mr_stft": float(np.mean(stft)), "mel_l1": float(np.mean(mel))}


@torch.no_grad()
def ways(system: FoleySystem, waves: np.ndarray, batch: int = 8) -> dict[str, np.ndarray]:
    """Waves through parts of the system: which part loses what.

    Returns:
        name -> (n, samples): identity; mel -> Griffin-Lim (32 iterations); mel -> vocoder; VAE -> Griffin-Lim;
        VAE -> vocoder, which is all that a generated clip goes through too. Where the system polishes its
        vocoder's waves, the two vocoder ways are also there without that ("unpolished").
    """
    bare = replace(system, polish=None)
    out: dict[str, list[np.ndarray]] = {}
    for i in tqdm(range(0, len(waves), batch), desc="reconstructions", leave=False):
        part = waves[i : i + batch]
        mel = system.log_mel(part)
        decoded = system.decode_mel(system.encode(part))
        for name, wave in (
            ("identity", part),
            ("mel, Griffin-Lim", griffin_lim(mel.cpu(), n_iter=32)),
            ("mel, vocoder unpolished", bare.vocode(mel)),
            ("mel, vocoder", system.vocode(mel)),
            ("VAE, Griffin-Lim", griffin_lim(decoded.cpu(), n_iter=32)),
            ("VAE, vocoder unpolished", bare.vocode(decoded)),
            ("VAE, vocoder", system.vocode(decoded)),
        ):
            if system.polish is not None or "unpolished" not in name:
                out.setdefault(name, []).append(wave)
    return {name: np.concatenate(pieces) for name, pieces in out.items()}


def reconstructions(system: FoleySystem, judge: JudgeEmbedding, held_out: HeldOut) -> dict[str, Any]:
    """Yardstick and spectral distances of :func:`ways` on held-out clips."""
    return {
        name: judged(judge, wave, held_out.labels) | spectral_distance(wave, held_out.waves)
        for name, wave in ways(system, held_out.waves).items()
    }


def text_clap(system: FoleySystem, held_out: HeldOut, *, rounds: int = 20, pool: int = 50) -> dict[str, Any]:
    """Zero-shot class by the seven prompts, and retrieval of a clip's own caption among ``pool``.

    Retrieval is left out where captions are not the clips' own (fewer different ones than the pool).
    """
    E_audio = system.encode_audio(held_out.waves)
    E_class = system.encode_text([prompt(c) for c in CLASSES], judge=True)
    out = {
        "zero_shot": shares((E_audio @ E_class.T).argmax(1).cpu().numpy() == held_out.labels, held_out.labels)
    }
    if len(set(held_out.captions)) < min(pool, len(held_out.captions)):
        return out
    E_text = system.encode_text(held_out.captions, judge=True)
    rng, ranks = np.random.default_rng(0), []
    for _ in range(rounds):
        rows = rng.permutation(len(E_audio))[:pool]
        S = E_audio[rows] @ E_text[rows].T
        ranks.append((S.diagonal()[:, None] < S).sum(1).cpu().numpy())
    rank = np.concatenate(ranks)
    out |= {"recall@1": float((rank < 1).mean()), "recall@5": float((rank < 5).mean()), "pool": pool}
    return out


def generated(
    system: FoleySystem, judge: JudgeEmbedding, n: int, *, progress: bool = True, **sampling: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """n clips per class through the vocoder: the yardstick's verdict, and the waves (7 n, samples)."""
    waves = system.generate(list(CLASSES), n, progress=progress, **sampling)
    return judged(judge, waves, np.repeat(np.arange(len(CLASSES)), n)), waves


@torch.no_grad()
def denoising_errors(
    system: FoleySystem, held_out: HeldOut, *, levels: Sequence[int] = LEVELS, batch: int = 8, seed: int = 0
) -> list[dict[str, float]]:
    """How well s_0 is told from s_n at each noise level, given the class' prompt: what eq. 1 hardly weighs.

    Returns:
        Rows of n, its snr, and error: the mean square error of the predicted s_0 in units of what the mean over all
        clips would give. Above one, the network would do better by ignoring what it is shown.
    """
    device = system.device
    s_0 = torch.cat(
        [
            system.encode(held_out.waves[i : i + batch], seed=seed)
            for i in range(0, len(held_out.waves), batch)
        ]
    )
    E = system.encode_text([prompt(c) for c in CLASSES])[torch.from_numpy(held_out.labels)]
    eps = torch.randn(s_0.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    spread = (s_0 - s_0.mean(0)).square().mean().item()
    rows = []
    for level in levels:
        n = torch.full((len(s_0),), level, device=device)
        s_n = system.schedule.q_sample(s_0, n, eps)
        parts = zip(s_n.split(batch), n.split(batch), E.split(batch), strict=True)
        found = system.schedule.predict_x0(s_n, n, torch.cat([system.eps_theta(*part) for part in parts]))
        error = (found - s_0).square().mean().item() / spread
        rows.append({"n": level, "snr": system.schedule.snr(n[:1]).item(), "error": error})
    return rows


def nearest(system: FoleySystem, waves: np.ndarray, training: np.ndarray) -> dict[str, list[float]]:
    """Distance of each wave to its nearest training clip: log-mel L1, and 1 - cosine of CLAP's embedding.

    A memorised clip is far nearer than a held-out recording is. Log-mels are compared as means over 16 frames
    by 4 bins, so that a shift of a few frames does not hide a copy.

    Args:
        system: gives front end and CLAP.
        waves: (n, samples).
        training: (m, samples) int16, the training clips.
    """

    def describe(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        mels, embeddings = [], []
        for i in range(0, len(x), 32):
            part = x[i : i + 32].astype(np.float32) / (32767 if x.dtype == np.int16 else 1)
            part = part / np.abs(part).max(1, keepdims=True).clip(1e-8) * 0.5
            mels.append(torch.nn.functional.avg_pool2d(system.log_mel(part), (16, 4)).flatten(1).cpu())
            embeddings.append(system.encode_audio(part).cpu())
        return torch.cat(mels), torch.cat(embeddings)

    (mel, E), (mel_t, E_t) = describe(waves), describe(training)
    return {
        "mel": (torch.cdist(mel, mel_t, p=1).amin(1) / mel.shape[1]).tolist(),
        "clap": (1 - (E @ E_t.T).amax(1)).tolist(),
    }
