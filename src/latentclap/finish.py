"""What a clip may need on its way to a listener or into a mix: a length, fades, a loudness.

Numbers are measured on clips as the model made them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from latentclap.errors import InputError

#: Quietest loudness to ask for, in LUFS: below it the meter hears nothing.
QUIETEST = -70.0


@dataclasses.dataclass(frozen=True)
class Finish:
    """How a clip is finished; by default not at all.

    Attributes:
        seconds: length that it is cut to; None: its own.
        lufs: integrated loudness (ITU-R BS.1770-4) that it is brought to, as far as its peaks allow; None: its own.
        fade: milliseconds in which it rises at the start and falls at the end.

    Raises:
        InputError: a length or fade that is none, or a loudness outside -70 to 0, named as the command's options.
    """

    seconds: float | None = None
    lufs: float | None = None
    fade: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < np.inf:
            raise InputError(f"--seconds {self.seconds:g}: give a length above 0")
        if self.lufs is not None and not QUIETEST < self.lufs < 0:
            raise InputError(f"--lufs {self.lufs:g}: it lies between {QUIETEST:g} and 0")
        if not 0 <= self.fade < np.inf:
            raise InputError(f"--fade {self.fade:g}: give milliseconds, 0 for none")

    def asked(self) -> dict[str, float]:
        """What is not as it is by default."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}

    def check(self, seconds: float) -> None:
        """Complain of what clips of so many seconds cannot have.

        Raises:
            InputError: longer than they are, or fades longer than the clip.
        """
        if self.seconds is not None and self.seconds > seconds:
            raise InputError(f"--seconds {self.seconds:g}: the model's clips have {seconds:g} s")
        if 2 * self.fade / 1000 > (length := self.seconds or seconds):
            raise InputError(f"--fade {self.fade:g}: two fades of it are longer than a clip of {length:g} s")

    def __call__(self, wave: np.ndarray, sr: int) -> np.ndarray:
        """Return a wave (samples,) cut, faded and at its loudness, in that order.

        Args:
            wave: float.
            sr: its rate in Hz.
        """
        from latentclap.audio import normalise_loudness  # torch: --help answers at once

        if self.seconds is not None:
            wave = wave[: max(1, round(self.seconds * sr))]
        if self.fade:
            wave = faded(wave, sr, start=self.fade, end=self.fade)
        return wave if self.lufs is None else normalise_loudness(wave, sr, lufs=self.lufs)


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
