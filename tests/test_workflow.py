"""What `make book` looks at before anything runs."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from badinput import Shelf
from badinput.sounds import clips
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.launch import TrainFile, finetune_config
from latentclap.needs import COMMANDS, missing, outside
from latentclap.profiles import load_profile
from latentclap.workflow import app


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("materials"))


def check(*arguments, catch=True):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], catch_exceptions=catch)


def test_a_good_folder_is_counted(tmp_path):
    clips(tmp_path, CLASSES, n=10)
    result = check("--data", tmp_path)
    assert result.exit_code == 0, result.exception
    assert result.output.endswith("56 dev and 14 eval clips\n")


def test_bad_files_are_listed_and_left_out(tmp_path):
    clips(tmp_path, CLASSES, n=11)
    wave = np.full(16_000, np.nan, dtype=np.float32)
    soundfile.write(tmp_path / "rain" / "1.wav", wave, 16_000, subtype="FLOAT")
    result = check("--data", tmp_path)
    assert result.exit_code == 0, result.exception
    assert "rain/1.wav" in result.output and "16000 samples are NaN" in result.output
    assert re.search(r"\n.*: \d+ dev and \d+ eval clips\n$", result.output)


def test_a_class_with_too_little_is_told_before_anything_is_trained(shelf, tmp_path):
    """One evaluation clip has no interval over clips; a class without any fails where it is scored."""
    with pytest.raises(
        InputError, match=r"dog_bark has 1 eval clip \(and 6 more\); the notebooks need all seven"
    ):
        check("--data", shelf.get("good_clips"), catch=False)
    clips(tmp_path, CLASSES[1:], n=10)
    with pytest.raises(InputError, match=r"dog_bark has 0 dev clips \(and 1 more\)"):
        check("--data", tmp_path, catch=False)
    clips(tmp_path, CLASSES[:1], n=3)  # of which one is on the eval side
    with pytest.raises(InputError, match=r"dog_bark has 1 eval clip; .* with 2 development and 2 evaluation"):
        check("--data", tmp_path, catch=False)


@pytest.mark.parametrize(
    ("option", "material", "says"),
    [
        ("--data", "all_silent", "3 silent"),
        ("--data", "one_clip", "leave the eval side empty"),
        ("--data", "absent", "no such folder"),
        ("--profile", "many_steps", "generate.steps=5000: must be from 1 to 1000"),
        ("--profile", "about_number", "about=3: must be of type str"),
        ("--profile", "json_profile", "or give the path of a .toml file"),
    ],
)
def test_what_cannot_work_is_said(shelf, option, material, says):
    result = check(option, shelf.get(material))
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception) and "\n" not in str(result.exception)


def test_the_shipped_profile_is_silent():
    result = check("--profile", "quick")
    assert (result.exit_code, result.output) == (0, "")


def test_what_a_profile_names_and_is_not_there_is_listed_with_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = check("--profile", "paper")
    assert isinstance(result.exception, InputError) and "6 that profile paper names" in str(result.exception)
    lines = dict(line.split(": ", 1) for line in result.output.strip().splitlines())
    assert set(lines) == set(COMMANDS)
    assert all(COMMANDS[name] in line for name, line in lines.items())
    (tmp_path / "checkpoints/audioldm-m-full").mkdir(parents=True)
    profile = load_profile("paper").override(model__judge="laion/clap-htsat-unfused")  # a hub's, not a path
    left = [line.split(":")[0] for line in missing(profile, data_dir="mine")]
    assert left == ["model.latent_clap", "evaluate.reference", "evaluate.vggish"]


def test_what_lies_outside_and_decides(tmp_path, monkeypatch):
    """Files that a profile names, with size and time; nothing of what ships, of a hub, or of what a copy leaves."""
    monkeypatch.chdir(tmp_path)
    assert outside(load_profile("quick")) == [] and outside(load_profile("paper")) == []
    for name in ("mine/dev/rain/1.wav", "mine/.dcase.lock", "checkpoints/audioldm-m-full/unet/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    (tmp_path / "vggish.pth").write_text("1")
    away = load_profile("quick").override(model__system=str(tmp_path / "checkpoints/audioldm-m-full"))
    assert len(outside(away)) == 1
    paper = load_profile("paper").override(evaluate__vggish="vggish.pth", model__judge="laion/clap")
    lines = outside(paper, "mine")
    assert [line.split()[:3] for line in lines] == [
        ["model.system", "checkpoints/audioldm-m-full/unet/config.json", "5"],
        ["data.folder", "mine/dev/rain/1.wav", "5"],
        ["evaluate.vggish", "vggish.pth", "1"],
    ]
    os.utime("mine/dev/rain/1.wav", (1, 1))
    assert outside(paper, "mine") != lines and len(outside(paper)) == 2
    # a class's folder may be a link, into which a recursive glob does not look
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.wav").write_text("1")
    (tmp_path / "mine/dev/gunshot").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert any("mine/dev/gunshot/2.wav 1 " in line for line in outside(paper, "mine"))


def test_the_training_files_of_the_paper_go_with_its_profile():
    folder = Path(__file__).parents[1] / "data_scripts/train"
    phi, tuned = (TrainFile.read(folder / f"{name}.toml") for name in ("phi_wavcaps", "finetune_dcase"))
    assert (phi.part, tuned.part) == ("latent_clap", "finetune")
    paper = load_profile("paper")
    assert paper.model.latent_clap == f"{phi.folder}/latent_clap"
    assert finetune_config(paper, tuned.changes).lam == paper.finetune.lam
