"""Training from a configuration file, in one process or many: ``accelerate launch -m latentclap.train CONFIG``.

The notebooks train through ``latentclap.lab``; this is for caches that no notebook holds in memory and for several
GPUs or machines. Paths in the file are relative to the working directory.
"""

from __future__ import annotations

import tomllib
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentclap.errors import InputError, run_app
from latentclap.files import read_json, write_json
from latentclap.profiles import Profile, convert, load_profile

if TYPE_CHECKING:
    from accelerate import PartialState

    from latentclap.finetune import FinetuneConfig
    from latentclap.latent_clap import LatentCLAP
    from latentclap.system import FoleySystem
    from latentclap.train import TrainResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

HELP = """Train by eq. 4 (or φ by eq. 2) on a latent cache; the same command goes on where it stopped.

One process: python -m latentclap.train CONFIG. Several, on one machine or many: accelerate launch --num_processes 8
-m latentclap.train CONFIG. Their number may change from call to call: it is not part of the result, since batch_size
counts over all of them. CONFIG is a TOML file:

\b
profile = "paper"                # models, and the values that are not given below
cache = "data/latents/dcase"     # made by data_scripts/cache_latents.py
folder = "runs/paper/lam2000"    # checkpoint, stats.jsonl, weights; on several machines: seen by all
part = "finetune"                # eq. 4; or "latent_clap": the encoder φ by eq. 2

\b
[finetune]                       # or [latent_clap]
lam = 2000.0
batch_size = 64                  # over all processes together
"""


@dataclass(frozen=True)
class TrainFile:
    """A configuration file.

    Attributes:
        profile: name or path of a profile.
        cache: folder of a finished cache.
        folder: run folder.
        part: "finetune" or "latent_clap".
        changes: what differs from the profile's section of that name.
    """

    profile: str
    cache: Path
    folder: Path
    part: str = "finetune"
    changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TrainFile:
        """Read a TOML file.

        Raises:
            InputError: no such file, not TOML, or a key that is missing, unknown or of another type.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such configuration; python -m latentclap.train --help shows one")
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid TOML: {error}") from None
        part = tree.get("part", "finetune")
        if part not in ("finetune", "latent_clap"):
            raise InputError(f"{path}: part={part!r}: it is finetune or latent_clap")
        changes = tree.pop(part, {})
        unknown = sorted(set(tree) - {"profile", "cache", "folder", "part"})
        if unknown or not isinstance(changes, dict):
            raise InputError(f"{path}: unknown key {(unknown or [part])[0]!r} for part {part}")
        values = {}
        for name in ("profile", "cache", "folder"):
            if name not in tree:
                raise InputError(f"{path}: {name} is missing")
            values[name] = convert(tree[name], str, f"{path}: {name}")
        return cls(values["profile"], Path(values["cache"]), Path(values["folder"]), part, changes)


def finetune_config(profile: Profile, changes: dict[str, Any]) -> FinetuneConfig:
    """The profile's fine-tuning with some values changed, names and types checked."""
    from latentclap.finetune import FinetuneConfig

    hints = typing.get_type_hints(FinetuneConfig)
    unknown = sorted(set(changes) - set(hints))
    if unknown:
        raise InputError(f"[finetune]: unknown key {unknown[0]!r}; it knows {', '.join(hints)}")
    values = {k: convert(v, hints[k], f"[finetune] {k}") for k, v in changes.items()}
    return FinetuneConfig.of(profile.finetune, **values)


class Launch:
    """One call: the same in every process, but that only the main one writes."""

    def __init__(
        self, file: TrainFile, state: PartialState, *, minutes: float, quiet: bool, **ways: bool
    ) -> None:
        from latentclap.cache import ShardedCache

        self.file, self.state, self.minutes, self.quiet = file, state, minutes, quiet
        #: compile, fused, checkpointing, channels_last: how it is trained, which is not part of the result
        self.ways = ways
        self.profile = load_profile(file.profile)
        self.data = ShardedCache(file.cache)
        self.folder = file.folder

    def run(self) -> str:
        """Train; return the line that says how far it is."""
        from latentclap.runs import commit, device_name, versions

        finished = self.folder / "summary.json"
        described = self.describe()
        self._claim(described)
        if finished.is_file():
            return f"{self.folder} is finished (step {read_json(finished)['step']})"
        self.state.wait_for_everyone()
        result = self._finetune() if self.file.part == "finetune" else self._latent_clap()
        if not result.finished:
            return f"stopped at step {result.step} after {self.minutes:g} minutes; the same command goes on"
        if self.state.is_main_process:
            write_json(
                finished,
                {
                    "step": result.step,
                    "seconds": result.seconds,
                    "processes": self.state.num_processes,
                    "device": device_name(),
                    "commit": commit(),
                    "versions": versions(),
                },
            )
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)  # spent, and four times the weights
        self.state.wait_for_everyone()
        return f"{self.folder}: {result.step} steps in {result.seconds:.0f} s"

    def describe(self) -> dict[str, Any]:
        """What decides the result: how many processes there are is not part of it."""
        if self.file.part == "finetune":
            values = asdict(finetune_config(self.profile, self.file.changes))
            values.pop("checkpoint_seconds")
        else:
            values = asdict(self._section())
            values.pop("noise_levels")
        return {
            "part": self.file.part,
            "model": asdict(self.profile.model),
            "data": {"digest": self.data.digest, "clips": len(self.data)},
            self.file.part: values,
        }

    def _claim(self, described: dict[str, Any]) -> None:
        path = self.folder / "config.json"
        if path.is_file():
            theirs = read_json(path)
            differing = [k for k in described if theirs.get(k) != described[k]]
            if differing:
                raise InputError(
                    f"{self.folder} holds another run ({', '.join(differing)} differ): use another folder"
                )
        elif self.state.is_main_process:
            write_json(path, described)

    def foretell(self) -> str:
        """What a step of fine-tuning will take of a GPU's memory, by an estimate (``latentclap.memory``)."""
        from latentclap.memory import GIB, training_footprint

        config, system, phi = self._parts()
        world, checkpointing = self.state.num_processes, bool(self.ways.get("checkpointing"))
        batch = -(-config.batch_size // world)
        footprint = training_footprint(
            system.unet.config,
            phi.config if phi else None,
            system.latent_shape,
            checkpointing=checkpointing,
            ema=bool(config.ema_decay),
            processes=world,
        )
        fits = ", ".join(f"{footprint.fits(held * GIB)} in {held} GiB" for held in (16, 24, 40, 80))
        return (
            f"memory of a GPU, bf16, uncompiled, estimated: {footprint.peak(batch) / GIB:.1f} GiB for {batch} clips"
            f" a process; the largest batch a process: {fits}"
        )

    def _parts(self) -> tuple[FinetuneConfig, FoleySystem, LatentCLAP | None]:
        from latentclap.checkpoints import latent_clap_folder
        from latentclap.latent_clap import LatentCLAP

        config = finetune_config(self.profile, self.file.changes)
        system, phi = self._system(), None
        if config.lam:
            folder = latent_clap_folder(self.profile.model.latent_clap)
            phi = LatentCLAP.from_pretrained(folder).to(self.state.device)
        return config, system, phi

    def _finetune(self) -> TrainResult:
        from latentclap.finetune import finetune, save_weights

        config, system, phi = self._parts()
        tuned, result = finetune(
            system,
            phi,
            self.data,
            config,
            self.folder,
            minutes=self.minutes,
            **self.ways,
            tensorboard=True,
            progress=not self.quiet,
        )
        if result.finished and self.state.is_main_process:
            save_weights(tuned, self.folder / "weights.safetensors")
            tuned.save_pretrained(self.folder / "system")
        return result

    def _latent_clap(self) -> TrainResult:
        from latentclap.finetune import train_latent_clap

        section = asdict(self._section())
        section.pop("noise_levels")
        phi, result = train_latent_clap(
            self.data,
            self.folder,
            **section,
            device=str(self.state.device),
            minutes=self.minutes,
            progress=not self.quiet,
        )
        if result.finished and self.state.is_main_process:
            phi.save_pretrained(self.folder / "latent_clap")
        return result

    def _section(self) -> Any:
        changed = {f"latent_clap__{k}": v for k, v in self.file.changes.items()}
        return self.profile.override(**changed).latent_clap

    def _system(self) -> FoleySystem:
        """The profile's system, which must be the one that the cache was made with."""
        from latentclap.cache import fingerprint
        from latentclap.system import FoleySystem

        model = self.profile.model
        system = FoleySystem.from_pretrained(
            model.system, judge=model.judge or None, device=str(self.state.device)
        )
        theirs = self.data.manifest.get("fingerprint")
        if theirs != fingerprint(system):
            raise InputError(
                f"{self.file.cache} was made with another system ({self.data.manifest.get('system')}) than"
                f" {model.system} of profile {self.profile.name}: make it again, or take its profile"
            )
        return system


@app.command(help=HELP)
def train(
    config: Annotated[Path, typer.Argument(help="TOML file, as above.")],
    minutes: Annotated[
        float, typer.Option(help="Stop after this time, with a checkpoint; 0: to the end.")
    ] = 0,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile UNet and φ: for GPUs.")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="A fraction of the memory for a third more time.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights in the order of a GPU's tensor cores.")
    ] = False,
    diffusers: Annotated[
        bool, typer.Option("--no-fused", help="With --compile: diffusers' own UNet, without our kernels.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything; say what would run, and its memory.")
    ] = False,
) -> None:
    """Train from a configuration file."""
    from latentclap.train import TrainingError, processes

    if minutes < 0:
        raise InputError(f"--minutes {minutes:g}: it may not be negative")
    file = TrainFile.read(config)
    state = processes()
    ways = {"compile": compile, "checkpointing": checkpointing, "channels_last": channels_last}
    if file.part != "finetune" and any(ways.values()):
        asked = next("--" + name.replace("_", "-") for name, on in ways.items() if on)
        raise InputError(f"{asked} is for part finetune, not {file.part}")
    if diffusers and not compile:
        raise InputError("--no-fused goes with --compile: without it the UNet is diffusers' own anyway")
    ways["fused"] = not diffusers
    launch = Launch(file, state, minutes=minutes, quiet=quiet, **ways)
    if dry_run:
        said = f"{launch.describe()}; {state.num_processes} processes, {state.device}"
        if file.part == "finetune":
            said += f"\n{launch.foretell()}"
    else:
        try:
            said = launch.run()
        except TrainingError as error:
            raise InputError(str(error)) from None
    if state.is_main_process:
        typer.echo(said)
    state.destroy_process_group()


def main() -> int:
    """Run the command line; a user's mistake is one ``error: ...`` line and status 2."""
    return run_app(app)
