"""The files behind a player: loudness-normalised audio and its spectrogram picture, side by side.

Every clip of the book is brought to one loudness, as far as its peaks allow, and drawn on one scale; players that
stand in one row then share the level that all of them reach (:mod:`latentclap.book.levels`). So neither level nor
contrast makes a system look or sound better. Heard and drawn is the part that FAD is measured on: what a system makes
beyond it, and where real clips are repeated to a system's length, nothing is shown.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.errors import InputError
from latentclap.files import atomic_path

#: Integrated loudness (ITU-R BS.1770) that a player is brought to.
LUFS = -23.0
#: Largest absolute sample of a player, which goes before the loudness.
PEAK = 0.9
#: The one range of every picture, in dB of mel magnitude (dark to light); room noise to the loudest partials.
DB_RANGE = (-75.0, 5.0)
#: The time axis of a picture, seconds across its width, and the length that players are cut to, but where a page asks
#: for another one: the part that is evaluated (IV-A).
PICTURE_SECONDS = 4.0
#: Milliseconds in which a player falls silent at its end: a clip that is cut in the middle of a sound clicks.
FADE = 10.0
#: Pixels, about one per frame of a 4 s clip and 2.5 per mel band.
PICTURE_SIZE = (480, 160)

_AUDIO_SUFFIXES = (".mp3", ".ogg", ".flac", ".wav")
_COLOURS = 48  # cannot be told from 256 at this size, for half the bytes


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """One clip as the page shows it: the player's file, its spectrogram, and the words under it."""

    path: Path
    picture: Path | None = None
    caption: str = ""
    seconds: float | None = None
    sampling_rate: int | None = None
    #: seconds across its picture
    span: float = PICTURE_SECONDS
    #: integrated loudness of the file; None: not measured yet
    lufs: float | None = None
    #: the samples as written, where this process made them: a copy at another level is then encoded once only
    wave: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    def with_caption(
        self,
        text: str = "",
        *,
        prompt: str | None = None,
        seed: int | None = None,
        guidance_scale: float | None = None,
        score: float | None = None,
        fad: float | None = None,
    ) -> AudioFile:
        """Return the same clip with a caption: free text, then what is known of how the clip was made.

        Args:
            text: free words, first.
            prompt: the text that the system was given.
            seed: the seed of the generation.
            guidance_scale: classifier-free guidance weight.
            score: CLAP cosine similarity between the clip and its prompt.
            fad: Fréchet distance of this one clip to the reference.
        """
        parts = [
            text,
            f"“{prompt}”" if prompt else "",
            f"seed {seed}" if seed is not None else "",
            f"guidance {guidance_scale:g}" if guidance_scale is not None else "",
            f"similarity {score:.2f}" if score is not None else "",
            f"FAD of the clip {fad:.1f}" if fad is not None else "",
        ]
        return dataclasses.replace(self, caption=" · ".join(part for part in parts if part))


def save_player(
    wave: Any,
    sr: int,
    path: str | Path,
    *,
    caption: str = "",
    picture: bool = True,
    lufs: float | None = LUFS,
    seconds: float = PICTURE_SECONDS,
) -> AudioFile:
    """Write one clip for a page: its beginning, loudness-normalised, and beside it its spectrogram picture.

    Args:
        wave: (samples,) or (1, samples), numpy or torch, floating point, any level.
        sr: sampling rate in Hz; one that MP3 does not know (96 kHz, say) becomes the next one that it does.
        path: the audio file; the suffix chooses the format (.mp3, which plays in every browser, .ogg, .flac,
            .wav); none means .mp3. The picture gets the same name with .png.
        caption: words under the player, see :meth:`AudioFile.with_caption`.
        picture: draw the spectrogram too.
        lufs: integrated loudness that the clip is brought to; a peak of at most :data:`PEAK` goes before it, and
            a row of players may lower it further. None: it stays as loud as it is.
        seconds: that are played, from the start, and that the picture is wide; one number for all players of a grid.

    Raises:
        InputError: the wave is empty, not mono or not finite; the suffix is none of the four.
    """
    from latentclap.audio import normalise_loudness  # torch: the book's own tools start without it
    from latentclap.finish import faded

    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".mp3")
    if path.suffix.lower() not in _AUDIO_SUFFIXES:
        raise InputError(f"{path.name}: a player is one of {', '.join(_AUDIO_SUFFIXES)}; rename the file")
    heard = mono(wave, path.name)[: round(seconds * sr)]
    heard, sr = _known_rate(heard, sr, path)
    heard = faded(heard, sr, end=FADE)
    if lufs is not None:
        heard = normalise_loudness(heard, sr, lufs=lufs, peak=PEAK)
    return dataclasses.replace(
        write_player(heard, sr, path, picture=picture, seconds=seconds), caption=caption
    )


def _known_rate(wave: np.ndarray, sr: int, path: Path) -> tuple[np.ndarray, int]:
    """A clip (samples,) at a rate that its format knows: its own, else the next one above, else the highest."""
    from latentclap.audio import resample
    from latentclap.formats import RATES

    rates = RATES.get(path.suffix.lower().removeprefix("."), (sr,))
    if sr in rates:
        return wave, sr
    to = min((rate for rate in rates if rate > sr), default=max(rates))
    return resample(wave, sr, to), to


def write_player(
    heard: np.ndarray, sr: int, path: Path, *, picture: bool = True, seconds: float = PICTURE_SECONDS
) -> AudioFile:
    """Write samples (n,) as they are to be heard, with their picture, ``seconds`` wide, beside them."""
    from latentclap.audio import write_wave

    write_wave(path, heard, sr)
    image = spectrogram_png(heard, sr, path.with_suffix(".png"), seconds=seconds) if picture else None
    return AudioFile(path, image, "", len(heard) / sr, int(sr), seconds, file_loudness(path), heard)


def file_loudness(path: Path) -> float:
    """Integrated loudness of a sound file as a browser decodes it, in LUFS; minus infinity for silence.

    Not that of the samples that were encoded: a lossy coding may change it.
    """
    from latentclap.audio import loudness, read_wave

    wave, sr = read_wave(path)
    return loudness(wave, sr)


def spectrogram_png(wave: Any, sr: int, path: str | Path, *, seconds: float = PICTURE_SECONDS) -> Path:
    """Draw the log-mel spectrogram as a small palette PNG without axes; return its path.

    Every picture has the same scales: time 0 to ``seconds`` from left to right (what lies beyond is cut, what
    is missing has the darkest colour), 64 mel bands from 0 to 8 kHz upwards, :data:`DB_RANGE` dark to light.

    Args:
        wave: (samples,), as it is heard.
        sr: sampling rate in Hz.
        path: the PNG file.
        seconds: width of the time axis.

    Raises:
        InputError: the wave is empty, not mono or not finite.
    """
    import matplotlib
    from PIL import Image

    levels = spectrogram_levels(mono(wave, Path(path).name), sr, seconds)
    grey = Image.fromarray((levels[::-1] * 255).astype(np.uint8)).resize(
        PICTURE_SIZE, Image.Resampling.BILINEAR
    )
    indices = np.round(np.asarray(grey) * ((_COLOURS - 1) / 255)).astype(np.uint8)
    picture = Image.frombytes("P", PICTURE_SIZE, indices.tobytes())
    picture.putpalette(
        matplotlib.colormaps["magma"](np.linspace(0, 1, _COLOURS), bytes=True)[:, :3].tobytes()
    )
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
    return Path(path)


def spectrogram_levels(wave: np.ndarray, sr: int, seconds: float = PICTURE_SECONDS) -> np.ndarray:
    """Return a picture's brightness (64, frames) in 0 ... 1, low frequencies first, on the common scales."""
    import torch

    from latentclap.audio import MelConfig, log_mel, resample

    config = MelConfig()
    samples = round(seconds * config.sampling_rate)
    wave = resample(wave, sr, config.sampling_rate)[:samples]
    padded = np.zeros(samples, dtype=np.float32)
    padded[: len(wave)] = wave
    decibels = log_mel(torch.from_numpy(padded)[None], config)[0, 0].T.numpy() * (20 / np.log(10))
    low, high = DB_RANGE
    return ((decibels - low) / (high - low)).clip(0, 1)


def mono(wave: Any, where: str) -> np.ndarray:
    """Return a clip as float32 (samples,).

    Raises:
        InputError: anything but one finite, non-empty channel; ``where`` names it.
    """
    array = wave.detach().cpu().numpy() if hasattr(wave, "detach") else np.asarray(wave)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.size == 0:
        raise InputError(
            f"{where}: a player takes one channel of samples, shape (samples,), not {array.shape}"
        )
    if array.dtype.kind != "f":
        raise InputError(
            f"{where}: samples are {array.dtype}, not float; divide integers by their full scale"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{where}: the clip holds NaN or infinite samples; the run that made it diverged")
    return array.astype(np.float32)
