"""The command as it was typed: what records say of how their files were made, so that the way back is there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer
import typer.core

_WORDS: ContextVar[tuple[str, ...]] = ContextVar("words of the command line", default=())


class Typed(typer.core.TyperGroup):
    """A group of commands that remembers, while one of them runs, how it was typed."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """See typer: ``args`` are the words after the command's name; None: those of this process."""
        import sys

        words = list(sys.argv[1:] if args is None else args)
        token = _WORDS.set((self.name or "latentclap", *words))
        try:
            return super().main(args, *more, **options)
        finally:
            _WORDS.reset(token)


def typed() -> str:
    """The command that runs, as one types it in a shell; empty where Python called, not a command line.

    Paths stay as they were typed: from the folder on in which the command was given.
    """
    # a name that is no UTF-8 is told as `files.plain` tells it
    return os.fsencode(shlex.join(_WORDS.get())).decode("utf-8", "backslashreplace")


def typed_as() -> dict[str, str]:
    """``{"command": ...}`` for a record, or nothing."""
    return {"command": words} if (words := typed()) else {}


def options_given(context: typer.Context) -> dict[str, Any]:
    """The options and arguments that were typed, by their names, JSON-ready.

    What has its default is left out: another version may have another one, which its own record tells.

    Args:
        context: of the command that is being done.
    """
    return {
        parameter.name: _plain(context.params[parameter.name])
        for parameter in context.command.params
        if (source := context.get_parameter_source(parameter.name)) and source.name == "COMMANDLINE"
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.as_posix() if isinstance(value, Path) else value
