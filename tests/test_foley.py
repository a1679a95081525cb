"""Procedural Foley: determinism, validity, captions, the data set on disk."""

import csv
import functools
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.foley import (
    FAMILIES,
    Foley,
    Source,
    clip_seed,
    dataset,
    dsp,
    family,
    make_dataset,
    synthesize,
)
from latentclap.foley.dataset import COLUMNS, journal_path, pcm16
from latentclap.foley.place import BEDS, PLACES, Banded

PINNED_SEED = 4478627358550386943
PINNED = {
    "dog_bark": "d620079a7ac5cc32",
    "footstep": "bcb0b7621afe6609",
    "gunshot": "905457c180658da8",
    "keyboard": "6ae2ab7b193c8211",
    "moving_motor_vehicle": "4d63957891153d6a",
    "rain": "641aabc82c86b9b1",
    "sneeze_cough": "115d823e3c8167c2",
}


@functools.cache
def clip_of(cls: str, seed: int) -> Foley:
    return synthesize(cls, seed)


def digest(cls: str, seed: int = 7) -> str:
    return hashlib.sha256(pcm16(clip_of(cls, seed).wave).astype("<i2").tobytes()).hexdigest()[:16]


def table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_samples_are_pinned(cls):
    """A changed sound must be a decision: raise dataset.VERSION and pin again."""
    assert digest(cls) == PINNED[cls]


@pytest.mark.parametrize("cls", sorted(FAMILIES))
def test_clips_are_valid(cls):
    for seed in range(4 if cls in CLASSES else 1):
        clip = clip_of(cls, seed)
        assert clip.wave.shape == (88200,)
        assert clip.wave.dtype == np.float32
        assert np.isfinite(clip.wave).all()
        peak = np.abs(clip.wave).max()
        assert 0.2 < peak < 0.99
        assert np.sqrt(np.mean(clip.wave**2)) > 1e-3
        assert clip.cls == cls and clip.seed == seed
        json.dumps(clip.params, allow_nan=False)


def test_other_lengths_and_rates():
    for seconds, sr in ((0.25, 22050), (1.0, 16000), (5.0, 8000), (2.0, 48000)):
        for cls in CLASSES:
            clip = synthesize(cls, 3, seconds=seconds, sr=sr)
            assert clip.wave.shape == (round(seconds * sr),)
            assert np.isfinite(clip.wave).all() and np.abs(clip.wave).max() > 0.2


def test_seeds_differ_and_levels_vary():
    clips = [clip_of("dog_bark", seed) for seed in range(8)]
    assert len({clip.wave.tobytes() for clip in clips}) == 8
    assert len({clip.caption for clip in clips}) >= 6
    assert np.ptp([np.abs(clip.wave).max() for clip in clips]) > 0.2


@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        ("dog_bark", ("size",)),
        ("footstep", ("surface", "shoe")),
        ("gunshot", ("weapon",)),
        ("keyboard", ("board", "style")),
        ("moving_motor_vehicle", ("vehicle", "motion")),
        ("rain", ("density",)),
        ("sneeze_cough", ("person", "kind")),
    ],
)
def test_captions_name_their_parameters(cls, keys):
    for seed in range(6):
        clip = clip_of(cls, seed)
        for key in keys:
            assert clip.params[key] in clip.caption, clip.caption
        assert PLACES[clip.params["place"]].words in clip.caption
        if clip.params["background"] != "none" and clip.params["snr_db"] < 34:
            assert BEDS[clip.params["background"]][0] in clip.caption
        if "count" in clip.params and cls in ("dog_bark", "sneeze_cough"):
            assert dsp.times(clip.params["count"]) in clip.caption
        assert clip.caption.endswith(", repeated") == clip.params["looped"]
        assert "  " not in clip.caption


def test_a_looped_clip_repeats_itself():
    looped = next(c for c in (clip_of("gunshot", s) for s in range(20)) if c.params["looped"])
    wave = looped.wave.astype(float)
    spectrum = np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2
    similar = np.fft.irfft(spectrum)[: len(wave)]
    lag = int(0.4 * 22050) + np.argmax(similar[int(0.4 * 22050) :])
    np.testing.assert_array_equal(wave[lag:], wave[:-lag])


def test_clip_seeds_depend_on_their_own_place_only():
    seeds = {clip_seed(0, cls, split, i) for cls in CLASSES for split in ("dev", "eval") for i in range(50)}
    assert len(seeds) == 7 * 2 * 50
    assert clip_seed(0, "rain", "dev", 3) == PINNED_SEED
    assert clip_seed(1, "rain", "dev", 3) != clip_seed(0, "rain", "dev", 3)


def test_splits_draw_from_different_bands():
    rng = np.random.default_rng(0)
    dev = np.floor([12 * Banded("dev").uniform(rng, 0, 1) for _ in range(400)])
    held = np.floor([12 * Banded("eval").uniform(rng, 0, 1) for _ in range(400)])
    assert set(held) == {2, 5, 8, 11}
    assert set(dev) == set(range(12)) - set(held)
    assert not np.array_equal(synthesize("rain", 1).wave, synthesize("rain", 1, split="eval").wave)


def test_workers_and_counts_do_not_change_a_clip(tmp_path):
    one = make_dataset(
        tmp_path / "one", per_class=2, eval_per_class=1, workers=1, classes=["rain", "gunshot"]
    )
    three = make_dataset(
        tmp_path / "three", per_class=2, eval_per_class=1, workers=3, classes=["rain", "gunshot"]
    )
    assert tree(one) == tree(three)
    less = tree(make_dataset(tmp_path / "less", per_class=1, eval_per_class=0, classes=["rain"]))
    assert less["dev/rain/00000.wav"] == tree(one)["dev/rain/00000.wav"]


def test_a_script_without_a_main_guard_makes_a_set_with_several_workers(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(
        "from latentclap.foley import make_dataset\n"
        f"make_dataset({str(tmp_path / 'set')!r}, per_class=2, eval_per_class=1, workers=2, classes=['rain'])\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    assert sorted(tree(tmp_path / "set")) == [
        "DevMeta.csv",
        "EvalMeta.csv",
        "dev/rain/00000.wav",
        "dev/rain/00001.wav",
        "eval/rain/00000.wav",
    ]


def test_layout_and_tables(tmp_path):
    folder = make_dataset(tmp_path / "set", per_class=1, eval_per_class={"Rain": 2}, seed=5)
    dev, held = table(folder / "DevMeta.csv"), table(folder / "EvalMeta.csv")
    assert [row["category"] for row in dev] == list(CLASSES)
    assert [row["category"] for row in held] == ["rain", "rain"]
    assert tuple(dev[0]) == COLUMNS
    assert len({row["original_file_name"] for row in dev + held}) == 9
    assert not journal_path(folder).exists()
    for row in dev + held:
        assert all(row.values())
        assert row["licence"] == "Apache-2.0"
        info = sf.info(folder / row["current_file_path"])
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (22050, 1, 88200, "PCM_16")
        clip = synthesize(row["category"], int(row["seed"]), split=row["current_file_path"].split("/")[0])
        assert row["caption"] == clip.caption
        np.testing.assert_array_equal(
            sf.read(folder / row["current_file_path"], dtype="int16")[0], pcm16(clip.wave)
        )


def test_resume_makes_only_what_is_missing(tmp_path):
    options = {"per_class": 3, "eval_per_class": 1, "classes": ["keyboard"]}
    whole = tree(make_dataset(tmp_path / "whole", **options))

    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 2:
            raise Killed

    folder = tmp_path / "half"
    with pytest.raises(Killed):
        make_dataset(folder, **options, progress=kill)
    assert journal_path(folder).is_file() and not (folder / "DevMeta.csv").exists()
    with open(journal_path(folder), "a", encoding="utf-8") as journal:
        journal.write('{"current_file_path": "dev/key')  # killed in the middle of a line
    kept = (folder / "dev/keyboard/00000.wav").stat().st_mtime_ns
    (folder / "dev/keyboard/00001.wav").write_bytes(b"broken")
    made = []
    make_dataset(folder, **options, progress=lambda done, total: made.append(done))
    assert made == [2, 3, 4]  # one of four was whole
    assert (folder / "dev/keyboard/00000.wav").stat().st_mtime_ns == kept
    assert tree(folder) == whole
    made.clear()
    make_dataset(folder, **options, progress=lambda done, total: made.append(done))
    assert made == [] and tree(folder) == whole


def test_a_smaller_or_another_set_leaves_nothing_of_the_one_before(tmp_path):
    """Whoever loads the folder takes what lies in it; what somebody put there or changed is theirs."""
    folder = make_dataset(tmp_path / "set", per_class=3, eval_per_class=1, classes=["rain", "gunshot"])
    mine, changed = folder / "dev/rain/mine.wav", folder / "dev/rain/00002.wav"
    mine.write_bytes(b"mine")
    changed.write_bytes(changed.read_bytes() + b"longer")
    options = {"per_class": 1, "eval_per_class": 1, "classes": ["rain"], "seed": 7}
    make_dataset(folder, **options)
    alone = tree(make_dataset(tmp_path / "alone", **options))
    left = tree(folder)
    assert left.pop("dev/rain/mine.wav") == b"mine" and left.pop("dev/rain/00002.wav").endswith(b"longer")
    assert left == alone and not (folder / "dev/gunshot").exists()


def test_bad_input_is_refused_in_one_line(tmp_path):
    bad = [
        (lambda: synthesize("cat", 0), "unknown class 'cat'"),
        (lambda: synthesize(None, 0), "unknown class None"),
        (lambda: synthesize("rain", -1), "seed"),
        (lambda: synthesize("rain", 1.5), "seed"),
        (lambda: synthesize("rain", 0, seconds=float("nan")), "seconds"),
        (lambda: synthesize("rain", 0, sr=100), "sr"),
        (lambda: synthesize("rain", 0, split="test"), "split"),
        (lambda: make_dataset(tmp_path / "x", per_class=-1), "per_class"),
        (lambda: make_dataset(tmp_path / "x", per_class=0, eval_per_class=0), "nothing to make"),
        (lambda: make_dataset(tmp_path / "x", per_class={"cat": 1}), "unknown class"),
        (lambda: make_dataset(tmp_path / "x", per_class={"rain": 1}, classes=["gunshot"]), "rain"),
        (lambda: make_dataset(tmp_path / "x", workers=0), "workers"),
        (lambda: make_dataset(__file__), "is a file"),
    ]
    for call, words in bad:
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_further_family_can_be_registered():
    @family("test_tone", quiet=1.0)
    def tone(rng, n, sr):
        return Source(np.sin(2 * np.pi * 440 * np.arange(n) / sr), "a steady tone", {"hz": 440})

    try:
        clip = synthesize("test_tone", 0)
        assert clip.caption.startswith("a steady tone")
        assert np.argmax(np.abs(np.fft.rfft(clip.wave))) == pytest.approx(440 * 4, abs=2)
    finally:
        del FAMILIES["test_tone"]


def test_command_line(tmp_path, repo_root):
    script = [sys.executable, str(repo_root / "data_scripts" / "make_foley.py")]
    arguments = [str(tmp_path / "set"), "--per-class", "1", "--eval-per-class", "0", "--classes", "rain"]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(table(tmp_path / "set" / "DevMeta.csv")) == 1
    bad = subprocess.run([*script, str(tmp_path / "y"), "--classes", "cat"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "error: unknown class 'cat'" in bad.stderr and "Traceback" not in bad.stderr


def test_classes_differ_as_their_sources_do():
    """Steady classes are steady, impacts are impulsive, rain is flat, barks are tonal: medians over clips."""

    def crest(w):
        return 20 * np.log10(np.abs(w).max() / np.sqrt(np.mean(w**2)))

    waves = {cls: [clip_of(cls, seed).wave.astype(float) for seed in range(8)] for cls in CLASSES}
    crests = {cls: np.median([crest(w) for w in ws]) for cls, ws in waves.items()}
    for steady in ("rain", "moving_motor_vehicle"):
        for struck in ("footstep", "keyboard"):
            assert crests[steady] + 3 < crests[struck]

    def flatness(w):
        p = np.mean(np.abs(np.fft.rfft(w[: 22050 * 4].reshape(-1, 1050))) ** 2, axis=0) + 1e-12
        return np.exp(np.mean(np.log(p))) / np.mean(p)

    flat = {cls: np.median([flatness(w) for w in ws]) for cls, ws in waves.items()}
    assert flat["rain"] > 3 * flat["moving_motor_vehicle"]
    assert flat["rain"] > 3 * flat["dog_bark"]


def test_wrong_lengths_are_seen_before_anything_is_written(tmp_path):
    for seconds in (0, float("nan"), 86_400):
        with pytest.raises(InputError, match=r"seconds must be a number between 0\.25 and 60"):
            make_dataset(tmp_path / "set", per_class=1, seconds=seconds)
    assert not (tmp_path / "set").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise sf.LibsndfileError(2)

    monkeypatch.setattr(dataset.sf, "write", full)
    with pytest.raises(InputError, match="is the disk full"):
        make_dataset(tmp_path / "set", per_class=1, classes=["rain"])
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "table",
    [
        b"fname,label\na.wav,rain\n",
        b"\xff\xfe\x00",
        b"category,current_file_path,original_dataset,original_file_name\nRain,dev/rain/000.wav,FSD50K,1.wav\n",
    ],
)
def test_the_tables_of_another_set_are_not_replaced(tmp_path, table):
    (tmp_path / "EvalMeta.csv").write_bytes(table)
    with pytest.raises(
        InputError, match=r"EvalMeta\.csv is another data set's, and would be replaced: choose"
    ):
        make_dataset(tmp_path, per_class={"rain": 1}, eval_per_class=0, classes=["rain"], seconds=1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["EvalMeta.csv"]
    assert (tmp_path / "EvalMeta.csv").read_bytes() == table
