"""Runs of notebooks: parameters checked, artefacts in one folder, provenance beside every number.

A notebook's second cell is ``run = start("03_finetune", globals())``. Artefacts go to
``runs/<profile>/<notebook>/<config hash>/``, whatever papermill does with the executed notebook itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from latentclap.errors import InputError
from latentclap.files import finite, read_json, write_json
from latentclap.limits import check_profile, check_values
from latentclap.profiles import Profile, convert, load_profile
from latentclap.provenance import (
    CORE,
    PACKAGES,
    code_hash,
    commit,
    config_hash,
    device_name,
    origin,
    project_root,
    runs_root,
    threads,
    versions,
)

if TYPE_CHECKING:
    from IPython.display import Markdown

__all__ = [
    "CORE",
    "PACKAGES",
    "Run",
    "check_parameters",
    "code_hash",
    "commit",
    "config_hash",
    "device_name",
    "origin",
    "project_root",
    "runs_root",
    "start",
    "threads",
    "versions",
]

# what an IPython kernel puts into the namespace before any cell runs
_IPYTHON = {"In", "Out", "get_ipython", "exit", "quit", "open", "start", "annotations"}
#: what a notebook's prose has in the place of a number of its own; what it may stand for
_GLUED = re.compile(r"\{glue:text\}`(?P<name>\w+)(?::(?P<form>[^`]*))?`")
_SHORT = (str, int, float)


@dataclass
class Run:
    """One execution of a notebook.

    Attributes:
        notebook: its name, for example "03_finetune".
        profile: the profile, with the notebook's own parameters still apart.
        parameters: the parameters cell's values.
        config: what the run's hash is made of.
        folder: where artefacts go.
        force: run again what is recorded.
    """

    notebook: str
    profile: Profile
    parameters: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    force: bool = False
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def data_dir(self) -> str:
        """Folder of recordings: the notebook's parameter, else the profile's; empty for the embedded set."""
        return str(self.parameters.get("data_dir") or self.profile.data.folder)

    def glue(self, name: str, value: Any) -> None:
        """Hand a number or text to the book's prose under ``name``, and record it in metrics.json."""
        from myst_nb import glue

        self.metrics[name] = value
        glue(name, value, display=False)

    def once(self, name: str, make: Callable[[], Any], *, of: Sequence[str] = ()) -> Any:
        """Return JSON data that ``make`` computes, or what an earlier run of the same configuration recorded.

        A recorded result is used, and said so, unless ``force``. Recorded runs of the book are looked up too.

        Args:
            name: of the result, and of its file.
            make: computes it.
            of: hashes of what the configuration only names: a folder of recordings or of weights may hold others
                since (``Lab.content``).
        """
        if of:
            name = f"{name}-{config_hash(list(of))}"
        for folder in (self.folder, self.recorded_folder):
            path = folder / f"{name}.json"
            if path.is_file() and not self.force:
                by = (
                    read_json(folder / "provenance.json")["commit"]
                    if folder is self.recorded_folder
                    else "this code"
                )
                print(
                    f"{name}: recorded result of the same configuration reused, made by {by} (force=True: again)"
                )
                return read_json(path)
        value = make()
        write_json(self.folder / f"{name}.json", value)
        return read_json(self.folder / f"{name}.json")

    def each(
        self, name: str, items: Iterable[Any], make: Callable[..., Any], *, of: Sequence[str] = ()
    ) -> list[Any]:
        """Like :meth:`once`, of a list whose entries take long: what is killed goes on after the last one finished.

        Results so far lie in ``<name>.part.json`` of the run's folder until all are there. With ``force`` all are
        made anew.

        Args:
            name: of the result, and of its file.
            items: what each result is of; tuples of plain values.
            make: computes one, from an item's values as its arguments.
            of: as for :meth:`once`.
        """
        items = list(items)
        part = self.folder / f"{'-'.join([name, *([config_hash(list(of))] if of else [])])}.part.json"

        def make_all() -> list[Any]:
            from tqdm.auto import tqdm

            done = read_json(part) if part.is_file() and not self.force else {}
            if found := sum(config_hash(item) in done for item in items):
                print(f"{name}: {found} of {len(items)} are there from a run that was stopped")
            for item in tqdm(items, desc=name):
                if config_hash(item) not in done:
                    done[config_hash(item)] = make(*item)
                    write_json(part, done)
            return [done[config_hash(item)] for item in items]

        values = self.once(name, make_all, of=of)
        part.unlink(missing_ok=True)
        return values

    def told(self) -> Markdown:
        """The notebook's sentences with this run's numbers in them, for whoever reads it in Jupyter.

        The book fills ``{glue:text}`` in by itself and leaves this cell out. Where the notebook's source is not
        there, the numbers are listed under their names.
        """
        from IPython.display import Markdown

        source = project_root() / "notebooks" / f"{self.notebook}.ipynb"
        cells = read_json(source)["cells"] if source.is_file() else []
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        parts = [part for text in texts for part in text.split("\n\n") if _GLUED.search(part)]
        if not parts:
            short = {name: value for name, value in self.metrics.items() if isinstance(value, _SHORT)}
            parts = ["\n".join(f"- `{name}`: {value}" for name, value in short.items())]
        filled = (_GLUED.sub(self._filled, part) for part in parts)
        return Markdown("## In words, with this run's numbers\n\n" + "\n\n".join(filled))

    def _filled(self, role: re.Match[str]) -> str:
        """A number or text in the place of its name."""
        value = self.metrics.get(role["name"])
        if value is None:
            return f"`{role['name']}`"
        return format(value, role["form"] or "")

    @property
    def recorded_folder(self) -> Path:
        """Where the book keeps a recorded run of this configuration."""
        # without the code's hash: a recorded run is of an older commit, which provenance.json names
        return project_root() / "book" / "runs" / self.profile.name / self.notebook / config_hash(self.config)

    def provenance(self, **more: Any) -> dict[str, Any]:
        """Where this run's numbers come from: configuration, commit, device, versions, wall time."""
        seconds = time.monotonic() - self.started
        return {
            "notebook": self.notebook,
            "profile": self.profile.name,
            "config_hash": self.folder.name,
            "parameters": self.parameters,
            "data": self.data_dir or "embedded procedural set",
            **origin(),
            "started": (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds"),
            "wall_seconds": round(seconds, 1),
            **more,
        }

    def save_metrics(self, metrics: dict[str, Any] | None = None, **provenance: Any) -> dict[str, Any]:
        """Write metrics.json and provenance.json to the run's folder; return the provenance.

        A number that is none, such as the end of an interval that could not be told, is null there.
        """
        self.metrics.update(metrics or {})
        record = self.provenance(**provenance)
        write_json(self.folder / "config.json", self.config)
        write_json(self.folder / "metrics.json", finite(self.metrics))
        write_json(self.folder / "provenance.json", record)
        return record


def check_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a notebook, converted to their annotated types.

    The parameters cell annotates every parameter (``lam: float = 2000.0``); papermill's injected cell does not.
    So a name that carries no annotation is one that the notebook does not know.

    Raises:
        InputError: an unknown name or a wrong type.
    """
    hints = dict(namespace.get("__annotations__", {}))
    given = {k for k in namespace if not k.startswith("_") and k not in _IPYTHON}
    given = {k for k in given if not callable(namespace[k]) and type(namespace[k]).__name__ != "module"}
    unknown = sorted(given - set(hints))
    if unknown:
        raise InputError(f"unknown parameter {', '.join(unknown)}; this notebook knows {', '.join(hints)}")
    return {
        name: _parameter(name, namespace[name], hint) for name, hint in hints.items() if name in namespace
    }


def _parameter(name: str, value: Any, hint: Any) -> Any:
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "list[float]": list[float]}
    kinds |= {"list[int]": list[int], "list[str]": list[str]}
    kind = kinds.get(hint, hint) if isinstance(hint, str) else hint
    if get_origin(kind) is list and not isinstance(value, list | tuple):
        # papermill's -p knows no lists: -p lams [0,500] arrives as a text
        raise InputError(
            f"parameter {name}={value!r}: must be a list; papermill takes one as -y '{name}: [..., ...]'"
        )
    return convert(value, kind, f"parameter {name}")


def start(notebook: str, namespace: dict[str, Any]) -> Run:
    """Check a notebook's parameters, load its profile, print the resolved configuration and open its run folder.

    Args:
        notebook: the notebook's name.
        namespace: its ``globals()`` right after the parameters cell.

    Raises:
        InputError: an unknown parameter, a wrong type, a value that cannot be, or no such profile.
    """
    parameters = check_parameters(namespace)
    namespace.update(parameters)
    check_values({k: v for k, v in parameters.items() if k != "profile"}, "parameter ")
    profile = load_profile(parameters.get("profile", "quick"))
    check_profile(profile)
    if "data_dir" in parameters and not parameters["data_dir"]:
        # `make book DATA=folder` reaches notebooks that are not given the parameter itself
        parameters["data_dir"] = os.environ.get("LATENTCLAP_DATA", "")
        namespace["data_dir"] = parameters["data_dir"]
    plain = {k: v for k, v in parameters.items() if k not in ("force", "profile")}
    config = {"notebook": notebook, "parameters": plain, "profile": profile.as_dict()}
    folder = runs_root() / profile.name / notebook / config_hash([config, code_hash()])
    print(f"profile {profile.name}: {profile.about}")
    for name, value in plain.items():
        print(f"  {name} = {value!r}")
    print(f"artefacts: {os.path.relpath(folder)}")
    return Run(notebook, profile, parameters, config, folder, bool(parameters.get("force", False)))
