"""Surveys of classes of one's own: under any names, from folders to pages, and from answers to statistics."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from latentclap import cli, stats
from latentclap.asked import named_texts
from latentclap.audio import write_wave
from latentclap.classes import class_key
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.naming import spoken
from latentclap.survey import RatedClip, make_survey, survey_form

RATE = 16_000


def sounds(folder: Path, classes, n=2, seed=0, seconds=0.6) -> Path:
    """n clips of noise in each class folder."""
    for k, cls in enumerate(classes):
        for i in range(n):
            rng = np.random.default_rng([seed, k, i])
            wave = (0.1 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)
            write_wave(folder / cls / f"{i}.wav", wave, RATE)
    return folder


#: folder -> what raters read, and what the page is called
ODD = {
    "<b>Tür<b> & 'Schlag' $& $1": ("<b>tür<b> & 'schlag' $& $1", r"b_tur_b_schlag_1-[0-9a-f]{8}"),
    "L'Eau": ("l'eau", "l_eau"),
    "ドア": ("ドア", r"class-[0-9a-f]{8}"),
    "Index": ("index", r"index-[0-9a-f]{8}"),  # the list of pages has that name
    "CON": ("con", r"con-[0-9a-f]{8}"),  # Windows has no such file
    "808": ("808", "808"),
    "x" * 240: ("x" * 240, r"x{40}-[0-9a-f]{8}"),
    "ü" * 120: ("ü" * 120, r"u{40}-[0-9a-f]{8}"),
    "a\nb\\c": ("a b\\c", "a_b_c"),
}


@pytest.fixture
def folders(tmp_path):
    """Recordings as their folders are called, and clips as `latentclap generate` writes them."""
    return {
        "Recorded": sounds(tmp_path / "takes", ("Door Slam", "Sword-Swing"), seed=1),
        "After": sounds(tmp_path / "made", ("door_slam", "sword_swing"), seed=2),
    }


def run(*arguments):
    return CliRunner().invoke(cli.app, ["survey", *map(str, arguments)])


def asked(folders, *more):
    return run(*(f"{name}={folder}" for name, folder in folders.items()), "--items", 2, "-q", *more)


def data_of(page) -> dict:
    """What the script of a page is told."""
    return json.loads(re.search(r'json">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def key_of(made) -> pd.DataFrame:
    return pd.read_csv(made.folder / "key.csv", dtype=str, keep_default_na=False)


class TestNames:
    @pytest.mark.parametrize(
        ("spellings", "key", "read"),
        [
            (
                ("Door_Slam", "door slam", "DoorSlam", "door-slam", "001 - Door slam"),
                "door_slam",
                "door slam",
            ),
            (("DogBark", "dog bark", "dog_bark", "01 - Dog Bark"), "dog_bark", "dog bark"),
            (("Sneeze_Cough",), "sneeze_cough", "sneeze or cough"),  # as the paper's prompt has it
            (("<b>Tür</b> & Co.",), "b_tür_b_co", "b tür b co"),
            (("Cafe\u0301", "Caf\u00e9"), "caf\u00e9", "caf\u00e9"),  # accents of a Mac's disk, and of others
            (("कला",), "कला", "कला"),  # a vowel is a mark
            (("कल",), "कल", "कल"),
            (("=SUM(A1)",), "sum_a1", "sum a1"),
            (("../../etc", r"..\etc"), "etc", "etc"),
            (("007",), "007", "007"),
        ],
    )
    def test_a_class_has_one_name_however_it_is_spelt(self, spellings, key, read):
        assert {class_key(name) for name in spellings} == {key}
        assert class_key(key) == key  # as answers and keys are read again
        assert spoken(key) == read

    @pytest.mark.parametrize("name", ["♥", "!!!", " ", "", "\u0301"])
    def test_a_name_has_a_letter_or_a_digit(self, name):
        with pytest.raises(InputError, match="its name needs a letter or a digit"):
            class_key(name)


class TestPages:
    def test_folders_of_one_class_are_found_whatever_their_spelling(self, folders, tmp_path):
        made = make_survey(folders, tmp_path / "study", items=2, progress=False)
        assert made.labels == {"door_slam": "door slam", "sword_swing": "sword swing"}
        assert {cls: page.name for cls, page in made.pages.items()} == {
            "door_slam": "door_slam.html",
            "sword_swing": "sword_swing.html",
        }
        key = key_of(made)
        assert key.groupby(["class", "model"]).size().tolist() == [2, 2, 2, 2]
        assert key[key.model == "Recorded"].file.str.contains("Door Slam|Sword-Swing").all()
        for cls, words in made.labels.items():
            data = data_of(made.pages[cls])
            assert data["classes"] == [{"name": cls, "label": words}]
            assert data["title"] == f"Listening test: {words}"
            assert any(f"how well it fits “{words}”" in text for text in data["intro"])
            assert {clip["id"] for clip in data["clips"]} == set(key[key["class"] == cls]["clip"])
            assert data["study"].startswith(f"{cls}-")
        index = (made.folder / "pages" / "index.html").read_text()
        assert '<a href="door_slam.html">door slam</a>' in index
        assert read_json(made.folder / "survey.json")["classes"] == made.labels

    def test_raters_read_the_text_that_a_clip_was_asked_to_be(self, tmp_path):
        """Its folder is called by the first sixty signs, without any but letters and digits."""
        long = "a heavy wooden door that slams shut in a large stone hall, at night"
        prompts = [f"This is a sound of {long}.", "A dog's bowl", "Hiss."]
        names = named_texts("", prompts)
        both = {name: sounds(tmp_path / name, names, 1, seed=k) for k, name in enumerate("ab")}
        clips = [{"class": cls, "prompt": text} for cls, text in names.items()]
        write_json(both["b"] / "generation.json", {"clips": clips})
        made = make_survey(both, tmp_path / "study", items=1, progress=False)
        assert set(made.labels.values()) == {long, "A dog's bowl", "hiss"}
        write_json(both["b"] / "generation.json", [])  # another program's
        made = make_survey(both, tmp_path / "other", items=1, progress=False)
        assert set(made.labels.values()) == {long.replace(",", "")[:60].strip(), "a dog s bowl", "hiss"}

    def test_classes_have_their_names_whichever_system_comes_first(self, folders, tmp_path):
        one = make_survey(folders, tmp_path / "one", items=2, progress=False)
        turned = dict(reversed(folders.items()))
        other = make_survey(turned, tmp_path / "other", items=2, progress=False)
        assert one.labels == other.labels and list(one.pages) == list(other.pages)

    def test_the_papers_classes_and_others_are_one_survey(self, tmp_path):
        classes = ("DogBark", "sword", "rain", "Axe")
        both = {name: sounds(tmp_path / name, classes, seed=k) for k, name in enumerate("ab")}
        made = make_survey(both, tmp_path / "study", items=2, progress=False)
        assert list(made.pages) == ["dog_bark", "rain", "axe", "sword"]  # the paper's order first

    def test_the_seven_are_drawn_and_called_as_if_they_were_alone(self, tmp_path):
        """A survey that is there, and its key, do not change because a folder of another class lies beside them."""
        both = {name: sounds(tmp_path / name, ("rain", "gunshot"), 4, k) for k, name in enumerate("ab")}
        alone = make_survey(both, tmp_path / "alone", items=2, progress=False)
        for folder in both.values():
            sounds(folder, ("zap",))
        beside = make_survey(both, tmp_path / "beside", items=2, classes=("gunshot", "rain"), progress=False)
        assert (alone.folder / "key.csv").read_text() == (beside.folder / "key.csv").read_text()
        for page in alone.pages.values():
            assert page.read_text() == (beside.folder / "pages" / page.name).read_text()

    def test_odd_names_are_right_everywhere(self, tmp_path):
        both = {name: sounds(tmp_path / name, ODD, 1, seed=k) for k, name in enumerate("ab")}
        made = make_survey(both, tmp_path / "study", items=1, progress=False)
        assert set(made.labels.values()) == {words for words, _ in ODD.values()}
        index = (made.folder / "pages" / "index.html").read_text(encoding="utf-8")
        assert "<b>" not in index and "&lt;b&gt;tür&lt;b&gt; &amp;" in index
        links = re.findall(r'href="([^"]+\.html)"', index)
        assert sorted(map(unquote, links)) == sorted(page.name for page in made.pages.values())
        for name, (words, stem) in ODD.items():
            page = made.pages[class_key(name)]
            assert re.fullmatch(stem, page.stem) and page.name.isascii()
            text = page.read_text(encoding="utf-8")
            assert "<b>" not in text
            data = data_of(page)
            assert data["classes"] == [{"name": class_key(name), "label": words}]
            assert len(data["study"]) < 70 and data["study"].isascii()  # a part of the saved file's name
        assert set(key_of(made)["class"]) == set(map(class_key, ODD))

    def test_of_two_sides_the_one_for_evaluation_is_heard(self, folders, tmp_path):
        both = tmp_path / "sides"
        sounds(both / "dev", ("Door Slam",), seed=3)
        sounds(both / "eval", ("Door Slam",), seed=4)
        made = make_survey(folders | {"Recorded": both}, tmp_path / "study", items=2, progress=False)
        files = key_of(made).query("model == 'Recorded'").file
        assert len(files) == 2 and files.str.contains("/eval/").all()

    def test_a_short_clip_and_a_silent_one_are_heard(self, folders, tmp_path):
        """A blow is over in a tenth of a second; silence is what a system made."""
        sounds(folders["Recorded"], ("Sword-Swing",), seed=5, seconds=0.1)
        write_wave(folders["After"] / "sword_swing" / "0.wav", np.zeros(RATE, np.float32), RATE)
        made = make_survey(folders, tmp_path / "study", items=2, classes=("sword swing",), progress=False)
        waves = [soundfile.read(path)[0] for path in (made.folder / "pages/clips").iterdir()]
        assert [len(wave) for wave in waves] == [RATE] * 4 and sum(not wave.any() for wave in waves) == 1

    def test_a_form_says_classes_as_people_read_them(self):
        clips = [RatedClip("a", "door_slam", "a.wav"), RatedClip("b", "rain", "b.wav")]
        for labels, words in ((None, "door slam"), ({"door_slam": "the door"}, "the door")):
            form = survey_form(clips, study="s", title="t", intro=(), labels=labels)
            data = json.loads(re.search(r'json">(.*?)</script>', form, re.S)[1])
            assert [cls["label"] for cls in data["classes"]] == [words, "rain"]


class TestCommand:
    def test_says_what_raters_read_and_a_command_that_can_be_pasted(self, folders, tmp_path):
        done = asked(folders, "-o", tmp_path / "our study")
        assert done.exit_code == 0, done.output
        assert "8 clips, 2 classes: " in done.output and "raters read: door slam, sword swing" in done.output
        assert f"-p ratings_key '{tmp_path / 'our study' / 'key.csv'}'" in done.output
        assert "warning" not in done.output

    def test_warns_of_classes_that_not_every_system_has(self, folders, tmp_path):
        sounds(folders["Recorded"], ("Glass Break",))
        done = asked(folders, "-o", tmp_path / "s")
        assert done.exit_code == 0
        told = "warning: classes left out, which not every folder has: glass_break (not in After)"
        assert told in done.output
        assert "raters read: door slam, sword swing\n" in done.output
        chosen = asked(folders, "-o", tmp_path / "t", "--classes", "door slam")
        assert "warning" not in chosen.output  # what is chosen leaves nothing out unasked

    @pytest.mark.parametrize(
        ("classes", "pages"),
        [
            ("Door Slam", ["door_slam"]),
            ("sword_swing, door-slam,DoorSlam", ["sword_swing", "door_slam"]),
            ("all", ["door_slam", "sword_swing"]),
        ],
    )
    def test_classes_are_chosen_in_any_spelling(self, folders, tmp_path, classes, pages):
        assert asked(folders, "-o", tmp_path / "s", "--classes", classes).exit_code == 0
        assert list(read_json(tmp_path / "s" / "survey.json")["classes"]) == pages

    def test_the_papers_classes_may_have_spaces_between_them(self, tmp_path):
        both = {name: sounds(tmp_path / name, ("rain", "dog_bark"), seed=k) for k, name in enumerate("ab")}
        assert asked(both, "-o", tmp_path / "s", "--classes", "rain dog_bark").exit_code == 0
        assert list(read_json(tmp_path / "s" / "survey.json")["classes"]) == ["rain", "dog_bark"]

    @pytest.mark.parametrize(
        ("more", "classes", "says"),
        [
            (
                ("door slam",),
                "",
                r"takes: Door Slam and door slam are one class, door_slam: rename one of them",
            ),
            (("Sword_Swing",), "", r"Sword-Swing and Sword_Swing are one class, sword_swing"),
            (("♥",), "", r"takes: class '♥': its name needs a letter or a digit; rename the folder"),
            ((b"caf\xe9",), "", r"caf\\xe9: the folder's name is no text in UTF-8; rename it"),
            ((), "gong", r"unknown class 'gong'; the folders have door_slam, sword_swing$"),
            ((), "door_slam,♥", r"class '♥': its name needs"),
            ((), "rain", r"Recorded: .*takes has no clips of rain, and 2 are asked for; generate more$"),
        ],
    )
    def test_refuses_in_one_line_before_any_work(self, folders, tmp_path, more, classes, says):
        for name in more:
            text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
            sounds(folders["Recorded"], (text,), seed=7)
        done = asked(folders, "-o", tmp_path / "s", *(("--classes", classes) if classes else ()))
        assert isinstance(done.exception, InputError), done.output
        assert re.search(says, str(done.exception)) and "\n" not in str(done.exception), done.exception
        assert not (tmp_path / "s").exists()

    def test_names_what_each_folder_has_where_none_is_in_all(self, folders, tmp_path):
        folders["After"] = sounds(tmp_path / "other", [f"kind_{k}" for k in range(9)])
        done = asked(folders, "-o", tmp_path / "s")
        assert re.search(
            r"no class has clips in every folder: .*takes has door_slam, sword_swing; .*other has kind_0, .*,"
            r" kind_6 and 2 more$",
            str(done.exception),
        )

    def test_a_folder_without_classes_is_told_what_is_missing(self, folders, tmp_path):
        loose = tmp_path / "loose"
        loose.mkdir()
        write_wave(loose / "zap.wav", np.full(RATE, 0.1, np.float32), RATE)
        done = asked(folders | {"Loose": loose}, "-o", tmp_path / "s")
        assert "sounds lie in no folder of a class" in str(done.exception)
        (tmp_path / "packed").mkdir()
        (tmp_path / "packed" / "doors.zip").write_bytes(b"")
        done = asked(folders | {"Packed": tmp_path / "packed"}, "-o", tmp_path / "s")
        assert "packed: found 1 archive (doors.zip): unpack them there" in str(done.exception)

    @pytest.mark.parametrize(("name", "content"), [("0.wav", b"text"), ("take.m4a", b"")])
    def test_a_sound_that_cannot_be_read_is_named(self, folders, tmp_path, name, content):
        (folders["After"] / "door_slam" / name).write_bytes(content)
        done = asked(folders, "-o", tmp_path / "s")
        assert f"first: door_slam/{name}: unreadable" in str(done.exception)


class TestAnswers:
    MODELS = ("Recorded", "Before", "After")

    def study(self, folder: Path, classes, raters="abcd", seed=0) -> Path:
        """A key, and a file of answers from each rater, of all classes."""
        folder.mkdir()
        rows = [
            (f"{class_key(cls)[:2]}{k:06x}", cls, model, str(item))
            for k, (cls, model, item) in enumerate(itertools.product(classes, self.MODELS, range(2)))
        ]
        key = pd.DataFrame(rows, columns=["clip", "class", "model", "item"])
        key.assign(file="x.wav").to_csv(folder / "key.csv", index=False)
        (folder / "answers").mkdir()
        rng = np.random.default_rng(seed)
        for rater in raters:
            own = key[["clip", "class"]].assign(rater=rater, quality=rng.integers(11, size=len(key)))
            own = own.assign(relevance=own.quality.to_numpy()[::-1], when="2026-01-01")
            own.to_csv(folder / f"answers/{rater}.csv", index=False)
        return folder

    def test_statistics_are_those_of_the_same_ratings_of_the_seven(self, tmp_path):
        own = self.study(tmp_path / "own", ("door_slam", "007"))
        seven = self.study(tmp_path / "seven", ("rain", "gunshot"))
        read = [stats.read_ratings(f / "answers", key=f / "key.csv") for f in (own, seven)]
        assert [sorted(table["class"].unique()) for table in read] == [
            ["007", "door_slam"],
            ["gunshot", "rain"],
        ]
        assert stats.classes_between(read[0]) is None
        pd.testing.assert_frame_equal(*(stats.mixed_anova(table, "quality", between=None) for table in read))
        pd.testing.assert_frame_equal(*(stats.post_hoc(table, "quality", between=None) for table in read))
        pd.testing.assert_frame_equal(*(stats.by_items(table, "relevance") for table in read))

    def test_says_which_classes_were_rated(self, tmp_path):
        study = self.study(tmp_path / "own", ("door_slam", "sword", "rain"))
        table = stats.read_ratings(study / "answers", key=study / "key.csv")
        assert stats.rated_classes(table) == "3 classes (door slam, sword, rain)"
        assert stats.rated_classes(table, study / "key.csv") == "3 classes (door slam, sword, rain)"
        one = table[table["class"] == "sword"]
        assert stats.rated_classes(one, study / "key.csv") == (
            "1 of 3 classes (sword; no answers of door slam, rain)"
        )
        assert stats.rated_classes(one) == "1 class (sword)"

    def test_answers_to_another_survey_are_refused(self, tmp_path):
        doors, swords = (self.study(tmp_path / cls, (cls,)) for cls in ("door_slam", "sword"))
        (swords / "answers" / "b.csv").rename(doors / "answers" / "late.csv")
        says = (
            r"late\.csv: clip 'sw000000' is not in .*key\.csv; these are answers to another survey, or its key"
            r" \(answers: sword; key: door_slam\)$"
        )
        with pytest.raises(InputError, match=says):
            stats.read_ratings(doors / "answers", key=doors / "key.csv")

    def test_surveys_of_other_systems_are_refused(self, tmp_path):
        """Open tables, without a key: the analysis would compare systems that nobody heard together."""
        head = "rater,class,model,item,quality,relevance\n"
        rows = [
            f"{cls[0]}{rater},{cls},{model},0,{rater + k},{k}"
            for cls, models in (("door_slam", "AB"), ("sword", "AC"))
            for rater in range(3)
            for k, model in enumerate(models)
        ]
        (tmp_path / "r.csv").write_text(head + "\n".join(rows) + "\n")
        table = stats.read_ratings(tmp_path / "r.csv")
        says = r"'door_slam' has none of 'C'; leave out what is incomplete, and analyse surveys of other models apart"
        with pytest.raises(InputError, match=says):
            stats.mixed_anova(table, "quality", between=stats.classes_between(table))

    def test_a_class_that_is_spelt_in_two_ways_is_one(self, tmp_path):
        rows = "a,Door Slam,A,0,1,2\na,door_slam,B,0,3,4\na,DogBark,A,0,5,6\n"
        (tmp_path / "r.csv").write_text(f"rater,class,model,item,quality,relevance\n{rows}")
        assert stats.read_ratings(tmp_path / "r.csv")["class"].tolist() == [
            "door_slam",
            "door_slam",
            "dog_bark",
        ]

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ("b,,A,0,1,2", r"r\.csv: row 2 below the header has no class; fill it in, or leave the row out"),
            ("b,!!!,A,0,1,2", r"r\.csv: class '!!!': its name needs a letter or a digit"),
        ],
    )
    def test_a_row_says_its_class(self, tmp_path, row, says):
        (tmp_path / "r.csv").write_text(f"rater,class,model,item,quality,relevance\na,rain,A,0,1,2\n{row}\n")
        with pytest.raises(InputError, match=says):
            stats.read_ratings(tmp_path / "r.csv")
