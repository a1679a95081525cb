"""The one exception for a user's mistake, and the one place where a command line says it."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    The command line prints it as ``error: ...`` without a traceback and exits with status 2.
    """


def run_app(app: Callable[..., Any]) -> int:
    """Run a typer application: a user's mistake becomes one line on stderr and status 2, never a traceback.

    A user's mistake is an `InputError`, wrong options or arguments, what the system refuses (a full disk, no
    permission, no such file), and a GPU that is too small. ``LATENTCLAP_DEBUG=1`` lets the traceback through.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text; stderr does so by itself
        sys.stdout.reconfigure(errors="backslashreplace")
    # Python's own form names a line of our source, which says nothing to a user
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's: its class has moved between versions
            return _usage(error)
        said = reason(error)
        if said is None:
            raise
        return _say(error, said)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as stop:
        if getattr(stop, "message", ""):  # a training's, which a signal ended: the status says only which
            print(stop.message, file=sys.stderr)
        raise
    if status == 130:
        print("stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
    return status if isinstance(status, int) else 0


def reason(error: Exception) -> str | None:
    """What to say of a user's mistake, or of what the machine refuses, in one line; None: it is a bug."""
    if isinstance(error, InputError | OSError):
        return _reason(error)
    if type(error).__name__ == "SafetensorError":  # its way to say a full disk, or a damaged file
        return _one_line(str(error))
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        mend = "a smaller --batch-size may help, and LATENTCLAP_DEVICE=cpu computes on the CPU"
        return f"the GPU has too little memory; {mend}"
    return None


def _usage(error: Any) -> int:
    """Wrong options: the reason and where to look, without typer's frame; a bare command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    command = f" ({error.ctx.command_path} --help)" if getattr(error, "ctx", None) else ""
    return _say(error, _one_line(error.format_message()) + command)


def _say(error: Exception, reason: str) -> int:
    if os.environ.get("LATENTCLAP_DEBUG") == "1":
        raise error
    print(f"error: {reason}", file=sys.stderr)
    return 2


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return _one_line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())
