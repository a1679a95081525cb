"""A run that is told to go saves where it is first: a cluster's SIGTERM or SIGUSR1, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

#: what a scheduler sends before it takes a machine away, and Ctrl-C
HEARD = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
#: a second Ctrl-C stops at once; within so many seconds it is the first one, which a launcher passes on
ECHO_SECONDS = 1.0


class Interrupted(SystemExit):
    """Training was told to go by a signal, and has saved its checkpoint. A script exits with 128 + the signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.code, self.signum, self.message = 128 + signum, signum, message

    def __str__(self) -> str:
        return self.message


def interruption(message: str, signum: int) -> BaseException:
    """What to raise for a signal: Ctrl-C stays Python's own, which notebooks know."""
    return KeyboardInterrupt(message) if signum == signal.SIGINT else Interrupted(message, signum)


class Signals:
    """Notes signals in a ``with`` block instead of obeying them; whoever handled them before does so again after it.

    In another thread than the main one, where Python handles none, and for a signal that is ignored, it does nothing.
    """

    def __init__(self) -> None:
        #: the signal that came first; 0: none
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in HEARD:
                before = signal.getsignal(signum)
                # None: a handler that Python did not set and could not set again
                if before not in (signal.SIG_IGN, None):
                    self._before[signum] = before
                    signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and self.received == signum and now - self._since > ECHO_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = signum, now
