"""Sound files: read, and written whole or not at all."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.audio.waves import check_rate, check_wave
from latentclap.errors import InputError
from latentclap.files import atomic_path, plain

#: Suffixes that ``read_wave`` and ``write_wave`` know, with libsndfile's container and coding.
FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aif": ("AIFF", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
}

#: How lossy codings are written: with soundfile's own settings they take about 30 kbit/s at 16 kHz, and noise such as
#: rain comes out up to 2 dB too bright (mp3, ogg) or 3 dB too dull (opus).
LOSSY: dict[str, dict[str, Any]] = {
    ".ogg": {"compression_level": 0.1},
    ".opus": {"compression_level": 0.6},
    ".mp3": {"compression_level": 0.0, "bitrate_mode": "VARIABLE"},
}


def _name(path: Path) -> Path | bytes:
    """A file's name as soundfile takes it, which refuses text that stands for bytes that are no UTF-8."""
    return path if plain(path) == path.as_posix() else os.fsencode(path)


def decode(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a sound file as it is, float32 (channels, samples) and its rate, without looking at the samples.

    Raises:
        InputError: missing, or nothing that libsndfile can decode.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such sound file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    try:
        wave, sr = soundfile.read(_name(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(
            f"{path}: cannot be read as sound ({reason}); convert it to wav, flac, ogg or mp3"
        ) from error
    return np.ascontiguousarray(wave.T), int(sr)


def read_wave(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a sound file (wav, flac, ogg, opus, mp3, aiff): float32 (channels, samples) and its rate in Hz.

    Raises:
        InputError: missing, not decodable, empty, or with NaN or infinite samples.
    """
    wave, sr = decode(path)
    return check_wave(wave, str(path)), sr


def write_wave(path: str | Path, wave: np.ndarray, sr: int, *, comment: str = "") -> None:
    """Write a sound file by suffix (wav, flac and aiff in 16 bit, ogg Vorbis, opus, mp3), whole or not at all.

    Samples beyond full scale are clipped, with a warning that counts them.

    Args:
        path: where; its folder is made.
        wave: (samples,) or (channels, samples), float.
        sr: rate in Hz; mp3 and opus know only some rates.
        comment: words that travel in the file, which audio programs show.

    Raises:
        InputError: unknown suffix, empty or non-finite wave, or a rate the format does not have.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: unknown sound format {path.suffix!r}; use one of {', '.join(FORMATS)}")
    wave = check_wave(wave, f"write {path}")
    if wave.ndim > 2:
        raise InputError(f"write {path}: takes (samples,) or (channels, samples), not {wave.shape}")
    sr = check_rate(sr, f"write {path}")
    clipped = int((np.abs(wave) > 1.0).sum())
    if clipped:
        warnings.warn(f"{path}: {clipped} samples beyond full scale were clipped", stacklevel=2)
    container, coding = FORMATS[path.suffix.lower()]
    quality = LOSSY.get(path.suffix.lower(), {})
    frames = np.clip(np.atleast_2d(wave), -1.0, 1.0).T.astype(np.float32)
    with atomic_path(path) as temporary:
        try:
            with soundfile.SoundFile(
                _name(temporary), "w", sr, frames.shape[1], format=container, subtype=coding, **quality
            ) as sound:
                if comment:
                    # libsndfile's MP3 writer takes UTF-8 for Latin-1
                    sound.comment = (
                        comment.encode("ascii", "replace").decode() if coding == "MPEG_LAYER_III" else comment
                    )
                # libsndfile's Vorbis and Opus writers take a whole call on the stack: long clips overflow it
                for start in range(0, len(frames), sr):
                    sound.write(frames[start : start + sr])
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
            room = "; is the disk full?" if reason == "System error" else ""
            raise InputError(f"{path}: cannot write {coding} at {sr} Hz ({reason}){room}") from error
