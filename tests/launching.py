"""``python -m latentclap.train`` within a test's own process."""

from typer.testing import CliRunner

from latentclap import launch
from latentclap.errors import InputError


def alone(config, *options):
    """What the command says in this process, or the message of its refusal."""
    result = CliRunner().invoke(launch.app, [str(config), "--quiet", *options])
    assert result.exception is None or isinstance(result.exception, InputError), result.exception
    return result.output + str(result.exception or "")
