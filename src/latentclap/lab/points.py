"""Fine-tuned points of an experiment, each trained once."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentclap.files import read_json, write_json
from latentclap.finetune import FinetuneConfig, finetune, load_weights, save_weights, train_latent_clap
from latentclap.lab.bench import Bench
from latentclap.latent_clap import LatentCLAP
from latentclap.locks import locked
from latentclap.runs import config_hash
from latentclap.system import FoleySystem
from latentclap.train import CHECKPOINT, TrainResult
from latentclap.train.records import read_stats

#: the four systems of Table I, rows 2 to 5: name -> (tuning layer, Latent CLAP loss)
SYSTEMS: dict[str, tuple[bool, bool]] = {
    "LDM": (False, False),
    "LDM+Tuning": (True, False),
    "LDM+Latent": (False, True),
    "LDM+Tuning+Latent": (True, True),
}


@dataclass
class Point:
    """A fine-tuned system.

    Attributes:
        config: how it was trained.
        folder: its artefacts.
        seconds: training time.
        history: the lines of stats.jsonl.
    """

    config: FinetuneConfig
    folder: Path
    seconds: float
    history: list[dict[str, float]]


class Points(Bench):
    """Trainings on the bench."""

    def config(self, name: str, *, seed: int = 0, **changes: Any) -> FinetuneConfig:
        """The fine-tuning configuration of one of :data:`SYSTEMS`."""
        tuning, latent = SYSTEMS[name]
        if not latent:
            changes["lam"] = 0.0
        return FinetuneConfig.of(self.profile.finetune, tuning=tuning, seed=seed, **changes)

    def point(self, config: FinetuneConfig, *, force: bool = False, tensorboard: bool = False) -> Point:
        """Fine-tune, or find what an earlier run of the same configuration left; a killed run goes on."""
        described = _relevant(config)
        way = ["compiled"] * self._compiles  # bf16's rounding, as for clips
        folder = self.root / "finetune" / config_hash([described, self.data_id, self.checkpoint_id, *way])
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            if force:
                _clear(folder)
            if not (folder / "summary.json").is_file():
                write_json(folder / "config.json", described)
                self._train(config, folder, tensorboard)
        summary = read_json(folder / "summary.json")
        return Point(config, folder, summary["seconds"], read_stats(folder, summary["step"]))

    def _train(self, config: FinetuneConfig, folder: Path, tensorboard: bool) -> None:
        tuned, result = finetune(
            self.system,
            self.phi if config.lam else None,
            self.cache("dev"),
            config,
            folder,
            tensorboard=tensorboard,
            progress=self.progress,
            compile=self._compiles,
        )
        save_weights(tuned, folder / "weights.safetensors")
        write_json(folder / "summary.json", {"seconds": result.seconds, "step": result.step})
        (folder / CHECKPOINT).unlink(missing_ok=True)  # four times the size of the weights, and spent

    def load(self, point: Point | None) -> FoleySystem:
        """The fine-tuned system of a point; None is the pretrained one."""
        return (
            self.system if point is None else load_weights(self.system, point.folder / "weights.safetensors")
        )

    def train_phi(
        self, *, epochs: int = 0, seed: int = 0, force: bool = False
    ) -> tuple[LatentCLAP, TrainResult]:
        """Train a Latent CLAP encoder from nothing on the dev clips by eq. 2 (Fig. 2), or find it made."""
        section = self.profile.latent_clap
        values = {**asdict(section), "epochs": epochs or section.epochs, "seed": seed}
        values.pop("noise_levels")
        folder = self.root / "latent_clap" / config_hash([values, self.data_id, self.checkpoint_id])
        folder.mkdir(parents=True, exist_ok=True)
        cache = self.cache("dev")
        with locked(folder / ".lock"):
            if force:
                _clear(folder)
            return train_latent_clap(
                cache,
                folder,
                width=section.width,
                epochs=values["epochs"],
                batch_size=section.batch_size,
                lr=section.lr,
                seed=seed,
                device=self.device,
                progress=self.progress,
            )

    @property
    def _compiles(self) -> bool:
        return self.profile.speed.compile and self.device.startswith("cuda")


def _relevant(config: FinetuneConfig) -> dict[str, Any]:
    """A configuration without what has no effect: with λ = 0, eq. 3's options name the same baseline run."""
    values = asdict(config)
    values.pop("checkpoint_seconds")
    if not config.lora_rank:  # points from before there was a choice
        values.pop("lora_rank")
    if not config.lam:
        for name in ("weighting", "reading", "reduction", "normalize", "clamp"):
            values.pop(name)
    return values


def _clear(folder: Path) -> None:
    """Empty a folder, but for the lock that is held on it."""
    for item in folder.iterdir():
        if item.name == ".lock":
            continue
        shutil.rmtree(item) if item.is_dir() else item.unlink()
