"""One call of the command, from its configuration to the weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from latentclap.errors import InputError
from latentclap.files import check_place, weights_digest, write_json
from latentclap.launch.estimate import foretell
from latentclap.launch.folder import check_same, claim, locked, noted
from latentclap.launch.processes import in_main
from latentclap.limits import check_values
from latentclap.profiles import load_profile
from latentclap.trainfile import TrainFile, finetune_config
from latentclap.wording import plural

if TYPE_CHECKING:
    from accelerate import PartialState

    from latentclap.finetune import FinetuneConfig
    from latentclap.latent_clap import LatentCLAP
    from latentclap.system import FoleySystem
    from latentclap.train import TrainResult


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
        precision: see ``TrainConfig``; like the five that follow it is no part of the result.
        compile: see ``TrainConfig``.
        fused: with compile, our kernels in the UNet.
        cuda_graph: with compile, on one GPU: replay a step that is recorded once.
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
        cuda_graph: bool = True,
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
            "cuda_graph": cuda_graph,
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
        check_same(self.folder, self.describe())
        if (self.folder / "summary.json").is_file():
            step = noted(self.folder / "summary.json").get("step", "unknown")
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
        with locked(self.folder, self.state):
            finished = in_main(self.state, self.check)
            if finished:
                return finished
            parts = self._parts() if self.file.part == "finetune" else None
            # not before all that can be wrong with it is known
            in_main(self.state, lambda: self._claim(*(parts[1:] if parts else ())))
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

    def foretell(self) -> str:
        """What a step of fine-tuning will take of a GPU's memory, by an estimate."""
        config, system, phi = self._parts()
        return foretell(
            config,
            system,
            phi,
            self.state,
            precision=self.precision,
            checkpointing=self.ways["checkpointing"],
        )

    def _claim(self, system: FoleySystem | None = None, phi: LatentCLAP | None = None) -> None:
        """Take the folder for this run; of fine-tuning it is noted there with whose weights it begins."""
        begun = {"unet": system.unet if system else None, "phi": phi}
        weights = {name: weights_digest(module) for name, module in begun.items() if module is not None}
        claim(self.folder, self.describe(), weights)

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
