"""What a command was given, for the record of a run that somebody may want to make again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer


def typed(context: typer.Context) -> dict[str, Any]:
    """The command as it was typed, and the options and arguments of it by their names.

    What has its default is left out: another version may have another one, which its own record tells.

    Args:
        context: of the command that is being done.

    Returns:
        JSON-ready: ``command``, as a shell takes it, and ``options`` {name: value}.
    """
    arguments: list[str] = []
    options: list[str] = []
    values: dict[str, Any] = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        values[parameter.name] = _plain(value)
        if parameter.param_type_name == "argument":
            arguments += [str(one) for one in _each(value)]
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [word for one in _each(value) for word in (parameter.opts[0], str(one))]
    words = [*context.command_path.split()[1:], *arguments, *options]
    return {"command": shlex.join(["latentclap", *words]), "options": values}


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.as_posix() if isinstance(value, Path) else value
