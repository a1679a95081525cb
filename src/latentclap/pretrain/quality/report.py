"""All figures of a family in one report, and the report for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.embeddings import JudgeEmbedding
from latentclap.errors import InputError
from latentclap.pretrain.corpus import Corpus, dcase_recordings
from latentclap.pretrain.quality.clips import procedural_clips, real_clips
from latentclap.pretrain.quality.measures import (
    denoising_errors,
    generated,
    judged,
    nearest,
    reconstructions,
    text_clap,
)
from latentclap.profiles import load_profile
from latentclap.runs import origin
from latentclap.storage import resolve
from latentclap.system import FoleySystem


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
    """All figures of a family, with what they were measured on.

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
        "nearest": _nearest_of(system, {"generated": waves, "held out": held_out.waves}, corpus.wave.numpy()),
        "seed": seed,
        **origin(str(system.device)),
    }


def _nearest_of(
    system: FoleySystem, sides: Mapping[str, np.ndarray], training: np.ndarray
) -> dict[str, dict[str, list[float]]]:
    """The 5th, 25th and 50th percentile of each side's distances to the training clips."""
    return {
        name: {
            kind: np.percentile(distances, [5, 25, 50]).round(4).tolist()
            for kind, distances in nearest(system, waves, training).items()
        }
        for name, waves in sides.items()
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
