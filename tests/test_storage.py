"""Damaged checkpoints: each is one line that names the part, and none is loaded in part."""

import pytest

from badinput import Shelf
from latentclap import FoleySystem
from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP
from latentclap.models import random_system


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("materials"))


@pytest.mark.parametrize(
    ("material", "says"),
    [
        ("cut_unet", "unet/diffusion_pytorch_model.safetensors: cut short"),
        ("text_unet", "unet/diffusion_pytorch_model.safetensors: not a safetensors file"),
        ("no_unet_file", "unet: no weights file"),
        ("other_widths", "unet: cannot be loaded (Cannot load"),
        ("missing_tensor", "unet: tensor class_embedding.bias is missing"),
        ("cut_config", "unet/config.json: not JSON"),
        ("cut_vocoder", "vocoder/model.safetensors: cut short"),
        ("cut_clap", "clap/model.safetensors: cut short"),
        ("cut_tokenizer", "tokenizer/tokenizer.json: not JSON"),
        ("no_tokenizer_file", "tokens: its vocabulary is missing"),
        ("no_scheduler", "scheduler is missing"),
        ("text_tuning", "tuning/model.safetensors: not a safetensors file"),
        ("cut_index", "latentclap.json: not JSON"),
        ("odd_frames", "frames=63 is no multiple of 8"),
        ("text_frames", "frames='many' is no number of mel frames"),
        ("text_polish", "polish='much' is no number of iterations"),
    ],
)
def test_damaged_system(shelf, material, says):
    with pytest.raises(InputError) as stop:
        FoleySystem.from_pretrained(shelf.get(material))
    assert says in str(stop.value) and "\n" not in str(stop.value)


def test_polish_survives(tmp_path):
    system = random_system("tiny")
    assert system.polish is None
    system.polish = 3
    again = FoleySystem.from_pretrained(system.save_pretrained(tmp_path / "polished"))
    assert again.polish == 3
    assert FoleySystem.from_pretrained("mini").polish is not None


def test_a_whole_one_still_loads(shelf):
    assert FoleySystem.from_pretrained(shelf.get("tiny_model")).frames == 64


def test_damaged_latent_clap(tmp_path):
    LatentCLAP(width=4).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"width": 4', '"width": 8'))
    with pytest.raises(InputError, match="do not fit each other"):
        LatentCLAP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"breadth": 4}')
    with pytest.raises(InputError, match="do not fit each other"):
        LatentCLAP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="damaged"):
        LatentCLAP.from_pretrained(tmp_path)
