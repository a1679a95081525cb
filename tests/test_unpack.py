"""Archives made to hurt, and split zips."""

import errno
import gzip
import io
import json
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections import namedtuple

import numpy as np
import pytest

from latentclap.errors import InputError
from latentclap.getting import splitzip
from latentclap.getting.contents import Contents
from latentclap.getting.manifest import Manifest
from latentclap.getting.splitzip import open_zip, split_parts
from latentclap.getting.unpack import Limits, unpack

GOOD = {"a/one.txt": b"one" * 1000, "a/b/two.txt": b"two", "three": b""}


def tar(path, files=GOOD, extra=(), mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        for info, body in extra:
            archive.addfile(info, io.BytesIO(body))
    return path


def special(name, kind, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info, b""


def zipped(path, files=GOOD, kind=zipfile.ZIP_DEFLATED, attributes=None):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, body in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            info.external_attr = (attributes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, body)
    return path


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_a_good_tar(tmp_path, name, mode):
    counted = []
    members = unpack([tar(tmp_path / name, mode=mode)], tmp_path / "out", progress=counted.append)
    assert tree(tmp_path / "out") == GOOD
    assert sum(counted) == sum(m.size for m in members) == 3003


def test_a_good_zip_renamed(tmp_path):
    path = zipped(tmp_path / "x.zip")
    unpack([path], tmp_path / "out", place=lambda n: n.upper() if n != "three" else None)
    assert tree(tmp_path / "out") == {"A/ONE.TXT": GOOD["a/one.txt"], "A/B/TWO.TXT": b"two"}


def test_an_interrupted_unpacking_goes_on(tmp_path, monkeypatch):
    path = zipped(tmp_path / "x.zip")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "one.txt").write_bytes(b"1" * 3000)  # there, with the right size: left alone
    (tmp_path / "out" / "a" / "b").mkdir()
    (tmp_path / "out" / "a" / "b" / "two.txt").write_bytes(b"t")  # cut: written again
    unpack([path], tmp_path / "out")
    assert tree(tmp_path / "out") == {**GOOD, "a/one.txt": b"1" * 3000}


def test_what_a_kill_left_is_swept(tmp_path):
    """A temporary file is never a member, unless the archive has one of that very name."""
    path = zipped(tmp_path / "x.zip", {**GOOD, "a/.kept-abcdefgh.txt": b"a member"})
    (tmp_path / "out" / "a").mkdir(parents=True)
    for name in ("a/.one-abc_12gh.txt", "a/.kept-abcdefgh.txt", ".three-abcdefgh", "a/notes.txt"):
        (tmp_path / "out" / name).write_bytes(b"half")
    unpack([path], tmp_path / "out")
    rest = {"a/.kept-abcdefgh.txt": b"a member", "a/notes.txt": b"half"}
    assert tree(tmp_path / "out") == {**GOOD, **rest}


EVIL_NAMES = ["../up.txt", "/abs.txt", "a/../../up.txt", "C:/x.txt", "a\\..\\x.txt", "bell\a.txt"]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("make", [tar, zipped])
def test_names_that_lead_out(tmp_path, name, make):
    """Refused before anything is written, also what came before it."""
    path = make(tmp_path / ("x.zip" if make is zipped else "x.tar.gz"), {"good.txt": b"x", name: b"x"})
    if make is zipped and "\\" in name:
        # zipfile itself turns a backslash into a slash on some systems; put it into the bytes
        path.write_bytes(path.read_bytes().replace(b"a/../x.txt", b"a\\..\\x.txt"))
    with pytest.raises(InputError, match="refused the file name"):
        unpack([path], tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "up.txt").exists()


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (special("l", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (special("l", tarfile.LNKTYPE, "a/one.txt"), "is a link"),
        (special("l", tarfile.CHRTYPE), "is a device"),
        (special("l", tarfile.BLKTYPE), "is a device"),
        (special("l", tarfile.FIFOTYPE), "is a device or special"),
        (special("l", tarfile.CONTTYPE), "special"),
        (special("../d", tarfile.DIRTYPE), "refused the file name"),
    ],
)
def test_what_is_no_plain_file(tmp_path, member, says):
    path = tar(tmp_path / "x.tar.gz", extra=[member])
    with pytest.raises(InputError, match=says):
        unpack([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip(tmp_path):
    path = zipped(tmp_path / "x.zip", {"l": b"/etc/passwd"}, attributes={"l": stat.S_IFLNK | 0o777})
    with pytest.raises(InputError, match="'l' is a link"):
        unpack([path], tmp_path / "out")
    path = zipped(tmp_path / "y.zip", {"l": b""}, attributes={"l": stat.S_IFIFO | 0o777})
    with pytest.raises(InputError, match="special file"):
        unpack([path], tmp_path / "out")


def test_a_link_that_waits_in_the_folder(tmp_path):
    """Somebody put a link where a folder of the archive will be."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out of"):
        unpack([tar(tmp_path / "x.tar.gz")], tmp_path / "out")
    assert tree(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("make", [tar, zipped])
def test_bombs_by_size(tmp_path, make):
    path = make(tmp_path / ("x.zip" if make is zipped else "x.tar.gz"), {"zeros": bytes(80 << 20)})
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"would unpack to more than 67\.1 MB; refused as a bomb"):
        unpack([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bombs_by_number(tmp_path):
    path = tar(tmp_path / "x.tar.gz", {f"{i}": b"" for i in range(30)})
    with pytest.raises(InputError, match="more than 20 files"):
        unpack([path], tmp_path / "out", limits=Limits(files=20))


def test_a_bomb_of_overlapping_members(tmp_path):
    """Many names for one run of bytes, as in the non-recursive zip bombs."""
    path = zipped(tmp_path / "x.zip", {"a": bytes(100_000), "b": bytes(100_000)})
    data = bytearray(path.read_bytes())
    second = data.rfind(b"PK\x01\x02")
    struct.pack_into("<L", data, second + 42, 0)  # b's place is a's
    path.write_bytes(data)
    with pytest.raises(InputError, match="overlaps the member before it"):
        unpack([path], tmp_path / "out")


def test_a_tar_that_lies_about_its_header(tmp_path):
    """An extended header of 5 GB would be read into memory whole."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 5 << 30
    with gzip.open(tmp_path / "x.tar.gz", "wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.write(bytes(1 << 20))
    with pytest.raises(InputError, match=r"broken archive .a header of"):
        unpack([tmp_path / "x.tar.gz"], tmp_path / "out")


def test_a_zip_that_lies_about_a_size(tmp_path):
    """The central directory says 10 bytes, the data hold 100,000: no more than 10 are ever written."""
    path = zipped(tmp_path / "x.zip", {"a": bytes(100_000)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.rfind(b"PK\x01\x02") + 24, 10)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"broken archive|longer than"):
        unpack([path], tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "files", [{"a": b"1", "./a": b"2"}, {"a/b": b"1", "a": b"2"}, {"a": b"1", "a/b": b"2"}, {".": b"1"}]
)
def test_two_members_at_one_place(tmp_path, files):
    with pytest.raises(InputError, match="refused"):
        unpack([tar(tmp_path / "x.tar", files, mode="w")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_are_judged_too(tmp_path):
    with pytest.raises(InputError, match="refused the file name"):
        unpack([tar(tmp_path / "x.tar.gz")], tmp_path / "out", place=lambda n: f"../{n}")


@pytest.mark.parametrize("make", [tar, zipped])
def test_broken_archives(tmp_path, make):
    rng = random.Random(0)
    files = {f"f{i}": rng.randbytes(5000) for i in range(20)}
    path = make(tmp_path / ("x.zip" if make is zipped else "x.tar.gz"), files)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no archive at all" * 100, _flipped(whole)):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="broken archive"):
            unpack([path], tmp_path / "out")
    # whatever was written before the damage was noticed is right
    assert all(files[name] == body for name, body in tree(tmp_path / "out").items() if body)
    with pytest.raises(InputError, match="no such archive"):
        unpack([tmp_path / "absent.zip"], tmp_path / "out")


def _flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 64]) + data[middle + 64 :]


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = tar(tmp_path / "x.tar", {f"f{i}": b"x" * 512 for i in range(8)}, mode="w")
    data = bytearray(path.read_bytes())
    data[4 * 1024 : 4 * 1024 + 300] = b"\x01" * 300
    path.write_bytes(data)
    with pytest.raises(InputError, match="does not end where a tar ends"):
        unpack([path], tmp_path / "out")


def test_an_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a": b"secret"})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rfind(b"PK\x01\x02") + 8, 1)
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        unpack([path], tmp_path / "out")


Usage = namedtuple("Usage", "total used free")


def test_no_room(tmp_path, monkeypatch):
    path = tar(tmp_path / "x.tar.gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 3002))
    with pytest.raises(InputError, match=r"unpacking needs 3\.0 kB, 3\.0 kB are free"):
        unpack([path], tmp_path / "out")
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latentclap.getting.unpack.atomic_path", full)
    with pytest.raises(InputError, match="the disk is full"):
        unpack([path], tmp_path / "out")


# --- split zips ---------------------------------------------------------------------------------------------


def split_zip(path, files, size, wide=False):
    """Write a split archive as APPNOTE 4.3 and 8.5 have it: a marker, the members, the directory, in parts.

    ``wide`` writes every number in its ZIP64 form, as parts above 4 GiB need.
    """
    parts, starts = [bytearray(b"PK\x07\x08")], []
    for name, body in files.items():
        local = struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0x21, _crc(body), len(body), len(body), len(name), 0
        )
        if len(parts[-1]) + len(local) + len(name) > size:  # a header is never divided, data are
            parts.append(bytearray())
        starts.append((len(parts) - 1, len(parts[-1])))
        stream = local + name.encode() + body
        while stream:
            room = max(0, size - len(parts[-1]))
            parts[-1] += stream[:room]
            stream = stream[room:]
            if stream:
                parts.append(bytearray())
    first, offset, directory = len(parts) - 1, len(parts[-1]), b""
    for (name, body), (disk, at) in zip(files.items(), starts, strict=True):
        extra = struct.pack("<2H3QL", 1, 28, len(body), len(body), at, disk) if wide else b""
        n, d, o = (0xFFFFFFFF, 0xFFFF, 0xFFFFFFFF) if wide else (len(body), disk, at)
        head = (b"PK\x01\x02", 20, 20, 0, 0, 0, 0x21, _crc(body), n, n, len(name), len(extra), 0, d, 0, 0, o)
        directory += struct.pack("<4s6H3L5H2L", *head) + name.encode() + extra
    parts[-1] += directory
    if wide:
        at64 = len(parts[-1])
        counts = (len(files), len(files), len(directory), offset)
        parts[-1] += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, len(parts) - 1, first, *counts)
        parts[-1] += struct.pack("<4sLQL", b"PK\x06\x07", len(parts) - 1, at64, len(parts))
        parts[-1] += struct.pack(
            "<4s4H2LH", b"PK\x05\x06", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0
        )
    else:
        counts = (len(parts) - 1, first, len(files), len(files), len(directory), offset, 0)
        parts[-1] += struct.pack("<4s4H2LH", b"PK\x05\x06", *counts)
    names = [path.with_suffix(f".z{i + 1:02d}") for i in range(len(parts) - 1)] + [path]
    for name, part in zip(names, parts, strict=True):
        name.write_bytes(part)
    return names


def _crc(body):
    import zlib

    return zlib.crc32(body)


SOUNDS = {f"deep/{i:03d}.flac": np.random.default_rng(i).bytes(1000 + 37 * i) for i in range(60)}


@pytest.mark.parametrize("wide", [False, True])
def test_a_split_zip(tmp_path, wide):
    parts = split_zip(tmp_path / "x.zip", SOUNDS, 20_000, wide)
    assert len(parts) > 4 and split_parts(tmp_path / "x.zip") == parts
    unpack(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == SOUNDS


@pytest.mark.skipif(not shutil.which("zip"), reason="Info-ZIP's zip is not on this machine")
@pytest.mark.parametrize("compress", ["-0", "-9"])
def test_a_split_zip_of_info_zip(tmp_path, compress):
    """The tool that WavCaps was split with."""
    files = {f"d/{i}.flac": np.random.default_rng(i).bytes(30_000) + bytes(5000) for i in range(12)}
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    subprocess.run(["zip", "-q", "-r", compress, "-s", "64k", "x.zip", "d"], cwd=tmp_path, check=True)
    parts = split_parts(tmp_path / "x.zip")
    assert len(parts) > 4
    unpack(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == files


def test_a_zip_cut_into_pieces_afterwards(tmp_path):
    whole = zipped(tmp_path / "whole.zip", SOUNDS).read_bytes()
    cuts = [whole[i : i + 20_000] for i in range(0, len(whole), 20_000)]
    parts = [tmp_path / f"x.z{i + 1:02d}" for i in range(len(cuts) - 1)] + [tmp_path / "x.zip"]
    for part, body in zip(parts, cuts, strict=True):
        part.write_bytes(body)
    unpack(split_parts(tmp_path / "x.zip"), tmp_path / "out")
    assert tree(tmp_path / "out") == SOUNDS


def test_parts_that_are_missing(tmp_path):
    parts = split_zip(tmp_path / "x.zip", SOUNDS, 20_000)
    parts[1].unlink()
    with pytest.raises(InputError, match=r"part x\.z02 is missing"):
        split_parts(tmp_path / "x.zip")
    parts = split_zip(tmp_path / "y.zip", SOUNDS, 20_000)
    parts[-2].unlink()
    with pytest.raises(InputError, match=f"made of {len(parts)} parts, {len(parts) - 1} are here"):
        unpack(split_parts(tmp_path / "y.zip"), tmp_path / "out")


def test_split_zips_that_are_broken(tmp_path):
    parts = split_zip(tmp_path / "x.zip", SOUNDS, 20_000)
    whole = parts[-1].read_bytes()
    for broken in (whole[:-30], whole[:-22].replace(b"PK\x01\x02", b"PK\x01\x03") + whole[-22:], b""):
        parts[-1].write_bytes(broken)
        with pytest.raises(InputError, match="broken archive"):
            unpack(parts, tmp_path / "out")
    parts[-1].write_bytes(whole)
    parts[0].write_bytes(parts[0].read_bytes()[:-100])  # every place after it moves
    with pytest.raises(InputError, match=r"broken archive|overlaps"):
        unpack(parts, tmp_path / "out")


def test_joining_takes_little_memory(tmp_path):
    """32 MB in parts of 4 MB; the joined file is never made and never held."""
    files = {f"{i}.flac": np.random.default_rng(i).bytes(2 << 20) for i in range(16)}
    parts = split_zip(tmp_path / "x.zip", files, 4 << 20)
    del files
    before = set(tmp_path.iterdir())
    tracemalloc.start()
    try:
        unpack(parts, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert set(tmp_path.iterdir()) == before | {tmp_path / "out"}


def test_the_joined_file_is_a_file(tmp_path):
    """Random seeks and reads agree with the bytes."""
    parts = []
    for i, size in enumerate((10, 1, 100, 33)):
        parts.append(tmp_path / f"{i}")
        parts[-1].write_bytes(random.Random(i).randbytes(size))
    whole = b"".join(p.read_bytes() for p in parts)
    rng = random.Random(0)
    with splitzip._Joined(parts) as joined:
        for _ in range(200):
            at, size = rng.randrange(len(whole) + 5), rng.randrange(60)
            joined.seek(at)
            got = b""
            while len(got) < size and (chunk := joined.read(size - len(got))):
                got += chunk
            assert got == whole[at : at + size]
        assert joined.seek(0, io.SEEK_END) == len(whole)
        with pytest.raises(ValueError, match="before the start"):
            joined.seek(-1)


def test_a_plain_zip_is_its_own_part(tmp_path):
    path = zipped(tmp_path / "x.zip")
    assert split_parts(path) == [path]
    with open_zip([path]) as archive:
        assert archive.namelist() == list(GOOD)


@pytest.mark.parametrize(
    ("files", "before"), [([["a"]], {}), ({"a": 1}, {"../mine": 1}), ({"a": 1}, {"/etc/mine": 1})]
)
def test_a_list_that_was_edited_is_none(tmp_path, files, before):
    (tmp_path / "mine").write_text("1")
    told = {"archive": "d", "files": files, "before": before}
    (tmp_path / "set").mkdir()
    (tmp_path / "set/.latentclap-get.x.json").write_text(json.dumps(told))
    contents = Contents(Manifest(tmp_path / "set"), "x")
    assert (contents.files, contents.before, contents.state) == ({}, {}, "")
