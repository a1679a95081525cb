"""Surveys: from folders of clips to pages and a key, and from what raters save to a table of ratings."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from latentclap import cli, papers, stats
from latentclap.audio import loudness, write_wave
from latentclap.book.rating import rating_page
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.locks import alone
from latentclap.survey import RatedClip, make_survey, survey_form, write_clips
from latentclap.survey.pages import SILENT

RATE = 16_000
MODELS = ("Ground Truth", "LDM+Tuning")


def noise(seed: int, seconds: float = 1.0, gain: float = 0.1) -> np.ndarray:
    return (gain * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def folder_of(path, classes=("rain", "dog_bark"), n=3, seed=0, gain=0.1, rate=RATE):
    """n clips of each class, none like another."""
    for k, cls in enumerate(classes):
        for i in range(n):
            write_wave(path / cls / f"{cls}_{i:03d}.wav", noise(1000 * seed + 10 * k + i, gain=gain), rate)
    return path


@pytest.fixture
def folders(tmp_path):
    return {name: folder_of(tmp_path / f"m{k}", seed=k) for k, name in enumerate(MODELS)}


def run(*arguments):
    return CliRunner().invoke(cli.app, ["survey", *map(str, arguments)])


def data_of(page) -> dict:
    """What the script of a page is told."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page.read_text(), re.S)[1])


class TestPages:
    def test_pages_ask_for_every_clip_and_the_key_says_whose_it_is(self, folders, tmp_path):
        made = make_survey(folders, tmp_path / "study", items=2, progress=False)
        key = pd.read_csv(made.folder / "key.csv", dtype=str)
        assert made.clips == len(key) == 2 * 2 * 2
        assert key.groupby(["class", "model"]).item.apply(list).map(tuple).unique().tolist() == [("0", "1")]
        for cls in ("rain", "dog_bark"):
            data = data_of(made.pages[cls])
            mine = key[key["class"] == cls]
            assert {clip["id"] for clip in data["clips"]} == set(mine["clip"])
            assert all((made.folder / "pages" / clip["src"]).is_file() for clip in data["clips"])
            assert [q["name"] for q in data["questions"]] == list(papers.QUESTIONS)
            assert data["scale"] == [0, 10]
        for _, row in key.iterrows():  # the sound is that of the file named, at another level
            heard, _ = soundfile.read(made.folder / "pages/clips" / f"{row['clip']}.wav")
            source, _ = soundfile.read(row.file)
            assert np.corrcoef(heard[:15000], source[:15000])[0, 1] > 0.999
            assert str(folders[row.model]) in row.file

    def test_a_survey_does_not_lie_among_the_clips(self, folders, tmp_path):
        """The next call found its pages there, as a class of unknown name."""
        said = run(*(f"{name}={folder}" for name, folder in folders.items()), "-o", tmp_path / "m0/study")
        assert "study lies in " in str(said.exception) and "among the clips of Ground Truth" in str(
            said.exception
        )
        assert not (tmp_path / "m0/study").exists()

    def test_one_run_at_a_time_makes_a_survey(self, folders, tmp_path):
        with (
            alone(tmp_path / "study", ""),
            pytest.raises(InputError, match="another run makes a survey there"),
        ):
            make_survey(folders, tmp_path / "study", items=2, progress=False)
        assert make_survey(folders, tmp_path / "study", items=2, progress=False).clips == 8

    def test_what_is_published_names_no_system(self, folders, tmp_path):
        made = make_survey(folders, tmp_path / "study", items=3, progress=False)
        pages = made.folder / "pages"
        key = pd.read_csv(made.folder / "key.csv", dtype=str)
        for page in pages.glob("*.html"):
            text = page.read_text()
            assert "LDM" not in text and "Ground Truth" not in text and str(tmp_path) not in text
        assert all(re.fullmatch(r"[0-9a-f]{8}\.wav", path.name) for path in (pages / "clips").iterdir())
        for data in map(data_of, made.pages.values()):
            order = [clip["id"] for clip in data["clips"]]
            assert order == sorted(order)
            assert all("model" not in clip and "item" not in clip for clip in data["clips"])
        # names are no counter: in their order, systems mix
        by_name = key.sort_values("clip").model.tolist()
        assert by_name != sorted(by_name) and by_name != sorted(by_name, reverse=True)

    def test_clips_of_a_class_have_one_loudness_and_the_length_asked_for(self, folders, tmp_path):
        folders["Loud"] = folder_of(tmp_path / "loud", seed=7, gain=0.2)
        made = make_survey(folders, tmp_path / "study", items=3, seconds=0.5, progress=False)
        key = pd.read_csv(made.folder / "key.csv", dtype=str)
        for cls, level in made.levels.items():
            for name in key[key["class"] == cls]["clip"]:
                wave, sr = soundfile.read(made.folder / "pages/clips" / f"{name}.wav")
                assert sr == RATE and len(wave) == RATE / 2
                assert np.abs(wave).max() <= 0.9
                assert loudness(wave, sr) == pytest.approx(level, abs=0.2)
                assert abs(wave[-1]) < 1e-3  # faded, no click

    def test_a_peak_lowers_its_class_alone(self, tmp_path):
        a, b = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", seed=1)
        click = noise(5, gain=0.001)
        click[4000] = 0.9
        write_wave(a / "rain" / "rain_000.wav", click, RATE)
        made = make_survey({"a": a, "b": b}, tmp_path / "study", items=3, progress=False)
        assert made.levels["rain"] < made.levels["dog_bark"] - 5

    def test_the_peak_that_lowers_its_class_reaches_the_bound(self, tmp_path):
        """A click of 0.3 may be three times as high, and is: its class is no quieter than it has to be."""
        a, b = folder_of(tmp_path / "a", ("rain",), 1), folder_of(tmp_path / "b", ("rain",), 1, seed=1)
        click = noise(5, gain=0.001)
        click[4000] = 0.3
        write_wave(a / "rain" / "rain_000.wav", click, RATE)
        made = make_survey({"a": a, "b": b}, tmp_path / "study", items=1, progress=False)
        peaks = [np.abs(soundfile.read(p)[0]).max() for p in (made.folder / "pages/clips").iterdir()]
        assert max(peaks) == pytest.approx(0.9, abs=0.01)

    def test_the_first_channel_of_a_recording_is_heard(self, folders, tmp_path):
        both = np.stack([noise(1), noise(2)])
        for path in (folders["Ground Truth"] / "rain").iterdir():
            write_wave(path, both, RATE)
            both = both + 0.001  # no two files alike
        made = make_survey(folders, tmp_path / "study", items=1, classes=("rain",), progress=False)
        key = pd.read_csv(made.folder / "key.csv", dtype=str).set_index("model")
        heard, _ = soundfile.read(made.folder / "pages/clips" / f"{key['clip']['Ground Truth']}.wav")
        assert np.corrcoef(heard[:15_000], noise(1)[:15_000])[0, 1] > 0.999

    def test_silence_is_heard_as_such_and_draws_nobody_down(self, folders, tmp_path):
        write_wave(folders["LDM+Tuning"] / "rain" / "rain_000.wav", np.zeros(RATE, np.float32), RATE)
        made = make_survey(folders, tmp_path / "study", items=3, progress=False)
        assert made.levels["rain"] > -26
        waves = [soundfile.read(path)[0] for path in (made.folder / "pages/clips").iterdir()]
        assert sum(not wave.any() for wave in waves) == 1

    @pytest.mark.parametrize("offset", [0.0, 0.1])
    def test_what_no_figure_takes_for_a_sound_is_not_made_one(self, folders, tmp_path, offset):
        """A hum below -60 dBFS was raised by 40 dB; an offset had a level, which its whole class followed down."""
        hum = offset + 6e-4 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        write_wave(folders["LDM+Tuning"] / "rain" / "rain_000.wav", hum.astype(np.float32), RATE)
        made = make_survey(folders, tmp_path / "study", items=3, progress=False)
        assert made.levels["rain"] > -26 and made.silent == {"LDM+Tuning": {"rain": 1}}
        peaks = [np.abs(soundfile.read(path)[0]).max() for path in (made.folder / "pages/clips").iterdir()]
        assert sum(peak < 1e-3 for peak in peaks) == 1

    def test_raters_are_told_that_a_clip_may_be_silent_where_one_is(self, folders, tmp_path):
        write_wave(folders["LDM+Tuning"] / "rain" / "rain_000.wav", np.zeros(RATE, np.float32), RATE)
        systems = [f"{name}={folder}" for name, folder in folders.items()]
        done = run(*systems, "-o", tmp_path / "study", "--items", 3, "-q")
        assert done.exit_code == 0, done.output
        told = "silent clips of LDM+Tuning: rain 1 of 3; they stay silent, and raters are told that a clip may be"
        assert f"warning: {told}\n" in done.stderr
        assert read_json(tmp_path / "study/survey.json")["silent"] == {"LDM+Tuning": {"rain": 1}}
        pages = tmp_path / "study/pages"
        assert SILENT in data_of(pages / "rain.html")["intro"]
        assert SILENT not in data_of(pages / "dog_bark.html")["intro"]

    def test_the_organisers_folder_gives_its_evaluation_side(self, folders, tmp_path):
        both = tmp_path / "dcase"
        folder_of(both / "dev", seed=8)
        folder_of(both / "eval", seed=9)
        twice = both / "eval" / "rain" / "rain_000.wav"
        (both / "eval" / "rain" / "rain_009.wav").write_bytes(
            twice.read_bytes()
        )  # recordings are, now and then
        made = make_survey(folders | {"Ground Truth": both}, tmp_path / "study", items=3, progress=False)
        key = pd.read_csv(made.folder / "key.csv", dtype=str)
        files = key[key.model == "Ground Truth"].file
        assert len(files) == 6 and files.str.contains("/eval/").all()

    def test_the_seed_decides_choice_and_names(self, folders, tmp_path):
        def key(name, seed):
            made = make_survey(folders, tmp_path / name, items=1, seed=seed, progress=False)
            return (made.folder / "key.csv").read_text()

        assert key("a", 0) == key("b", 0)
        chosen = {tuple(re.findall(r"_\d{3}", key(f"s{seed}", seed))) for seed in range(5)}
        assert len(chosen) > 1
        names = {tuple(re.findall(r"^[0-9a-f]{8}", key(f"t{seed}", seed), re.M)) for seed in range(3)}
        assert len(names) == 3

    def test_recordings_are_brought_to_a_rate(self, folders, tmp_path):
        folders["Ground Truth"] = folder_of(tmp_path / "wide", rate=22_050)
        mixed = make_survey(folders, tmp_path / "mixed", items=2, progress=False)
        assert mixed.rates == {"Ground Truth": [22_050], "LDM+Tuning": [16_000]}
        same = make_survey(folders, tmp_path / "same", items=2, sampling_rate=16_000, progress=False)
        assert {soundfile.info(p).samplerate for p in (same.folder / "pages/clips").iterdir()} == {16_000}

    def test_a_killed_run_leaves_the_old_survey_and_no_half_of_a_new_one(
        self, folders, tmp_path, monkeypatch
    ):
        from latentclap.survey import make

        def stop(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(make, "write_page", stop)
            with pytest.raises(KeyboardInterrupt):
                make_survey(folders, tmp_path / "study", items=2, progress=False)
        assert not (tmp_path / "study" / "pages").exists()
        made = make_survey(folders, tmp_path / "study", items=2, progress=False)
        before = (made.folder / "key.csv").read_text()
        with monkeypatch.context() as patch:
            patch.setattr(make, "write_page", stop)
            with pytest.raises(KeyboardInterrupt):
                make_survey(folders, tmp_path / "study", items=2, seed=1, overwrite=True, progress=False)
        assert (made.folder / "key.csv").read_text() == before
        assert all(
            (made.folder / "pages" / "clips" / f"{name}.wav").is_file()
            for name in re.findall(r"^[0-9a-f]{8}", before, re.M)
        )

    @pytest.mark.parametrize("written", ["write_json", "write_text"])
    def test_whoever_is_stopped_at_the_end_says_the_same_command_again(
        self, folders, tmp_path, monkeypatch, written
    ):
        """After the record or the key of a first run, each of which is there before the pages are."""
        from latentclap.survey import make

        write = getattr(make, written)

        def stop(path, *arguments):
            write(path, *arguments)
            if path.name in (make.RECORD, make.KEY):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(make, written, stop)
            with pytest.raises(KeyboardInterrupt):
                make_survey(folders, tmp_path / "study", items=2, progress=False)
        assert not (tmp_path / "study" / "pages").exists()
        assert make_survey(folders, tmp_path / "study", items=2, progress=False).clips == 8
        assert sorted(path.name for path in (tmp_path / "study").iterdir()) == [
            "key.csv",
            "pages",
            "survey.json",
        ]

    def test_a_key_that_a_spreadsheet_saved_is_told_in_one_line(self, folders, tmp_path):
        """In the spreadsheet's own encoding, where a folder's or a file's name has an accent."""
        made = make_survey(folders, tmp_path / "study", items=2, progress=False)
        (made.folder / "key.csv").write_text("clip;class\nétude;rain\n", encoding="cp1252")
        with pytest.raises(InputError, match="holds a survey of other clips"):
            make_survey(folders, tmp_path / "study", items=2, progress=False)

    @pytest.mark.parametrize("moved", ["pages", "key.csv"])
    def test_a_survey_whose_pages_or_key_were_moved_is_not_replaced(self, folders, tmp_path, moved):
        made = make_survey(folders, tmp_path / "study", items=2, progress=False)
        (made.folder / moved).rename(tmp_path / moved)
        before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
        with pytest.raises(InputError, match="holds a survey of other clips"):
            make_survey(folders, tmp_path / "study", items=1, progress=False)
        assert before == {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}

    def test_a_folder_of_others_loses_nothing(self, folders, tmp_path):
        theirs = tmp_path / "site" / ".pages" / "index.md"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("...")
        (tmp_path / "site" / "site.yml").write_text("...")
        with pytest.raises(InputError, match="holds other things than a survey"):
            make_survey(folders, tmp_path / "site", items=2, progress=False)
        assert theirs.is_file()


def test_arrays_become_folders_of_a_survey(tmp_path):
    """As notebook 04 hands its clips over; one beyond full scale is turned down, not cut."""
    waves = {
        "Ground Truth": {"rain": np.stack([noise(1), noise(2)])},
        "LDM+Tuning": {"rain": np.stack([noise(3), 20 * noise(4)])},
    }
    folders = write_clips(waves, tmp_path / "clips", RATE)
    assert [path.name for path in folders.values()] == ["Ground_Truth", "LDM+Tuning"]
    loud, sr = soundfile.read(folders["LDM+Tuning"] / "rain" / "rain_001.wav")
    assert sr == RATE and np.abs(loud).max() == pytest.approx(0.99, abs=1e-3)
    assert np.corrcoef(loud, noise(4))[0, 1] > 0.9999
    assert make_survey(folders, tmp_path / "study", items=2, progress=False).clips == 4


class TestCommand:
    def test_says_where_the_pages_are_and_how_to_go_on(self, folders, tmp_path):
        study = tmp_path / "study"
        done = run(*[f"{name}={path}" for name, path in folders.items()], "--items", 2, "--out", study, "-q")
        assert done.exit_code == 0, done.output
        assert f"8 clips, 2 classes: {study / 'pages' / 'index.html'}" in done.output
        assert f"-p ratings_key {study / 'key.csv'}" in done.output
        assert "warning" not in done.output
        index = (study / "pages" / "index.html").read_text()
        assert 'href="rain.html"' in index and 'href="dog_bark.html"' in index
        told = read_json(study / "survey.json")
        assert told["items"] == 2 and told["command"].startswith("latentclap survey ")

    def test_warns_of_rates_that_differ(self, folders, tmp_path):
        folder_of(tmp_path / "wide", rate=22_050)
        done = run(
            f"real={tmp_path / 'wide'}",
            f"ours={folders['LDM+Tuning']}",
            "--items",
            1,
            "-o",
            tmp_path / "s",
            "-q",
        )
        assert "warning: sampling rates in Hz differ (real 22050; ours 16000)" in done.output

    def test_intro_and_address_reach_the_page(self, folders, tmp_path):
        text = tmp_path / "intro.txt"
        text.write_text("Who we are:\nthe lab.\n\nAnswers are </script> kept.\n", encoding="utf-8")
        arguments = [f"{name}={path}" for name, path in folders.items()]
        (tmp_path / "done.txt").write_text("Code 42.\n")
        more = [
            "--classes",
            "rain",
            "--items",
            1,
            "--intro",
            text,
            "--thanks",
            tmp_path / "done.txt",
            "--send-to",
            "https://lab.example/take",
        ]
        assert run(*arguments, *more, "-o", tmp_path / "s", "-q").exit_code == 0
        data = data_of(tmp_path / "s" / "pages" / "rain.html")
        assert data["intro"][:2] == ["Who we are: the lab.", "Answers are </script> kept."]
        assert data["send"] == "https://lab.example/take" and data["saving"] == ""
        assert data["thanks"] == ["Code 42."]
        assert not (tmp_path / "s" / "pages" / "dog_bark.html").exists()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["a={a}"], "two or more folders"),
            (["{a}", "b={b}"], "NAME=FOLDER"),
            (["=x", "b={b}"], "NAME=FOLDER"),
            (["a={a}", "a={b}"], "'a' is there twice"),
            (["a={a}", "b={a}/nowhere"], "b: .*nowhere: no such folder"),
            (["a={a}", "b={b}", "--items", "4"], r"has 3 clips of dog_bark, and 4 are asked for.*--items 3"),
            (["a={a}", "b={b}", "--items", "0"], "--items 0: at least 1"),
            (["a={a}", "b={b}", "--classes", "rain,cat"], "unknown class 'cat'"),
            (
                ["a={a}", "b={b}", "--classes", "gunshot"],
                "has no clips of gunshot, and 15 are asked for; generate more$",
            ),
            (["a={a}", "b={b}", "--seconds", "0"], "--seconds 0"),
            (["a={a}", "b={b}", "--send-to", "lab.example"], "begins with https://"),
            (["a={a}", "b={b}", "--intro", "{a}/none.txt"], "none.txt"),
        ],
    )
    def test_refuses_in_one_line_before_any_work(self, folders, tmp_path, arguments, says):
        a, b = folders.values()
        done = run(*[text.format(a=a, b=b) for text in arguments], "--out", tmp_path / "s", "-q")
        shown = (
            str(done.exception)
            if done.exception and not isinstance(done.exception, SystemExit)
            else done.output
        )
        assert done.exit_code != 0
        assert re.search(says, shown), shown
        assert not (tmp_path / "s").exists()

    def test_keeps_a_survey_and_other_peoples_files(self, folders, tmp_path):
        arguments = [f"{name}={path}" for name, path in folders.items()]
        assert run(*arguments, "--items", 1, "-o", tmp_path / "s", "-q").exit_code == 0
        answers = tmp_path / "s" / "answers" / "a.csv"
        answers.parent.mkdir()
        answers.write_text("rater\n")
        key = (tmp_path / "s" / "key.csv").read_text()
        # the same clips have the same names: nothing is lost
        assert run(*arguments, "--items", 1, "-o", tmp_path / "s", "-q").exit_code == 0
        assert (tmp_path / "s" / "key.csv").read_text() == key
        other = run(*arguments, "--items", 2, "-o", tmp_path / "s", "-q")
        assert other.exit_code != 0 and "holds a survey of other clips" in str(other.exception)
        assert (tmp_path / "s" / "key.csv").read_text() == key
        assert run(*arguments, "--items", 2, "-o", tmp_path / "s", "-q", "--overwrite").exit_code == 0
        assert (tmp_path / "s" / "key.csv").read_text() != key
        assert answers.read_text() == "rater\n"
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("...")
        other = run(*arguments, "--items", 1, "-o", tmp_path / "mine", "-q")
        assert other.exit_code != 0 and "holds other things" in str(other.exception)


class TestForm:
    def test_the_worst_is_at_0_and_the_best_at_10(self):
        form = survey_form([RatedClip("a", "rain", "a.wav")], study="s", title="t", intro=())
        data = json.loads(re.search(r'json">(.*?)</script>', form, re.S)[1])
        ends = {q["name"]: (q["low"], q["high"]) for q in data["questions"]}
        assert ends == {"quality": ("very bad", "excellent"), "relevance": ("not at all", "perfectly")}
        assert data["scale"] == [0, 10]

    def test_texts_cannot_end_the_script(self):
        form = survey_form([RatedClip("a", "rain", "a.wav")], study="s", title="</script><b>", intro=["<!--"])
        assert "</script><b>" not in form
        assert json.loads(re.search(r'json">(.*?)</script>', form, re.S)[1])["title"] == "</script><b>"

    def test_named_systems_come_with_the_papers_means(self):
        clips = [RatedClip(str(i), "rain", "a.wav", model, "0") for i, model in enumerate(papers.MODELS)]
        data = json.loads(
            re.search(r'json">(.*?)</script>', survey_form(clips, study="s", title="t", intro=()), re.S)[1]
        )
        assert data["paper"]["LDM+Tuning+Latent"] == {"quality": 6.40, "relevance": 7.03}
        assert data["t"][:2] == [12.7062, 4.3027]

    @pytest.mark.parametrize(
        ("clips", "says"),
        [
            ([], "at least one clip"),
            ([RatedClip("a", "rain", "x"), RatedClip("a", "rain", "y")], "an id of its own"),
            (
                [RatedClip("a", "rain", "x", "LDM", "0"), RatedClip("b", "rain", "y")],
                "all of its clips or of none",
            ),
        ],
    )
    def test_refuses(self, clips, says):
        with pytest.raises(InputError, match=says):
            survey_form(clips, study="s", title="t", intro=())


class TestBookPage:
    @pytest.fixture
    def listening(self, tmp_path):
        from fake_book import listening_items, players

        return listening_items(tmp_path / "listening.json", players(tmp_path / "audio"))

    def test_rates_table_2s_systems_of_the_listening_page(self, listening, tmp_path):
        out = tmp_path / "book" / "generated" / "rate.md"
        assert rating_page([listening], out, tmp_path / "book" / "_static") == 7 * 3 * 3
        clips = json.loads(re.search(r'json">(.*?)</script>', out.read_text(), re.S)[1])["clips"]
        assert {clip["model"] for clip in clips} == set(papers.MODELS)
        assert all((tmp_path / "book" / clip["src"]).is_file() for clip in clips)
        assert all(re.fullmatch(r"_static/audio/rate/[0-9a-f]{8}\.(mp3|ogg)", clip["src"]) for clip in clips)

    def test_names_what_is_missing(self, listening, tmp_path):
        content = read_json(listening)
        content["items"] = [i for i in content["items"] if (i["cls"], i["system"]) != ("rain", "LDM+Tuning")]
        write_json(listening, content)
        with pytest.raises(InputError, match="rain lacks clips of"):
            rating_page([listening], tmp_path / "b/rate.md", tmp_path / "b/_static")


def test_loops_of_the_listening_page(tmp_path):
    from fake_book import listening_items, players
    from latentclap.book.loops import loops_page

    listening = listening_items(tmp_path / "listening.json", players(tmp_path / "audio"))
    out = tmp_path / "book/generated/loops.md"
    assert loops_page([listening], out, tmp_path / "book/_static") == 2
    text = out.read_text()
    for src in re.findall(r'src="([^"]+)"', text):
        wave, sr = soundfile.read(tmp_path / "book" / src)
        # tones of 2 s, without their fade, shorter by what is blended
        assert len(wave) == round((2 - 0.01 - 0.5) * sr)
        assert abs(wave[0] - wave[-1]) < 4 * np.abs(np.diff(wave)).max()
    assert text.count(" loop ") == 2
    assert len(list((tmp_path / "book/_static/audio/loops").iterdir())) == 2
    content = read_json(listening)
    content["items"] = [item for item in content["items"] if item["cls"] != "rain"]
    write_json(listening, content)
    with pytest.raises(InputError, match="no clip of rain by"):
        loops_page([listening], out, tmp_path / "book/_static")


class TestAnswers:
    HEAD = "study,rater,clip,class,quality,relevance,order,plays,when\n"

    @pytest.fixture
    def study(self, tmp_path):
        (tmp_path / "key.csv").write_text(
            "clip,class,model,item,file\n11e10000,rain,LDM,0,a.wav\n00000012,rain,LDM+Latent,0,b.wav\n"
        )
        (tmp_path / "answers").mkdir()
        return tmp_path

    def write(self, study, name, *rows, head=HEAD):
        (study / "answers" / name).write_text(head + "".join(f"{row}\n" for row in rows))

    def test_the_key_says_whose_clip_was_rated(self, study):
        self.write(study, "1.csv", "s,007,11e10000,rain,3,4,1,1,2026-01-01T10:00:00.000Z")
        self.write(study, "2.csv", "s,b,00000012,rain,5,6,1,2,2026-01-01T10:00:00.000Z")
        (study / "answers" / "notes.txt").write_text("by phone\n")
        (study / "answers" / "._1.csv").write_bytes(b"\x00\x05\x16\x07")  # a Mac's, of a stick or an archive
        table = stats.read_ratings(study / "answers", key=study / "key.csv")
        # names that look like numbers are names
        assert table[["rater", "class", "model", "item", "quality", "relevance"]].to_numpy().tolist() == [
            ["007", "rain", "LDM", "0", 3, 4],
            ["b", "rain", "LDM+Latent", "0", 5, 6],
        ]

    def test_the_last_rating_of_a_clip_counts(self, study):
        self.write(study, "a.csv", "s,a,11e10000,rain,3,4,1,1,2026-01-01T10:00:00.000Z")
        self.write(
            study,
            "a (1).csv",
            "s,a,11e10000,rain,9,9,1,1,2026-01-01T09:00:00.000Z",
            "s,a,00000012,rain,5,6,1,2,2026-01-01T10:00:00.000Z",
        )
        table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert sorted(table.quality) == [3, 5]

    @pytest.mark.parametrize("when", ["", "1/2/2026 3 pm"])
    def test_a_rating_of_unknown_time_puts_none_of_a_known_one_aside(self, study, when):
        """It counted as the last of all. Who cannot tell which came first keeps both."""
        times = ["2026-01-01T10:00:00.000Z", when, "2026-01-01T12:30:00.000+03:00", when]
        self.write(study, "1.csv", *(f"s,a,11e10000,rain,{q},4,1,1,{t}" for q, t in enumerate(times)))
        table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert table.quality.tolist() == [0, 1, 3]  # the third is of half past nine in Greenwich

    def test_nothing_but_an_empty_cell_is_missing(self, study):
        rows = [f"s,{name},11e10000,rain,3,4,1,1,2026-01-01" for name in ("NA", "null", "None", "nan")]
        self.write(study, "a.csv", *rows)
        table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert table.rater.tolist() == ["NA", "null", "None", "nan"]
        self.write(study, "a.csv", "s,,11e10000,rain,3,4,1,1,2026-01-01")
        assert stats.read_ratings(study / "answers", key=study / "key.csv").rater.isna().all()

    def test_a_name_in_several_surveys_is_told(self, study):
        """Raters who are numbered from 1 in each survey would pass for people who took part in all."""
        with open(study / "key.csv", "a") as key:
            key.write("00000033,keyboard,LDM,0,c.wav\n")
        self.write(study, "1.csv", "rain-1,1,11e10000,rain,3,4,1,1,2026-01-01T10:00:00.000Z")
        self.write(study, "2.csv", "rain-1,2,00000012,rain,3,4,1,1,2026-01-01T10:00:00.000Z")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # several files of one survey are nothing to tell of
            stats.read_ratings(study / "answers", key=study / "key.csv")
        self.write(study, "3.csv", "keys-3,1,00000033,keyboard,5,6,1,1,2026-01-02T10:00:00.000Z")
        says = r"1 name in several surveys \('1'; the first in rain-1, keys-3\), each taken for one rater: if"
        with pytest.warns(UserWarning, match=says):
            table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert len(table) == 3 and "\0file" not in table

    def test_a_clip_that_is_rated_again_in_another_file_is_told(self, study):
        first = "s,a,11e10000,rain,3,4,1,1,2026-01-01T10:00:00.000Z"
        self.write(study, "a.csv", first)
        self.write(study, "a (1).csv", first, "s,a,00000012,rain,5,6,2,1,2026-01-01T10:01:00.000Z")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # saved half-way, and again
            assert len(stats.read_ratings(study / "answers", key=study / "key.csv")) == 2
        self.write(study, "other a.csv", "s,a,11e10000,rain,9,9,1,1,2026-01-05T10:00:00.000Z")
        with pytest.warns(UserWarning, match=r"'a' rated a clip in .*a\.csv, at other times \(1 such name\)"):
            table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert sorted(table.quality) == [5, 9]

    def test_ratings_without_times_are_all_kept(self, study):
        self.write(
            study,
            "a.csv",
            "a,rain,LDM,0,1,1",
            "a,rain,LDM,0,3,3",
            head="rater,class,model,item,quality,relevance\n",
        )
        assert stats.read_ratings(study / "answers").quality.tolist() == [1, 3]

    def test_the_page_that_names_systems_needs_no_key(self, study):
        head = "study,rater,clip,class,model,item,quality,relevance,order,plays,when\n"
        self.write(study, "a.csv", "book,a,ff,rain,LDM,2,1,2,1,1,2026-01-01T10:00:00.000Z", head=head)
        assert stats.read_ratings(study / "answers").item.tolist() == ["2"]

    @pytest.mark.parametrize(
        ("row", "key", "says"),
        [
            ("s,a,99999999,rain,3,4,1,1,", True, r"1\.csv: clip '99999999' is not in .*key\.csv"),
            # a row without a clip, as a spreadsheet leaves them, among answers to another survey
            ("s,a,,rain,3,4,1,1,\ns,a,99999999,rain,3,4,1,1,", True, r"1\.csv: clip '' is not in .*key\.csv"),
            ("s,a,11e10000,rain,3,4,1,1,", False, "no column model, item.*give the survey's key.csv"),
            ("s,a,11e10000,rain,good,4,1,1,", True, "column quality is not numeric"),
        ],
    )
    def test_what_does_not_fit(self, study, row, key, says):
        self.write(study, "1.csv", row)
        with pytest.raises(InputError, match=says):
            stats.read_ratings(study / "answers", key=study / "key.csv" if key else "")

    def test_a_spreadsheets_semicolons_are_read(self, study):
        self.write(study, "1.csv", "a;rain;LDM;0;1;2", head="rater;class;model;item;quality;relevance\n")
        (row,) = stats.read_ratings(study / "answers").to_dict("records")
        assert row == {
            "rater": "a",
            "class": "rain",
            "model": "LDM",
            "item": "0",
            "quality": 1,
            "relevance": 2,
        }

    def test_no_answers_and_no_key(self, study):
        with pytest.raises(InputError, match=r"answers: no \.csv in this folder"):
            stats.read_ratings(study / "answers")
        self.write(study, "1.csv", "s,a,11e10000,rain,3,4,1,1,")
        with pytest.raises(InputError, match="nowhere"):
            stats.read_ratings(study / "answers", key=study / "nowhere.csv")
        (study / "other.csv").write_text("a,b\n1,2\n")
        with pytest.raises(
            InputError, match=r"other\.csv: no column clip, class, model, item; the key of a survey"
        ):
            stats.read_ratings(study / "answers", key=study / "other.csv")
