"""What the notebooks call: data, encoders, fine-tuned points, generated clips and scores, each made once.

A point of the experiment (one fine-tuning run, one set of generated clips) lives in a folder named by the hash of
everything it depends on, so that notebooks share it, a second run finds it, and a killed one goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch import Tensor

from latentclap import storage
from latentclap.cache import build_cache, read_waves
from latentclap.checkpoints import latent_clap_folder
from latentclap.classes import CLASSES, prompt
from latentclap.data import Clip, FoleyDataset, open_dataset
from latentclap.embeddings import Embedding, get_embedding
from latentclap.errors import InputError
from latentclap.evaluate import EvalResult, evaluate
from latentclap.files import atomic_path, below, file_sha256, read_json, write_json
from latentclap.finetune import FinetuneConfig, finetune, load_weights, save_weights, train_latent_clap
from latentclap.gpus import chosen_device
from latentclap.latent_clap import LatentCLAP
from latentclap.locks import locked
from latentclap.measure import heldout_losses, summarise
from latentclap.postfilter import FilterResult, clap_score, filter_generate, load_preset
from latentclap.profiles import Profile
from latentclap.runs import code_hash, config_hash, runs_root
from latentclap.system import FoleySystem
from latentclap.train import TrainResult
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
        config: how it was trained; None for the pretrained system.
        folder: its artefacts.
        seconds: training time.
        history: the lines of stats.jsonl.
    """

    config: FinetuneConfig | None
    folder: Path
    seconds: float
    history: list[dict[str, float]]


@dataclass
class Lab:
    """The experiment's bench for a profile and a data folder ("" is the embedded procedural set)."""

    profile: Profile
    data_dir: str = ""
    device: str = field(default_factory=chosen_device)
    progress: bool = True

    @cached_property
    def root(self) -> Path:
        """Where shared artefacts go: runs/<profile>."""
        return runs_root() / self.profile.name

    # ------------------------------------------------------------------------------ data and encoders

    @cached_property
    def dataset(self) -> FoleyDataset:
        """The recordings, or the embedded set, made on first use."""
        return open_dataset(
            self.data_dir or self.profile.data.folder, self.profile.data, root=runs_root() / "data"
        )

    @property
    def source(self) -> str:
        """Where the clips come from, in words: synthesised ones are no recordings, whatever a row is called."""
        return "recordings" if self.data_dir or self.profile.data.folder else "synthesised by this package"

    @cached_property
    def system(self) -> FoleySystem:
        """The pretrained system."""
        model = self.profile.model
        return FoleySystem.from_pretrained(model.system, judge=model.judge or None, device=self.device)

    @property
    def has_phi(self) -> bool:
        """Whether the profile's Latent CLAP encoder is there: it may be the one that is still to be trained."""
        return (latent_clap_folder(self.profile.model.latent_clap) / "config.json").is_file()

    @cached_property
    def phi(self) -> LatentCLAP:
        """The Latent CLAP encoder of the profile."""
        return LatentCLAP.from_pretrained(latent_clap_folder(self.profile.model.latent_clap)).to(self.device)

    @cached_property
    def checkpoint_id(self) -> str:
        """A hash of the pretrained weights, their settings and the code: no other's results are taken for theirs."""
        model = self.profile.model
        weights = storage.checkpoint_files(model.system)
        # the judge's embeddings are in the cache too
        weights += storage.checkpoint_files(model.judge) if model.judge else []
        folder = latent_clap_folder(model.latent_clap)
        weights = sorted([*weights, *(storage.checkpoint_files(folder) if folder.is_dir() else ())])
        return config_hash([code_hash(), *[file_sha256(p) for p in weights]])

    @cached_property
    def data_id(self) -> str:
        """A hash of the data set's content."""
        return self.dataset.digest

    @cached_property
    def measure_id(self) -> str:
        """A hash of what FAD is measured by and with, where a profile names files: statistics, VGGish's weights."""
        named = [self.profile.evaluate.reference, self.profile.evaluate.vggish]
        files = [f for n in named if n for f in ([Path(n)] if Path(n).is_file() else _below(n))]
        return config_hash([file_sha256(f) for f in files if f.is_file()]) if files else ""

    @property
    def content(self) -> tuple[str, ...]:
        """Hashes of the recordings, of the weights, and of FAD's files, which a profile only names."""
        return self.data_id, self.checkpoint_id, *filter(None, [self.measure_id])

    def cache(self, split: str) -> dict[str, Tensor]:
        """Latents and embeddings of the "dev" or "eval" clips."""
        key = config_hash([self.data_id, self.checkpoint_id, split])
        return build_cache(
            self.system, self.dataset.split(split), self.root / "cache" / key, progress=self.progress
        )

    # ------------------------------------------------------------------------------ fine-tuned points

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
        (folder / "checkpoint.pt").unlink(missing_ok=True)  # four times the size of the weights, and spent

    def load(self, point: Point | None) -> FoleySystem:
        """The fine-tuned system of a point; None is the pretrained one."""
        return (
            self.system if point is None else load_weights(self.system, point.folder / "weights.safetensors")
        )

    @property
    def _compiles(self) -> bool:
        return self.profile.speed.compile and self.device.startswith("cuda")

    def generating(self, point: Point | None) -> FoleySystem:
        """A point's system as clips are made by it: compiled, where the profile says so."""
        system = self.load(point)
        return system.for_generation() if self._compiles else system

    def _sampling(self) -> list[Any]:
        """What decides a clip beside its seed and the weights; compiled ones differ by bf16's rounding."""
        return [asdict(self.profile.generate)] + ["compiled"] * self._compiles

    # ---------------------------------------------------------------------------- generated clips

    def generate(
        self, point: Point | None, n: int, *, seed: int = 0, first: int = 0, classes: Sequence[str] = CLASSES
    ) -> dict[str, np.ndarray]:
        """n clips per class, (n, samples) float32 at 16 kHz, made once per (point, sampling, seed)."""
        section = self.profile.generate
        key = config_hash([*self._sampling(), seed, first, n, list(classes), self.checkpoint_id])
        path = self._point_folder(point) / "generated" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                system = self.generating(point)
                started = time.monotonic()
                waves = system.generate(
                    list(classes),
                    n,
                    seed=seed,
                    first=first,
                    progress=self.progress,
                    **asdict(section),
                )
                with atomic_path(path) as temporary:
                    arrays = {c: waves[i * n : (i + 1) * n].copy() for i, c in enumerate(classes)}
                    save_arrays(arrays, temporary)
                write_json(path.with_suffix(".json"), {"seconds": time.monotonic() - started})
        try:
            arrays = load_arrays(path)
        except SafetensorError as error:
            raise InputError(f"{path}: damaged ({error}); delete it, and it is made again") from None
        return {c: arrays[c] for c in classes}

    def generation_seconds(
        self, point: Point | None, n: int, *, seed: int = 0, first: int = 0, classes: Sequence[str] = CLASSES
    ) -> float:
        """Wall time that :meth:`generate` took when it made these clips, without that of loading the system."""
        key = config_hash([*self._sampling(), seed, first, n, list(classes), self.checkpoint_id])
        return read_json(self._point_folder(point) / "generated" / f"{key}.json")["seconds"]

    def clips(self, split: str, cls: str, n: int | None = None) -> list[Clip]:
        """The first n clips of a class on one side of the split (all for None): the printed selection rule."""
        chosen = [clip for clip in self.dataset.split(split) if clip.cls == cls]
        return chosen[:n]

    def waves(self, split: str, n: int | None = None) -> dict[str, np.ndarray]:
        """Real clips of every class, as the system's front end sees them."""
        return {c: read_waves(self.system, clips) for c in CLASSES if (clips := self.clips(split, c, n))}

    def filtered(self, point: Point | None, n: int, *, seed: int = 0) -> FilterResult:
        """n clips per class through the profile's post-filter (II-B), made once like :meth:`generate`.

        With the profile's guidance, whatever the filter's authors took: rows with and without it are then alike.
        """
        section = self.profile.evaluate
        options = [section.postfilter, section.max_tries, section.candidates]
        key = config_hash([*self._sampling(), options, seed, n, self.checkpoint_id])
        path = self._point_folder(point) / "filtered" / f"{key}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                system = self.generating(point)
                result = filter_generate(
                    system.generate,
                    clap_score(system),
                    CLASSES,
                    n,
                    load_preset(section.postfilter, section.candidates),
                    seed=seed,
                    max_tries=section.max_tries,
                    batch=max(32, self.profile.generate.batch_size),
                    **asdict(self.profile.generate),
                )
                result.save(path)
        return FilterResult.load(path)

    def _point_folder(self, point: Point | None) -> Path:
        return point.folder if point else self.root / "pretrained" / self.checkpoint_id

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

    # ------------------------------------------------------------------------------------- scores

    @cached_property
    def embedding(self) -> Embedding:
        """The FAD embedding of the profile."""
        section = self.profile.evaluate
        options: dict[str, Any] = {}
        if section.embedding.startswith("vggish"):
            options["weights"] = section.vggish
        elif section.embedding == "clap":
            options["system"] = self.system  # the pretrained one, whatever is scored: all share its CLAP
        return get_embedding(section.embedding, **options)

    @cached_property
    def reference(self) -> Any:
        """The FAD reference: the organisers' statistics where the profile names them, else the eval clips."""
        if self.profile.evaluate.reference:
            return self.profile.evaluate.reference
        return self.waves("eval")

    def fad(self, generated: dict[str, np.ndarray], *, seed: int = 0) -> EvalResult:
        """FAD per class against the evaluation set, with bootstrap intervals over clips; of the first 4 s of each."""
        return self._evaluate(generated, seed)

    def _evaluate(self, clips: dict[str, Any], seed: int) -> EvalResult:
        return evaluate(
            clips,
            self.reference,
            self.embedding,
            sr=self.system.sampling_rate,
            n_boot=self.profile.evaluate.n_boot,
            seed=seed,
        )

    def fad_real(self, n: int | None = None, *, seed: int = 0) -> EvalResult:
        """FAD of the first n development clips of each class: Table I's first row.

        Against the organisers' statistics the files are taken as they lie on disk, as their tool takes them: through
        the model's 16 kHz they would lose what VGGish hears above 8 kHz, since that tool never resamples.
        """
        if not self.profile.evaluate.reference:
            return self.fad(self.waves("dev", n), seed=seed)
        files = {c: [clip.path for clip in clips] for c in CLASSES if (clips := self.clips("dev", c, n))}
        return self._evaluate(files, seed)

    def score_point(
        self, config: FinetuneConfig, *, clips_per_class: int = 0, force: bool = False
    ) -> dict[str, Any]:
        """Fine-tune a point of a sweep and score it: held-out eq. 1 and 3 and, with generated clips, average FAD.

        Args:
            config: the point; its seed is that of the generated clips too.
            clips_per_class: generated clips per class; 0 leaves FAD out.
            force: train again.
        """
        point, sweep = self.point(config, force=force), self.profile.sweep
        losses = heldout_losses(
            self.load(point),
            self.phi,
            self.cache("eval"),
            clips=sweep.heldout_clips,
            levels=sweep.heldout_levels,
        )
        scores: dict[str, Any] = summarise(losses)
        if clips_per_class:
            fad = self.fad(self.generate(point, clips_per_class, seed=config.seed), seed=config.seed)
            scores |= {"fad": fad.average, "fad_name": fad.name}
        return scores

    def similarity(self, generated: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Cosine similarity of each clip with its class prompt by the judging CLAP (V-A)."""
        return {c: self.system.similarity(w, [prompt(c)] * len(w)).tolist() for c, w in generated.items()}


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


def _below(folder: str) -> list[Path]:
    return below(folder) if Path(folder).is_dir() else []


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        if item.name == ".lock":
            continue
        shutil.rmtree(item) if item.is_dir() else item.unlink()
