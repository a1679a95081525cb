"""``latentclap`` and ``python -m latentclap``: the command line, which takes a moment to be imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; who stops it while it is being imported sees no traceback either."""
    try:
        from latentclap.cli import main as run
    except KeyboardInterrupt:
        print("stopped before anything was begun", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
