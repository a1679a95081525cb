"""`make serve`: the book on a local port, with parts of files, in which players seek."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from latentclap.book.serve import BOOK
from latentclap.book.serve import serve as serve_folder
from latentclap.errors import InputError


@pytest.fixture
def book(tmp_path):
    (tmp_path / "html/notebooks").mkdir(parents=True)
    (tmp_path / "html/index.html").write_text("<!doctype html><title>a book</title>")
    (tmp_path / "html/notebooks/clip.mp3").write_bytes(bytes(range(256)))
    (tmp_path / "beside.txt").write_text("no page")
    return tmp_path / "html"


def serve(*options):
    command = [sys.executable, "-m", "latentclap.book", "serve", *map(str, options)]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # whatever the tests run under: what a shell runs in the background is deaf to Ctrl-C
    return subprocess.Popen(command, **told, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.fixture
def served(book):
    process = serve(book, "--port", 0)
    said = process.stdout.readline()
    yield process, said.split(" is at ")[1].split(";")[0]
    process.kill()
    process.communicate()


def got(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return answer.status, answer.headers, answer.read()


def test_parts_of_files_are_served_until_ctrl_c(served, book):
    process, address = served
    assert address.startswith("http://localhost:")
    status, headers, page = got(address + "/")
    assert status == 200 and b"a book" in page and headers["Accept-Ranges"] == "bytes"
    status, headers, part = got(address + "/notebooks/clip.mp3", Range="bytes=100-103")
    assert (status, part) == (206, bytes([100, 101, 102, 103]))
    assert headers["Content-Range"] == "bytes 100-103/256"
    (book / "index.html").write_text("<!doctype html><title>built again</title>")
    status, headers, page = got(address + "/")
    assert b"built again" in page and headers["Cache-Control"] == "no-cache"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130) and "Traceback" not in errors


@pytest.mark.parametrize("path", ["/../beside.txt", "/%2e%2e/beside.txt", "/none.html"])
def test_nothing_else_is_served(served, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        got(served[1] + path)
    assert refused.value.code in (403, 404)


def test_a_port_that_is_taken_is_one_line(served, book):
    port = served[1].rsplit(":", 1)[1]
    _, errors = (second := serve(book, "--port", port)).communicate(timeout=120)
    assert second.returncode == 2
    assert errors == f"error: port {port}: in use; give another, as in `make serve PORT=8001`\n"


def test_a_folder_without_a_book_is_one_line(tmp_path):
    _, errors = (process := serve(tmp_path)).communicate(timeout=120)
    assert process.returncode == 2
    assert errors == f"error: {tmp_path}: no index.html here; give a folder of pages\n"


def test_each_mistake_says_what_to_give(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, says in (
        (BOOK, "no index.html here; `make book` makes the book"),
        (book / "index.html", "a file; give the folder that it is in"),
        (tmp_path / "none", "no such folder of pages"),
        (tmp_path, f"no index.html here; did you mean {book}?"),
    ):
        with pytest.raises(InputError) as refused:
            serve_folder(folder, 0)
        assert str(refused.value) == f"{folder}: {says}"
