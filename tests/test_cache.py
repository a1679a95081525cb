"""The latent cache at scale: shards in, shards out, whatever is broken, killed, or split over processes."""

import csv
import importlib.util
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from latentclap.cache import ShardedCache, build_cache, cache_parts, find_parts, list_clips
from latentclap.cache.front import Front, stream
from latentclap.cache.listing import Item, caption_of
from latentclap.cache.pack import pack
from latentclap.cache.parts import Part, rank_and_world
from latentclap.cache.shards import entry_of, settle, write_manifest, write_shard
from latentclap.cache.tars import count_items, tar_groups
from latentclap.cache.windows import decode_head
from latentclap.classes import CLASSES, prompt
from latentclap.data import Clip
from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.finetune import FinetuneConfig, finetune

RATE = 22050


def tar_items(path):
    """The samples of a shard in order; each one's sound is to be read before the next is asked for."""
    return (group.load() for group in tar_groups(path))


def noise(number, seconds=0.7):
    return (0.1 * np.random.default_rng(number).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ten sounds with captions beside them, two of them broken."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(8):
        soundfile.write(folder / f"clip.{i}.flac", noise(i), RATE)
        (folder / f"clip.{i}.txt").write_text(f" sound number  {i}\n")
    (folder / "broken.flac").write_bytes(b"fLaC, but nothing after it")
    (folder / "broken.json").write_text('{"caption": ["a broken file"]}')
    soundfile.write(folder / "mute.wav", np.zeros(RATE, np.float32), RATE)
    (folder / "mute.txt").write_text("nothing")
    soundfile.write(folder / "uncaptioned.wav", noise(9), RATE)
    return folder


@pytest.fixture(scope="module")
def tars(clips, tmp_path_factory):
    """The same clips in shards of four."""
    out = tmp_path_factory.mktemp("tars")
    packed = pack(list_clips(clips)[1], out, per_shard=4)
    assert (packed.shards, packed.clips, packed.left_out, packed.written) == (3, 10, 1, 3)
    return out


@pytest.fixture(scope="module")
def cached(tiny, tars, tmp_path_factory):
    """The cache of the shards, made in one process."""
    out = tmp_path_factory.mktemp("cache")
    summary = cache_parts(tiny, find_parts(tars), out, batch_size=3, progress=False)
    assert (summary.clips, summary.problems, summary.shards, summary.kept) == (8, 2, 3, 0)
    return out


def content(folder):
    """Every file of a cache, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------ what goes in


def test_a_folder_s_clips_and_captions(clips):
    layout, items = list_clips(clips)
    assert layout == "captions"
    told = {item.key: item.caption or item.problem for item in items}
    assert told["clip_3"] == "sound number 3"
    assert told["broken"] == "a broken file"
    assert told["uncaptioned"] == "no caption"
    assert len(items) == 11


def test_a_caption_that_is_not_utf8_is_said(tmp_path):
    for i, suffix in enumerate(("txt", "json")):
        soundfile.write(tmp_path / f"{i}.wav", noise(i), RATE)
        (tmp_path / f"{i}.{suffix}").write_bytes('{"caption": "café"}'.encode("latin-1"))
    items = list_clips(tmp_path)[1]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for file in sorted(tmp_path.glob("?.*")):
            tar.add(file, file.name)
    for item in (*items, *tar_items(tmp_path / "x.tar")):
        assert item.problem == "caption is not UTF-8"


@pytest.mark.parametrize(
    ("sample", "caption"),
    [
        ({"txt": b"a dog\n"}, "a dog"),
        ({"json": b'{"caption": "rain", "id": 7}'}, "rain"),
        ({"json": b'{"text": ["first", "second"]}'}, "first"),
        ({"json": b"{broken", "txt": b"  "}, ""),
        ({"caption": "An airplane is landing.", "title": "Airplane"}, "An airplane is landing."),
        ({"txt": b"\xff\xfe"}, ""),
        ({"txt": "\ufeffcafé".encode()}, "café"),
        ({"json": '\ufeff{"caption": "café"}'.encode()}, "café"),
    ],
)
def test_captions(sample, caption):
    assert caption_of(sample) == caption


def wavcaps(folder):
    """WavCaps' layout, three sources, with the ids, names and overlapping tables that the real ones have."""
    tables = {
        "SoundBible/final": ["2219", "1", "gone"],
        "AudioSet_SL/as_final": ["Y-abc.wav", "Yx.y.wav"],
        "FreeSound/fsd_final": ["1002", "1003"],
        "FreeSound/fsd_final_2s": ["1003", "1002"],
    }
    for name, ids in tables.items():
        source = name.partition("/")[0]
        (folder / "json_files" / source).mkdir(parents=True, exist_ok=True)
        told = "" if name.endswith("final") else "second "
        data = [{"id": i, "caption": f"{told}caption of {i}", "duration": 1.0} for i in ids]
        table = {"num_captions_per_audio": 1, "data": data}
        (folder / "json_files" / f"{name}.json").write_text(json.dumps(table))
        (folder / "audio" / source).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(ids):
            if name != "gone":
                soundfile.write(
                    folder / "audio" / source / f"{name.removesuffix('.wav')}.flac", noise(i), RATE
                )
    (folder / "json_files" / "blacklist").mkdir()
    (folder / "json_files" / "blacklist" / "list.json").write_text('{"FreeSound": ["1"]}')


def test_wavcaps_layout(tmp_path):
    wavcaps(tmp_path / "in")
    with pytest.warns(UserWarning, match="2 entries of json_files/ repeat an id of their source"):
        layout, items = list_clips(tmp_path / "in")
    assert layout == "wavcaps"
    assert [i.key for i in items] == [
        "AudioSet_SL/Y-abc", "AudioSet_SL/Yx_y", "FreeSound/1002", "FreeSound/1003",
        "SoundBible/2219", "SoundBible/1", "SoundBible/gone",
    ]  # fmt: skip
    assert [i.caption for i in items[1:4]] == ["caption of Yx.y.wav", "caption of 1002", "caption of 1003"]
    assert items[6].problem == "no sound file"
    pack(items, tmp_path / "out")
    sounds = []
    for item, packed in zip(items, tar_items(tmp_path / "out" / "000000.tar"), strict=False):
        assert (packed.key, packed.caption) == (item.key, item.caption)
        sounds.append(packed.data.read())
    assert len(sounds) == 6
    assert sounds[4] == (tmp_path / "in/audio/SoundBible/2219.flac").read_bytes()
    table = tmp_path / "in/json_files/SoundBible/final.json"
    table.write_text(table.read_text(), encoding="utf-8-sig")
    with pytest.warns(UserWarning, match="repeat"):
        assert list_clips(tmp_path / "in")[1] == items
    table.write_text("[1, 2]")
    with pytest.raises(InputError, match="not in WavCaps' form"):
        list_clips(tmp_path / "in")


def test_packing_goes_on_and_is_the_same_every_time(clips, tars, tmp_path):
    items = list_clips(clips)[1]
    pack(items, tmp_path, per_shard=4)
    assert content(tmp_path) == content(tars)
    (tmp_path / "000001.tar").unlink()
    assert pack(items, tmp_path, per_shard=4).written == 1
    assert content(tmp_path) == content(tars)
    (tmp_path / "000000.tar").write_bytes((tars / "000000.tar").read_bytes()[:-10240])  # cut by a copy
    assert pack(items, tmp_path, per_shard=4).written == 1
    assert content(tmp_path) == content(tars)
    with pytest.raises(InputError, match="holds other clips"):
        pack(items[1:], tmp_path, per_shard=4)
    one = tmp_path / "one"
    pack(items[:4], one)
    for other in (items[:2] + items[3:4], [*items[:3], items[9]]):  # one less; another last one
        with pytest.raises(InputError, match="holds other clips"):
            pack(other, one)
    with pytest.raises(InputError, match="two clips are named"):
        pack([items[0], items[0]], tmp_path / "other")
    assert (tars / "missing.csv").read_text() == "shard,clip,reason\n000002.tar,uncaptioned,no caption\n"


def test_counting_shards_without_reading_sounds(tars, tmp_path):
    assert [count_items(p) for p in sorted(tars.glob("*.tar"))] == [4, 4, 2]
    alone = tmp_path / "alone.tar"
    alone.write_bytes((tars / "000000.tar").read_bytes())  # no entry of the packer beside it
    assert count_items(alone) == 4
    alone.write_bytes(b"no tar")
    with pytest.raises(InputError, match="not a readable tar"):
        count_items(alone)


def test_a_damaged_archive_is_said(tars, tmp_path):
    whole = (tars / "000001.tar").read_bytes()
    wanted = [i.key for i in tar_items(tars / "000001.tar")]

    def read(data):
        (tmp_path / "x.tar").write_bytes(data)
        items = list(tar_items(tmp_path / "x.tar"))
        return [i.key for i in items if not i.problem], [i.problem for i in items if i.problem]

    assert read(whole) == (wanted, [])
    good, bad = read(whole[: len(whole) // 2])  # cut in the middle
    assert good == wanted[: len(good)] and 0 < len(good) < 4
    assert any("archive" in reason for reason in bad)
    second = whole.index(b"clip_3.flac")
    good, bad = read(whole[:second] + b"\0" * 8 + b"\xff" * 504 + whole[second + 512 :])  # one header
    assert good == wanted[: len(good)] and len(good) < 4
    assert any("archive" in reason for reason in bad)
    assert read(b"") == ([], ["archive: empty file"])
    # cut exactly behind a member, which is whole
    end = (whole.rindex(b'"key"') // 512 + 1) * 512
    good, bad = read(whole[:end])
    assert (good, bad) == (wanted, [])


def test_only_the_beginning_is_decoded(tmp_path):
    long = np.tile(noise(0), 20)
    soundfile.write(tmp_path / "long.flac", long, RATE)
    wave, sr = decode_head(Item("long", path=tmp_path / "long.flac"), 1.0)
    assert (wave.shape, sr) == ((1, int(1.25 * RATE) + 1), RATE)
    assert np.abs(wave[0] - long[: wave.shape[1]]).max() < 1e-4
    cut = (tmp_path / "long.flac").read_bytes()[:20000]
    with pytest.raises(InputError, match=r"cut short|cannot be decoded"):
        decode_head(Item("long", data=cut), 1.0)


# ----------------------------------------------------------------------------------- what comes out


def test_the_cache_holds_what_the_small_one_holds(tiny, clips, cached, tmp_path):
    """Same clips through tar shards and through build_cache: the same numbers, but for half precision."""
    data = ShardedCache(cached)
    assert len(data) == 8
    files = [Clip(clips / f"clip.{i}.flac", CLASSES[0]) for i in range(8)]
    small = build_cache(tiny, files, tmp_path / "small", progress=False)
    order = [
        key for k in range(3) for key in json.loads((cached / f"00000{k}.entry.json").read_text())["keys"]
    ]
    assert order == [f"clip_{i}" for i in range(8)]
    ours = data.load()
    for name in ("mean", "logvar"):
        torch.testing.assert_close(ours[name], small[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours["E_audio"], small["E_audio"], rtol=0, atol=1e-6)
    texts = tiny.encode_text([f"sound number {i}" for i in range(8)])
    torch.testing.assert_close(ours["E_text"], texts, rtol=0, atol=1e-5)
    assert load_file(cached / "000000.safetensors")["mean"].dtype == torch.float16
    # and the small cache can be read the same way
    again = ShardedCache(tmp_path / "small").select("mean", "label").load()
    assert torch.equal(again["mean"], small["mean"]) and torch.equal(again["label"], small["label"])


def test_problems_are_listed(cached):
    with open(cached / "problems.csv", newline="") as stream:
        rows = {row["clip"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"broken", "mute"}
    assert rows["broken"]["shard"] == "000000" and "cannot be decoded" in rows["broken"]["reason"]
    assert rows["mute"]["reason"] == "silent throughout"


def test_a_latent_that_is_not_finite_is_a_problem(tiny, tars, cached, tmp_path, monkeypatch):
    """Also where half precision has no number for it: in the list, and not in the shards."""
    real = type(tiny).posterior
    # whose peak is known; the number of batches and their order are not what this is about
    poison = {3: torch.nan, 6: 1e5}
    seen = []

    def posterior(self, waves):
        mean, logvar = real(self, waves)
        for row in range(len(mean)):
            if len(seen) in poison:
                mean[row, 0, 0, 0] = poison[len(seen)]
            seen.append(row)
        return mean, logvar

    monkeypatch.setattr(type(tiny), "posterior", posterior)
    summary = cache_parts(tiny, find_parts(tars), tmp_path, batch_size=3, progress=False)
    assert (summary.clips, summary.problems) == (6, 4)
    with open(tmp_path / "problems.csv", newline="") as stream:
        rows = {row["clip"]: row["reason"] for row in csv.DictReader(stream)}
    assert {k for k, v in rows.items() if v == "its latent or embedding is not finite"} == {
        "clip_3",
        "clip_6",
    }
    for path in tmp_path.glob("*.entry.json"):
        entry = json.loads(path.read_text())
        assert entry["clips"] == len(entry["keys"]) == len(entry["captions"]) == len(entry["starts"])
    ours, whole = ShardedCache(tmp_path).load(), ShardedCache(cached).load()
    rest = [i for i in range(8) if i not in poison]
    assert all(v.isfinite().all() and torch.equal(v, whole[k][rest]) for k, v in ours.items())


def test_workers_and_ranks_change_nothing(tiny, tars, cached, tmp_path):
    parts = find_parts(tars)
    made = [
        cache_parts(tiny, parts, tmp_path, batch_size=3, workers=2, rank=r, world=2, progress=False)
        for r in (1, 0)
    ]
    assert made[0].manifest is None and made[1].manifest["clips"] == 8
    assert content(tmp_path) == content(cached)


def test_complete_shards_are_kept_and_others_made_again(tiny, tars, cached, tmp_path):
    parts = find_parts(tars)
    for name, data in content(cached).items():
        (tmp_path / name).write_bytes(data)
    shard = tmp_path / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])  # cut by a full disk
    (tmp_path / ".000001-abcdefgh.safetensors").write_bytes(b"left by a kill")
    (tmp_path / ".000001.entry-abcdefgh.json").write_bytes(b"left by a kill")
    (tmp_path / "000002.entry.json").unlink()  # killed between shard and entry
    summary = cache_parts(tiny, parts, tmp_path, batch_size=3, progress=False)
    assert (summary.shards, summary.kept) == (2, 1)
    assert content(tmp_path) == content(cached)


def test_a_shard_made_again_leaves_those_whose_names_begin_alike(tmp_path):
    names = ["1", "10", "1.piece", "1-2", "a/1"]
    (tmp_path / "a").mkdir()
    for name in (*names, "1"):
        write_shard(tmp_path, name, {"label": torch.arange(3)}, keys=["x", "y", "z"])
    assert all(entry_of(tmp_path, name) for name in names)
    assert write_manifest(tmp_path, names)["clips"] == 15


def test_settings_that_lack_a_word_are_not_the_same(tmp_path):
    now = {"system": "a", "fingerprint": "x", "crops": 1}
    settle(tmp_path, now)
    settle(tmp_path, now | {"system": "the same by another name"})
    for lacking in ("fingerprint", "crops"):
        write_json(tmp_path / "cache.json", {k: v for k, v in now.items() if k != lacking})
        with pytest.raises(InputError, match=rf"\({lacking} differ; it is of a\)"):
            settle(tmp_path, now)
    # what an earlier version noted is taken over from an earlier version alone
    write_json(tmp_path / "cache.json", now | {"fingerprint": "earlier"})
    with pytest.raises(InputError, match=r"\(fingerprint differ"):
        settle(tmp_path, now, lambda: {"system": "a", "fingerprint": "earlier"})


def test_shards_of_several_shapes_are_no_cache(tmp_path):
    for name, width in (("0", 3), ("1", 4)):
        write_shard(tmp_path, name, {"mean": torch.zeros(2, width)}, keys=["x", "y"])
    with pytest.raises(InputError, match="1: its tensors are of other shapes than the first shard's"):
        write_manifest(tmp_path, ["0", "1"])
    # of no clip there is no shape: such a shard is in the list, wherever it stands
    write_shard(tmp_path, "1", {}, keys=[], problems=[("x", "silent")])
    for names in (["0", "1"], ["1", "0"]):
        manifest = write_manifest(tmp_path, names)
        assert [s["name"] for s in manifest["shards"]] == names
        assert (manifest["clips"], manifest["problems"], manifest["tensors"]) == (
            2,
            1,
            {"mean": ["float32", 3]},
        )
    assert len(ShardedCache(tmp_path)) == 2


def test_another_system_s_cache_is_refused(tiny, mini, tars, cached):
    with pytest.raises(InputError, match=r"cache of another system \(fingerprint"):
        cache_parts(mini, find_parts(tars), cached, progress=False)


def test_a_changed_source_is_encoded_again(tiny, clips, tmp_path):
    items = [i for i in list_clips(clips)[1] if i.key.startswith("clip")]
    first = [Part("00000", clips=tuple(items[:2]))]
    cache_parts(tiny, first, tmp_path, progress=False)
    assert cache_parts(tiny, first, tmp_path, progress=False).kept == 1
    assert cache_parts(tiny, [Part("00000", clips=tuple(items[:3]))], tmp_path, progress=False).shards == 1


def test_a_dcase_folder_goes_in_directly(tiny, tmp_path):
    for i, cls in enumerate(CLASSES[:2]):
        (tmp_path / "in" / "dev" / cls).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / "dev" / cls / "0.wav", noise(i), RATE)
        (tmp_path / "in" / "eval" / cls).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / "eval" / cls / "0.wav", noise(50 + i), RATE)
    parts = find_parts(tmp_path / "in")
    assert [i.caption for part in parts for i in part.clips] == [prompt(cls) for cls in CLASSES[:2]]
    cache_parts(tiny, parts, tmp_path / "out", progress=False)
    assert len(ShardedCache(tmp_path / "out")) == 2
    assert len(find_parts(tmp_path / "in", side="all")[0].clips) == 4


def test_nothing_there(tmp_path):
    for bad, message in (
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "000000.tar.gz", r"000000.tar.gz is compressed: unpack it first \(gunzip\)"),
        (
            tmp_path,
            r"no sound file in it .*, but 3 archives \(000000.tar.gz, a.zip, b.7z\): unpack them there",
        ),
        (tmp_path / "file", "is a file"),
        (tmp_path / "deep", r"no sound file in it .*, but 2 archives \(a.zip, b.7z\): unpack them there"),
        (tmp_path / "empty", r"no sound file in it .*, and no WavCaps captions"),
    ):
        (tmp_path / "file").touch()
        (tmp_path / "000000.tar.gz").touch()
        for name in ("deep/a.zip", "deep/x/b.7z", "empty/readme.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        with pytest.raises(InputError, match=message):
            find_parts(bad)


def test_compressed_shards_beside_plain_ones_are_missed(tmp_path):
    for name in ("a/0.tar", "a/0.tar.gz", "a/1.tar.gz", "2.tgz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(
        UserWarning, match=r"2 compressed tar files are passed over, the first is \S*/2.tgz: unpack"
    ):
        assert [part.name for part in find_parts(tmp_path)] == ["a/0"]


def test_ranks_as_launchers_say_them():
    assert rank_and_world({}) == (0, 1)
    assert rank_and_world({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == (
        3,
        8,
    )
    assert rank_and_world({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == (1, 2)
    for rank, world in (("a", "2"), ("2", "2"), ("-1", "2"), ("0", ""), ("0", "0")):
        with pytest.raises(InputError, match=f"the environment says RANK={rank} and WORLD_SIZE={world}, but"):
            rank_and_world({"RANK": rank, "WORLD_SIZE": world})


def test_workers_keep_the_order(tiny, clips):
    items = [i for i in list_clips(clips)[1] if i.key.startswith("clip")]
    parts = [Part("a", clips=tuple(items[:5])), Part("b", clips=tuple(items[5:]))]
    front = Front(tiny.seconds, tiny.feature_extractor)
    told = {w: [(n, r and r[0].key) for n, r in stream(parts, front, workers=w)] for w in (0, 2)}
    assert told[0] == told[2]
    assert told[0][5] == (0, None) and len(told[0]) == 10


# -------------------------------------------------------------------------------- as training data


def made_up(folder, shards=5, rows=7):
    """A cache with numbers that say where they stand."""
    for k in range(shards):
        values = torch.arange(k * rows, (k + 1) * rows)
        tensors = {"mean": values[:, None, None].expand(rows, 2, 3).half(), "label": values}
        write_shard(folder, f"{k:05d}", tensors, keys=[str(v) for v in values.tolist()])
    write_manifest(folder, [f"{k:05d}" for k in range(shards)])
    return ShardedCache(folder, open_shards=2)


def test_random_access(tmp_path):
    data = made_up(tmp_path)
    assert len(data) == 35 and data.shape("mean") == (35, 2, 3)
    wanted = [34, 0, 7, 6, 13, 7, 34, 20]
    batch = data.batch(wanted)
    assert batch["label"].tolist() == wanted
    assert batch["mean"].dtype == torch.float32
    assert batch["mean"][:, 1, 2].tolist() == wanted
    assert len(data._open) == 2
    with pytest.raises(IndexError):
        data.batch([35])
    data.prepare([3, 30])  # read ahead, whether it is what is asked for then or not
    assert data.batch([30, 3])["label"].tolist() == [30, 3]
    data.prepare([3, 30])
    assert data.batch([3, 30])["label"].tolist() == [3, 30]
    data.prepare([99])
    with pytest.raises(IndexError):
        data.batch([1])


def test_what_cannot_be_read(tmp_path):
    data = made_up(tmp_path)
    with pytest.raises(InputError, match="has no E_text; it has mean, label"):
        data.select("mean", "E_text")
    assert data.verify() == []
    shard = tmp_path / "00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    assert ShardedCache(tmp_path).verify() == [shard]
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="missing or cut"):
        ShardedCache(tmp_path)
    shard.write_bytes(b"\xff" * len(whole))
    with pytest.raises(InputError, match="damaged"):
        ShardedCache(tmp_path).batch([25])
    with pytest.raises(InputError, match="no finished cache"):
        ShardedCache(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["[]", "{}", "7", "null"])
def test_json_of_another_form_is_one_line(tiny, clips, tmp_path, text):
    pack(list_clips(clips)[1], tmp_path / "tars", per_shard=20)
    parts = find_parts(tmp_path / "tars")
    cache_parts(tiny, parts, tmp_path / "out", progress=False)
    (tmp_path / "tars/000000.json").write_text(text)
    with pytest.raises(InputError, match=r"000000.json is not what the packer notes of a shard: delete it"):
        pack(list_clips(clips)[1], tmp_path / "tars", per_shard=20)
    assert count_items(tmp_path / "tars/000000.tar") == 10
    (tmp_path / "out/manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest.json is not a cache's: delete it"):
        ShardedCache(tmp_path / "out")
    (tmp_path / "out/000000.entry.json").write_text(text)
    assert cache_parts(tiny, parts, tmp_path / "out", progress=False).shards == 1
    (tmp_path / "out/cache.json").write_text(text)
    with pytest.raises(InputError, match=r"cache.json is not what a cache was made with"):
        cache_parts(tiny, parts, tmp_path / "out", progress=False)


def test_fine_tuning_from_disk_is_fine_tuning_from_memory(tiny, cached, tmp_path):
    data = ShardedCache(cached, open_shards=1)
    config = FinetuneConfig(epochs=2, batch_size=3, lr=1e-3)
    weights = []
    for name, cache in (("disk", data), ("memory", data.load())):
        tuned, result = finetune(tiny, None, cache, config, tmp_path / name, progress=False)
        assert result.step == 5
        weights.append(torch.cat([p.flatten() for p in tuned.unet.parameters()]))
    assert torch.equal(*weights)


# -------------------------------------------------------------------------------- memory, kills, CLI


class Large:
    """A system whose latents are of AudioLDM's size and cost nothing: what is kept in memory would show."""

    name, clap, seconds, latent_shape, embed_dim = "large", True, 0.1, (8, 256, 16), 512

    def __init__(self, tiny):
        self.feature_extractor = tiny.feature_extractor

    def posterior(self, waves):
        return torch.zeros(len(waves), *self.latent_shape), torch.zeros(len(waves), *self.latent_shape)

    def embed_features(self, features):
        return torch.zeros(len(features), 512)

    def encode_text(self, texts, padding):
        return torch.zeros(len(texts), 512)


def test_memory_does_not_grow_with_the_number_of_clips(tiny, clips, tmp_path, monkeypatch):
    """600 clips of 128 KiB each in shards of 40: a cache that kept them would grow by 66 MB after the first ten."""
    monkeypatch.setattr("latentclap.cache.build.settings", lambda *a, **k: {"system": "large"})
    item = next(i for i in list_clips(clips)[1] if i.key == "clip_0")
    parts = [Part(f"{k:03d}", clips=(item,) * 40) for k in range(15)]
    rss = []

    class Watched(Large):
        def encode_text(self, texts, padding):
            rss.append(psutil.Process().memory_info().rss)
            return super().encode_text(texts, padding)

    cache_parts(Watched(tiny), parts, tmp_path, batch_size=20, progress=False)
    assert len(ShardedCache(tmp_path)) == 600
    assert max(rss) - max(rss[:10]) < 20e6, [round(r / 1e6) for r in rss]


ROOT = Path(__file__).parents[1]


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "data_scripts" / "cache_latents.py"), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_kill_9_and_the_same_command(tiny, clips, tmp_path):
    """Killed while it encodes, the same command makes what is missing; shards that were there are not touched."""
    items = [i for i in list_clips(clips)[1] if i.key.startswith("clip")]
    many = [Item(f"{i.key}-{k}", i.caption, i.path, None, i.suffix) for k in range(8) for i in items]
    pack(many, tmp_path / "tars", per_shard=4)
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    arguments = (
        tmp_path / "tars",
        tmp_path / "out",
        "--system",
        tmp_path / "system",
        "--workers",
        0,
        "--batch-size",
        1,
    )
    process = command(*arguments)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("out/*.entry.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/*.entry.json")}
    assert not (tmp_path / "out" / "manifest.json").is_file(), "it was done before it was killed"
    with pytest.raises(InputError, match="no finished cache"):
        ShardedCache(tmp_path / "out")
    process = command(*arguments)
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "64 clips in 16 shards" in said and f"{len(before)} shards are there" in said
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(ShardedCache(tmp_path / "out")) == 64
    assert not list(tmp_path.glob("out/.*"))


# ------------------------------------------------------------------------------------ the scripts


def script(name):
    """The typer application of a data script."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "data_scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def said(name, *arguments):
    """What a script prints, or the one line of its refusal."""
    result = CliRunner().invoke(script(name), [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, InputError), result.exception
    return result.output + str(result.exception or "")


def test_pack_script(clips, tmp_path):
    told = said("pack_shards", clips, tmp_path / "out", "--per-shard", 4, "--dry-run")
    assert "(captions): 11 clips; 1 left out: no caption; 3 shards" in told
    assert not (tmp_path / "out").exists()
    told = said("pack_shards", clips, tmp_path / "out", "--per-shard", 4, "--quiet")
    assert "10 clips in 3 shards" in told and "(3 written now); 1 left out" in told
    assert "--per-shard 0" in said("pack_shards", clips, tmp_path / "out", "--per-shard", 0)


def test_packing_goes_on_where_the_rest_has_room(clips, tmp_path, monkeypatch):
    """What an earlier call packed takes no more room: on a disk that is half full of it the same command goes on."""
    command = ("pack_shards", clips, tmp_path / "out", "--per-shard", 4, "--quiet")
    said(*command)
    last = sorted((tmp_path / "out").glob("*.tar"))[-1]
    last.unlink()
    # 258 kB in three shards, of which the last is small
    monkeypatch.setattr("latentclap.files.free_bytes", lambda folder: 50_000)
    assert "too little space" in said("pack_shards", clips, tmp_path / "other", "--per-shard", 4)
    assert "(1 written now)" in said(*command) and last.is_file()


def test_cache_script(tiny, tars, tmp_path):
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    out, system = (
        tmp_path / "out",
        ("--system", tmp_path / "system", "--device", "cpu", "--workers", 0, "--quiet"),
    )
    told = said("cache_latents", tars, out, *system, "--dry-run", "--world", 2, "--rank", 1)
    # 10 clips of 2 x 8 x 16 x 16 half floats and 2 x 512 floats
    assert f"10 clips in 3 shards, {10 * (2 * 2 * 2048 + 4096) / 1e3:.1f} kB; 0 shards are there" in told
    assert "process 1 of 2: 1 shard, 4 clips" in told
    assert not out.exists()
    assert "8 clips encoded" in said("cache_latents", tars, out, *system)
    assert "3 shards are there; to write: 0 B" in said("cache_latents", tars, out, *system)
    assert "all checksums agree; made of this input" in said("cache_latents", tars, out, "--verify")
    assert "SOURCE is not there" in said("cache_latents", tmp_path / "gone", out, "--verify")
    shard = out / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert "1 of 3 shards are damaged" in said("cache_latents", tars, out, "--verify")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0"),
        (["--rank", "2", "--world", "2"], "--rank 2 of --world 2"),
        (["--rank", "-3"], "--rank -3: at least -1"),
        (["--world", "-1"], "--world -1: at least 0"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--per-shard", "0"], "--per-shard 0"),
        (["--crops", "0"], "--crops 0: at least 1"),
        (["--crop", "middle"], "--crop middle"),
        (["--exclude", "nowhere.txt"], "--exclude nowhere.txt: no such file"),
        (["--system", "nowhere/at/all"], "no system at"),
    ],
)
def test_the_cache_script_refuses(options, message, clips, tmp_path):
    assert message in said("cache_latents", clips, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_too_little_space_is_said_before_anything_is_made(tiny, tars, tmp_path, monkeypatch):
    tiny.save_pretrained(tmp_path / "system", pipeline=False)
    monkeypatch.setattr("latentclap.files.free_bytes", lambda folder: 1000)
    told = said("cache_latents", tars, tmp_path / "out", "--system", tmp_path / "system", "--device", "cpu")
    assert "too little space for 122.9 kB, 1.0 kB are free" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shards", ["[{}]", "3", '[{"clips": 1, "name": "a"}]'])
def test_a_manifest_of_another_form(tmp_path, shards):
    (tmp_path / "manifest.json").write_text(f'{{"shards": {shards}, "tensors": {{}}, "digest": ""}}')
    with pytest.raises(InputError, match=r"manifest\.json is not a cache's: delete it"):
        ShardedCache(tmp_path)


@pytest.mark.parametrize("entry", [[], {"clips": 0}, {"clips": 1, "bytes": 1, "sha256": "x"}])
def test_an_entry_of_another_form_is_none(tmp_path, entry):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    (tmp_path / "a.entry.json").write_text(json.dumps(entry))
    assert entry_of(tmp_path, "a") is None and write_manifest(tmp_path, ["a"]) is None
