"""The clips of an evaluation: prepared, embedded, found in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.classes import CLASSES, canonical_class
from latentclap.embeddings import DCASE_RATE, DCASE_SAMPLES, Embedding
from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings

Clips = Sequence[np.ndarray | str | Path] | np.ndarray | ClipEmbeddings


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

    Raises:
        InputError: no clip, or ``seconds`` that vggish-dcase does not take.
    """
    if getattr(embedding, "mode", "") == "dcase" and seconds * DCASE_RATE != DCASE_SAMPLES:
        raise InputError(
            f"seconds={seconds:g}: vggish-dcase takes {DCASE_SAMPLES / DCASE_RATE:g} s, as its tool does"
        )
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
    return {cls: sorted(out[cls]) for cls in in_order(out)}


def in_order(classes: Mapping[str, Any]) -> list[str]:
    """Table I's order first, other names after."""
    return [c for c in CLASSES if c in classes] + sorted(c for c in classes if c not in CLASSES)


def canonical(name: str) -> str:
    """Class in our spelling; other names stay as they are."""
    try:
        return canonical_class(name)
    except ValueError:
        return name
