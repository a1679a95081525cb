"""What became of every entry of a checkpoint: the load report, and the rule that a part is whole or refused.

Public trainers drop keys that do not fit without a word, and a network with one random layer still makes
plausible sounds (facts G1, G2). Here each entry is matched, benign for a named reason, missing, or unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from latentclap.checkpoints import is_computed
from latentclap.errors import InputError

#: Share of a part's parameters that must match.
WHOLE = 0.99
#: (pattern of a source's name, reason why nothing is lost without it)
Benign = Iterable[tuple[str, str]]


@dataclass
class Mapped:
    """Entries of a checkpoint under the names of one of our modules.

    Attributes:
        state: our name -> tensor.
        origin: our name -> name in the checkpoint.
        benign: reason -> names in the checkpoint that need no place.
        unexpected: name in the checkpoint -> number of elements, where nothing is known about it.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    benign: dict[str, list[str]] = field(default_factory=dict)
    unexpected: dict[str, int] = field(default_factory=dict)


def map_names(
    source: Mapping[str, Tensor], rename: Callable[[str], str | None], benign: Benign = (), prefix: str = ""
) -> Mapped:
    """Sort a checkpoint's entries: renamed to ours, benign, or unexpected.

    Args:
        source: name (without ``prefix``) -> tensor.
        rename: gives our name, or None where it knows none.
        benign: patterns, looked at first.
        prefix: put before the names in the report, so that they read as in the file.
    """
    mapped = Mapped()
    rules = [(re.compile(pattern), reason) for pattern, reason in benign]
    for name, tensor in source.items():
        reason = next((reason for pattern, reason in rules if pattern.search(name)), None)
        if reason is not None:
            mapped.benign.setdefault(reason, []).append(prefix + name)
            continue
        target = rename(name)
        if target is None:
            mapped.unexpected[prefix + name] = tensor.numel()
        else:
            mapped.state[target], mapped.origin[target] = tensor, prefix + name
    return mapped


@dataclass(frozen=True)
class LoadReport:
    """What a part got from a checkpoint.

    Attributes:
        part: name of the part.
        matched: our names, filled from the checkpoint with the right shape.
        benign: reason -> names that need no counterpart, in the checkpoint or in our module.
        missing: our names that the checkpoint does not fill.
        unexpected: the checkpoint's names that we have no place for, or another shape.
        parameters: elements matched.
        unmatched: elements missing and unexpected.
    """

    part: str
    matched: list[str]
    benign: dict[str, list[str]]
    missing: list[str]
    unexpected: list[str]
    parameters: int
    unmatched: int

    @property
    def share(self) -> float:
        """Matched elements over all that count (benign ones do not), 0 ... 1."""
        counted = self.parameters + self.unmatched
        return self.parameters / counted if counted else 1.0

    def require(self, where: str) -> LoadReport:
        """Return the report itself if the part is whole.

        Raises:
            InputError: under 99% of the parameters match, or any of ours would stay random.
        """
        if self.share < WHOLE or self.missing:
            first = [f"missing {', '.join(self.missing[:3])}"] if self.missing else []
            first += [f"unexpected {', '.join(self.unexpected[:3])}"] if self.unexpected else []
            raise InputError(
                f"{where}: {self.part}: {self.share:.2%} of the parameters match "
                f"({len(self.missing)} entries missing, {len(self.unexpected)} unexpected); {'; '.join(first)}"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON, the matched names as their number."""
        return {
            "part": self.part,
            "share": self.share,
            "parameters": self.parameters,
            "matched": len(self.matched),
            "benign": self.benign,
            "missing": self.missing,
            "unexpected": self.unexpected,
        }


def compare(part: str, module: nn.Module, mapped: Mapped) -> LoadReport:
    """Hold the mapped entries against a module's own; nothing is loaded."""
    own = module.state_dict()
    matched, missing, lost = [], [], 0
    benign = {reason: list(names) for reason, names in mapped.benign.items()}
    unexpected = dict(mapped.unexpected)
    for name, tensor in own.items():
        given = mapped.state.get(name)
        if given is not None and given.shape == tensor.shape:
            matched.append(name)
        elif given is None and is_computed(name, module):
            benign.setdefault("computed by our module, not read", []).append(name)
        else:
            missing.append(name)
            lost += tensor.numel()
    for name, tensor in mapped.state.items():
        if name not in own:
            unexpected[mapped.origin[name]] = tensor.numel()
        elif tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} for {tuple(own[name].shape)}"
            unexpected[f"{mapped.origin[name]} {shapes}"] = tensor.numel()
    return LoadReport(
        part=part,
        matched=matched,
        benign=benign,
        missing=missing,
        unexpected=list(unexpected),
        parameters=sum(own[name].numel() for name in matched),
        unmatched=lost + sum(unexpected.values()),
    )


def fill(module: nn.Module, mapped: Mapped, report: LoadReport) -> nn.Module:
    """Put the matched entries into the module, as float32 of their own; evaluation mode."""
    # a copy: the checkpoint is mapped into memory and its file may go away
    state = {name: mapped.state[name].to(torch.float32, copy=True) for name in report.matched}
    module.load_state_dict(state, strict=False, assign=True)
    return module.requires_grad_(True).eval()


def table(reports: Iterable[LoadReport]) -> str:
    """The reports as text: a line per part, then the names behind each number that is not zero."""
    head = f"{'part':<16}{'matched':>9}{'parameters':>15}{'entries':>9}{'benign':>8}{'missing':>9}{'unexpected':>12}"
    lines, notes = [head], []
    for report in reports:
        benign = sum(map(len, report.benign.values()))
        lines.append(
            f"{report.part:<16}{report.share:>9.2%}{report.parameters:>15,}{len(report.matched):>9}"
            f"{benign:>8}{len(report.missing):>9}{len(report.unexpected):>12}"
        )
        groups = {f"benign, {reason}": names for reason, names in report.benign.items()}
        groups |= {"missing": report.missing, "unexpected": report.unexpected}
        notes += [f"{report.part}: {label}: {_some(names)}" for label, names in groups.items() if names]
    return "\n".join([*lines, *notes])


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
