"""Pieces of a sound: which are taken, decoded without the rest of it, and what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latentclap.audio.waves import check_rate
from latentclap.cache.items import Item
from latentclap.cache.listing import passing
from latentclap.cache.tars import Member, opened
from latentclap.errors import InputError

#: decoded beyond the clip's length, so that the resampler's edge lies outside of it (seconds)
MARGIN = 0.25
#: quieter than this is silence, as in a folder's scan (dBFS of the peak, offset removed)
SILENCE = -60.0
#: where a window is silent, so much of the sound is looked through for one that is not, which then begins so much
#: before the first sample that is louder (seconds)
SEARCH, LEAD = 600.0, 0.1
#: libsndfile's number of samples where a FLAC file does not tell it, and sizes that streaming writers of WAV put down
UNTOLD_FRAMES, UNTOLD_BYTES = 2**62, 0x7FFF0000

#: which part of a longer sound is taken: its beginning, or one drawn by its name
Crop = Literal["first", "random"]


class Unread(InputError):
    """A sound that the system did not give, which it may the next time."""


@dataclass(frozen=True)
class Window:
    """A decoded piece of a sound: float32 (channels, samples), its rate, and where it begins (samples)."""

    wave: np.ndarray
    sr: int
    start: int = 0


def decode_head(item: Item, seconds: float) -> tuple[np.ndarray, int]:
    """The beginning of a sound, float32 (channels, samples) and its rate: a ten-hour file takes ten seconds' memory.

    Raises:
        InputError: as :func:`decode_windows`.
    """
    window = decode_windows(item, seconds)[0]
    assert isinstance(window, Window)  # the first one is, or it raises
    return window.wave, window.sr


def decode_windows(
    item: Item, seconds: float, crops: int = 1, crop: Crop = "first"
) -> list[Window | InputError | None]:
    """Pieces of a sound, no two of which are the same; nothing beyond them is decoded or held.

    A sound that is shorter than two pieces gives one, and none gives more than fit into it beside one another.
    "first": one after the other from the beginning. "random": drawn by the item's key, the same on every machine.
    Where the first piece is silent, the pieces begin at the first sound instead; so does each random one.

    Args:
        item: the sound.
        seconds: length of a piece; the last one is shorter where the sound is.
        crops: pieces wanted.
        crop: which.

    Returns:
        The pieces; in place of one but the first, None where it is silent, and the reason where it cannot be decoded.

    Raises:
        InputError: not a sound, cut short, empty, silent or not finite: no piece can be used.
        Unread: the disk failed while it was read.
    """
    try:
        with opened(item) as file:
            try:
                return _decoded(file, item, seconds, crops, crop)
            finally:
                # whatever came of it: libsndfile takes what could not be read for the sound's end
                if isinstance(file, Member) and file.error:
                    raise Unread(f"cannot be read ({file.error})") from None
    except OSError as error:
        kind = Unread if passing(error) else InputError
        raise kind(f"cannot be read ({error.strerror or error})") from None


def _decoded(
    file: Any, item: Item, seconds: float, crops: int, crop: Crop
) -> list[Window | InputError | None]:
    import soundfile

    try:
        with _sound(file, item) as sound:
            return _Decoder(sound, item, file, seconds).windows(crops, crop)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise InputError(_undecodable(error)) from None


def _sound(file: Any, item: Item) -> Any:
    """A file as an open sound; MP3 that begins with something else libsndfile knows by its name alone."""
    import soundfile

    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        if item.path is None or item.path.suffix.lower() != ".mp3":
            raise
        return soundfile.SoundFile(os.fsencode(item.path))


def _undecodable(error: Exception) -> str:
    return f"cannot be decoded ({str(getattr(error, 'error_string', error)).strip().rstrip('.')})"


class _Decoder:
    """An open sound and the windows in it."""

    def __init__(self, sound: Any, item: Item, file: Any, seconds: float) -> None:
        self.sound, self.key = sound, item.key
        self.sr = check_rate(sound.samplerate, item.key)
        self.window = math.ceil(seconds * self.sr)
        self.wanted = math.ceil((seconds + MARGIN) * self.sr)
        #: samples; None where the file does not tell
        self.frames: int | None = sound.frames if sound.frames < UNTOLD_FRAMES else None
        if self.frames is None:
            sound.seekable = lambda: False  # or soundfile seeks after every read, which fails then
        self.place = 0
        #: samples that there ought to be
        self.told = self.frames or 0
        if sound.format in ("WAV", "WAVEX"):  # libsndfile takes what there is of a WAV for the whole
            self.told = int(self.told * _promised(file))

    def windows(self, crops: int, crop: Crop) -> list[Window | InputError | None]:
        whole = (self.frames or 0) // self.window
        count = max(1, min(crops, whole))
        if crop == "random" and self.frames and whole:
            starts = self._drawn(count, self.frames - self.window)
        else:
            starts = [k * self.window for k in range(count)]
        first = self._first(starts[0])
        if first is None:
            searched = self.frames is None or self.frames > SEARCH * self.sr
            raise InputError(f"silent for {SEARCH:g} s" if searched else "silent throughout")
        if crop == "first":  # from where the sound begins, as many as still fit
            starts = [first.start + k * self.window for k in range(count)]
            starts = [s for s in starts if s == first.start or s + self.window <= self.frames]
        out: list[Window | InputError | None] = [first]
        taken = {first.start}
        for start in starts[1:]:
            found = self._other(start, move=crop == "random")
            if isinstance(found, Window) and found.start in taken:
                found = None
            taken.add(found.start if isinstance(found, Window) else start)
            out.append(found)
        return out

    def _drawn(self, count: int, last: int) -> list[int]:
        """Starts between 0 and ``last``, in order: the key's hash decides, so that no run draws anything else."""
        seed = int.from_bytes(hashlib.sha256(self.key.encode("utf-8", "replace")).digest()[:8], "little")
        return sorted((np.random.default_rng(seed).random(count) * (last + 1)).astype(int).tolist())

    def _other(self, start: int, move: bool) -> Window | InputError | None:
        import soundfile

        try:
            return self._first(start) if move else self._loud(start)
        except InputError as error:
            return error
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
            return InputError(_undecodable(error))

    def _first(self, start: int) -> Window | None:
        """The window at a place, or else the first one with a sound after it, or else from the beginning on."""
        found = self._loud(start)
        if found is None and self.frames is None:
            return self._after(self.place)  # a FLAC file without a length can only be read on
        for place in dict.fromkeys((start, 0)) if found is None else ():
            found = found or self._after(place)
        return found

    def _after(self, place: int) -> Window | None:
        end = place + int(SEARCH * self.sr)
        while place < end and (block := self._block(place, self.window)).shape[1]:
            onset = _onset(block[0])
            if onset is not None and self.frames is None:
                return Window(block, self.sr, place)
            if onset is not None:
                # with the onset near its beginning, or else as late as a whole window can be
                near = max(0, min(place + onset - int(LEAD * self.sr), self.frames - self.window))
                return self._loud(near) or self._loud(place)
            place += block.shape[1]
        return None

    def _loud(self, start: int) -> Window | None:
        """The window at a place; None where it is silent."""
        wave = self._block(start, self.wanted)
        told = min(self.told - start, self.wanted)
        if wave.shape[1] < told:
            raise InputError(f"cut short: {start + wave.shape[1]} of {self.told} samples can be decoded")
        if not wave.shape[1]:
            raise InputError("no samples")
        if not np.isfinite(wave).all():
            raise InputError("NaN or infinite samples")
        return None if _onset(wave[0, : self.window]) is None else Window(wave, self.sr, start)

    def _block(self, start: int, length: int) -> np.ndarray:
        if start != self.place:
            self.sound.seek(start)
        wave = self.sound.read(length, dtype="float32", always_2d=True).T
        self.place = start + wave.shape[1]
        return wave


def _onset(wave: np.ndarray) -> int | None:
    """The first sample (n,) that is no silence."""
    loud = np.abs(wave - wave.mean()) >= 10 ** (SILENCE / 20)
    return int(loud.argmax()) if loud.any() else None


def _promised(file: Any) -> float:
    """How much more data a WAV file's header tells of than there is: 1.0 where nothing is missing."""
    # libsndfile goes on where it stands in the file: another one looks
    if isinstance(file, io.BytesIO):
        return _riff(io.BytesIO(file.getvalue()))
    return _riff(Member(file.stream, file.start, file.size)) if isinstance(file, Member) else 1.0


def _riff(stream: Any) -> float:
    size, place = stream.seek(0, io.SEEK_END), 12
    for _ in range(64):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            break
        name, told = struct.unpack("<4sI", head)
        place += 8
        if name == b"data":
            there = size - place
            # some writers are wrong by a header's length: that is no damage
            missing = 1.01 * there < told < UNTOLD_BYTES and there > 0
            return told / there if missing else 1.0
        place += told + told % 2
    return 1.0
