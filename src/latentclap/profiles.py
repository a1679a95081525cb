"""Profiles: every hyper-parameter of a run in one TOML file, with the section of the paper that fixes it.

One code path, four profiles: ``quick`` (a 2-core CPU, minutes), ``evening`` and ``mini`` (the same small models with
more of everything, and with full statistics) and ``paper`` (the paper's own models and data). A profile is a file; a
path works as well as a name.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from latentclap.errors import InputError
from latentclap.files import read_toml


@dataclass(frozen=True)
class ModelSection:
    """Which checkpoints. ``judge`` and ``latent_clap`` empty: those that come with the system.

    ``latent_clap`` may name a system too, and then is the encoder that comes with it.
    """

    system: str = "mini"
    latent_clap: str = "mini"
    judge: str = ""

    def __post_init__(self) -> None:
        if not self.latent_clap:
            object.__setattr__(self, "latent_clap", self.system)  # frozen, but not before it is whole


@dataclass(frozen=True)
class DataSection:
    """Which clips: ``folder`` empty means the embedded procedural set of ``dev_per_class`` and ``eval_per_class``.

    Of a folder at most ``max_dev_per_class`` and ``max_eval_per_class`` clips are used; 0 means all.
    """

    folder: str = ""
    dev_per_class: int = 24
    eval_per_class: int = 24
    dev_fraction: float = 0.8
    max_dev_per_class: int = 0
    max_eval_per_class: int = 0
    seed: int = 0


@dataclass(frozen=True)
class LatentClapSection:
    """Pretraining of φ by eq. 2 (III-D)."""

    width: int = 64
    epochs: int = 10
    batch_size: int = 16
    lr: float = 1e-3
    noise_levels: tuple[int, ...] = (0, 50, 100, 200, 300, 500, 800)


@dataclass(frozen=True)
class FinetuneSection:
    """Fine-tuning by eq. 4 (III-D, IV-B)."""

    epochs: int = 500
    batch_size: int = 8
    lr: float = 3e-6
    grad_clip: float = 1.0
    ema_decay: float = 0.0
    drop: float = 0.1
    lam: float = 2000.0
    lam_tuning: float = 1000.0
    weighting: str = "paper"
    reading: str = "x0"
    reduction: str = "mean"
    lora_rank: int = 0
    checkpoint_seconds: float = 20.0


@dataclass(frozen=True)
class GenerateSection:
    """Sampling (IV-B)."""

    steps: int = 200
    guidance_scale: float = 2.0
    sampler: str = "ddim"
    eta: float = 0.0
    batch_size: int = 16


@dataclass(frozen=True)
class EvaluateSection:
    """FAD and scores (IV-A, V-A); ``seeds`` are those of Table I's trainings."""

    embedding: str = "mel-statistics"
    reference: str = ""
    vggish: str = ""
    clips_per_class: int = 100
    n_boot: int = 1000
    postfilter: str = "paper"
    candidates: int = 0
    max_tries: int = 10
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class SweepSection:
    """Fig. 3 and the ablations (V-B)."""

    lams: tuple[float, ...] = (0.0, 500.0, 1000.0, 2000.0, 4000.0)
    epochs: int = 100
    clips_per_class: int = 100
    seeds: tuple[int, ...] = (0, 1)
    weightings: tuple[str, ...] = ("paper", "constant", "step", "snr", "min-snr")
    readings: tuple[str, ...] = ("x0", "posterior", "ddim", "renoised")
    ablation_epochs: int = 100
    heldout_clips: int = 0
    heldout_levels: int = 10


@dataclass(frozen=True)
class SpeedSection:
    """How, not what. ``compile``: on a GPU, compile the UNet for training and generation (``latentclap.fast``).

    Losses and clips then differ by the rounding of bf16. It takes a minute or two at each process's beginning.
    """

    compile: bool = False


@dataclass(frozen=True)
class Profile:
    """All of it. ``name`` is the file's stem."""

    name: str
    about: str = ""
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    latent_clap: LatentClapSection = field(default_factory=LatentClapSection)
    finetune: FinetuneSection = field(default_factory=FinetuneSection)
    generate: GenerateSection = field(default_factory=GenerateSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    sweep: SweepSection = field(default_factory=SweepSection)
    speed: SpeedSection = field(default_factory=SpeedSection)

    def override(self, **changes: Any) -> Profile:
        """A copy with some values changed, by dotted names with ``__``: ``override(finetune__epochs=3)``.

        Raises:
            InputError: there is no such section or value, or it has another type.
        """
        tree = dataclasses.asdict(self)
        for name, value in changes.items():
            section, _, key = name.partition("__")
            if not key or section not in tree or key not in tree[section]:
                raise InputError(f"profile {self.name}: no value {section}.{key}")
            tree[section][key] = value
        return _build(tree, self.name)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries."""
        return dataclasses.asdict(self)


def names() -> list[str]:
    """The profiles that the package ships."""
    folder = files("latentclap") / "profiles"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Load a profile by name, or from a TOML file.

    Raises:
        InputError: no such profile, not TOML, or a key or type that no section knows.
    """
    text = str(name_or_path)
    path = (
        Path(text) if text.endswith(".toml") else Path(str(files("latentclap") / "profiles" / f"{text}.toml"))
    )
    if path.suffix != ".toml" or not path.is_file():
        if text.endswith(".toml"):
            raise InputError(f"{path}: no such profile file")
        raise InputError(
            f"no profile {text!r}; there are {', '.join(names())}, or give the path of a .toml file"
        )
    return _build({**read_toml(path), "name": path.stem}, str(path))


def _build(tree: dict[str, Any], where: str) -> Profile:
    sections = typing.get_type_hints(Profile)
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in sections:
            raise InputError(f"{where}: unknown section or key {name!r}")
        kind = sections[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _section(kind, value, f"{where}: [{name}]")
        else:
            values[name] = convert(value, kind, f"{where}: {name}")
    return Profile(**values)


def _section(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a table")
    hints = typing.get_type_hints(kind)
    out = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"{where}: unknown key {key!r}; it knows {', '.join(hints)}")
        out[key] = convert(value, hints[key], f"{where} {key}")
    return kind(**out)


def convert(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the annotated type: whole numbers pass as float, lists become tuples.

    Raises:
        InputError: it is of another type; the message says where and which.
    """
    origin = typing.get_origin(hint)
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise InputError(f"{where}={value!r}: must be a list")
        return origin(convert(v, typing.get_args(hint)[0], where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise InputError(f"{where}={value!r}: must be of type {hint.__name__}")
    return value
