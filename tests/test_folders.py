"""Folders of clips as evaluate and compare take them: any classes under one naming, and silent clips."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from latentclap import cli
from latentclap.audio import write_wave
from latentclap.compare import clip_rows, score
from latentclap.compare.run import Run
from latentclap.embeddings import get_embedding
from latentclap.errors import InputError
from latentclap.evaluate import clips_in_folder, embed_clips, evaluate
from latentclap.evaluate.clips import is_silent
from latentclap.fad import save_stats
from latentclap.files import read_json
from latentclap.options import load_system
from latentclap.scan import scan
from latentclap.scan.layout import unused
from test_compare import sound, sounds

RATE = 16_000
SECONDS = 0.6  # the seven classes' clips are half a second at least


def run(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def refused(*arguments):
    """The one line that a command says to a mistake."""
    said = run(*arguments)
    assert isinstance(said.exception, InputError), (said.output, said.exception)
    assert "\n" not in str(said.exception)
    return str(said.exception)


def silence(path, seconds=SECONDS):
    write_wave(path, np.zeros(round(seconds * RATE), np.float32), RATE)


def told(folder, *arguments):
    """What ``evaluate`` writes and says."""
    path = folder / "told.json"
    said = run("evaluate", *arguments, "--n-boot", 40, "--json", path, "-q")
    assert said.exit_code == 0, (said.output, said.exception)
    return read_json(path), said


@pytest.fixture
def sides(tmp_path):
    """Generated and real clips of two of the seven classes."""
    sounds(tmp_path / "made", ["rain", "keyboard"], 5, 1, seconds=SECONDS)
    sounds(tmp_path / "real", ["rain", "keyboard"], 6, 2, seconds=SECONDS, colour=1.4)
    return tmp_path


class TestFinding:
    def test_own_names_and_hidden_things(self, tmp_path):
        sounds(tmp_path, ["wind", "a door"], 2, 0)
        (tmp_path / ".cache").mkdir()
        sound(tmp_path / ".cache" / "x.wav", 0)
        sound(tmp_path / "wind" / ".hidden.wav", 0)
        sound(tmp_path / "wind" / "take" / "z.flac", 0)
        (tmp_path / "wind" / "folder.wav").mkdir()
        (tmp_path / "notes.txt").touch()
        (tmp_path / "empty").mkdir()
        found = clips_in_folder(tmp_path)
        assert list(found) == ["a_door", "wind"]
        assert [p.name for p in found["wind"]] == ["00.wav", "01.wav", "z.flac"]

    def test_a_flat_folder_is_one_class(self, tmp_path):
        sound(tmp_path / "b.wav", 0)
        sound(tmp_path / "a.WAV".lower(), 1)
        assert {cls: [p.name for p in files] for cls, files in clips_in_folder(tmp_path).items()} == {
            "clips": ["a.wav", "b.wav"]
        }

    @pytest.mark.parametrize("classes", [["Rain", "DogBark"], ["Rain", "DoorSlam"], ["DoorSlam"]])
    def test_of_two_sides_it_is_the_one_for_evaluation(self, tmp_path, classes):
        sounds(tmp_path / "dev", classes, 1, 0, seconds=SECONDS)
        sounds(tmp_path / "eval", classes, 2, 1, seconds=SECONDS)
        found = clips_in_folder(tmp_path)
        assert sorted(found) == sorted(
            {"Rain": "rain", "DogBark": "dog_bark", "DoorSlam": "door_slam"}[c] for c in classes
        )
        assert all(len(files) == 2 and p.parents[1].name == "eval" for files in found.values() for p in files)

    def test_a_class_of_one_s_own_beside_sides_is_not_lost(self, tmp_path):
        sounds(tmp_path / "dev", ["rain"], 1, 0, seconds=SECONDS)
        sounds(tmp_path / "eval", ["rain"], 2, 1, seconds=SECONDS)
        sounds(tmp_path, ["zap"], 3, 2)
        assert {cls: len(files) for cls, files in clips_in_folder(tmp_path).items()} == {"rain": 2, "zap": 3}

    @pytest.mark.parametrize(
        ("place", "cls", "left"), [("rain", "rain", 1), ("zap", "zap", 2), ("", "clips", 2)]
    )
    def test_copies_are_a_fault_of_generated_clips_alone(self, tmp_path, place, cls, left):
        """Real ones of one's own classes count, as they did in every figure so far; silence is no copy."""
        sound(tmp_path / place / "a.wav", 0, seconds=SECONDS)
        sound(tmp_path / place / "b.wav", 0, seconds=SECONDS)
        for name in ("x", "y"):
            silence(tmp_path / place / f"{name}.wav")
        says = (
            r"1 problem \(1 duplicate\), 3 usable clips; first: .*b\.wav: duplicate, same samples as .*a\.wav"
        )
        with pytest.raises(InputError, match=says):
            clips_in_folder(tmp_path)
        assert len(clips_in_folder(tmp_path, duplicates_ok=True)[cls]) == left + 2

    def test_a_copy_in_another_class_is_one_too(self, tmp_path):
        sound(tmp_path / "rain/a.wav", 0, seconds=SECONDS)
        sound(tmp_path / "zap/b.wav", 0, seconds=SECONDS)
        with pytest.raises(
            InputError, match=r"zap/b\.wav: duplicate, .* rain/a\.wav, which is of class rain"
        ):
            clips_in_folder(tmp_path)

    def test_all_bad_files_are_told_at_once_before_any_is_embedded(self, sides, monkeypatch):
        """Those of one's own classes came one a run, after the embedding of others."""
        monkeypatch.setattr("latentclap.evaluate.embed_clips", None)
        monkeypatch.setattr("latentclap.compare.run.embed_clips", None)
        made, real = sides / "made", sides / "real"
        sounds(made, ["zap"], 12, 5)
        sounds(real, ["zap", "not made"], 4, 6)
        for i in range(9):
            (made / f"zap/{i:02d}.wav").write_text("no sound")
        (made / "rain/00.wav").write_text("no sound")
        (real / "not made/00.wav").write_text("no sound")
        names = ", ".join(f"zap/{i:02d}.wav" for i in range(1, 8))
        for command in (("evaluate", made, real), ("compare", f"a={made}", "-r", real, "-o", sides / "o")):
            says = refused(*command)
            assert (
                f"{made}: 10 problems (10 unreadable), 12 usable clips; first: zap/00.wav: unreadable" in says
            )
            assert says.endswith(f"; also {names} and 2 more; mend or remove such files")

    def test_a_name_that_is_no_text_or_has_no_letter(self, tmp_path):
        sound(tmp_path / "caf\udce9" / "x.wav", 0)
        sound(tmp_path / "++" / "x.wav", 1)
        assert list(clips_in_folder(tmp_path)) == ["++", "caf_xe9"]

    def test_seven_classes_and_others_lie_beside_each_other(self, tmp_path):
        sounds(tmp_path, ["rain", "Raining", "DogBark"], 1, 0, seconds=SECONDS)
        assert list(clips_in_folder(tmp_path)) == [
            "dog_bark",
            "rain",
            "raining",
        ]  # Table I's order, others after

    def test_two_folders_of_one_class_are_a_mistake(self, tmp_path):
        sounds(tmp_path, ["Door Slam", "door-slam"], 1, 0)
        with pytest.raises(
            InputError, match="Door Slam and door-slam are one class, door_slam: rename one of them"
        ):
            clips_in_folder(tmp_path)

    def test_refuses(self, tmp_path):
        with pytest.raises(InputError, match="no such folder of clips"):
            clips_in_folder(tmp_path / "absent")
        with pytest.raises(InputError, match="no sounds; expected"):
            clips_in_folder(tmp_path)
        (tmp_path / "clips.zip").touch()
        with pytest.raises(InputError, match=r"no sounds, but 1 archive \(clips.zip\): unpack"):
            clips_in_folder(tmp_path)
        with pytest.raises(InputError, match="a file, not a folder"):
            clips_in_folder(tmp_path / "clips.zip")
        sounds(tmp_path, ["wind"], 1, 0)
        sound(tmp_path / "loose.wav", 0)
        with pytest.raises(InputError, match=r"beside them \(loose.wav\)"):
            clips_in_folder(tmp_path)
        (tmp_path / "loose.wav").unlink()
        (tmp_path / "wind" / "x.m4a").touch()
        with pytest.raises(InputError, match=r"x\.m4a: unreadable, \.m4a cannot be decoded"):
            clips_in_folder(tmp_path)


class TestLeftOut:
    def test_what_no_class_takes_is_told(self, sides):
        """A system that made nothing of a class was measured by its other classes, without a word."""
        made, real = sides / "made", sides / "real"
        (made / "Door slam/.takes").mkdir(parents=True)
        (made / "__MACOSX").mkdir()
        sound(made / "loose.wav", 3, seconds=SECONDS)
        sound(real / "loose.wav", 4, seconds=SECONDS)
        (real / "papers").mkdir()
        sounds(sides / "other", ["rain", "keyboard"], 5, 4, seconds=SECONDS)
        lines = [
            f"warning: {made}: left out, for no sound is in it: Door slam",
            f"warning: {made}: left out: 1 sound beside the folders of the classes (loose.wav)",
            f"warning: {real}: left out: 1 sound beside the folders of the classes (loose.wav)",
        ]
        assert run("evaluate", made, real, "--n-boot", 0, "-q").stderr.splitlines() == lines
        systems = (f"a={made}", f"b={sides / 'other'}")
        options = ("--neighbours", 2, "--n-boot", 0, "--items", 0, "-q")
        assert run("compare", *systems, "-r", real, "-o", sides / "c", *options).stderr.splitlines() == lines
        asked = run("survey", *systems, "-o", sides / "s", "--items", 1, "-q")
        assert asked.stderr.splitlines() == lines[:2]

    def test_of_two_sides_the_one_that_is_measured_counts(self, tmp_path):
        sounds(tmp_path / "eval", ["zap"], 1, 1)
        for place in ("dev/gong", "eval/Gong", "eval/hum/.hidden"):
            (tmp_path / place).mkdir(parents=True)
        assert unused(tmp_path) == [f"{tmp_path}: left out, for no sound is in it: eval/Gong, eval/hum"]
        assert not unused(tmp_path, empty=False)

    def test_sounds_in_no_folder_are_a_class(self, tmp_path):
        sound(tmp_path / "a.wav", 1)
        assert not unused(tmp_path)


class TestNames:
    def test_a_class_is_found_however_either_folder_is_called(self, tmp_path):
        sounds(tmp_path / "made", ["door_slam", "Zap"], 3, 1)
        sounds(tmp_path / "real", ["DoorSlam", "001 - zap", "not made"], 4, 2)
        found, said = told(tmp_path, tmp_path / "made", tmp_path / "real")
        assert set(found["classes"]) == {"door_slam", "zap"} and "warning" not in said.output
        assert [found["classes"][cls]["n_ref_clips"] for cls in ("door_slam", "zap")] == [4, 4]
        out = tmp_path / "compared"
        options = ("-r", tmp_path / "real", "-o", out, "--neighbours", 1, "--n-boot", 40, "--items", 0, "-q")
        done = run("compare", f"a={tmp_path / 'made'}", *options)
        assert done.exit_code == 0, done.exception
        table = pd.read_csv(out / "classes.csv").set_index("class")
        assert table["fad"].to_dict() == pytest.approx({c: row["fad"] for c, row in found["classes"].items()})

    def test_its_draws_are_those_that_its_written_name_had(self, tmp_path):
        """Zap came before bubble when names were taken as written: intervals of earlier runs stay."""
        sounds(tmp_path / "made", ["Zap", "bubble"], 4, 1)
        sounds(tmp_path / "real", ["zap", "bubble"], 4, 2)
        found, _ = told(tmp_path, tmp_path / "made", tmp_path / "real")
        assert list(found["classes"]) == ["zap", "bubble"]

    def test_the_seven_beside_others(self, sides):
        for name, folder in (("made", "DoorSlam"), ("real", "door-slam")):
            sounds(sides / name, [folder], 4, 5)
        found, _ = told(sides, sides / "made", sides / "real")
        assert list(found["classes"]) == ["keyboard", "rain", "door_slam"]
        shutil.rmtree(sides / "made/DoorSlam")  # what the reference has more is of no account
        again, _ = told(sides, sides / "made", sides / "real")
        assert again["classes"] == {c: found["classes"][c] for c in ("keyboard", "rain")}

    def test_statistics_are_found_by_the_same_names(self, tmp_path):
        sounds(tmp_path / "made", ["DoorSlam"], 3, 1)
        sounds(tmp_path / "real", ["door slam"], 4, 2)
        real = embed_clips(
            clips_in_folder(tmp_path / "real")["door_slam"], get_embedding("mel-statistics"), RATE
        )
        save_stats(tmp_path / "real.npz", {"Door-Slam": real.stats()})
        found, _ = told(tmp_path, tmp_path / "made", tmp_path / "real.npz")
        against, _ = told(tmp_path, tmp_path / "made", tmp_path / "real")
        assert found["classes"]["door_slam"]["fad"] == against["classes"]["door_slam"]["fad"]
        assert found["classes"]["door_slam"]["n_ref_silent"] is None

    def test_python_s_names_are_the_same(self, tmp_path):
        sounds(tmp_path, ["door_slam"], 3, 1)
        clips = clips_in_folder(tmp_path)["door_slam"]
        assert list(evaluate({"DoorSlam": clips}, {"door slam": clips}, n_boot=0).estimates) == ["door_slam"]

    def test_what_has_no_partner_is_told_with_what_lies_on_each_side(self, sides):
        made, real = sides / "made", sides / "real"
        sounds(made, ["Gong", "keybord"], 2, 5)
        says = refused("evaluate", made, real)
        assert says == (
            f"{real} has no gong, keybord; it has keyboard, rain, and {made} has keyboard, rain, gong, keybord:"
            " did you mean keyboard for keybord?"
        )
        assert refused("compare", f"a={made}", "-r", real, "-o", sides / "o").startswith(
            f"--reference {real} has no"
        )
        shutil.rmtree(made / "keybord")
        assert refused("evaluate", made, real).endswith("give a class one name in all folders")

    def test_a_bad_file_of_a_class_that_nobody_made_is_not_read(self, sides):
        sounds(sides / "real", ["not made"], 2, 6)
        (sides / "real/not made/00.wav").write_text("no sound")
        assert set(told(sides, sides / "made", sides / "real")[0]["classes"]) == {"keyboard", "rain"}
        with pytest.raises(InputError, match=r"not made/00\.wav: unreadable"):
            clips_in_folder(sides / "real")

    @pytest.mark.parametrize("cls", ["rain", "DoorSlam"])
    def test_a_class_without_a_sound_is_told_with_where_some_are(self, tmp_path, cls):
        """It was said that the folder is not there."""
        made = sounds(tmp_path / "made", [cls, "keyboard"], 3, 1, seconds=SECONDS)
        real = sounds(tmp_path / "real", ["keyboard"], 3, 2, seconds=SECONDS)
        (real / cls).mkdir()
        key = {"rain": "rain", "DoorSlam": "door_slam"}[cls]
        says = f"{real} has no sounds of {key} ({real / cls} is empty); it has keyboard, and "
        for command in (("evaluate", made, real), ("compare", f"a={made}", "-r", real, "-o", tmp_path / "o")):
            assert says in refused(*command)
        sides = tmp_path / "sides"
        sounds(sides / "dev", [cls, "keyboard"], 3, 3, seconds=SECONDS)
        sounds(sides / "eval", ["keyboard"], 3, 4, seconds=SECONDS)
        says = refused("evaluate", made, sides)
        assert (
            f"{sides} has no sounds of {key} (those in {sides / 'dev' / cls} are not measured); it has"
            in says
        )
        sounds(made, ["gong"], 3, 5)
        assert f"{sides} has no gong, and no sounds of {key} (those in " in refused("evaluate", made, sides)

    @pytest.mark.parametrize("cls", ["rain", "DoorSlam"])
    def test_an_empty_folder_of_a_class_that_the_reference_has_is_an_error(self, tmp_path, cls):
        """Of one's own classes it was a warning, and a system was measured by its other classes."""
        made = sounds(tmp_path / "made", ["keyboard"], 3, 1, seconds=SECONDS)
        real = sounds(tmp_path / "real", ["keyboard", cls], 3, 2, seconds=SECONDS)
        (made / cls).mkdir()
        for command in (("evaluate", made, real), ("compare", f"a={made}", "-r", real, "-o", tmp_path / "o")):
            says = refused(*command)
            assert f"{made / cls}: no sound in it" in says or f"{made}: 1 problem (1 empty class)" in says
        with pytest.raises(InputError, match=r"no sound in it|1 empty class"):
            evaluate(made, real, n_boot=0)

    @pytest.mark.parametrize("cls", ["rain", "DoorSlam"])
    def test_one_of_the_reference_that_nobody_made_is_of_no_account(self, tmp_path, cls):
        made = sounds(tmp_path / "made", ["keyboard"], 3, 1, seconds=SECONDS)
        real = sounds(tmp_path / "real", ["keyboard"], 3, 2, seconds=SECONDS)
        (real / cls).mkdir()
        assert set(told(tmp_path, made, real)[0]["classes"]) == {"keyboard"}

    def test_sides_are_no_folders_to_be_meant(self, tmp_path):
        """The very side that was measured was recommended."""
        made = tmp_path / "split"
        for side, seed in (("dev", 1), ("eval", 2)):
            sounds(made / side, ["keyboard", "gong"], 3, seed, seconds=SECONDS)
        real = sounds(tmp_path / "real", ["keyboard"], 3, 3, seconds=SECONDS)
        assert refused("evaluate", made, real).endswith(": give a class one name in all folders")

    def test_the_folder_above_and_sounds_in_no_folder(self, sides):
        made, real = sides / "made", sides / "real"
        (sides / "above").mkdir()
        made.rename(sides / "above" / "takes")
        assert refused("evaluate", sides / "above", real).endswith(
            f"did you mean {sides / 'above' / 'takes'}?"
        )
        sounds(sides, ["loose"], 2, 5)
        says = f"{sides / 'loose'}: its sounds lie in no folder of a class, and {real} has keyboard, rain: put them"
        assert says in refused("evaluate", sides / "loose", real)
        says = f"{sides / 'loose'}: its sounds lie in no folder of a class, and {real} has keyboard, rain: put them"
        assert says in refused("evaluate", real, sides / "loose")


class TestSilence:
    def test_what_is_silent(self):
        tone = np.sin(np.arange(800)).astype(np.float32)
        waves = {0.0: True, 0.0009: True, 0.0011: False}
        assert {level: is_silent(0.5 + level * tone) for level in waves} == waves  # an offset is no sound
        assert is_silent((30 * tone).astype(np.int16)) and not is_silent((40 * tone).astype(np.int16))

    @pytest.mark.parametrize("name", ["mel-statistics", "judge", "vggish-dcase", "vggish-textbook", "clap"])
    def test_no_embedding_has_nan_for_it(self, name):
        options = {"weights": None} if name.startswith("vggish") else {}
        if name == "clap":
            options["system"] = load_system("mini", "cpu")
        ears = get_embedding(name, **options)
        waves = [np.random.default_rng(i).uniform(-0.3, 0.3, 4 * RATE).astype(np.float32) for i in range(4)]
        quiet = [np.zeros(4 * RATE, np.float32), np.full(4 * RATE, 0.1, np.float32), 1e-4 * waves[3]]
        mixed, dumb, real = (embed_clips(c, ears, RATE) for c in (waves[:2] + quiet, quiet, waves[1:]))
        assert np.isfinite(dumb.values).all()
        assert (mixed.n_silent, dumb.n_silent, real.n_silent) == (3, 3, 0)
        for made in (mixed, dumb):
            found = score(
                {"rain": made}, {"rain": real}, ears, n_boot=20, neighbours=1, training={"rain": dumb}
            )
            numbers = found.classes().drop(columns=["class", "fad_inf", "similarity"]).to_numpy(dtype=float)
            assert np.isfinite(numbers).all(), found.classes().T
            assert np.isfinite(found.fad.estimates["rain"].draws).all()
            rows = clip_rows(made, real, ["x"] * len(made), ["y"] * len(real), neighbours=1)
            assert np.isfinite(rows[["distance", "oddness", "nearest_distance"]].to_numpy()).all()
            assert rows["silent"].sum() == 3
        back = evaluate({"rain": real}, {"rain": mixed}, ears, n_boot=20)  # silence among the reference
        assert math.isfinite(back.average) and back.silent_ref == {"rain": 3}
        if name == "clap":
            assert np.isfinite(options["system"].similarity(np.stack(quiet), ["rain"] * 3)).all()

    @pytest.mark.parametrize("cls", ["rain", "Door Slam"])
    def test_a_generated_one_is_measured_and_counted(self, tmp_path, cls):
        """Two clips of digital silence are no copies of each other, of the seven classes as of others."""
        made, real = (
            sounds(tmp_path / n, [cls], 4, s, seconds=SECONDS) for s, n in enumerate(("made", "real"))
        )
        without, said = told(tmp_path, made, real)
        key = "door_slam" if cls == "Door Slam" else cls
        assert without["classes"][key]["n_silent"] == 0 and "silent" not in said.output
        for name in ("x.wav", "y.wav"):
            silence(made / cls / name)
        found, said = told(tmp_path, made, real)
        row = found["classes"][key]
        assert (row["n_clips"], row["n_silent"], row["n_ref_silent"]) == (6, 2, 0)
        assert row["fad"] > without["classes"][key]["fad"]
        line = f"warning: silent generated clips are measured like any other: {key} 2 of 6"
        assert said.stderr.splitlines().count(line) == 1
        head, first = said.stdout.splitlines()[:2]
        assert head.split()[-1] == "silent" and first.split()[-3:] == ["6", "4", "2"]
        again = evaluate(made, real, n_boot=40)
        assert again.estimates[key].fad == row["fad"] and again.silent == {key: 2}

    def test_seconds_that_are_measured_decide(self, tmp_path):
        """What sounds after them is not heard by any figure."""
        made, real = (
            sounds(tmp_path / n, ["zap"], 3, s, seconds=SECONDS) for s, n in enumerate(("made", "real"))
        )
        late = np.concatenate([np.zeros(RATE), 0.1 * np.sin(np.arange(RATE))]).astype(np.float32)
        write_wave(made / "zap" / "late.wav", late, RATE)
        counts = {
            s: told(tmp_path, made, real, "--seconds", s)[0]["classes"]["zap"]["n_silent"] for s in (1, 2)
        }
        assert counts == {1: 1, 2: 0}

    def test_a_reference_clip_is_measured_and_told(self, sides):
        silence(sides / "real/rain/x.wav")
        silence(sides / "real/rain/y.wav")
        found, said = told(sides, sides / "made", sides / "real")
        assert (found["classes"]["rain"]["n_ref_clips"], found["classes"]["rain"]["n_ref_silent"]) == (8, 2)
        assert "warning: silent reference clips are measured like any other: rain 2 of 8" in said.stderr
        assert "silent" not in said.stdout.splitlines()[0]

    @pytest.mark.parametrize("cls", ["rain", "zap"])
    def test_all_generated_clips(self, tmp_path, cls):
        real = sounds(tmp_path / "real", [cls], 4, 1, seconds=SECONDS)
        for i in range(4):
            silence(tmp_path / "made" / cls / f"{i}.wav")
        found, said = told(tmp_path, tmp_path / "made", real)
        row = found["classes"][cls]
        assert row["n_silent"] == row["n_clips"] == 4 and f"{cls} 4 of 4" in said.stderr
        assert row["fad"] > 0 and None not in row["ci"]

    @pytest.mark.parametrize("cls", ["rain", "zap"])
    def test_all_reference_clips(self, tmp_path, cls):
        made = sounds(tmp_path / "made", [cls], 4, 1, seconds=SECONDS)
        for i in range(4):
            silence(tmp_path / "real" / cls / f"{i}.wav")
        told = f"{tmp_path / 'real'}: {cls}: its 4 clips are all silent; real clips need a sound: give others, or"
        told += " leave the class out of all folders"
        assert told == refused("evaluate", made, tmp_path / "real")
        with pytest.raises(InputError, match=f"^{tmp_path}/real: {cls}: its 4 clips are all silent"):
            evaluate(made, tmp_path / "real", n_boot=0)
        options = ("-r", tmp_path / "real", "-o", tmp_path / "o", "--neighbours", 1)
        assert told == refused("compare", f"a={made}", *options) and not (tmp_path / "o").exists()

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "cannot be read as sound"),
            (b"no sound", "cannot be read as sound"),
            (None, "no samples|too short|empty"),
        ],
    )
    @pytest.mark.parametrize("cls", ["rain", "zap"])
    def test_no_sound_file_is_no_silence(self, tmp_path, cls, content, says):
        made, real = (
            sounds(tmp_path / n, [cls], 3, s, seconds=SECONDS) for s, n in enumerate(("made", "real"))
        )
        bad = made / cls / "01.wav"
        soundfile.write(bad, np.zeros(0), RATE) if content is None else bad.write_bytes(content)
        with pytest.raises(InputError, match=f"01.wav: .*({says})"):
            evaluate(made, real, n_boot=0)
        assert "01.wav" in refused("evaluate", made, real)

    def test_a_comparison_counts_it_in_tables_record_and_page(self, sides):
        for name in ("x", "y"):
            silence(sides / f"made/rain/{name}.wav")
            silence(sides / f"made/keyboard/{name}.wav")
        silence(sides / "real/rain/x.wav")
        sounds(sides / "other", ["rain", "keyboard"], 7, 4, seconds=SECONDS)
        out = sides / "compared"
        options = ("-r", sides / "real", "-o", out, "--neighbours", 2, "--n-boot", 20, "--items", 3, "-q")
        done = run("compare", f"a={sides / 'made'}", f"b={sides / 'other'}", *options)
        assert done.exit_code == 0, (done.output, done.exception)
        lines = {
            "silent clips of a are measured like any other: keyboard 2 of 7, rain 2 of 7",
            "silent reference clips are measured like any other: rain 1 of 7",
        }
        # no word of copies: silence is none
        assert {line.removeprefix("warning: ") for line in done.stderr.splitlines()} == lines
        assert [line.split()[-1] for line in done.stdout.splitlines()[:3]] == ["silent", "4", "0"]
        record = read_json(out / "compare.json")
        assert [row["n_silent"] for row in record["summary"]] == [4, 0]
        assert [(row["n_silent"], row["n_ref_silent"]) for row in record["classes"]] == [
            (2, 0),
            (2, 1),
            (0, 0),
            (0, 1),
        ]
        classes, clips = (pd.read_csv(out / name) for name in ("classes.csv", "clips.csv"))
        assert classes["n_silent"].tolist() == [2, 2, 0, 0]
        silent = clips[clips["silent"]]
        assert silent["file"].tolist() == ["x.wav", "y.wav"] * 2 and clips["distance"].notna().all()
        page = (out / "listen/index.html").read_text()
        assert "of them silent" in page and ">silent clips<" in page and all(line in page for line in lines)
        assert "silent" not in Run({}, sides, None, 1.0, 1, 0, 0, 0).warnings

    def test_its_players_say_so_and_are_no_louder(self, sides):
        """A hum below -60 dBFS is silent in every table; its player raised it to the others' loudness."""
        hum = 6e-4 * np.sin(2 * np.pi * 440 * np.arange(round(SECONDS * RATE)) / RATE)
        write_wave(sides / "made/rain/00.wav", (0.1 + hum).astype(np.float32), RATE)
        sounds(sides / "other", ["rain", "keyboard"], 5, 4, seconds=SECONDS)
        out = sides / "compared"
        options = ("-r", sides / "real", "-o", out, "--neighbours", 2, "--n-boot", 20, "--items", 1, "-q")
        done = run("compare", f"a={sides / 'made'}", f"b={sides / 'other'}", *options)
        assert done.exit_code == 0, (done.output, done.exception)
        page = (out / "listen/index.html").read_text()
        # side by side, and as the oddest clip of its system
        assert page.count("(silent)") == 2 and "00.wav (silent)" in page
        peaks = [np.abs(soundfile.read(path)[0]).max() for path in (out / "listen").glob("*.mp3")]
        assert sum(peak < 2e-3 for peak in peaks) == 1

    def test_a_scan_keeps_it_where_it_is_asked_to(self, tmp_path):
        for name in ("x", "y"):
            silence(tmp_path / f"rain/{name}.wav")
        sound(tmp_path / "rain/z.wav", 0, seconds=SECONDS)
        strict, kept = scan(tmp_path), scan(tmp_path, keep_silent=True)
        assert [p.kind for p in strict.problems if p.kind != "missing class"] == ["silent", "silent"]
        assert [clip.silent for clip in kept.clips] == [True, True, False] and len(strict.clips) == 1

    def test_raters_hear_every_one(self, tmp_path):
        """As many as the system made; identical files of silence were taken for copies of one."""
        folders = {
            name: sounds(tmp_path / name, ["rain"], 1, s, seconds=SECONDS) for s, name in enumerate("ab")
        }
        for folder in folders.values():
            for i in range(2):
                silence(folder / f"rain/s{i}.wav")
        done = run(
            "survey", *(f"{n}={f}" for n, f in folders.items()), "-o", tmp_path / "s", "--items", 3, "-q"
        )
        assert done.exit_code == 0, done.exception
        assert len(pd.read_csv(tmp_path / "s/key.csv")) == 6
        assert json.loads((tmp_path / "s/survey.json").read_text())["classes"]

    def test_a_survey_names_a_file_without_samples(self, tmp_path):
        a, b = (sounds(tmp_path / name, ["zap"], 1, s) for s, name in enumerate("ab"))
        soundfile.write(a / "zap/none.wav", np.zeros(0), RATE)
        says = refused("survey", f"a={a}", f"b={b}", "-o", tmp_path / "s", "--items", 1, "-q")
        assert "first: zap/none.wav: unreadable, no samples in it" in says
