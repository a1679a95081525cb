"""Training from a configuration file, in one process or many: ``accelerate launch -m latentclap.train CONFIG``.

The notebooks train through ``latentclap.lab``; this is for caches that no notebook holds in memory and for several
GPUs or machines. Paths in the file are relative to the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentclap.errors import InputError, run_app
from latentclap.files import check_place, read_json, weights_digest, write_json
from latentclap.gpus import use
from latentclap.limits import check_values
from latentclap.options import Checkpointing, Compile, Minutes, Precision, Quiet, application
from latentclap.profiles import load_profile
from latentclap.trainfile import TrainFile, finetune_config
from latentclap.wording import human, plural

if TYPE_CHECKING:
    from accelerate import PartialState

    from latentclap.finetune import FinetuneConfig
    from latentclap.latent_clap import LatentCLAP
    from latentclap.system import FoleySystem
    from latentclap.train import TrainResult

app = application()

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
batch_size = 64                  # clips of a pass, over all processes together
grad_accum = 1                   # passes per step: more clips in the same memory
lora_rank = 0                    # 16, say: LoRA adapters train instead of all weights; give a larger lr
"""
#: what says that a folder holds a run that trained
TRAINED = ("checkpoint.pt", "stats.jsonl", "summary.json")


def check_precision(precision: str) -> None:
    """Check that this machine can train in a precision.

    Raises:
        InputError: there is no such precision, or it needs a GPU.
    """
    from latentclap.train.config import PRECISIONS, resolved

    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: there are {', '.join(PRECISIONS)}")
    resolved(precision)


class Launch:
    """One call of the command, made in every process of a training; only the main process writes.

    Args:
        file: the configuration.
        state: accelerate's, which knows the processes and the device.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        quiet: show no progress bar.
        precision: see ``TrainConfig``; like the four that follow it is no part of the result.
        compile: see ``TrainConfig``.
        fused: with compile, our kernels in the UNet.
        checkpointing: trade time for memory.
        channels_last: order of the weights in memory.

    Raises:
        InputError: a value that is wrong, or no such cache.
    """

    def __init__(
        self,
        file: TrainFile,
        state: PartialState,
        *,
        minutes: float,
        quiet: bool,
        precision: str = "auto",
        compile: bool = False,
        fused: bool = True,
        checkpointing: bool = False,
        channels_last: bool = False,
    ) -> None:
        from latentclap.cache import ShardedCache

        check_precision(precision)
        self.file, self.state, self.minutes, self.quiet = file, state, minutes, quiet
        self.precision = precision
        self.ways = {
            "compile": compile,
            "fused": fused,
            "checkpointing": checkpointing,
            "channels_last": channels_last,
        }
        self.profile = load_profile(file.profile)
        #: the part's values, checked
        self.values = self._values()
        self.data = ShardedCache(file.cache)
        self.folder = file.folder

    def check(self) -> str:
        """Check, without changing anything, that the run can begin or go on in its folder.

        Returns:
            A line that says so if it is finished; else an empty text.

        Raises:
            InputError: it cannot be shared by this number of processes, or the folder holds another run.
            OSError: nothing can be written there.
        """
        from latentclap.train import share

        world = self.state.num_processes
        share(self.values["batch_size"], self.state.process_index, world)
        if self.file.part == "latent_clap" and world > 1 and self.state.device.type != "cuda":
            raise InputError(
                "latent_clap has batch normalisation, which several processes share on GPUs only: train it in one"
            )
        check_place(self.folder / "config.json")
        self._same_run()
        if (self.folder / "summary.json").is_file():
            step = read_json(self.folder / "summary.json")["step"]
            return f"{self.folder} is finished (step {step})"
        return ""

    def run(self) -> str:
        """Train, or find it done.

        Returns:
            A line that says how far it is.

        Raises:
            InputError: see :meth:`check`; or another launch trains there.
        """
        from latentclap.runs import origin

        self.check()
        with self._locked():
            finished = self._in_main(self.check)
            if finished:
                return finished
            parts = self._parts() if self.file.part == "finetune" else None
            # not before all that can be wrong with it is known
            self._in_main(lambda: self._claim(*(parts[1:] if parts else ())))
            result = self._finetune(*parts) if parts else self._latent_clap()
            if not result.finished:
                return (
                    f"stopped at step {result.step} after {self.minutes:g} minutes; the same command goes on"
                )
            if self.state.is_main_process:
                write_json(
                    self.folder / "summary.json",
                    {
                        "step": result.step,
                        "seconds": result.seconds,
                        "processes": self.state.num_processes,
                        **origin(),
                    },
                )
                (self.folder / "checkpoint.pt").unlink(missing_ok=True)  # spent, and four times the weights
            self.state.wait_for_everyone()
        return f"{self.folder}: {plural(result.step, 'step')} in {result.seconds:.0f} s"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the folder for this launch; the lock of one that was killed is free at once.

        Raises:
            InputError: another launch trains there.
        """
        from filelock import FileLock

        from latentclap.locks import Taken
        from latentclap.locks import take as take_lock

        lock = FileLock(self.folder / ".lock")

        def take() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                take_lock(lock, wait=False)
            except Taken:
                raise InputError(
                    f"{self.folder}: another launch trains there; wait for it, or take another folder"
                ) from None

        absent = check_place(self.folder / ".lock") if self.state.is_main_process else []
        self._in_main(take)
        try:
            yield
        finally:
            if lock.is_locked:
                if [p.name for p in self.folder.iterdir()] == [".lock"]:  # it did not begin
                    with suppress(OSError):
                        (self.folder / ".lock").unlink()
                        for folder in absent:
                            folder.rmdir()
                lock.release()

    def _in_main(self, function: Callable[[], Any]) -> Any:
        """What the main process's call returns, in every process; where it fails, all stop and that one says why."""
        value = error = None
        if self.state.is_main_process:
            try:
                value = function()
            except Exception as problem:  # the others wait for an answer
                error = problem
        if self.state.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            value, failed = broadcast_object_list([value, error is not None])
            if failed and not self.state.is_main_process:
                raise typer.Exit(2)
        if error:
            raise error
        return value

    def describe(self) -> dict[str, Any]:
        """What decides the result, JSON-ready. The number of processes and how they compute are not part of it."""
        values = dict(self.values)
        values.pop("checkpoint_seconds", None)
        for name, only in (("grad_accum", 1), ("lora_rank", 0)):
            if values.get(name) == only:  # runs from before there was a choice go on
                values.pop(name)
        return {
            "part": self.file.part,
            "model": asdict(self.profile.model),
            "data": {"digest": self.data.digest, "clips": len(self.data)},
            self.file.part: values,
        }

    def _values(self) -> dict[str, Any]:
        """The profile's values of the part with the file's changes.

        Raises:
            InputError: a name that there is not, a value of another type or out of its range.
        """
        if self.file.part == "finetune":
            return asdict(finetune_config(self.profile, self.file.changes))
        changed = {f"latent_clap__{k}": v for k, v in self.file.changes.items()}
        values = asdict(self.profile.override(**changed).latent_clap)
        values.pop("noise_levels")
        check_values({f"latent_clap.{k}": v for k, v in values.items()}, "")
        return values

    def _same_run(self, **weights: str) -> None:
        """Refuse the folder of another run; runs from before weights were noted go on.

        Args:
            weights: digest of the UNet it begins with and of φ, where they are loaded: their files' names stay what
                they are when others are put there.
        """
        path = self.folder / "config.json"
        # a configuration with which nothing was trained holds no place
        if not path.is_file() or not any((self.folder / name).exists() for name in TRAINED):
            return
        theirs, ours = read_json(path), self.describe()
        differing = [k for k in ours if theirs.get(k) != ours[k]]
        noted = theirs.get("weights", {})
        differing += [f"the weights of {k}" for k, v in weights.items() if noted.get(k, v) != v]
        if differing:
            raise InputError(
                f"{self.folder} holds another run ({', '.join(differing)} differ): use another folder"
            )

    def _claim(self, *parts: FoleySystem | LatentCLAP | None) -> None:
        """Take the folder for this run: what it is, and with whose weights it begins, is noted there."""
        weights = {}
        if parts:
            system, phi = parts
            weights = {"unet": weights_digest(system.unet)}
            weights |= {"phi": weights_digest(phi)} if phi is not None else {}
        self._same_run(**weights)
        for path in self.folder.glob(
            ".weights-*.safetensors"
        ):  # of a run that was killed while it wrote them
            path.unlink()
        write_json(self.folder / "config.json", self.describe() | ({"weights": weights} if weights else {}))

    def foretell(self) -> str:
        """What a step of fine-tuning will take of a GPU's memory, by an estimate (``latentclap.memory``)."""
        from latentclap.memory import GIB, training_footprint
        from latentclap.train.config import resolved

        config, system, phi = self._parts()
        world, checkpointing = self.state.num_processes, self.ways["checkpointing"]
        batch = -(-config.batch_size // world)
        # without a GPU here, one that has bf16 is meant
        here = self.precision != "auto" or self.state.device.type == "cuda"
        precision = resolved(self.precision) if here else "bf16"
        try:
            footprint = training_footprint(
                system.unet.config,
                phi.config if phi else None,
                system.latent_shape,
                precision=precision,
                checkpointing=checkpointing,
                ema=bool(config.ema_decay),
                processes=world,
                lora_rank=config.lora_rank,
            )
        except Exception as error:  # an estimate must not keep the rest from being said
            return f"memory of a GPU: could not be told ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        fits = ", ".join(f"{footprint.fits(held * GIB)} in {held} GiB" for held in (16, 24, 40, 80))
        name = "fp32" if precision == "no" else precision
        return (
            f"memory of a GPU, {name}, uncompiled, estimated: {footprint.peak(batch) / GIB:.1f} GiB for {batch} clips"
            f" a process; the largest batch a process: {fits}{_trained(config, system)}"
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

    def _finetune(self, config: FinetuneConfig, system: FoleySystem, phi: LatentCLAP | None) -> TrainResult:
        from latentclap.finetune import finetune, save_weights

        tuned, result = finetune(
            system,
            phi,
            self.data,
            config,
            self.folder,
            minutes=self.minutes,
            precision=self.precision,
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

        self._system("cpu")  # φ of another VAE and CLAP would have the right shapes, and mean nothing
        phi, result = train_latent_clap(
            self.data,
            self.folder,
            **self.values,
            device=str(self.state.device),
            minutes=self.minutes,
            precision=self.precision,
            progress=not self.quiet,
        )
        if result.finished and self.state.is_main_process:
            phi.save_pretrained(self.folder / "latent_clap")
        return result

    def _system(self, device: str = "") -> FoleySystem:
        """The profile's system, which must be the one that the cache was made with."""
        from latentclap.cache import fingerprint
        from latentclap.system import FoleySystem

        model = self.profile.model
        system = FoleySystem.from_pretrained(
            model.system, judge=model.judge or None, device=device or str(self.state.device)
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
    minutes: Minutes = 0,
    compile: Compile = False,
    checkpointing: Checkpointing = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights in the order of a GPU's tensor cores.")
    ] = False,
    no_fused: Annotated[
        bool, typer.Option("--no-fused", help="With --compile: diffusers' own UNet, without our kernels.")
    ] = False,
    precision: Precision = "",
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything; say what would run, and its memory.")
    ] = False,
) -> None:
    """Train from a configuration file."""
    from latentclap.train import processes

    check_values({"minutes": minutes}, "--")
    file = TrainFile.read(config)
    _need_launcher()
    given = os.environ.get("LATENTCLAP_DEVICE")
    if given and (given == "cpu" or os.environ.get("WORLD_SIZE", "1") == "1"):  # of several, each has its own
        use(given, named="LATENTCLAP_DEVICE")
    state = processes()
    on_gpu = {
        "--compile": compile,
        "--checkpointing": checkpointing,
        "--channels-last": channels_last,
    }
    if file.part != "finetune" and any(on_gpu.values()):
        asked = next(option for option, on in on_gpu.items() if on)
        raise InputError(f"{asked} is for part finetune, not {file.part}")
    if no_fused and not compile:
        raise InputError("--no-fused goes with --compile: without it the UNet is diffusers' own anyway")
    launch = Launch(
        file,
        state,
        minutes=minutes,
        quiet=quiet,
        precision=precision or _launchers_precision(),
        compile=compile,
        fused=not no_fused,
        checkpointing=checkpointing,
        channels_last=channels_last,
    )
    said = preview(launch) if dry_run else complete(launch)
    if state.is_main_process:
        typer.echo(said)
    state.destroy_process_group()


def preview(launch: Launch) -> str:
    """What ``--dry-run`` prints: the run, where it would compute, its memory, and whether it is finished.

    Raises:
        InputError: see :meth:`Launch.check`.
    """
    found = launch.check()
    lines = [f"{launch.describe()}; {launch.state.num_processes} processes, {launch.state.device}"]
    if launch.file.part == "finetune":
        lines.append(launch.foretell())
    return "\n".join([*lines, found] if found else lines)


def complete(launch: Launch) -> str:
    """Train as a command line does; return the line that says how far it is.

    Raises:
        InputError: the training cannot go on.
        SystemExit: a signal ended it, with a checkpoint.
    """
    from latentclap.train import Interrupted, TrainingError

    try:
        return launch.run()
    except TrainingError as error:
        raise InputError(str(error)) from None
    except (Interrupted, KeyboardInterrupt) as stop:
        if not str(stop):  # a second Ctrl-C, which does not wait
            raise
        if launch.state.is_main_process:
            typer.echo(stop, err=True)
        launch.state.destroy_process_group()
        raise SystemExit(getattr(stop, "code", 130)) from None  # 128 + the signal, as a shell counts


def _need_launcher() -> None:
    """Refuse to be started many times by SLURM: each would take itself for the only one.

    Raises:
        InputError: SLURM started several tasks, and no launcher is between.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    if tasks.isdigit() and int(tasks) > 1 and "WORLD_SIZE" not in os.environ:
        raise InputError(
            f"SLURM started {tasks} tasks, and each would train for itself: one task a node, with a launcher, as"
            " srun --ntasks-per-node=1 torchrun --nproc-per-node=8 -m latentclap.train CONFIG"
        )


def _trained(config: FinetuneConfig, system: FoleySystem) -> str:
    """How much of the UNet trains where not all of it does, and the size of the file that it goes into."""
    if not config.lora_rank:
        return ""
    from latentclap.lora import adapter_parameters

    trained, total = adapter_parameters(system.unet.config, config.lora_rank)
    layer = 4 * system.embed_dim * (system.embed_dim + 1) * config.tuning
    return (
        f"\nLoRA of rank {config.lora_rank}: {trained / 1e6:.2f} M parameters train beside {total / 1e6:.2f} M;"
        f" a file of {human(4 * trained + layer)}"
    )


def _launchers_precision() -> str:
    """What ``accelerate launch --mixed_precision`` asked for; its "no" is what it says without the option, too.

    Raises:
        InputError: a precision that training does not know.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", "bf16", "fp16"):
        raise InputError(f"--mixed_precision {asked}: training knows bf16 and fp16")
    return "auto" if asked == "no" else asked


def main() -> int:
    """Run the command line; a user's mistake is one ``error: ...`` line and status 2."""
    return run_app(app)
