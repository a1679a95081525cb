"""What an experiment is made with: the data, the pretrained system, φ, the latent cache, and what names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from latentclap import storage
from latentclap.cache import build_cache, read_waves
from latentclap.checkpoints import latent_clap_folder
from latentclap.classes import CLASSES
from latentclap.data import Clip, FoleyDataset, open_dataset
from latentclap.files import below, file_sha256
from latentclap.gpus import chosen_device
from latentclap.latent_clap import LatentCLAP
from latentclap.profiles import Profile
from latentclap.runs import code_hash, config_hash, runs_root
from latentclap.system import FoleySystem


@dataclass
class Bench:
    """Data and encoders of a profile and a data folder."""

    #: every number of the experiment, and the names of its checkpoints
    profile: Profile
    #: the recordings; empty: the profile's, or the embedded procedural set
    data_dir: str = ""
    #: where everything is computed
    device: str = field(default_factory=chosen_device)
    #: show progress bars
    progress: bool = True

    @cached_property
    def root(self) -> Path:
        """Where shared artefacts go: runs/<profile>."""
        return runs_root() / self.profile.name

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
        """Latents (n, C, T, F) and embeddings (n, 512) of the "dev" or "eval" clips, made once."""
        key = config_hash([self.data_id, self.checkpoint_id, split])
        return build_cache(
            self.system, self.dataset.split(split), self.root / "cache" / key, progress=self.progress
        )

    def clips(self, split: str, cls: str, n: int | None = None) -> list[Clip]:
        """The first n clips of a class on one side of the split (all for None): the printed selection rule."""
        chosen = [clip for clip in self.dataset.split(split) if clip.cls == cls]
        return chosen[:n]

    def waves(self, split: str, n: int | None = None) -> dict[str, np.ndarray]:
        """The first n real clips of every class (n, samples), as the system's front end sees them."""
        return {c: read_waves(self.system, clips) for c in CLASSES if (clips := self.clips(split, c, n))}


def _below(folder: str) -> list[Path]:
    """The files of a folder; none where there is no such folder."""
    return below(folder) if Path(folder).is_dir() else []
