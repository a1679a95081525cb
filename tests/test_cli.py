"""The command line: what it writes, what it refuses, and how it says so."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from latentclap import __version__, checkpoints, cli, evaluating, generating
from latentclap.audio import loudness, read_wave, write_wave
from latentclap.checkpoints import Sampling
from latentclap.classes import CLASSES
from latentclap.describe import describe
from latentclap.earlier import differences, same_model
from latentclap.embeddings import get_embedding
from latentclap.errors import InputError
from latentclap.evaluate import evaluate
from latentclap.fad import GaussianStats, save_stats
from latentclap.files import read_json
from latentclap.finish import Finish
from latentclap.formats import check_format
from latentclap.generation.clips import _batches, within_full_scale
from latentclap.generation.folder import _clips_in

RATE = 16_000


class FakeSystem:
    """Noise whose content depends on prompt, seed and index only, as FoleySystem's does."""

    sampling_rate = RATE
    seconds = 1.0
    device = "cpu"

    def __init__(self):
        self.calls = []

    def generate(self, *, prompts, n, first, seed, **settings):
        self.calls.append(settings)
        rows = [
            np.random.default_rng([len(prompts[0]), seed, i]).uniform(-0.5, 0.5, RATE)
            for i in range(first, first + n)
        ]
        return np.stack(rows).astype(np.float32)


@pytest.fixture
def fake(monkeypatch):
    system = FakeSystem()
    for command in (generating, evaluating):
        monkeypatch.setattr(command, "load_system", lambda model, device: system)
    return system


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(*arguments):
    """The message of an InputError that the arguments raise."""
    result = run(*arguments)
    assert isinstance(result.exception, InputError), (result.exception, result.output)
    message = str(result.exception)
    assert "\n" not in message
    return message


def run_main(monkeypatch, capsys, *arguments):
    """Exit status and stderr of the installed command."""
    monkeypatch.setattr(sys, "argv", ["latentclap", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_generate_writes_clips_and_record(tmp_path, fake):
    out = tmp_path / "out"
    result = run(
        "generate", "--classes", "rain,DogBark", "-n", 3, "--out", out, "--seed", 7, "--batch-size", 2,
        "--sampler", "unipc", "--steps", 20,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "6 clips of 1.00 s" in result.output
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    clips = [f"{cls}/{cls}_{i:03d}.wav" for cls in ("dog_bark", "rain") for i in range(3)]
    assert files == sorted([*clips, "generation.json"])  # and no plan: it is finished
    wave, sr = read_wave(out / "rain/rain_002.wav")
    assert sr == RATE
    expected = np.random.default_rng([len("This is a sound of rain."), 7, 2]).uniform(-0.5, 0.5, RATE)
    np.testing.assert_allclose(wave[0], expected, atol=1e-4)

    record = json.loads((out / "generation.json").read_text())
    assert record["settings"] == {
        "steps": 20, "guidance_scale": 5.0, "sampler": "unipc", "eta": 0.0, "seed": 7, "batch_size": 2,
    }  # fmt: skip
    assert record["model"] == "mini"
    assert record["versions"]["torch"] == torch.__version__
    assert record["clips"][2] == {
        "file": "rain/rain_002.wav", "class": "rain", "prompt": "This is a sound of rain.", "index": 2,
    }  # fmt: skip
    assert all(call["sampler"] == "unipc" and call["steps"] == 20 for call in fake.calls)


def test_generate_refuses_to_overwrite(tmp_path, fake):
    assert run("generate", "--classes", "rain,footstep", "-n", 2, "-o", tmp_path).exit_code == 0
    before = (tmp_path / "rain/rain_000.wav").read_bytes()
    message = refused("generate", "--classes", "rain", "-n", 1, "-o", tmp_path, "--seed", 1)
    assert "generation.json and 1 more would be replaced" in message
    assert (tmp_path / "rain/rain_000.wav").read_bytes() == before
    mine = tmp_path / "rain/mine.txt"
    mine.write_text("not ours")
    assert (
        run("generate", "--classes", "rain", "-n", 1, "-o", tmp_path, "--seed", 1, "--overwrite").exit_code
        == 0
    )
    # clips of the earlier run that the new record does not list are gone; what we did not write stays
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert names == ["generation.json", "rain", "rain/mine.txt", "rain/rain_000.wav"]
    assert (tmp_path / "rain/rain_000.wav").read_bytes() != before


def test_generate_goes_on_where_it_was_stopped(tmp_path, fake, monkeypatch):
    """Clips of a broken-off run stay; the rest come out as they would have; then there is nothing to do."""
    command = ("generate", "--classes", "rain,footstep", "-n", 3, "--batch-size", 1, "-o", tmp_path / "out")
    whole = FakeSystem.generate

    def stops(self, **options):
        if len(self.calls) == 4:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run(*command).exit_code != 0
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.wav")}
    assert len(made) == 4 and not (tmp_path / "out/generation.json").exists()
    message = refused(*command, "--seed", 1)
    assert "would be replaced, by clips of other settings" in message
    monkeypatch.setattr(FakeSystem, "generate", whole)
    result = run(*command)
    assert "6 clips of 1.00 s" in result.output and "4 of them made before" in result.output
    assert all(p.stat().st_mtime_ns == t for p, t in made.items())
    assert run("generate", "--classes", "rain,footstep", "-n", 3, "-o", tmp_path / "new").exit_code == 0
    for path in (tmp_path / "new").rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "new")).read_bytes()
    assert not (tmp_path / "out/.generation-plan.json").exists()
    calls = len(fake.calls)
    assert "6 of them made before" in run(*command).output and len(fake.calls) == calls
    more = (*command[:4], 4, *command[5:])
    assert "8 clips" in run(*more).output and len(fake.calls) == calls + 2


def record_in(folder):
    return json.loads((folder / "generation.json").read_text())


def test_generate_fewer_clips_forgets_none(tmp_path, fake):
    command = ("generate", "--classes", "rain", "-o", tmp_path, "-n")
    for n in (3, 2, 3):
        result = run(*command, n)
        (tmp_path / "rain/rain_1.wav").touch()  # not a name of ours
        assert result.exit_code == 0, result.exception
        assert len(record_in(tmp_path)["clips"]) == 3
    assert "3 clips" in result.output and "3 of them made before" in result.output
    assert len(fake.calls) == 1
    (tmp_path / "rain/rain_002.wav").unlink()
    assert run(*command, 2).exit_code == 0
    assert len(record_in(tmp_path)["clips"]) == 2


def test_two_runs_at_once_do_not_mix_their_clips(tmp_path, fake, monkeypatch):
    """Of other settings, both began in an empty folder, and the record was that of the last."""
    whole, other = FakeSystem.generate, []

    def meanwhile(self, **options):
        other.append(refused("generate", "--classes", "rain", "--seed", 1, "-o", tmp_path / "out"))
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", meanwhile)
    assert run("generate", "--classes", "rain", "-o", tmp_path / "out").exit_code == 0
    assert len(other) == 1 and "out: another run writes clips there; wait for it" in other[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["generation.json", "rain"]


def test_generate_adds_classes_to_those_that_are_there(tmp_path, fake):
    assert run("generate", "--classes", "rain", "-n", 2, "-o", tmp_path / "out").exit_code == 0
    first = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*/*.wav"))}
    more = run("generate", "--classes", "dog_bark,rain", "-n", 2, "-o", tmp_path / "out")
    assert more.exit_code == 0 and "4 clips of" in more.output and "2 of them made before" in more.output
    assert {path: path.stat().st_mtime_ns for path in first} == first and len(fake.calls) == 2
    told = json.loads((tmp_path / "out/generation.json").read_text())
    assert [clip["class"] for clip in told["clips"]] == ["dog_bark"] * 2 + ["rain"] * 2
    # a call that names fewer forgets none
    fewer = run("generate", "--classes", "rain", "-n", 2, "-o", tmp_path / "out")
    assert fewer.exit_code == 0 and "2 clips of" in fewer.output and len(fake.calls) == 2
    record = json.loads((tmp_path / "out/generation.json").read_text())
    assert {clip["file"] for clip in record["clips"]} == {clip["file"] for clip in told["clips"]}
    assert run("generate", "--classes", "rain", "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert not (tmp_path / "out/dog_bark").exists()


def test_clips_of_a_stopped_run_that_nobody_asks_for_stay(tmp_path, fake, monkeypatch):
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"]:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", stops)
    command = ("generate", "-n", 2, "--batch-size", 1, "-o", tmp_path, "--classes")
    assert run(*command, "rain").exit_code != 0
    monkeypatch.setattr(FakeSystem, "generate", whole)
    assert run(*command, "dog_bark").exit_code == 0
    assert len(json.loads((tmp_path / "generation.json").read_text())["clips"]) == 3
    done = run(*command, "dog_bark,rain")
    assert done.exit_code == 0 and "3 of them made before" in done.output
    assert len(json.loads((tmp_path / "generation.json").read_text())["clips"]) == 4


def test_generate_adds_one_class_after_the_other(tmp_path, fake):
    """A class today, a text tomorrow; all stay in the record, with the commands that make them."""
    for words in (
        ["--classes", "rain", "-n", 2],
        ["--prompt", "A door, slammed"],
        ["--classes", "rain", "-n", 3],
    ):
        assert run("generate", *words, "-o", tmp_path / "out").exit_code == 0
    record = record_in(tmp_path / "out")
    assert {clip["file"] for clip in record["clips"]} == {
        *(f"rain/rain_00{i}.wav" for i in range(3)),
        "a_door_slammed/a_door_slammed_000.wav",
    }
    assert record["plan"]["prompts"].keys() == {"rain", "a_door_slammed"}
    assert record["commands"] == [
        f"latentclap generate --classes rain -n 2 -o {tmp_path}/out",
        f"latentclap generate --prompt 'A door, slammed' -o {tmp_path}/out",
        f"latentclap generate --classes rain -n 3 -o {tmp_path}/out",
    ]
    # a command that made nothing is none of those that made them
    assert run("generate", "--classes", "rain", "-o", tmp_path / "out", "-q").exit_code == 0
    assert record_in(tmp_path / "out")["commands"] == record["commands"]
    for command in record["commands"]:
        words = [word.replace(f"{tmp_path}/out", f"{tmp_path}/again") for word in shlex.split(command)[1:]]
        assert run(*words).exit_code == 0
    for clip in record["clips"]:
        assert (tmp_path / "again" / clip["file"]).read_bytes() == (
            tmp_path / "out" / clip["file"]
        ).read_bytes()
    # a class whose clips somebody took away is not listed
    shutil.rmtree(tmp_path / "out/a_door_slammed")
    assert run("generate", "--classes", "dog_bark", "-o", tmp_path / "out").exit_code == 0
    assert {clip["class"] for clip in record_in(tmp_path / "out")["clips"]} == {"rain", "dog_bark"}


def test_a_stopped_runs_command_is_remembered(tmp_path, fake, monkeypatch):
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"]:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run("generate", "--classes", "rain", "-n", 2, "--batch-size", 1, "-o", tmp_path).exit_code != 0
    monkeypatch.setattr(FakeSystem, "generate", whole)
    assert run("generate", "--classes", "rain", "-n", 3, "-o", tmp_path).exit_code == 0
    assert record_in(tmp_path)["commands"] == [
        f"latentclap generate --classes rain -n 2 --batch-size 1 -o {tmp_path}",
        f"latentclap generate --classes rain -n 3 -o {tmp_path}",
    ]
    # what replaces them all is the only one
    assert run("generate", "--classes", "rain", "--seed", 1, "--overwrite", "-o", tmp_path).exit_code == 0
    assert record_in(tmp_path)["commands"] == [
        f"latentclap generate --classes rain --seed 1 --overwrite -o {tmp_path}"
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seed", 1], "(--seed 1, there 0)"),
        (["--guidance-scale", 2.5, "--steps", 3], "(--steps 3, there 12; --guidance-scale 2.5, there 5)"),
        (["--loop", 100], "(--loop 100, there none)"),
        (["--format", "ogg"], "(--format ogg, there wav)"),
        (["--prompt", "Rain!"], "(another text for rain)"),
    ],
)
def test_generate_says_what_differs(tmp_path, fake, more, told):
    assert run("generate", "--classes", "rain", "-o", tmp_path).exit_code == 0
    first = ["--classes", "rain"] if "--prompt" not in more else []
    message = refused("generate", *first, *more, "-o", tmp_path)
    assert f"other settings, weights or code {told}; choose another --out" in message
    # nothing is there of another class: it is the same all the same
    if first:
        assert told in refused("generate", "--classes", "dog_bark", *more, "-o", tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        {"plan": 3},
        {"plan": {"settings": None}},
        {"plan": {"settings": {"sounds": 3}}},
        {"plan": {"prompts": ["rain"]}},
        {"plan": {"format": "mp3"}, "calls": [3]},
        {"plan": {"format": "mp3"}, "calls": None},
        {"commands": None},
        {"commands": [["latentclap"]]},
    ],
)
def test_a_record_of_another_form_is_no_traceback(tmp_path, fake, edit):
    out = tmp_path / "clips"
    arguments = ["generate", "--classes", "rain", "-o", str(out)]
    assert run(*arguments).exit_code == 0
    record = json.loads((out / "generation.json").read_text())
    if isinstance(edit.get("plan"), dict):
        edit = edit | {"plan": record["plan"] | edit["plan"]}
    (out / "generation.json").write_text(json.dumps(record | edit))
    said = run(*arguments)
    assert said.exception is None or isinstance(said.exception, InputError | SystemExit), said.exception
    assert said.exit_code == 0 or "would be replaced" in str(said.exception)


def test_what_differs_names_models_and_weights():
    plan = {
        "model": "mini",
        "weights": [["a", 1, "x"]],
        "settings": {"seed": 0},
        "prompts": {},
        "format": "wav",
    }
    assert differences(plan, plan) == []
    assert differences(plan, plan | {"model": "doors"}) == ["--model doors, there mini"]
    assert differences(plan, plan | {"weights": [["a", 1, "y"]]}) == ["the model's weights have changed"]
    adapted = plan | {"settings": {"seed": 0, "lora": {"file": "a.safetensors", "digest": "0123456789"}}}
    assert differences(plan, adapted) == ["--lora a.safetensors (01234567), there none"]


def test_weights_copied_or_installed_again_are_the_same(tmp_path, fake):
    """Files of another time, as a copy or an installation leaves them, are no other weights; other bytes are."""
    shutil.copytree(checkpoints.resolve("mini"), tmp_path / "model")
    command = ("generate", "--classes", "rain", "--model", tmp_path / "model", "-o", tmp_path / "out", "-n")
    assert run(*command, 1).exit_code == 0
    weights = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    os.utime(weights, (0, 0))
    assert "1 of them made before" in run(*command, 2).output
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert "(the model's weights have changed)" in refused(*command, 3)


def test_a_model_is_one_however_its_place_is_written(tmp_path, fake, monkeypatch):
    """The record has what was typed; another folder is another model, even with the same weights."""
    shutil.copytree(checkpoints.resolve("mini"), tmp_path / "x")
    (tmp_path / "link").symlink_to("x")
    monkeypatch.chdir(tmp_path)
    command = ("generate", "--classes", "rain", "-o", tmp_path / "out", "-n")
    assert run(*command, 1, "--model", "x").exit_code == 0
    for n, name in enumerate(("./x", tmp_path / "x", "x/", "y/../x", "link"), 2):
        (tmp_path / "y").mkdir(exist_ok=True)
        said = run(*command, n, "--model", name)
        assert f"{n - 1} of them made before" in said.output, said.exception
        assert read_json(tmp_path / "out/generation.json")["model"] == str(name)
    commands = read_json(tmp_path / "out/generation.json")["commands"]
    assert len(commands) == 6 and "--model ./x" in commands[1]
    shutil.copytree(tmp_path / "x", tmp_path / "z")
    assert "(--model z, there " in refused(*command, 7, "--model", "z")


def test_names_of_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert same_model("mini", "./mini") and same_model("mini", str(tmp_path / "mini"))
    assert same_model("gone", "gone") and not same_model("gone", "./gone")  # nothing says where it lay
    assert same_model("cvssp/audioldm", "cvssp/audioldm") and not same_model("cvssp/audioldm", "audioldm")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_says_how_it_was_finished(tmp_path, fake, suffix):
    run(
        "generate",
        "--classes",
        "rain",
        "--loop",
        100,
        "--sampling-rate",
        8000,
        "--format",
        suffix,
        "-o",
        tmp_path,
    )
    with soundfile.SoundFile(tmp_path / f"rain/rain_000.{suffix}") as sound:
        assert "seed 0, loop 100, sampling-rate 8000; mini by latentclap" in sound.comment


def test_generate_stopped_at_more_clips_goes_on(tmp_path, fake, monkeypatch):
    """Clips beyond what a record lists are known too, whichever number is asked for next."""
    command = ("generate", "--classes", "rain", "--batch-size", 1, "-o", tmp_path, "-n")
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"] == 4:
            raise KeyboardInterrupt
        return whole(self, **options)

    assert run(*command, 2).exit_code == 0
    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run(*command, 6).exit_code != 0
    assert "3 of them made before" in run(*command, 3).output
    assert len(record_in(tmp_path)["clips"]) == 4
    monkeypatch.setattr(FakeSystem, "generate", whole)
    assert "4 of them made before" in run(*command, 6).output


def test_record_tells_which_clips_were_made_where(tmp_path, fake, monkeypatch):
    command = ("generate", "--classes", "rain", "--batch-size", 1, "-o", tmp_path, "-n")
    assert run(*command, 1).exit_code == 0
    assert record_in(tmp_path)["device"] == "cpu" and "calls" not in record_in(tmp_path)
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"] == 2:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(fake, "device", "cuda", raising=False)
    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run(*command, 3).exit_code != 0
    monkeypatch.setattr(FakeSystem, "generate", whole)
    monkeypatch.setattr(fake, "device", "cuda:1", raising=False)
    for _ in range(2):  # the second makes nothing, and changes nothing
        assert run(*command, 3).exit_code == 0
        record = record_in(tmp_path)
        assert [(call["device"], call["clips"]) for call in record["calls"]] == [
            ("cpu", ["rain/rain_000.wav"]),
            ("cuda", ["rain/rain_001.wav"]),
            ("cuda:1", ["rain/rain_002.wav"]),
        ]
        assert "device" not in record and "versions" not in record


def test_clips_of_other_code_do_not_count(tmp_path, fake, monkeypatch):
    command = ("generate", "--classes", "rain", "-o", tmp_path, "-n")
    assert run(*command, 2).exit_code == 0
    monkeypatch.setattr("latentclap.runs.code_hash", lambda modules: "other")
    assert "other settings, weights or code" in refused(*command, 2)
    # a record of before it told the code stays valid
    record = record_in(tmp_path)
    del record["code"]
    (tmp_path / "generation.json").write_text(json.dumps(record))
    assert "2 of them made before" in run(*command, 3).output
    assert [call.get("code") for call in record_in(tmp_path)["calls"]] == [None, f"{__version__} other"]


def test_a_plan_of_before_it_told_its_maker_goes_on(tmp_path, fake):
    command = ("generate", "--classes", "rain", "-o", tmp_path, "-n")
    assert run(*command, 2).exit_code == 0
    plan = record_in(tmp_path)["plan"]
    (tmp_path / "generation.json").unlink()
    (tmp_path / ".generation-plan.json").write_text(json.dumps(plan))
    for i in range(2):
        (tmp_path / f"rain/rain_00{i}.wav").touch()
    assert "2 of them made before" in run(*command, 3).output
    assert record_in(tmp_path)["calls"][0] == {"clips": ["rain/rain_000.wav", "rain/rain_001.wav"]}


def test_a_stopped_overwrite_keeps_no_old_clip(tmp_path, fake, monkeypatch):
    """Half old, half new would be the worst of all: only what the stopped run itself wrote is kept."""
    assert run("generate", "--classes", "rain", "-n", 2, "--seed", 1, "-o", tmp_path).exit_code == 0
    command = ("generate", "--classes", "rain", "-n", 2, "--batch-size", 1, "-o", tmp_path)
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"]:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run(*command, "--overwrite").exit_code != 0
    monkeypatch.setattr(FakeSystem, "generate", whole)
    assert "would be replaced" in refused(*command)
    assert run(*command, "--overwrite").exit_code == 0
    fresh = tmp_path / "fresh"
    assert run("generate", "--classes", "rain", "-n", 2, "-o", fresh).exit_code == 0
    for i in range(2):
        assert (tmp_path / f"rain/rain_00{i}.wav").read_bytes() == (
            fresh / f"rain/rain_00{i}.wav"
        ).read_bytes()


def test_what_a_stopped_overwrite_wrote_is_not_the_earlier_runs(tmp_path, fake, monkeypatch):
    """The earlier record still lists those clips, under settings by which they were not made."""
    command = ("generate", "--classes", "rain", "-n", 2, "--batch-size", 1, "-o", tmp_path)
    assert run(*command).exit_code == 0
    whole = FakeSystem.generate

    def stops(self, **options):
        if options["first"]:
            raise KeyboardInterrupt
        return whole(self, **options)

    monkeypatch.setattr(FakeSystem, "generate", stops)
    assert run(*command, "--seed", 1, "--overwrite").exit_code != 0
    monkeypatch.setattr(FakeSystem, "generate", whole)
    assert "would be replaced" in refused(*command)


def test_overwrite_removes_nothing_outside(tmp_path, fake):
    other = tmp_path / "other.wav"
    other.write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "generation.json").write_text(json.dumps({"clips": [{"file": "../other.wav"}]}))
    assert run("generate", "--classes", "rain", "-o", out, "--overwrite").exit_code == 0
    assert other.read_bytes() == b"precious"
    for name in (3, "a\0b"):  # nor is a record of another form anything but that
        (out / "generation.json").write_text(json.dumps({"clips": [{"file": name}]}))
        assert run("generate", "--classes", "rain", "-o", out, "--overwrite").exit_code == 0


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "opus"])
def test_generate_formats(tmp_path, fake, suffix):
    assert run("generate", "--classes", "rain", "-o", tmp_path, "--format", suffix).exit_code == 0
    assert read_wave(tmp_path / f"rain/rain_000.{suffix}")[0].size > 0


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_clip_says_what_made_it(tmp_path, fake, suffix):
    """Out of its folder, in a sound library, too."""
    run("generate", "--prompt", "Türe knarrt", "-n", 2, "--seed", 3, "--format", suffix, "-o", tmp_path)
    with soundfile.SoundFile(tmp_path / f"türe_knarrt/türe_knarrt_001.{suffix}") as sound:
        said = sound.comment
    door = "T?re" if suffix == "mp3" else "Türe"
    assert said.startswith(f"{door} knarrt (clip 1, ") and "seed 3" in said and "mini by latentclap" in said


def test_generate_prompts_and_all(tmp_path, fake):
    assert (
        run("generate", "--prompt", "A large dog, barking!", "--prompt", "rain", "-o", tmp_path).exit_code
        == 0
    )
    assert (tmp_path / "a_large_dog_barking/a_large_dog_barking_000.wav").is_file()
    assert run("generate", "--classes", "all", "-o", tmp_path / "all").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir() if p.is_dir()) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "rain,guitar"], "unknown class 'guitar'; the classes are dog_bark"),
        ([], "give --classes"),
        (["--classes", "rain", "--prompt", "rain"], "one of the two"),
        (["--prompt", "..."], "needs words"),
        (["--prompt", "a dog", "--prompt", "A dog!"], "differ"),
        (["--classes", "rain", "-n", "0"], "-n 0: at least 1"),
        (["--classes", "rain", "--batch-size", "0"], "--batch-size 0: at least 1"),
        (["--classes", "rain", "--seed", "-1"], "--seed -1: at least 0"),
        (["--classes", "rain", "--guidance-scale", "nan"], "--guidance-scale nan: give a finite number"),
        (["--classes", "rain", "--eta", "3"], "--eta 3: it lies between"),
    ],
)
def test_generate_refuses(tmp_path, arguments, message):
    said = refused("generate", *arguments, "-o", tmp_path / "out")
    assert message in said
    assert said.count("at least") <= 1  # what is right is not spoken of
    assert not (tmp_path / "out").exists()


def test_generate_refuses_a_file_as_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refused("generate", "--classes", "rain", "-o", tmp_path / "file")
    assert "is a file" in refused("generate", "--classes", "rain", "-o", tmp_path / "file/below")


def test_usage_errors_exit_2(tmp_path):
    for arguments in (
        ["generate", "--classes", "rain", "-o", tmp_path, "--format", "aac"],
        ["sing"],
        ["info"],
    ):
        assert run(*arguments).exit_code == 2


def test_unknown_device_and_model(tmp_path):
    assert "--device tpu2" in refused("generate", "--classes", "rain", "-o", tmp_path, "--device", "tpu2")
    message = refused(
        "generate", "--classes", "rain", "-o", tmp_path, "--model", tmp_path / "no", "--device", "cpu"
    )
    assert "no system at" in message


@pytest.fixture
def two_folders(tmp_path):
    rng = np.random.default_rng(0)
    for side, level in (("a", 0.1), ("b", 0.2)):
        for cls in ("rain", "keyboard"):
            (tmp_path / side / cls).mkdir(parents=True)
            for i in range(6):
                wave = level * rng.standard_normal(RATE * 2) * np.linspace(1, 0.1 + 0.1 * i, RATE * 2)
                soundfile.write(tmp_path / side / cls / f"{i}.wav", wave, RATE)
    (tmp_path / "b/gunshot").mkdir()
    soundfile.write(tmp_path / "b/gunshot/0.wav", 0.1 * rng.standard_normal(RATE), RATE)
    return tmp_path


def test_statistics_of_a_class_are_found_however_it_is_written(two_folders, tmp_path):
    (two_folders / "a/rain").rename(two_folders / "a/door_slam")
    shutil.rmtree(two_folders / "a/keyboard")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, get_embedding("mel-statistics").dim))
    save_stats(tmp_path / "real.npz", {"Door Slam": GaussianStats.from_embeddings(vectors, "mel-statistics")})
    said = run("evaluate", two_folders / "a", tmp_path / "real.npz", "--n-boot", 5)
    assert said.exit_code == 0, said.exception
    assert any(line.startswith("door_slam") for line in said.output.splitlines())


def test_evaluate_prints_and_writes(two_folders):
    path = two_folders / "result/fad.json"
    result = run(
        "evaluate", two_folders / "a", two_folders / "b", "--n-boot", 20, "--json", path, "--seed", 3
    )
    assert result.exit_code == 0, result.output
    told = json.loads(path.read_text())
    assert set(told["classes"]) == {"keyboard", "rain"}
    assert told["settings"]["n_boot"] == 20
    # a month later: which folders, by which versions
    assert told["command"].split()[:4] == ["latentclap", "evaluate", f"{two_folders}/a", f"{two_folders}/b"]
    assert told["versions"]["torch"] and "commit" in told and told["device"]
    lines = result.output.splitlines()
    row = next(line.split() for line in lines if line.startswith("rain"))
    assert float(row[1]) == pytest.approx(told["classes"]["rain"]["fad"], abs=1e-3)
    assert float(row[2]) == pytest.approx(told["classes"]["rain"]["ci"][0], abs=1e-3)
    assert row[-2:] == ["6", "6"]
    average = next(line.split() for line in lines if line.startswith("average"))
    assert float(average[1]) == pytest.approx(told["average"], abs=1e-3)
    assert told["name"] in result.output


def test_evaluate_takes_classes_of_ones_own(tmp_path, fake):
    """From recordings by way of their prompt to clips, and back: one name, however the folder was written."""
    rng = np.random.default_rng(0)
    for name in ("Door Slam", "laser_zaps", "not generated"):
        for i in range(3):
            write_wave(tmp_path / f"takes/{name}/{i}.wav", 0.1 * rng.standard_normal(RATE).astype("f4"), RATE)
    prompts = ("--prompt", "This is a sound of door slam.", "--prompt", "This is a sound of laser zaps.")
    assert run("generate", *prompts, "-n", 3, "-o", tmp_path / "made").exit_code == 0
    assert {path.name for path in (tmp_path / "made").iterdir() if path.is_dir()} == {
        "door_slam",
        "laser_zaps",
    }
    result = run("evaluate", tmp_path / "made", tmp_path / "takes", "--n-boot", 0)
    assert result.exit_code == 0, result.exception
    rows = {line.split()[0]: line.split()[-2:] for line in result.output.splitlines()}
    assert rows["door_slam"] == rows["laser_zaps"] == ["3", "3"] and "not" not in rows
    shutil.rmtree(tmp_path / "takes/laser_zaps")
    message = refused("evaluate", tmp_path / "made", tmp_path / "takes")
    assert "takes has no laser_zaps; it has door_slam, not_generated, and " in message
    assert "made has door_slam, laser_zaps: give a class one name in all folders" in message
    # of two folders that could be meant none is chosen
    shutil.copytree(tmp_path / "takes/Door Slam", tmp_path / "takes/door-slam")
    message = refused("evaluate", tmp_path / "made", tmp_path / "takes")
    assert "takes: Door Slam and door-slam are one class, door_slam: rename one of them" in message


def test_prompts_that_name_one_sound_have_folders_of_their_own(tmp_path, fake):
    run("generate", "--prompt", "rooster", "--prompt", "This is a sound of rooster.", "-o", tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "rooster",
        "this_is_a_sound_of_rooster",
    }
    # words of the form with nothing in it are words
    run("generate", "--prompt", "This is a sound of ...", "-o", tmp_path / "bare")
    assert (tmp_path / "bare/this_is_a_sound_of").is_dir()


def test_evaluate_same_folder_is_zero(two_folders):
    path = two_folders / "r.json"
    result = run("evaluate", two_folders / "a", two_folders / "a", "--n-boot", 0, "--json", path)
    assert result.exit_code == 0
    assert "generated clips are reference clips too" in result.stderr
    assert "warning" not in run("evaluate", two_folders / "a", two_folders / "b", "--n-boot", 0).stderr
    assert json.loads(path.read_text())["average"] == pytest.approx(0, abs=1e-6)


def test_evaluate_writes_its_result_for_who_reads_only_the_first_lines(two_folders, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli.typer, "echo", closed)
    path = two_folders / "piped.json"
    stopped = run("evaluate", two_folders / "a", two_folders / "b", "--n-boot", 0, "--json", path)
    assert stopped.exit_code != 0 and json.loads(path.read_text())["classes"]


def test_evaluate_leaves_copies_out_of_the_reference(two_folders):
    """As the function `evaluate` does; among generated clips they are a fault."""
    a, b = two_folders / "a", two_folders / "b"
    (b / "rain/copy.wav").write_bytes((b / "rain/0.wav").read_bytes())
    path = two_folders / "r.json"
    assert run("evaluate", a, b, "--n-boot", 0, "--json", path).exit_code == 0
    assert json.loads(path.read_text())["average"] == pytest.approx(evaluate(a, b, n_boot=0).average)
    assert "duplicate" in refused("evaluate", b, a)


def test_evaluate_refuses(two_folders):
    a, b = two_folders / "a", two_folders / "b"
    assert "REFERENCE" in refused("evaluate", a, two_folders / "c")
    assert "GENERATED" in refused("evaluate", two_folders / "c", b)
    assert "unknown embedding 'foo'" in refused("evaluate", a, b, "--embedding", "foo")
    assert "needs its weights" in refused("evaluate", a, b, "--mode", "dcase")
    assert "needs its weights" in refused("evaluate", a, b, "--embedding", "vggish-dcase")
    assert "contradict" in refused("evaluate", a, b, "--vggish", a, "--embedding", "clap")
    assert "no such VGGish" in refused("evaluate", a, b, "--vggish", two_folders / "w.pth")
    assert "--n-boot -1: at least 0" in refused("evaluate", a, b, "--n-boot", "-1")
    assert "has no gunshot; it has keyboard, rain" in refused("evaluate", b, a, "--n-boot", 0)
    (a / "rain/bad.wav").write_text("no sound")
    assert "unreadable" in refused("evaluate", a, b)


def test_evaluate_against_organisers_statistics(shared_data):
    generated, stats = shared_data / "listening_test/ldm_tuning", shared_data / "dcase_eval_vggish_stats.npz"
    message = refused("evaluate", generated, stats, "--n-boot", 0)
    assert "128 dimensions" in message


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A real system with random weights, saved with a tuning layer."""
    from latentclap.models import random_system
    from latentclap.system import tuning_layer

    system = random_system("tiny")
    system.tuning = tuning_layer()
    folder = tmp_path_factory.mktemp("systems") / "tiny"
    system.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n\nRandom weights, for tests.\n")
    return folder, system


def test_info_counts_what_torch_counts(tiny):
    folder, system = tiny
    told = describe(folder)
    for name, part in system.parts.items():
        # the vocoder's mean and scale are buffers; CLAP's logit scales are parameters without a last dimension
        assert told["components"][name]["parameters"] == sum(p.numel() for p in part.parameters()), name
    assert told["tuning"] is True
    assert tuple(told["latent_shape"]) == system.latent_shape
    assert told["seconds"] == pytest.approx(system.seconds)
    assert told["sampling_rate"] == system.sampling_rate
    assert told["scheduler"]["beta_schedule"] == "scaled_linear"
    assert told["model_card"] == "Random weights, for tests."


def test_info_prints_lines_and_json(tiny):
    folder, _ = tiny
    text = run("info", folder).output
    for expected in (
        "UNet2DConditionModel",
        "tuning layer   yes",
        "(8, 16, 16)",
        "Random weights, for tests.",
    ):
        assert expected in text
    assert json.loads(run("info", folder, "--json").output) == describe(folder)
    assert "tuning" not in json.loads(run("info", folder / "vae", "--json").output)["components"]


def test_info_counts_a_recording_once():
    card = json.loads((checkpoints.shipped("mini") / "model_card.json").read_text())
    files = sum(row["files"] for row in card["real_sources"])
    assert f"recordings ({files} clips of " in run("info", "mini").output
    assert re.search(r"recordings, each (once|twice|three times|four times)\)", run("info", "mini").output)


def test_info_refuses(tiny, tmp_path):
    folder, _ = tiny
    assert "no system at" in refused("info", tmp_path / "absent")
    assert "no checkpoint here" in refused("info", tmp_path)
    whole = (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:-100])
    assert "cut short" in refused("info", cut)
    cut.write_bytes(whole[:50])
    assert "damaged" in refused("info", cut)
    cut.with_suffix(".pt").write_bytes(b"x")
    assert "cannot be read as weights only" in refused("info", cut.with_suffix(".pt"))
    cut.with_suffix(".bin").write_bytes(b"x")
    assert "only folders and .safetensors" in refused("info", cut.with_suffix(".bin"))
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in refused("info", tmp_path)
    other = shutil.copytree(folder, tmp_path / "other")
    for name in ("unet/config.json", "vocoder/config.json", "latentclap.json"):
        whole = (other / name).read_bytes()
        (other / name).write_text("[]")
        assert f"{name}: a JSON object is needed, this is []" in refused("info", other)
        (other / name).write_bytes(whole)


def test_generate_with_a_real_system(tiny, tmp_path):
    folder, system = tiny
    arguments = ["generate", "--classes", "rain", "-n", 3, "--model", folder, "--steps", 2, "--device", "cpu"]
    assert run(*arguments, "-o", tmp_path / "a", "--batch-size", 2).exit_code == 0
    expected = system.generate(classes=["rain"], n=3, steps=2, seed=0)
    for i, wave in enumerate(expected):
        written, sr = read_wave(tmp_path / f"a/rain/rain_{i:03d}.wav")
        assert sr == system.sampling_rate
        np.testing.assert_allclose(written[0], np.clip(wave, -1, 1), atol=2 / 32_768)
    replace(system, sampling=Sampling("unipc", 3, 4.0)).save_pretrained(tmp_path / "own")
    told = run(
        "generate", "--classes", "rain", "--model", tmp_path / "own", "--device", "cpu", "-o", tmp_path / "c"
    )
    assert "1 clip of" in told.output and "(unipc, 3 steps, guidance 4)" in told.output
    written, _ = read_wave(tmp_path / "c/rain/rain_000.wav")
    wave = system.generate(["rain"], steps=3, guidance_scale=4.0, sampler="unipc")[0]
    np.testing.assert_allclose(written[0], np.clip(wave, -1, 1), atol=2 / 32_768)
    assert json.loads((tmp_path / "c/generation.json").read_text())["settings"]["steps"] == 3
    assert "unknown sampler" in refused(*arguments, "-o", tmp_path / "b", "--sampler", "euler")
    assert "--steps 0: at least 1" in refused(*arguments, "-o", tmp_path / "b", "--steps", 0)


def test_a_clip_too_loud_for_a_file_is_turned_down(fake, tmp_path):
    loud = fake.generate
    fake.generate = lambda **given: 4 * loud(**given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "samples beyond full scale were clipped"
        assert run("generate", "--classes", "rain", "-o", tmp_path).exit_code == 0
    wave, _ = read_wave(tmp_path / "rain/rain_000.wav")
    expected = np.random.default_rng([len("This is a sound of rain."), 0, 0]).uniform(-0.5, 0.5, RATE)
    assert np.abs(wave).max() == pytest.approx(0.99, abs=1e-4)
    np.testing.assert_allclose(wave[0], 0.99 * expected / np.abs(expected).max(), atol=1e-4)
    quiet = np.array([0.5, -1.0])
    assert within_full_scale(quiet) is quiet  # what fits stays as it is


def test_a_peak_that_is_cut_off_turns_nothing_down(fake, tmp_path):
    """What counts is whether the clip that is written fits."""
    plain = fake.generate

    def with_a_click(**given):
        waves = plain(**given)
        waves[:, -1] = 20.0
        return waves

    fake.generate = with_a_click
    assert run("generate", "--classes", "rain", "-o", tmp_path, "--seconds", 0.5).exit_code == 0
    wave, _ = read_wave(tmp_path / "rain/rain_000.wav")
    expected = np.random.default_rng([len("This is a sound of rain."), 0, 0]).uniform(-0.5, 0.5, RATE)
    np.testing.assert_allclose(wave[0], expected[: RATE // 2], atol=1e-4)


def test_clips_can_be_finished_for_a_mix(fake, tmp_path):
    """Cut, faded and at one loudness, as the record says; a run with other wishes does not go on with them."""
    command = ("generate", "--classes", "rain", "-n", 2, "-o", tmp_path)
    result = run(*command, "--seconds", 0.8, "--lufs", -30, "--fade", 10)
    assert "2 clips of 0.80 s" in result.output
    wave, sr = read_wave(tmp_path / "rain/rain_001.wav")
    assert wave.shape == (1, round(0.8 * RATE))
    assert loudness(wave, sr) == pytest.approx(-30, abs=0.1)
    plain = np.random.default_rng([len("This is a sound of rain."), 0, 1]).uniform(-0.5, 0.5, RATE)
    middle = slice(RATE // 4, RATE // 2)
    gain = wave[0, middle] @ plain[middle] / (plain[middle] @ plain[middle])
    np.testing.assert_allclose(wave[0, middle], gain * plain[middle], atol=1e-4)
    assert wave[0, 0] == wave[0, -1] == 0
    assert np.abs(wave[0, :40]).max() < 0.2 * np.abs(wave[0, middle]).max()
    record = json.loads((tmp_path / "generation.json").read_text())
    assert record["seconds"] == 0.8
    assert {"seconds": 0.8, "lufs": -30.0, "fade": 10.0}.items() <= record["settings"].items()
    assert "--overwrite" in refused(*command)
    assert "2 of them made before" in run(*command, "--seconds", 0.8, "--lufs", -30, "--fade", 10).output


def test_a_loop_goes_on_where_it_ends(fake, tmp_path):
    """Round after round: the end is followed by what followed it in the clip, which is then blended over."""
    result = run("generate", "--classes", "rain", "-o", tmp_path, "--seconds", 0.5, "--loop", 100)
    assert "1 clip of 0.50 s" in result.output
    wave, sr = read_wave(tmp_path / "rain/rain_000.wav")
    plain = np.random.default_rng([len("This is a sound of rain."), 0, 0]).uniform(-0.5, 0.5, RATE)
    assert wave.shape == (1, RATE // 2) and sr == RATE
    n, blend = RATE // 2, RATE // 10
    np.testing.assert_allclose(wave[0, blend:], plain[blend:n], atol=1e-4)  # untouched beyond the blend
    assert wave[0, 0] == pytest.approx(plain[n], abs=1e-4)
    # independent noise keeps its power in the middle of the blend
    middle = slice(blend // 3, 2 * blend // 3)
    assert wave[0, middle].std() == pytest.approx(plain.std(), rel=0.1)
    record = json.loads((tmp_path / "generation.json").read_text())
    assert (record["seconds"], record["settings"]["loop"]) == (0.5, 100.0)


def test_a_loop_without_a_length_is_shorter_by_its_blend(fake, tmp_path):
    assert "of 0.75 s" in run("generate", "--classes", "rain", "-o", tmp_path, "--loop", 250).output
    assert read_wave(tmp_path / "rain/rain_000.wav")[0].shape == (1, RATE * 3 // 4)


def test_clips_can_have_another_rate(fake, tmp_path):
    out = run("generate", "--classes", "rain", "-o", tmp_path, "--sampling-rate", 48_000, "--seconds", 0.5)
    assert out.exit_code == 0, out.output
    wave, sr = read_wave(tmp_path / "rain/rain_000.wav")
    assert (sr, wave.shape) == (48_000, (1, 24_000))
    plain = np.random.default_rng([len("This is a sound of rain."), 0, 0]).uniform(-0.5, 0.5, RATE)
    assert np.corrcoef(wave[0, ::3], plain[: RATE // 2])[0, 1] > 0.98
    spectrum = np.abs(np.fft.rfft(wave[0]))
    assert spectrum[5000:].max() < 1e-2 * spectrum[:3500].max()  # nothing above 10 kHz
    assert json.loads((tmp_path / "generation.json").read_text())["sampling_rate"] == 48_000


def test_a_loop_stays_seamless_at_another_rate():
    """Whole periods of a sine: resampled as one round among others, it has no start and no end."""
    t = np.arange(RATE) / RATE
    wave = np.sin(2 * np.pi * 400 * t).astype(np.float32)
    looped = Finish(loop=100, sampling_rate=44_100)(wave, RATE)
    assert len(looped) == round(0.9 * 44_100)
    twice = np.concatenate([looped, looped])
    seam = np.abs(np.diff(twice, 3))[len(looped) - 10 : len(looped) + 10].max()
    # elsewhere than in the blend, where two equal halves add up
    assert seam < 1.5 * np.abs(np.diff(looped[10_000:], 3)).max()
    alone = Finish(sampling_rate=44_100)(wave[: len(wave) * 9 // 10], RATE)
    assert len(alone) == len(looped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loop", -1), "--loop -1: give milliseconds"),
        (("--loop", 600), "--loop 600: blends longer than half of a clip of 1 s"),
        (("--loop", 5000), "--loop 5000: blends longer than half of a clip of 1 s"),
        (("--loop", 400, "--seconds", 0.3), "--loop 400: blends longer than a round of 0.3 s"),
        (
            ("--loop", 300, "--seconds", 0.8),
            "--seconds 0.8: the model's clips have 1 s, of which --loop 300 takes 0.3 s",
        ),
        (("--loop", 50, "--fade", 5), "--fade and --loop"),
        (("--loop", 50, "--format", "mp3"), "loops are wav, flac or ogg"),
        (("--sampling-rate", 100), "--sampling-rate 100: give 8000 to 192000 Hz"),
        (("--sampling-rate", 96000, "--format", "mp3"), "mp3 knows 8000, 11025"),
        (("--sampling-rate", 44100, "--format", "opus"), "opus knows 8000, 12000"),
        (("--seconds", 0), "--seconds 0: give a length above 0"),
        (("--seconds", 2), "--seconds 2: the model's clips have 1 s"),
        (("--lufs", 3), "--lufs 3: it lies between -70 and 0"),
        (("--lufs", "nan"), "--lufs nan"),
        (("--fade", -1), "--fade -1: give milliseconds"),
        (("--fade", 600), "--fade 600: two fades of it are longer than a clip of 1 s"),
    ],
)
def test_a_finish_that_no_clip_can_have_is_refused(fake, tmp_path, options, message):
    assert message in refused("generate", "--classes", "rain", "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats_without_a_gap_take_loops_and_any_rate(suffix):
    check_format(suffix, Finish(loop=50, sampling_rate=44_100))


def test_a_peak_below_zero_is_a_peak():
    np.testing.assert_allclose(within_full_scale(np.array([0.5, -2.0])), [0.5 * 0.495, -0.99])


def test_only_a_clip_s_own_spelling_is_a_clip(tmp_path):
    """Others' files are neither kept nor counted: rain_7 and rain_0007 are not rain_007."""
    names = ("rain_007", "rain_7", "rain_0007", "rain_1000", "rain_x", "rain_+07")
    for name in names:
        write_wave(tmp_path / "rain" / f"{name}.wav", np.zeros(8), RATE)
    found = _clips_in(tmp_path, {"prompts": {"rain": "This is a sound of rain."}, "format": "wav"})
    assert sorted(path.stem for path in found) == ["rain_007", "rain_1000"]


def test_clips_between_those_that_are_there_are_made_alone():
    """Clips 2 and 5 of eight are kept: no batch goes across them, and none has more than three."""
    files = [Path(f"{i}.wav") for i in range(8)]
    batches = [
        (first, [int(p.stem) for p in paths]) for first, paths in _batches(files, {files[2], files[5]}, 3)
    ]
    assert batches == [(0, [0, 1]), (3, [3, 4]), (6, [6, 7])]
    assert [len(paths) for _, paths in _batches(files, set(), 3)] == [3, 3, 2]
    # the last that is missing lies before some that are there
    assert list(_batches(files, set(files[:4] + files[5:]), 3)) == [(4, files[4:5])]


def test_generate_with_mini(tmp_path):
    from latentclap.storage import shipped

    if not (shipped("mini") / "unet").is_dir():
        pytest.skip("the mini weights have not been made yet (data_scripts/pretrain_mini.py)")
    result = run("generate", "--classes", "rain", "--steps", 2, "--device", "cpu", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    wave, sr = read_wave(tmp_path / "rain/rain_000.wav")
    assert (sr, wave.shape[0]) == (RATE, 1)
    told = json.loads(run("info", "mini", "--json").output)
    assert told["kind"] == "system"
    assert told["parameters"] > 1_000_000
    assert "trained on" in told["model_card"]


def test_main_prints_one_line_and_exits_2(monkeypatch, capsys, tmp_path):
    code, err = run_main(monkeypatch, capsys, "info", tmp_path / "absent")
    assert code == 2
    assert err.startswith("error: no system at")
    assert err.count("\n") == 1


def test_main_names_the_file_of_a_system_error(monkeypatch, capsys, tmp_path, fake):
    def broken(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr(FakeSystem, "generate", broken)
    code, err = run_main(monkeypatch, capsys, "generate", "--classes", "rain", "-o", tmp_path / "o", "-q")
    assert (code, err) == (2, f"error: {tmp_path / 'x'}: Permission denied\n")


def test_main_explains_a_full_gpu(monkeypatch, capsys, tmp_path, fake):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(FakeSystem, "generate", full)
    code, err = run_main(monkeypatch, capsys, "generate", "--classes", "rain", "-o", tmp_path / "o", "-q")
    assert code == 2
    assert "smaller --batch-size" in err


def test_debug_gives_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTCLAP_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["latentclap", "info", str(tmp_path / "absent")])
    with pytest.raises(InputError):
        cli.main()


def test_a_bug_is_not_hidden(monkeypatch, tmp_path, fake):
    def bug(*_, **__):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(FakeSystem, "generate", bug)
    monkeypatch.setattr(
        sys, "argv", ["latentclap", "generate", "--classes", "rain", "-o", str(tmp_path / "o")]
    )
    with pytest.raises(RuntimeError, match="a bug of ours"):
        cli.main()


def test_the_list_of_commands_has_whole_sentences():
    commands = run("--help").output.partition("Commands:")[2].strip().splitlines()
    assert len(commands) == len(cli.app.registered_commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


def test_help_and_version_do_not_import_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from latentclap.cli import app\n"
        "for args in (['--help'], ['generate', '--help'], ['--version']):\n"
        "    result = CliRunner().invoke(app, args)\n"
        "    assert result.exit_code == 0, result.output\n"
        "    print(result.output)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pandas', 'librosa'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    for word in ("generate", "evaluate", "info", "--guidance-scale", "latentclap "):
        assert word in done.stdout


@pytest.mark.parametrize(
    "what",
    [
        "get.py",
        "pack_shards.py",
        "cache_latents.py",
        "example_sounds.py",
        "latentclap.launch",
        "latentclap.train",
    ],
)
def test_help_of_what_users_call_does_not_import_torch(what):
    """It took seconds before the first word."""
    script = Path(__file__).parents[1] / "data_scripts" / what
    run_it = f"run_path({str(script)!r}" if what.endswith(".py") else f"run_module({what!r}"
    code = (
        f"import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try:\n    runpy.{run_it}, run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pandas', 'librosa'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_generated_nan_is_an_error(tmp_path, fake, monkeypatch, value):
    monkeypatch.setattr(FakeSystem, "generate", lambda *_, n, **__: np.full((n, RATE), value, np.float32))
    message = refused("generate", "--classes", "rain", "-o", tmp_path / "o")
    assert "generated NaN" in message
    assert not (tmp_path / "o").exists()


def test_evaluate_looks_at_its_options_first(tmp_path):
    (tmp_path / "file").write_text("")
    for option, value, says in [
        ("--seconds", "nan", "--seconds nan: give a time of at least 0.001 s"),
        ("--seconds", "0", "give a time of at least 0.001 s"),
        ("--seconds", "0.00001", "--seconds 1e-05: give a time of at least 0.001 s"),
        ("--model", "nosuch", "--model nosuch: mel-statistics embeds without a system; say --embedding clap"),
    ]:
        assert says in refused("evaluate", tmp_path, tmp_path, option, value)
    result = run("evaluate", tmp_path, tmp_path, "--json", tmp_path / "file/fad.json")
    assert isinstance(result.exception, NotADirectoryError)
