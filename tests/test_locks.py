"""Locks, and file systems that have none."""

import errno
import os

import pytest
from filelock import FileLock

from latentclap import gpus
from latentclap.errors import InputError
from latentclap.locks import Taken, alone, locked


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP"])
def words(request, monkeypatch):
    """A file system without locks; what it says."""
    number = getattr(errno, request.param)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    return os.strerror(number)


def test_one_after_the_other(tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(Taken), locked(tmp_path / ".lock", wait=False):
        pass
    with FileLock(tmp_path / ".lock", timeout=0):  # it was released
        pass


def test_a_folder_is_kept_and_holds_nothing_more(tmp_path):
    folder = tmp_path / "new" / "out"
    with alone(folder, "another run writes there"):
        assert folder.is_dir() and not list(folder.iterdir())
        with (
            pytest.raises(InputError, match="out: another run writes there; wait"),
            alone(folder, "another run writes there"),
        ):
            raise AssertionError
        assert folder.is_dir()
    assert not (tmp_path / "new").exists()  # nothing came to lie in it
    with pytest.raises(BlockingIOError), alone(folder, ""):
        (folder / "x").touch()
        raise BlockingIOError  # of the block's own
    with alone(folder, ""):
        pass
    assert list(folder.iterdir()) == [folder / "x"]
    with pytest.raises(NotADirectoryError), alone(folder / "x" / "y", ""):
        pass


def test_a_folder_on_a_file_system_without_locks_is_used(tmp_path, words):
    with alone(tmp_path / "out", ""):
        (tmp_path / "out" / "x").touch()
    assert (tmp_path / "out" / "x").is_file()


def test_without_locks_the_work_is_done_and_the_danger_said(tmp_path, words):
    """It was an error of the system without a place, after which nothing could be done on such a disk."""
    done = []
    with pytest.warns(UserWarning) as said, locked(tmp_path / ".lock"):
        done.append(1)
    place = tmp_path / ".lock"
    assert done and [str(w.message) for w in said] == [
        f"{place}: the file system has no locks ({words}), so nothing keeps a second run out: start none in the same"
        " folder"
    ]
    with (
        pytest.raises(InputError, match=r"no locks .*; choose a folder on another one") as stop,
        locked(place, strict=True),
    ):
        done.append(2)
    assert done == [1] and str(place) in str(stop.value)


def test_a_gpu_is_not_shared_for_want_of_locks(tmp_path, words, monkeypatch, capsys):
    monkeypatch.setattr(gpus, "visible", lambda: ["GPU-0a"])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert gpus.main(["true"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/latentclap-gpus-") and said.count("\n") == 1
    assert f"no lock can be had there ({words})" in said and "set TMPDIR" in said
