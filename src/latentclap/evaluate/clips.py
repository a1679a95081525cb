"""The clips of an evaluation: prepared, looked at for silence, embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentclap.embeddings import DCASE_RATE, DCASE_SAMPLES, Embedding
from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings

#: a clip whose peak stays below it, its mean removed, is silent; as in a folder's scan (dBFS)
SILENCE = -60.0

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
    return _for_embedding(*_first(clip, embedding, sr, seconds), embedding)


def _first(
    clip: np.ndarray | str | Path, embedding: Embedding, sr: int, seconds: float
) -> tuple[np.ndarray, int]:
    """The first channel of a clip (samples,), its first ``seconds``, and its rate."""
    if getattr(embedding, "mode", "") == "dcase" and seconds * DCASE_RATE != DCASE_SAMPLES:
        raise InputError(
            f"seconds={seconds:g}: vggish-dcase takes {DCASE_SAMPLES / DCASE_RATE:g} s, as its tool does"
        )
    from latentclap.audio import read_wave

    if isinstance(clip, (str, Path)):
        wave, sr = read_wave(clip)
        wave = wave[0]
    else:
        wave = np.asarray(clip)
        wave = wave[0] if wave.ndim == 2 else wave
    if wave.ndim != 1 or wave.size == 0:
        raise InputError(f"clip of shape {wave.shape}; expected (samples,) or (channels, samples)")
    return wave[: round(seconds * sr)], sr


def _for_embedding(wave: np.ndarray, sr: int, embedding: Embedding) -> tuple[np.ndarray, int]:
    """A wave (samples,) and its rate as the embedding takes them."""
    if getattr(embedding, "mode", "") != "dcase":
        return wave, sr
    from latentclap.audio import resample

    if wave.dtype.kind == "f":
        wave = resample(wave, sr, DCASE_RATE)[:DCASE_SAMPLES]
        # libsndfile reads 16-bit files as integer / 32768: their samples come back exactly
        wave = np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)
    elif sr != DCASE_RATE:
        raise InputError(f"vggish-dcase: integer samples at {sr} Hz; give floats, or {DCASE_RATE} Hz")
    return np.pad(wave, (0, max(0, DCASE_SAMPLES - wave.size))), DCASE_RATE


def is_silent(wave: np.ndarray) -> bool:
    """Whether a wave (samples,), floats within +-1 or whole numbers, is silence: :data:`SILENCE`."""
    full = float(np.iinfo(wave.dtype).max) + 1 if wave.dtype.kind in "iu" else 1.0
    told = wave.astype(np.float64)
    return bool(np.abs(told - told.mean()).max() < full * 10 ** (SILENCE / 20))


def check_sound(reference: object, where: str) -> None:
    """Refuse silence alone as real clips: that is a fault of the recordings, and KAD has no scale for it.

    Args:
        reference: embeddings of the clips of one class; of statistics nothing is known.
        where: the clips are, for the error: their folder and class.

    Raises:
        InputError: none of the clips has a sound.
    """
    if isinstance(reference, ClipEmbeddings) and reference.n_silent == len(reference):
        told = "its one clip is" if len(reference) == 1 else f"its {len(reference)} clips are all"
        raise InputError(
            f"{where}: {told} silent; real clips need a sound: give others, or leave the class out of all folders"
        )


def embed_clips(clips: Clips, embedding: Embedding, sr: int, seconds: float = 4.0) -> ClipEmbeddings:
    """Embed clips once; the result can be handed to `evaluate` again and again (a reference for nine
    systems).

    A silent clip is embedded like any other, and noted: no embedding has NaN for silence.

    Raises:
        InputError: names the clip that could not be embedded and says why.
    """
    if isinstance(clips, ClipEmbeddings):
        if clips.embedding and clips.embedding != embedding.name:
            raise InputError(
                f"clips embedded by {clips.embedding!r} cannot be evaluated as {embedding.name!r}"
            )
        return clips
    rows, silent = [], []
    for i, clip in enumerate(clips):
        try:
            wave, rate = _first(clip, embedding, sr, seconds)
            rows.append(embedding(*_for_embedding(wave, rate, embedding)))
            silent.append(is_silent(wave))
        except InputError as error:
            where = clip if isinstance(clip, (str, Path)) else f"clip {i}"
            raise InputError(f"{where}: {error}" if str(where) not in str(error) else str(error)) from None
    return replace(ClipEmbeddings.from_clips(rows, embedding.name), silent=np.array(silent))
