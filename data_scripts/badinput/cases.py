"""The mistakes, as commands: ``cases.toml``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from badinput.material import MATERIALS
from latentclap.errors import InputError

CASES = Path(__file__).with_name("cases.toml")


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        group: the command it is made with.
        name: what is wrong, in a few words.
        command: as typed; a word in braces is a material.
        needs: things that lie in the working folder before the command runs, by name: a material each.
        room: bytes that a file may not exceed, as if the disk were full (0: any).
    """

    group: str
    name: str
    command: str
    needs: dict[str, str] = field(default_factory=dict)
    room: int = 0

    @property
    def materials(self) -> list[str]:
        """The materials that it uses."""
        return [*re.findall(r"\{(\w+)\}", self.command), *self.needs.values()]

    @property
    def shown(self) -> str:
        """The command with names in place of this machine's paths."""
        return re.sub(r"\{(\w+)\}", r"<\1>", self.command)


def read_cases(path: Path = CASES) -> list[Case]:
    """Cases of a TOML file, in its order.

    Raises:
        InputError: an entry lacks something or has too much, is there twice, or uses a material that nobody makes.
    """
    cases: list[Case] = []
    for group, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for entry in entries:
            try:
                case = Case(group, **entry)
            except TypeError as error:
                raise InputError(f"{path.name}: {group}: {entry}: {error}") from None
            unknown = sorted(set(case.materials) - set(MATERIALS))
            if unknown or any((c.group, c.name) == (group, case.name) for c in cases):
                fault = f"nobody makes {', '.join(unknown)}" if unknown else "it is there twice"
                raise InputError(f"{path.name}: {group}: {case.name}: {fault}")
            cases.append(case)
    return cases
