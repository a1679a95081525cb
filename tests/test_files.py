import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from latentclap import files
from latentclap.errors import InputError
from latentclap.files import (
    append_line,
    atomic_path,
    below,
    check_place,
    listed,
    load_tensors,
    read_json,
    write_text,
)


def test_a_failure_leaves_no_folder_behind(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a/b/c/d.txt"):
        raise RuntimeError
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    # a folder in which something came to lie meanwhile stays
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a/b/c/d.txt"):
        write_text(tmp_path / "a/b/other.txt", "kept")
        raise RuntimeError
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/other.txt"]


def test_places_where_no_file_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, says, number in [
        (tmp_path, "is a folder", errno.EISDIR),
        (tmp_path / "file/x/y.txt", "is a file, not a folder", errno.ENOTDIR),
    ]:
        with pytest.raises(OSError, match=says) as stop:
            check_place(path)
        assert stop.value.errno == number
    assert check_place(tmp_path / "file") == []
    assert check_place(tmp_path / "b/c/d.txt") == [tmp_path / "b/c", tmp_path / "b"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="no permission to write there") as stop:
        check_place(tmp_path / "b/c.txt")
    assert stop.value.filename == str(tmp_path)


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("a/b.txt", "x")
    assert (tmp_path / "a/b.txt").read_text() == "x"


@pytest.mark.parametrize("content", [b"", b"{", b"words", b"\xff\xfe"])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not JSON \("):
        read_json(tmp_path / "a.json")


def test_damaged_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="missing; the checkpoint is not complete"):
        load_tensors(path)
    save_file({"x": torch.zeros(100)}, path)
    assert load_tensors(path)["x"].shape == (100,)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged"):
        load_tensors(path)


def test_the_module_needs_no_torch():
    assert not hasattr(files, "torch")


def test_a_full_disk_names_the_file(tmp_path):
    """The system's own word for it names none where it is a write that fails."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(OSError, match="make room") as stop, atomic_path(tmp_path / "a.json"):
            raise OSError(number, os.strerror(number))
        assert stop.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="another"), atomic_path(tmp_path / "a.json"):
        raise OSError("another")


def test_folders_are_listed_whole_or_not_at_all(tmp_path, locked):
    """os.walk and glob pass over a folder that may not be read as if it were empty."""
    for name in ("a/x.wav", "b/c/y.WAV", "b/z.txt", ".hidden/w.wav"):
        write_text(tmp_path / name, "")
    (tmp_path / "link").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    assert below(tmp_path, (".wav",)) == [tmp_path / "a/x.wav", tmp_path / "b/c/y.WAV"]
    assert listed(tmp_path / "b") == [tmp_path / "b/c", tmp_path / "b/z.txt"]
    assert listed(tmp_path / "absent") == listed(tmp_path / "a/x.wav") == []
    locked(tmp_path / "b/c")
    with pytest.raises(
        InputError, match=r"b/c: no permission to read this folder; allow it, or move the folder"
    ):
        below(tmp_path)
    locked(tmp_path / "b", errno.EIO)
    with pytest.raises(InputError, match=r"b: this folder cannot be listed \(Input/output error\); allow it"):
        listed(tmp_path / "b")


def test_a_line_that_does_not_fit_names_its_file(tmp_path):
    append_line(tmp_path / "a.jsonl", "ä")
    append_line(tmp_path / "a.jsonl", "2")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "ä\n2\n"
    with pytest.raises(OSError, match=r"No space left on device; make room, and the same .*: '/dev/full'"):
        append_line("/dev/full", "1")
