"""FAD per class from arrays, files, folders and statistics; CLAP similarity."""

import inspect
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import soundfile

from latentclap.embeddings import MelStatistics, VGGish, get_embedding
from latentclap.errors import InputError
from latentclap.evaluate import (
    Change,
    EvalResult,
    clap_similarity,
    clips_in_folder,
    compare_averages,
    embed_clips,
    evaluate,
    prepare_clip,
    with_holm,
)
from latentclap.fad import ClipEmbeddings, FadEstimate, FadInfinity, GaussianStats, fad_infinity, save_stats


def sounds(n, colour, seed, seconds=2.0, sr=16_000):
    """Noise through a one-pole filter of a given colour, with a random level and beat."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        noise = rng.standard_normal(round(seconds * sr))
        spectrum = np.fft.rfft(noise) / (1 + np.arange(noise.size // 2 + 1)) ** colour
        wave = np.fft.irfft(spectrum, noise.size)
        beat = 1 + 0.9 * np.sin(2 * np.pi * rng.uniform(2, 4) * np.arange(noise.size) / sr)
        out.append((0.5 * wave * beat / np.abs(wave * beat).max()).astype(np.float32))
    return out


@pytest.fixture(scope="module")
def sides():
    generated = {"rain": sounds(6, 0.2, 0), "DogBark": sounds(6, 1.0, 1), "keyboard": sounds(5, 0.2, 2)}
    reference = {"dog_bark": sounds(8, 1.0, 3), "rain": sounds(8, 0.2, 4), "keyboard": sounds(8, 1.0, 5)}
    return generated, reference


@pytest.fixture(scope="module")
def result(sides):
    return evaluate(*sides, sr=16_000, n_boot=100)


@pytest.fixture(scope="module")
def embedded():
    """Two classes with the very same clips, as embeddings."""
    values = np.random.default_rng(0).standard_normal((2, 40, 8, 40))
    gen, ref = (ClipEmbeddings.from_clips(list(v), "mel-statistics") for v in values)
    return {"rain": gen, "keyboard": gen}, {"rain": ref, "keyboard": ref}


def test_table(result):
    table = result.table()
    columns = ["class", "fad", "ci_low", "ci_high", "fad_inf", "n_clips", "n_ref", "n_silent", "n_ref_silent"]
    assert list(table.columns) == columns
    assert list(table.n_silent) == list(table.n_ref_silent) == [0, 0, 0]
    assert list(table["class"]) == ["dog_bark", "keyboard", "rain"]  # Table I's order
    assert list(table.n_clips) == [6, 5, 6] and list(table.n_ref) == [8, 8, 8]
    assert ((table.ci_low <= table.fad) & (table.fad <= table.ci_high)).all()
    fads = table.set_index("class").fad
    assert fads["keyboard"] > 5 * max(fads["rain"], fads["dog_bark"])  # wrong colour


def test_average_and_sample_deviation(result):
    fads = result.table().fad.to_numpy()
    assert result.average == pytest.approx(fads.mean())
    assert result.std == pytest.approx(fads.std(ddof=1))
    low, high = result.average_ci
    assert low < result.average < high


def test_name_says_everything(result):
    assert result.name == (
        "FAD[mel-statistics, 16 kHz, peak 1, log-mel 64 x 96 a second, n=5-6 clips a class, ref=8 clips, "
        "95% bootstrap over generated and reference clips (centred, 100 draws)]"
    )


def test_json(result, tmp_path):
    result.save(tmp_path / "fad.json")
    data = json.loads((tmp_path / "fad.json").read_text())
    assert data["average"] == pytest.approx(result.average)
    assert data["classes"]["rain"]["fad_inf"] is None and data["classes"]["rain"]["n_clips"] == 6
    assert data["name"] == result.name and data["settings"]["n_boot"] == 100


def test_deterministic_and_reusable(sides, result):
    embedding = get_embedding("mel-statistics")
    generated = {k: embed_clips(v, embedding, 16_000) for k, v in sides[0].items()}
    again = evaluate(generated, sides[1], embedding, 16_000, 100)
    assert again.to_dict() == result.to_dict()
    assert evaluate(*sides, n_boot=100, seed=9).average_ci != result.average_ci


def test_one_class_without_bootstrap(sides):
    one = evaluate({"rain": sides[0]["rain"]}, sides[1], n_boot=0)
    assert np.isnan(one.std) and one.to_dict()["std"] is None and "no interval" in one.name
    assert one.to_dict()["average_ci"] == [None, None]


def test_statistics_as_reference(sides, tmp_path):
    embedding = get_embedding("mel-statistics")
    stats = {k: embed_clips(v, embedding, 16_000).stats() for k, v in sides[1].items()}
    save_stats(tmp_path / "ref.npz", stats)
    a = evaluate(sides[0], tmp_path / "ref.npz", embedding, n_boot=20)
    b = evaluate(sides[0], stats, embedding, n_boot=20)
    assert a.to_dict() == b.to_dict()
    assert "ref=8 clips" in a.name and "over generated clips" in a.name
    with pytest.raises(InputError, match="made with 'mel-statistics', not 'other'"):
        embedding.name = "other"
        evaluate(sides[0], stats, embedding, n_boot=0)


def write(folder, side, sr=16_000):
    for cls, waves in side.items():
        (folder / cls).mkdir(parents=True)
        for i, wave in enumerate(waves):
            soundfile.write(folder / cls / f"{i:03d}.wav", wave, sr)


def test_folders(sides, result, tmp_path):
    write(tmp_path / "gen", {"rain": sides[0]["rain"]})
    write(tmp_path / "ref", {"Rain": sides[1]["rain"]})
    got = evaluate(tmp_path / "gen", tmp_path / "ref", n_boot=0)
    assert got.estimates["rain"].fad == pytest.approx(result.estimates["rain"].fad, rel=1e-2)
    assert [p.name for p in clips_in_folder(tmp_path / "gen")["rain"]] == [f"{i:03d}.wav" for i in range(6)]


def test_folders_come_in_table_1_s_order(sides, tmp_path):
    waves = sides[0]["rain"]
    write(tmp_path, {name: [waves[i]] for i, name in enumerate(("rain", "Keyboard", "DogBark", "gunshot"))})
    assert list(clips_in_folder(tmp_path)) == ["dog_bark", "gunshot", "keyboard", "rain"]


def test_dev_and_eval_folder_gives_its_eval_side(sides, tmp_path):
    write(tmp_path / "dev", {"rain": sides[0]["rain"]})
    write(tmp_path / "eval", {"rain": sides[1]["rain"][:3]})
    assert len(clips_in_folder(tmp_path)["rain"]) == 3


def test_bad_folder_is_one_line(sides, tmp_path):
    write(tmp_path / "gen", {"rain": sides[0]["rain"]})
    (tmp_path / "gen" / "rain" / "bad.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"1 unreadable.*bad\.wav") as caught:
        evaluate(tmp_path / "gen", sides[1])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        evaluate(tmp_path / "absent", sides[1])


@pytest.mark.parametrize(
    ("generated", "reference", "says"),
    [
        ({}, {"rain": [np.ones(16_000)]}, "generated: expected"),
        ({"rain": []}, {"rain": [np.ones(16_000)]}, "generated rain: no clips"),
        ({"rain": [np.ones(16_000)] * 2}, {"dog_bark": [np.ones(16_000)]}, "reference: nothing|has no rain"),
        ({"rain": [np.full(16_000, np.nan)]}, {"rain": [np.ones(16_000)]}, "generated rain: clip 0: .*NaN"),
        (
            {"rain": [np.ones(16_000)]},
            {"rain": [np.sin(np.arange(32_000))]},
            r"rain: 1 clip: .* at least 2 \(or none: --n-boot 0, in Python n_boot=0\)",
        ),
        (
            {"rain": sounds(2, 0, 0)},
            {"rain": [np.ones(32_000)]},
            "reference: rain: its one clip is silent; real clips need a sound: give others",
        ),
        ({"Zap": [], "zap": []}, {"zap": []}, "generated: Zap and zap are one class, zap: rename"),
    ],
)
def test_bad_sides(generated, reference, says):
    with pytest.raises(InputError, match=says):
        evaluate(generated, reference)


class TestPrepare:
    def test_cut_to_four_seconds_and_first_channel(self):
        embedding = get_embedding("mel-statistics")
        stereo = np.stack([np.ones(163_840), np.zeros(163_840)]).astype(np.float32)
        wave, sr = prepare_clip(stereo, embedding, 16_000)
        assert wave.shape == (64_000,) and sr == 16_000 and wave.min() == 1

    def test_dcase_rule(self, tmp_path):
        embedding = VGGish.__new__(VGGish)
        embedding.mode = "dcase"
        long = np.random.default_rng(0).uniform(-0.5, 0.5, 163_840).astype(np.float32)
        wave, sr = prepare_clip(long, embedding, 16_000)
        assert wave.dtype == np.int16 and wave.shape == (88_200,) and sr == 22_050
        short, _ = prepare_clip(long[:48_000], embedding, 16_000)
        assert (
            short.shape == (88_200,) and (short[66_200:] == 0).all() and (short[:66_000] != 0).mean() > 0.99
        )

    def test_dcase_takes_four_seconds(self):
        """Ten would be four, and two be padded, under a record of ten or two."""
        embedding = VGGish.__new__(VGGish)
        embedding.mode = "dcase"
        for seconds in (2.0, 10.0):
            with pytest.raises(InputError, match=f"seconds={seconds:g}: vggish-dcase takes 4 s"):
                prepare_clip(np.ones(163_840, np.float32), embedding, 16_000, seconds)

    def test_dcase_files_come_back_exactly(self, tmp_path):
        embedding = VGGish.__new__(VGGish)
        embedding.mode = "dcase"
        ints = np.random.default_rng(0).integers(-32768, 32767, 88_200, dtype=np.int16)
        soundfile.write(tmp_path / "a.wav", ints, 22_050)
        wave, _ = prepare_clip(tmp_path / "a.wav", embedding, 0)
        np.testing.assert_array_equal(wave, ints)

    def test_organisers_reference_takes_vggish_only(self, shared_data, sides):
        with pytest.raises(InputError, match="statistics of 128 dimensions, but mel-statistics has 40"):
            evaluate(sides[0], shared_data / "dcase_eval_vggish_stats.npz")

    def test_dcase_pipeline_with_random_weights(self, shared_data, sides):
        got = evaluate(
            {"rain": sides[0]["rain"]}, shared_data / "dcase_eval_vggish_stats.npz", VGGish(None), n_boot=5
        )
        estimate = got.estimates["rain"]
        assert (estimate.n_windows, estimate.n_ref_windows) == (60, 1000) and np.isfinite(estimate.fad)
        assert "vggish-dcase-random" in got.name and "ref=1000 windows" in got.name

    def test_statistics_that_do_not_name_their_embedding(self, sides):
        """Those of VGGish in another mode have as many dimensions, and other distances (facts D1)."""
        ears, (generated, _) = MelStatistics(), sides
        stats = {c: embed_clips(v, ears, 16_000).stats() for c, v in generated.items()}
        named = evaluate(generated, stats, ears, n_boot=0)
        assert "not stated" not in named.name and named.settings["reference_embedding"] == ears.name
        unnamed = evaluate(generated, {c: replace(s, embedding="") for c, s in stats.items()}, ears, n_boot=0)
        assert "clips of an embedding not stated, " in unnamed.text()
        assert unnamed.settings["reference_embedding"] == "not stated"

    def test_of_a_class_whose_statistics_have_no_name_too(self, embedded):
        gen, ref = embedded
        stats = {"rain": ref["rain"].stats(), "keyboard": replace(ref["keyboard"].stats(), embedding="")}
        made = evaluate(gen, stats, n_boot=0, with_infinity=False)
        assert made.settings["reference_embedding"] == "not stated"

    def test_the_first_four_seconds_count(self, sides):
        """Table I's: what comes after them in a clip of ten is not heard."""
        long = [
            np.concatenate([a, a, 0.9 * b])
            for a, b in zip(sides[0]["rain"], sides[0]["DogBark"], strict=True)
        ]
        whole, cut = (evaluate({"rain": x}, sides[1], n_boot=0) for x in (long, [w[:64_000] for w in long]))
        assert whole.average == cut.average and whole.settings["seconds"] == 4
        more = evaluate({"rain": long}, sides[1], n_boot=0, seconds=6)
        assert more.average != whole.average

    def test_samples_of_16_bits_are_rounded_and_do_not_wrap(self):
        """+1 is 32768 / 32768, which 16 bits do not hold: as an integer it would be the lowest sample."""
        embedding = VGGish.__new__(VGGish)
        embedding.mode = "dcase"
        told = np.resize([0.6, -0.6, 0.4, 100.5001, -100.6, 32767.9, 32768, -32768], 88_200) / 32768
        wave, _ = prepare_clip(told, embedding, 22_050)
        assert wave[:8].tolist() == [1, -1, 0, 101, -101, 32767, 32767, -32768]

    def test_integers_at_another_rate_are_refused(self):
        """They would be taken for samples at 22,050 Hz, half an octave higher."""
        embedding = VGGish.__new__(VGGish)
        embedding.mode = "dcase"
        with pytest.raises(InputError, match="integer samples at 16000 Hz; give floats, or 22050 Hz"):
            prepare_clip(np.ones(64_000, np.int16), embedding, 16_000)

    def test_embeddings_made_by_another_are_refused(self, embedded):
        other = replace(embedded[0]["rain"], embedding="judge")
        with pytest.raises(
            InputError, match="clips embedded by 'judge' cannot be evaluated as 'mel-statistics'"
        ):
            evaluate({"rain": other}, embedded[1], n_boot=0)

    def test_a_file_s_first_channel_is_heard(self, tmp_path):
        both = np.stack([np.full(500, 0.25), np.full(500, -0.5)], axis=1)
        soundfile.write(tmp_path / "two.wav", both, 16_000)
        wave, _ = prepare_clip(tmp_path / "two.wav", get_embedding("mel-statistics"), 0)
        assert (wave == 0.25).all()


class Scores:
    """A stand-in for a system: a wave's similarity is its first sample."""

    def similarity(self, waves, texts):
        return np.asarray(waves)[:, 0]


def test_similarity_s_intervals_are_those_of_means():
    """Standard errors: of a class sd / sqrt(n); of the average of two independent ones, half the root of the sum."""
    few, many = np.append(np.zeros(19), 1.0), np.linspace(0, 0.4, 90)
    waves = {"rain": few[:, None], "keyboard": many[:, None]}
    got = clap_similarity(Scores(), waves, n_boot=4000, level=0.9)
    errors = {"rain": few.std() / 20**0.5, "keyboard": many.std() / 90**0.5}
    errors["all"] = np.hypot(errors["rain"], errors["keyboard"]) / 2
    for name, error in errors.items():
        low, high = got.intervals[name]
        # of 20 clips one of which is heard, means are whole twentieths
        assert high - low == pytest.approx(2 * 1.645 * error, rel=0.25 if name == "rain" else 0.07), name
    assert got.average == pytest.approx((0.05 + 0.2) / 2)  # each class counts alike


def test_similarity_s_draws_are_of_the_seed_and_of_each_class_by_itself():
    """Drawn alike, two equal classes would have an average as uncertain as either; by themselves 0.71 as much."""
    waves = np.random.default_rng(0).uniform(size=(30, 1))
    both = {"rain": waves, "keyboard": waves}
    one, same, other = (clap_similarity(Scores(), both, n_boot=2000, seed=seed) for seed in (1, 1, 2))
    assert one.intervals == same.intervals and one.intervals["rain"] != other.intervals["rain"]
    rain, every = (np.ptp(one.intervals[name]) for name in ("rain", "all"))
    assert every / rain == pytest.approx(0.5**0.5, abs=0.06)


class Ears:
    """A stand-in for a system: a wave is near "rain" by its mean and near anything else by its deviation."""

    def similarity(self, waves, texts):
        assert len(waves) == len(texts) <= 4
        audio = np.stack([[w.mean(), w.std()] for w in np.asarray(waves)])
        text = np.array([[1.0, 0.0] if "rain" in t else [0.0, 1.0] for t in texts])
        return (audio * text).sum(1) / np.linalg.norm(audio, axis=1)


def test_similarity():
    constant = np.full((4, 100), 0.3, np.float32)
    square = np.tile(np.array([0.5, -0.5], np.float32), (3, 50))
    got = clap_similarity(Ears(), {"rain": constant, "DogBark": square}, n_boot=50, batch=4)
    np.testing.assert_allclose(got.scores["rain"], 1, atol=1e-6)
    np.testing.assert_allclose(got.scores["dog_bark"], 1, atol=1e-6)
    assert got.average == pytest.approx(1) and got.texts["rain"] == "This is a sound of rain."
    mixed = clap_similarity(Ears(), {"rain": np.concatenate([constant[:3], square])}, n_boot=200, batch=4)
    row = mixed.table().iloc[0]
    assert row.similarity == pytest.approx(0.5, abs=1e-6) and row.ci_low < 0.5 < row.ci_high
    assert json.dumps(mixed.to_dict())


def test_similarity_without_draws_and_with_own_texts():
    clips = {"Rain": np.full((4, 100), 0.3, np.float32)}
    got = clap_similarity(Ears(), clips, texts={"Rain": "rain on a roof"}, n_boot=0, batch=4)
    assert got.average == pytest.approx(1) and got.texts == {"rain": "rain on a roof"}
    assert np.isnan(got.intervals["rain"]).all() and np.isnan(got.intervals["all"]).all()
    made = got.to_dict()
    assert made["average_ci"] == [None, None] and made["classes"]["rain"]["ci_low"] is None


@pytest.mark.parametrize(
    ("clips", "options", "says"),
    [
        ({}, {}, "no classes"),
        ({"rain": []}, {}, "rain has no clips"),
        ({"rain": [np.ones(9), np.ones(8)]}, {}, "clips of rain have different lengths"),
        ({"rain": np.ones((2, 9))}, {"texts": {"DogBark": "a dog"}}, "no text for rain; texts has dog_bark"),
        ({"thunder": np.ones((2, 9))}, {}, "unknown class 'thunder'"),
        ({"rain": np.ones((2, 9))}, {"n_boot": -1}, "n_boot=-1"),
        ({"rain": np.ones((2, 9))}, {"level": 95}, "level=95"),
    ],
)
def test_similarity_refuses(clips, options, says):
    with pytest.raises(InputError, match=says) as caught:
        clap_similarity(Ears(), clips, **options)
    assert "\n" not in str(caught.value)


def estimate(fad, draws, method="centred", level=0.9):
    draws = np.asarray(draws, dtype=float)
    return FadEstimate(fad, 0.0, 0.0, 0.0, 5, 35, 8, 56, level, method, draws)


def test_the_average_s_interval_is_of_averaged_draws():
    """Percentiles of the classes' mean, draw by draw; moved down by the bias, and not below zero."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(6, 1, 200), rng.normal(9, 2, 200)
    low, high = np.percentile((a + b) / 2, [5, 95])
    plain = EvalResult("name", {c: estimate(4, d, "percentile") for c, d in (("rain", a), ("keyboard", b))})
    assert plain.average_ci == pytest.approx((low, high))
    bias = ((a + b) / 2).mean() - 4
    centred = EvalResult("name", {c: estimate(4, d) for c, d in (("rain", a), ("keyboard", b))})
    assert centred.average_ci == pytest.approx((low - bias, high - bias))
    near = EvalResult("name", {"rain": estimate(0.1, a)})
    assert near.average_ci == pytest.approx((0, np.percentile(a, 95) - a.mean() + 0.1))


def test_every_figure_is_in_its_place_in_record_and_text():
    """Two classes, one with clips and a FAD-inf, one against statistics that do not say their clips."""
    rain = FadEstimate(2.0, 1.5, 2.75, 0.25, 5, 35, 8, 56, 0.9, "percentile", np.array([1.0, 2, 4]))
    keyboard = FadEstimate(6.0, 5.5, 6.25, 0.125, 4, 28, 0, 900, 0.9, "percentile", np.array([5.0, 6, 8]))
    result = EvalResult(
        "name",
        {"rain": rain, "keyboard": keyboard},
        {"rain": FadInfinity(1.25, 9.0, 0.75, (2, 5), (3.0, 2.0)), "keyboard": None},
        silent={"rain": 0, "keyboard": 0},
        silent_ref={"rain": 2, "keyboard": None},
    )
    told = result.to_dict()
    assert told["classes"]["rain"] == {
        **{"fad": 2.0, "ci": [1.5, 2.75], "bootstrap_bias": 0.25, "fad_inf": 1.25, "fad_inf_r2": 0.75},
        **{"n_clips": 5, "n_windows": 35, "n_ref_clips": 8, "n_ref_windows": 56},
        **{"n_silent": 0, "n_ref_silent": 2},
    }
    other = told["classes"]["keyboard"]
    assert (other["n_ref_clips"], other["n_ref_windows"], other["fad_inf"]) == (None, 900, None)
    assert (told["average"], told["std"]) == pytest.approx((4.0, 8**0.5))
    # the classes' draws average to 3, 4, 6, whose 5% and 95% lie at a tenth of the first and of the last step
    assert told["average_ci"] == pytest.approx([3.1, 5.8])
    rows = {line[:22].strip(): line[22:].split() for line in result.text().splitlines()}
    assert rows["rain"] == ["2.000", "1.500", "2.750", "1.250", "5", "8"]
    assert rows["keyboard"] == ["6.000", "5.500", "6.250", "-", "4", "-"]
    assert rows["average"] == ["4.000", "3.100", "5.800"] and rows["std. over classes"] == ["2.828"]
    assert result.silence() == ["silent reference clips are measured like any other: rain 2 of 8"]
    assert result.table().n_ref_silent.isna().tolist() == [False, True] and other["n_ref_silent"] is None
    failing = replace(result, silent={"rain": 0, "keyboard": 3}, silent_ref={})
    rows = {line[:22].strip(): line[22:].split() for line in failing.text().splitlines()}
    assert (rows["class"][-1], rows["rain"][-1], rows["keyboard"][-1]) == ("silent", "0", "3")
    assert failing.silence() == ["silent generated clips are measured like any other: keyboard 3 of 4"]


def test_a_long_name_shifts_no_row():
    names = ["rain", "a_class_with_a_name_of_more_than_22_letters"]
    made = EvalResult("name", {name: estimate(2, [1, 2, 3]) for name in names}, silent={"rain": 1})
    lines = made.text().splitlines()[:-1]
    wide = len(names[1])
    assert [line[:wide].rstrip() for line in lines] == ["class", *names, "average", "std. over classes"]
    assert {len(line) for line in lines[:3]} == {wide + 61} and lines[1][wide : wide + 9] == "    2.000"
    assert lines[3].index("2.000") == lines[2].index("2.000") == wide + 4


def test_what_published_figures_were_made_with():
    """Not one of these may change without a word: Table I's seconds, its interval, and how it is drawn."""
    told = {name: p.default for name, p in inspect.signature(evaluate).parameters.items()}
    assert (told["embedding"], told["sr"], told["n_boot"], told["seed"]) == (
        "mel-statistics",
        16_000,
        1000,
        0,
    )
    assert (told["seconds"], told["level"], told["method"]) == (4.0, 0.95, "centred")
    assert told["resample_reference"] is None and told["with_infinity"] is True
    similar = {name: p.default for name, p in inspect.signature(clap_similarity).parameters.items()}
    assert (similar["n_boot"], similar["level"], similar["seed"]) == (1000, 0.95, 0)
    assert inspect.signature(embed_clips).parameters["seconds"].default == 4.0


def test_a_class_of_the_reference_that_nobody_made_is_not_looked_at(embedded):
    """Nor embedded, which takes as long as the others, nor found wanting."""
    gen, ref = ({"rain": side["rain"]} for side in embedded)
    plain = evaluate(gen, ref, n_boot=0)
    assert evaluate(gen, {"gunshot": [], **ref}, n_boot=0).to_dict() == plain.to_dict()


def test_statistics_of_another_dimension_are_named_before_anything_is_computed(embedded):
    with pytest.raises(InputError, match="rain: statistics of 128 dimensions, but mel-statistics has 40"):
        evaluate({"rain": embedded[0]["rain"]}, {"rain": GaussianStats(np.zeros(128), np.eye(128), 1000)})


def test_classes_are_resampled_independently_and_references_too(embedded):
    made = evaluate(*embedded, n_boot=9, with_infinity=False)
    rain, keyboard = made.estimates["rain"].draws, made.estimates["keyboard"].draws
    assert not np.isclose(rain, keyboard).any()
    for both, resampled in ((True, True), (False, False)):
        told = evaluate(*embedded, n_boot=9, with_infinity=False, resample_reference=both)
        assert np.array_equal(told.estimates["rain"].draws, rain) == resampled


def test_fad_infinity_is_of_the_seed(embedded):
    gen, ref = (side["rain"] for side in embedded)
    for seed in (0, 5):
        made = evaluate({"rain": gen}, {"rain": ref}, n_boot=0, seed=seed).infinities["rain"]
        assert made == fad_infinity(gen, ref.stats(), seed=seed)
    assert made != fad_infinity(gen, ref.stats(), seed=0)


def test_a_copy_is_a_fault_of_a_generator_alone(sides, tmp_path):
    """It makes a set look less varied than it was drawn; of a reference it is left out."""
    one, two, *_ = sides[0]["rain"]
    write(tmp_path / "copied", {"rain": [one, two, one]})
    write(tmp_path / "plain", {"rain": [one, two]})
    with pytest.raises(InputError, match="duplicate"):
        evaluate(tmp_path / "copied", tmp_path / "plain", n_boot=0)
    assert evaluate(tmp_path / "plain", tmp_path / "copied", n_boot=0).average == pytest.approx(0, abs=1e-9)


def test_what_has_no_draws_is_not_compared_and_one_clip_s_similarity_has_no_interval(embedded):
    """One of no width was printed, as if it were certain."""
    rng = np.random.default_rng(0)
    gen, ref = embedded
    two = ClipEmbeddings.from_clips(list(rng.standard_normal((2, 8, 40))), "mel-statistics")
    few, many = (evaluate({**gen, "rain": two}, ref, n_boot=n, with_infinity=False) for n in (0, 9))
    rain = few.estimates["rain"]
    assert np.isnan([rain.ci_low, rain.ci_high, rain.bootstrap_bias, *few.average_ci]).all()
    assert few.to_dict()["classes"]["rain"]["ci"] == [None, None] and rain.fad > 0
    assert compare_averages([few], [many]).verdict == "no test possible"
    by_two = evaluate(gen, {**ref, "rain": two}, n_boot=9, with_infinity=False).estimates["rain"]
    assert by_two.ci_low < by_two.fad < by_two.ci_high
    heard = clap_similarity(
        Scores(), {"rain": np.ones((1, 9)), "keyboard": rng.uniform(size=(9, 2))}, n_boot=9
    )
    assert np.isnan([*heard.intervals["rain"], *heard.intervals["all"]]).all()
    assert np.isfinite(heard.intervals["keyboard"]).all() and heard.scores["rain"] == 1


def test_p_of_a_hundred_draws_is_never_0_and_alpha_itself_no_finding():
    draws = np.linspace(-1, 1, 99)
    before, after = (EvalResult("name", {"rain": estimate(f, f + d)}) for f, d in ((4, draws), (9, -draws)))
    assert compare_averages([before], [after]).p == 1 / 100
    assert Change(1.0, 0.0, 2.0, 0.05).verdict == "no difference beyond the noise"
    assert Change(-1.0, -2.0, 0.0, 0.0499).verdict == "a lower FAD"


def test_p_counts_noise_on_both_sides_about_its_mean():
    """Of -3 three times and 1 nine times, about a change of 2: three of twelve draws are as far, all of them below.

    The draws' own bias of 1.5 is no part of it.
    """
    noise = np.array([-3.0] * 3 + [1.0] * 9)
    before = EvalResult("name", {"rain": estimate(4, np.full(12, 4.0))})
    for change in (2, -2):
        after = EvalResult("name", {"rain": estimate(4 + change, 4 + change + noise + 1.5)})
        found = compare_averages([before], [after])
        assert found.p == pytest.approx((1 + 3) / (1 + 12))
        assert (found.low, found.high) == pytest.approx((change - 3, change + 1))


def test_what_counts_is_of_the_interval_s_level():
    """p = 4/13 is a finding at 60%, not at 95%; of two trainings too, whose changes of 1 and 3 have t = 2."""
    noise = np.array([-3.0] * 3 + [1.0] * 9)
    one, other = (EvalResult("name", {"rain": estimate(f, f + d)}) for f, d in ((4, 0 * noise), (6, noise)))
    more = [EvalResult("name", {"rain": estimate(f, [])}) for f in (4, 5, 5, 8)]
    for a, b in (([one], [other]), (more[:2], more[2:])):
        assert compare_averages(a, b).verdict == "no difference beyond the noise"
        wider = compare_averages(a, b, level=0.6)
        assert wider.verdict == "a higher FAD" and wider.alpha == pytest.approx(0.4)


def test_two_averages_are_compared_draw_by_draw():
    def result(shift):
        spread = np.linspace(-1, 1, 101)
        one = SimpleNamespace(fad=4.0 + shift, draws=4.0 + shift + spread)
        other = SimpleNamespace(fad=6.0 + shift, draws=6.0 + shift + 0.5 * spread)
        return EvalResult("name", {"rain": one, "gunshot": other})

    # the same draws on both sides: the difference is known exactly
    worse = compare_averages([result(0.0)], [result(0.5)])
    assert (worse.value, worse.low, worse.high) == pytest.approx((0.5, 0.5, 0.5))
    assert worse.verdict == "a higher FAD" and worse.trainings == 1
    assert compare_averages([result(0.5)], [result(0.0)]).verdict == "a lower FAD"
    assert compare_averages([result(0.0)], [result(0.0)]).verdict == "no difference beyond the noise"
    undrawn = EvalResult("name", {"rain": SimpleNamespace(fad=1.0, draws=np.empty(0))})
    assert np.isnan(compare_averages([undrawn], [undrawn]).p)


def test_trainings_are_the_sample_where_there_are_several():
    """Student's t over the changes within seeds: bootstrap draws of each training have no part in it."""

    def result(fad):
        return EvalResult(
            "name", {"rain": SimpleNamespace(fad=fad, draws=fad + np.linspace(-1e-6, 1e-6, 99))}
        )

    before, after = [result(x) for x in (4.0, 5.0, 6.0)], [result(x) for x in (4.1, 5.8, 6.3)]
    made = compare_averages(before, after)
    expected = scipy.stats.ttest_1samp([0.1, 0.8, 0.3], 0.0)
    assert (made.value, made.p, made.trainings) == pytest.approx((0.4, expected.pvalue, 3))
    assert (made.low, made.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert made.verdict == "no difference beyond the noise"  # of each single training it would be one
    assert all(
        compare_averages([a], [b]).verdict == "a higher FAD" for a, b in zip(before, after, strict=True)
    )
    with pytest.raises(InputError, match="3 and 2 results"):
        compare_averages(before, after[:2])


@pytest.mark.parametrize("change", [0.3, 0.0])
def test_a_training_given_twice_tests_nothing(change):
    """It had p = 0 and an interval of no width."""

    def result(fad):
        return EvalResult("name", {"rain": SimpleNamespace(fad=fad, draws=np.empty(0))})

    made = compare_averages([result(4.1)] * 3, [result(4.1 + change)] * 3)
    assert made.value == pytest.approx(change) and made.trainings == 3
    assert np.isnan([made.low, made.high, made.p]).all() and made.verdict == "no test possible"
    # among others, too, where the test would count it for two
    three = compare_averages([result(x) for x in (4.0, 5.0, 4.0)], [result(x) for x in (4.1, 5.8, 4.1)])
    assert three.trainings == 3 and np.isnan([three.low, three.high, three.p]).all()
    for one, other in (((4.0, 4.0, 4.2), (4.1, 4.4, 4.9)), ((4.1, 4.4, 4.9), (4.0, 4.2, 4.2))):
        assert np.isnan(compare_averages([result(x) for x in one], [result(x) for x in other]).p)
    before, after = [result(x) for x in (4.0, 5.0)], [result(x) for x in (4.1, 5.8)]
    assert compare_averages(before, after, seeds=[0, 1]) == compare_averages(before, after)
    with pytest.raises(InputError, match="seed 1 comes twice"):
        compare_averages(before, after, seeds=[1, 1])
    with pytest.raises(InputError, match="3 seeds for 2 results"):
        compare_averages(before, after, seeds=[0, 1, 2])


def test_verdicts_are_corrected_for_their_number():
    few = [Change(1.0, 0.2, 1.8, p) for p in (0.01, 0.03, 0.04)]
    assert [c.verdict for c in few] == ["a higher FAD"] * 3
    assert [c.p for c in with_holm(few)] == pytest.approx([0.03, 0.06, 0.06])
    assert [c.verdict for c in with_holm(few)] == ["a higher FAD", *["no difference beyond the noise"] * 2]
    assert np.isnan(with_holm([Change(1.0, 0, 2, float("nan"))])[0].p)
