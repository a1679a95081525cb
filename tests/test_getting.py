"""Downloads against a server on 127.0.0.1 that cuts, stalls, lies and forgets."""

import dataclasses
import email.utils
import errno
import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple

import numpy as np
import pooch.downloaders
import pytest
import requests
import soundfile as sf

from latentclap.classes import CLASSES
from latentclap.data import load_dataset
from latentclap.errors import InputError
from latentclap.getting import SOURCES, Options, Stopped, get, partial, recipes
from latentclap.getting import fetch as fetching
from latentclap.getting import wavcaps as wavcaps_recipe
from latentclap.getting.checksums import digests
from latentclap.getting.dcase import dcase_place
from latentclap.getting.errors import asked_to_wait, pause, reason
from latentclap.getting.fetch import Network, fetch
from latentclap.getting.manifest import NAME, Manifest
from latentclap.getting.partial import part_of
from latentclap.getting.plain import get_plain
from latentclap.getting.remote import RemoteFile, list_files, safe_name
from latentclap.getting.sources import Entry, Source
from local_web import serving

PIECE = fetching.PIECE
CUT = 15 * PIECE  # whole pieces are kept, so this many bytes are
BODY = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = Options(timeout=2, attempts=2, wait=0.01, quiet=True)
NET = Network(timeout=2, attempts=2, wait=0.01)


@pytest.fixture
def web():
    with serving() as found:
        yield found


def set_endpoint(monkeypatch, constants, url):
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """The suite runs with the hub switched off; here it is on, and on 127.0.0.1."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_endpoint(monkeypatch, constants, "http://127.0.0.1:9")
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", "http://127.0.0.1:9/api/records")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def remote(web, path="/f.bin", **kw):
    kw = {"checksum": f"sha256:{SHA}", "told_by": "the test", "size": len(BODY), **kw}
    return RemoteFile("f.bin", web.url + path, **kw)


def source(web, *names, **kw):
    told = {"title": "A thing", "page": web.url, "licence": "CC0 of the test", "cite": "nobody"}
    entries = tuple(Entry(name) for name in names)
    return Source(name="thing", kind="url", out="thing", base=web.url, files=entries, **{**told, **kw})


@pytest.fixture
def thing(web, monkeypatch):
    """A source of one file, /f.bin, without a published checksum."""
    web.put("/f.bin", BODY)
    monkeypatch.setitem(SOURCES, "thing", source(web, "f.bin"))
    monkeypatch.setitem(recipes.RECIPES, "thing", get_plain)
    return web


# --- one file -----------------------------------------------------------------------------------------------


def test_a_whole_file(web, tmp_path):
    web.put("/f.bin", BODY)
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["f.bin"]


def test_a_cut_connection_is_continued_at_once(web, tmp_path):
    web.put("/f.bin", BODY, script=[CUT, 8 * PIECE])
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA
    assert web.gets("/f.bin") == ["", f"bytes={CUT}-", f"bytes={CUT + 8 * PIECE}-"]


def test_the_same_command_goes_on_after_a_failure(web, tmp_path):
    found = web.put("/f.bin", BODY, script=[CUT, 0, 0])
    with pytest.raises(InputError, match=r"f\.bin: the connection was cut; 983\.0 kB of 3\.0 MB are kept"):
        fetch(remote(web), tmp_path / "f.bin", NET)
    assert part_of(tmp_path / "f.bin").stat().st_size == CUT
    assert not (tmp_path / "f.bin").exists()
    found.script.clear()
    web.asked.clear()
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA
    assert web.gets("/f.bin") == [f"bytes={CUT}-"]
    assert os.listdir(tmp_path) == ["f.bin"]


def test_a_server_without_ranges_starts_again(web, tmp_path):
    counted = []
    web.put("/f.bin", BODY, script=[CUT], ranges=False)
    net = Network(2, 2, 0.01, counted.append)
    assert fetch(remote(web), tmp_path / "f.bin", net) == SHA
    assert web.gets("/f.bin") == ["", f"bytes={CUT}-"]
    assert sum(counted) == len(BODY)  # the bar went back


def test_a_file_that_changed_meanwhile_starts_again(web, tmp_path):
    """No checksum is known: only the ETag tells that the part belongs to another version."""
    web.put("/f.bin", BODY, script=[CUT, 0, 0], etag='"old"')
    unknown = remote(web, checksum="")
    with pytest.raises(InputError, match="are kept"):
        fetch(unknown, tmp_path / "f.bin", NET)
    other = bytes(reversed(BODY))
    web.put("/f.bin", other, etag='"new"')
    assert fetch(unknown, tmp_path / "f.bin", NET) == hashlib.sha256(other).hexdigest()


DAYS = ["Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"]


@pytest.mark.parametrize(
    ("old", "new", "kw"),
    [
        ("", "", {}),  # both are told by their dates
        ('W/"1"', 'W/"2"', {}),
        ('"1"', '"2"', {"if_range": False}),
        ("", "", {"if_range": False}),
    ],
)
def test_two_versions_are_not_mixed_where_no_checksum_would_tell(web, tmp_path, old, new, kw):
    unknown, target = remote(web, checksum="", told_by=""), tmp_path / "f.bin"
    first = web.put("/f.bin", BODY, script=[CUT, 0, 0], etag=old, modified=DAYS[0], **kw)
    with pytest.raises(InputError, match="are kept, and the same command goes on"):
        fetch(unknown, target, NET)
    kept = dict(web.resources)
    other = bytes(reversed(BODY))
    web.put("/f.bin", other, etag=new, modified=DAYS[1], **kw)
    shutil.copytree(tmp_path, tmp_path / "again")
    assert fetch(unknown, target, NET) == hashlib.sha256(other).hexdigest()
    # and the same version is continued
    first.script.clear()
    web.resources = kept
    web.asked.clear()
    assert fetch(unknown, tmp_path / "again" / "f.bin", NET) == SHA
    assert web.gets("/f.bin") == [f"bytes={CUT}-"]


def test_a_server_that_tells_no_versions_apart(web, tmp_path):
    """Without a checksum the part is of no use, and nobody is told that it is kept; with one it is continued."""
    again = r"983\.0 kB of 3\.0 MB; 127.* does not tell versions apart, so the same command starts again"
    for checksum, script, says in ((f"sha256:{SHA}", [CUT, 0, 0], "are kept"), ("", [CUT, CUT], again)):
        file, target = remote(web, checksum=checksum), tmp_path / (checksum[:3] or "none") / "f.bin"
        web.put("/f.bin", BODY, script=script, etag="")
        with pytest.raises(InputError, match=says):
            fetch(file, target, NET)
        web.asked.clear()
        web.put("/f.bin", BODY, etag="")
        counted = []
        assert fetch(file, target, Network(2, 2, 0.01, counted.append)) == SHA
        assert web.gets("/f.bin") == ([f"bytes={CUT}-"] if checksum else [""])
        assert sum(counted) == len(BODY) - CUT  # the bar went back where it had to


def test_a_part_is_continued_from_another_mirror(web, tmp_path):
    web.put("/f.bin", BODY, script=[CUT, 0, 0])
    with pytest.raises(InputError, match="are kept"):
        fetch(remote(web), tmp_path / "f.bin", NET)
    web.put("/other/f.bin", BODY, etag='"theirs"')
    counted = []
    assert fetch(remote(web, "/other/f.bin"), tmp_path / "f.bin", Network(2, 2, 0.01, counted.append)) == SHA
    assert min(counted) > 0 and sum(counted) == len(BODY) - CUT


def test_a_part_of_two_versions_is_fetched_once_more(web, tmp_path):
    """An ETag that lies: the whole does not match, so a second try starts from nothing."""
    target = tmp_path / "f.bin"
    web.put("/f.bin", bytes(reversed(BODY)), script=[CUT, 0, 0])
    with pytest.raises(InputError, match="are kept"):
        fetch(remote(web), target, NET)
    web.put("/f.bin", BODY)
    web.asked.clear()
    assert fetch(remote(web), target, NET) == SHA
    assert web.gets("/f.bin") == [f"bytes={CUT}-", ""]


def test_a_part_of_another_file_is_not_used(web, tmp_path):
    target = tmp_path / "f.bin"
    part_of(target).write_bytes(b"x" * 1000)
    web.put("/f.bin", BODY)
    assert fetch(remote(web), target, NET) == SHA
    assert web.gets("/f.bin") == [""]


def test_a_part_of_another_s_making_is_not_gone_on_with(web, tmp_path):
    web.put("/f.bin", BODY)
    target = tmp_path / "f.bin"
    part_of(target).write_bytes(b"x" * 1000)
    (tmp_path / ".f.bin.part.json").write_text("[]")
    assert fetch(remote(web), target, NET) == SHA
    assert web.gets("/f.bin") == [""]


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_part_that_is_already_whole(web, tmp_path, size):
    """Killed between the last byte and the renaming."""
    web.put("/f.bin", BODY)
    target = tmp_path / "f.bin"
    part_of(target).write_bytes(BODY)
    wanted = remote(web, size=size)
    note = {**partial.identity(wanted), "etag": '"1"'}
    partial.note_of(target).write_text(json.dumps(note))
    assert fetch(wanted, target, NET) == SHA
    assert web.gets("/f.bin") == ([] if size else [f"bytes={len(BODY)}-"])


def test_what_a_kill_after_the_renaming_left_goes(thing, tmp_path):
    get("thing", _at(tmp_path), lambda _: None)
    for name in (".f.bin.part.json", "..f.bin.part-abcdefgh.json"):
        (tmp_path / name).write_text("{}")
    get("thing", _at(tmp_path), lambda _: None)
    assert sorted(os.listdir(tmp_path)) == [".latentclap-get.json.lock", ".thing.lock", "f.bin", NAME]


def test_wrong_bytes_are_not_kept(web, tmp_path):
    web.put("/f.bin", bytes(reversed(BODY)))
    found = hashlib.sha256(bytes(reversed(BODY))).hexdigest()
    with pytest.raises(InputError) as caught:
        fetch(remote(web), tmp_path / "f.bin", NET)
    for word in ("f.bin", found, SHA, "told by the test", "not kept"):
        assert word in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_wrong_bytes_do_not_replace_what_is_there(web, tmp_path):
    (tmp_path / "f.bin").write_bytes(b"mine")
    web.put("/f.bin", bytes(reversed(BODY)))
    with pytest.raises(InputError, match="not kept"):
        fetch(remote(web), tmp_path / "f.bin", NET)
    assert (tmp_path / "f.bin").read_bytes() == b"mine"


def test_md5_and_git_sha1(web, tmp_path):
    web.put("/f.bin", BODY)
    for algorithm, told in [
        ("md5", hashlib.md5(BODY).hexdigest()),
        ("git-sha1", hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()),
    ]:
        assert fetch(remote(web, checksum=f"{algorithm}:{told}"), tmp_path / "f.bin", NET) == SHA
        with pytest.raises(InputError, match=f"{algorithm} is {told}, expected 0"):
            fetch(remote(web, checksum=f"{algorithm}:{'0' * len(told)}"), tmp_path / "g.bin", NET)


@pytest.mark.parametrize(
    ("status", "says", "tries"),
    [
        (404, "HTTP 404: not there", 1),
        (500, "HTTP 500: the server has a problem", 2),
        (429, "too many requests", 2),
    ],
)
def test_status_codes(web, tmp_path, status, says, tries):
    web.put("/f.bin", BODY, script=[str(status)] * 9)
    with pytest.raises(InputError, match=says):
        fetch(remote(web), tmp_path / "f.bin", NET)
    assert len(web.gets("/f.bin")) == tries
    assert os.listdir(tmp_path) in ([], [".f.bin.part"])


def test_a_server_that_asks_to_wait(web, tmp_path):
    web.put("/f.bin", BODY, script=["429"])
    began = time.monotonic()
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA
    assert time.monotonic() - began >= 1  # its Retry-After


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("dated", [False, True])
def test_a_server_that_asks_to_wait_until(thing, tmp_path, method, dated):
    """Asked about a file, too, and a date as well as a number of seconds."""
    found = thing.resources["/f.bin"]
    began = time.time()
    found.later = email.utils.formatdate(began + 2, usegmt=True) if dated else "1"
    found.heads, found.script = ([429], []) if method == "HEAD" else ([], ["429"])
    get("thing", _at(tmp_path), lambda _: None)
    assert time.time() - began >= 0.99
    assert [asked for asked, *_ in thing.asked].count(method) == 2
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_how_long_one_waits():
    error = requests.HTTPError(response=requests.Response())
    asked = error.response.headers
    for told, least, most in [
        ("", 0, 0),
        ("7", 7, 7),
        ("9" * 400, 300, 300),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300, 300),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0, 0),
        (email.utils.formatdate(time.time() + 60, usegmt=True), 50, 60),
    ]:
        asked["Retry-After"] = told
        assert least <= asked_to_wait(error) <= most, told
    asked["Retry-After"] = "1"
    assert [pause(error, tries, 1.0) for tries in (1, 2, 3)] == [1, 2, 4]


def test_a_file_that_is_asked_about_in_vain(thing, tmp_path):
    thing.resources["/f.bin"].head = 503
    with pytest.raises(InputError, match=r"f\.bin: HTTP 503: the server has a problem .*; try again later"):
        get("thing", _at(tmp_path, attempts=3), lambda _: None)
    assert len(thing.asked) == 3


def test_a_passing_500(web, tmp_path):
    web.put("/f.bin", BODY, script=["503"])
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA


def test_a_stalled_server(web, tmp_path):
    web.put("/f.bin", BODY, script=["stall", "stall", "stall"])
    began = time.monotonic()
    net = Network(timeout=0.3, attempts=1, wait=0.01)
    with pytest.raises(
        InputError, match=r"sent nothing for 0\.3 s \(--timeout\); 1\.4 MB of 3\.0 MB are kept"
    ):
        fetch(remote(web), tmp_path / "f.bin", net)
    assert time.monotonic() - began < 5
    web.resources["/f.bin"].script.clear()
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA
    assert web.gets("/f.bin")[-1] == f"bytes={22 * PIECE}-"


def test_a_proxy_on_the_way_is_named_without_its_password(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    away = RemoteFile("f.bin", "http://sounds.example/f.bin", 1)
    with pytest.raises(
        InputError, match=r"sounds\.example cannot be reached through the proxy 127\.0\.0\.1:9"
    ) as told:
        fetch(away, tmp_path / "f.bin", NET)
    assert "secret" not in str(told.value)
    monkeypatch.setenv("no_proxy", "sounds.example")
    assert reason(requests.ConnectionError("no"), away.url, 1) == "sounds.example cannot be reached"


def test_nobody_answers(tmp_path):
    closed = RemoteFile("f.bin", "http://127.0.0.1:9/f.bin", 1)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9 cannot be reached"):
        fetch(closed, tmp_path / "f.bin", NET)
    with pytest.raises(InputError, match="no web address"):
        fetch(RemoteFile("f.bin", "notanaddress/f.bin", 1), tmp_path / "f.bin", NET)


def test_more_bytes_than_told(web, tmp_path):
    web.put("/f.bin", BODY + b"more")
    with pytest.raises(InputError, match="sends more than the 3000000 bytes"):
        fetch(remote(web), tmp_path / "f.bin", NET)


def test_fewer_bytes_than_told(web, tmp_path):
    web.put("/f.bin", BODY[:-10])
    with pytest.raises(InputError, match=r"the connection was cut|part does not fit"):
        fetch(remote(web), tmp_path / "f.bin", NET)
    assert not (tmp_path / "f.bin").exists()


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_gz_that_the_server_labels_as_compressed(web, tmp_path, encoding, listed):
    """As with Apache's `AddEncoding x-gzip .gz`: the file is what lies there, and not what is in it."""
    body = gzip.compress(BODY)
    web.put("/f.tar.gz", body, encoding=encoding, script=[CUT])
    file = RemoteFile("f.tar.gz", f"{web.url}/f.tar.gz", len(body) if listed else None)
    assert fetch(file, tmp_path / "f.tar.gz", NET) == hashlib.sha256(body).hexdigest()
    assert web.gets("/f.tar.gz") == ["", f"bytes={CUT}-"]


def test_a_body_that_was_compressed_for_the_way(thing, tmp_path):
    thing.put("/f.bin", gzip.compress(BODY[:1000]), encoding="gzip")
    with pytest.raises(
        InputError, match=r"f\.bin: 127.* sends it compressed, though asked not to; take another"
    ):
        get("thing", _at(tmp_path), lambda _: None)
    assert not (tmp_path / "f.bin").exists() and not Manifest(tmp_path).files
    # a size that was listed tells that these are the file's own bytes
    thing.put("/f.bin", BODY, encoding="gzip")
    assert fetch(remote(thing), tmp_path / "f.bin", NET) == SHA


def test_a_redirect_away_from_https_is_refused():
    response = requests.Response()
    response.status_code = 302
    response.headers["Location"] = "http://elsewhere.example/f.bin"
    with pytest.raises(fetching.Redirected, match="without https"):
        fetching._check_redirect(response, "https://a.example/f.bin")
    fetching._check_redirect(response, "http://a.example/f.bin")


def test_a_full_disk_says_so_and_keeps_the_part(web, tmp_path, monkeypatch):
    web.put("/f.bin", BODY)
    real = fetching._Sink.write

    def write(self, chunk):
        if self.at >= 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, chunk)

    monkeypatch.setattr(fetching._Sink, "write", write)
    with pytest.raises(InputError, match=r"the disk is full .*1\.0 MB of 3\.0 MB are kept"):
        fetch(remote(web), tmp_path / "f.bin", NET)
    monkeypatch.setattr(fetching._Sink, "write", real)
    assert fetch(remote(web), tmp_path / "f.bin", NET) == SHA


def test_stopping_from_outside(web, tmp_path):
    web.put("/f.bin", BODY)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        fetch(remote(web), tmp_path / "f.bin", Network(2, 2, 0.01, stop=stop))


# --- trust, manifest, disk ----------------------------------------------------------------------------------


def said():
    lines = []
    return lines, lines.append


def test_trust_on_first_use(thing, tmp_path):
    lines, say = said()
    get("thing", _at(tmp_path), say)
    text = "\n".join(lines)
    assert "licence  CC0 of the test" in text
    assert text.index("licence") < text.index("sha256")  # the licence comes before the download
    assert "no published checksum of f.bin is known" in text and SHA in text
    known = Manifest(tmp_path).files["f.bin"]
    assert (known.sha256, known.published, known.size) == (SHA, "", len(BODY))
    # the server's file changes: what was trusted first is what counts
    (tmp_path / "f.bin").unlink()
    thing.put("/f.bin", bytes(reversed(BODY)))
    with pytest.raises(InputError, match=f"expected {SHA} .told by the first download of 20"):
        get("thing", _at(tmp_path), say)
    assert not (tmp_path / "f.bin").exists()
    thing.put("/f.bin", BODY)
    get("thing", _at(tmp_path), say)
    assert digests(tmp_path / "f.bin", {"sha256"}) == {"sha256": SHA}


def _at(folder, **kw):
    return dataclasses.replace(QUICK, out=folder, **kw)


def test_a_second_run_downloads_nothing(thing, tmp_path):
    get("thing", _at(tmp_path), lambda _: None)
    thing.asked.clear()
    get("thing", _at(tmp_path), lambda _: None)
    assert thing.gets("/f.bin") == []


def test_a_file_that_was_changed_on_disk(thing, tmp_path):
    get("thing", _at(tmp_path), lambda _: None)
    (tmp_path / "f.bin").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"f\.bin: sha256 is .*, expected .*--replace downloads it again"):
        get("thing", _at(tmp_path), lambda _: None)
    assert (tmp_path / "f.bin").read_bytes() == b"something else"
    get("thing", _at(tmp_path, replace=True), lambda _: None)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_verify_reads_again(thing, tmp_path):
    get("thing", _at(tmp_path), lambda _: None)
    path = tmp_path / "f.bin"
    stat = path.stat()
    path.write_bytes(b"x" * len(BODY))  # same size, and the clock put back: only reading tells
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    get("thing", _at(tmp_path), lambda _: None)
    with pytest.raises(InputError, match="sha256 is"):
        get("thing", _at(tmp_path, verify=True), lambda _: None)


def test_a_file_from_elsewhere_is_taken_in(thing, tmp_path):
    (tmp_path / "f.bin").write_bytes(BODY)
    get("thing", _at(tmp_path), lambda _: None)
    assert thing.gets("/f.bin") == [] and Manifest(tmp_path).files["f.bin"].sha256 == SHA
    (tmp_path / NAME).unlink()
    (tmp_path / "f.bin").write_bytes(BODY[:100])
    with pytest.raises(InputError, match=r"100 bytes, .* has 3000000"):
        get("thing", _at(tmp_path), lambda _: None)


def test_a_broken_manifest(thing, tmp_path):
    (tmp_path / NAME).write_text("{")
    with pytest.raises(InputError, match="not readable as a manifest"):
        get("thing", _at(tmp_path), lambda _: None)


def test_dry_run_writes_nothing(thing, tmp_path):
    lines, say = said()
    get("thing", _at(tmp_path / "new" / "folder", dry_run=True), say)
    text = "\n".join(lines)
    for words in (
        "to download",
        "3.0 MB",
        "f.bin",
        "no published checksum",
        "free at",
        "nothing was written",
    ):
        assert words in text
    assert os.listdir(tmp_path) == [] and thing.gets("/f.bin") == []


def test_a_size_that_is_not_told(thing, tmp_path):
    thing.resources["/f.bin"].head = 405
    lines, say = said()
    get("thing", _at(tmp_path), say)
    assert "size not told" in "\n".join(lines) and "1 of unknown size" in "\n".join(lines)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_size_of_0_is_none(thing, tmp_path):
    thing.resources["/f.bin"].told_first = 0
    lines, say = said()
    get("thing", _at(tmp_path), say)
    assert "size not told" in "\n".join(lines) and (tmp_path / "f.bin").read_bytes() == BODY


Usage = namedtuple("Usage", "total used free")


def test_disk_space_preflight(thing, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**7, 10**7 - 2_999_999, 2_999_999))
    for dry_run in (False, True):
        with pytest.raises(InputError, match=r"thing needs 3\.0 MB, 3\.0 MB are free at .*another --out"):
            get("thing", _at(tmp_path, dry_run=dry_run), lambda _: None)
    assert thing.gets("/f.bin") == []
    # what an earlier run has left counts
    thing.resources["/f.bin"].script = [PIECE, 0, 0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**7, 0, 10**7))
    with pytest.raises(InputError, match="are kept"):
        get("thing", _at(tmp_path), lambda _: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**7, 10**7 - 2_999_999, 2_999_999))
    thing.resources["/f.bin"].script = []
    get("thing", _at(tmp_path), lambda _: None)


def test_folders_that_are_none(thing, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; give another folder"):
        get("thing", _at(tmp_path / "file" / "below"), lambda _: None)


def test_two_runs_at_once(thing, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".thing.lock"), pytest.raises(InputError, match="another run is getting thing"):
        get("thing", _at(tmp_path), lambda _: None)


def test_two_downloads_at_once_would_spoil_a_file(thing, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(
        InputError, match=r"\.thing\.lock: the file system has no locks \(No locks available\); choose"
    ):
        get("thing", _at(tmp_path), lambda _: None)
    assert not (tmp_path / "f.bin").exists()


def test_the_first_failure_ends_the_others(web, tmp_path, monkeypatch):
    names = [f"{i}.bin" for i in range(6)]
    for name in names:
        web.put(f"/{name}", BODY)
    web.resources["/1.bin"].script = ["404"]
    monkeypatch.setitem(SOURCES, "thing", source(web, *names))
    monkeypatch.setitem(recipes.RECIPES, "thing", get_plain)
    with pytest.raises(InputError, match=r"1\.bin: HTTP 404"):
        get("thing", _at(tmp_path, workers=2), lambda _: None)
    web.asked.clear()
    get("thing", _at(tmp_path, workers=2), lambda _: None)
    assert all((tmp_path / name).read_bytes() == BODY for name in names)
    assert "" in web.gets("/1.bin")


def test_names_stay_inside():
    for name in ("/etc/passwd", "../x", "a/../../x", "a\\b", "C:/x", "a\nb", ""):
        with pytest.raises(InputError, match="refused the file name"):
            safe_name(name)
    assert safe_name("./a/b") == "a/b"


# --- Zenodo -------------------------------------------------------------------------------------------------


def test_zenodo_publishes_md5_and_size(web, monkeypatch):
    monkeypatch.setattr(
        pooch.downloaders.ZenodoRepository,
        "base_api_url",
        web.zenodo("7813012", {"audioldm-m-full.ckpt": BODY}),
    )
    # the pinned MD5 of the real file and the record's disagree: nothing is downloaded
    with pytest.raises(InputError, match=r"says md5:.*, this package knows md5:46bad9f1"):
        list_files(SOURCES["audioldm-ckpt"], timeout=2)
    web.zenodo("8091972", {"other.tar.gz": b"x"})
    with pytest.raises(InputError, match=r"has no such file; it has other\.tar\.gz"):
        list_files(SOURCES["dcase"], timeout=2)
    name = SOURCES["dcase"].files[0].name
    web.zenodo("8091972", {name: BODY})
    found = list_files(SOURCES["dcase"], timeout=2)
    (file,) = found.files
    assert (file.size, file.checksum) == (len(BODY), f"md5:{hashlib.md5(BODY).hexdigest()}")
    assert file.url.startswith(web.url) and "record 8091972" in file.told_by and not found.notes


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"files": 3}', None])
def test_a_record_that_cannot_be_read_is_said(web, monkeypatch, answer):
    base = web.zenodo("8091972", {})
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", base)
    if answer is None:
        web.resources.clear()
    else:
        web.put("/zenodo/records/8091972", answer)
    name = SOURCES["dcase"].files[0].name
    web.put(f"/mirror/{name}", BODY)
    found = list_files(SOURCES["dcase"], mirror=f"{web.url}/mirror/", timeout=2)
    assert found.files[0].checksum == "" and found.files[0].size == len(BODY)
    assert "record 8091972" in found.notes[0] and "could not be read" in found.notes[0]


def test_a_record_that_fails_for_a_while_is_asked_again(web, monkeypatch):
    """Else the published checksum would be lost to one hiccup, and the first download be trusted."""
    name = SOURCES["dcase"].files[0].name
    monkeypatch.setattr(
        pooch.downloaders.ZenodoRepository, "base_api_url", web.zenodo("8091972", {name: BODY})
    )
    record = web.resources["/zenodo/records/8091972"]
    record.script = ["503", 10, "429"]
    began = time.monotonic()
    found = list_files(SOURCES["dcase"], timeout=2, attempts=4, wait=0.01)
    assert found.files[0].checksum == f"md5:{hashlib.md5(BODY).hexdigest()}" and not found.notes
    assert len(web.asked) == 4 and time.monotonic() - began >= 1  # the 429's Retry-After
    web.asked.clear()
    record.script = ["503"] * 9
    web.put(f"/mirror/{name}", BODY)
    found = list_files(SOURCES["dcase"], mirror=f"{web.url}/mirror", timeout=2, attempts=3, wait=0.01)
    assert len(web.gets("/zenodo/records/8091972")) == 3
    assert found.notes[0].endswith("could not be read (HTTP 503: the server has a problem)")


def test_a_mirror_is_checked_against_the_record(web, tmp_path, monkeypatch):
    name = SOURCES["dcase"].files[0].name
    base = web.zenodo("8091972", {name: BODY})
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", base)
    web.put(f"/mirror/{name}", bytes(reversed(BODY)))
    with pytest.raises(InputError, match=r"md5 is .*told by record 8091972"):
        get("dcase", _at(tmp_path, mirror=f"{web.url}/mirror"), lambda _: None)
    web.resources.pop(f"/mirror/{name}")
    with pytest.raises(InputError, match=r"HTTP 404: not there .*--mirror takes another address"):
        get("dcase", _at(tmp_path, mirror=f"{web.url}/mirror"), lambda _: None)


# --- the hub ------------------------------------------------------------------------------------------------

FOLDER = {
    "model_index.json": b"{}",
    ".gitattributes": b"*",
    "unet/config.json": b'{"a": 1}',
    "unet/diffusion_pytorch_model.bin": BODY[:1000],
    "unet/diffusion_pytorch_model.safetensors": BODY,
    "vocoder/pytorch_model.bin": BODY[:2000],
    "model.ckpt": b"no",
}


def test_a_hub_folder(web, tmp_path):
    web.hub("cvssp/audioldm-m-full", FOLDER)
    cdn = f"/cdn/{SHA}"
    web.resources[cdn].script = [CUT, 0, 0]
    options = _at(tmp_path, mirror=web.url)
    with pytest.raises(
        InputError, match=r"safetensors: the connection was cut; 983\.0 kB of 3\.0 MB are kept"
    ):
        get("audioldm", options, lambda _: None)
    web.resources[cdn].script = []
    web.asked.clear()
    lines, say = said()
    get("audioldm", options, say)
    assert web.gets(cdn) == [f"bytes={CUT}-"]
    here = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.name[0] != ".")
    # a pickled twin of safetensors is left out; a .bin without one is not
    assert here == [
        NAME,
        "model_index.json",
        "unet",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vocoder",
        "vocoder/pytorch_model.bin",
    ]
    manifest = Manifest(tmp_path)
    assert manifest.revisions == {"audioldm": "c" * 40}
    assert manifest.files["unet/config.json"].published.startswith("git-sha1:")
    assert manifest.files["unet/diffusion_pytorch_model.safetensors"].published == f"sha256:{SHA}"
    assert "CC BY-NC-SA" in "\n".join(lines)


def test_a_hub_file_that_lies(web, tmp_path):
    web.hub("cvssp/audioldm-m-full", FOLDER)
    web.resources[f"/cdn/{SHA}"].body = bytes(reversed(BODY))
    with pytest.raises(InputError, match=f"sha256 is .*, expected {SHA} .told by 127"):
        get("audioldm", _at(tmp_path, mirror=web.url), lambda _: None)
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()


def test_a_folder_is_finished_at_the_commit_it_was_begun_with(web, tmp_path):
    web.hub("cvssp/audioldm-m-full", FOLDER)
    options = _at(tmp_path, mirror=web.url)
    get("audioldm", options, lambda _: None)
    moved = {**FOLDER, "unet/config.json": b'{"a": 2}'}
    old = dict(web.resources)
    web.hub("cvssp/audioldm-m-full", moved, commit="d" * 40)
    web.resources = {**web.resources, **{p: r for p, r in old.items() if "c" * 40 in p}}
    get("audioldm", options, lambda _: None)
    assert (tmp_path / "unet" / "config.json").read_bytes() == FOLDER["unet/config.json"]
    with pytest.raises(InputError, match="--replace"):
        get("audioldm", _at(tmp_path, mirror=web.url, revision="main"), lambda _: None)
    get("audioldm", _at(tmp_path, mirror=web.url, revision="main", replace=True), lambda _: None)
    assert (tmp_path / "unet" / "config.json").read_bytes() == b'{"a": 2}'
    assert Manifest(tmp_path).revisions == {"audioldm": "d" * 40}


def test_the_commit_that_a_folder_was_begun_with_is_gone(web, tmp_path):
    """As after a history was rewritten, or on a mirror that keeps only the newest."""
    web.hub("cvssp/audioldm-m-full", FOLDER)
    options = _at(tmp_path, mirror=web.url)
    get("audioldm", options, lambda _: None)
    web.resources.clear()
    web.hub("cvssp/audioldm-m-full", FOLDER, commit="d" * 40)
    with pytest.raises(InputError) as told:
        get("audioldm", options, lambda _: None)
    says = (
        f"cvssp/audioldm-m-full: no revision '{'c' * 40}' on {web.url[7:]}, with which {tmp_path} was begun;"
        " --revision main goes on with what is there now"
    )
    assert str(told.value) == says
    with pytest.raises(InputError, match=r"no revision 'v7' on 127\.0\.0\.1:\d+$"):
        get("audioldm", dataclasses.replace(options, revision="v7"), lambda _: None)
    get("audioldm", dataclasses.replace(options, revision="main"), lambda _: None)
    assert Manifest(tmp_path).revisions == {"audioldm": "d" * 40}


def test_the_endpoint_of_the_environment(web, tmp_path, monkeypatch):
    """HF_ENDPOINT is read by huggingface_hub when it is imported."""
    from huggingface_hub import constants

    set_endpoint(monkeypatch, constants, web.url)
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY, "630k-best.pt": b"another"})
    get("clap", _at(tmp_path), lambda _: None)
    assert (tmp_path / "630k-audioset-best.pt").read_bytes() == BODY
    assert not (tmp_path / "630k-best.pt").exists()


def test_a_token_does_not_go_to_a_mirror(web):
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY})
    found = list_files(SOURCES["clap"], mirror=web.url, timeout=2)
    assert not any("authorization" in {k.lower() for k in file.headers} for file in found.files)


NO_HUB = (
    r"laion_clap: 127\.0\.0\.1:\d+ does not answer as a Hugging Face hub does; --mirror takes the address"
)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda web: web.resources.clear(), "HTTP 404|no such repository"),
        (lambda web: setattr(_info(web), "script", ["500"] * 9), "HTTP 500: the server has a problem"),
        (lambda web: setattr(_info(web), "script", ["401"] * 9), "HTTP 401|no such repository"),
        (lambda web: setattr(_info(web), "script", ["stall"] * 9), r"sent nothing for 0\.5 s"),
        *(
            (lambda web, body=body: setattr(_info(web), "body", body), NO_HUB)
            for body in (b"<html>", b"\xff\xfe<", b"[]", b"3", b'{"id": "x"}', b'{"sha": "c", "siblings": 3}')
        ),
        (lambda web: setattr(_info(web), "body", _evil(web)), "refused the file name"),
    ],
)
def test_a_hub_that_fails(web, breaks, says):
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY})
    breaks(web)
    with pytest.raises(InputError, match=says) as caught:
        list_files(SOURCES["clap"], mirror=web.url, timeout=0.5, attempts=2, wait=0.01)
    assert "\n" not in str(caught.value)


def test_a_hub_that_fails_for_a_while_is_asked_again(web):
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY})
    _info(web).script = ["503", "stall", 10, "429"]
    began = time.monotonic()
    found = list_files(SOURCES["clap"], mirror=web.url, timeout=0.5, attempts=5, wait=0.01)
    assert found.files[0].checksum == f"sha256:{SHA}"
    assert len(web.asked) == 5 and time.monotonic() - began >= 1.5  # silence, and the 429's Retry-After
    web.asked.clear()
    _info(web).script = ["404"]  # that does not pass
    with pytest.raises(InputError, match=r"HTTP 404|no such repository"):
        list_files(SOURCES["clap"], mirror=web.url, timeout=0.5, attempts=5, wait=0.01)
    assert len(web.asked) == 1


def test_a_hub_that_cannot_be_reached_is_asked_again():
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"127\.0\.0\.1:9 cannot be reached .*; try again later, or --mirror"
    ):
        list_files(SOURCES["clap"], timeout=1, attempts=3, wait=0.1)
    assert time.monotonic() - began >= 0.3


def _info(web):
    return web.resources["/api/models/lukewys/laion_clap/revision/main"]


def _evil(web):
    return _info(web).body.replace(b"630k-audioset-best.pt", b"../630k-audioset-best.pt")


def test_a_hub_that_is_switched_off(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        list_files(SOURCES["clap"], timeout=1)


# --- DCASE, WavCaps, statistics: from the server to what the package reads ----------------------------------


def clip(rng):
    stream = io.BytesIO()
    sf.write(stream, rng.normal(size=11025) * 0.1, 22050, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def dcase_archive(per_class=2, top="DCASE_2023_Challenge_Task_7_Dataset", seed=0):
    """As Zenodo's: dev/ and eval/ with snake_case classes and tables whose rows outnumber the files."""
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:

        def add(name, body):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))

        for split, table in (("dev", "DevMeta.csv"), ("eval", "EvalMeta.csv")):
            rows = ["category,current_file_path,original_dataset,original_file_name"]
            for cls in CLASSES:
                for i in range(per_class + 1):
                    rows.append(f"{cls},{split}/{cls}/{i:03d}.wav,FSD50k,{split}{cls}{i}.wav")
                    if i < per_class:
                        add(f"{top}/{split}/{cls}/{i:03d}.wav", clip(rng))
            add(f"{top}/{table}", "\n".join(rows).encode())
        add(f"{top}/dev/rain/._000.wav", b"a file manager's")
        add(f"__MACOSX/{top}/dev/rain/000.wav", b"a file manager's")
    return stream.getvalue()


def tar_of(*names):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return stream.getvalue()


@pytest.fixture
def dcase(web, monkeypatch):
    name = SOURCES["dcase"].files[0].name
    base = web.zenodo("8091972", {name: dcase_archive()})
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", base)
    return web, f"/zenodo/records/8091972/files/{name}/content"


def test_dcase_becomes_what_the_data_room_reads(dcase, tmp_path):
    web, path = dcase
    web.resources[path].script = [PIECE + 5]
    lines, say = said()
    get("dcase", _at(tmp_path), say)
    assert web.gets(path) == ["", f"bytes={PIECE}-"]
    dataset = load_dataset(tmp_path)
    assert (len(dataset.split("dev")), len(dataset.split("eval"))) == (14, 14)
    assert dataset.split_by == "folder" and dataset.classes == list(CLASSES)
    assert {p.name for p in tmp_path.iterdir() if p.name[0] != "."} == {
        "dev",
        "eval",
        "DevMeta.csv",
        "EvalMeta.csv",
        SOURCES["dcase"].files[0].name,
        NAME,
    }
    text = "\n".join(lines)
    assert "for research only" in text and "md5 told by record 8091972" in text
    assert "7 of 21 rows name no usable file" in text
    assert "4850" in text  # these are not the published numbers, and that is said


def test_dcase_again_and_without_its_archive(dcase, tmp_path):
    web, path = dcase
    get("dcase", _at(tmp_path, keep_archives=False), lambda _: None)
    assert not (tmp_path / SOURCES["dcase"].files[0].name).exists()
    web.asked.clear()
    lines, say = said()
    get("dcase", _at(tmp_path), say)
    assert web.gets(path) == [] and "unpacked" in "\n".join(lines)
    # a lost clip is noticed and got again
    next((tmp_path / "dev" / "rain").iterdir()).unlink()
    get("dcase", _at(tmp_path), lambda _: None)
    assert web.gets(path) == [""] and len(load_dataset(tmp_path)) == 28


def test_dcase_does_not_touch_a_folder_of_the_user_s(dcase, tmp_path):
    web, path = dcase
    (tmp_path / "dev" / "rain").mkdir(parents=True)
    (tmp_path / "dev" / "rain" / "mine.wav").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"was not unpacked by get\.py; move it"):
        get("dcase", _at(tmp_path), lambda _: None)
    assert web.gets(path) == [] and (tmp_path / "dev" / "rain" / "mine.wav").read_bytes() == b"mine"


def test_dcase_is_never_half_unpacked(dcase, tmp_path, monkeypatch):
    """Stopped in the middle: nothing that the data room would take for a set, and the rest follows later."""
    from latentclap.getting import unpack as unpacking

    real, written = unpacking.atomic_path, []

    def breaks(path):
        if len(written) == 20:
            raise OSError(errno.EIO, "Input/output error", str(path))
        written.append(path)
        return real(path)

    monkeypatch.setattr(unpacking, "atomic_path", breaks)
    with pytest.raises(OSError, match="Input/output error"):
        get("dcase", _at(tmp_path), lambda _: None)
    assert not (tmp_path / "dev").exists() and not (tmp_path / "eval").exists()
    with pytest.raises(InputError, match="no class folder here"):
        load_dataset(tmp_path)
    monkeypatch.setattr(unpacking, "atomic_path", lambda path: written.append(path) or real(path))
    get("dcase", _at(tmp_path), lambda _: None)
    assert len(load_dataset(tmp_path)) == 28
    assert len(written) == len(set(written)) == 30  # 28 clips and two tables, none of them twice
    assert not [p for p in tmp_path.iterdir() if "unpacking" in p.name]


def test_dcase_of_another_version(dcase, tmp_path, monkeypatch):
    """All clips have one size: neither a half unpacked nor a whole unpacked old version is taken for the new one."""
    from latentclap.getting import unpack as unpacking

    web, _ = dcase
    real, written = unpacking.atomic_path, []

    def breaks(path):
        if len(written) == 20:
            raise OSError(errno.EIO, "Input/output error", str(path))
        written.append(path)
        return real(path)

    monkeypatch.setattr(unpacking, "atomic_path", breaks)
    with pytest.raises(OSError, match="Input/output"):
        get("dcase", _at(tmp_path), lambda _: None)
    monkeypatch.setattr(unpacking, "atomic_path", real)
    name = SOURCES["dcase"].files[0].name
    for seed in (1, 2):
        web.zenodo("8091972", {name: dcase_archive(seed=seed)})
        with pytest.raises(InputError, match="--replace downloads it again"):
            get("dcase", _at(tmp_path), lambda _: None)
        get("dcase", _at(tmp_path, replace=True), lambda _: None)
        with tarfile.open(tmp_path / name) as archive:
            for member in archive.getmembers():
                place = dcase_place(member.name)
                if place:
                    assert (tmp_path / place).read_bytes() == archive.extractfile(member).read(), place
    assert not list(tmp_path.glob(".*.unpacking"))
    # the same once its archive is gone: the record's new checksum makes it be got again
    (tmp_path / name).unlink()
    web.zenodo("8091972", {name: dcase_archive(seed=3)})
    get("dcase", _at(tmp_path), lambda _: None)
    with tarfile.open(tmp_path / name) as archive:
        member = archive.getmembers()[0]
        assert (tmp_path / dcase_place(member.name)).read_bytes() == archive.extractfile(member).read()


def test_dcase_that_is_something_else(web, tmp_path, monkeypatch):
    name = SOURCES["dcase"].files[0].name
    base = web.zenodo("8091972", {name: tar_of("x/dev/rain/0.wav")})
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", base)
    with pytest.raises(InputError, match="not the set of Task 7"):
        get("dcase", _at(tmp_path), lambda _: None)


@pytest.fixture
def unvouched(web):
    """DCASE's archive on a mirror while Zenodo's record cannot be reached: no checksum is published."""
    name = SOURCES["dcase"].files[0].name
    return web.put(f"/m/{name}", dcase_archive()), f"{web.url}/m", name


@pytest.mark.parametrize("fault", ["cut", "another", "incomplete"])
def test_a_first_download_that_is_no_such_archive_is_not_trusted(unvouched, tmp_path, fault):
    """Cut without a Content-Length, it looks whole; whatever it was, the same command mends it."""
    found, mirror, name = unvouched
    found.length, good = False, found.body
    half, few = good[: len(good) // 2], tar_of("x/dev/rain/0.wav")
    found.body = {"cut": half, "another": tar_of("x/y.bin"), "incomplete": few}[fault]
    with pytest.raises(InputError, match="it was not kept, and the same command downloads it again") as told:
        get("dcase", _at(tmp_path, mirror=mirror), lambda _: None)
    assert "\n" not in str(told.value)
    assert not (tmp_path / name).exists() and name not in Manifest(tmp_path).files
    found.body = good
    get("dcase", _at(tmp_path, mirror=mirror), lambda _: None)
    assert len(load_dataset(tmp_path)) == 28


def test_a_broken_archive_of_the_user_s_is_not_removed(unvouched, tmp_path):
    found, mirror, name = unvouched
    (tmp_path / name).write_bytes(found.body[:5000])
    found.head = 405  # no size to compare with
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"broken archive .*no longer trusted: move it away, or give --r"
        ):
            get("dcase", _at(tmp_path, mirror=mirror), lambda _: None)
    assert (tmp_path / name).stat().st_size == 5000
    with pytest.raises(InputError, match="was not kept"):
        get("dcase", _at(tmp_path, mirror=mirror, replace=True), lambda _: None)
    get("dcase", _at(tmp_path, mirror=mirror), lambda _: None)
    assert len(load_dataset(tmp_path)) == 28


def test_a_broken_archive_with_a_published_checksum_is_kept(dcase, tmp_path):
    web, _ = dcase
    name = SOURCES["dcase"].files[0].name
    web.zenodo("8091972", {name: dcase_archive()[:5000]})
    with pytest.raises(InputError, match=r"broken archive .*--verify --replace downloads it again if it was"):
        get("dcase", _at(tmp_path), lambda _: None)
    assert (tmp_path / name).is_file() and Manifest(tmp_path).files[name].published


def test_dcase_counts_the_room_for_unpacking(dcase, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 900_000_000))
    with pytest.raises(InputError, match=r"dcase needs 979\.\d MB .* to unpack.*900\.0 MB are free"):
        get("dcase", _at(tmp_path), lambda _: None)


DEEP = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"


def wavcaps_files(tmp_path):
    """SoundBible as one zip, AudioSet_SL split as `zip -s` splits (see test_unpack)."""
    from test_unpack import split_zip

    rng = np.random.default_rng(1)
    files = {
        "json_files/SoundBible/sb_final.json": b'{"data": []}',
        "json_files/AudioSet_SL/as_final.json": b'{"data": []}',
        "json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json": b"{}",
        "README.md": b"card",
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for i in range(3):
            archive.writestr(f"{DEEP}/SoundBible_flac/{i}.flac", rng.bytes(1000))
        archive.writestr(f"{DEEP}/SoundBible_flac/notes.txt", b"not a sound")
    files["Zip_files/SoundBible/SoundBible.zip"] = stream.getvalue()
    sounds = {f"{DEEP}/AudioSet_SL_flac/Y{i:03d}.flac": rng.bytes(3000) for i in range(40)}
    for part in split_zip(tmp_path / "AudioSet_SL.zip", sounds, 20_000):
        files[f"Zip_files/AudioSet_SL/{part.name}"] = part.read_bytes()
    return files, sounds


@pytest.fixture
def wavcaps(web, tmp_path_factory):
    files, sounds = wavcaps_files(tmp_path_factory.mktemp("zips"))
    web.hub("cvssp/WavCaps", files, repo_type="dataset")
    return web, sounds


def test_wavcaps_subset(wavcaps, tmp_path):
    web, _ = wavcaps
    lines, say = said()
    get("wavcaps", _at(tmp_path, mirror=web.url), say, subsets=("SoundBible",))
    assert sorted(p.name for p in (tmp_path / "audio" / "SoundBible").iterdir()) == [
        "0.flac",
        "1.flac",
        "2.flac",
    ]
    assert (tmp_path / "json_files" / "blacklist").is_dir()
    assert not (tmp_path / "Zip_files" / "AudioSet_SL").exists()
    assert "academic use only" in "\n".join(lines)
    with pytest.raises(
        InputError, match="--subset Soundbible: no such part of WavCaps; there are AudioSet_SL"
    ):
        get("wavcaps", _at(tmp_path, mirror=web.url), say, subsets=("Soundbible",))


def test_wavcaps_split_zip(wavcaps, tmp_path):
    web, sounds = wavcaps
    options = _at(tmp_path, mirror=web.url, keep_archives=False)
    get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL", "SoundBible"))
    for name, body in sounds.items():
        assert (tmp_path / "audio" / "AudioSet_SL" / name.rpartition("/")[2]).read_bytes() == body
    assert not list((tmp_path / "Zip_files").rglob("*.z*"))
    web.asked.clear()
    get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    assert not [asked for method, asked, _ in web.asked if method == "GET" and "cdn" in asked]


# --- killed at any moment; what belongs to the user; the room on the disk ---------------------------------------


def kill_runs(repo_root, web, work, name, samples, **kw):
    told = {"name": name, "work": str(work / "work"), "mirror": "", "api": "", "keep": True, "subsets": []}
    told |= {"begin": "", "verify": False, "replace": False, "samples": samples, **kw}
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    program = [
        sys.executable,
        str(repo_root / "tests" / "local_web.py"),
        json.dumps({**told, "samples": samples}),
    ]
    done = subprocess.run(program, capture_output=True, text=True, env=env, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


SAMPLES = int(os.environ.get("LATENTCLAP_KILLS", "6"))  # 0: every step of a run


@pytest.mark.slow
def test_dcase_killed_at_any_moment(dcase, tmp_path, repo_root):
    web, _ = dcase
    api = pooch.downloaders.ZenodoRepository.base_api_url
    kill_runs(repo_root, web, tmp_path, "dcase", SAMPLES, api=api)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
def test_wavcaps_killed_at_any_moment(wavcaps, tmp_path, repo_root, keep):
    """With a split zip, and with archives that are dropped: part of one may be gone when the kill comes."""
    web, _ = wavcaps
    kw = {"mirror": web.url, "keep": keep, "subsets": ["SoundBible", "AudioSet_SL"]}
    kill_runs(repo_root, web, tmp_path, "wavcaps", SAMPLES, **kw)


@pytest.mark.slow
def test_another_version_killed_at_any_moment(dcase, tmp_path, repo_root):
    """The old one is replaced file by file around what is the user's: that is ended, too, and nothing is mixed."""
    web, _ = dcase
    get("dcase", _at(tmp_path / "begin"), lambda _: None)
    (tmp_path / "begin" / "dev" / "rain" / "notes.txt").write_bytes(b"mine")
    web.zenodo("8091972", {SOURCES["dcase"].files[0].name: dcase_archive(per_class=1, seed=1)})
    kw = {"api": pooch.downloaders.ZenodoRepository.base_api_url, "begin": str(tmp_path / "begin")}
    kill_runs(repo_root, web, tmp_path, "dcase", SAMPLES, replace=True, **kw)
    rain = tmp_path / "work" / "whole" / "dev" / "rain"
    assert sorted(os.listdir(rain)) == ["000.wav", "notes.txt"]
    assert (rain / "notes.txt").read_bytes() == b"mine"


@pytest.mark.slow
def test_verifying_killed_at_any_moment(wavcaps, tmp_path, repo_root):
    """Everything is unpacked once more, over a folder that has lost a file."""
    web, _ = wavcaps
    get("wavcaps", _at(tmp_path / "begin", mirror=web.url), lambda _: None, subsets=("SoundBible",))
    (tmp_path / "begin" / "audio" / "SoundBible" / "1.flac").unlink()
    kw = {"mirror": web.url, "subsets": ["SoundBible"], "begin": str(tmp_path / "begin")}
    kill_runs(repo_root, web, tmp_path, "wavcaps", SAMPLES, verify=True, **kw)


def test_a_temporary_file_of_a_killed_run_goes(wavcaps, tmp_path):
    """The kill that got the command stuck: the file being written at that moment was taken for a member."""
    web, _ = wavcaps
    options = _at(tmp_path, mirror=web.url)
    get("wavcaps", options, lambda _: None, subsets=("SoundBible",))
    digest = Manifest(tmp_path).unpacked["SoundBible.zip"]["archive"]
    shutil.rmtree(tmp_path / "audio")
    staging = tmp_path / "audio" / f".SoundBible.zip.{digest[:12]}.unpacking" / "SoundBible"
    staging.mkdir(parents=True)
    (staging / ".0-tby6gsyr.flac").write_bytes(b"half a sound")
    get("wavcaps", options, lambda _: None, subsets=("SoundBible",))
    assert sorted(os.listdir(tmp_path / "audio")) == ["SoundBible"]
    assert sorted(os.listdir(tmp_path / "audio" / "SoundBible")) == ["0.flac", "1.flac", "2.flac"]


def sounds_got(web):
    return [path for method, path, _ in web.asked if method == "GET" and "cdn" in path]


def test_a_file_of_the_user_s_does_not_matter(wavcaps, tmp_path):
    web, _ = wavcaps
    options = _at(tmp_path, mirror=web.url, keep_archives=False)
    get("wavcaps", options, lambda _: None, subsets=("SoundBible",))
    mine = [
        tmp_path / "audio" / "SoundBible" / name for name in (".DS_Store", "my_labels.csv", "mine/0.flac")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    web.asked.clear()
    get("wavcaps", options, lambda _: None, subsets=("SoundBible",))
    assert not sounds_got(web)
    # one of our files is lost: the archive is got again, said beforehand, and only that file is put back
    kept = tmp_path / "audio" / "SoundBible" / "0.flac"
    before = kept.stat().st_mtime_ns
    lost = tmp_path / "audio" / "SoundBible" / "1.flac"
    body = lost.read_bytes()
    lost.unlink()
    lines, say = said()
    get("wavcaps", options, say, subsets=("SoundBible",))
    text = "\n".join(lines)
    assert "1 of 3 files of SoundBible.zip are missing or changed" in text and str(lost) in text
    assert text.index("missing or changed") < text.index("SoundBible.zip: 1 files")
    assert lost.read_bytes() == body and kept.stat().st_mtime_ns == before
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert len(sounds_got(web)) == 1


def test_another_version_leaves_the_user_s_files(dcase, tmp_path):
    web, _ = dcase
    name = SOURCES["dcase"].files[0].name
    get("dcase", _at(tmp_path), lambda _: None)
    mine = tmp_path / "dev" / "rain" / "notes.txt"
    mine.write_bytes(b"mine")
    web.zenodo("8091972", {name: dcase_archive(per_class=1, seed=1)})
    get("dcase", _at(tmp_path, replace=True), lambda _: None)
    assert mine.read_bytes() == b"mine"
    # what only the old version had is gone, and the rest is the new one's
    assert sorted(os.listdir(tmp_path / "dev" / "rain")) == ["000.wav", "notes.txt"]
    with tarfile.open(tmp_path / name) as archive:
        member = archive.getmembers()[0]
        body = archive.extractfile(member).read()
    assert (tmp_path / dcase_place(member.name)).read_bytes() == body
    # a file of the user's where a new one has to go is not overwritten
    (tmp_path / "dev" / "rain" / "001.wav").write_bytes(b"mine")
    web.zenodo("8091972", {name: dcase_archive(per_class=2, seed=2)})
    with pytest.raises(InputError, match=r"001\.wav is in the way and was not unpacked by get\.py; move it"):
        get("dcase", _at(tmp_path, replace=True), lambda _: None)
    assert (tmp_path / "dev" / "rain" / "001.wav").read_bytes() == b"mine"
    (tmp_path / "dev" / "rain" / "001.wav").unlink()
    get("dcase", _at(tmp_path), lambda _: None)
    assert len(load_dataset(tmp_path)) == 28 and mine.read_bytes() == b"mine"


def test_a_manifest_that_was_removed(dcase, tmp_path):
    """What its error message advises: the folders are known as ours all the same, by their list."""
    web, path = dcase
    get("dcase", _at(tmp_path), lambda _: None)
    (tmp_path / "dev" / "rain" / "notes.txt").write_bytes(b"mine")
    (tmp_path / NAME).write_text("{")
    with pytest.raises(InputError, match="remove it to trust the present files anew"):
        get("dcase", _at(tmp_path), lambda _: None)
    (tmp_path / NAME).unlink()
    web.asked.clear()
    get("dcase", _at(tmp_path), lambda _: None)
    assert web.gets(path) == [] and len(load_dataset(tmp_path)) == 28
    assert (tmp_path / "dev" / "rain" / "notes.txt").read_bytes() == b"mine"


def test_a_revision_that_changes_one_part_of_a_dropped_archive(wavcaps, tmp_path):
    from test_unpack import split_zip

    web, sounds = wavcaps
    options = _at(tmp_path / "w", mirror=web.url, keep_archives=False)
    get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    last = list(sounds)[-1]
    moved = {**sounds, last: bytes(reversed(sounds[last]))}
    parts = split_zip(tmp_path / "AudioSet_SL.zip", moved, 20_000)
    files = {f"Zip_files/AudioSet_SL/{part.name}": part.read_bytes() for part in parts}
    files["json_files/AudioSet_SL/as_final.json"] = b'{"data": []}'
    web.hub("cvssp/WavCaps", files, repo_type="dataset", commit="d" * 40)
    options = dataclasses.replace(options, revision="main")
    get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    for name, body in moved.items():
        assert (options.out / "audio" / "AudioSet_SL" / name.rpartition("/")[2]).read_bytes() == body


def test_a_link_in_the_place_of_a_folder_is_refused_before_the_download(wavcaps, tmp_path):
    web, _ = wavcaps
    (tmp_path / "big").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "SoundBible").symlink_to(tmp_path / "big")
    with pytest.raises(InputError, match=r"audio/SoundBible is a link, .* take another --out"):
        get("wavcaps", _at(tmp_path, mirror=web.url), lambda _: None, subsets=("SoundBible",))
    assert not sounds_got(web)


def test_a_part_of_another_s_making_is_no_part(wavcaps, tmp_path):
    web, _ = wavcaps
    folder = tmp_path / "Zip_files" / "SoundBible"
    folder.mkdir(parents=True)
    (folder / "SoundBible.z07").write_bytes(b"mine")
    get(
        "wavcaps", _at(tmp_path, mirror=web.url, keep_archives=False), lambda _: None, subsets=("SoundBible",)
    )
    assert (folder / "SoundBible.z07").read_bytes() == b"mine"
    assert len(list((tmp_path / "audio" / "SoundBible").iterdir())) == 3


def test_what_is_unpacked_already_needs_no_room(wavcaps, tmp_path, monkeypatch):
    """Stopped in the middle of unpacking: the same command fits on a disk that has room for the rest."""
    from latentclap.getting import unpack as unpacking

    web, sounds = wavcaps
    total = sum(map(len, sounds.values()))
    options = _at(tmp_path, mirror=web.url)
    real, written = unpacking.atomic_path, []

    def breaks(path):
        if len(written) == 30:
            raise OSError(errno.EIO, "Input/output error", str(path))
        written.append(path)
        return real(path)

    monkeypatch.setattr(unpacking, "atomic_path", breaks)
    with pytest.raises(OSError, match="Input/output"):
        get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    monkeypatch.setattr(unpacking, "atomic_path", real)
    rest = total - 30 * 3000 + 12_000  # the parts are a little larger than what is in them
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 20_000))
    with pytest.raises(InputError, match=r"wavcaps needs 40\.\d kB .*20\.0 kB are free"):
        get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, rest))
    get("wavcaps", options, lambda _: None, subsets=("AudioSet_SL",))
    assert len(list((tmp_path / "audio" / "AudioSet_SL").iterdir())) == 40


def test_dropping_archives_lowers_the_peak(wavcaps, tmp_path, monkeypatch):
    """One subset is got, unpacked and dropped before the next is begun, and the room is counted so."""
    web, _ = wavcaps
    both = ("SoundBible", "AudioSet_SL")
    lines, say = said()
    get("wavcaps", _at(tmp_path, mirror=web.url, keep_archives=False, dry_run=True), say, subsets=both)
    # twice the larger one's 130 kB; all of both would be 268 kB
    assert "at most 260" in "\n".join(lines)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 260_000))
    with pytest.raises(InputError, match=r"needs 260\.\d kB at once .*260\.0 kB are free"):
        get("wavcaps", _at(tmp_path, mirror=web.url, keep_archives=False), say, subsets=both)
    seen, real = [], wavcaps_recipe.unpack_contents

    def watched(plan, contents, parts, *rest):
        here = [p.name for p in (tmp_path / "Zip_files").rglob("*.z*") if p.is_file()]
        seen.append((contents.archive, sorted({name.partition(".")[0] for name in here})))
        real(plan, contents, parts, *rest)

    monkeypatch.setattr(wavcaps_recipe, "unpack_contents", watched)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 262_000))
    get("wavcaps", _at(tmp_path, mirror=web.url, keep_archives=False), say, subsets=both)
    assert seen == [("AudioSet_SL.zip", ["AudioSet_SL"]), ("SoundBible.zip", ["SoundBible"])]
    # with the archives kept all has to fit
    with pytest.raises(InputError, match=r"wavcaps needs 26[5-9]\.\d kB \(.*262\.0 kB are free"):
        get("wavcaps", _at(tmp_path / "b", mirror=web.url), say, subsets=both)


def test_both_tables_and_the_blacklists_come_with_a_subset(web, tmp_path, tmp_path_factory):
    files, _ = wavcaps_files(tmp_path_factory.mktemp("zips"))
    for name in ("fsd_final.json", "fsd_final_2s.json"):
        files[f"json_files/FreeSound/{name}"] = b'{"data": []}'
    files["Zip_files/FreeSound/FreeSound.zip"] = files["Zip_files/SoundBible/SoundBible.zip"]
    web.hub("cvssp/WavCaps", files, repo_type="dataset")
    for subset in ("FreeSound", "SoundBible"):
        get("wavcaps", _at(tmp_path / subset, mirror=web.url), lambda _: None, subsets=(subset,))
        tables = [p.relative_to(tmp_path / subset).as_posix() for p in (tmp_path / subset).rglob("*.json")]
        blacklist = "json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json"
        assert blacklist in tables
        assert ("json_files/FreeSound/fsd_final_2s.json" in tables) == (subset == "FreeSound")


PAGE = b"<!DOCTYPE html><html>please log in</html>"


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("f.bin", PAGE, "a web page and no data"),
        ("f.bin", b"\n <HTML>", "a web page and no data"),
        ("f.bin", b"", "empty"),
        ("w.pth", b"not found", "not a file of torch"),
        ("a.tar.gz", b"PK\3\4", "not a gzip file"),
        ("d/x.pkl", b"{}", "not a pickle"),
    ],
)
def test_a_first_download_that_cannot_be_it_is_not_trusted(web, tmp_path, monkeypatch, name, body, says):
    web.put(f"/{name}", body)
    monkeypatch.setitem(SOURCES, "thing", source(web, name))
    monkeypatch.setitem(recipes.RECIPES, "thing", get_plain)
    with pytest.raises(InputError, match=rf"sent is {says} .*; it was not kept"):
        get("thing", _at(tmp_path), lambda _: None)
    assert not (tmp_path / name).exists() and name not in Manifest(tmp_path).files
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=f"{says}; move it away, or --replace downloads it again"):
        get("thing", _at(tmp_path), lambda _: None)
    # the file that torch wrote is taken
    stream = io.BytesIO()
    import torch

    torch.save({"w": torch.zeros(2)}, stream, _use_new_zipfile_serialization=False)
    if name == "w.pth":
        web.put(f"/{name}", stream.getvalue())
        get("thing", _at(tmp_path, replace=True), lambda _: None)
        assert (tmp_path / name).read_bytes() == stream.getvalue()


def test_vggish_is_known_by_its_sha256(web, tmp_path):
    (entry,) = SOURCES["vggish"].files
    assert entry.checksum.startswith("sha256:" + entry.name.removeprefix("vggish-").removesuffix(".pth"))
    web.put(f"/{entry.name}", PAGE)
    with pytest.raises(
        InputError, match=r"expected 10086976.* .told by latentclap's table of sources.*not kept"
    ):
        get("vggish", _at(tmp_path, mirror=web.url), lambda _: None)
    assert not (tmp_path / entry.name).exists()


def test_stats_are_converted_and_known(web, tmp_path, monkeypatch, shared_data):
    """The real numbers, packed as the organisers' pickles are, come out with the digests of the table."""
    from latentclap.fad import load_stats
    from test_fad import feature_pickle, floats, message, varint

    real = np.load(shared_data / "dcase_eval_vggish_stats.npz")
    for cls in CLASSES:
        mu, sigma = real[f"{cls}/mu"], real[f"{cls}/sigma"]
        record = {
            "embedding_count": message(0x1A, varint(1000)),
            "embedding_length": message(0x1A, varint(128)),
            "mu": floats(mu),
            "sigma": floats(sigma),
        }
        web.put(f"/m/{cls}/gt_embedding.pkl", feature_pickle(record))
    options = _at(tmp_path, mirror=f"{web.url}/m")
    lines, say = said()
    get("stats", options, say)
    stats = load_stats(tmp_path / "dcase_eval_vggish_stats.npz")
    assert sorted(stats) == sorted(CLASSES) and stats["rain"].n_clips == 100
    np.testing.assert_array_equal(stats["rain"].sigma, real["rain/sigma"])
    assert "none stated" in "\n".join(lines)


def test_other_statistics_are_refused(web, tmp_path):
    from test_fad import feature_pickle, floats, message, varint

    record = {
        "embedding_count": message(0x1A, varint(1000)),
        "embedding_length": message(0x1A, varint(2)),
        "mu": floats(np.zeros(2)),
        "sigma": floats(np.eye(2)),
    }
    for cls in CLASSES:
        web.put(f"/m/{cls}/gt_embedding.pkl", feature_pickle(record))
    with pytest.raises(InputError, match="dog_bark: the numbers are not those"):
        get("stats", _at(tmp_path, mirror=f"{web.url}/m"), lambda _: None)
    assert not (tmp_path / "dcase_eval_vggish_stats.npz").exists()
    # and they are not what the right ones would be compared with later
    assert Manifest(tmp_path).files == {}


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(repo_root):
    return [sys.executable, str(repo_root / "data_scripts" / "get.py")]


def run(command, *arguments, **kw):
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=env, **kw)


def test_command_line(web, tmp_path, command):
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY})
    done = run(command, "clap", "--mirror", web.url, "--out", tmp_path, "--dry-run")
    assert done.returncode == 0 and "3.0 MB" in done.stdout and "CC0 1.0" in done.stdout
    done = run(command, "clap", "--mirror", web.url, "--out", tmp_path)
    assert done.returncode == 0 and "clap: 1 files" in done.stdout, done.stderr
    assert (tmp_path / "630k-audioset-best.pt").read_bytes() == BODY
    done = run(command, "vggish", "--mirror", f"{web.url}/nowhere", "--out", tmp_path / "b")
    assert done.returncode == 2 and done.stderr.startswith("error: vggish-10086976.pth: HTTP 404")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "b").exists()


def test_kill_in_the_middle_then_the_same_command(web, tmp_path, command):
    web.hub("lukewys/laion_clap", {"630k-audioset-best.pt": BODY})
    found = web.resources[f"/cdn/{SHA}"]
    found.script = ["stall"]
    arguments = ["clap", "--mirror", web.url, "--out", str(tmp_path), "--quiet"]
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([*command, *arguments], env=env, stdout=subprocess.DEVNULL)
    part = part_of(tmp_path / "630k-audioset-best.pt")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (part.is_file() and part.stat().st_size >= 1 << 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert have >= 1 << 20
    assert found.script == []
    done = run(command, *arguments)
    assert done.returncode == 0, done.stderr
    assert web.gets(f"/cdn/{SHA}")[-1] == f"bytes={have}-"
    assert (tmp_path / "630k-audioset-best.pt").read_bytes() == BODY


def test_ctrl_c_while_the_server_is_silent(web, tmp_path, command):
    web.put("/m/vggish-10086976.pth", BODY, script=["stall"])
    arguments = ["vggish", "--mirror", f"{web.url}/m", "--out", str(tmp_path), "--quiet"]
    env = {**os.environ, "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [*command, *arguments],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # tests that were started in a shell's background inherit a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    part = part_of(tmp_path / "vggish-10086976.pth")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (part.is_file() and part.stat().st_size >= CUT):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=40)  # and not the 60 s of --timeout
    assert process.returncode == 130
    assert complaint.decode().splitlines() == ["stopped; the same command goes on from there"]


def test_every_source_has_a_recipe_and_says_its_licence(repo_root):
    from latentclap.getting.recipes import RECIPES

    assert set(SOURCES) == set(RECIPES)
    for item in SOURCES.values():
        assert item.licence and item.cite and item.page.startswith("https://")
    spec = importlib.util.spec_from_file_location("get_script", repo_root / "data_scripts" / "get.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from typer.testing import CliRunner

    asked = []
    module.get = lambda name, options, say, subsets: asked.append((name, subsets))
    assert CliRunner().invoke(module.app, ["all", "--dry-run"]).exit_code == 0
    assert ("wavcaps", ("SoundBible",)) in asked and {name for name, _ in asked} == set(SOURCES) - {
        "audioldm-ckpt"
    }
    listed = CliRunner().invoke(module.app, ["list"])
    assert listed.exit_code == 0
    assert all(item.licence in listed.output for item in SOURCES.values())
    paper = (repo_root / "src/latentclap/profiles/paper.toml").read_text()
    assert SOURCES["dcase"].out in paper and f"{SOURCES['vggish'].out}/vggish-10086976.pth" in paper
