"""The page of commands: what each says to --help, as Markdown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from latentclap.errors import InputError
from latentclap.files import write_text

#: how a command is called -> the module or file that is it
COMMANDS: dict[str, str] = {
    "latentclap": "latentclap.cli",
    "accelerate launch -m latentclap.train": "latentclap.launch",
    "python data_scripts/get.py": "data_scripts/get.py",
    "python data_scripts/convert_dcase_stats.py": "data_scripts/convert_dcase_stats.py",
    "python data_scripts/make_foley.py": "data_scripts/make_foley.py",
    "python data_scripts/example_sounds.py": "data_scripts/example_sounds.py",
    "python data_scripts/play_picture.py": "data_scripts/play_picture.py",
    "python data_scripts/pack_shards.py": "data_scripts/pack_shards.py",
    "python data_scripts/cache_latents.py": "data_scripts/cache_latents.py",
    "python data_scripts/pretrain_mini.py": "data_scripts/pretrain_mini.py",
    "python data_scripts/benchmarks/speed.py": "data_scripts/benchmarks/speed.py",
    "python data_scripts/benchmarks/cache_rate.py": "data_scripts/benchmarks/cache_rate.py",
    "python data_scripts/benchmarks/family.py": "data_scripts/benchmarks/family.py",
    "python data_scripts/benchmarks/forgetting.py": "data_scripts/benchmarks/forgetting.py",
    "python data_scripts/benchmarks/lora.py": "data_scripts/benchmarks/lora.py",
    "python data_scripts/benchmarks/measures.py": "data_scripts/benchmarks/measures.py",
    "python data_scripts/benchmarks/vary.py": "data_scripts/benchmarks/vary.py",
}
# a paragraph of a help text that keeps its lines: typer leaves the mark before it, and
_KEPT = re.compile("\\n\b\\n((?:[^\\n]+\\n)+)")


def commands_page(
    out: str | Path = "book/generated/commands.md", commands: Mapping[str, str] = COMMANDS
) -> int:
    """Write the help of every command and of its subcommands; return how many commands.

    Args:
        out: the Markdown file to write.
        commands: {how it is called: module, or file under the current folder}.

    Raises:
        InputError: one of them is not there, or does not start.
    """
    text = [_help(name, source) for name, source in commands.items()]
    write_text(out, "\n\n".join(text) + "\n")
    return len(text)


def _help(name: str, source: str) -> str:
    if source.endswith(".py") and not Path(source).is_file():
        raise InputError(f"{source}: no such file; run this in the repository's root")
    # typer runs a module without entering it where dataclasses look for it: imported before, it is there
    script = Path(source)
    module = script.stem if script.suffix == ".py" else source
    first = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {module}"
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{first}; from typer.cli import main; main()",
            module,
            "utils",
            "docs",
            "--name",
            name,
        ],
        capture_output=True,
        text=True,
        # what help says must not depend on the width of a window or on colours
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"},
        check=False,
    )
    if ran.returncode or not ran.stdout.startswith("# "):
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:]
        raise InputError(f"{source}: its help cannot be written: {' '.join(last)}")
    return fenced(ran.stdout.strip())


def _prose(text: str) -> str:
    """Words outside of code: ``<`` begins no tag, and two hyphens are no dash."""
    return re.sub(r"(?<![\w`-])--[a-z][\w-]*", r"`\g<0>`", text.replace("<", "&lt;"))


def fenced(text: str) -> str:
    """Mend what typer's writer leaves: kept lines become blocks, ``<name>`` is no HTML, and a list of subcommands has
    their first sentences whole.
    """

    def block(found: re.Match[str]) -> str:
        kind = "toml" if re.search(r"^\w+ += ", found[1], re.M) else "bash"
        return f"\n```{kind}\n{found[1]}```\n"

    def entry(found: re.Match[str]) -> str:
        return f"* `{found[1]}`: {sentences[found[1]]}" if found[1] in sentences else found[0]

    text = _KEPT.sub(block, text)
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S)
    text = "".join(part if i % 2 else _prose(part) for i, part in enumerate(parts))
    sentences = {
        name: " ".join(first.split())
        for name, first in re.findall(r"^## `[^`\n]* ([\w-]+)`\n\n(.+?\.)(?=\s+[A-Z]|\n)", text, re.M | re.S)
    }
    return re.sub(r"^\* `([\w-]+)`: .*$", entry, text, flags=re.M)
