"""FAD class by class: Table I's row, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.embeddings import Embedding, get_embedding
from latentclap.errors import InputError
from latentclap.evaluate.clips import Clips, check_sound, embed_clips
from latentclap.evaluate.folders import as_measured, by_class, sounds_by_folder
from latentclap.evaluate.partners import check_empty, check_partners
from latentclap.evaluate.result import EvalResult
from latentclap.fad import (
    ClipEmbeddings,
    FadEstimate,
    FadInfinity,
    GaussianStats,
    fad_infinity,
    fad_with_ci,
    load_stats,
)

NOT_STATED = "not stated"
Side = Mapping[str, Clips | GaussianStats] | str | Path


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
        generated: {class: clips}, or a folder with one for each class (``<class>/*.wav``). Clips are arrays
            (samples,), files, or `ClipEmbeddings`. Classes have any names, in any spelling (`classes.class_key`);
            they come in Table I's order, others after them by their names as given, which deals their draws.
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
        InputError: bad files, a class without reference or with none that has a sound, different embeddings, too few
            clips.
    """
    embedding = get_embedding(embedding) if isinstance(embedding, str) else embedding
    ours = _side(generated, "generated")
    theirs = by_class(_side(reference, "reference", ours), "reference", like=ours)
    ours = by_class(ours, "generated")
    made, real = _where(generated, "generated"), _where(reference, "reference")
    check_partners(list(ours), made, list(theirs), real)
    check_empty(made, list(ours), list(theirs), real)
    gen = {cls: _embedded(side, embedding, sr, seconds, f"generated {cls}") for cls, side in ours.items()}
    ref = {cls: _embedded(theirs[cls], embedding, sr, seconds, f"reference {cls}") for cls in ours}
    estimates, infinities = {}, {}
    options: dict[str, Any] = {"n_boot": n_boot, "level": level, "method": method}
    for i, cls in enumerate(gen):
        clips_too = isinstance(ref[cls], ClipEmbeddings) if resample_reference is None else resample_reference
        own_seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        check_sound(ref[cls], f"{real}: {cls}")
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
    name = _full_name(embedding, estimates, settings)
    silent, silent_ref = (
        {cls: getattr(s, "n_silent", None) for cls, s in side.items()} for side in (gen, ref)
    )
    return EvalResult(name, estimates, infinities, settings, silent, silent_ref)


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


def _where(side: Any, which: str) -> str | Path:
    """A side's folder or file, or the word for it."""
    return Path(side) if isinstance(side, (str, Path)) else which


def _side(side: Any, which: str, measured: Iterable[str] | None = None) -> dict[str, Clips | GaussianStats]:
    """Any form of a side as clips or statistics by their names as given, in the order in which they are measured."""
    if isinstance(side, (str, Path)):
        # copies are left out of the reference, but in a generated set they are a fault of the generator
        copies = which == "reference"
        is_stats = Path(side).suffix == ".npz"
        side = load_stats(side) if is_stats else sounds_by_folder(side, copies, measured)
    if not isinstance(side, Mapping) or not side:
        raise InputError(f"{which}: expected {{class: clips}}, a folder or a statistics npz")
    return {name: side[name] for name in as_measured(side)}


def _embedded(
    clips: Clips | GaussianStats, embedding: Embedding, sr: int, seconds: float, which: str
) -> ClipEmbeddings | GaussianStats:
    """Clips of a class as embeddings; statistics as they are, if they are of this embedding."""
    if isinstance(clips, GaussianStats):
        if which.startswith("generated"):
            raise InputError("generated: statistics have no clips to resample; give the clips")
        if clips.mu.size != embedding.dim:
            raise InputError(
                f"{which}: statistics of {clips.mu.size} dimensions, but {embedding.name} has "
                f"{embedding.dim}; choose the embedding they were made with"
            )
        if clips.embedding and clips.embedding != embedding.name:
            raise InputError(f"{which}: statistics made with {clips.embedding!r}, not {embedding.name!r}")
        return clips
    if len(clips) == 0:
        raise InputError(f"{which}: no clips")
    try:
        return embed_clips(clips, embedding, sr, seconds)
    except InputError as error:
        raise InputError(f"{which}: {error}") from None
