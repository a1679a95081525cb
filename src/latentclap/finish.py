"""What a clip may need on its way to a listener, into a mix or into a game: a length, a seamless loop, a rate, fades,
a loudness.

Numbers are measured on clips as the model made them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from latentclap.errors import InputError

#: Quietest loudness to ask for, in LUFS: below it the meter hears nothing.
QUIETEST = -70.0
#: Rates in Hz that can be asked for.
RATES = (8_000, 192_000)


@dataclasses.dataclass(frozen=True)
class Finish:
    """How a clip is finished; by default not at all.

    Attributes:
        seconds: length that it is cut to, of a loop that of one round; None: its own.
        lufs: integrated loudness (ITU-R BS.1770-4) that it is brought to, as far as its peaks allow; None: its own.
        fade: milliseconds in which it rises at the start and falls at the end.
        loop: milliseconds at its end that are blended into its start, so that it can go round and round; 0: none.
        sampling_rate: in Hz, that it is brought to; None: its own.

    Raises:
        InputError: a length, fade, loop or rate that is none, a loudness outside -70 to 0, or a loop with fades; they
            are named as the command's options.
    """

    seconds: float | None = None
    lufs: float | None = None
    fade: float = 0.0
    loop: float = 0.0
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < np.inf:
            raise InputError(f"--seconds {self.seconds:g}: give a length above 0")
        if self.lufs is not None and not QUIETEST < self.lufs < 0:
            raise InputError(f"--lufs {self.lufs:g}: it lies between {QUIETEST:g} and 0")
        for option, value in (("--fade", self.fade), ("--loop", self.loop)):
            if not 0 <= value < np.inf:
                raise InputError(f"{option} {value:g}: give milliseconds, 0 for none")
        if self.fade and self.loop:
            raise InputError(
                "--fade and --loop: a loop that falls silent at its ends is none; leave one of them out"
            )
        if self.sampling_rate is not None and not RATES[0] <= self.sampling_rate <= RATES[1]:
            raise InputError(f"--sampling-rate {self.sampling_rate}: give {RATES[0]} to {RATES[1]} Hz")

    def asked(self) -> dict[str, float]:
        """What is not as it is by default."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}

    def check(self, seconds: float) -> None:
        """Complain of what clips of so many seconds cannot have.

        Raises:
            InputError: longer than they are, or fades or a loop's blend longer than the clip.
        """
        blend = self.loop / 1000
        if self.seconds is not None and self.seconds + blend > seconds:
            more = f", of which --loop {self.loop:g} takes {blend:g} s" if self.loop else ""
            raise InputError(f"--seconds {self.seconds:g}: the model's clips have {seconds:g} s{more}")
        length = self.length(seconds)
        if self.fade and 2 * self.fade / 1000 > length:
            raise InputError(f"--fade {self.fade:g}: two fades of it are longer than a clip of {length:g} s")
        if blend > length:
            whole = f"a round of {length:g} s" if self.seconds else f"half of a clip of {seconds:g} s"
            raise InputError(f"--loop {self.loop:g}: blends longer than {whole}")

    def within(self, seconds: float) -> Finish:
        """The same for a clip of so many seconds, which may be too short for it: then it is not cut."""
        if self.seconds is None or self.seconds + self.loop / 1000 <= seconds:
            return self
        return dataclasses.replace(self, seconds=None)

    def length(self, seconds: float) -> float:
        """Length in seconds of a finished clip that had so many."""
        return self.seconds or seconds - self.loop / 1000

    def rate(self, sr: int) -> int:
        """Sampling rate in Hz of a finished clip that had ``sr``."""
        return self.sampling_rate or sr

    def __call__(self, wave: np.ndarray, sr: int) -> np.ndarray:
        """Return a wave (samples,) cut, looped, at its rate (see `rate`), faded and at its loudness, in that order.

        Args:
            wave: float.
            sr: its rate in Hz.
        """
        from latentclap.audio import normalise_loudness, resample  # torch: --help answers at once

        blend = round(self.loop / 1000 * sr)
        if self.seconds is not None:
            wave = wave[: max(1, round(self.seconds * sr)) + blend]
        if blend:
            wave = looped(wave, blend)
        if self.rate(sr) != sr:
            # a loop's filter hears the end before the start, and the start after the end
            rounds, n = (3, round(len(wave) * self.rate(sr) / sr)) if blend else (1, None)
            wave = resample(np.tile(wave, rounds), sr, self.rate(sr))
            wave = wave if n is None else wave[n : 2 * n]
            sr = self.rate(sr)
        if self.fade:
            wave = faded(wave, sr, start=self.fade, end=self.fade)
        return wave if self.lufs is None else normalise_loudness(wave, sr, lufs=self.lufs)


def looped(wave: np.ndarray, blend: int) -> np.ndarray:
    """Return a wave (samples - blend,) whose end goes on in its start: its last samples are blended into its first.

    The blend keeps the power of sounds that have nothing to do with one another (rain, a motor), by a quarter of a
    sine and of a cosine.

    Args:
        wave: (samples,), float.
        blend: samples that are blended, at most half of them.
    """
    rise = np.sin(0.5 * np.pi * np.arange(blend) / blend)
    out = wave[: len(wave) - blend].copy()
    tail = wave[len(wave) - blend :]
    out[:blend] = (out[:blend] * rise + tail * np.sqrt(1 - rise**2)).astype(wave.dtype)
    return out


def faded(wave: np.ndarray, sr: int, *, start: float = 0.0, end: float = 0.0) -> np.ndarray:
    """Return a wave (samples,) that rises from silence and falls back to it, by half a cosine.

    Args:
        wave: float.
        sr: its rate in Hz.
        start: milliseconds of the rise; 0 for none.
        end: milliseconds of the fall; 0 for none.
    """
    wave = wave.copy()
    for ms, way in ((start, slice(None)), (end, slice(None, None, -1))):
        n = min(round(ms / 1000 * sr), len(wave))
        wave[way][:n] *= (0.5 - 0.5 * np.cos(np.pi * np.arange(n) / max(n, 1))).astype(wave.dtype)
    return wave
