"""How a command line says that something is wrong: one line, a status, no traceback."""

import builtins
import subprocess
import sys
import warnings

import pytest
import typer

from latentclap import __main__ as entry
from latentclap.errors import InputError, run_app
from latentclap.train import Interrupted


def run(monkeypatch, capsys, command, *arguments):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    monkeypatch.setattr("sys.argv", ["tool", *arguments])
    status = run_app(app)
    return status, capsys.readouterr().err


@pytest.fixture(autouse=True)
def own_warnings():
    with warnings.catch_warnings():
        yield


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("n: too few"), "error: n: too few\n"),
        (PermissionError(13, "Permission denied", "/a/b"), "error: /a/b: Permission denied\n"),
        (OSError("two\nlines   of text"), "error: two lines of text\n"),
        (OSError(), "error: OSError\n"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, error, line):
    def command() -> None:
        raise error

    assert run(monkeypatch, capsys, command) == (2, line)
    monkeypatch.setenv("LATENTCLAP_DEBUG", "1")
    with pytest.raises(type(error)):
        run(monkeypatch, capsys, command)


def test_wrong_options_are_one_line(monkeypatch, capsys):
    def command(count: int, steps: int = 1) -> None: ...

    for arguments, says in [
        (["3", "--stepz", "2"], "No such option: --stepz"),
        (["three"], "Invalid value for"),
        ([], "Missing argument"),
    ]:
        status, err = run(monkeypatch, capsys, command, *arguments)
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("error: ") and says in err and "--help)" in err


def test_success_interrupt_and_bug(monkeypatch, capsys):
    def fine() -> None:
        warnings.warn("mind the gap", stacklevel=1)

    def stopped() -> None:
        raise KeyboardInterrupt

    def bug() -> None:
        raise ZeroDivisionError

    assert run(monkeypatch, capsys, fine) == (0, "warning: mind the gap\n")
    status, err = run(monkeypatch, capsys, stopped)
    assert status == 130 and "the same command goes on" in err
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, capsys, bug)


def test_whoever_stops_it_while_it_is_imported_sees_no_traceback(monkeypatch, capsys):
    """The imports of a command line take a second."""
    whole = builtins.__import__

    def stopped(name, *rest):
        if name == "latentclap.cli":
            raise KeyboardInterrupt
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", stopped)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped before anything was begun\n"


def test_python_m_latentclap_is_the_command_line():
    told = subprocess.run([sys.executable, "-m", "latentclap", "--version"], capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.startswith("latentclap "), told.stderr


def test_what_a_stopped_training_says_is_printed(capsys):
    """A job's log is all that is left of one that a scheduler took away."""

    def app(**_):
        raise Interrupted("fine-tuning: stopped by SIGTERM; the same command goes on", 15)

    with pytest.raises(SystemExit) as stop:
        run_app(app)
    assert stop.value.code == 143
    assert capsys.readouterr().err == "fine-tuning: stopped by SIGTERM; the same command goes on\n"
