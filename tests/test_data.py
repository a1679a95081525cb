"""Folders of clips: layouts, bad files, meta files, and the split by recording."""

import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from latentclap.cache import list_clips
from latentclap.classes import CAMEL_CASE, CLASSES
from latentclap.data import clip_statistics, load_dataset, open_dataset, read_clip, scan
from latentclap.errors import InputError
from latentclap.meta import join_recordings, read_meta, recording_keys
from latentclap.profiles import DataSection


def put(path: Path, seed: int, *, sr=16_000, seconds=0.6, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(seed).standard_normal((int(sr * seconds), channels))
    soundfile.write(path, wave, sr, **options)
    return path


def kinds(report):
    return Counter(p.kind for p in report.problems)


@pytest.fixture
def flat(tmp_path):
    """Two clips of each class in a flat folder."""
    for i, cls in enumerate(CLASSES):
        for j in range(2):
            put(tmp_path / cls / f"{j:03d}.wav", 10 * i + j)
    return tmp_path


def test_flat_folder(flat):
    report = scan(flat)
    assert len(report.clips) == 14
    assert report.problems == ()
    assert report.table().empty
    report.raise_if_bad(ignore=())
    clip = report.clips[0]
    assert (clip.cls, clip.sr, clip.channels, clip.group, clip.split) == ("dog_bark", 16_000, 1, None, None)
    assert clip.seconds == pytest.approx(0.6)


def test_camel_case_splits_and_formats(tmp_path):
    suffixes = [".wav", ".flac", ".ogg", ".mp3", ".wav", ".flac", ".ogg"]
    for i, (cls, suffix) in enumerate(zip(CLASSES, suffixes, strict=True)):
        put(tmp_path / "dev" / CAMEL_CASE[cls] / f"a{suffix}", i, sr=22_050, channels=1 + i % 2)
        put(tmp_path / "Eval" / CAMEL_CASE[cls] / f"a{suffix.upper()}", 100 + i, sr=44_100)
    dataset = load_dataset(tmp_path)
    assert dataset.split_by == "folder"
    assert dataset.report.problems == ()
    assert [c.cls for c in sorted(dataset.split("dev"), key=lambda c: c.cls)] == sorted(CLASSES)
    assert {c.sr for c in dataset.split("eval")} == {44_100}
    assert {c.channels for c in dataset.split("dev")} == {1, 2}


def test_every_bad_file_is_reported_and_none_raises(flat):
    soundfile.write(flat / "rain/short.wav", np.full(100, 0.1), 16_000)
    soundfile.write(flat / "rain/none.wav", np.zeros(0), 16_000)
    soundfile.write(flat / "rain/zeros.flac", np.zeros(16_000), 16_000)
    soundfile.write(flat / "rain/offset.wav", np.full(16_000, 0.3), 16_000)
    left_only = np.stack([np.zeros(16_000), 0.1 * np.random.default_rng(5).standard_normal(16_000)], 1)
    soundfile.write(flat / "rain/left.wav", left_only, 16_000)
    bad = np.full(16_000, 0.1)
    bad[7] = np.nan
    soundfile.write(flat / "rain/nan.wav", bad, 16_000, subtype="FLOAT")
    (flat / "rain/text.wav").write_text("this is no sound")
    (flat / "rain/zero.flac").touch()
    (flat / "rain/phone.m4a").write_bytes(b"\0" * 64)
    (flat / "rain/broken.wav").symlink_to(flat / "gone.wav")
    whole = put(flat / "rain/cut.flac", 77, seconds=3).read_bytes()
    (flat / "rain/cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(flat / "keyboard/copy.flac", soundfile.read(flat / "rain/000.wav")[0], 16_000)
    put(flat / "foot_steps/a.wav", 50)
    put(flat / "guitar/a.wav", 51)
    put(flat / "loose.wav", 52)
    (flat / "rain/notes.txt").write_text("not a sound file, no problem")
    (flat / "rain/._000.wav").write_bytes(b"a file manager's shadow")
    (flat / "docs").mkdir()
    for path in (flat / "gunshot").iterdir():
        path.unlink()

    report = scan(flat)
    found = {row.path: (row.kind, row.detail) for row in report.table().itertuples()}
    assert found["rain/short.wav"] == ("too short", "0.006 s, at least 0.5 s are needed")
    assert found["rain/none.wav"][0] == "too short"
    assert found["rain/zeros.flac"] == ("silent", "peak digital silence, below -60 dBFS")
    assert found["rain/offset.wav"][0] == "silent"
    assert "in the first channel" in found["rain/left.wav"][1]
    assert found["rain/nan.wav"] == ("NaN", "1 samples are NaN or infinite")
    for name in ("text.wav", "zero.flac", "phone.m4a", "broken.wav", "cut.flac"):
        assert found[f"rain/{name}"][0] == "unreadable", name
    # the class folders are read in alphabetical order: keyboard comes before rain
    assert found["rain/000.wav"] == (
        "duplicate",
        "same samples as keyboard/copy.flac, which is of class keyboard",
    )
    assert found["foot_steps"] == ("wrong class name", "1 sound file not used; did you mean footstep?")
    assert found["guitar"][1].startswith("1 sound file not used; the classes are dog_bark")
    assert found["loose.wav"][0] == "stray file"
    assert found["gunshot"] == ("empty class", "no usable clip")
    assert len(found) == 16
    assert len(report.clips) == 12

    with pytest.raises(InputError) as error:
        report.raise_if_bad()
    assert "16 problems" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="16 problems"):
        dataset = load_dataset(flat)
    assert len(dataset) == 12
    with pytest.raises(InputError, match="16 problems"):
        load_dataset(flat, strict=True)


def test_missing_class_is_said_but_is_not_bad(tmp_path):
    put(tmp_path / "rain/a.wav", 0)
    report = scan(tmp_path)
    assert kinds(report) == {"missing class": 6}
    report.raise_if_bad()
    with pytest.raises(InputError, match="missing class"):
        report.raise_if_bad(ignore=())


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        scan(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        scan(tmp_path / "file")
    with pytest.raises(InputError, match="no class folder here; the classes are"):
        scan(tmp_path)
    put(tmp_path / "guitar/a.wav", 0)
    with pytest.raises(InputError, match="found guitar, but the classes are"):
        scan(tmp_path)
    put(tmp_path / "deeper/rain/a.wav", 0)
    with pytest.raises(InputError, match=r"did you mean \S*deeper\?"):
        scan(tmp_path)
    (tmp_path / "zipped/dev").mkdir(parents=True)
    (tmp_path / "zipped/dcase.zip").touch()
    with pytest.raises(
        InputError, match=r"no class folder here; found 1 archive \(dcase.zip\): unpack them there"
    ):
        scan(tmp_path / "zipped")
    (tmp_path / "zipped/dev/rain").mkdir()
    (tmp_path / "zipped/dev/rain/sounds.tar.gz").touch()
    with pytest.raises(
        InputError, match=r"rain: unreadable, no sound, but 1 archive \(sounds.tar.gz\): unpack them"
    ):
        load_dataset(tmp_path / "zipped")
    (tmp_path / "empty/rain").mkdir(parents=True)
    with pytest.raises(InputError, match="no usable clip"):
        load_dataset(tmp_path / "empty")


@pytest.mark.parametrize(
    ("number", "detail"),
    [
        (errno.EACCES, "no permission to read this folder"),
        (errno.EIO, "this folder cannot be listed (Input/output error)"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_a_problem_wherever_it_lies(flat, locked, number, detail):
    for place in ("dev/rain/deeper", "eval", "guitar", "rain"):
        (flat / place).mkdir(parents=True, exist_ok=True)
        locked(flat / place, number)
    report = scan(flat)
    assert kinds(report) == {"unreadable": 4, "empty class": 1}
    unreadable = [p for p in report.problems if p.kind == "unreadable"]
    assert sorted(p.path.relative_to(flat).as_posix() for p in unreadable) == [
        "dev/rain/deeper",
        "eval",
        "guitar",
        "rain",
    ]
    assert {p.detail for p in unreadable} == {detail}
    with pytest.warns(UserWarning, match="4 unreadable"):
        load_dataset(flat)
    # the corpus of recordings, the cache and the packer take no part of a set for the whole
    with pytest.raises(InputError, match=r"no permission|cannot be listed") as stop:
        list_clips(flat)
    assert "\n" not in str(stop.value)


def test_duplicate_between_sides_leaves_the_eval_copy(tmp_path):
    put(tmp_path / "dev/rain/a.wav", 1)
    put(tmp_path / "dev/rain/b.wav", 2)
    put(tmp_path / "eval/rain/c.wav", 1)
    report = scan(tmp_path)
    assert [(c.path.name, c.split) for c in report.clips] == [("b.wav", "dev"), ("c.wav", "eval")]
    assert kinds(report)["duplicate"] == 1


def test_dcase_meta_with_stale_rows(tmp_path):
    for i in range(4):
        put(tmp_path / f"dev/dog_bark/{i:03d}.wav", i)
        put(tmp_path / f"eval/dog_bark/{i:03d}.wav", 10 + i)
    columns = ["category", "current_file_path", "original_dataset", "original_file_name"]
    dev = [
        ("DogBark", f"dev/dog_bark/{i:03d}.wav", "UrbanSound8k", f"1000{i // 2}-3-0-{i}.wav")
        for i in range(6)
    ]
    # another root, another class spelling, another suffix
    evaluation = [("dog_bark", f"x/eval/DogBark/{i:03d}.flac", "FSD50k", f"2000{i}.wav") for i in range(4)]
    pd.DataFrame(dev, columns=columns).to_csv(tmp_path / "DevMeta.csv", index=False)
    pd.DataFrame(evaluation, columns=columns).to_csv(tmp_path / "EvalMeta.csv", index=False)
    dataset = load_dataset(tmp_path)
    assert dataset.split_by == "folder"
    assert [c.group for c in dataset.split("dev")] == ["freesound:10000"] * 2 + ["freesound:10001"] * 2
    assert [c.group for c in dataset.split("eval")] == [f"freesound:2000{i}" for i in range(4)]
    assert dataset.report.notes == ("DevMeta.csv: 2 of 6 rows name no usable file (ignored)",)
    assert not dataset.crossing()
    row = dataset.summary().set_index("class").loc["dog_bark"]
    assert (row["dev"], row["eval"], row["recordings dev"], row["recordings eval"]) == (4, 4, 2, 4)


def test_dcase_meta_splits_a_flat_folder(tmp_path):
    for i in range(4):
        put(tmp_path / f"rain/{i}.wav", i)
    for name, rows in (("DevMeta.csv", (0, 1, 2)), ("EvalMeta.csv", (3,))):
        table = pd.DataFrame({"category": "rain", "current_file_path": [f"rain/{i}.wav" for i in rows]})
        table.to_csv(tmp_path / name, index=False)
    dataset = load_dataset(tmp_path)
    assert dataset.split_by == "folder"
    assert [c.path.stem for c in dataset.split("eval")] == ["3"]


def test_recording_on_both_sides_of_a_given_split_is_shown(tmp_path):
    put(tmp_path / "dev/rain/a.wav", 1)
    put(tmp_path / "eval/rain/b.wav", 2)
    (tmp_path / "meta.csv").write_text("file,recording\ndev/rain/a.wav,take 7\neval/rain/b.wav,take 7\n")
    assert list(load_dataset(tmp_path).crossing()) == ["take 7"]


def test_meta_above_the_folder(tmp_path):
    for i in range(4):
        put(tmp_path / f"free/rain/{i}.wav", i)
    rows = [
        f"{side}/rain/{i}.wav,{side} take {i // 2},rain number {i},CC0"
        for side in ("free", "nc")
        for i in range(4)
    ]
    (tmp_path / "meta.csv").write_text("\n".join(["File,Original_Path,Caption,License", *rows]))
    dataset = load_dataset(tmp_path / "free")
    assert [c.group for c in dataset.clips] == ["free take 0"] * 2 + ["free take 1"] * 2
    assert sorted(dataset.captions.values()) == [f"rain number {i}" for i in range(4)]
    assert dataset.licences().loc["CC0", "rain"] == 4
    assert dataset.report.notes == ()
    assert (len(dataset.split("dev")), len(dataset.split("eval"))) == (2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing,of,use\n1,2,3\n", "no column names the files"),
        ("", "not a readable csv"),
        ('a,"b\n', "csv|column"),
    ],
)
def test_bad_meta_is_a_problem_not_a_crash(flat, text, message):
    (flat / "meta.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_meta(flat / "meta.csv")
    report = scan(flat)
    assert kinds(report) == {"bad meta": 1}
    assert len(report.clips) == 14


def test_binary_meta_is_a_problem(flat):
    (flat / "DevMeta.csv").write_bytes(bytes(range(256)) * 10)
    assert kinds(scan(flat)) == {"bad meta": 1}


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"original_path": "us8k/fold2/100652-3-0-0.wav"}, {"freesound:100652"}),
        ({"original_path": "esc/1-100032-A.ogg"}, {"freesound:100032"}),
        ({"original_file_name": "4711.wav", "original_dataset": "FSD50k"}, {"freesound:4711"}),
        ({"original_file_name": "4711.wav", "original_dataset": "BBC"}, {"BBC:4711.wav"}),
        ({"original_path": "a/1.ogg + a/2.ogg …"}, {"a/1.ogg", "a/2.ogg"}),
        ({"group": "take 3"}, {"take 3"}),
        ({"author": "X http://www.freesound.org/people/X/sounds/17367/"}, {"freesound:17367"}),
        ({"author": "SpliceSound https://freesound.org/s/338106/"}, {"freesound:338106"}),
        ({"author": "Erdie fs41579", "original_path": "b/x.ogg"}, {"freesound:41579", "b/x.ogg"}),
        ({"note": "freesound id 102305"}, {"freesound:102305"}),
        ({"author": "participant p05", "source": "S"}, {"participant:S:p05"}),
        ({"note": "4 s window 0 of 4.0 s"}, set()),
    ],
)
def test_recording_keys(row, keys):
    assert recording_keys(row) == keys


def test_recordings_join_over_any_shared_key():
    keys = {
        Path("1"): {"a", "b"},
        Path("2"): {"b", "c"},
        Path("3"): {"c"},
        Path("4"): {"d"},
        Path("5"): set(),
    }
    assert join_recordings(keys) == {Path("1"): "a", Path("2"): "a", Path("3"): "a", Path("4"): "d"}


@pytest.fixture
def takes(tmp_path):
    """Thirty rain clips of ten recordings, two footsteps, one gunshot, six keyboards of two of the ten."""
    lines = ["file,recording"]
    for i in range(30):
        put(tmp_path / f"rain/{i:02d}.wav", i)
        lines.append(f"rain/{i:02d}.wav,cloud {i % 10}")
    for i in range(2):
        put(tmp_path / f"footstep/{i}.wav", 100 + i)
    put(tmp_path / "gunshot/0.wav", 200)
    for i in range(6):
        put(tmp_path / f"keyboard/{i}.wav", 300 + i)
        lines.append(f"keyboard/{i}.wav,cloud {i % 2}")
    (tmp_path / "meta.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("seed", range(6))
def test_split_by_recording(takes, seed):
    dataset = load_dataset(takes, seed=seed, dev_fraction=0.8)
    assert dataset.split_by == "recording"
    assert not dataset.crossing()
    assert len(dataset.split("dev")) + len(dataset.split("eval")) == len(dataset) == 39
    assert len(dataset.split("eval", "rain")) == 6
    assert len(dataset.split("eval", "Footstep")) == len(dataset.split("dev", "footstep")) == 1
    assert len(dataset.split("dev", "gunshot")) == 1


def test_split_depends_on_the_seed_only(takes):
    def sides(seed):
        return [(c.path.name, c.split) for c in load_dataset(takes, seed=seed).clips]

    assert sides(3) == sides(3)
    assert len({tuple(sides(s)) for s in range(5)}) > 1
    assert load_dataset(takes, seed=3).digest == load_dataset(takes, seed=3, workers=1).digest
    assert load_dataset(takes, seed=3).digest != load_dataset(takes, seed=4).digest


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1, 2, float("nan")])
def test_bad_fraction(takes, fraction):
    with pytest.raises(InputError, match="dev_fraction"):
        load_dataset(takes, dev_fraction=fraction)


def test_extreme_fractions_leave_one_recording_on_each_side(takes):
    for fraction in (0.001, 0.999):
        dataset = load_dataset(takes, dev_fraction=fraction)
        for cls in ("rain", "footstep"):
            assert dataset.split("dev", cls)
            assert dataset.split("eval", cls)


def test_unknown_split_and_class(takes):
    dataset = load_dataset(takes)
    with pytest.raises(InputError, match="'dev' or 'eval'"):
        dataset.split("test")
    with pytest.raises(ValueError, match="unknown class"):
        dataset.split("dev", "guitar")


def test_prompts_and_summary(takes):
    dataset = load_dataset(takes)
    assert dataset.prompts["rain"] == "This is a sound of rain."
    assert dataset.classes == ["footstep", "gunshot", "keyboard", "rain"]
    table = dataset.summary().set_index("class")
    assert table.loc["total", "dev"] + table.loc["total", "eval"] == 39
    assert table.loc["rain", "seconds"] == pytest.approx(18.0)


def test_clips_on_no_side_are_left_out_and_said(tmp_path):
    for i, place in enumerate(["dev/rain", "eval/rain", "rain"]):
        put(tmp_path / place / "a.wav", i)
    with pytest.warns(UserWarning, match="1 stray file"):
        dataset = load_dataset(tmp_path)
    assert len(dataset) == 2


def test_read_clip(tmp_path):
    put(tmp_path / "rain/a.wav", 1, sr=22_050, seconds=4.0, channels=2)
    clip = scan(tmp_path).clips[0]
    wave = read_clip(clip, seconds=10.24)
    assert wave.shape == (163_840,)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_array_equal(wave[:64_000], wave[64_000:128_000])
    own = read_clip(clip, model_rate=False)
    np.testing.assert_allclose(own, soundfile.read(clip.path)[0][:, 0], atol=1e-6)
    assert read_clip(clip, seconds=1.0, model_rate=False).shape == (22_050,)
    clip.path.unlink()
    with pytest.raises(InputError, match="no such sound file"):
        read_clip(clip)


def test_open_dataset(tmp_path_factory, flat):
    root = tmp_path_factory.mktemp("data")
    section = DataSection(dev_per_class=2, eval_per_class=1, seed=3)
    embedded = open_dataset("", section, root=root, workers=1)
    assert embedded.split_by == "folder"
    assert len(embedded.split("dev")) == 14
    assert len(embedded.split("eval")) == 7
    assert len(embedded.captions) == 21
    assert not embedded.crossing()
    assert not embedded.report.problems
    again = open_dataset("", section, root=root, workers=1)
    assert again.digest == embedded.digest
    own = open_dataset(flat, DataSection(dev_fraction=0.5), root=root)
    assert len(own.split("dev")) == len(own.split("eval")) == 7


def test_clip_statistics(tmp_path):
    (tmp_path / "rain").mkdir()
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    tone[8000:] = 0
    soundfile.write(tmp_path / "rain/a.wav", tone, 16_000, subtype="FLOAT")
    row = clip_statistics(scan(tmp_path).clips).iloc[0]
    assert row["class"] == "rain"
    assert row["rms_dbfs"] == pytest.approx(20 * np.log10(0.25), abs=0.01)
    assert row["crest_db"] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert row["centroid_hz"] == pytest.approx(1000, abs=5)
    assert row["active"] == pytest.approx(0.5)


def test_real_recordings_do_not_cross(shared_data):
    dataset = load_dataset(shared_data / "foley_real/permissive", seed=1)
    assert len(dataset) == 572
    assert dataset.report.problems == ()
    assert not dataset.crossing()
    assert all(clip.group for clip in dataset.clips)
    table = pd.read_csv(shared_data / "foley_real/meta.csv").set_index("file")
    sides = {}
    for clip in dataset.clips:
        row = table.loc[clip.path.relative_to(shared_data / "foley_real").as_posix()]
        assert row["class"] == clip.cls
        sides.setdefault(row["original_path"], set()).add(clip.split)
        assert clip.licence == row["licence"]
    assert all(len(side) == 1 for side in sides.values())
    for cls in CLASSES:
        n_eval, n = (
            len(dataset.split("eval", cls)),
            len(dataset.split("dev", cls)) + len(dataset.split("eval", cls)),
        )
        assert n_eval / n == pytest.approx(0.2, abs=0.06)


def test_same_recording_under_two_licences(shared_data):
    rows = read_meta(shared_data / "foley_real/meta.csv")
    groups = join_recordings({Path(row.file): row.keys for row in rows})
    sides = {}
    for row in rows:
        sides.setdefault(groups[Path(row.file)], set()).add(row.file.parts[0])
    # the README tells that dogs of nc share recordings with permissive ones
    assert sum(len(side) == 2 for side in sides.values()) >= 5


def test_at_most_spreads_over_recordings(tmp_path):
    from latentclap.data import Clip, FoleyDataset
    from latentclap.scan import DataReport

    clips = tuple(
        Clip(tmp_path / f"{side}{r}{k}.wav", "rain", group=f"{side}{r}", split=side)
        for side in ("dev", "eval")
        for r in range(4)
        for k in range(3)
    )
    dataset = FoleyDataset(tmp_path, clips, DataReport.__new__(DataReport), "folder")
    part = dataset.at_most(dev=5, evaluation=3)
    assert len(part.split("dev")) == 5
    assert len({c.recording for c in part.split("dev")}) == 4
    assert len({c.recording for c in part.split("eval")}) == 3
    assert part.clips == dataset.at_most(dev=5, evaluation=3).clips
    assert part.clips != dataset.at_most(dev=5, evaluation=3, seed=1).clips
    assert len(dataset.at_most()) == 24


def test_data_folder_without_permission(flat, locked, monkeypatch):
    with (
        monkeypatch.context() as patched,
        pytest.raises(InputError, match="no permission to read this folder"),
    ):
        patched.setattr("os.access", lambda *_: False)  # its names may be read, and nothing else
        scan(flat)
    locked(flat, errno.EIO)
    with pytest.raises(InputError, match=r"this folder cannot be listed \(Input/output error\)"):
        scan(flat)


def test_sides_in_words_and_words_that_are_none(flat):
    rows = [("rain/000.wav", "development"), ("rain/001.wav", "Evaluation"), ("keyboard/000.wav", "test")]
    pd.DataFrame(rows, columns=["file", "split"]).to_csv(flat / "meta.csv", index=False)
    report = scan(flat)
    sides = {c.path.relative_to(flat).as_posix(): c.split for c in report.clips if c.split}
    assert sides == {"rain/000.wav": "dev", "rain/001.wav": "eval"}
    assert "meta.csv: split 'test' is neither dev nor eval (ignored)" in report.notes
