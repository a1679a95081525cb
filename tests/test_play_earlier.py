"""`latentclap play`: clips of earlier sessions in the same folder, which somebody else may have written."""

import copy
import io
import json
import os
import re
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
from typer.testing import CliRunner

from latentclap import __version__, cli
from latentclap.errors import InputError
from latentclap.files import read_json
from latentclap.play.jobs import Session
from latentclap.play.maker import Maker
from latentclap.play.recall import Found, made_by
from latentclap.play.shelf import Shelf
from playing import ask, make, playing

FAST = {"steps": 2, "sampler": "ddim"}


@pytest.fixture(scope="module")
def maker(tiny_family):
    return Maker.load(str(tiny_family), None, "cpu")


@pytest.fixture(scope="module")
def session(maker, tmp_path_factory):
    """A folder that a session left, and what its page had: a class, a text, a take of each, one of a given sound."""
    out, place = tmp_path_factory.mktemp("kept") / "my clips", tmp_path_factory.mktemp("play")
    with playing(maker, place, out) as served:
        (rain,) = make(served.url, **FAST, **{"class": "rain", "seed": 5, "fade": 3})
        (text,) = make(served.url, **FAST, prompt="a <b>small</b> dog & $HOME's", seed=2, guidance_scale=1.5)
        make(served.url, **FAST, sound=rain["id"], seed=7, strength=0.25, prompt="rain", loop=20, seconds=0.1)
        sound = ask(served.url, "GET", text["sound"])[2]
        octets = {"Content-Type": "application/octet-stream"}
        given = ask(served.url, "POST", "/api/sound?name=door.wav", sound, octets)[2]["id"]
        make(served.url, **FAST, sound=given, seed=8, lufs=-30, sampling_rate=22_050)
        ask(served.url, "POST", "/api/star", {"id": text["id"], "starred": True})
        clips = [c for c in ask(served.url, "GET", "/api/clips")[2]["clips"] if c["kind"] != "sound"]
        pictures = {clip["file"]: ask(served.url, "GET", clip["picture"])[2] for clip in clips}
    return SimpleNamespace(out=out, clips=clips, pictures=pictures, ids={c["id"]: c["file"] for c in clips})


@pytest.fixture
def out(session, tmp_path):
    """A copy of that folder, to do as one likes."""
    return Path(shutil.copytree(session.out, tmp_path / session.out.name))


def earlier(served):
    told = ask(served.url, "GET", "/api/clips")[2]
    clips = ask(served.url, "GET", "/api/earlier")[2]["clips"]
    assert {str(clip["id"]): clip["starred"] for clip in clips} == told["earlier"]
    return clips


def changed(out, change):
    """Edit a folder's record, as its file."""
    record = read_json(out / "generation.json")
    change(record)
    (out / "generation.json").write_text(json.dumps(record))
    return record


def test_they_are_shown_as_they_were(maker, session, out, tmp_path):
    before = (out / "generation.json").read_bytes()
    with playing(maker, tmp_path / "play", out) as served:
        clips = earlier(served)
        files = {clip["id"]: clip["file"] for clip in clips}
        assert ask(served.url, "GET", "/api/clips")[2]["clips"] == [] and served.shelf.made == 0
        assert ask(served.url, "GET", "/api/about")[2]["found"] == "4 clips of earlier sessions"
        for clip, was in zip(clips, session.clips, strict=True):
            assert ask(served.url, "GET", clip["sound"])[2] == (out / _name(out, clip["file"])).read_bytes()
            assert ask(served.url, "GET", clip["picture"])[2] == session.pictures[clip["file"]]
            assert clip.pop("by") == ""
            source, that = clip["asked"].pop("source"), was["asked"]["source"]
            assert files.get(source) == session.ids.get(that)  # a given sound is not there any more
            same = {key: value for key, value in was.items() if key not in ("id", "sound", "picture")}
            assert {key: clip[key] for key in same} == same | {"asked": clip["asked"]}
            assert clip["asked"] == {key: value for key, value in was["asked"].items() if key != "source"}
            assert set(clip) == set(was)
    assert (out / "generation.json").read_bytes() == before  # looking changes nothing


def _name(out, file):
    return next(path.relative_to(out).as_posix() for path in out.rglob("*.wav") if path.name == file)


def test_what_can_be_done_with_clips_can_be_done_with_them(maker, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with playing(maker, tmp_path / "a", Path("my clips")) as served:
        door, take, text, rain = earlier(served)
        ask(served.url, "POST", "/api/star", {"id": rain["id"], "starred": True})
        ask(served.url, "POST", "/api/star", {"id": text["id"], "starred": False})
        (new,) = make(served.url, **FAST, sound=rain["id"], seed=9)
        assert new["title"] == "take of rain_5" and new["file"] == "rain_5_take_9.wav"
        assert new["command"].startswith("latentclap vary 'my clips/rain/rain_5.wav' -n 1 --seed 9")
        # takes of takes are called after the first sound
        assert [served.shelf.get(clip["id"]).root for clip in (take, door)] == ["rain_5", "door"]
        ask(served.url, "POST", "/api/star", {"id": new["id"], "starred": True})
        with zipfile.ZipFile(io.BytesIO(ask(served.url, "GET", "/starred.zip")[2])) as packed:
            names = ["rain/rain_5.wav", "rain/rain_5_take_9.wav"]
            assert packed.namelist() == [*names, "generation.json"]
            record = json.loads(packed.read("generation.json"))
        assert [clip["command"] for clip in record["clips"]] == [rain["command"], new["command"]]
        assert record["calls"][0]["clips"] == names and record["calls"][0]["versions"]["torch"]
        assert ask(served.url, "POST", "/api/remove", {"id": door["id"]})[0] == 200
        assert not (out / "door").exists() and ask(served.url, "GET", door["sound"])[0] == 404
        assert [clip["id"] for clip in earlier(served)] == [take["id"], text["id"], rain["id"]]
        assert served.shelf.made == 1
    with playing(maker, tmp_path / "b", out) as served:
        stars = {clip["file"]: clip["starred"] for clip in earlier(served)}
        assert [name for name, starred in stars.items() if starred] == ["rain_5_take_9.wav", "rain_5.wav"]
        assert list(stars)[:2] == ["rain_5_take_9.wav", "rain_5_take_7.wav"]  # the newest first


def spoil(change):
    """Spoil the first entry of a record, the one of rain_5.wav."""
    return lambda out: changed(out, lambda record: change(record["clips"][0]))


def _set(*keys, to):
    def change(entry):
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = to

    return spoil(change)


def _gone(*keys):
    def change(entry):
        for key in keys[:-1]:
            entry = entry[key]
        del entry[keys[-1]]

    return spoil(change)


def _command(words):
    return spoil(lambda entry: entry.update(command=words))


BAD = [
    _set("file", to="../../etc/passwd"), _set("file", to="rain/../rain/rain_5.wav"), _set("file", to=3),
    _set("file", to="/etc/passwd.wav"), _set("file", to="rain/<img src=x>.wav"), _set("file", to=".rain/rain_5.wav"),
    _set("file", to="rain/.rain_5.wav"), _set("file", to="rain/rain_5.png"), _gone("file"),
    _set("prompt", to=["rain"]), _set("prompt", to="a\nb"), _set("prompt", to="a" * 20_000), _set("prompt", to=""),
    _set("prompt", to="turned \u202e round"), _set("settings", to=None), _set("settings", "seed", to="5"),
    _set("settings", "seed", to=-1), _set("settings", "seed", to=True), _set("settings", "steps", to=2.5),
    _set("settings", "sampler", to="<b>"), _set("settings", "guidance_scale", to=float("nan")),
    _set("settings", "fade", to="3"), _set("settings", "fade", to=-3), _set("settings", "lora", to="x"),
    _set("seconds", to=float("inf")), _set("seconds", to=None), _set("sampling_rate", to=0), _gone("model"),
    _set("model", to="a\x00b"), _set("sound", to="rain.wav"), _gone("command"), _command("rm -rf ~"),
    _command("latentclap generate --classes rain --seed 5; rm -rf ~ -o rain_5"),
    _command("latentclap generate --classes rain --seed $(reboot) -o rain_5"),
    _command("latentclap generate --classes rain --overwrite --seed 5 -o rain_5"),
    _command("latentclap generate --classes rain --overwrite yes -o rain_5"),
    _command("latentclap generate --classes rain --seed 5 -o /elsewhere"), _command("latentclap generate 'rain"),
    _command("latentclap generate --classes cat --seed 5 -o rain_5"), _command(""), _command(None),
]  # fmt: skip


@pytest.mark.parametrize("change", [*BAD, spoil(lambda entry: entry.clear())])
def test_what_no_page_wrote_is_left_as_it_is(maker, out, tmp_path, change):
    entry = change(out)["clips"][0]
    found = Session(maker, shelf := Shelf(tmp_path / "play", out)).found
    moved = not (isinstance(entry.get("file"), str) and entry["file"] == "rain/rain_5.wav")
    assert found == Found(shown=3, unread=1, unknown=int(moved))
    assert "not shown and left as they are: 1 entry of the record that cannot be read" in found.said()
    assert len(shelf.earlier()) == 3
    assert not re.search(
        r"<b>\"|etc|reboot|rm -rf", json.dumps([clip["command"] for clip in shelf.earlier()])
    )
    shelf.star(shelf.earlier()[0]["id"], True)  # the record is written anew
    again = read_json(out / "generation.json")["clips"]
    assert len(again) == 4 and again[0] == json.loads(
        json.dumps(entry).translate({}), parse_constant=lambda _: None
    )


@pytest.mark.parametrize("entry", [None, 3, "rain/rain_5.wav", ["rain/rain_5.wav"], {}, {"file": {}}])
def test_entries_that_are_none(maker, out, tmp_path, entry):
    changed(out, lambda record: record["clips"].insert(1, entry))
    assert Session(maker, Shelf(tmp_path / "play", out)).found == Found(shown=4, unread=1)


def test_a_file_is_that_of_its_last_entry(maker, out, tmp_path):
    def twice(record):
        record["clips"].insert(0, {**copy.deepcopy(record["clips"][0]), "prompt": "another"})

    changed(out, twice)
    session = Session(maker, shelf := Shelf(tmp_path / "play", out))
    assert session.found == Found(shown=4, unread=1)
    assert {clip["text"] for clip in shelf.earlier() if clip["file"] == "rain_5.wav"} == {
        "This is a sound of rain."
    }


def test_files_that_are_not_as_the_record_says(maker, out, tmp_path):
    files = [clip["file"] for clip in read_json(out / "generation.json")["clips"]]
    (out / files[0]).unlink()
    wave, sr = soundfile.read(out / files[1])
    soundfile.write(out / files[1], wave[:-1], sr)
    (out / files[2]).write_bytes(b"no sound")
    (out / files[3]).unlink()
    os.mkfifo(out / files[3])  # whoever opened it would wait for ever
    (out / "rain" / "mine.flac").write_bytes(b"")
    (out / "notes.txt").write_text("")
    (out / "loose.WAV").write_text("")
    there = sorted(path for path in out.rglob("*"))
    found = Session(maker, shelf := Shelf(tmp_path / "play", out)).found
    assert found == Found(gone=1, changed=3, unknown=2) and shelf.earlier() == []
    assert found.said() == (
        "no clip of an earlier session; not shown and left as they are: 1 clip whose file is gone, 3 clips whose"
        " files were changed, 2 sound files without a record"
    )
    assert sorted(path for path in out.rglob("*")) == there
    shelf.put(out / files[1], "rain", "rain", 5)  # its name is free again
    assert (out / files[0]).is_file()


def test_a_new_clip_has_the_only_entry_of_its_name(maker, out, tmp_path):
    (out / "rain/rain_5.wav").unlink()
    with playing(maker, tmp_path / "play", out) as served:
        (clip,) = make(served.url, **FAST, **{"class": "rain", "seed": 5})
    clips = read_json(out / "generation.json")["clips"]
    assert [entry["file"] for entry in clips].count("rain/rain_5.wav") == 1
    assert clips[-1]["command"] == clip["command"] and len(clips) == 4


def test_links_out_of_the_folder_are_refused(maker, out, tmp_path):
    files = [out / clip["file"] for clip in read_json(out / "generation.json")["clips"]]
    secret = tmp_path / "secret" / "rain_5.wav"
    secret.parent.mkdir()
    shutil.copyfile(files[0], secret)
    files[0].unlink()
    files[0].symlink_to(secret)
    assert Session(maker, Shelf(tmp_path / "a", out)).found == Found(shown=3, outside=1)
    shutil.rmtree(out / "rain")
    (out / "rain").symlink_to(secret.parent)
    found = Session(maker, Shelf(tmp_path / "b", out)).found
    assert found == Found(shown=2, outside=1, gone=1)
    assert "1 clip that a link puts elsewhere" in found.said()


def test_a_link_that_is_put_there_later_is_refused_too(maker, out, tmp_path):
    secret = tmp_path / "secret" / "rain_5.wav"
    secret.parent.mkdir()
    with playing(maker, tmp_path / "play", out) as served:
        door, _, _, rain = earlier(served)
        ask(served.url, "POST", "/api/star", {"id": rain["id"], "starred": True})
        (out / "rain").rename(tmp_path / "moved")
        shutil.copyfile(tmp_path / "moved/rain_5.wav", secret)
        (out / "rain").symlink_to(secret.parent)
        for way in ("sound", "picture"):
            status, _, told = ask(served.url, "GET", rain[way])
            assert status == 404 and str(tmp_path) not in told["error"]
        assert ask(served.url, "POST", "/api/make", {"sound": rain["id"]})[2]["error"].startswith(
            "Sound: it is not"
        )
        with zipfile.ZipFile(io.BytesIO(ask(served.url, "GET", "/starred.zip")[2])) as packed:
            assert "rain/rain_5.wav" not in packed.namelist()
        assert ask(served.url, "POST", "/api/remove", {"id": rain["id"]})[0] == 200
        assert secret.is_file() and door["id"] in {clip["id"] for clip in earlier(served)}


def test_no_place_of_the_machine_is_told(maker, out, tmp_path):
    with playing(maker, tmp_path / "play", Path(os.path.relpath(out))) as served:
        (out / "rain/rain_5.wav").write_bytes(b"no sound any more")
        told = json.dumps(
            [ask(served.url, "GET", path)[2] for path in ("/api/clips", "/api/earlier", "/api/about")]
        )
        told = told.replace(maker.model, "")  # as it was typed, in the heading and in commands
        picture = next(c for c in earlier(served) if c["file"] == "rain_5.wav")["picture"]
        answer = ask(served.url, "GET", picture)
    assert answer[0] == 404 and set(answer[2]) == {"error"}
    for place in (tmp_path, Path.home(), Path.cwd()):
        assert f'"{place}' not in told and f" {place}" not in told.replace(str(out), "")


# --- what made them -----------------------------------------------------------------------------------------


def test_another_model_or_version_is_told(maker, session):
    (entry, *_) = read_json(session.out / "generation.json")["clips"]
    call = {"versions": {"latentclap": __version__}}
    assert made_by(entry, call, maker) == ""
    other = {**entry, "model": "doors/system", "weights": "0" * 12}
    assert made_by(other, call, maker) == "doors/system"
    assert made_by({**other, "model": "/srv/models/doors/system"}, call, maker) == "doors/system"
    assert made_by({**entry, "model": "elsewhere", "weights": entry["weights"]}, call, maker) == ""  # moved
    older = {
        key: value for key, value in entry.items() if key != "weights"
    }  # records before weights were told
    assert made_by(older, call, maker) == ""
    assert made_by({**older, "model": "mini"}, call, maker) == "mini"
    again = made_by({**entry, "weights": "0" * 12}, call, maker)
    assert again == "/".join(Path(maker.model).parts[-2:]) + " with other weights"
    assert made_by(entry, {"versions": {"latentclap": "0.0.1"}}, maker) == "latentclap 0.0.1"
    assert made_by(entry, call | {"code": "x"}, maker) == f"other code of latentclap {__version__}"
    lora = {
        **entry,
        "settings": {**entry["settings"], "lora": {"file": "adapter.safetensors", "digest": "1"}},
    }
    assert made_by(lora, call, maker).endswith(" with LoRA adapter.safetensors")
    adapted = replace(maker, adapter=SimpleNamespace(digest="1"))
    assert made_by(lora, call, adapted) == "" and made_by(entry, call, adapted).endswith(" without LoRA")


def test_a_model_is_known_by_where_it_lies(maker, session, tmp_path, monkeypatch):
    (entry, *_) = read_json(session.out / "generation.json")["clips"]
    monkeypatch.chdir(Path(maker.model).parent)
    del entry["weights"]
    assert made_by(entry | {"model": f"./{Path(maker.model).name}"}, {}, maker) == ""


def test_clips_of_two_models_in_one_folder_have_their_labels(maker, out, tmp_path):
    other = {"model": "doors/system", "weights": "0" * 12}
    changed(out, lambda record: record["clips"][0].update(other))
    with playing(maker, tmp_path / "play", out) as served:
        made = {clip["file"]: clip["by"] for clip in earlier(served)}
        assert made.pop("rain_5.wav") == "doors/system" and set(made.values()) == {""}
        (take,) = make(served.url, **FAST, sound=earlier(served)[-1]["id"])  # by the model that is played
        assert "by" not in take


# --- the folder and the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ['{"by": "latentclap play"}', '{"by": "latentclap play", "clips": 3, "calls": []}', "[]", "3", "[" * 100_000,
     '{"by": "latentclap play", "clips": [], "calls": [3]}', '{"by": "latentclap play", "clips": [{"file": []}]}'],
)  # fmt: skip
def test_a_record_that_is_none_of_ours_is_refused(tmp_path, content):
    (tmp_path / "generation.json").write_text(content)
    with pytest.raises(InputError, match=r"holds clips of another command|not JSON"):
        Shelf(tmp_path / "x", tmp_path)
    assert (tmp_path / "generation.json").read_text() == content


def test_the_command_says_what_it_found(tiny_family, out, monkeypatch):
    (out / "loose.wav").write_bytes(b"")
    monkeypatch.setattr(Session, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    words = [
        "play",
        "--no-browser",
        "--port",
        "0",
        "--model",
        str(tiny_family),
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    ran = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    lines = ran.output.splitlines()
    assert lines[2] == (
        "--out holds 4 clips of earlier sessions; not shown and left as they are: 1 sound file without a record"
    )
    assert lines[3].startswith("the page is at") and lines[-1] == "ended; 0 clips made"


def test_a_thousand_clips_are_listed_at_once(maker, out, tmp_path):
    """Figures of a busy machine are no test; the work is: what a page asks again and again stays short."""

    def grow(record):
        (entry,), (call, *_) = record["clips"][:1], record["calls"]
        for seed in range(1000, 2000):
            one = copy.deepcopy(entry) | {"file": f"rain/rain_{seed}.wav"}
            one["settings"]["seed"] = seed
            one["command"] = one["command"].replace("rain_5", f"rain_{seed}")
            os.link(out / "rain/rain_5.wav", out / one["file"])
            record["clips"].append(one)
            call["clips"].append(one["file"])

    changed(out, grow)
    before = time.process_time()
    shelf = Shelf(tmp_path / "play", out)
    assert Session(maker, shelf).found == Found(shown=1004)
    assert time.process_time() - before < 20
    assert len(json.dumps(shelf.marks())) < 20_000 < len(json.dumps(shelf.earlier()))
    assert not (tmp_path / "play").exists()  # no picture is drawn before it is asked for
    number = shelf.earlier()[500]["id"]
    shelf.star(number, True)
    record = read_json(out / "generation.json")
    assert len(record["clips"]) == 1004 and sum(clip.get("starred", False) for clip in record["clips"]) == 2
