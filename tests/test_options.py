"""What commands share: words for numbers, NAME=FOLDER, the device, checks of options."""

import math
import os
from pathlib import Path

import pytest

from latentclap.errors import InputError
from latentclap.options import at_least, device_for, embedding_name, named_folder
from latentclap.wording import file_size, human, plural


def test_numbers_with_their_nouns(tmp_path):
    assert [plural(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert [plural(n, "class", "classes") for n in (1, 7)] == ["1 class", "7 classes"]
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 288_600_000: "288.6 MB", 3 * 10**12: "3.00 TB"}
    assert {size: human(size) for size in sizes} == sizes and human(None) == "size not told"
    (tmp_path / "x").write_bytes(bytes(1500))
    assert file_size(tmp_path / "x") == "1.5 kB"


def test_a_name_and_its_folder():
    assert named_folder("  two  words=a=b") == ("two words", Path("a=b"))
    assert named_folder(os.fsdecode(b"caf\xe9=x")) == ("caf\\xe9", Path("x"))
    for text in ("folder", "=folder", "  =folder", "name="):
        with pytest.raises(InputError, match="NAME=FOLDER"):
            named_folder(text)


def test_the_device_of_a_command_is_that_of_the_notebooks(monkeypatch):
    import torch

    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # is put back afterwards
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LATENTCLAP_DEVICE", "cpu")
    assert device_for("auto") == "cpu" and os.environ["ACCELERATE_USE_CPU"] == "true"
    monkeypatch.setenv("LATENTCLAP_DEVICE", "nowhere")
    assert device_for("cpu") == "cpu"  # what is asked for by itself counts more
    with pytest.raises(InputError, match=r"^LATENTCLAP_DEVICE nowhere: "):
        device_for("auto")
    with pytest.raises(InputError, match=r"^--device nowhere: "):
        device_for("nowhere")


def test_options_below_their_least():
    at_least(("--a", 0, 0), ("--b", 1.5, 1))
    for value, message in ((0, "--b 0: at least 1"), (math.nan, "finite"), (math.inf, "finite")):
        with pytest.raises(InputError, match=message):
            at_least(("--a", 1, 0), ("--b", value, 1))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("", None, None), "mel-statistics"),
        (("clap", None, None), "clap"),
        (("", Path("w"), None), "vggish-dcase"),
        (("", Path("w"), "textbook"), "vggish-textbook"),
        (("vggish-textbook", Path("w"), None), "vggish-textbook"),
        (("vggish-dcase", None, None), None),
        (("", None, "dcase"), None),
        (("judge", Path("w"), None), None),
        (("vggish-dcase", Path("w"), "textbook"), None),
    ],
)
def test_which_embedding_is_meant(options, name):
    if name:
        assert embedding_name(*options) == name
    else:
        with pytest.raises(InputError, match="vggish"):
            embedding_name(*options)
