"""The folder of a pretraining run: what has been trained there, and tensors that are computed once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError
from latentclap.files import atomic_path, read_json
from latentclap.models import random_system
from latentclap.pretrain.corpus import Corpus
from latentclap.pretrain.widen import widen, widening
from latentclap.storage import resolve
from latentclap.system import FoleySystem

#: which stages make which part, later ones go on from earlier ones
MAKES = {
    "clap": ("clap",),
    "vae": ("vae", "vae_decoder", "vae_critic"),
    "vocoder": ("vocoder", "vocoder_critic"),
    "unet": ("ldm",),
}


@dataclass
class Work:
    """A folder in which a family is being trained.

    Attributes:
        folder: holds a folder per stage.
        size: a key of ``models.SIZES``.
        corpus: the training clips.
        device: where to train.
    """

    folder: Path
    size: str
    corpus: Corpus
    device: str = "cpu"

    @property
    def start(self) -> Path | None:
        """A trained family (see :meth:`begin_with`): the beginning of parts that no stage has trained here yet."""
        folder = self.folder / "start"
        return folder if folder.is_dir() else None

    @property
    def key(self) -> str:
        """Names what is computed from the clips (log-mels, features): it depends on them and, by its front ends, on
        the size.
        """
        return f"{self.size} {self.corpus.digest}"

    def begin_with(self, family: str | Path) -> None:
        """Copy a trained family into the work folder as its start.

        Raises:
            InputError: no such family, or the folder has begun with another one.
        """
        source = resolve(family)
        if self.start is None:
            # beside first: a folder half copied would be taken for a whole family
            temporary = self.folder / ".start"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary)
            temporary.rename(self.folder / "start")
        elif read_json(self.start / "model_card.json") != read_json(source / "model_card.json"):
            raise InputError(f"{self.folder} has begun with another family than {family}: use another --work")

    def system(self) -> FoleySystem:
        """The family as far as it is trained; parts without a result are the start's, or random."""
        # the tokenizer is trained on the captions, so it is the same for the same corpus
        texts = sorted({t for pair in self.corpus.texts() for t in pair} | {prompt(c) for c in CLASSES})
        system = random_system(self.size, captions=texts)
        if self.start:
            system = self.started(system)
        for part, stages in MAKES.items():
            for stage in stages:
                if self.result(stage).is_file():
                    getattr(system, part).load_state_dict(load_file(self.result(stage)))
        scale = self.folder / "vae" / "scale.json"
        if scale.is_file():
            system.vae.register_to_config(scaling_factor=read_json(scale)["scaling_factor"])
        return system.to(self.device)

    def started(self, system: FoleySystem) -> FoleySystem:
        """``system`` with the start's weights in every part whose shapes are the start's.

        CLAP comes with its tokenizer, since its words are numbered by it. A narrower VAE is widened.
        """
        begun = FoleySystem.from_pretrained(self.start)
        for part in self.taken(system, begun):
            if shapes(getattr(system, part)) == shapes(getattr(begun, part)):
                setattr(system, part, getattr(begun, part))
            else:
                widen(begun.vae, system.vae)
        if system.clap is begun.clap:
            system.tokenizer, system.text_encoder = begun.tokenizer, begun.text_encoder
            system.feature_extractor = begun.feature_extractor
        return system.eval()

    @staticmethod
    def taken(system: FoleySystem, begun: FoleySystem) -> list[str]:
        """Names of the parts that a start of the same shapes can give, or a narrower VAE; others are trained anew."""
        return [
            part
            for part in MAKES
            if shapes(getattr(system, part)) == shapes(getattr(begun, part))
            or (part == "vae" and widening(begun.vae, system.vae))
        ]

    def result(self, stage: str) -> Path:
        """The weights a stage leaves (averaged, float32)."""
        return self.folder / stage / "weights.safetensors"

    def need(self, *parts: str) -> None:
        """Refuse to go on while a part has been trained neither here nor in the start.

        Raises:
            InputError: names the stage.
        """
        begun = (
            self.taken(random_system(self.size), FoleySystem.from_pretrained(self.start))
            if self.start
            else []
        )
        for part in parts:
            stages = MAKES.get(part, (part,))
            if part not in begun and not any(self.result(stage).is_file() for stage in stages):
                raise InputError(f"stage {stages[0]!r} has left no weights in {self.folder}: run it first")


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every parameter and buffer but the words', whose number is the tokenizer's."""
    state = module.state_dict()
    return {name: value.shape for name, value in state.items() if "word_embeddings" not in name}


def cached(path: Path, make: Callable[[], dict[str, Tensor]], key: str = "") -> dict[str, Tensor]:
    """Tensors from a file, made and written where it is absent or of another ``key``."""
    if not path.is_file() or key_of(path) != key:
        tensors = make()
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"key": key})
    return load_file(path)


def key_of(path: Path) -> str:
    """The key that :func:`cached` wrote."""
    with safe_open(path, "pt") as stream:
        return (stream.metadata() or {}).get("key", "")


def in_batches(
    work: Work, function: Callable[[Tensor], tuple[Tensor, ...]], label: str, batch: int = 16
) -> list[Tensor]:
    """Apply a function to the corpus' waves (b, samples) float, batch by batch; half precision out."""
    out = []
    for i in tqdm(range(0, len(work.corpus), batch), desc=label, leave=False):
        waves = work.corpus.wave[i : i + batch].float() / 32767
        out.append([x.half().cpu() for x in function(waves)])
    return [torch.cat(column) for column in zip(*out, strict=True)]


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's parameters and buffers as safetensors, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in _unshared(module).items()}, temporary)


def _unshared(module: nn.Module) -> dict[str, Tensor]:
    """The state, with tensors that share memory copied: safetensors refuses aliases."""
    seen: set[int] = set()
    out = {}
    for name, value in module.state_dict().items():
        out[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return out
