"""Checkpoints, weights and statistics with one fault each."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from badinput.material import Shelf, add, material, spoilt

UNET = "unet/diffusion_pytorch_model.safetensors"


@material()
def tiny_model(path: Path, _: Shelf) -> None:
    """An untrained system of the tiny size: nothing wrong."""
    from latentclap.models import random_system

    random_system("tiny").save_pretrained(path, pipeline=False)


def _model(key: str, spoil: Callable[[Path], None]) -> None:
    add(key, spoilt("tiny_model", spoil))


def cut(file: Path) -> None:
    """Keep the first half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _tensors(file: Path, change: Callable[[dict], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _drop(tensors: dict) -> None:
    del tensors[sorted(tensors)[0]]


def _poison(tensors: dict) -> None:
    tensors["conv_out.bias"].fill_(float("nan"))


for _part, _file in {
    "unet": UNET,
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "vocoder": "vocoder/model.safetensors",
    "clap": "clap/model.safetensors",
    "tokenizer": "tokenizer/tokenizer.json",
}.items():
    _model(f"cut_{_part}", lambda path, file=_file: cut(path / file))
    _model(f"no_{_part}", lambda path, part=_part: shutil.rmtree(path / part))
    _model(f"no_{_part}_file", lambda path, file=_file: (path / file).unlink())
_model("no_scheduler", lambda path: shutil.rmtree(path / "scheduler"))
_model(
    "predicts_v",
    lambda path: _edit(path / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
)
_model("text_unet", lambda path: (path / UNET).write_text("weights, in a way\n" * 9))
_model("locked_unet", lambda path: (path / UNET).chmod(0))
_model("cut_config", lambda path: cut(path / "unet" / "config.json"))
_model("other_widths", lambda path: _edit(path / "unet" / "config.json", block_out_channels=[16, 32]))
_model("missing_tensor", lambda path: _tensors(path / UNET, _drop))
_model("nan_unet", lambda path: _tensors(path / UNET, _poison))
_model("cut_index", lambda path: cut(path / "latentclap.json"))
_model("odd_frames", lambda path: _edit(path / "latentclap.json", frames=63))
_model("text_frames", lambda path: _edit(path / "latentclap.json", frames="many"))
_model("text_polish", lambda path: _edit(path / "latentclap.json", polish="much"))
_model("text_sampling", lambda path: _edit(path / "latentclap.json", sampling={"steps": "few"}))
_model("other_sampling", lambda path: _edit(path / "latentclap.json", sampling={"speed": 2}))
_model("locked_model", lambda path: path.chmod(0))


@material()
def whole_model(path: Path, _: Shelf) -> None:
    """An untrained system of the tiny size as diffusers opens it: nothing wrong."""
    from latentclap.models import random_system

    random_system("tiny").save_pretrained(path)


def _pickled(path: Path) -> None:
    """A UNet under the suffix of a pickle, whatever is in it."""
    (path / UNET).rename((path / UNET).with_suffix(".bin"))


add("nan_whole", spoilt("whole_model", lambda path: _tensors(path / UNET, _poison)))
add("pickled_unet", spoilt("whole_model", _pickled))
add("missing_whole", spoilt("whole_model", lambda path: _tensors(path / UNET, _drop)))


def _tuning(path: Path) -> None:
    (path / "tuning").mkdir()
    (path / "tuning" / "model.safetensors").write_text("no layer\n")


_model("text_tuning", _tuning)


@material("model.safetensors")
def text_weights(path: Path, _: Shelf) -> None:
    """A text under the name of a weights file."""
    path.write_text("weights, in a way\n" * 9)


@material("model.safetensors")
def cut_weights(path: Path, shelf: Shelf) -> None:
    """A weights file that ends early."""
    shutil.copy(shelf.get("tiny_model") / UNET, path)
    cut(path)


@material("notes.txt")
def text_file(path: Path, _: Shelf) -> None:
    """A text."""
    path.write_text("not what you think\n")


# --- statistics ---------------------------------------------------------------------------------------------


def _statistics(key: str, **changes: object) -> None:
    """Statistics of rain in the mel-statistics embedding (40 dimensions), with some arrays changed or left out."""

    def make(path: Path, _: Shelf) -> None:
        arrays = {"mu": np.zeros(40), "sigma": np.eye(40), "n": np.asarray(100)} | changes
        np.savez(path, **{f"rain/{name}": value for name, value in arrays.items() if value is not None})

    add(key, make, "statistics.npz")


_statistics("good_statistics")
_statistics("no_sigma", sigma=None)
_statistics("no_count", n=None)
_statistics("three_dimensions", mu=np.zeros(3), sigma=np.eye(3))
_statistics("other_shape", sigma=np.eye(39))
_statistics("nan_mean", mu=np.full(40, np.nan))
_statistics("lopsided", sigma=np.triu(np.ones((40, 40))))
_statistics("negative", sigma=-np.eye(40))
_statistics("words", mu=np.array(["a"] * 40))
_statistics("other_embedding", embedding=np.asarray("judge"))
_statistics("pickled", mu=np.array([{"a": 1}], dtype=object))
add("cut_statistics", spoilt("good_statistics", cut), "statistics.npz")
add("text_statistics", lambda path, _: path.write_text("mu, sigma\n"), "statistics.npz")
add("no_statistics", lambda path, _: np.savez(path, a=np.zeros(3)), "statistics.npz")


class Hostile:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


def _pickle(data: object, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(data))


add("dcase_hostile", lambda path, _: _pickle(Hostile(), path / "rain" / "gt_embedding.pkl"))
add("dcase_list", lambda path, _: _pickle([1, 2], path / "rain" / "gt_embedding.pkl"))
add("dcase_foreign", lambda path, _: _pickle([1, 2], path / "cats" / "gt_embedding.pkl"))


def _dcase_empty(path: Path, _: Shelf) -> None:
    (path / "rain").mkdir(parents=True)
    (path / "rain" / "gt_embedding.pkl").write_bytes(b"")


add("dcase_empty", _dcase_empty)
add("vggish_hostile", lambda path, _: _pickle({"features.0.weight": Hostile()}, path), "vggish.pth")
add("vggish_text", lambda path, _: path.write_text("no weights\n"), "vggish.pth")


@material("vggish.pth")
def vggish_other(path: Path, _: Shelf) -> None:
    """The weights of another network."""
    import torch

    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3), "head.weight": torch.zeros(2, 2)}, path)


# --- files of the original code -----------------------------------------------------------------------------

add("ckpt_text", lambda path, _: path.write_text("no weights\n"), "model.ckpt")
add("ckpt_hostile", lambda path, _: _pickle({"state_dict": Hostile()}, path), "model.ckpt")


@material("model.ckpt")
def ckpt_other(path: Path, _: Shelf) -> None:
    """The weights of another network."""
    import torch

    torch.save({"state_dict": {"head.weight": torch.zeros(2, 2)}}, path)


add("ckpt_cut", spoilt("ckpt_other", cut), "model.ckpt")


@material()
def cut_corpus(path: Path, shelf: Shelf) -> None:
    """A folder of pretraining whose corpus ends early."""
    path.mkdir()
    shutil.copy(shelf.get("cut_weights"), path / "corpus.safetensors")
