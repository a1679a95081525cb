"""``latentclap compare`` and ``evaluate`` with every kind of embedding, as commands."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from latentclap import cli
from latentclap.audio import write_wave
from latentclap.embeddings import VGGish, get_embedding
from latentclap.embeddings.vggish import VGGishNet
from latentclap.errors import InputError
from latentclap.evaluate import clips_in_folder, embed_clips, evaluate
from latentclap.fad import save_stats
from latentclap.models import random_system
from latentclap.options import embedded_on, load_embedding

RATE = 16_000


def call(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments), "-q"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three clips of a class by two systems, and real ones; shorter than VGGish's four seconds."""
    top = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a", "b", "real")):
        for i in range(3):
            rng = np.random.default_rng([seed, i])
            wave = np.cumsum(rng.normal(size=2 * RATE)) if name == "b" else rng.normal(size=2 * RATE)
            write_wave(top / name / "rain" / f"{i}.wav", 0.5 * wave / np.abs(wave).max(), RATE)
    return top


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as torchvggish publishes it, with random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VGGishNet()
    path = tmp_path_factory.mktemp("weights") / "vggish.pth"
    torch.save(net.state_dict(), path)
    return path


def compared(folders, out, *options):
    systems = (f"a={folders / 'a'}", f"b={folders / 'b'}", "--reference", folders / "real", "-o", out)
    said = call("compare", *systems, "--neighbours", 1, "--n-boot", 5, "--items", 1, *options)
    assert said.exit_code == 0, (said.output, said.exception)
    return json.loads((out / "compare.json").read_text()), said.output


@pytest.mark.slow
def test_one_embedding_after_another_in_one_folder(folders, weights, tiny_family, tmp_path):
    """Each record is of its embedding alone: nothing of the one before is taken for it."""
    out = tmp_path / "out"
    options = {
        "vggish-dcase-": ("--vggish", weights),
        "vggish-textbook-": ("--vggish", weights, "--mode", "textbook"),
        "clap-": ("--embedding", "clap", "--model", tiny_family),
        "judge-": ("--embedding", "judge"),
        "mel-statistics": (),
    }
    figures = {}
    for name, given in options.items():
        told, output = compared(folders, out, *given, "--device", "cpu")
        ours = told["settings"]["fad"]["embedding"]
        assert ours.startswith(name) and told["settings"]["device"] == "cpu"
        for figure in told["names"]:
            assert figure in output and f"[{ours}," in figure
        assert ours in (out / "listen/index.html").read_text(encoding="utf-8")
        classes = pd.read_csv(out / "classes.csv")
        figures[name] = classes[["fad", "kad"]].to_numpy()
        assert np.isfinite(figures[name]).all()
        assert [row["fad"] for row in told["classes"]] == pytest.approx(classes["fad"].tolist())
        clips = pd.read_csv(out / "clips.csv")
        assert clips.groupby("system")["kad_part"].mean().tolist() == pytest.approx(classes["kad"].tolist())
    values = np.stack(list(figures.values())).reshape(len(options), -1)
    assert all(len(set(column)) == len(options) for column in values.T)
    assert sorted(p.name for p in out.iterdir()) == ["classes.csv", "clips.csv", "compare.json", "listen"]


@pytest.mark.slow
def test_figures_with_vggish_are_the_functions(folders, weights, tmp_path):
    told, _ = compared(folders, tmp_path / "out", "--vggish", weights)
    embedding = VGGish(weights, "dcase")
    sides = {
        name: {
            cls: embed_clips(files, embedding, RATE) for cls, files in clips_in_folder(folders / name).items()
        }
        for name in ("a", "b", "real")
    }
    for name, row in zip(("a", "b"), told["summary"], strict=True):
        expected = evaluate(sides[name], sides["real"], embedding, n_boot=0)
        assert row["system"] == name and row["fad"] == pytest.approx(expected.average)
    said = call("evaluate", folders / "a", folders / "real", "--vggish", weights, "--n-boot", 0,
                "--json", tmp_path / "r.json", "--device", "cpu")  # fmt: skip
    assert said.exit_code == 0, said.exception
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["average"] == pytest.approx(told["summary"][0]["fad"])
    assert made["settings"]["device"] == "cpu" and embedding.name in made["name"]


@pytest.mark.slow
def test_statistics_of_another_embedding_are_refused_and_the_old_comparison_stays(folders, weights, tmp_path):
    embedding = VGGish(weights, "textbook")
    real = {
        cls: embed_clips(files, embedding, RATE) for cls, files in clips_in_folder(folders / "real").items()
    }
    save_stats(tmp_path / "real.npz", {cls: clips.stats() for cls, clips in real.items()})
    out = tmp_path / "out"
    systems = (f"a={folders / 'a'}", f"b={folders / 'b'}", "-r", tmp_path / "real.npz", "-o", out)
    said = call("compare", *systems, "--vggish", weights, "--mode", "textbook", "--n-boot", 0, "--items", 0)
    assert said.exit_code == 0, said.exception
    before = (out / "compare.json").read_bytes()
    for other in (("--vggish", weights), ()):
        refused = call("compare", *systems, *other, "--n-boot", 0, "--items", 0)
        assert isinstance(refused.exception, InputError), refused.output
        assert embedding.name in str(refused.exception) or "dimensions" in str(refused.exception)
        assert (out / "compare.json").read_bytes() == before


def test_two_claps_are_two_embeddings():
    names = {get_embedding("clap", system=random_system("tiny", seed=seed)).name for seed in (0, 0, 1)}
    assert len(names) == 2 and all(name.startswith("clap-") for name in names)


def test_the_device_of_an_embedding(tiny, weights):
    for name, file in (("judge", None), ("vggish-dcase", weights), ("mel-statistics", None), ("clap", None)):
        assert embedded_on(load_embedding(name, file, tiny, "cpu")) == "cpu"
        if name != "clap":  # which computes where its system does
            with pytest.raises(InputError, match=r"^--device nowhere: "):
                load_embedding(name, file, tiny, "nowhere")


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.parametrize("embedding", ["mel-statistics", "judge", "clap"])
def test_a_device_that_is_not_there_is_told(folders, tmp_path, command, embedding):
    arguments = {
        "evaluate": (folders / "a", folders / "real", "--json", tmp_path / "out"),
        "compare": (f"a={folders / 'a'}", "-r", folders / "real", "-o", tmp_path / "out", "--neighbours", 1),
    }[command]
    said = call(command, *arguments, "--embedding", embedding, "--device", "tpu2")
    assert isinstance(said.exception, InputError) and "--device tpu2: " in str(said.exception)
    assert not (tmp_path / "out").exists()
