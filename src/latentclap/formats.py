"""Sound formats that commands write, and what each of them cannot hold."""

from __future__ import annotations

from typing import Literal

from latentclap.errors import InputError
from latentclap.finish import Finish

Format = Literal["wav", "flac", "ogg", "mp3", "opus"]
#: Formats that know only some sampling rates, in Hz.
RATES = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 12000, 16000, 24000, 48000),
}


def check_format(format: Format, finish: Finish) -> None:
    """Check that a sound format has what is asked of the clips: its sampling rate, and loops without a gap.

    Raises:
        InputError: it has not; the message names the option.
    """
    rate = finish.sampling_rate
    if rate is not None and rate not in RATES.get(format, (rate,)):
        known = ", ".join(map(str, RATES[format]))
        raise InputError(f"--sampling-rate {rate}: {format} knows {known} Hz only")
    if finish.loop and format == "mp3":
        raise InputError("--loop: mp3 puts silence before and after a clip; loops are wav, flac or ogg")
