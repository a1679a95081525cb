"""The page of what commands say to --help."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from latentclap import cli
from latentclap.book.commands import COMMANDS, commands_page, fenced
from latentclap.errors import InputError

ROOT = Path(__file__).parents[1]

TOOL = '''"""Do two things."""
from dataclasses import dataclass
from typing import Annotated

import beside
import typer

app = typer.Typer(help=__doc__, rich_markup_mode=None)


@dataclass
class Thing:
    """Typer's own loader stumbles over one under postponed annotations."""

    name: "str"


@app.command()
def first(out: Annotated[str, typer.Option(help="Folder for <class>/x.wav.")] = "a|b") -> None:
    """Make the first of the things, with a sentence that is longer than a line of a list. And more.

    \\b
    python tool.py first --out A
    python tool.py second
    """


@app.command()
def second() -> None:
    """Make the second."""
'''


def test_help_becomes_readable_markdown(tmp_path):
    (tmp_path / "tool.py").write_text(TOOL)
    (tmp_path / "beside.py").write_text("")
    out = tmp_path / "commands.md"
    assert commands_page(out, {"python tool.py": str(tmp_path / "tool.py")}) == 1
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# `python tool.py`")
    assert (
        "* `first`: Make the first of the things, with a sentence that is longer than a line of a list.\n"
        in text
    )
    assert "```bash\npython tool.py first --out A\npython tool.py second\n```" in text
    assert "Folder for &lt;class>/x.wav." in text
    assert "\b" not in text


def test_code_keeps_its_angle_brackets():
    assert fenced("a <b> `<c>`\n\n```console\n$ <d>\n```") == "a &lt;b> `<c>`\n\n```console\n$ <d>\n```"
    assert fenced("with --seconds, a -- b, `--no`") == "with `--seconds`, a -- b, `--no`"


def test_what_does_not_start_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"tool\.py: no such file"):
        commands_page(tmp_path / "out.md", {"tool": str(tmp_path / "tool.py")})
    (tmp_path / "tool.py").write_text("raise RuntimeError('no luck')\n")
    with pytest.raises(InputError, match=r"its help cannot be written: .*no luck"):
        commands_page(tmp_path / "out.md", {"tool": str(tmp_path / "tool.py")})
    assert not (tmp_path / "out.md").exists()


def test_every_script_that_has_a_command_line_is_on_the_page():
    """All but those that only developers of the package call."""
    scripts = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "data_scripts").rglob("*.py")
        if any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }
    shown = {source for source in COMMANDS.values() if source.endswith(".py")}
    assert scripts - shown == {"data_scripts/bad_input.py", "data_scripts/environment.py"}
    assert shown <= scripts


def printed_commands() -> list[tuple[str, list[str]]]:
    """Every `latentclap ...` line of the pages' and the README's shell blocks: page and arguments."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("latentclap "):
                    found.append((page.name, shlex.split(line, comments=True)[1:]))
    return found


def test_commands_that_pages_print_are_understood():
    """A page outlives the option that it shows: each command is parsed as the shell hands it over, and not run."""
    group = typer.main.get_command(cli.app)
    commands = printed_commands()
    assert len(commands) > 10 and {"README.md", "rate.md", "sounds.md"} <= {page for page, _ in commands}
    for page, (name, *arguments) in commands:
        if arguments == ["--help"]:
            assert name in group.commands, page
            continue
        try:
            group.commands[name].make_context(name, arguments)
        except Exception as error:  # of several kinds, click's own among them
            pytest.fail(f"{page}: latentclap {name} {' '.join(arguments)}: {error!r}")
