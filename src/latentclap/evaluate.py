"""Evaluate generated clips: FAD per class with intervals (Table I), CLAP similarity scores (section V-A).

Clips come as arrays, as files, as a folder in DCASE layout, or as embeddings made before. The reference is
the same, or statistics (`fad.GaussianStats`, or an npz of them) such as the challenge organisers'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.embeddings import DCASE_RATE, DCASE_SAMPLES, Embedding, get_embedding
from latentclap.errors import InputError
from latentclap.fad import (
    ClipEmbeddings,
    FadEstimate,
    FadInfinity,
    GaussianStats,
    fad_infinity,
    fad_with_ci,
    load_stats,
)
from latentclap.files import write_json

Clips = Sequence[np.ndarray | str | Path] | np.ndarray | ClipEmbeddings
Side = Mapping[str, Clips | GaussianStats] | str | Path


def prepare_clip(
    clip: np.ndarray | str | Path, embedding: Embedding, sr: int, seconds: float = 4.0
) -> tuple[np.ndarray, int]:
    """Read, take the first channel, and cut a clip to its first ``seconds``.

    For ``vggish-dcase`` also: resample to 22,050 Hz, exactly 88,200 samples (zeros at the end of a shorter
    clip) and 16-bit integers, since the organisers' tool takes nothing else. The paper does not say how its
    10.24 s outputs became 4 s at 22.05 kHz; this rule is the public baseline's.

    Args:
        clip: (samples,) or (channels, samples) array, or a sound file.
        embedding: that will see it.
        sr: rate of an array, Hz; a file has its own.
        seconds: kept from the start.

    Returns:
        The wave (samples,) and its rate.
    """
    from latentclap.audio import read_wave, resample

    if isinstance(clip, (str, Path)):
        wave, sr = read_wave(clip)
        wave = wave[0]
    else:
        wave = np.asarray(clip)
        wave = wave[0] if wave.ndim == 2 else wave
    if wave.ndim != 1 or wave.size == 0:
        raise InputError(f"clip of shape {wave.shape}; expected (samples,) or (channels, samples)")
    wave = wave[: round(seconds * sr)]
    if getattr(embedding, "mode", "") != "dcase":
        return wave, sr
    if wave.dtype.kind == "f":
        wave = resample(wave, sr, DCASE_RATE)[:DCASE_SAMPLES]
        # libsndfile reads 16-bit files as integer / 32768: their samples come back exactly
        wave = np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)
    elif sr != DCASE_RATE:
        raise InputError(f"vggish-dcase: integer samples at {sr} Hz; give floats, or {DCASE_RATE} Hz")
    return np.pad(wave, (0, max(0, DCASE_SAMPLES - wave.size))), DCASE_RATE


def embed_clips(clips: Clips, embedding: Embedding, sr: int, seconds: float = 4.0) -> ClipEmbeddings:
    """Embed clips once; the result can be handed to `evaluate` again and again (a reference for nine
    systems).

    Raises:
        InputError: names the clip that could not be embedded and says why.
    """
    if isinstance(clips, ClipEmbeddings):
        if clips.embedding and clips.embedding != embedding.name:
            raise InputError(
                f"clips embedded by {clips.embedding!r} cannot be evaluated as {embedding.name!r}"
            )
        return clips
    rows = []
    for i, clip in enumerate(clips):
        try:
            rows.append(embedding(*prepare_clip(clip, embedding, sr, seconds)))
        except InputError as error:
            where = clip if isinstance(clip, (str, Path)) else f"clip {i}"
            raise InputError(f"{where}: {error}" if str(where) not in str(error) else str(error)) from None
    return ClipEmbeddings.from_clips(rows, embedding.name)


@dataclass
class EvalResult:
    """FAD of several classes; `table`, `average`, `std` are Table I's row.

    Attributes:
        name: the figure's full name: embedding, front end, n, reference, interval.
        estimates: per class.
        infinities: FAD-inf per class, None where n does not suffice.
        settings: everything that fixes the figures.
    """

    name: str
    estimates: dict[str, FadEstimate]
    infinities: dict[str, FadInfinity | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row a class: class, fad, ci_low, ci_high, fad_inf, n_clips, n_ref (0: not stated)."""
        rows = [
            {
                "class": cls,
                "fad": e.fad,
                "ci_low": e.ci_low,
                "ci_high": e.ci_high,
                "fad_inf": inf.value if (inf := self.infinities.get(cls)) else math.nan,
                "n_clips": e.n_clips,
                "n_ref": e.n_ref_clips,
            }
            for cls, e in self.estimates.items()
        ]
        return pd.DataFrame(rows)

    @property
    def fads(self) -> np.ndarray:
        """FAD of each class, (classes,)."""
        return np.array([e.fad for e in self.estimates.values()])

    @property
    def average(self) -> float:
        """Mean over the classes, Table I's "Average"."""
        return float(self.fads.mean())

    @property
    def std(self) -> float:
        """Sample standard deviation over the classes (n - 1): Table I's "Std."; NaN for one class."""
        return float(self.fads.std(ddof=1)) if len(self.fads) > 1 else math.nan

    @property
    def average_ci(self) -> tuple[float, float]:
        """Interval of the average, from the classes' independent bootstraps; NaN without draws."""
        estimates = list(self.estimates.values())
        if any(e.draws.size == 0 for e in estimates):
            return math.nan, math.nan
        draws = np.mean([e.draws for e in estimates], axis=0)
        level, method = estimates[0].level, estimates[0].method
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        shift = draws.mean() - self.average if method == "centred" else 0.0
        return float(max(0.0, low - shift)), float(max(0.0, high - shift))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, as JSON knows it (NaN becomes null)."""
        low, high = self.average_ci
        classes = {}
        for cls, e in self.estimates.items():
            inf = self.infinities.get(cls)
            classes[cls] = {
                "fad": e.fad,
                "ci": [_json(e.ci_low), _json(e.ci_high)],
                "bootstrap_bias": _json(e.bootstrap_bias),
                "fad_inf": inf.value if inf else None,
                "fad_inf_r2": inf.r2 if inf else None,
                "n_clips": e.n_clips,
                "n_windows": e.n_windows,
                "n_ref_clips": e.n_ref_clips or None,
                "n_ref_windows": e.n_ref_windows,
            }
        return {
            "name": self.name,
            "average": self.average,
            "average_ci": [_json(low), _json(high)],
            "std": _json(self.std),
            "classes": classes,
            "settings": self.settings,
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all."""
        write_json(path, self.to_dict())


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def evaluate(
    generated: Mapping[str, Clips] | str | Path,
    reference: Side,
    embedding: Embedding | str = "mel-statistics",
    sr: int = 16_000,
    n_boot: int = 1000,
    seed: int = 0,
    *,
    seconds: float = 4.0,
    level: float = 0.95,
    method: str = "centred",
    resample_reference: bool | None = None,
    with_infinity: bool = True,
) -> EvalResult:
    """FAD of generated clips against a reference, class by class, with bootstrap intervals over clips.

    Args:
        generated: {class: clips}, or a folder in DCASE layout (<class>/*.wav). Clips are arrays (samples,),
            files, or `ClipEmbeddings`.
        reference: the same, {class: `GaussianStats`}, or a statistics npz. All of its classes that were
            generated are used; a generated class it lacks is an error.
        embedding: an `Embedding` or the name of one that needs nothing else.
        sr: rate of arrays, Hz.
        n_boot: bootstrap draws; 0 for none.
        seed: of the bootstrap.
        seconds: kept from the start of each clip (Table I: 4 s).
        level: of the intervals.
        method: "centred" or "percentile", see `fad.fad_with_ci`.
        resample_reference: resample the reference clips too. Default: where there are clips, not statistics.
        with_infinity: also extrapolate to FAD-inf where n suffices.

    Raises:
        InputError: bad files, a class without reference, different embeddings, too few clips.
    """
    embedding = get_embedding(embedding) if isinstance(embedding, str) else embedding
    gen = _side(generated, embedding, sr, seconds, "generated", None)
    ref = _side(reference, embedding, sr, seconds, "reference", set(gen))
    missing = [cls for cls in gen if cls not in ref]
    if missing:
        raise InputError(f"reference has no {', '.join(missing)}; it has {', '.join(sorted(ref))}")
    estimates, infinities = {}, {}
    for i, cls in enumerate(_in_order(gen)):
        g, r = gen[cls], ref[cls]
        assert isinstance(g, ClipEmbeddings)
        clips_too = isinstance(r, ClipEmbeddings) if resample_reference is None else resample_reference
        try:
            estimates[cls] = fad_with_ci(
                g,
                r,
                n_boot=n_boot,
                level=level,
                method=method,
                resample_reference=clips_too,
                seed=int(np.random.SeedSequence([seed, i]).generate_state(1)[0]),
            )
            stats = r.stats() if isinstance(r, ClipEmbeddings) else r
            infinities[cls] = fad_infinity(g, stats, seed=seed) if with_infinity else None
        except InputError as error:
            raise InputError(f"{cls}: {error}") from None
    settings = {
        "embedding": embedding.name,
        "front_end": embedding.front_end,
        "dim": embedding.dim,
        "seconds": seconds,
        "level": level,
        "n_boot": n_boot,
        "interval": method,
        "reference_resampled": any(isinstance(r, ClipEmbeddings) for r in ref.values())
        if resample_reference is None
        else resample_reference,
        "seed": seed,
    }
    return EvalResult(_full_name(embedding, estimates, settings), estimates, infinities, settings)


def _full_name(embedding: Embedding, estimates: dict[str, FadEstimate], settings: dict[str, Any]) -> str:
    def sizes(values: list[int]) -> str:
        low, high = min(values), max(values)
        return "not stated" if high == 0 else f"{low}" if low == high else f"{low}-{high}"

    n = sizes([e.n_clips for e in estimates.values()])
    ref_clips = [e.n_ref_clips for e in estimates.values()]
    ref = (
        f"{sizes(ref_clips)} clips"
        if all(ref_clips)
        else f"{sizes([e.n_ref_windows for e in estimates.values()])} windows"
    )
    sides = "generated and reference" if settings["reference_resampled"] else "generated"
    interval = (
        f"{settings['level']:.0%} bootstrap over {sides} clips "
        f"({settings['interval']}, {settings['n_boot']} draws)"
        if settings["n_boot"]
        else "no interval"
    )
    return f"FAD[{embedding.name}, {embedding.front_end}, n={n} clips a class, ref={ref}, {interval}]"


def _in_order(classes: Mapping[str, Any]) -> list[str]:
    """Table I's order first, other names after."""
    return [c for c in CLASSES if c in classes] + sorted(c for c in classes if c not in CLASSES)


def _canonical(name: str) -> str:
    try:
        return canonical_class(name)
    except ValueError:
        return name


def _side(
    side: Any, embedding: Embedding, sr: int, seconds: float, which: str, wanted: set[str] | None
) -> dict[str, ClipEmbeddings | GaussianStats]:
    """Turn any form of a side into embeddings or statistics per class (only ``wanted`` ones)."""
    if isinstance(side, (str, Path)):
        if Path(side).suffix == ".npz":
            side = load_stats(side)
        else:
            # copies are left out of the reference, but in a generated set they are a fault of the generator
            side = clips_in_folder(side, duplicates_ok=which == "reference")
    if not isinstance(side, Mapping) or not side:
        raise InputError(f"{which}: expected {{class: clips}}, a folder or a statistics npz")
    out: dict[str, ClipEmbeddings | GaussianStats] = {}
    for name, clips in side.items():
        cls = _canonical(name)
        if wanted is not None and cls not in wanted:
            continue
        if isinstance(clips, GaussianStats):
            if which == "generated":
                raise InputError("generated: statistics have no clips to resample; give the clips")
            if clips.mu.size != embedding.dim:
                raise InputError(
                    f"{which} {cls}: statistics of {clips.mu.size} dimensions, but {embedding.name} has "
                    f"{embedding.dim}; choose the embedding they were made with"
                )
            if clips.embedding and clips.embedding != embedding.name:
                raise InputError(
                    f"{which} {cls}: statistics made with {clips.embedding!r}, not {embedding.name!r}"
                )
            out[cls] = clips
            continue
        if len(clips) == 0:
            raise InputError(f"{which} {cls}: no clips")
        try:
            out[cls] = embed_clips(clips, embedding, sr, seconds)
        except InputError as error:
            raise InputError(f"{which} {cls}: {error}") from None
    return out


def clips_in_folder(folder: str | Path, duplicates_ok: bool = False) -> dict[str, list[Path]]:
    """Sound files of a folder in DCASE layout by class, after `data.scan` found every file good.

    A folder with both a dev and an eval side gives its eval side, which is Table I's reference.
    The whole table of what is wrong is ``latentclap.data.scan(folder).table()``.

    Raises:
        InputError: no such folder, no clips, or bad files (counts and the first of them).
    """
    from latentclap.data import scan

    ignored = ["missing class", "stray file", "bad meta"] + (["duplicate"] if duplicates_ok else [])
    report = scan(Path(folder))
    report.raise_if_bad(ignore=ignored)
    out: dict[str, list[Path]] = {}
    splits = {clip.split for clip in report.clips}
    for clip in report.clips:
        if splits >= {"dev", "eval"} and clip.split != "eval":
            continue
        out.setdefault(clip.cls, []).append(Path(clip.path))
    if not out:
        raise InputError(f"{folder}: no clips; expected folders such as {folder}/rain/*.wav")
    return {cls: sorted(out[cls]) for cls in _in_order(out)}


@dataclass
class SimilarityResult:
    """Cosine of E_audio and E_text per clip (section V-A).

    Attributes:
        scores: {class: (n,)}.
        intervals: {class or "all": (low, high)} of the mean, bootstrap over clips.
        texts: {class: the text it was compared with}.
    """

    scores: dict[str, np.ndarray]
    intervals: dict[str, tuple[float, float]]
    texts: dict[str, str]

    @property
    def average(self) -> float:
        """Mean over the classes' means."""
        return float(np.mean([s.mean() for s in self.scores.values()]))

    def table(self) -> pd.DataFrame:
        """One row a class: class, similarity, ci_low, ci_high, n_clips."""
        return pd.DataFrame(
            [
                {
                    "class": cls,
                    "similarity": float(s.mean()),
                    "ci_low": self.intervals[cls][0],
                    "ci_high": self.intervals[cls][1],
                    "n_clips": len(s),
                }
                for cls, s in self.scores.items()
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        rows = self.table().to_dict("records")
        return {
            "name": "CLAP similarity[cosine of E_audio and E_text]",
            "average": self.average,
            "average_ci": list(self.intervals["all"]),
            "classes": {row.pop("class"): row for row in rows},
            "texts": self.texts,
        }


def clap_similarity(
    system: Any,
    generated: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    *,
    texts: Mapping[str, str] | None = None,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch: int = 32,
) -> SimilarityResult:
    """CLAP similarity of generated clips and their class's text.

    Args:
        system: a `FoleySystem`: ``similarity(waves, texts)`` -> (n,), both sides by the judging CLAP. (Its
            ``encode_text`` is the conditioning CLAP's, which may be another checkpoint.)
        generated: {class: (n, samples) or a list of waves of one length}.
        texts: {class: text}; default the paper's prompt.
        n_boot: bootstrap draws over clips.
        level: of the intervals.
        seed: of the bootstrap.
        batch: clips encoded at once.
    """
    rng = np.random.default_rng(seed)
    scores, intervals, used, draws = {}, {}, {}, []
    tail = [(1 - level) / 2, (1 + level) / 2]
    for name in _in_order({_canonical(k): None for k in generated}):
        waves = np.stack(
            [np.asarray(w) for key, v in generated.items() if _canonical(key) == name for w in v]
        )
        used[name] = texts[name] if texts else prompt(name)
        scores[name] = np.concatenate(
            [
                np.asarray(system.similarity(part, [used[name]] * len(part)), dtype=np.float64)
                for part in np.split(waves, range(batch, len(waves), batch))
            ]
        )
        picks = rng.integers(0, len(waves), (n_boot, len(waves)))
        draws.append(scores[name][picks].mean(1))
        low, high = np.quantile(draws[-1], tail)
        intervals[name] = (float(low), float(high))
    low, high = np.quantile(np.mean(draws, axis=0), tail)
    intervals["all"] = (float(low), float(high))
    return SimilarityResult(scores, intervals, used)
