"""What a family can do, measured on recordings that its training never held (``pretrain_mini.py measure``).

The yardstick is a judge network trained on real recordings only, in a work folder of its own; it takes part in no
training of a generator. Every share comes with the number of clips and a Wilson interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from tqdm.auto import tqdm

from latentclap.audio import griffin_lim, log_mel, repeat_to, to_model_rate
from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import JudgeEmbedding, MelStatistics
from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings, fad_with_ci
from latentclap.files import below, file_sha256, read_json, write_json
from latentclap.foley import synthesize
from latentclap.pretrain.corpus import Corpus, Recording, dcase_recordings, recorded_wave
from latentclap.pretrain.tasks import stft_loss
from latentclap.profiles import load_profile
from latentclap.runs import commit, config_hash, device_name, origin
from latentclap.storage import resolve
from latentclap.system import FoleySystem

#: seeds of held-out procedural clips: far from the corpus' and from those of any data set
HELD_OUT_SEED = 3_000_000_019


@dataclass(frozen=True)
class HeldOut:
    """Held-out clips of the seven classes: waves (n, samples) float32 at 16 kHz, class numbers (n,), captions."""

    waves: np.ndarray
    labels: np.ndarray
    captions: list[str]


def real_clips(recordings: Sequence[Recording], samples: int) -> HeldOut:
    """Recordings as the model hears them."""
    waves = np.stack([recorded_wave(r, samples) for r in recordings]).astype(np.float32) / 32767
    labels = np.array([CLASSES.index(r.cls) for r in recordings])
    return HeldOut(waves, labels, [r.caption for r in recordings])


def procedural_clips(per_class: int, samples: int) -> HeldOut:
    """Procedural clips of the eval side, from seeds that no corpus uses."""
    made = [
        (synthesize(cls, HELD_OUT_SEED + i, split="eval"), k)
        for k, cls in enumerate(CLASSES)
        for i in range(per_class)
    ]
    waves = np.stack([repeat_to(to_model_rate(clip.wave, 22050), samples) for clip, _ in made])
    return HeldOut(
        waves.astype(np.float32), np.array([k for _, k in made]), [clip.caption for clip, _ in made]
    )


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


#: steps at which :func:`denoising_errors` looks
LEVELS = (20, 100, 200, 350, 500, 650, 800, 900, 999)


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


def sampler_grid(
    steps: Sequence[int] = (5, 10, 25, 50, 200),
    scales: Sequence[float] = (1, 2, 3, 4, 5),
    samplers: Sequence[str] = ("ddim", "dpmsolver++"),
    *,
    at_scale: float = 2.0,
    at_steps: int = 25,
) -> list[dict[str, Any]]:
    """Points of two curves per sampler: over steps at one guidance scale, over guidance at one number of steps."""
    points = [(sampler, k, at_scale) for sampler in samplers for k in steps]
    points += [(sampler, at_steps, float(g)) for sampler in samplers for g in scales]
    keys = ("sampler", "steps", "guidance_scale")
    return [dict(zip(keys, point, strict=True)) for point in dict.fromkeys(points)]


def sampler_point(
    system: FoleySystem, judge: JudgeEmbedding, point: dict[str, Any], reference: HeldOut, n: int, seed: int
) -> dict[str, Any]:
    """One point: the yardstick's verdict on n clips per class, FAD to held-out recordings, seconds per clip.

    FAD is over all seven classes at once, with the training-free embedding: recordings per class are too few.
    """
    started = time.perf_counter()
    verdict, waves = generated(system, judge, n, seed=seed, progress=False, **point)
    seconds = (time.perf_counter() - started) / len(waves)
    embedding = MelStatistics()
    sides = (
        ClipEmbeddings.from_clips([embedding(w, system.sampling_rate) for w in side], embedding.name)
        for side in (waves, reference.waves)
    )
    fad = fad_with_ci(*sides, n_boot=200, seed=seed)
    return {
        **point,
        "seconds_per_clip": seconds,
        "verdict": verdict,
        "fad": fad.fad,
        "fad_ci": [fad.ci_low, fad.ci_high],
        "fad_name": f"FAD, {embedding.name}, all classes, n={len(waves)}, reference n={len(reference.waves)}",
    }


def sampler_sweep(
    family: str | Path,
    judge: str | Path,
    real: Sequence[str | Path],
    out: Path,
    *,
    clips: int = 8,
    seed: int = 0,
    grid: Sequence[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Measure every point of :func:`sampler_grid`; points that ``out`` (JSON) already has are not made again.

    Args:
        family: name or folder.
        judge: folder of the yardstick.
        real: folders of recordings; their eval side is FAD's reference.
        out: JSON file, written after every point.
        clips: generated clips per class and point.
        seed: of generation.
        grid: other points.

    Raises:
        InputError: no folder of recordings, or ``out`` is of another family or seed.
    """
    if not real:
        raise InputError(
            "the sampler sweep needs --real FOLDER: recordings in DCASE layout for FAD's reference"
        )
    system, yardstick = FoleySystem.from_pretrained(family), JudgeEmbedding(judge)
    # neither the judge nor φ has a part in sampling
    weights = [
        p for p in below(resolve(family), (".safetensors",)) if p.parent.name not in ("judge", "latent_clap")
    ]
    settings = {"clips": clips, "seed": seed, "weights": config_hash([file_sha256(p) for p in weights])}
    report = read_json(out) if out.is_file() else {"settings": settings, "points": []}
    if report["settings"] != settings:
        raise InputError(
            f"{out} holds points of other weights, seed or clips: name another --out or delete it"
        )
    held_out = real_clips([r for f in real for r in dcase_recordings(f, "eval", seed)], system.samples)
    made = {(p["sampler"], p["steps"], p["guidance_scale"]) for p in report["points"]}
    todo = [p for p in (grid or sampler_grid()) if tuple(p.values()) not in made]
    for point in tqdm(todo, desc="samplers"):
        report["points"].append(sampler_point(system, yardstick, point, held_out, clips, seed))
        report |= {"device": device_name(str(system.device)), "commit": commit()}
        write_json(out, report)
    return report["points"]


def measure_family(
    family: str | Path,
    judge: str | Path,
    real: Sequence[str | Path],
    corpus: Corpus,
    *,
    clips: int = 50,
    profile: str = "quick",
    procedural: int = 20,
    seed: int = 0,
    before: str | Path = "",
) -> dict[str, Any]:
    """All of this module's figures for a family, with what they were measured on.

    Args:
        family: name or folder.
        judge: folder of the yardstick.
        real: folders of recordings; their eval side by recording, with the seed of the corpus.
        corpus: the training clips, for the memorisation check.
        clips: generated clips per class.
        profile: whose sampling settings are used.
        procedural: held-out procedural clips per class.
        seed: of generation and of the split.
        before: an earlier family of the same kind, whose errors at the noise levels are set beside.

    Raises:
        InputError: no folder of recordings.
    """
    if not real:
        raise InputError(
            "measure needs --real FOLDER: recordings in DCASE layout, whose eval side is held out"
        )
    system, yardstick = FoleySystem.from_pretrained(family), JudgeEmbedding(judge)
    recordings = [r for folder in real for r in dcase_recordings(folder, "eval", seed)]
    held_out, made = real_clips(recordings, system.samples), procedural_clips(procedural, system.samples)
    sampling = asdict(load_profile(profile).generate)
    verdict, waves = generated(system, yardstick, clips, seed=seed, **sampling)
    training = corpus.wave.numpy()
    near = {
        name: nearest(system, x, training) for name, x in (("generated", waves), ("held out", held_out.waves))
    }
    own = resolve(family) / "judge"
    sides = {"real": held_out, "procedural": made} if own.is_dir() else {}
    return {
        "judge": {name: judged(JudgeEmbedding(own), side.waves, side.labels) for name, side in sides.items()},
        "held_out": {"clips": len(held_out.labels), "recordings": len({r.recording for r in recordings})},
        "sampling": sampling,
        "reconstructions": reconstructions(system, yardstick, held_out),
        "generated": verdict,
        "levels": {
            name: denoising_errors(s, held_out)
            for name, s in (("family", system), ("before", before and FoleySystem.from_pretrained(before)))
            if s
        },
        "clap": {"real": text_clap(system, held_out), "procedural": text_clap(system, made)},
        "nearest": {
            name: {k: np.percentile(v, [5, 25, 50]).round(4).tolist() for k, v in distances.items()}
            for name, distances in near.items()
        },
        "seed": seed,
        **origin(str(system.device)),
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for a terminal."""

    def share(x: dict[str, Any]) -> str:
        per = " ".join(f"{c[:6]} {v:.2f}" for c, v in x["per_class"].items())
        return f"{x['accuracy']:.3f} [{x['ci'][0]:.2f}, {x['ci'][1]:.2f}] n={x['n']}  {per}"

    for name, row in report["reconstructions"].items():
        yield f"{name:<24} MR-STFT {row['mr_stft']:.3f}, mel L1 {row['mel_l1']:.3f}, yardstick {share(row)}"
    yield f"{'generated':<24} yardstick {share(report['generated'])}"
    for name, rows in report["levels"].items():
        told = " ".join(f"{row['n']}: {row['error']:.3g}" for row in rows)
        yield f"error of s_0 by noise level, {name}, in units of the mean's: {told}"
    for name, row in report["clap"].items():
        recall = f", R@1 {row['recall@1']:.2f}, R@5 {row['recall@5']:.2f}" if "recall@1" in row else ""
        yield f"CLAP, {name:<12} zero-shot {share(row['zero_shot'])}{recall}"
    for name, row in report["judge"].items():
        yield f"shipped judge, {name:<10} {share(row)}"
    for name, row in report["nearest"].items():
        yield f"nearest training clip of {name}: mel L1 {row['mel']}, CLAP {row['clap']} (5, 25, 50%)"
