"""Variations of sounds: what they keep of a sound, the command, its files and its page."""

import copy
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from latentclap import cli
from latentclap.audio import MelConfig, read_wave, resample, write_wave
from latentclap.diffusion import sampling_steps
from latentclap.errors import InputError
from latentclap.files import read_json
from latentclap.foley import synthesize
from latentclap.models import random_system
from latentclap.storage import fold
from latentclap.system import tuning_layer
from latentclap.vary import command, page, process, result
from latentclap.vary.process import PAUSE, _as_loud, filled, level, start_of, through_model, vary
from latentclap.vary.sounds import Sounds, check_files, earlier_names, find_sources

RATE = 16_000
FAST = {"steps": 4, "sampler": "ddim", "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(0)
    wave = rng.normal(size=3000) * np.exp(-np.arange(3000) / 800)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize(
    ("strength", "steps", "expected"),
    [
        (1.0, 12, (999, 12)),
        (0.5, 12, (500, 7)),
        (0.25, 12, (250, 4)),
        (0.01, 12, (10, 2)),
        (0.07, 101, (70, 8)),  # 0.07 * 100 is a little more than 7
        (0.5, 1, (500, 1)),
        (0.0001, 200, (1, 2)),
        (0.05, 1000, (50, 51)),
    ],
)
def test_a_share_of_the_process_takes_that_share_of_the_steps(strength, steps, expected):
    assert start_of(strength, steps, 1000) == expected


@pytest.mark.parametrize("steps", [2, 12, 25, 200, 1000])
def test_steps_lie_no_further_apart_than_those_of_the_whole_process(steps):
    def widest(strength):
        start, count = start_of(strength, steps, 1000)
        ladder = sampling_steps(1000, count, start=start)
        return (ladder[:-1] - ladder[1:]).max()

    assert all(widest(strength) <= widest(1.0) for strength in np.arange(0.01, 1, 0.01))


def test_a_short_sound_dies_away_before_it_begins_again(sound):
    whole = filled(sound, 20_000)
    period = len(sound) + PAUSE
    assert MelConfig().n_fft < PAUSE  # no window of the log-mel sees an end and the onset after it
    np.testing.assert_array_equal(whole[: len(sound)], sound)
    np.testing.assert_array_equal(whole[period : period + len(sound)], sound)
    rest = whole[len(sound) : period]
    assert rest[0] == sound[-1] and np.abs(rest).max() <= np.abs(sound[len(sound) // 2 :]).max()
    assert not rest[len(sound) // 2 :].any()
    assert filled(sound[:1], 10).tolist() == [sound[0], *[0.0] * 9]
    np.testing.assert_array_equal(filled(sound, 100), sound[:100])


def test_the_shipped_model_ends_a_shot_in_quiet(mini):
    """Repeated without a pause, the next shot's onset would be the loudest moment of the last 5 ms."""
    time = np.arange(4800)
    shot = np.random.default_rng(0).normal(size=4800) * np.exp(-time / 600)
    (clips,) = vary(mini, [shot], 2, strength=0.5)
    assert np.abs(clips[:, -80:]).max() < 0.05 * np.abs(clips).max()


def test_the_model_is_shown_a_sound_of_zero_mean_and_peak_one_half():
    """Its largest sample may be below zero; one step of 16 bits is a sound yet, a hundredth of it is none."""
    shown, factor = level(np.array([0.0, -4.0, 1.0]), 10)
    assert shown.tolist() == pytest.approx([1 / 6, -0.5, 1 / 3]) and shown.dtype == np.float32
    assert factor == pytest.approx(6)
    assert level(np.array([2.0, -2.0]) * 2**-16, 10)[0].tolist() == [0.5, -0.5]
    with pytest.raises(InputError, match="silence has no variations"):
        level(np.array([1.0, -1.0]) * 2**-22, 10)


def test_what_a_model_that_changes_nothing_leaves_is_the_sound(tiny, monkeypatch):
    """At its own level, whatever that is, and without its mean; of a longer one the beginning."""
    monkeypatch.setattr(type(tiny), "reconstruct", lambda self, waves: waves)
    time = np.arange(2 * tiny.samples)
    for count, amplitude in ((3000, 3.0), (len(time), 0.01)):
        wave = amplitude * np.sin(time[:count] / 9) + 0.2
        beginning = wave[: tiny.samples]
        left = through_model(tiny, wave)
        np.testing.assert_allclose(left, beginning - beginning.mean(), atol=1e-5 * amplitude)


def test_a_variation_is_made_forty_decibels_louder_at_most():
    """Each take by its own energy; one that came out all but silent stays quiet, and gives no hiss."""
    wave = np.full(4, 0.5, np.float32)
    clips = np.array([[1.0, -1, 1, -1, 9], [0.02, 0.02, 0.02, 0.02, 9], [1e-4] * 5, [0.0] * 5])
    made = _as_loud(clips, wave, gain=2.0)
    np.testing.assert_allclose(np.abs(made[:, 0]), [1.0, 1.0, 0.02, 0.0], rtol=1e-6)
    assert made.shape == (4, 4) and made.dtype == np.float32


@pytest.fixture
def shown(tiny, monkeypatch):
    """Latents instead of waves: what an untrained vocoder makes of them is all but silence."""

    def decode(self, latents, **options):
        return np.stack([np.resize(latent.numpy(), self.samples) for latent in latents.flatten(1)])

    monkeypatch.setattr(type(tiny), "decode", decode)


@pytest.mark.usefixtures("shown")
class TestVary:
    def test_a_variation_has_the_sound_s_length_and_level(self, tiny, sound):
        (clips,) = vary(tiny, [sound], 2, **FAST)
        assert clips.shape == (2, len(sound)) and clips.dtype == np.float32
        (louder,) = vary(tiny, [2 * sound], 2, **FAST)
        np.testing.assert_allclose(louder, 2 * clips, rtol=1e-5)
        np.testing.assert_allclose((clips**2).mean(1), (sound**2).mean(), rtol=0.01)
        assert not np.allclose(clips[0], clips[1])

    def test_of_a_longer_sound_it_is_the_beginning(self, tiny, sound):
        long = np.tile(sound, 30)
        (clips,) = vary(tiny, [long], 1, **FAST)
        assert clips.shape == (1, tiny.samples) and len(long) > tiny.samples
        (cut,) = vary(tiny, [long[: tiny.samples]], 1, **FAST)
        np.testing.assert_array_equal(cut, clips)

    def test_it_depends_on_the_sound_and_its_number_alone(self, tiny, sound):
        other = sound[::-1].copy()
        alone = vary(tiny, [sound], 3, seed=5, **FAST)[0]
        beside = vary(tiny, [other, sound], 2, seed=5, first=1, batch_size=3, **FAST)[1]
        np.testing.assert_allclose(beside, alone[1:], atol=1e-4)
        assert not np.allclose(vary(tiny, [sound], 1, seed=6, **FAST)[0], alone[:1], atol=1e-3)

    def test_almost_no_strength_leaves_what_the_model_makes_of_the_sound(self, tiny, sound, monkeypatch):
        """Its latent, decoded: at step 1 of 1000 a latent of unit variance holds 0.3 % of noise."""
        encode = type(tiny).encode
        monkeypatch.setattr(
            type(tiny),
            "encode",
            lambda self, waves: torch.nn.functional.layer_norm(encode(self, waves), self.latent_shape),
        )
        wave, _ = level(sound, tiny.samples)
        s_0 = tiny.encode(filled(wave, tiny.samples)[None])
        left = tiny.decode(s_0)[0, : len(sound)]
        near, far = (vary(tiny, [sound], 1, strength=s, **FAST)[0][0] for s in (1e-4, 1.0))
        alike = [np.dot(clip, left) / np.linalg.norm(clip) / np.linalg.norm(left) for clip in (near, far)]
        assert alike[0] > 0.95 and abs(alike[1]) < 0.5

    def test_a_prompt_steers_instead_of_the_sound(self, tiny, sound):
        own, said = (
            vary(tiny, [sound], 1, prompts=p, **FAST)[0] for p in (None, ["This is a sound of rain."])
        )
        assert not np.allclose(own, said, atol=1e-4)
        deaf = replace(tiny, clap=None)
        np.testing.assert_array_equal(
            vary(deaf, [sound], 1, prompts=["This is a sound of rain."], **FAST)[0], said
        )
        with pytest.raises(InputError, match="no CLAP audio branch"):
            vary(deaf, [sound], 1, **FAST)

    def test_a_clap_that_only_judges_does_not_steer(self, tiny, sound):
        """Its embeddings are of a space that the UNet knows nothing of, and noise would come out without a word."""
        other = replace(tiny, clap=random_system("tiny", seed=1).clap)
        with pytest.raises(InputError, match="conditioned by another CLAP than the one it has for sounds"):
            vary(other, [sound], 1, **FAST)
        assert vary(other, [sound], 1, prompts=["rain"], **FAST)[0].shape == (1, len(sound))
        rounded = replace(tiny, clap=copy.deepcopy(tiny.clap).half().float())  # the same, in a smaller file
        assert vary(rounded, [sound], 1, **FAST)[0].shape == (1, len(sound))

    @pytest.mark.parametrize("prompts", [None, ["rain"]])
    def test_a_tuning_layer_does_the_same_by_itself_and_folded_into_the_unet(self, tiny, sound, prompts):
        layer = tuning_layer(tiny.embed_dim)
        with torch.no_grad():
            layer.weight.copy_(-30 * layer.weight.flip(0))
        apart = replace(tiny, tuning=layer)
        folded = replace(tiny, unet=fold(tiny.unet, layer))
        tuned, whole, plain = (
            vary(system, [sound], 1, prompts=prompts, **FAST)[0] for system in (apart, folded, tiny)
        )
        assert np.abs(tuned - whole).max() < 0.01 * np.abs(plain - whole).max()

    def test_the_way_back_begins_with_the_noised_sound_and_is_guided(self, tiny, sound, monkeypatch):
        """The same noise at each strength, added up to the step that it begins with; away from "" as generation is.

        That is, from what the tuning layer makes of "" too: eps_u + g (eps_c - eps_u).
        """
        layer = torch.nn.Linear(tiny.embed_dim, tiny.embed_dim).requires_grad_(False)
        layer.weight.normal_(0, 1, generator=torch.Generator().manual_seed(3))
        system, asked = replace(tiny, tuning=layer), []
        monkeypatch.setattr(process, "sample", lambda *given, **told: asked.append((given, told)) or given[1])
        for strength in (0.3, 0.8):
            vary(system, [sound], 1, strength=strength, prompts=["rain"], **FAST | {"guidance_scale": 3.0})
        s_0 = tiny.encode(filled(level(sound, tiny.samples)[0], tiny.samples)[None])
        E_cond, E_none = layer(tiny.encode_text(["rain", ""])).split(1)
        abar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
        noises = []
        for ((model, s_n, _), told), n in zip(asked, (300, 799), strict=True):
            assert told["start"] == n and told["scheduler_config"] == dict(tiny.scheduler.config)
            noises.append((s_n - abar[n] ** 0.5 * s_0) / (1 - abar[n]) ** 0.5)
            with torch.no_grad():
                c, u = (tiny.eps_theta(s_n, torch.tensor([n]), E) for E in (E_cond, E_none))
                torch.testing.assert_close(
                    model(s_n, torch.tensor([n])), u + 3 * (c - u), atol=1e-4, rtol=1e-4
                )
            assert (c - u).abs().max() > 0.01
        torch.testing.assert_close(*noises, atol=1e-3, rtol=0)

    def test_noise_of_a_stochastic_sampler_is_the_variation_s_own(self, tiny, sound):
        still, alone = (vary(tiny, [sound], 2, eta=eta, **FAST)[0] for eta in (0.0, 1.0))
        beside = vary(tiny, [sound[::-1].copy(), sound], 2, eta=1.0, batch_size=3, **FAST)[1]
        np.testing.assert_allclose(beside, alone, atol=1e-4)
        assert not np.allclose(still, alone, atol=1e-2)

    @pytest.mark.parametrize(
        ("waves", "options", "message"),
        [
            ([], {}, "nothing to vary"),
            ([np.ones(10)], {"n": 0}, "nothing to vary"),
            ([np.ones(10)], {}, "sound 0: silence has no variations"),  # a constant is none either
            ([np.zeros((2, 10))], {}, r"sound 0: give finite samples of one channel, not \(2, 10\)"),
            ([np.array([1.0, np.nan])], {}, "sound 0: give finite"),
            ([np.arange(9.0)], {"strength": 0.0}, r"strength=0: it lies above 0"),
            ([np.arange(9.0)], {"strength": 1.01}, r"strength=1.01: it lies above 0"),
            ([np.arange(9.0)], {"prompts": ["a", "b"]}, "2 prompts for 1 sounds"),
            ([np.arange(9.0)], {"steps": 1001}, "steps=1001: must be between 1 and 1000"),
            ([np.arange(9.0)], {"guidance_scale": -1.0}, "guidance_scale=-1.0"),
            ([np.arange(9.0)], {"eta": 2.0}, "eta=2.0"),
            ([np.arange(9.0)], {"sampler": "euler"}, "unknown sampler 'euler'"),
            ([np.arange(9.0)], {"batch_size": 0}, "batch_size=0"),
            ([np.repeat([0.0, 1.0], 10**6)], {}, r"sound 0: its first [\d.]+ s are silent, .* cut them off"),
        ],
    )
    def test_what_cannot_be_varied(self, tiny, waves, options, message):
        with pytest.raises(InputError, match=message):
            vary(tiny, waves, **options)


def test_the_shipped_model_stays_nearer_at_less_strength(mini):
    """A dog's bark of 4 s: further from it in mel and in CLAP, the more noise it went through."""
    wave = synthesize("dog_bark", 1, sr=RATE, split="eval").wave
    rows = [result.distances(mini, wave, list(vary(mini, [wave], 2, strength=s)[0])) for s in (0.2, 0.9)]
    near, far = ({k: np.mean([row[k] for row in part]) for k in part[0]} for part in rows)
    assert near["mel_distance"] < 0.7 * far["mel_distance"]
    assert near["similarity"] > far["similarity"]


class TestDistances:
    def test_of_a_longer_sound_the_beginning_counts_with_its_own_peak(self, tiny, sound):
        beginning = np.resize(sound, tiny.samples)
        loud_later = np.concatenate([0.1 * beginning, sound])
        (row,) = result.distances(tiny, loud_later, [beginning])
        assert row["mel_distance"] == pytest.approx(0, abs=1e-4) and row["similarity"] > 0.9999

    def test_samples_that_a_coding_adds_do_not_shift_the_repetitions(self, tiny, sound):
        longer = np.pad(sound, (0, 500))
        shorter = sound[:-3]
        for row in result.distances(tiny, sound, [longer, shorter, sound + 0.1]):
            assert row["mel_distance"] < 0.05


class TestSources:
    @pytest.fixture
    def folder(self, tmp_path, sound):
        for name in ("b/step 1.wav", "a/step 1.flac", "a/listen.wav", "a/d\u00f6r.wav"):
            write_wave(tmp_path / name, sound, RATE)
        (tmp_path / "a/notes.txt").write_text("not a sound")
        return tmp_path

    def test_names_are_told_apart_and_need_no_quotes(self, folder):
        found = find_sources([folder, folder / "a/listen.wav"], [0.5])
        assert {s.name: s.path.relative_to(folder).as_posix() for s in found} == {
            "d\u00f6r": "a/d\u00f6r.wav",
            "listen_": "a/listen.wav",  # listen is the page's
            "a_step_1": "a/step 1.flac",
            "b_step_1": "b/step 1.wav",
        }
        wave = folder / "b/step 1.wav"
        assert find_sources([wave], [0.25])[0].digest == hashlib.sha256(wave.read_bytes()).hexdigest()

    def test_a_strength_of_several_is_in_the_name(self, folder):
        found = find_sources([folder / "b"], [0.25, 0.5])
        assert [(s.name, s.strength) for s in found] == [("step_1_s25", 0.25), ("step_1_s50", 0.5)]

    def test_what_is_no_source(self, folder):
        for paths, strengths, message in (
            ([folder / "c"], [0.5], "no such sound file or folder"),
            ([folder / "a/notes.txt"], [0.5], r"notes.txt: give one of .wav, .flac"),
            ([Path("/dev/null")], [0.5], r"null: give one of .wav, .flac"),
            ([folder / "b"], [0.5, 0.5], "--strength 0.5, 0.5: give each once"),
            ([folder / "b"], [0.0], "--strength 0: it lies above 0"),
        ):
            with pytest.raises(InputError, match=message):
                find_sources(paths, strengths)
        (folder / "empty").mkdir()
        with pytest.raises(InputError, match=r"empty: no sounds in it"):
            find_sources([folder / "empty"], [0.5])
        write_wave(folder / "x/a/step 1.flac", np.ones(100) * 0.1, RATE)
        with pytest.raises(InputError, match=r"step 1.flac and .*step 1.flac would both be called a_step_1"):
            find_sources([folder], [0.5])

    def test_names_fit_every_disk_and_are_none_of_ours(self, tmp_path, sound):
        for name in ("\u97f3" * 80, "do\u0308r", "variations.csv", "generation.json", "-x"):
            write_wave(tmp_path / f"{name}.wav", sound, RATE)
        names = {s.name for s in find_sources([tmp_path], [0.5])}
        assert names == {"\u97f3" * 33, "d\u00f6r", "variations.csv_", "generation.json_", "x"}

    def test_a_file_is_one_sound_however_it_is_called(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        found = find_sources([Path("b"), folder / "b/step 1.wav", Path("b/../b/step 1.wav")], [0.5])
        assert [(s.name, s.path) for s in found] == [("step_1", Path("b/step 1.wav"))]

    def test_names_differ_on_disks_that_know_no_capitals_and_are_short_enough_for_all(self, folder, sound):
        write_wave(folder / "c/STEP 1.wav", sound, RATE)
        write_wave(folder / "c" / f"{'x' * 200}.wav", sound, RATE)
        names = [s.name for s in find_sources([folder / "b", folder / "c"], [0.5])]
        assert names == ["b_step_1", "c_STEP_1", "x" * 100]

    def test_one_sound_in_two_formats_is_two_sounds(self, folder, sound):
        for name in ("d/x.wav", "d/X.flac", "d/y.wav"):
            write_wave(folder / name, sound, RATE)
        assert [s.name for s in find_sources([folder / "d"], [0.5])] == ["d_X_flac", "d_x_wav", "y"]
        write_wave(folder / "d/X.wav", sound, RATE)
        with pytest.raises(
            InputError, match=r"X.wav and .*x.wav would both be called d_X_wav: rename one, or"
        ):
            find_sources([folder / "d"], [0.5])

    def test_variations_below_a_folder_are_none_of_its_sounds(self, folder, sound):
        write_wave(folder / "b/out/step_1/step_1_000.wav", sound, RATE)
        found = find_sources([folder / "b"], [0.5], leave_out=folder / "b/out")
        assert [s.path.name for s in found] == ["step 1.wav"]
        asked = find_sources([folder / "b/out/step_1/step_1_000.wav"], [0.5], leave_out=folder / "b/out")
        assert [s.name for s in asked] == ["step_1_000"]
        with pytest.raises(InputError, match="all sounds in it are what was made before, or lie in --out"):
            find_sources([folder / "b"], [0.5], leave_out=folder)

    def test_what_another_call_made_is_none_either_but_where_it_is_asked_for(self, folder, sound):
        made = folder / "b/tries"
        write_wave(made / "step_1/step_1_000.wav", sound, RATE)
        write_wave(made / "listen/0.mp3", sound, RATE)
        (made / "generation.json").write_text("{}")
        (made / "listen/listen.json").write_text("[]")
        assert [s.path.name for s in find_sources([folder / "b"], [0.5])] == ["step 1.wav"]
        assert [s.path.name for s in find_sources([made], [0.5])] == ["step_1_000.wav"]

    def test_sounds_are_decoded_at_the_model_s_rate_and_their_own_level(self, tmp_path, sound):
        write_wave(
            tmp_path / "stereo.wav", np.stack([np.repeat(sound, 2), np.zeros(2 * len(sound))]), 2 * RATE
        )
        sounds = Sounds(find_sources([tmp_path], [0.3, 0.4]), 2 * len(sound))
        assert list(sounds) == ["stereo_s30", "stereo_s40"]
        assert sounds.seconds["stereo_s30"] == pytest.approx(len(sound) / RATE)
        assert 0.2 < np.abs(sounds["stereo_s30"]).max() <= 0.3
        write_wave(tmp_path / "silent.wav", np.zeros(100), RATE)
        with pytest.raises(InputError, match=r"silent.wav: silence has no variations"):
            Sounds(find_sources([tmp_path], [0.5]), 1000)

    @pytest.mark.parametrize("sr", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
    def test_the_beginning_of_a_long_file_is_that_of_all_of_it(self, tmp_path, sr, suffix):
        if suffix == "mp3" and sr == 96_000:
            pytest.skip("mp3 knows no such rate")
        wave = 0.3 * np.random.default_rng(0).normal(size=6 * sr).clip(-3, 3)
        write_wave(tmp_path / f"a.{suffix}", wave, sr)
        decoded, rate = read_wave(tmp_path / f"a.{suffix}")
        whole = resample(decoded[0], rate, RATE)
        for samples in (1000, 20_001):
            sounds = Sounds(find_sources([tmp_path], [0.5]), samples)
            np.testing.assert_array_equal(sounds["a"], whole[: samples + 1])
            assert sounds.longer == {"a"} and sounds.seconds["a"] == samples / RATE
        all_of_it = Sounds(find_sources([tmp_path], [0.5]), len(whole))
        np.testing.assert_array_equal(all_of_it["a"], whole)
        assert not all_of_it.longer and all_of_it.seconds["a"] == len(whole) / RATE

    def test_of_a_long_file_no_more_is_decoded(self, tmp_path, monkeypatch):
        write_wave(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 60 * RATE), RATE)
        read, frames = soundfile.SoundFile.read, []

        def counted(self, *args, **options):
            wave = read(self, *args, **options)
            frames.append(len(wave))
            return wave

        monkeypatch.setattr(soundfile.SoundFile, "read", counted)
        sources = find_sources([tmp_path], [0.5])
        check_files(sources)
        Sounds(sources, 4 * RATE)
        assert 4 * RATE < sum(frames) <= 5 * RATE + 2

    def test_what_is_wrong_with_a_file_is_told_before_a_model_is_loaded(self, tmp_path):
        (tmp_path / "text.wav").write_text("no sound")
        soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), RATE)
        for name, message in (("text.wav", "cannot be read as sound"), ("empty.wav", "the wave is empty")):
            with pytest.raises(InputError, match=f"{name}: {message}"):
                check_files(find_sources([tmp_path / name], [0.5]))

    def test_a_sound_that_is_there_keeps_its_name(self, folder, tmp_path, sound):
        write_wave(folder / "b/step 1.wav", sound[::-1], RATE)
        (first,) = find_sources([folder / "a/step 1.flac"], [0.5])
        plan = {"settings": {"sounds": {first.name: first.asdict(), "../x": first.asdict()}}}
        (tmp_path / "out").mkdir()
        (tmp_path / "out/generation.json").write_text(json.dumps({"plan": plan}))
        known = earlier_names(tmp_path / "out")
        assert known == {(first.digest, 0.5): ["step_1"]}  # nothing outside the folder
        both = [folder / "a/step 1.flac", folder / "b/step 1.wav"]
        assert [s.name for s in find_sources(both, [0.5], known=known)] == ["step_1", "b_step_1"]
        assert [s.name for s in find_sources(both, [0.5])] == ["a_step_1", "b_step_1"]
        assert [s.name for s in find_sources([folder / "a/step 1.flac"], [0.25, 0.5], known=known)] == [
            "step_1_s25",
            "step_1",
        ]
        # another sound has that name now
        write_wave(folder / "c/step 1.wav", sound[::2], RATE)
        taken = find_sources([folder / "c/step 1.wav", folder / "a/step 1.flac"], [0.5], known={
            (first.digest, 0.5): ["c_step_1"]
        })  # fmt: skip
        assert [s.name for s in taken] == ["c_step_1", "a_step_1"]


class TestCommand:
    @pytest.fixture
    def run(self, tiny, monkeypatch, tmp_path, sound):
        monkeypatch.setattr(command, "load_system", lambda model, device: tiny)
        write_wave(tmp_path / "in/door.wav", sound, RATE)
        write_wave(tmp_path / "in/dog.wav", np.tile(sound, 30), RATE)

        def call(*arguments):
            given = ["vary", tmp_path / "in", "-o", tmp_path / "out", "--steps", 4, "-q", *arguments]
            return CliRunner().invoke(cli.app, [str(a) for a in given], catch_exceptions=True)

        return call

    def test_it_leaves_clips_a_table_a_record_and_a_page(self, run, tmp_path, tiny, sound):
        done = run("-n", 2, "--strength", 0.3, "--strength", 0.8)
        assert done.exit_code == 0, done.output
        assert "8 clips in" in done.output and "1 sound longer than the model's" in done.output
        out = tmp_path / "out"
        wave, sr = read_wave(out / "door_s30/door_s30_001.wav")
        assert sr == RATE and wave.shape == (1, len(sound))
        assert read_wave(out / "dog_s80/dog_s80_000.wav")[0].shape == (1, tiny.samples)
        rows = list(csv.DictReader((out / "variations.csv").open()))
        assert [row["strength"] for row in rows] == ["0.3", "0.3", "0.8", "0.8"] * 2
        assert all(-1 <= float(row["similarity"]) <= 1 and float(row["mel_distance"]) > 0 for row in rows)
        record = read_json(out / "generation.json")
        assert {c["file"]: (c["strength"], c["seconds"]) for c in record["clips"]}[
            "door_s80/door_s80_000.wav"
        ] == (
            0.8,
            round(len(sound) / RATE, 4),
        )
        html = (out / "listen/index.html").read_text(encoding="utf-8")
        assert (
            html.count("<audio") == 4 * 4
        )  # of two sounds at two strengths: itself, through the model, two takes
        for file in re.findall(r'<(?:audio|source)[^>]*src="([^"]+)"', html):
            assert (out / "listen" / file).is_file(), file

    def test_it_goes_on_and_replaces_nothing_of_another_run(self, run, tmp_path):
        assert run("-n", 2, "--no-page").exit_code == 0
        clip = tmp_path / "out/door/door_001.wav"
        first = clip.read_bytes()
        clip.unlink()
        again = run("-n", 2, "--no-page")
        assert again.exit_code == 0 and "3 of them made before" in again.output
        assert clip.read_bytes() == first
        other = run("-n", 2, "--no-page", "--strength", 0.6)
        assert other.exit_code != 0 and "say --overwrite" in str(other.exception)
        # the sound itself is another one now
        write_wave(tmp_path / "in/door.wav", read_wave(clip)[0][0, ::-1], RATE)
        assert "say --overwrite" in str(run("-n", 2, "--no-page").exception)
        assert run("-n", 1, "--no-page", "--overwrite").exit_code == 0
        assert not clip.exists() and not (tmp_path / "out/listen").exists()

    def test_a_sound_that_is_added_leaves_the_others_alone(self, run, tmp_path, sound):
        assert run("-n", 2).exit_code == 0
        first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.wav")}
        write_wave(tmp_path / "in/new/door.wav", sound[::-1], RATE)
        more = run("-n", 2)
        assert more.exit_code == 0 and "6 clips in" in more.output and "4 of them made before" in more.output
        assert {path: path.stat().st_mtime_ns for path in first} == first and len(first) == 4
        record = read_json(tmp_path / "out/generation.json")
        assert {clip["class"] for clip in record["clips"]} == {"dog", "door", "new_door"}
        assert set(record["plan"]["settings"]["sounds"]) == {"dog", "door", "new_door"}
        rows = list(csv.DictReader((tmp_path / "out/variations.csv").open()))
        assert [row["file"] for row in rows] == [clip["file"] for clip in record["clips"]]
        assert (tmp_path / "out/listen/index.html").read_text(encoding="utf-8").count("<audio") == 3 * 4
        # a strength more
        again = run("-n", 2, "--no-page", "--strength", 0.5, "--strength", 0.9)
        assert again.exit_code == 0 and "6 of them made before" in again.output
        # what was made of the added sound is what it would be by itself
        alone = tmp_path / "alone"
        assert run("-o", alone, "-n", 2, "--no-page").exit_code == 0
        assert (alone / "new_door/new_door_001.wav").read_bytes() == (
            tmp_path / "out/new_door/new_door_001.wav"
        ).read_bytes()

    def test_sounds_that_are_not_named_again_are_not_forgotten(self, run, tmp_path):
        assert run("-n", 1, "--no-page").exit_code == 0
        (tmp_path / "in/dog.wav").unlink()
        refused = str(run("-n", 1, "--no-page").exception)
        assert "holds clips of dog, which this call does not name: name them too" in refused
        assert run("-n", 1, "--no-page", "--overwrite").exit_code == 0
        assert not (tmp_path / "out/dog").exists()

    def test_an_addition_that_is_stopped_goes_on(self, run, tmp_path, sound, monkeypatch):
        assert run("-n", 2, "--no-page").exit_code == 0
        for name in ("new", "newer"):
            write_wave(tmp_path / f"in/{name}.wav", sound[:: 2 + len(name)], RATE)
        calls = []

        def stopped(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return vary(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr("latentclap.vary.process.vary", stopped)
            assert run("-n", 2, "--no-page").exit_code != 0
        again = run("-n", 2, "--no-page")
        assert again.exit_code == 0 and "6 of them made before" in again.output
        assert len(read_json(tmp_path / "out/generation.json")["clips"]) == 8

    def test_takes_are_cut_and_looped_as_asked(self, run, tmp_path, tiny, sound):
        done = run("-n", 1, "--seconds", 0.25, "--loop", 50)
        assert done.exit_code == 0, done.exception
        assert "1 sound too short for --seconds 0.25" in done.output
        lengths = {
            name: read_wave(tmp_path / f"out/{name}/{name}_000.wav")[0].shape[1] for name in ("dog", "door")
        }
        assert lengths == {"dog": 4000, "door": len(sound) - 800}
        told = {c["class"]: c["seconds"] for c in read_json(tmp_path / "out/generation.json")["clips"]}
        assert told == {"dog": 0.25, "door": round((len(sound) - 800) / RATE, 4)}
        # the end goes on in the start, as a take without a loop goes on
        assert run("-o", tmp_path / "plain", "-n", 1, "--no-page").exit_code == 0
        plain = read_wave(tmp_path / "plain/dog/dog_000.wav")[0][0]
        looped = read_wave(tmp_path / "out/dog/dog_000.wav")[0][0]
        np.testing.assert_allclose(looped[800:], plain[800:4000], atol=1e-4)
        np.testing.assert_allclose(looped[0], plain[4000], atol=1e-4)
        # distances are of the part that is there, as those of that part by itself
        rows = {r["sound"]: r for r in csv.DictReader((tmp_path / "out/variations.csv").open())}
        heard = read_wave(tmp_path / "in/dog.wav")[0][0][:4000]
        (row,) = result.distances(tiny, heard, [looped])
        assert float(rows["dog.wav"]["mel_distance"]) == pytest.approx(row["mel_distance"], abs=1e-3)

    def test_the_page_plays_whole_takes(self, run, tmp_path, tiny):
        assert run("-n", 1, "--seconds", 0.25).exit_code == 0
        page_of = (tmp_path / "out/listen/index.html").read_text(encoding="utf-8")
        assert "Heard and drawn are whole variations. Pictures share one scale: 1 s across" in page_of
        seconds = {"sound": 0.25, "model": 0.25, "01": 0.25}
        for part, expected in seconds.items():
            (file,) = (tmp_path / "out/listen").glob(f"00_{part}.mp3")
            assert soundfile.info(file).duration == pytest.approx(expected, abs=0.15)

    def test_a_run_that_is_stopped_goes_on_with_the_same_clips(self, run, tmp_path, monkeypatch):
        assert run("-n", 2, "--no-page").exit_code == 0
        whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*/*.wav")}
        shutil.rmtree(tmp_path / "out")
        calls = []

        def stopped(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise InputError("stopped")
            return vary(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr("latentclap.vary.process.vary", stopped)
            assert "stopped" in str(run("-n", 2, "--no-page").exception)
        assert not (tmp_path / "out/generation.json").exists()
        again = run("-n", 2, "--no-page")
        assert "2 of them made before" in again.output, again.exception
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*/*.wav")} == whole

    def test_what_is_no_run_s_is_not_replaced(self, run, tmp_path):
        mine = tmp_path / "out/listen/index.html"
        mine.parent.mkdir(parents=True)
        mine.write_text("my own page")
        assert "holds other things than a page of variations" in str(run("-n", 1).exception)
        (tmp_path / "out/variations.csv").write_text("my own table")
        assert "variations.csv would be replaced" in str(run("-n", 1, "--no-page").exception)
        assert mine.read_text() == "my own page" and not (tmp_path / "out/door").exists()
        (tmp_path / "out/variations.csv").unlink()
        mine.unlink()
        (tmp_path / "out/variations.csv").mkdir()
        assert "is a folder" in str(run("-n", 1).exception)
        (tmp_path / "out/variations.csv").rmdir()
        assert run("-n", 1).exit_code == 0 and run("-n", 1).exit_code == 0  # its own page is

    def test_a_sound_that_lies_in_the_folder_is_not_lost(self, run, tmp_path):
        assert run("-n", 2).exit_code == 0
        clip, player = tmp_path / "out/door/door_001.wav", tmp_path / "out/listen/00_01.mp3"
        for mine in (clip, player):
            refused = run(mine, "--overwrite")
            assert "would be replaced or removed: copy it" in str(refused.exception), refused.output
            assert mine.is_file()

    def test_fewer_variations_leave_what_is_told_of_the_others(self, run, tmp_path):
        assert run("-n", 3, "--no-page").exit_code == 0
        assert run("-n", 1).exit_code == 0
        told = [row["file"] for row in csv.DictReader((tmp_path / "out/variations.csv").open())]
        assert told == [c["file"] for c in read_json(tmp_path / "out/generation.json")["clips"]]
        html = (tmp_path / "out/listen/index.html").read_text(encoding="utf-8")
        assert len(told) == 6 and all(Path(file).name in html for file in told)
        assert run("-n", 1, "--no-page", "--overwrite", "--seed", 1).exit_code == 0
        assert not (tmp_path / "out/listen").exists()  # it played clips that are no more

    def test_the_page_says_what_it_leaves_out(self, run, tmp_path, monkeypatch):
        def lines():
            return re.findall(
                "<p>(.*?)</p>", (tmp_path / "out/listen/index.html").read_text(encoding="utf-8")
            )

        assert run("-n", 7).exit_code == 0
        assert lines()[1] == "Played are the first 6 variations of each sound; the folder has all."
        monkeypatch.setattr(page, "ROWS", 1)
        assert run("-n", 7).exit_code == 0
        assert lines()[1].startswith("Played are the first 1 of 2 rows and the first 6")

    def test_a_sound_that_was_moved_is_the_same(self, run, tmp_path):
        assert run("-n", 1, "--no-page").exit_code == 0
        (tmp_path / "in/dog.wav").rename(tmp_path / "dog.wav")
        again = run(tmp_path / "dog.wav", "-n", 1, "--no-page")
        assert again.exit_code == 0 and "2 of them made before" in again.output
        sounds = {c["class"]: c["sound"] for c in read_json(tmp_path / "out/generation.json")["clips"]}
        assert sounds["dog"] == (tmp_path / "dog.wav").as_posix()

    def test_a_file_tells_what_it_is_of(self, run, tmp_path):
        assert run("-n", 1, "--no-page", "--class", "rain").exit_code == 0
        with soundfile.SoundFile(tmp_path / "out/door/door_000.wav") as clip:
            assert clip.comment.startswith(
                "variation of door.wav at strength 0.5: This is a sound of rain. (clip 0, "
            )

    def test_names_that_are_no_text(self, run, tmp_path, sound):
        write_wave(tmp_path / "in/caf\udce9.wav", sound[::-1], RATE)
        write_wave(tmp_path / "in/sub/door.wav", sound[::-1], RATE)
        assert run("-n", 1).exit_code == 0
        rows = {row["file"]: row["sound"] for row in csv.DictReader((tmp_path / "out/variations.csv").open())}
        assert rows["caf_xe9/caf_xe9_000.wav"] == "caf\\xe9.wav"
        html = (tmp_path / "out/listen/index.html").read_text(encoding="utf-8")
        heads = re.findall(r'<th scope="row">(.*?)</th>', html)
        assert "caf\\xe9.wav, strength 0.5" in heads
        # two of one name by their folders
        assert {head for head in heads if "door" in head} == {
            f"{tmp_path.as_posix()}/in/{name}, strength 0.5" for name in ("door.wav", "sub/door.wav")
        }

    def test_a_long_sound_that_begins_in_silence_is_named_before_any_is_varied(
        self, run, tmp_path, sound, tiny
    ):
        write_wave(tmp_path / "in/late.wav", np.pad(sound, (tiny.samples, 0)), RATE)
        assert re.search(r"late.wav: its first [\d.]+ s are silent", str(run("-n", 1).exception))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("format", ["wav", "ogg", "mp3", "opus"])
    def test_a_sound_of_two_samples(self, run, tmp_path, format):
        write_wave(tmp_path / "in/tick.wav", np.array([0.5, -0.5]), RATE)
        done = run("-n", 1, "--format", format)
        assert done.exit_code == 0, done.exception

    def test_clips_are_finished_as_asked(self, run, tmp_path):
        done = run("-n", 1, "--fade", 10, "--sampling-rate", 48000, "--format", "flac", "--no-page")
        assert done.exit_code == 0, done.output
        wave, sr = read_wave(tmp_path / "out/door/door_000.flac")
        assert sr == 48000 and abs(wave[0, 0]) < 1e-3 and abs(wave[0, -1]) < 1e-2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--prompt", "a", "--class", "rain"), "give --prompt or --class, one of the two"),
            (("--class", "cow"), "--class: .*cow"),
            (("--prompt", " "), "--prompt needs words"),
            (("-n", 0), "-n 0: at least 1"),
            (("--strength", 2), "--strength 2: it lies above 0"),
            (("--fade", 200), "door: --fade 200: two fades of it are longer than a clip of 0.1875 s"),
            (("--format", "mp3", "--sampling-rate", 96000), "mp3 knows"),
            (("--seconds", 0), "--seconds 0: give a length above 0"),
            (("--seconds", 20), "--seconds 20: the model's clips have "),
            (("--loop", 150), "door: --loop 150: blends longer than half of a clip of 0.1875 s"),
            (("--loop", 50, "--format", "mp3"), "--loop: mp3 puts silence"),
            (("--loop", 50, "--fade", 5), "--fade and --loop"),
        ],
    )
    def test_a_mistake_is_one_line_and_leaves_nothing(self, run, tmp_path, arguments, message):
        done = run(*arguments)
        assert isinstance(done.exception, InputError) and re.search(message, str(done.exception))
        assert not (tmp_path / "out").exists()

    def test_a_system_without_clap_asks_for_a_text(self, run, tmp_path, tiny, monkeypatch):
        monkeypatch.setattr(command, "load_system", lambda model, device: replace(tiny, clap=None))
        assert "give a text, --prompt or --class" in str(run("-n", 1).exception)
        assert run("-n", 1, "--class", "rain", "--no-page").exit_code == 0
        rows = list(csv.DictReader((tmp_path / "out/variations.csv").open()))
        assert [row["similarity"] for row in rows] == ["", ""]
