"""What `make book` looks at before anything runs."""

import pytest
from typer.testing import CliRunner

from badinput import Shelf
from latentclap.errors import InputError
from latentclap.workflow import app


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("materials"))


def check(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_good_folder_is_counted(shelf):
    result = check("--data", shelf.get("good_clips"))
    assert result.exit_code == 0, result.exception
    assert result.output.endswith("14 dev and 7 eval clips\n")


def test_bad_files_are_listed_and_left_out(shelf):
    result = check("--data", shelf.get("one_nan"))
    assert result.exit_code == 0, result.exception
    assert "rain/1.wav" in result.output and "16000 samples are NaN" in result.output
    assert result.output.endswith("1 dev and 1 eval clips\n")


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
