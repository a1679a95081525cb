"""The one exception for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    The command line prints it as ``error: ...`` without a traceback and exits with status 2.
    """


def run_app(app: Callable[..., Any]) -> int:
    """Run a typer application: a user's mistake becomes one line on stderr and status 2, never a traceback.

    ``LATENTCLAP_DEBUG=1`` lets the traceback through.
    """
    try:
        app()
    except (InputError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if os.environ.get("LATENTCLAP_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
