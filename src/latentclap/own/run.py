"""What ``latentclap finetune`` does, step by step; each step is found done by the same command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import (
    check_system,
    json_or_nothing,
    latent_clap_folder,
    resolve,
    shipped,
)
from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.launch import TRAINED, noted
from latentclap.needs import on_a_hub
from latentclap.own.files import TRAIN_FILE, about_path
from latentclap.own.sounds import Sounds
from latentclap.profiles import load_profile
from latentclap.trainfile import TrainFile, finetune_config

if TYPE_CHECKING:
    from latentclap.cache import ShardedCache
    from latentclap.finetune import FinetuneConfig
    from latentclap.latent_clap import LatentCLAP
    from latentclap.launch import Launch
    from latentclap.system import FoleySystem

#: what a run says of itself
RECORD = "finetune.json"
#: the profile whose values of fine-tuning are taken where none is given, for the shipped models and for all others
PROFILES = {"mini": "evening"}
OTHERS = "paper"
#: and what else is taken with the shipped models: for a sound that they have not learnt, the profile's steps are too
#: short (of 1e-4 and 3e-4, tried on data_scripts/example_sounds.py, the second makes zaps, the first none)
MINI_CHANGES = {"lr": 3e-4}
#: adapters want more (book/runs/lora.json)
MINI_LORA_LR = 1e-3
#: steps by default with the shipped models, as many as the profile evening makes: minutes on two cores
MINI_STEPS = 500
#: captions of which the page plays clips, at most
TEXTS = 8


@dataclass(frozen=True)
class Own:
    """A fine-tuning on sounds of one's own.

    Attributes:
        sounds: what it is fine-tuned on.
        out: folder of the run.
        model: the system that it begins with: "mini", a folder, or a hub name.
        phi: folder of the Latent CLAP encoder; empty: the one that comes with the system, if any.
        judge: CLAP that gives E_audio, where the system has none.
        changes: values of ``FinetuneConfig`` that differ from the profile's.
        crops, crop: clips of one sound, see ``cache.cache_parts``.
        listen: clips of each caption that the page plays; 0: no page.
    """

    sounds: Sounds
    out: Path
    model: str = "mini"
    phi: str = ""
    judge: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    crops: int = 8
    crop: str = "first"
    listen: int = 2

    # --- what is to be done -------------------------------------------------------------------------------------

    @property
    def latents(self) -> dict[str, Path]:
        """Folders of the caches; without held-out sounds there is one."""
        sides = ("train", "held_out") if self.sounds.held_out else ("train",)
        return {side: self.out / "latents" / side for side in sides}

    @property
    def base(self) -> str:
        """Name of the shipped model that it begins with, or that the given model was fine-tuned from; "" for another.

        It decides which defaults are taken: the paper's 500 epochs at 3e-6 would hardly change a model as small as
        mini. A fine-tuned one is known by its UNet's configuration.
        """
        if self.model in PROFILES:
            return self.model
        ours = _unet(Path(self.model))
        return next((name for name in PROFILES if ours and _unet(shipped(name)) == ours), "")

    @property
    def profile(self) -> str:
        """The profile whose values are taken where none is given."""
        return PROFILES.get(self.base, OTHERS)

    def config(self, clips: int) -> FinetuneConfig:
        """The values of the training, with those of a profile where none is given.

        Args:
            clips: how many train; with the shipped models the number of epochs depends on it.

        Raises:
            InputError: a value of another type or out of range, or λ without an encoder φ.
        """
        profile = load_profile(self.profile)
        changes = self.changes
        if self.base:
            more = {"lr": MINI_LORA_LR} if changes.get("lora_rank") else {}
            changes = MINI_CHANGES | more | changes
        elif changes.get("lora_rank") and "lr" not in changes:
            raise InputError(
                f"--lora-rank {changes['lora_rank']}: adapters do not move at the paper's learning rate, 3e-6; give"
                f" --lr (with mini {MINI_LORA_LR:g} served best)"
            )
        config = finetune_config(profile, changes)
        if self.base and "epochs" not in changes:
            epochs = math.ceil(MINI_STEPS * config.batch_size * config.grad_accum / clips)
            config = finetune_config(profile, changes | {"epochs": epochs})
        if config.lam and not self.encoder():
            raise InputError(
                f"{self.model} comes without a Latent CLAP encoder: --phi names one, trained for its VAE and CLAP by"
                " python -m latentclap.train, or --lam 0 fine-tunes by eq. 1 alone"
            )
        return config

    def check_model(self) -> None:
        """Check the model's files and φ without asking a hub: what is not on this disk is not checked.

        Raises:
            InputError: there is no such model, or a file of it or of φ is missing or damaged.
        """
        if Path(self.model).exists() or not on_a_hub(self.model):
            check_system(resolve(self.model))
        self.phi_of(self.config(len(self.sounds.usable)))

    def encoder(self) -> str:
        """The folder of φ that is taken; empty where there is none."""
        if self.phi:
            return self.phi
        folder = latent_clap_folder(self.model)
        return self.model if folder != Path(self.model) else ""

    def about(self) -> dict[str, Any]:
        """What decides the result, JSON-ready: a run goes on only in a folder whose record says the same."""
        return {
            "sounds": {
                "folder": str(self.sounds.folder.resolve()),
                "digest": self.sounds.digest,
                "layout": self.sounds.layout,
                "train": len(self.sounds.train),
                "held_out": [item.key for item in self.sounds.held_out],
            },
            "model": about_path(self.model),
            "phi": about_path(self.phi),
            "judge": about_path(self.judge),
            "crops": [self.crops, self.crop],
            "changes": self.changes,
        }

    def check(self) -> dict[str, Any]:
        """Check that the folder is free or holds this very run.

        Returns:
            The record of the run there; empty where nothing was trained yet.

        Raises:
            InputError: something else was trained there.
        """
        record = noted(self.out / RECORD)
        if not any((self.out / name).exists() for name in TRAINED):
            return {}
        ours, theirs = _flat(json.loads(json.dumps(self.about()))), _flat(record)
        for about in (ours, theirs):  # moved, they are the same sounds
            about["sounds"] = {k: v for k, v in _object(about, "sounds").items() if k != "folder"}
        differing = [key for key in ours if ours[key] != theirs.get(key)]
        differing += [key for key in _object(record, "changes") if key not in self.changes]
        if differing:
            raise InputError(
                f"--out {self.out} holds another run ({', '.join(differing)} differ): use another folder"
            )
        return record

    # --- doing it -----------------------------------------------------------------------------------------------

    def encode(
        self,
        system: FoleySystem,
        say: Callable[[str], None],
        *,
        workers: int,
        batch_size: int = 8,
        progress: bool = True,
    ) -> dict[str, ShardedCache]:
        """Encode the sounds of both sides, as far as they are not; return the caches."""
        from latentclap.cache import ShardedCache, cache_parts

        for side, folder in self.latents.items():
            items = self.sounds.train if side == "train" else self.sounds.held_out
            made = cache_parts(
                system,
                self.sounds.parts(side),
                folder,
                batch_size=batch_size,
                workers=workers,
                crops=self.crops,
                crop="random" if self.crop == "random" else "first",
                progress=progress,
                total=len(items) if progress else None,
            )
            skipped = made.manifest["problems"] if made.manifest else 0
            if skipped:
                say(f"{skipped} of {len(items)} sounds cannot be used: {folder / 'problems.csv'} says why")
        caches = {side: ShardedCache(folder) for side, folder in self.latents.items()}
        if not len(caches["train"]):
            raise InputError(
                f"{self.sounds.folder}: not one sound could be encoded: {self.latents['train'] / 'problems.csv'}"
            )
        return caches

    def system(self, name: str = "") -> FoleySystem:
        """The system that it begins with, or another of the same judge, where training computes."""
        from latentclap.system import FoleySystem
        from latentclap.train import processes

        return FoleySystem.from_pretrained(
            name or self.model, judge=self.judge or None, device=str(processes().device)
        )

    def launch(self, **options: Any) -> Launch:
        """The training, as ``python -m latentclap.train`` would run it."""
        from latentclap.launch import Launch
        from latentclap.train import processes

        return Launch(TrainFile.read(self.out / TRAIN_FILE), processes(), **options)

    def phi_of(self, config: FinetuneConfig) -> LatentCLAP | None:
        """The Latent CLAP encoder of a training, where training computes; None for λ = 0."""
        from latentclap.latent_clap import LatentCLAP
        from latentclap.train import processes

        if not config.lam:
            return None
        return LatentCLAP.from_pretrained(latent_clap_folder(self.encoder())).to(processes().device)

    def keep_encoder(self) -> None:
        """Put φ into the fine-tuned system, as mini has it: by its name alone it can be fine-tuned further.

        Its VAE and CLAP are those that φ was trained for, which fine-tuning leaves as they are.
        """
        place = self.out / "system" / "latent_clap"
        if not self.encoder() or place.is_dir():
            return
        fresh = place.with_name(".latent_clap")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(latent_clap_folder(self.encoder()), fresh)
        fresh.rename(place)

    @property
    def texts(self) -> list[str]:
        """Captions that the page plays."""
        return self.sounds.captions[:TEXTS]

    def write_record(self, **told: Any) -> None:
        """Write what this run is, and what is known of it."""
        write_json(self.out / RECORD, self.about() | told)


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    """A record's entries, the values of the training by their own names."""
    return about | _object(about, "changes") | {"changes": None}


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    """What a record has under a key; nothing where an edited one has something else there."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _unet(folder: Path) -> dict[str, Any]:
    """What a system's UNet is built of; nothing where that is not known here."""
    told = json_or_nothing(folder / "unet" / "config.json")
    return {name: value for name, value in told.items() if not name.startswith("_")}
