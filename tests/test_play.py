"""`latentclap play`: a server with a real model, asked over real HTTP."""

import errno
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from latentclap import cli
from latentclap.audio import write_wave
from latentclap.checkpoints import Sampling, own_sampling, shipped
from latentclap.errors import InputError, run_app
from latentclap.files import read_json
from latentclap.finish import Finish
from latentclap.foley import synthesize
from latentclap.lora import ADAPTER, add_adapters, save_adapter, take_adapters
from latentclap.play.command import card, is_shipped
from latentclap.play.given import given, safe_name
from latentclap.play.guard import byte_range, is_foreign, is_ours
from latentclap.play.jobs import Job
from latentclap.play.maker import Maker
from latentclap.play.server import PAGE, Handler, Server
from latentclap.play.shelf import Item, Shelf
from latentclap.play.wish import LABELS, read_json_object, read_wish
from latentclap.system import FoleySystem
from playing import ask, done, make, playing

FAST = {"steps": 2, "sampler": "ddim"}
OWN = Sampling("dpmsolver++", 12, 5.0)


@pytest.fixture(scope="module")
def maker(tiny_family):
    return Maker.load(str(tiny_family), None, "cpu")


@pytest.fixture(scope="module")
def page(maker, tmp_path_factory):
    with playing(maker, tmp_path_factory.mktemp("play")) as served:
        yield served


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "step 1.wav"
    write_wave(path, 0.5 * synthesize("footstep", 1, sr=22_050, split="eval").wave[:20_000], 22_050)
    return path


def by_command(command, folder):
    """The one file that a command of the page makes, in a folder of its own."""
    words = shlex.split(command)
    assert words[0] == "latentclap" and words[-2] == "-o"
    out = folder / words[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran = CliRunner().invoke(cli.app, [*words[1:], "-q"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    (file,) = [path for path in out.rglob("*.wav") if "listen" not in path.parts]
    return file.read_bytes()


def download(served, clip):
    status, headers, content = ask(served.url, "GET", clip["sound"])
    assert (status, headers["Content-Type"]) == (200, "audio/wav")
    return content


# --- clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wish",
    [
        {"class": "rain", "n": 2, "seed": 7},
        {"prompt": 'It\'s  a "small" dog; $HOME', "seed": 2**40},
        {"prompt": "--quiet rain", "guidance_scale": 1.25},
        {"class": "dog_bark", "seconds": 0.2, "fade": 2.5, "lufs": -30, "sampling_rate": 22_050},
        {"class": "rain", "loop": 100, "sampler": "unipc", "steps": 3, "guidance_scale": 0},
    ],
)
def test_a_clip_is_what_its_command_makes_bit_by_bit(page, tmp_path, wish):
    clips = make(page.url, **FAST | wish)
    assert [clip["seed"] for clip in clips] == [wish.get("seed", 0) + i for i in range(wish.get("n", 1))]
    for number, clip in enumerate(clips):
        place = tmp_path / str(number)
        place.mkdir()
        assert download(page, clip) == by_command(clip["command"], place), clip["command"]
        assert clip["loop"] == ("loop" in wish)


def test_a_command_says_no_more_than_it_has_to(maker, page):
    (clip,) = make(page.url, **{"class": "rain", "seed": 9, "steps": 2})
    own = maker.own
    least = "latentclap generate --classes rain --seed 9 --steps 2 --model"
    assert clip["command"] == f"{least} {shlex.quote(maker.model)} --device cpu -o rain_9"
    wish = read_wish({"class": "rain"}, own, 1000, 4.0)
    shipped = Maker("mini", maker.system, own)
    assert shipped.command(wish, 5, "x") == "latentclap generate --classes rain --seed 5 -o x"
    wish = read_wish({"class": "rain", "sampler": "ddim"}, OWN, 1000, 4.0)
    assert wish.sampling.steps == 200  # those of the model are of its own sampler
    assert "--sampler ddim -o" in Maker("mini", maker.system, OWN).command(wish, 5, "x")


def test_takes_of_a_clip_and_of_a_sound_are_what_vary_makes(page, tmp_path, step):
    (clip,) = make(page.url, **FAST, **{"class": "rain", "seed": 3})
    status, _, told = ask(
        page.url,
        "POST",
        "/api/sound?name=step%201.wav",
        step.read_bytes(),
        {"Content-Type": "application/octet-stream"},
    )
    assert status == 200
    sound = ask(page.url, "GET", "/api/clips")[2]["clips"][0]
    assert (sound["id"], sound["kind"], sound["title"]) == (told["id"], "sound", "step 1.wav")
    heard, sr = soundfile.read(io.BytesIO(download(page, sound)))
    assert sr == 16_000 and len(heard) == min(round(20_000 / 22_050 * sr), page.session.maker.system.samples)
    (tmp_path / clip["file"]).write_bytes(download(page, clip))
    (tmp_path / "step 1.wav").write_bytes(step.read_bytes())
    for wish in (
        {"sound": clip["id"], "seed": 13, "seconds": 0.1, "loop": 20},
        {"sound": clip["id"], "strength": 0.35, "seed": 11},
        {"sound": sound["id"], "seed": 12, "prompt": "This is a sound of rain.", "fade": 1},
    ):
        (take,) = make(page.url, **FAST | wish)
        assert take["kind"] == "take" and take["command"].startswith("latentclap vary ")
        assert download(page, take) == by_command(take["command"], tmp_path), take["command"]
    (again,) = make(page.url, **FAST, sound=take["id"], seed=1)  # a take of a take
    assert again["title"] == f"take of {take['file'].removesuffix('.wav')}"


def test_adapters_are_played_too(tiny_family, tmp_path):
    system = FoleySystem.from_pretrained(tiny_family)
    unet = add_adapters(system.unet, 2)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".lora_B." in name:
                weight.fill_(0.1)
    save_adapter(
        tmp_path / "my adapters" / ADAPTER, take_adapters(unet), FoleySystem.from_pretrained(tiny_family)
    )
    maker = Maker.load(str(tiny_family), tmp_path / "my adapters", "auto")
    with playing(maker, tmp_path / "play", tmp_path / "out") as served:
        (clip,) = make(served.url, **FAST, **{"class": "rain"})
        assert (
            "--device" not in clip["command"]
            and "my adapters" in ask(served.url, "GET", "/api/about")[2]["model"]
        )
        assert download(served, clip) == by_command(clip["command"], tmp_path)
    (told,) = read_json(tmp_path / "out/generation.json")["clips"]
    assert told["settings"]["lora"]["file"] == ADAPTER


def test_the_page_sees_how_far_a_job_is_and_can_stop_it(page):
    before = len(ask(page.url, "GET", "/api/clips")[2]["clips"])
    wish = {"class": "keyboard", "n": 50, "steps": 60, "sampler": "ddim", "seed": 1000}
    state = ask(page.url, "POST", "/api/make", wish)[2]
    assert state["job"]["clips"] == 50 and state["job"]["steps"] == 60
    seen = set()
    while len(seen) < 4:
        job = ask(page.url, "GET", "/api/state")[2]["job"]
        seen.add((job["clip"], job["step"]))
    assert all(step <= 60 for _, step in seen)
    status, _, told = ask(page.url, "POST", "/api/make", {"class": "rain"})
    assert status == 409 and told["error"].startswith("busy with other clips")
    assert ask(page.url, "POST", "/api/stop", {})[2]["job"]["stopping"]
    state = done(page.url, 20)
    assert not state["error"]
    made = len(ask(page.url, "GET", "/api/clips")[2]["clips"]) - before
    assert made < 50
    assert ask(page.url, "POST", "/api/stop", {})[0] == 200  # nothing to stop is no mistake
    make(page.url, **FAST, **{"class": "rain"})


def test_what_is_left_of_a_job_is_told(page, monkeypatch):
    job = Job(read_wish({"class": "rain", "n": 3}, OWN, 1000, 4.0), None, calls=12)
    clock = [100.0]
    monkeypatch.setattr("latentclap.play.jobs.time.monotonic", lambda: clock[0])
    job.count()
    job.count()
    assert job.left() is None  # one call is over: that tells little
    job.count()
    clock[0] += 4
    assert job.left() == pytest.approx(4 / 2 * 34)
    job.done, job.step = 2, 0
    clock[0] += 20  # decoding takes its time too
    assert job.left() == pytest.approx(24 / 24 * 12)
    assert set(job.page()) >= {"clip", "clips", "step", "steps", "left"}


def test_a_sound_that_takes_are_made_of_stays_until_they_are_made(page):
    (clip,) = make(page.url, **FAST, **{"class": "rain", "seed": 31})
    wish = {"sound": clip["id"], "n": 50, "steps": 200, "sampler": "ddim"}
    assert ask(page.url, "POST", "/api/make", wish)[0] == 200
    status, _, told = ask(page.url, "POST", "/api/remove", {"id": clip["id"]})
    assert status == 400 and told["error"].startswith("takes of it are being made")
    ask(page.url, "POST", "/api/stop", {})
    done(page.url, 20)
    item = page.shelf.get(clip["id"])
    assert ask(page.url, "POST", "/api/remove", {"id": clip["id"]})[0] == 200
    assert not item.path.exists() and not item.picture.parent.exists()


def test_pictures_and_parts_of_a_clip(page):
    (clip,) = make(page.url, **FAST, **{"class": "rain", "seed": 21})
    status, headers, content = ask(page.url, "GET", clip["picture"])
    assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", b"\x89PNG")
    whole = download(page, clip)
    status, headers, part = ask(page.url, "GET", clip["sound"], headers={"Range": "bytes=100-199"})
    assert (status, part) == (206, whole[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    for asked in ("bytes=0-", f"bytes=0-{len(whole) - 1}"):  # Safari plays nothing where this is no part
        status, headers, part = ask(page.url, "GET", clip["sound"], headers={"Range": asked})
        assert (status, part) == (206, whole)
        assert headers["Content-Range"] == f"bytes 0-{len(whole) - 1}/{len(whole)}"
    assert ask(page.url, "GET", clip["sound"], headers={"Range": "bytes=nonsense"})[0] == 200
    assert ask(page.url, "GET", clip["sound"], headers={"Range": f"bytes={len(whole)}-"})[0] == 416
    status, headers, content = ask(page.url, "HEAD", clip["sound"])
    assert (status, headers["Content-Length"], content) == (200, str(len(whole)), b"")


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("", (0, 10)), ("bytes=0-", (0, 10)), ("bytes=2-4", (2, 5)), ("bytes=2-400", (2, 10)), ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)), ("bytes=-0", None), ("bytes=10-", None), ("bytes=4-2", None), ("bytes=-", (0, 10)),
        ("bytes=0-1,3-4", (0, 10)), ("pages=1-2", (0, 10)),
    ],
)  # fmt: skip
def test_ranges(asked, part):
    assert byte_range(asked, 10) == part


def test_a_model_that_fails_is_one_line_and_the_next_job_is_done(page, monkeypatch, capsys):
    make_one = type(page.session.maker).make
    for error, says in (
        (InputError("--steps 2: no"), "Steps 2: no"),
        (RuntimeError("cuDNN error\nmany lines"), "RuntimeError: cuDNN error (the terminal says more)"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(type(page.session.maker), "make", fails)
        assert ask(page.url, "POST", "/api/make", {"class": "rain"})[0] == 200
        assert done(page.url)["error"] == says
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(type(page.session.maker), "make", make_one)
    make(page.url, **FAST, **{"class": "rain"})


def test_a_warning_is_a_note(page):
    make(page.url, **{"class": "rain", "steps": 1, "sampler": "ddim"})
    assert "noise comes out" in ask(page.url, "GET", "/api/state")[2]["note"]
    make(page.url, **FAST, **{"class": "rain"})
    assert not ask(page.url, "GET", "/api/state")[2]["note"]


# --- the folder ---------------------------------------------------------------------------------------------


def test_clips_are_saved_with_their_record_and_removed(maker, tmp_path):
    out = tmp_path / "out"
    with playing(maker, tmp_path / "a", out) as served:
        clips = make(served.url, **FAST, **{"class": "rain", "n": 2, "seed": 5})
        (same,) = make(served.url, **FAST, **{"class": "rain", "seed": 5})
        assert not (out / "listen").exists()
        make(served.url, **FAST, sound=clips[0]["id"], seed=8)
        files = ["rain/rain_5.wav", "rain/rain_6.wav", "rain/rain_5-2.wav", "rain/rain_5_take_8.wav"]
        record = read_json(out / "generation.json")
        assert [clip["file"] for clip in record["clips"]] == files
        assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == sorted(
            [*files, "generation.json"]
        )
        assert (out / files[0]).read_bytes() == (out / files[2]).read_bytes() == download(served, clips[0])
        assert record["clips"][0]["settings"]["seed"] == 5 and record["clips"][3]["sound"] == "rain_5.wav"
        assert record["calls"][0]["clips"] == files and record["calls"][0]["versions"]["torch"]
        assert ask(served.url, "POST", "/api/remove", {"id": same["id"]})[0] == 200
        assert ask(served.url, "GET", same["sound"])[0] == 404
        assert ask(served.url, "POST", "/api/remove", {"id": same["id"]})[2]["error"].startswith(
            "there is no"
        )
        assert not (out / files[2]).exists()
    with playing(maker, tmp_path / "b", out) as served:  # another session goes on in the same folder
        make(served.url, **FAST, **{"class": "rain", "seed": 6})
        assert [clip["file"] for clip in read_json(out / "generation.json")["clips"]] == [
            *files[:2], files[3], "rain/rain_6-2.wav",
        ]  # fmt: skip
    ran = CliRunner().invoke(
        cli.app, ["generate", "--classes", "rain", "-o", str(out), "--model", maker.model]
    )
    assert "would be replaced" in str(ran.exception)


def test_starred_clips_come_as_a_zip_with_their_record(maker, tmp_path):
    for out in (None, tmp_path / "out"):
        with playing(maker, tmp_path / f"play-{bool(out)}", out) as served:
            status, _, told = ask(served.url, "GET", "/starred.zip")
            assert status == 400 and told["error"].startswith("no clip is starred")
            one, two = make(served.url, **FAST, **{"class": "rain", "n": 2, "seed": 5})
            (three,) = make(served.url, **FAST, prompt="a small dog", seed=1)
            for clip in (three, one):
                assert ask(served.url, "POST", "/api/star", {"id": clip["id"], "starred": True})[0] == 200
            starred = {
                clip["id"]: clip["starred"] for clip in ask(served.url, "GET", "/api/clips")[2]["clips"]
            }
            assert starred == {one["id"]: True, two["id"]: False, three["id"]: True}
            if out:
                marks = [clip.get("starred") for clip in read_json(out / "generation.json")["clips"]]
                assert marks == [True, None, True]
            status, headers, content = ask(served.url, "GET", "/starred.zip")
            assert (status, headers["Content-Type"]) == (200, "application/zip")
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                files = ["rain/rain_5.wav", "a_small_dog/a_small_dog_1.wav"]
                assert packed.namelist() == [*files, "generation.json"] and packed.testzip() is None
                assert packed.read(files[0]) == download(served, one)
                record = json.loads(packed.read("generation.json"))
            assert [clip["file"] for clip in record["clips"]] == files
            assert record["clips"][1]["command"] == three["command"]
            assert record["calls"][0]["clips"] == files and record["calls"][0]["versions"]["torch"]
            Path(served.shelf.get(one["id"]).path).unlink()  # by hand
            os.utime(served.shelf.get(three["id"]).path, (0, 0))  # a year that no zip knows
            with zipfile.ZipFile(io.BytesIO(ask(served.url, "GET", "/starred.zip")[2])) as packed:
                assert packed.namelist() == [files[1], "generation.json"]
            ask(served.url, "POST", "/api/star", {"id": three["id"], "starred": False})
            assert ask(served.url, "GET", "/starred.zip")[0] == 400


@pytest.mark.parametrize(
    "told", [{"id": 1}, {"id": "1", "starred": True}, {"id": 10**6, "starred": True}, {}]
)
def test_a_star_of_nothing_is_one_line(page, told):
    status, _, said = ask(page.url, "POST", "/api/star", told)
    assert status == 400 and "\n" not in said["error"]


def test_the_command_of_a_take_names_its_clip_where_it_stays(maker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with playing(maker, tmp_path / "play", Path("my clips")) as served:
        (clip,) = make(served.url, **FAST, **{"class": "rain", "seed": 3})
        (take,) = make(served.url, **FAST, sound=clip["id"], seed=4)
        assert take["command"].startswith("latentclap vary 'my clips/rain/rain_3.wav' -n 1")
        assert download(served, take) == by_command(take["command"], tmp_path)


def test_two_pages_write_into_one_folder(maker, tmp_path):
    """Each of the two reads the record and writes it: no clip of the other one is lost."""
    out, shelves = tmp_path / "out", []
    (tmp_path / "made.wav").write_bytes(b"a sound")

    def work(shelf, root):
        for seed in range(15):
            path = shelf.put(tmp_path / "made.wav", "rain", "rain", seed)
            picture = shelf.place("picture") / "p.png"
            shelf.add(
                Item(
                    shelf.number(),
                    "clip",
                    root,
                    path.name,
                    path,
                    picture,
                    "rain",
                    root,
                    path,
                    {},
                    {"seed": seed},
                )
            )

    for name in "ab":
        shelves.append(Shelf(tmp_path / name, out))
    threads = [threading.Thread(target=work, args=(shelf, "rain")) for shelf in shelves]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    files = [clip["file"] for clip in read_json(out / "generation.json")["clips"]]
    assert len(files) == len(set(files)) == 30 and all((out / file).is_file() for file in files)


def test_a_full_disk_names_the_clip(maker, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a copy")

    shelf = Shelf(tmp_path / "play", tmp_path / "out")
    monkeypatch.setattr("latentclap.play.shelf.shutil.copyfile", full)
    with pytest.raises(OSError, match="make room") as caught:
        shelf.put(tmp_path / "made.wav", "rain", "rain", 7)
    assert caught.value.filename == str(tmp_path / "out/rain/rain_7.wav")
    assert not (tmp_path / "out").exists()


def test_a_sound_that_cannot_be_kept_leaves_nothing(maker, tmp_path, monkeypatch, step):
    shelf = Shelf(tmp_path, None)
    monkeypatch.setattr(
        Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        given("step.wav", b"x", shelf, maker.system)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_command_is_refused(tmp_path):
    (tmp_path / "generation.json").write_text('{"clips": []}')
    with pytest.raises(InputError, match="holds clips of another command"):
        Shelf(tmp_path / "x", tmp_path)
    (tmp_path / "generation.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Shelf(tmp_path / "x", tmp_path)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({}, "ask for a class, for words, or for takes of a sound"),
        ({"class": "rain", "prompt": "rain"}, "one of the three"),
        ({"class": "cat"}, "Class: give one of dog_bark"),
        ({"class": ["rain"]}, "Class: give one of"),
        ({"prompt": " ?! "}, "Words: say what is to be heard"),
        ({"prompt": 3}, "Words: give a text, not 3"),
        ({"prompt": "a" * 501}, "Words: give at most 500 letters"),
        ({"prompt": "a\x00b"}, "without control characters"),
        ({"class": "rain", "stepz": 3}, "unknown field 'stepz'; there are class, prompt"),
        ({"class": "rain", "n": 0}, "Clips: give a whole number from 1 to 100, not 0"),
        ({"class": "rain", "n": True}, "Clips: give a whole number from 1 to 100, not true"),
        ({"class": "rain", "n": "3"}, 'Clips: give a whole number from 1 to 100, not "3"'),
        ({"class": "rain", "n": 1.5}, "Clips: give a whole number"),
        ({"class": "rain", "seed": -1}, "Seed: give a whole number from 0"),
        ({"class": "rain", "seed": 2**53}, "Seed: give a whole number from 0"),
        ({"class": "rain", "steps": 1001}, "Steps: give a whole number from 1 to 1000"),
        ({"class": "rain", "guidance_scale": -1}, "Guidance: give a number from 0 to 1000, not -1"),
        ({"class": "rain", "sampler": "euler"}, "Sampler: give one of ddim"),
        ({"class": "rain", "seconds": 9}, "Length 9: the model's clips have 4 s"),
        ({"class": "rain", "loop": 3000}, "Loop 3000: blends longer than half of a clip"),
        ({"class": "rain", "loop": 10, "fade": 10}, "Fade and Loop: a loop that falls silent"),
        ({"class": "rain", "lufs": 5}, "Loudness 5: it lies between -70 and 0"),
        ({"class": "rain", "sampling_rate": 10}, "Sampling rate 10: give 8000 to 192000 Hz"),
        ({"class": "rain", "strength": 0.5}, "Strength is of takes of a sound"),
        ({"sound": 1, "strength": 0}, "Strength: give a number above 0"),
        ({"sound": 1, "strength": 1.1}, "Strength: give a number from 0 to 1"),
        ({"sound": 0}, "Sound: give a whole number"),
        ({"sound": 1, "class": "rain"}, "one of the three"),
    ],
)
def test_a_wrong_wish_is_one_line(wish, says):
    with pytest.raises(InputError) as caught:
        read_wish(wish, OWN, 1000, 4.0)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_wish_has_the_model_s_defaults():
    wish = read_wish({"class": "rain", "n": None, "guidance_scale": 5, "lufs": None}, OWN, 1000, 4.0)
    assert (wish.n, wish.seed, wish.sampling, wish.finish) == (1, 0, OWN, Finish())
    assert set(Finish.__dataclass_fields__) < set(LABELS)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"3", b'{"n": NaN}', b"\xff\xfe{}", b"[" * 10_000, b'{"n": ' + b"9" * 9000 + b"}"],
)
def test_what_is_no_json_object(page, body):
    with pytest.raises(InputError):
        read_json_object(body)
    status, _, told = ask(page.url, "POST", "/api/make", body, {"Content-Type": "application/json"})
    assert status == 400 and set(told) == {"error"}


@pytest.mark.parametrize(
    "path",
    [
        "/..", "/../../etc/passwd", "/clips/../page.html", "/clips/%2e%2e/1.wav", "//etc/passwd", "/clips/1.wav/",
        "/clips/.wav", "/clips/99999999.wav", "/clips/1.py", "/page.html", "/play.py", "/clips/", "/api", "/api/make",
    ],
)  # fmt: skip
def test_only_known_paths_are_served(page, path):
    status, headers, told = ask(page.url, "GET", path)
    assert status == 404 and headers["X-Content-Type-Options"] == "nosniff"
    assert told["error"].startswith("there is no")


def test_the_page_asks_no_other_machine(page):
    for path in PAGE:
        status, headers, content = ask(page.url, "GET", path)
        assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert not re.search(rb"(?:src|href)=[\"']?(?:https?:)?//|url\(|@import", content), path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),  # DNS rebinding
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "192.168.0.1"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),  # through a tunnel
    ],
)
def test_other_sites_may_not_ask(page, headers, status):
    headers = {k: v.format(port=page.server.server_port) for k, v in headers.items()}
    for method, path, body in (("GET", "/api/clips", None), ("POST", "/api/stop", {})):
        got, _, told = ask(page.url, method, path, body, headers)
        assert got == status, (method, told)


def test_a_link_may_lead_to_the_page():
    assert not is_foreign("127.0.0.1:1", None, "cross-site", linked=True)
    assert is_foreign("127.0.0.1:1", None, "cross-site", linked=False)
    assert is_ours("10.0.0.7:80", "0.0.0.0", loopback=False) and not is_ours("a.example", "0.0.0.0", False)
    assert is_ours(socket.gethostname(), "0.0.0.0", loopback=False)


def test_requests_of_other_kinds_and_sizes(page):
    url = page.url
    assert (
        ask(url, "POST", "/api/make", b"{}", {"Content-Type": "text/plain"})[0] == 415
    )  # what a form may send
    assert ask(url, "POST", "/api/make", b"{}")[0] == 415
    assert ask(url, "POST", "/api/sound?name=a.wav", b"x", {"Content-Type": "text/plain"})[0] == 415
    assert ask(url, "POST", "/api/make", b" " * 20_000, {"Content-Type": "application/json"})[0] == 413
    huge = {"Content-Type": "application/octet-stream", "Content-Length": str(10**10)}
    assert ask(url, "POST", "/api/sound?name=a.wav", b"", huge)[0] == 413
    chunked = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", "Content-Length": "2"}
    assert ask(url, "POST", "/api/make", b"{}", chunked)[0] == 411
    assert ask(url, "POST", "/api/nothing", {})[0] == 404
    assert ask(url, "POST", "/", {})[0] == 404
    assert ask(url, "POST", "/api/remove", {"id": "1"})[0] == 400
    assert ask(url, "POST", "/api/make", {"sound": 10**6})[2]["error"].startswith("Sound: it is not there")
    assert ask(url, "PUT", "/api/make", b"{}")[0] == 501


def test_a_request_that_stops_coming_says_nothing_in_the_terminal(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    with playing(maker, tmp_path) as served:
        for path, kind in (
            ("/api/make", "json"),
            ("/api/nothing", "json"),
            ("/api/sound?name=a.wav", "octet-stream"),
        ):
            with socket.create_connection(("127.0.0.1", served.server.server_port)) as client:
                head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/{kind}\r\n"
                client.sendall(f"{head}Content-Length: 100\r\n\r\n{{}}".encode())
                client.settimeout(30)
                assert client.recv(100) == b""  # closed
        assert ask(served.url, "GET", "/api/state")[0] == 200
    assert not capsys.readouterr().err


def sounds(folder):
    """name -> content, and what is said of it."""

    def wav(name, wave, sr=16_000):
        soundfile.write(folder / name, wave, sr)
        return (folder / name).read_bytes()

    noise = np.random.default_rng(0).normal(size=8000) / 9
    return {
        "text": ("a.wav", b"no sound", "a.wav: no sound that can be read"),
        "empty": ("a.wav", b"", "no sound that can be read"),
        "cut": ("a.wav", wav("cut.wav", noise)[:30], "no sound that can be read"),
        "silent": ("a.wav", wav("silent.wav", np.zeros(8000)), "a.wav: silence has no variations"),
        "no samples": ("a.wav", wav("none.wav", np.zeros(0)), "a.wav"),
        # an hour of silence in a few kB
        "long": ("a.flac", wav("long.flac", np.zeros(16_000 * 301, np.int16)), "up to 8 channels and 5 minutes"),
        "channels": ("a.wav", wav("many.wav", np.tile(noise[:100, None], 9)), "up to 8 channels"),
        "rate": ("a.wav", wav("x.wav", noise)[:24] + (7).to_bytes(4, "little") + wav("x.wav", noise[:99])[28:],
                 "a.wav: "),
        "suffix": ("a.exe", wav("x.wav", noise), "a.exe: give a sound as one of .wav"),
        "no name": ("", wav("x.wav", noise), "give the sound's file a name"),
        "path": ("../../../etc/passwd", wav("x.wav", noise), "give the sound's file a name|give a sound as one of"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["text", "empty", "cut", "silent", "no samples", "long", "channels", "rate", "suffix", "no name", "path"],
)
def test_a_bad_sound_is_one_line(page, tmp_path, kind):
    name, content, says = sounds(tmp_path)[kind]
    status, _, told = ask(
        page.url,
        "POST",
        f"/api/sound?name={quote(name)}",
        content,
        {"Content-Type": "application/octet-stream"},
    )
    assert status == 400 and re.search(says, told["error"]), told
    assert str(page.shelf.folder) not in told["error"] and "\n" not in told["error"]


def test_names_of_sounds():
    assert safe_name("step 1.wav") == "step 1.wav"
    assert safe_name("C:\\a/b\x00.WAV") == "C:_a_b_.WAV"
    assert safe_name("--out.wav") == "out.wav"
    assert safe_name("../a.wav") == "_a.wav"
    assert safe_name("step\u202evaw.wav") == "step_vaw.wav"  # what turns the direction of writing
    assert len(safe_name("ä" * 500 + ".wav").encode()) <= 110


def test_a_model_without_ears_wants_words(maker, tmp_path):
    deaf = replace(maker, steered_not="it has no CLAP audio branch")
    with playing(deaf, tmp_path) as served:
        (clip,) = make(served.url, **FAST, **{"class": "rain"})
        status, _, told = ask(served.url, "POST", "/api/make", {"sound": clip["id"]})
        assert status == 400 and told["error"].startswith("Words: it has no CLAP audio branch")
        make(served.url, **FAST, sound=clip["id"], prompt="rain")


# --- the command --------------------------------------------------------------------------------------------


def refused(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["latentclap", "play", "--no-browser", *map(str, arguments)])
    status = run_app(cli.app)
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1, said
    return said


def test_wrong_options_are_one_line(capsys, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"error: --port {port}: in use" in refused(capsys, monkeypatch, "--port", port)
    assert "from 0 to 65535" in refused(capsys, monkeypatch, "--port", 65536)
    assert "no such address" in refused(capsys, monkeypatch, "--host", "no host")
    assert "error: --host 192.0.2.1: " in refused(capsys, monkeypatch, "--host", "192.0.2.1")
    assert "no system at" in refused(capsys, monkeypatch, "--model", "nope", "--port", 0)
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refused(capsys, monkeypatch, "--out", tmp_path / "file")


def test_the_port_is_told_before_the_model_is_read(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refused(capsys, monkeypatch, "--port", taken.getsockname()[1], "--model", "nope")


def test_while_the_model_is_loaded_the_page_says_so():
    server = Server("localhost", 0)
    with server.answering():
        assert ask(server.url, "GET", "/")[0] == 200
        assert ask(server.url, "GET", "/api/about")[2] == {"loading": True}
        assert ask(server.url, "GET", "/api/state")[0] == 503
        assert ask(server.url, "POST", "/api/make", {})[0] == 503


def test_the_card_s_hint(tmp_path):
    assert is_shipped("mini") and "Apache-2.0" in card("mini")
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# T\nA model of sounds.\n")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert not is_shipped(str(tmp_path))
    assert card(str(tmp_path)) == "A model of sounds. Licence: cc-by-nc-sa-4.0."
    (tmp_path / "README.md").unlink()
    assert card(str(tmp_path)) == "It has no model card: its licence is not told."


ENTRY = "import sys; sys.argv[0] = 'latentclap'; from latentclap.cli import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_midst_of_a_clip_leaves_cleanly(tiny_family, tmp_path, number):
    """The real command, in a process of its own; its port is free for the next one at once."""
    (tmp_path / "tmp").mkdir()
    words = ["play", "--no-browser", "--port", "0", "--model", tiny_family, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        said = [process.stdout.readline() for _ in range(3)]
        url = re.search(r"http://127\.0\.0\.1:\d+", said[2])[0]
        make(url, **FAST, **{"class": "rain", "seed": 1})
        ask(url, "POST", "/api/make", {"class": "rain", "n": 100, "steps": 500, "sampler": "ddim"})
        while not (ask(url, "GET", "/api/state")[2]["job"] or {}).get("step"):
            time.sleep(0.05)
        process.send_signal(number)
        rest, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert not err and rest.endswith(f"ended; 1 clip made, saved in {tmp_path / 'out'}\n")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "generation.json",
        "rain",
        "rain_1.wav",
    ]
    assert json.loads((tmp_path / "out/generation.json").read_text())["clips"][0]["file"] == "rain/rain_1.wav"
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("latentclap")]


@pytest.mark.slow
def test_the_shipped_model_makes_the_same_bits_in_two_processes(mini, tmp_path):
    maker = Maker("mini", mini, own_sampling(shipped("mini")))
    with playing(maker, tmp_path / "a") as served:
        (clip,) = make(served.url, **{"class": "footstep", "seed": 5})
        ours = download(served, clip)
    words = shlex.split(clip["command"])
    assert words == shlex.split("latentclap generate --classes footstep --seed 5 -o footstep_5")
    subprocess.run(
        [sys.executable, "-c", ENTRY, *words[1:], "-q"], cwd=tmp_path, check=True, capture_output=True
    )
    assert ours == Path(tmp_path, "footstep_5/footstep/footstep_000.wav").read_bytes()
