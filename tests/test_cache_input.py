"""What goes into the latent cache: odd archives, changed input, lists of clips to leave out, parts of long sounds."""

import bz2
import copy
import errno
import functools
import gzip
import io
import json
import lzma
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc

import numpy as np
import psutil
import pytest
import soundfile
import torch

from latentclap.audio import write_wave
from latentclap.book.scale import cache_table
from latentclap.cache import ShardedCache, build, cache_parts, find_parts, list_clips
from latentclap.cache.exclude import read_exclusion
from latentclap.cache.front import Bad, Front, stream
from latentclap.cache.listing import Item
from latentclap.cache.pack import pack
from latentclap.cache.parts import Part
from latentclap.cache.settings import fingerprint
from latentclap.cache.shards import write_manifest
from latentclap.cache.tars import count_items, tar_groups
from latentclap.cache.windows import decode_windows
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.scan import SUFFIXES, scan
from test_cache import RATE, ROOT, Large, content, noise, said, tar_items, wavcaps

CAPTION = b'{"caption": "a sound"}'


def encoded(wave, form="FLAC", subtype="PCM_16", rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=subtype)
    return file.getvalue()


def archive(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def members(captions, seed=0):
    """A sound of its own and a caption for each."""
    for i, caption in enumerate(captions):
        yield f"{i:03d}.flac", encoded(noise(seed + i))
        yield f"{i:03d}.json", json.dumps({"caption": caption}).encode()


# ------------------------------------------------------------------------------------------ archives


SOUND = encoded(noise(0))
ODD = [
    ("a.flac", SOUND), ("a.json", CAPTION),
    ("UPPER.FLAC", SOUND), ("UPPER.json", CAPTION),
    ("dots.v1.2.flac", SOUND), ("dots.v1.2.json", CAPTION),
    ("folder.x/inner.txt", b"inside"), ("folder.x/inner.flac", SOUND),
    ("../up.flac", SOUND), ("../up.txt", b"up"),
    ("ünï 雨.flac", SOUND), ("ünï 雨.txt", "雨".encode()),
    ("__meta__", b"x"), ("sub/__x__/y.flac", SOUND), ("sub/__x__/y.txt", b"y"),
    ("two.flac", SOUND), ("two.wav", encoded(noise(1), "WAV")), ("two.json", CAPTION),
    ("v.1.json", b'{"caption": "one"}'), ("v.2.json", b'{"caption": "two"}'), ("v.2.flac", SOUND),
    ("readme.txt", b"hello"),
]  # fmt: skip


def test_webdataset_reads_the_same_groups(tmp_path):
    import webdataset

    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        path = archive(tmp_path / "x.tar", ODD, form)
        theirs = webdataset.WebDataset(str(path), shardshuffle=False, nodesplitter=None)
        wanted = [(s["__key__"], [k for k in s if not k.startswith("__")]) for s in theirs]
        groups = [(g.key, [m[0] for m in g.members]) for g in tar_groups(path) if not g.problem]
        assert groups == wanted
    first = next(iter(webdataset.WebDataset(str(path), shardshuffle=False, nodesplitter=None)))
    assert first["flac"] == next(tar_items(path)).data.read() == SOUND


def test_odd_names_in_an_archive(tmp_path):
    path = archive(tmp_path / "x.tar", [*ODD, ("noext", b"junk"), ("._a.flac", b"AppleDouble")])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.flac")
        link.type, link.linkname = tarfile.LNKTYPE, "a.flac"
        tar.addfile(link)
    items = list(tar_items(path))
    good = {i.key: (i.suffix, i.caption) for i in items if not i.problem}
    assert good["dots"] == (".flac", "a sound")
    assert good["v"] == (".flac", "two")  # the caption of the same name, not the first
    assert good["UPPER"] == (".flac", "a sound") and good["two"][0] == ".flac"
    bad = {i.problem for i in items if i.problem}
    assert bad == {
        "no sound file", "archive: noext: no suffix", "archive: link.flac: a link, not a file",
        "archive: two: of 2 sounds only .flac is used",
    }  # fmt: skip


def test_each_damage_is_said_once(tmp_path):
    path = tmp_path / "x.tar"
    archive(path, [(f"{i}.{s}", b"x" * 3000) for i in range(4) for s in ("flac", "txt")])
    whole = path.read_bytes()
    at = whole.index(b"2.flac")

    def read(data):
        path.write_bytes(data)
        groups = list(tar_groups(path))
        return [g.key for g in groups if not g.problem], [g.problem for g in groups if g.problem]

    # a header in the middle of which nothing is left, or which says something else: all after it is lost
    lost = f"archive: damaged: the last {len(whole) - at} bytes cannot be read"
    for head in (bytes(512), bytes(8) + b"\xff" * 504, b"\xff" * 512):
        assert read(whole[:at] + head + whole[at + 512 :]) == (["0", "1"], [lost])
    assert read(whole[: at + 1000]) == (["0", "1"], ["archive: 2.flac: unexpected end of data"])
    assert read(whole[: at + 4096 + 700]) == (["0", "1", "2"], ["archive: 2.txt: unexpected end of data"])
    # cut behind a member that fills its last block, and so is whole
    filled = archive(path, [("0.flac", b"x" * 3000), ("0.txt", b"y" * 512)]).read_bytes()
    assert read(filled[: filled.rindex(b"y") + 1]) == (["0"], [])
    assert [m[0] for m in next(tar_groups(path)).members] == ["flac", "txt"]
    for packed in (gzip.compress, bz2.compress, lzma.compress):
        (good, (problem,)) = read(packed(whole))
        assert not good and problem.endswith("; it is compressed: unpack it first")
    archive(path, [("a.flac", SOUND), ("a.json", CAPTION), ("a.flac", encoded(noise(1)))])
    (group, note) = tar_groups(path)
    assert [m[0] for m in group.members] == ["flac", "json"]
    assert note.problem == "archive: a.flac: duplicate file name in tar file"
    assert next(tar_items(path)).data.read() == SOUND
    with tarfile.open(
        path, "w", format=tarfile.PAX_FORMAT
    ) as tar:  # as tar --sparse writes a file with holes
        info = tarfile.TarInfo("s.flac")
        told = {"major": "1", "minor": "0", "name": "s.flac", "realsize": "4096"}
        info.pax_headers = {f"GNU.sparse.{k}": v for k, v in told.items()}
        data = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    assert [g.problem for g in tar_groups(path)] == ["archive: s.flac: sparse"]


@pytest.mark.parametrize("layout", ["classes", "captions"])
def test_every_sound_that_is_listed_is_encoded(tiny, tmp_path, layout):
    place = tmp_path / "in" / ("rain" if layout == "classes" else "a")
    place.mkdir(parents=True)
    for i, suffix in enumerate(sorted(SUFFIXES)):
        write_wave(place / f"{i}{suffix}", noise(i), RATE if suffix != ".opus" else 24000)
        (place / f"{i}.txt").write_text("a sound")
    told, items = list_clips(tmp_path / "in", side="all")
    assert told == layout and len(items) == len(SUFFIXES) == 7
    pack(items, tmp_path / "tars")
    assert count_items(tmp_path / "tars/000000.tar") == len(items)
    made = cache_parts(tiny, find_parts(tmp_path / "tars"), tmp_path / "out", progress=False)
    assert (made.clips, made.problems) == (len(items), 0)


def test_names_that_are_no_text(tmp_path):
    path = archive(tmp_path / "x.tar", [("cafX.flac", SOUND), ("cafX.txt", b"x")], tarfile.USTAR_FORMAT)
    data = path.read_bytes().replace(b"cafX", b"caf\xe9")
    for name in (b"caf\xe9.flac", b"caf\xe9.txt"):  # the header's checksum again
        at = data.index(name)
        head = bytearray(data[at : at + 512])
        head[148:156] = b" " * 8
        head[148:156] = f"{sum(head):06o}\0 ".encode()
        data = data[:at] + bytes(head) + data[at + 512 :]
    path.write_bytes(data)
    assert [i.key for i in tar_items(path)] == ["caf\\xe9"]


def test_only_the_beginning_of_a_member_is_read_and_once(tmp_path, tiny, monkeypatch):
    """One process or four read about the same: headers by all, sounds by one."""
    sound = encoded((0.1 * np.random.default_rng(0).standard_normal(RATE * 40)).astype(np.float32))
    path = archive(tmp_path / "x.tar", [(f"{i}.{s}", d) for i in range(8) for s, d in (("flac", sound), ("json", CAPTION))])  # fmt: skip  # noqa: E501
    total, read = path.stat().st_size, multiprocessing.Value("q", 0)

    class Counting(io.FileIO):
        def readinto(self, buffer):
            got = super().readinto(buffer)
            with read.get_lock():
                read.value += got
            return got

    monkeypatch.setattr(
        "latentclap.cache.tars.open",
        lambda path, mode, buffering: io.BufferedReader(Counting(path), buffering),
        raising=False,
    )
    told = {}
    for workers in (0, 2, 4):
        read.value = 0
        results = list(stream([Part("x", path)], Front(1.0, tiny.feature_extractor), workers=workers))
        assert len(results) == 9 and not any(isinstance(r, Bad) for _, rs in results for r in rs or ())
        told[workers] = read.value / total
    assert max(told.values()) < 0.12, told
    assert told[4] < 2 * told[0]


def test_a_disk_that_fails_costs_the_clip(tmp_path, tiny, monkeypatch):
    path = archive(tmp_path / "x.tar", [("a.flac", SOUND), ("a.json", CAPTION)])

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if 1000 <= self.tell() < 9000 and len(buffer) > 4096:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    monkeypatch.setattr(
        "latentclap.cache.tars.open",
        lambda path, mode, buffering: io.BufferedReader(Failing(path), buffering),
        raising=False,
    )
    (results, _) = [r for _, r in stream([Part("x", path)], Front(1.0, tiny.feature_extractor))]
    assert [r.reason for r in results] == ["cannot be read (Input/output error)"]


def failing(monkeypatch, module, code=errno.ESTALE, files=None):
    """Files, or those at a place, that cannot be read beyond their beginning while what this returns is true."""
    ill = [True]

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if ill[0] and self.tell() >= 20000:
                raise OSError(code, os.strerror(code))
            return super().readinto(buffer)

    def opening(path, mode="rb", buffering=-1):
        if files and files not in (path, *path.parents):
            return open(path, mode)
        return io.BufferedReader(Failing(path), max(buffering, 4096))

    monkeypatch.setattr(f"latentclap.cache.{module}.open", opening, raising=False)
    return ill


@pytest.mark.parametrize("packed", [True, False])
def test_what_a_disk_did_not_give_is_tried_again(tiny, tmp_path, monkeypatch, packed):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    if packed:
        pack(list_clips(source)[1], tmp_path / "tars")
        source = tmp_path / "tars"
    ill = failing(monkeypatch, "tars")
    made = cache_parts(tiny, find_parts(source), out, progress=False)
    # without them there is a cache all the same: a disk may stay as it is
    assert made.problems and os.strerror(errno.ESTALE) in (out / "problems.csv").read_text()
    assert made.manifest["clips"] == made.clips < 3
    assert cache_parts(tiny, find_parts(source), out, progress=False).again == 1
    ill[0] = False
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    options = ("--system", tmp_path / "system", "--device", "cpu", "--workers", 0, "--quiet")
    told = said("cache_latents", source, out, *options)
    assert "1 shards lack clips which the system failed to give" in told
    assert "1 shard written (1 of them again, for clips that could not be read), 0 kept, 0 clips" in told
    assert len(ShardedCache(out)) == 3 and "retry" not in read_json(out.joinpath(f"{find_parts(source)[0].name}.entry.json"))  # fmt: skip  # noqa: E501
    assert cache_parts(tiny, find_parts(source), out, progress=False).kept == 1


def test_a_clip_that_memory_did_not_hold_is_tried_again(tiny, tmp_path, monkeypatch):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    (source / "9.wav").write_bytes(b"no sound")  # what comes after it is a problem of another kind
    (source / "9.txt").write_text("broken")
    with monkeypatch.context() as patch:
        patch.setattr("latentclap.cache.front.to_model_rate", lambda *a: (_ for _ in ()).throw(MemoryError))
        assert cache_parts(tiny, find_parts(source), out, progress=False).problems == 4
    made = cache_parts(tiny, find_parts(source), out, progress=False)
    assert (made.clips, made.problems, made.again) == (3, 1, 1)
    assert cache_parts(tiny, find_parts(source), out, progress=False).kept == 1


def test_a_caption_that_a_disk_does_not_give_is_tried_again(tmp_path, monkeypatch):
    long = json.dumps({"caption": "a sound", "id": "x" * 20_000}).encode()
    path = archive(tmp_path / "x.tar", [("a.flac", SOUND), ("a.json", long), ("b.json", CAPTION), ("b.flac", SOUND)])  # fmt: skip  # noqa: E501

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if len(buffer) > 4096:  # no header
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    monkeypatch.setattr(
        "latentclap.cache.tars.open",
        lambda path, mode, buffering: io.BufferedReader(Failing(path), buffering),
        raising=False,
    )
    told = [(i.key, i.problem, i.retry, i.caption) for i in tar_items(path)]
    assert told[:2] == [("a", "cannot be read (Input/output error)", True, ""), ("b", "", False, "a sound")]
    # what follows the last sample is looked at too
    assert told[2:] == [("x", "archive: Input/output error", True, "")]


def test_what_is_too_long_for_a_caption_is_not_read(tmp_path):
    long = json.dumps({"caption": "x", "id": "x" * 2**20}).encode()
    path = archive(tmp_path / "x.tar", [("a.flac", SOUND), ("a.json", long)])
    assert [item.problem for item in tar_items(path)] == ["no caption"]


def test_a_change_while_it_is_encoded_is_noticed_by_the_next_call(tiny, tmp_path, monkeypatch):
    """What a shard was made of is noted before its sounds are encoded, not after."""
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    parts, real, rewritten = find_parts(source), type(tiny).posterior, []

    def posterior(self, waves):
        deadline = time.monotonic() + 5
        while "source" not in vars(parts[0]) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not rewritten:
            rewritten.append(soundfile.write(source / "0.wav", noise(9), RATE))
        return real(self, waves)

    monkeypatch.setattr(type(tiny), "posterior", posterior)
    assert cache_parts(tiny, parts, out, batch_size=1, progress=False).clips == 3
    made = cache_parts(tiny, find_parts(source), out, progress=False)
    assert (made.shards, made.kept) == (1, 0)
    assert cache_parts(tiny, find_parts(source), out, progress=False).kept == 1


def test_what_is_no_archive_is_a_problem_and_stops_nothing(tmp_path, tiny):
    archive(tmp_path / "in/a.tar", members(["one"]))
    (tmp_path / "in/b.tar").write_bytes(b"no tar at all, but more than one block of it " * 20)
    (tmp_path / "in/c.tar").mkdir()
    (tmp_path / "in/d.tar").symlink_to("nowhere")
    (tmp_path / "in/e.tar").write_bytes(b"\x1f\x8b\x08\x00" + bytes(600))
    (tmp_path / "in/.000001-abcdefgh.tar").write_bytes(b"left by a killed packer")
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    options = ("--system", tmp_path / "system", "--device", "cpu", "--workers", 0, "--quiet")
    told = said("cache_latents", tmp_path / "in", tmp_path / "out", *options, "--dry-run")
    assert "1 clip in 5 shards" in told and "warning: 4 of 5 tar files cannot be read; the first is" in told
    told = said("cache_latents", tmp_path / "in", tmp_path / "out", *options)
    assert "1 clip encoded" in told and "5 shards written, 0 kept, 4 clips skipped" in told
    reasons = (tmp_path / "out/problems.csv").read_text()
    assert "c,c,archive: Is a directory" in reasons and "d,d,archive: No such file" in reasons
    assert "compressed: unpack it first" in reasons
    assert "0 shards written, 5 kept" in said("cache_latents", tmp_path / "in", tmp_path / "out", *options)


# --------------------------------------------------------------------------------------- folders


def test_links_to_folders_are_followed_and_hidden_folders_are_not(tmp_path):
    """As on clusters, where sounds lie on another disk; no clip twice, however the links go."""
    for place in ("in/b", "far/deep", "in/.snapshot/b", "in/.Trash-0/files"):
        folder_of(tmp_path / place)
    folder_of(tmp_path / "in/a")
    for name, to in (("link", "../far"), ("twin", "b"), ("b/up", "../.."), ("again", "../far/deep")):
        (tmp_path / "in" / name).symlink_to(to)
    (tmp_path / "far/back").symlink_to("../in")
    (tmp_path / "far/loop").symlink_to(".")
    keys = [item.key for item in list_clips(tmp_path / "in")[1]]
    assert keys == [f"{place}/{i}" for place in ("a", "again", "b") for i in range(3)]
    shutil.copytree(tmp_path / "in/a", tmp_path / "far/more")
    keys = {item.key.rpartition("/")[0] for item in list_clips(tmp_path / "in")[1]}
    assert keys == {"a", "again", "b", "link/more"}
    archive(tmp_path / "shards/0.tar", members(["one"]))
    archive(tmp_path / "elsewhere/1.tar", members(["two"]))
    (tmp_path / "shards/more").symlink_to("../elsewhere")
    assert [part.name for part in find_parts(tmp_path / "shards")] == ["0", "more/1"]


def test_wavcaps_sounds_on_another_disk_and_none_at_all(tmp_path):
    wavcaps(tmp_path / "in")
    shutil.move(tmp_path / "in/audio", tmp_path / "far")
    for name in ("pack_shards", "cache_latents"):
        told = said(name, tmp_path / "in", tmp_path / "out")
        assert "not one of the 7 clips of json_files/ has its sound there" in told
    (tmp_path / "in/audio").symlink_to("../far")
    assert sum(not item.problem for item in list_clips(tmp_path / "in")[1]) == 6


def test_a_name_that_is_no_text_stops_nothing(tiny, tmp_path):
    latin = os.fsdecode(b"caf\xe9")
    source, tars = folder_of(tmp_path / "x/in"), tmp_path / "tars"
    source = source.parent.rename(tmp_path / latin) / "in"
    for suffix in (".wav", ".txt"):
        (source / f"0{suffix}").rename(source / f"{latin}{suffix}")
    (source / "1.txt").rename(source / f"{latin}2.txt")
    shutil.copy(source / "1.wav", source / f"{latin}1.wav")
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    run = functools.partial(subprocess.run, capture_output=True, check=True)
    script, options = ROOT / "data_scripts", ("--quiet", "--device", "cpu", "--system", tmp_path / "system")
    done = run([sys.executable, script / "pack_shards.py", source, tars, "--quiet"])
    assert b"2 clips in 1 shard" in done.stdout
    assert "caf\\xe91,no caption" in (tars / "missing.csv").read_text()
    (tars / "000000.tar").rename(tars / f"{latin}.tar")
    for place, name in ((tars, "caf\\xe9"), (source, "00000")):
        out = tmp_path / f"out-{place.name}"
        run([sys.executable, script / "cache_latents.py", place, out, *options])
        entry = read_json(out / f"{name}.entry.json")
        assert entry["keys"] == ["2", "caf\\xe9"] and len(ShardedCache(out)) == 2
    (source / "rain").mkdir()
    (source / f"{latin}.wav").rename(source / "rain" / f"{latin}.wav")
    (source / "rain" / f"{latin}2.wav").write_bytes(b"none")
    report = scan(source)
    assert len(report.clips) == 1
    assert "rain/caf\\xe92.wav" in report.table().to_csv().encode().decode()


# ----------------------------------------------------------------------------------- changed input


def same_length(path, captions, seed):
    """Other sounds and captions in an archive of the same size."""
    size = path.stat().st_size
    data = [(n, d) for n, d in members(captions, seed)]
    archive(path, data)
    assert path.stat().st_size == size


def test_changed_archives_are_noticed(tiny, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    wav = encoded(noise(0), "WAV")

    def write(name, caption, **keywords):
        return archive(source / name, [("x.wav", keywords.get("wav", wav)), ("x.txt", caption)])

    write("a.tar", b"one"), write("b.tar", b"two")
    made = cache_parts(tiny, find_parts(source), out, progress=False)
    assert made.shards == 2
    digest = made.manifest["digest"]
    os.utime(source / "a.tar", (1, 1))  # a copy without times
    assert cache_parts(tiny, find_parts(source), out, progress=False).kept == 2
    write("b.tar", b"six")  # the same size
    parts = find_parts(source)
    assert parts[1].compare(read_json(out / "b.entry.json")) == "changed"
    # also where there was something to try again: "retry" would let the manifest call it whole
    assert parts[1].compare(read_json(out / "b.entry.json") | {"retry": True}) == "changed"
    # another process that has nothing to do must not say that the cache is whole
    assert cache_parts(tiny, parts, out, rank=0, world=2, progress=False).manifest is None
    made = cache_parts(tiny, parts, out, rank=1, world=2, progress=False)
    assert (made.shards, made.manifest["clips"]) == (1, 2) and made.manifest["digest"] != digest
    assert read_json(out / "b.entry.json")["captions"] == ["six"]


def test_there_is_no_manifest_while_a_shard_is_made_again(tiny, tmp_path, monkeypatch):
    archive(tmp_path / "in/a.tar", members(["one"]))
    cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", progress=False)
    archive(tmp_path / "in/a.tar", members(["one", "two"]))

    def killed(*arguments, **keywords):
        assert not (tmp_path / "out/manifest.json").exists()
        assert not (tmp_path / "out/a.entry.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "write_piece", killed)
    with pytest.raises(KeyboardInterrupt):
        cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", progress=False)
    assert write_manifest(tmp_path / "out", ["a"]) is None


def test_no_manifest_outlives_the_first_look_at_new_input(tiny, tmp_path, monkeypatch):
    """Not while the first sound is decoded, and not where another process, of the input before, writes it late."""
    manifest = tmp_path / "out" / "manifest.json"
    archive(tmp_path / "in/a.tar", members(["one"]))
    cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", progress=False)
    archive(tmp_path / "in/a.tar", members(["one", "two"]))
    real = build.stream

    def streaming(*arguments, **keywords):
        assert not manifest.exists()
        manifest.write_text("late")
        yield from real(*arguments, **keywords)

    def writing(*arguments):
        assert not manifest.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "stream", streaming)
    monkeypatch.setattr(build, "write_piece", writing)
    with pytest.raises(KeyboardInterrupt):
        cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", progress=False)


def test_each_clip_has_its_own_caption_s_embedding(tiny, tmp_path):
    """Captions that come several times in a batch are embedded once."""
    told = ["rain", "rain", "a dog", "rain", "a gun shot", "a dog"]
    archive(tmp_path / "in/a.tar", members(told))
    cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", batch_size=6, progress=False)
    E = ShardedCache(tmp_path / "out").load()["E_text"]
    torch.testing.assert_close(E, tiny.encode_text(told), rtol=0, atol=1e-5)
    assert (E[0] - E[2]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world": 2}, "rank 2 of 2 processes: ranks count from 0 to 1"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"crops": 0}, "crops 0, crop 'first': at least 1"),
        ({"crops": 2, "crop": "last"}, "crop 'last': at least 1, and first or random"),
    ],
)
def test_what_cache_parts_refuses(tiny, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        cache_parts(tiny, [Part("a", tmp_path / "a.tar")], tmp_path / "out", progress=False, **options)
    with pytest.raises(InputError, match="no clips to encode"):
        cache_parts(tiny, [], tmp_path / "out", progress=False)
    deaf = copy.copy(tiny)
    deaf.clap = None
    with pytest.raises(InputError, match=r"no CLAP audio branch: name a judge \(--judge\)"):
        cache_parts(deaf, [Part("a", tmp_path / "a.tar")], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def folder_of(path):
    path.mkdir(parents=True)
    for i in range(3):
        soundfile.write(path / f"{i}.wav", noise(i), RATE)
        (path / f"{i}.txt").write_text(f"caption {i}")
    return path


def test_changed_clips_are_noticed(tiny, tmp_path):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"

    def again():
        return cache_parts(tiny, find_parts(source, per_shard=2), out, progress=False).shards

    assert again() == 2
    assert again() == 0
    for path in source.iterdir():
        os.utime(path, (1, 1))
    assert again() == 0
    (source / "1.txt").write_text("caption 9")
    assert again() == 1
    assert read_json(out / "00000.entry.json")["captions"] == ["caption 0", "caption 9"]
    soundfile.write(source / "2.wav", noise(9), RATE)  # the same size
    assert again() == 1


def test_the_packer_writes_changed_shards_again(tmp_path):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    (source / "2.txt").unlink()
    assert pack(list_clips(source)[1], out, per_shard=2).left_out == 1
    (out / ".000001-abcdefgh.tar").write_bytes(b"left by a kill")
    (source / "2.txt").write_text("at last")
    packed = pack(list_clips(source)[1], out, per_shard=2)
    assert (packed.written, packed.again, packed.left_out, packed.clips) == (1, 1, 0, 3)
    assert [p.name for p in out.glob(".*")] == [".lock"]
    (source / "0.txt").write_text("caption 7")
    assert pack(list_clips(source)[1], out, per_shard=2).again == 1
    assert next(tar_items(out / "000000.tar")).caption == "caption 7"
    soundfile.write(source / "1.wav", noise(9), RATE)
    assert "1 of them again" in said("pack_shards", source, out, "--per-shard", 2, "--quiet")
    assert pack(list_clips(source)[1], out, per_shard=2).written == 0
    # what could not be read is tried again, whatever the listing says
    entry = read_json(out / "000001.json")
    write_json(out / "000001.json", entry | {"left_out": [["2", "cannot be read (Input/output error)"]]})
    assert pack(list_clips(source)[1], out, per_shard=2).written == 1
    with pytest.raises(InputError, match="more shards than"):
        pack(list_clips(source)[1][:2], out, per_shard=2)


def test_the_packer_writes_what_webdataset_does(tmp_path):
    import webdataset

    for i, suffix in enumerate((".wav", ".flac", ".mp3", ".aif")):
        write_wave(tmp_path / f"in/ünï 雨/{'long' * 40}{i}{suffix}", noise(i), RATE)
        (tmp_path / f"in/ünï 雨/{'long' * 40}{i}.txt").write_text("雨")
    items = list_clips(tmp_path / "in")[1]
    pack(items, tmp_path / "out")
    file = io.BytesIO()
    theirs = webdataset.TarWriter(file, encoder=False, mtime=0.0)
    for item in items:
        told = json.dumps({"caption": item.caption, "key": item.key}, ensure_ascii=False).encode()
        theirs.write({"__key__": item.key, item.suffix[1:]: item.path.read_bytes(), "json": told})
    theirs.close()
    assert (tmp_path / "out/000000.tar").read_bytes() == file.getvalue()


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_two_packers_on_one_folder(tmp_path, monkeypatch):
    items, out = list_clips(folder_of(tmp_path / "in"))[1], tmp_path / "out"

    def another(count):
        with pytest.raises(InputError, match="out: another run is packing there; wait for it"):
            pack(items, out)

    assert pack(items, out, per_shard=2, progress=another).written == 2
    assert pack(items, out, per_shard=2).written == 0
    monkeypatch.setattr("fcntl.flock", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
    assert pack(items, tmp_path / "elsewhere").written == 1
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(
        UserWarning, match=r"third/\.lock: the file system has no locks \(No locks available\), so noth"
    ):
        assert pack(items, tmp_path / "third").written == 1


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_no_clip_vanishes_in_a_shard(tmp_path):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    (source / "0.wav").rename(source / "__x__.wav"), (source / "0.txt").rename(source / "__x__.txt")
    for place in ("__old__", "__a.b__/c", "x/__y__", "__MACOSX"):
        folder_of(source / place)
    (source / "__old__" / "2.txt").unlink()
    items = list_clips(source)[1]
    packed = pack(items, out, per_shard=4)
    assert (packed.clips, packed.left_out) == (9, 6)
    assert "000001.tar,__a.b__/c/1,webdataset keeps names like __name__" in (out / "missing.csv").read_text()
    # its own reason comes first: it would stay when the folder has another name
    assert "__old__/2,no caption" in (out / "missing.csv").read_text()
    read = [item.key for part in find_parts(out) for item in tar_items(part.tar)]
    assert len(read) == 9 and sum(count_items(path) for path in out.glob("*.tar")) == 9
    assert pack(items, out, per_shard=4).written == 0


def test_the_packer_holds_no_whole_file(tmp_path):
    source = folder_of(tmp_path / "in")
    with open(source / "1.wav", "ab") as stream:
        stream.truncate(200_000_000)
    tracemalloc.start()
    pack(list_clips(source)[1], tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out/000000.tar").stat().st_size > 2e8 and peak < 1e7


def test_the_packer_lists_what_it_cannot_read(tmp_path, monkeypatch):
    source, out = folder_of(tmp_path / "in"), tmp_path / "out"
    whole = pack(list_clips(source)[1], tmp_path / "whole")
    with monkeypatch.context() as patch:
        failing(patch, "pack", files=source)
        packed = pack(list_clips(source)[1], out)
    assert (packed.clips, packed.left_out) == (0, 3)
    assert f"0,cannot be read ({os.strerror(errno.ESTALE)})" in (out / "missing.csv").read_text()
    assert [i.problem for i in tar_items(out / "000000.tar")] == []
    # a clip that cannot be read leaves nothing behind it
    with monkeypatch.context() as patch:
        failing(patch, "pack", files=source / "1.wav")
        packed = pack(list_clips(source)[1], out)
    assert (packed.clips, packed.again) == (2, 1)
    assert [i.key for i in tar_items(out / "000000.tar")] == ["0", "2"]
    assert pack(list_clips(source)[1], out).clips == whole.clips == 3
    assert content(out) == content(tmp_path / "whole")

    class Ending(io.FileIO):
        """Beyond a place there is nothing, and there was when its size was asked for; or memory ends."""

        def readinto(self, buffer):
            if memory_ends:
                raise MemoryError
            return super().readinto(buffer) if self.tell() < 2_000_000 else 0

    def opening(path, mode="rb"):
        return io.BufferedReader(Ending(path), 4096) if path == source / name else open(path, mode)

    for k in (1, 2):
        with open(source / f"{k}.wav", "ab") as stream:
            stream.truncate(3_000_000)
    for name, kept, memory_ends, reason in (
        ("1.wav", ["0", "2"], False, "it became shorter meanwhile"),
        ("2.wav", ["0", "1"], False, "it became shorter meanwhile"),
        ("2.wav", ["0", "1"], True, "does not fit into memory"),
    ):
        out = tmp_path / f"ending{name}{memory_ends}"
        with monkeypatch.context() as patch:
            patch.setattr("latentclap.cache.pack.open", opening, raising=False)
            packed = pack(list_clips(source)[1], out)
        assert (packed.clips, packed.left_out) == (2, 1)
        assert f"{name[0]},cannot be read ({reason})" in (out / "missing.csv").read_text()
        # nothing is left of it, behind the last one's end neither
        assert [(i.key, i.problem) for i in tar_items(out / "000000.tar")] == [(key, "") for key in kept]
    (source / "3.wav").symlink_to("nowhere")
    (source / "3.txt").write_text("gone")
    told = said("pack_shards", source, tmp_path / "fourth", "--quiet")
    assert "3 clips in 1 shard" in told and "1 left out, listed in" in told
    # a disk that is full is no clip that cannot be read
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        with pytest.raises(OSError, match="File too large"):
            pack(list_clips(source)[1], tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "full").glob("*.tar"))


def test_the_packer_s_checksum_tells_its_shards_apart(tiny, tmp_path, monkeypatch):
    source, tars, out = folder_of(tmp_path / "in"), tmp_path / "tars", tmp_path / "out"
    pack(list_clips(source)[1], tars)
    cache_parts(tiny, find_parts(tars), out, progress=False)
    read = []
    monkeypatch.setattr("latentclap.cache.source._ends", lambda *a: read.append(a) or b"")
    assert cache_parts(tiny, find_parts(tars), out, progress=False).kept == 1 and not read
    monkeypatch.undo()
    (source / "1.txt").write_text("caption 7")
    pack(list_clips(source)[1], tars)
    assert cache_parts(tiny, find_parts(tars), out, progress=False).shards == 1


def test_verify_compares_the_input(tiny, tmp_path):
    archive(tmp_path / "in/a.tar", members(["one"]))
    out, system = tmp_path / "out", tmp_path / "system"
    tiny.save_pretrained(system, pipeline=False)
    cache_parts(tiny, find_parts(tmp_path / "in"), out, progress=False)
    assert "made of this input" in said("cache_latents", tmp_path / "in", out, "--verify")
    archive(tmp_path / "in/a.tar", members(["two"]))
    told = said("cache_latents", tmp_path / "in", out, "--verify")
    assert "1 of 1 shards are not of SOURCE as it is now, the first is a" in told


def test_caches_and_shards_of_an_earlier_version_stay(tiny, tmp_path):
    source, tars, out = folder_of(tmp_path / "in"), tmp_path / "tars", tmp_path / "out"
    pack(list_clips(source)[1], tars, per_shard=2)
    cache_parts(tiny, find_parts(tars), out, progress=False)
    old = {k: v for k, v in read_json(out / "cache.json").items() if k not in ("crops", "crop")}
    write_json(out / "cache.json", old | {"fingerprint": fingerprint(tiny, tokenizer=False)})
    for k in range(2):
        entry = read_json(out / f"{k:06d}.entry.json")
        entry.pop("starts")
        write_json(out / f"{k:06d}.entry.json", entry | {"source": {"bytes": entry["source"]["bytes"]}})
        packed = read_json(tars / f"{k:06d}.json")
        packed.pop("source")
        write_json(tars / f"{k:06d}.json", packed)
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    options = ("--system", tmp_path / "system", "--device", "cpu", "--quiet")
    with pytest.warns(UserWarning, match="of an earlier version, which did not note the tokenizer"):
        told = said("cache_latents", tars, out, *options)
    assert "2 shards are of an earlier version" in told and "2 kept" in told
    assert read_json(out / "manifest.json")["fingerprint"] == fingerprint(tiny)
    told = said("pack_shards", source, tars, "--per-shard", 2, "--quiet")
    assert "(0 written now)" in told and "2 shards are of an earlier version" in told
    write_json(out / "cache.json", old | {"fingerprint": "of another"})
    assert "cache of another system (fingerprint" in said("cache_latents", tars, out, *options)


def test_the_tokenizer_counts(tiny, tmp_path):
    before = fingerprint(tiny)
    length = tiny.tokenizer.model_max_length
    try:
        tiny.tokenizer.model_max_length = 7
        assert fingerprint(tiny) != before
    finally:
        tiny.tokenizer.model_max_length = length
    assert fingerprint(tiny) == before != fingerprint(tiny, tokenizer=False)


# ------------------------------------------------------------------------------------ left out by name


def test_lists_of_clips_to_leave_out(tmp_path):
    (tmp_path / "black.json").write_text('{"AudioSet": ["Y-abc.wav"], "FreeSound": ["1002", 7]}')
    (tmp_path / "own.txt").write_text("# mine\n\nSoundBible/2219.flac\naudio/rain/0001.wav\nanywhere\n")
    (tmp_path / "list.json").write_text('["Yx.y.wav"]')
    names = read_exclusion([tmp_path / n for n in ("black.json", "own.txt", "list.json")])
    assert len(names) == 7
    for key in ("AudioSet_SL/Y-abc", "FreeSound/1002", "x/FreeSound/7", "SoundBible/2219", "rain/0001",
                "anywhere", "some/anywhere", "AudioSet_SL/Yx_y"):  # fmt: skip
        assert key in names, key
    for key in ("SoundBible/1002", "FreeSound/2219", "FreeSounds/1002", "1002", "rain/0002"):
        assert key not in names, key
    (tmp_path / "marked.txt").write_text("first\nsecond\n", encoding="utf-8-sig")  # as some editors write it
    (tmp_path / "marked.json").write_text('["third"]', encoding="utf-8-sig")
    names = read_exclusion([tmp_path / "marked.txt", tmp_path / "marked.json"])
    assert all(name in names for name in ("first", "second", "third"))
    # one id of two sources, lists of either kind, and what an editor or a spreadsheet leaves around a name
    (tmp_path / "A.JSON").write_text('{"FreeSound": ["5"], "SoundBible": [" 5 ", "6"]}')
    (tmp_path / "b.txt").write_text("  BBC/5.wav\t\n")
    names = read_exclusion([tmp_path / "A.JSON", tmp_path / "b.txt"])
    assert len(names) == 4
    for key in ("FreeSound/5", "SoundBible/5", "BBC/5", "SoundBible/6", "FreeSound/part 2/5"):
        assert key in names, key
    assert "FreeSound/6" not in names and "other/5" not in names
    for text in ('{"FreeSound": "1002"}', '{"data": [{"id": 1}]}', "{", "7"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="--exclude"):
            read_exclusion([tmp_path / "bad.json"])


def test_what_is_said_of_an_archive_is_not_excluded_with_a_clip_of_its_name(tmp_path):
    path = archive(tmp_path / "rain.tar", [("rain.flac", SOUND), ("rain.json", CAPTION), ("noext", b"x")])
    (tmp_path / "list.txt").write_text("rain")
    exclusion = read_exclusion([tmp_path / "list.txt"])
    for source in (path, tmp_path):  # one archive, or a folder of them
        (part,) = find_parts(source, exclude=exclusion)
        assert [entry.problem for entry in part.entries()] == ["excluded", "archive: noext: no suffix"]


def test_excluded_clips_are_neither_packed_nor_encoded(tiny, tmp_path):
    wavcaps(tmp_path / "in")
    black = tmp_path / "in/json_files/blacklist/list.json"
    black.write_text('{"FreeSound": ["1002", "gone"], "AudioSet": ["Y-abc.wav"]}')
    told = said("pack_shards", tmp_path / "in", tmp_path / "t", "--exclude", black, "--quiet")
    assert "2 clips of the 3 names to leave out are in" in told and "2 left out: excluded" in told
    kept = [i.key for i in tar_items(tmp_path / "t/000000.tar")]
    assert kept == ["AudioSet_SL/Yx_y", "FreeSound/1003", "SoundBible/2219", "SoundBible/1"]
    # of shards that hold them, too; a shard is made again when the list changes for it, and only then
    said("pack_shards", tmp_path / "in", tmp_path / "all", "--quiet", "--per-shard", 3)
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    options = ("--system", tmp_path / "system", "--device", "cpu", "--workers", 0, "--quiet")
    told = said("cache_latents", tmp_path / "all", tmp_path / "out", *options, "--exclude", black)
    assert "4 clips encoded" in told and "0 clips skipped, 2 excluded" in told
    assert (
        "shard,clip,reason\n000000,AudioSet_SL/Y-abc,excluded" in (tmp_path / "out/problems.csv").read_text()
    )
    black.write_text('{"FreeSound": ["1002", "1003"], "AudioSet": ["Y-abc.wav"]}')
    told = said("cache_latents", tmp_path / "all", tmp_path / "out", *options, "--exclude", black)
    assert "1 shards are of input that has changed" in told and "1 shard written, 2 kept" in told
    told = said("cache_latents", tmp_path / "all", tmp_path / "out", *options)
    assert "2 shards written, 1 kept" in told
    assert len(ShardedCache(tmp_path / "out")) == 6


def test_a_name_with_a_number_sign_is_not_a_crop_s(tiny, tmp_path):
    """Clips C#4 and C: the list says C alone, and nothing changes from call to call."""
    archive(
        tmp_path / "in/a.tar",
        [(f"{n}.{s}", d) for n in ("C#4", "C", "D") for s, d in (("flac", SOUND), ("json", CAPTION))],
    )
    (tmp_path / "list.txt").write_text("C\n")
    parts = find_parts(tmp_path / "in", exclude=read_exclusion([tmp_path / "list.txt"]))
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    for crops, keys in ((1, ["C#4", "D"]), (2, ["C#4#0", "D#0"])):
        out = tmp_path / f"out{crops}"
        assert cache_parts(tiny, parts, out, crops=crops, progress=False).manifest["clips"] == 2
        assert read_json(out / "a.entry.json")["keys"] == keys
        assert cache_parts(tiny, parts, out, crops=crops, progress=False).kept == 1
        told = said("cache_latents", tmp_path / "in", out, "--verify", "--exclude", tmp_path / "list.txt")
        assert "made of this input" in told
    (tmp_path / "list.txt").write_text("C\nD\n")
    parts = find_parts(tmp_path / "in", exclude=read_exclusion([tmp_path / "list.txt"]))
    assert cache_parts(tiny, parts, tmp_path / "out2", crops=2, progress=False).shards == 1


# -------------------------------------------------------------------------------- parts of long sounds


def ramp(seconds, silent=0.0):
    """A sound whose samples say where they stand: a rising tone's amplitude, after silence."""
    n, quiet = int(seconds * RATE), int(silent * RATE)
    wave = np.sin(np.arange(n) * 0.3) * (0.1 + 0.8 * np.arange(n) / n)
    wave[:quiet] = 0
    return wave.astype(np.float32)


def item_of(wave, key="x"):
    return Item(key, "a sound", data=encoded(wave), suffix=".flac")


def starts(item, crops=1, crop="first", seconds=1.0):
    return [w and round(w.start / RATE, 3) for w in decode_windows(item, seconds, crops, crop)]


def test_crops():
    long = item_of(ramp(5.5))
    assert starts(long) == [0]
    assert starts(long, 3) == [0, 1, 2]
    assert starts(long, 9) == [0, 1, 2, 3, 4]
    assert starts(item_of(ramp(0.5)), 3) == starts(item_of(ramp(1.9)), 3) == [0]
    drawn = starts(long, 3, "random")
    assert len(set(drawn)) == 3 and drawn == sorted(drawn) == starts(long, 3, "random")
    assert all(0 <= s <= 4.5 for s in drawn) and drawn != starts(item_of(ramp(5.5), "y"), 3, "random")
    assert starts(item_of(ramp(0.5)), 3, "random") == [0]
    wave = ramp(5.5)
    for window in decode_windows(long, 1.0, 3, "random"):
        there = wave[window.start : window.start + window.wave.shape[1]]
        assert np.abs(window.wave[0] - there).max() < 1e-4 and len(there) >= RATE
    spread = [starts(item_of(ramp(5.5), f"k{i}"), 1, "random")[0] for i in range(40)]
    assert min(spread) < 0.7 and max(spread) > 3.8


def test_a_silent_beginning_is_passed_over():
    late = item_of(ramp(6, silent=2.5))
    assert starts(late) == [2.4]  # a little before the sound
    assert starts(late, 9) == [2.4, 3.4, 4.4]
    assert all(s is None or s >= 1.5 for s in starts(late, 5, "random"))
    assert starts(item_of(ramp(3.2, silent=3.0))) == [2.2]  # as long a clip as there is
    gap = ramp(6)
    gap[2 * RATE : 4 * RATE] = 0
    assert starts(item_of(gap), 6) == [0, 1, None, None, 4, 5]
    end = ramp(6)
    end[RATE:] = 0  # drawn from the silent end: back to the beginning
    assert all(s < 1.01 for s in starts(item_of(end), 4, "random") if s is not None)
    with pytest.raises(InputError, match="silent throughout"):
        decode_windows(item_of(np.zeros(3 * RATE)), 1.0)


def test_crops_in_a_cache(tiny, tmp_path):
    path = archive(tmp_path / "in/a.tar", [("x.flac", encoded(ramp(3.3))), ("x.json", CAPTION),
                                           ("y.flac", encoded(ramp(0.4))), ("y.json", CAPTION)])  # fmt: skip
    parts, seconds = find_parts(path.parent), tiny.seconds
    made = cache_parts(tiny, parts, tmp_path / "out", crops=3, batch_size=2, progress=False)
    entry = read_json(tmp_path / "out/a.entry.json")
    assert entry["keys"] == ["x#0", "x#1", "x#2", "y#0"] and made.clips == 4
    assert entry["starts"] == pytest.approx([0, seconds, 2 * seconds, 0], abs=1e-3)
    assert made.manifest["crops"] == 3 and len(ShardedCache(tmp_path / "out")) == 4
    with pytest.raises(InputError, match=r"cache with other crops \(crops differ"):
        cache_parts(tiny, parts, tmp_path / "out", progress=False)
    one = cache_parts(tiny, parts, tmp_path / "random", crop="random", progress=False)
    again = cache_parts(tiny, parts, tmp_path / "again", crop="random", workers=2, progress=False)
    assert one.manifest["digest"] == again.manifest["digest"]
    assert read_json(tmp_path / "random/a.entry.json")["starts"][0] > 0
    whole = cache_parts(tiny, parts, tmp_path / "first", progress=False)
    first, all3 = ShardedCache(tmp_path / "first").load(), ShardedCache(tmp_path / "out").load()
    assert whole.clips == 2
    torch.testing.assert_close(first["mean"], all3["mean"][[0, 3]], rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------ odd sound files


def test_sounds_cut_short_or_of_untold_length(tiny):
    front = Front(1.0, tiny.feature_extractor)

    def result(data, suffix):
        (found,) = front(Item("x", "a sound", data=data, suffix=suffix))
        return getattr(found, "reason", "good")

    wave = noise(0, 8)
    wav = encoded(wave, "WAV")
    assert result(wav[: len(wav) // 32], ".wav").startswith("cut short: ")
    assert result(wav[: len(wav) // 2], ".wav") == "good"  # what is needed of it is there
    assert result(wav[:-20], ".wav") == "good"
    streamed = bytearray(encoded(noise(0, 0.6), "WAV"))  # ffmpeg and sox do so when they write to a pipe
    for size in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"):
        streamed[4:8] = streamed[40:44] = size
        assert result(bytes(streamed), ".wav") == "good"
    for wave in (noise(0, 0.6), noise(0, 8), ramp(6, silent=2.5)):
        flac = bytearray(encoded(wave))
        flac[21] &= 0xF0  # STREAMINFO's number of samples: unknown, as where the encoder wrote to a pipe
        flac[22:26] = bytes(4)
        assert result(bytes(flac), ".flac") == "good"
        (window,) = decode_windows(Item("x", data=bytes(flac)), 1.0, 3, "random")
        assert np.abs(window.wave[0] - wave[window.start :][: window.wave.shape[1]]).max() < 1e-4


@pytest.mark.parametrize("name", ["x.mp3", os.fsdecode(b"caf\xe9.mp3")])
def test_an_mp3_file_that_begins_with_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"junk" * 500 + encoded(noise(0), "MP3", "MPEG_LAYER_III"))
    (window,) = decode_windows(Item("x", path=tmp_path / name), 0.5)
    assert window.wave.shape[1] > 0.5 * RATE


# -------------------------------------------------------------------------------- memory, disks, workers


def test_a_large_archive_becomes_pieces(tiny, tmp_path, monkeypatch):
    """400 clips of 128 KiB out of one tar, in pieces of 5 MB: a cache that kept them would grow by 54 MB."""
    monkeypatch.setattr("latentclap.cache.build.settings", lambda *a, **k: {"system": "large"})
    sound = encoded(noise(0, 0.2), "WAV")
    path = archive(tmp_path / "in/a.tar", [(f"{i:04d}.{s}", d) for i in range(400) for s, d in (("wav", sound), ("txt", b"x"))])  # fmt: skip  # noqa: E501
    rss = []

    class Watched(Large):
        def encode_text(self, texts, padding):
            rss.append(psutil.Process().memory_info().rss)
            return super().encode_text(texts, padding)

    monkeypatch.setattr(build, "PIECE", 5e6)
    out = tmp_path / "out"
    made = cache_parts(Watched(tiny), find_parts(path.parent), out, batch_size=20, progress=False)
    assert max(rss) - max(rss[:8]) < 25e6, [round(r / 1e6) for r in rss]
    entry = read_json(out / "a.entry.json")
    assert [p["name"] for p in entry["pieces"]] == [f"a.piece{k:03d}" for k in range(len(entry["pieces"]))]
    assert len(entry["pieces"]) == 10 and made.manifest["shards"] == entry["pieces"]
    assert all(p["bytes"] < 8e6 for p in entry["pieces"])
    assert entry["bytes"] == sum(p["bytes"] for p in entry["pieces"]) and entry["sha256"] == ""
    data = ShardedCache(out)
    assert len(data) == 400 and data.verify() == []
    assert cache_parts(Watched(tiny), find_parts(path.parent), out, progress=False).kept == 1
    # a piece that is cut means the shard again, and what is there of it goes first
    last = out / "a.piece009.safetensors"
    last.write_bytes(b"cut")
    (out / ".a.piece003-abcdefgh.safetensors").write_bytes(b"left by a kill")
    monkeypatch.setattr(build, "PIECE", 160e6)
    assert cache_parts(Watched(tiny), find_parts(path.parent), out, progress=False).shards == 1
    assert sorted(n for n in content(out) if "safetensors" in n) == ["a.safetensors"]


def test_a_full_disk_is_one_line(tiny, tmp_path):
    archive(tmp_path / "in/a.tar", members(["one", "two"]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        with pytest.raises(
            InputError, match=r"a.safetensors: cannot be written \(.*the same command goes on"
        ):
            cache_parts(tiny, find_parts(tmp_path / "in"), tmp_path / "out", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(content(tmp_path / "out")) == ["cache.json"]


class Deadly(Front):
    def __call__(self, item):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_the_system_ends_is_one_line(tmp_path, tiny):
    archive(tmp_path / "a.tar", members(["one"]))
    front = Deadly(1.0, tiny.feature_extractor)
    with pytest.raises(InputError, match=r"ended a decoding process \(DataLoader worker .* fewer --workers"):
        list(stream(find_parts(tmp_path), front, workers=1))


def test_counting(tmp_path):
    path = archive(tmp_path / "x.tar", ODD)
    assert count_items(path) == 9
    path.with_suffix(".json").write_text('{"clips": 99, "bytes": 1, "sha256": "of another"}')
    assert count_items(path) == 9
    shutil.copy(path, tmp_path / "cut.tar")
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < count_items(tmp_path / "cut.tar") < 9


def test_records_of_several_systems_are_on_the_page(tmp_path):
    told = read_json(ROOT / "book/runs/cache_rate.json")
    write_json(tmp_path / "cache_rate.json", told)
    write_json(tmp_path / "cache_rate_full.json", told | {"system": "another", "clip_seconds": 10.24})
    text = cache_table(tmp_path / "cache_rate.json", tmp_path / "cache.md").read_text()
    assert text.index("### mini") < text.index("### another")
    assert text.count("| devices | hours |") == 2 and "with `another` and clips of 10.24 s:" in text


def test_a_list_may_write_suffixes_in_capitals(tmp_path):
    (tmp_path / "out.txt").write_text("a.b.WAV\nrain/c.Flac\n")
    exclusion = read_exclusion([tmp_path / "out.txt"])
    assert "x/a_b" in exclusion and "rain/c" in exclusion and "dog/c" not in exclusion
