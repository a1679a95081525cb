"""A sound of the user's own that takes are made of: what came over the wire, checked and decoded."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentclap.errors import InputError
from latentclap.play.items import Item
from latentclap.play.shelf import Shelf
from latentclap.vary.sounds import LONGEST, Sounds, find_sources, word_of

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: Most bytes, seconds and channels.
MOST_BYTES, MOST_SECONDS, MOST_CHANNELS = 32_000_000, 300, 8


def given(name: str, content: bytes, shelf: Shelf, system: FoleySystem) -> Item:
    """Take a user's sound: its file as it is, for takes, and what the model hears of it, for the page.

    Args:
        name: of its file; the end says the format.
        content: of the file.
        shelf: whose folder gets both.
        system: whose takes are to be made of it.

    Raises:
        InputError: no sound that can be read, silence, or one that is too long.
    """
    from latentclap.audio import FORMATS, write_wave
    from latentclap.book.players import spectrogram_png

    name = safe_name(name)
    if Path(name).suffix.lower() not in FORMATS:
        raise InputError(f"{name}: give a sound as one of {', '.join(FORMATS)}")
    place = shelf.place("sound")
    try:
        file, played = place / name, place / "heard" / "heard.wav"
        file.write_bytes(content)
        check_length(file)
        (wave,) = Sounds(find_sources([file], [1.0]), system.samples).values()
        heard, sr = wave[: system.samples], system.sampling_rate
        write_wave(played, np.clip(heard, -1, 1), sr)
        picture = spectrogram_png(heard, sr, place / "heard.png", seconds=system.seconds)
    except InputError as error:
        shutil.rmtree(place, ignore_errors=True)
        said = str(error).replace(f"{place}/", "")
        raise InputError(said if name in said else f"{name}: {said}") from None
    except BaseException:  # a full disk, say: nothing half stays
        shutil.rmtree(place, ignore_errors=True)
        raise
    word = word_of(file.stem)
    return Item(
        id=shelf.number(),
        kind="sound",
        title=name,
        file=played.name,
        path=played,
        picture=picture,
        word=word,
        root=word,
        source=file,
        told={"seconds": len(heard) / sr, "rate": sr, "cut": len(wave) > len(heard)},
    )


def safe_name(name: str) -> str:
    """A sound's name as a file's: no folders, nothing that a shell takes for an option, of a length that fits.

    Letters that are not seen, those that turn the direction of writing too, are replaced.

    Raises:
        InputError: it has no end that says a format.
    """
    name = "".join(letter if letter.isprintable() else "/" for letter in " ".join(name.split()))
    name = re.sub(r"[/\\]+", "_", name).lstrip("-.")
    stem, _, suffix = name.rpartition(".")
    if not stem:
        raise InputError("give the sound's file a name with its format, such as step.wav")
    stem = stem.encode(errors="replace")[:LONGEST].decode(errors="ignore")
    return f"{stem}.{suffix[:10]}"


def check_length(file: Path) -> None:
    """Look at a sound's length before it is decoded: a small file may hold hours.

    Raises:
        InputError: it is no sound, or too long.
    """
    import soundfile

    try:
        told = soundfile.info(file)
    except (soundfile.LibsndfileError, RuntimeError):
        raise InputError(
            f"{file.name}: no sound that can be read; convert it to wav, flac, ogg or mp3"
        ) from None
    if told.channels > MOST_CHANNELS or told.frames > MOST_SECONDS * told.samplerate:
        raise InputError(
            f"{file.name}: a sound has up to {MOST_CHANNELS} channels and {MOST_SECONDS // 60} minutes here;"
            " cut out what is to be varied"
        )
