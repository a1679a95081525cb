"""FAD class by class: Table I's row, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.embeddings import Embedding, get_embedding
from latentclap.errors import InputError
from latentclap.evaluate.clips import Clips, canonical, clips_in_folder, embed_clips, in_order
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
from latentclap.stats.posthoc import adjust_p

NOT_STATED = "not stated"
Side = Mapping[str, Clips | GaussianStats] | str | Path


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

    def text(self) -> str:
        """`table`, average and name for a terminal."""

        def number(value: float) -> str:
            return f"{value:9.3f}" if value == value else "        -"

        lines = [f"{'class':<22}{'FAD':>9}{'low':>10}{'high':>10}{'FAD-inf':>10}{'clips':>7}{'ref':>7}"]
        for row in self.table().to_dict("records"):
            numbers = " ".join(number(row[key]) for key in ("fad", "ci_low", "ci_high", "fad_inf"))
            lines.append(f"{row['class']:<22}{numbers}{row['n_clips']:>7}{row['n_ref'] or '-':>7}")
        low, high = self.average_ci
        lines.append(f"{'average':<22}{number(self.average)} {number(low)} {number(high)}")
        lines.append(f"{'std. over classes':<22}{number(self.std)}")
        return "\n".join([*lines, self.name])

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


@dataclass(frozen=True)
class Change:
    """Difference of two average FADs; see :func:`compare_averages`.

    Attributes:
        value: mean over the trainings.
        low: of its interval.
        high: of its interval.
        p: of no change, two-sided; NaN where nothing can be tested: no draws, a training given twice, or all
            of them changed alike.
        trainings: pairs of trainings behind it. From two on the interval covers training seeds and clips; of one it
            covers the choice of clips alone, and what it says holds for that training.
        alpha: p below it counts.
    """

    value: float
    low: float
    high: float
    p: float
    trainings: int = 1
    alpha: float = 0.05

    @property
    def verdict(self) -> str:
        """In words: what p says."""
        if math.isnan(self.p):
            return "no test possible"
        if not self.p < self.alpha:
            return "no difference beyond the noise"
        return "a lower FAD" if self.value < 0 else "a higher FAD"


def compare_averages(
    a: Sequence[EvalResult],
    b: Sequence[EvalResult],
    *,
    level: float = 0.95,
    seeds: Sequence[int] | None = None,
) -> Change:
    """Change of the average FAD from one system to another.

    Trainings of one seed share data order and noise, so that changes are taken within seeds. With two seeds or more
    the interval is Student's over those changes: each training has its own clips, and their noise is in it. With one
    seed it is that of the clips' bootstrap draws, paired by their number and centred on the change. Where two
    results of one side are alike in every class, which is one training given twice, or all changes are the same,
    there is no spread to test by: interval and p are NaN.

    Args:
        a: results of the first system, one per seed.
        b: of the second, in the same order of seeds.
        level: of the interval.
        seeds: of the trainings, in that order, where they are known: no training may come twice.

    Raises:
        InputError: not the same number of results, or none; a seed that comes twice.
    """
    if not a or len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} results cannot be compared seed by seed")
    if seeds is not None:
        _all_different(seeds, len(a))
    changes = np.array([y.average - x.average for x, y in zip(a, b, strict=True)])
    value, n = float(changes.mean()), len(changes)
    alike = n > 1 and np.ptp(changes) <= 1e-12 * max(abs(x.average) for x in (*a, *b))
    if alike or _repeated(a) or _repeated(b):
        return Change(value, math.nan, math.nan, math.nan, n, 1 - level)
    if n > 1:
        error = float(changes.std(ddof=1)) / math.sqrt(n)
        half = float(sps.t.ppf((1 + level) / 2, n - 1)) * error
        p = 2 * float(sps.t.sf(abs(value) / error, n - 1))
        return Change(value, value - half, value + half, p, n, 1 - level)
    draws = [[e.draws for e in side[0].estimates.values()] for side in (a, b)]
    if any(np.size(d) == 0 for side in draws for d in side):
        return Change(value, math.nan, math.nan, math.nan, 1, 1 - level)
    before, after = (np.mean(side, axis=0) for side in draws)
    noise = (after - before) - (after - before).mean()
    low, high = np.quantile(noise, [(1 - level) / 2, (1 + level) / 2]) + value
    # no p of so many draws is 0
    p = (1 + int((np.abs(noise) >= abs(value)).sum())) / (1 + noise.size)
    return Change(value, float(low), float(high), p, 1, 1 - level)


def _repeated(results: Sequence[EvalResult]) -> bool:
    """Whether two results have the same numbers in every class, which no two trainings have."""
    told = [{cls: estimate.fad for cls, estimate in result.estimates.items()} for result in results]
    return any(one in told[:i] for i, one in enumerate(told))


def _all_different(seeds: Sequence[int], results: int) -> None:
    """Refuse seeds that are not one for each training."""
    if len(seeds) != results:
        raise InputError(f"{len(seeds)} seeds for {results} results of each system; give one for each")
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise InputError(f"seed {twice} comes twice: one training is no sample of two; give each seed once")


def with_holm(changes: Sequence[Change]) -> list[Change]:
    """The same changes, their p corrected by Holm for their number; intervals stay those of one change."""
    known = [k for k, change in enumerate(changes) if math.isfinite(change.p)]
    adjusted = dict(zip(known, adjust_p([changes[k].p for k in known], "holm"), strict=True))
    return [replace(change, p=float(adjusted.get(k, change.p))) for k, change in enumerate(changes)]


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
        generated: {class: clips}, or a folder in DCASE layout (``<class>/*.wav``). Clips are arrays (samples,),
            files, or `ClipEmbeddings`.
        reference: the same, {class: `GaussianStats`}, or a statistics npz. All of its classes that were
            generated are used; a generated class it lacks is an error. Statistics of another embedding are an
            error too; where they do not state theirs, the figure's name says so.
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
    options: dict[str, Any] = {"n_boot": n_boot, "level": level, "method": method}
    for i, cls in enumerate(in_order(gen)):
        clips_too = isinstance(ref[cls], ClipEmbeddings) if resample_reference is None else resample_reference
        own_seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        try:
            estimates[cls] = fad_with_ci(
                gen[cls], ref[cls], resample_reference=clips_too, seed=own_seed, **options
            )
            infinities[cls] = _infinity(gen[cls], ref[cls], seed) if with_infinity else None
        except InputError as error:
            raise InputError(f"{cls}: {error}") from None
    settings = {
        "embedding": embedding.name,
        "front_end": embedding.front_end,
        "dim": embedding.dim,
        # statistics that name another one were refused
        "reference_embedding": embedding.name if all(ref[c].embedding for c in gen) else NOT_STATED,
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


def _infinity(
    generated: ClipEmbeddings, reference: ClipEmbeddings | GaussianStats, seed: int
) -> FadInfinity | None:
    stats = reference.stats() if isinstance(reference, ClipEmbeddings) else reference
    return fad_infinity(generated, stats, seed=seed)


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
    if settings["reference_embedding"] == NOT_STATED:
        # nothing but the dimensions could be compared: VGGish in another mode has as many
        ref += f" of an embedding {NOT_STATED}"
    sides = "generated and reference" if settings["reference_resampled"] else "generated"
    interval = (
        f"{settings['level']:.0%} bootstrap over {sides} clips "
        f"({settings['interval']}, {settings['n_boot']} draws)"
        if settings["n_boot"]
        else "no interval"
    )
    return f"FAD[{embedding.name}, {embedding.front_end}, n={n} clips a class, ref={ref}, {interval}]"


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
        cls = canonical(name)
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
