"""Bad input, tried: the list of mistakes is complete in form, the record is of this list, and a few are made here."""

import importlib.util
from pathlib import Path

import pytest

from badinput import MATERIALS, Outcome, Shelf, read_cases, run_case
from badinput.trial import content
from latentclap import cli
from latentclap.book.badinput import bad_input_page, tables
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "book" / "runs" / "bad_input.json"


@pytest.fixture(scope="module")
def cases():
    return read_cases()


def test_every_public_command_has_mistakes(cases):
    commands = [case.command for case in cases]
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert sum(c.startswith(f"latentclap {name}") for c in commands) >= 10, name
    for script in sorted((ROOT / "data_scripts").glob("*.py")):
        if script.name != "bad_input.py":
            assert any(f"data_scripts/{script.name}" in c for c in commands), script.name
    assert all(f"papermill notebooks/03_finetune.ipynb out.ipynb -k python3 -p {p}" in commands for p in (
        "lamm 1000", "lam abc", "profile nope", "data_dir {absent}",
    ))  # fmt: skip


def test_cases_are_whole(cases):
    assert len({(case.group, case.name) for case in cases}) == len(cases)
    assert {name for case in cases for name in case.materials} <= set(MATERIALS)
    for case in cases:
        assert case.command.split()[0] in ("latentclap", "python", "papermill"), case
        assert "/tmp" not in case.command and str(ROOT) not in case.command, case
        # in a terminal papermill asks for the second path, and a notebook needs its kernel
        assert not case.command.startswith("papermill") or " out.ipynb -k python3 " in case.command, case


def test_every_kind_of_bad_sound_is_tried_alone_and_in_every_file(cases):
    used = {name for case in cases for name in case.materials}
    for fault in ("cut", "text", "empty", "no_samples", "silent", "nan", "short", "locked"):
        assert {f"one_{fault}", f"all_{fault}"} <= used
    assert {"duplicate", "wrong_class", "foreign_classes", "locked_class", "locked_folder"} <= used


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('g = [{ name = "a" }]', "missing 1 required"),
        ('g = [{ name = "a", command = "x", extra = 1 }]', "unexpected keyword"),
        ('g = [{ name = "a", command = "x {nobody}" }]', "nobody makes nobody"),
        ('g = [{ name = "a", command = "x" }, { name = "a", command = "y" }]', "it is there twice"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, says):
    (tmp_path / "cases.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        read_cases(tmp_path / "cases.toml")


CHEAP = [
    ("latentclap", "an unknown command"),
    ("latentclap generate", "classes and a prompt"),
    ("latentclap generate", "a folder that may not be written to"),
    ("latentclap info", "a text under a weights file's name"),
    ("make book PROFILE=... DATA=...", "an unknown key"),
    ("the book's tools", "a model card that is no JSON"),
    ("data_scripts/environment.py", "an option it does not have"),
]


@pytest.mark.parametrize(("group", "name"), CHEAP)
def test_a_few_of_them(cases, tmp_path, group, name):
    (case,) = [case for case in cases if (case.group, case.name) == (group, name)]
    shelf = Shelf(tmp_path / "materials")
    outcome = run_case(case, tmp_path, shelf, ROOT)
    shelf.unlock()
    assert not outcome.faults, outcome
    assert str(tmp_path) not in outcome.says and str(ROOT) not in outcome.says


def test_materials_have_their_fault_and_can_be_removed(tmp_path):
    shelf = Shelf(tmp_path)
    assert shelf.get("absent").exists() is False
    assert (shelf.get("one_locked") / "rain/1.wav").stat().st_mode & 0o777 == 0
    assert shelf.get("locked_folder").stat().st_mode & 0o777 == 0
    assert (shelf.get("one_empty") / "rain/1.wav").stat().st_size == 0
    assert shelf.get("json_profile").name == "profile.json"
    assert shelf.get("one_empty") is shelf.get("one_empty")
    shelf.unlock()
    assert all(path.stat().st_mode & 0o700 == 0o700 for path in tmp_path.rglob("*"))


def outcome(**changes):
    good = {
        "group": "g",
        "name": "n",
        "command": "latentclap x",
        "status": 2,
        "says": "error: no",
        "lines": 1,
    }
    return Outcome(**{**good, "traceback": False, "left": [], "seconds": 0.1, **changes})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": 0}, "status 0"),
        ({"status": -9}, "status -9"),
        ({"traceback": True}, "a traceback"),
        ({"lines": 2}, "2 lines"),
        ({"says": "KeyError: 'x'"}, "the last line is not ours"),
        ({"left": ["out/"]}, "left out/"),
        ({"command": "papermill x", "says": "KeyError: 'x'"}, "the last line is not ours"),
    ],
)
def test_faults_are_seen(changes, fault):
    assert outcome().faults == []
    assert outcome(**changes).faults == [fault]
    log = {
        "command": "papermill x",
        "says": "InputError: no",
        "lines": 30,
        "traceback": True,
        "left": ["out.ipynb"],
    }
    assert outcome(**log).faults == []


def test_what_is_left_is_found(tmp_path):
    before = content(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/c").write_text("")
    assert content(tmp_path) - before == {"a/", "a/b/", "a/c"}


def test_the_record_is_of_these_cases_and_without_fault(cases):
    rows = read_json(RECORD)
    recorded = [(row["group"], row["name"], row["command"]) for row in rows]
    wanted = [(case.group, case.name, case.shown) for case in cases]
    assert recorded == wanted, "run data_scripts/bad_input.py run again"
    assert [row for row in rows if Outcome(**row).faults] == []


def test_the_page(tmp_path):
    rows = [vars(outcome(says="error: a|b `c`", left=["out/"])), vars(outcome(group="h", command="x <y>"))]
    write_json(tmp_path / "r.json", rows)
    text = bad_input_page(tmp_path / "r.json", tmp_path / "page.md").read_text()
    assert text == tables(rows)
    assert text.startswith("**2 mistakes of 2 commands were tried; 1 ended as they should.**")
    assert "2 ended with a status that is not zero, 2 with exactly one line" in text
    assert '<a href="#g">g</a> (1)' in text
    case = '<a id="case-g-n" href="#case-g-n">n</a><br>`latentclap x`'
    assert f"| {case} | `` error: a\\|b `c` `` | 2<br>leaves `out/` |" in text
    assert text.count("\n## ") == text.count("</details>") == 2 and "`x <y>`" in text
    for wrong in ("3", '[{"group": "g"}]'):
        (tmp_path / "r.json").write_text(wrong)
        with pytest.raises(InputError, match="expected a list of outcomes"):
            bad_input_page(tmp_path / "r.json")
    with pytest.raises(InputError, match="no such record"):
        bad_input_page(tmp_path / "absent.json")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bad_input", ROOT / "data_scripts" / "bad_input.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_chooses_by_word(script):
    assert {case.group for case in script.chosen("environment.py")} == {"data_scripts/environment.py"}
    assert script.chosen("") == read_cases()
    with pytest.raises(InputError, match="no such case"):
        script.chosen("xyzzy")
    assert script.RECORD == RECORD


def test_a_record_is_made_in_pieces(script, cases):
    first, second = cases[0], cases[1]

    def row(case, status):
        return outcome(group=case.group, name=case.name, command=case.shown, status=status)

    old = [vars(row(second, 1)), vars(outcome(name="a case of the past"))]
    rows = script.merged(old, [row(first, 2)])
    assert [(r["name"], r["status"]) for r in rows] == [(first.name, 2), (second.name, 1)]
    assert script.merged(rows, [row(second, 3)])[1]["status"] == 3
