"""Samplers beside each other: how often the right class is heard, FAD and time, over steps and guidance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from latentclap.embeddings import JudgeEmbedding, MelStatistics
from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings, fad_with_ci
from latentclap.files import below, file_sha256, read_json, write_json
from latentclap.pretrain.corpus import dcase_recordings
from latentclap.pretrain.quality.clips import HeldOut, real_clips
from latentclap.pretrain.quality.measures import generated
from latentclap.runs import commit, config_hash, device_name
from latentclap.storage import resolve
from latentclap.system import FoleySystem


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
