"""The Fréchet distance, its statistics files, and its uncertainty."""

import importlib.util
import itertools
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from latentclap import fad, stats
from latentclap.errors import InputError
from latentclap.fad import (
    ClipEmbeddings,
    GaussianStats,
    StreamingMoments,
    fad_infinity,
    fad_with_ci,
    frechet_distance,
    load_stats,
    save_stats,
)
from latentclap.fad.intervals import percentile_interval
from latentclap.provenance import CORE, _sources


def random_gaussian(rng, d=6, rank=None):
    a = rng.standard_normal((d, rank or d))
    return rng.standard_normal(d), a @ a.T


def clips(rng, n, d=5, windows=7, scale=1.0, shift=0.0):
    """Clips whose windows are correlated: a clip part and a window part."""
    parts = rng.standard_normal((n, 1, d)) + 0.6 * rng.standard_normal((n, windows, d))
    return ClipEmbeddings.from_clips(list(parts * scale + shift))


class TestDistance:
    def test_diagonal_gaussians_have_a_closed_form(self):
        mu_a, mu_b = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
        s_a, s_b = np.array([4.0, 0.25, 1.0]), np.array([1.0, 2.25, 9.0])
        expected = ((mu_a - mu_b) ** 2).sum() + ((np.sqrt(s_a) - np.sqrt(s_b)) ** 2).sum()
        assert frechet_distance(mu_a, np.diag(s_a), mu_b, np.diag(s_b)) == pytest.approx(expected, rel=1e-12)

    def test_rotation_changes_nothing(self, rng):
        (mu_a, s_a), (mu_b, s_b) = random_gaussian(rng), random_gaussian(rng)
        q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
        turned = frechet_distance(q @ mu_a, q @ s_a @ q.T, q @ mu_b, q @ s_b @ q.T)
        assert turned == pytest.approx(frechet_distance(mu_a, s_a, mu_b, s_b), rel=1e-10)

    def test_translation_adds_its_square(self, rng):
        mu, sigma = random_gaussian(rng)
        step = rng.standard_normal(6)
        assert frechet_distance(mu, sigma, mu + step, sigma) == pytest.approx(step @ step, abs=1e-10)

    def test_zero_for_itself_and_symmetric(self, rng):
        (mu_a, s_a), (mu_b, s_b) = random_gaussian(rng), random_gaussian(rng)
        assert frechet_distance(mu_a, s_a, mu_a, s_a) == pytest.approx(0, abs=1e-10)
        ab, ba = frechet_distance(mu_a, s_a, mu_b, s_b), frechet_distance(mu_b, s_b, mu_a, s_a)
        assert ab == pytest.approx(ba, rel=1e-12) and ab > 0

    def test_one_dimension(self):
        assert frechet_distance([3.0], [[4.0]], [1.0], [[9.0]]) == pytest.approx(4 + 1)

    def test_rank_deficient_is_exact(self, rng):
        # on orthogonal subspaces the cross term is zero; on the same subspace it reduces to that subspace
        q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
        a, b = q[:, :3], q[:, 3:7]
        s_a, s_b = a @ a.T, 2 * b @ b.T
        zero = np.zeros(40)
        assert frechet_distance(zero, s_a, zero, s_b) == pytest.approx(3 + 8, abs=1e-6)
        small_a, small_b = random_gaussian(rng, 3)[1], random_gaussian(rng, 3)[1]
        inside = frechet_distance(zero, a @ small_a @ a.T, zero, a @ small_b @ a.T)
        assert inside == pytest.approx(frechet_distance(np.zeros(3), small_a, np.zeros(3), small_b), abs=1e-8)

    def test_agrees_with_the_matrix_square_root(self, rng):
        from scipy.linalg import sqrtm

        (mu_a, s_a), (mu_b, s_b) = random_gaussian(rng), random_gaussian(rng)
        cross = np.trace(sqrtm(s_a @ s_b)).real
        expected = ((mu_a - mu_b) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross
        assert frechet_distance(mu_a, s_a, mu_b, s_b) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(
        ("mu", "sigma", "says"),
        [
            (np.zeros(3), np.eye(2), "expected"),
            (np.zeros((1, 2)), np.eye(2), "expected"),
            (np.zeros(0), np.zeros((0, 0)), "expected"),
            (np.array([0.0, np.nan]), np.eye(2), "NaN"),
            (np.zeros(2), np.array([[1.0, np.inf], [np.inf, 1.0]]), "NaN or infinity"),
            (np.zeros(2), np.array([[1.0, 0.5], [0.1, 1.0]]), "not symmetric"),
            (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semi-definite"),
            (np.zeros(2), -np.eye(2), "positive semi-definite"),
            (np.zeros(4), np.eye(4), "different dimension"),
        ],
    )
    def test_bad_input_is_one_line(self, mu, sigma, says):
        with pytest.raises(InputError, match=says) as caught:
            frechet_distance(mu, sigma, np.zeros(2), np.eye(2))
        assert "\n" not in str(caught.value)


def test_a_covariance_a_thousandth_off_is_refused_and_rounding_is_not():
    """Of float32 files: an eigenvalue below zero by 1e-7 of the largest, and halves that differ as little."""
    zero = np.zeros(2)
    with pytest.raises(InputError, match="positive semi-definite"):
        frechet_distance(zero, np.diag([1.0, -1e-3]), zero, np.eye(2))
    assert frechet_distance(zero, np.diag([1.0, -1e-7]), zero, np.eye(2)) == pytest.approx(1, abs=1e-6)
    off = np.array([[1.0, 0.5], [0.5 + 5e-6, 1.0]])
    same, turned = (frechet_distance(zero, sigma, zero, np.diag([3.0, 1.0])) for sigma in (off, off.T))
    assert same == pytest.approx(turned, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_what_is_no_covariance_does_not_depend_on_the_units(unit):
    """An embedding of values of a thousandth has variances of a millionth, and its faults are as small."""
    zero, square = np.zeros(2), unit**2
    with pytest.raises(InputError, match="not symmetric"):
        frechet_distance(zero, square * np.array([[1.0, 0.5], [0.1, 1.0]]), zero, square * np.eye(2))
    with pytest.raises(InputError, match="positive semi-definite"):
        frechet_distance(zero, square * np.diag([1.0, -1e-3]), zero, square * np.eye(2))
    off = square * np.array([[1.0, 0.0], [1e-7, 1.0]]), square * np.diag([1.0, -1e-7])
    for sigma, expected in zip(off, (0, 1), strict=True):
        assert frechet_distance(zero, sigma, zero, square * np.eye(2)) == pytest.approx(
            square * expected, abs=square * 1e-6
        )


def test_a_direction_a_hundred_thousand_times_quieter_overlaps():
    """Closed form of diagonals: (1 - 1)^2 + (1 - 1e-5)^2, where a direction taken for rounding would leave 1."""
    found = frechet_distance(np.zeros(2), np.diag([1.0, 1e-10]), np.zeros(2), np.eye(2))
    assert found == pytest.approx((1 - 1e-5) ** 2, rel=1e-9)


def test_rounding_makes_no_distance_negative(rng):
    """Of a Gaussian to itself it comes out at some -1e-13 every other time."""
    some = [random_gaussian(rng, 12) for _ in range(20)]
    assert min(frechet_distance(*gaussian, *gaussian) for gaussian in some) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("dog_bark", "footstep", 14.37),
        ("dog_bark", "gunshot", 19.78),
        ("dog_bark", "moving_motor_vehicle", 49.12),
        ("footstep", "keyboard", 8.68),
        ("keyboard", "sneeze_cough", 10.01),
        ("moving_motor_vehicle", "sneeze_cough", 63.62),
        ("rain", "moving_motor_vehicle", 29.75),
    ],
)
def test_organisers_statistics(shared_data, a, b, expected):
    """Distances between the organisers' class references, computed independently from their files."""
    stats = load_stats(shared_data / "dcase_eval_vggish_stats.npz")
    assert stats[a].n == 1000 and stats[a].mu.shape == (128,)
    assert round(stats[a].distance(stats[b]), 2) == expected
    assert stats[b].distance(stats[a]) == pytest.approx(stats[a].distance(stats[b]), rel=1e-9)


class TestStatistics:
    def test_from_embeddings_is_numpy_cov(self, rng):
        x = rng.standard_normal((50, 4)) * [1, 2, 3, 4] + 5
        stats = GaussianStats.from_embeddings(x)
        np.testing.assert_allclose(stats.mu, x.mean(0))
        np.testing.assert_allclose(stats.sigma, np.cov(x.T), rtol=1e-12)
        assert stats.n == 50

    def test_streaming_is_the_same_far_from_zero(self, rng):
        x = rng.standard_normal((101, 3)) + 1e6
        moments = StreamingMoments()
        for piece in np.array_split(x, 7):
            moments.update(piece, clips=1)
        stats = moments.stats()
        np.testing.assert_allclose(stats.mu, x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(stats.sigma, np.cov(x.T), rtol=1e-6)
        assert (stats.n, stats.n_clips) == (101, 7)

    def test_clips_are_counted(self, rng):
        stats = GaussianStats.from_embeddings([rng.standard_normal((3, 2)), rng.standard_normal((5, 2))], "x")
        assert (stats.n, stats.n_clips, stats.embedding) == (8, 2, "x")

    def test_one_vector_has_no_covariance(self):
        with pytest.raises(InputError, match="at least 2"):
            GaussianStats.from_embeddings(np.zeros((1, 3)))
        with pytest.raises(InputError, match="NaN"):
            GaussianStats.from_embeddings(np.full((3, 3), np.nan))

    def test_files_of_one_and_of_many(self, rng, tmp_path):
        one = GaussianStats.from_embeddings(rng.standard_normal((20, 3)), "mel-statistics")
        one.save(tmp_path / "one.npz")
        back = GaussianStats.load(tmp_path / "one.npz")
        np.testing.assert_array_equal(back.sigma, one.sigma)
        assert (back.n, back.embedding) == (20, "mel-statistics")
        save_stats(tmp_path / "many.npz", {"rain": one, "dog_bark": one})
        assert sorted(load_stats(tmp_path / "many.npz")) == ["dog_bark", "rain"]
        assert GaussianStats.load(tmp_path / "many.npz", "rain").n == 20
        with pytest.raises(InputError, match="no statistics for 'footstep'"):
            GaussianStats.load(tmp_path / "many.npz", "footstep")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["many.npz", "one.npz"]

    def test_bad_files(self, tmp_path):
        with pytest.raises(InputError, match="no such"):
            load_stats(tmp_path / "absent.npz")
        (tmp_path / "text.npz").write_text("hello")
        with pytest.raises(InputError, match="not a statistics npz"):
            load_stats(tmp_path / "text.npz")
        np.savez(tmp_path / "other.npz", x=np.zeros(2))
        with pytest.raises(InputError, match="no mean"):
            load_stats(tmp_path / "other.npz")
        np.savez(tmp_path / "half.npz", **{"rain/mu": np.zeros(2)})
        with pytest.raises(InputError, match="rain lacks sigma and n"):
            load_stats(tmp_path / "half.npz")
        np.savez(tmp_path / "object.npz", mu=np.array([object()]))
        with pytest.raises(InputError, match="not a statistics npz"):
            load_stats(tmp_path / "object.npz")

    def test_a_write_that_fails_leaves_the_old_statistics(self, rng, tmp_path, monkeypatch):
        one = GaussianStats.from_embeddings(rng.standard_normal((20, 3)))
        one.save(tmp_path / "one.npz")

        def full(stream, **arrays):
            stream.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            GaussianStats.from_embeddings(rng.standard_normal((9, 3))).save(tmp_path / "one.npz")
        assert GaussianStats.load(tmp_path / "one.npz").n == 20
        assert [p.name for p in tmp_path.iterdir()] == ["one.npz"]

    def test_embeddings_do_not_mix(self, rng):
        x = rng.standard_normal((20, 3))
        a, b = GaussianStats.from_embeddings(x, "judge"), GaussianStats.from_embeddings(x, "mel-statistics")
        with pytest.raises(InputError, match="not comparable"):
            a.distance(b)


class TestInterval:
    def test_draws_are_fads_of_resampled_clips(self, rng):
        gen, ref = clips(rng, 9), clips(rng, 12, shift=0.5)
        estimate = fad_with_ci(gen, ref, n_boot=20, resample_reference=True, seed=3)
        twin = np.random.default_rng(3)
        w_gen, w_ref = (
            fad.uncertainty._multiplicities(twin, 20, 9),
            fad.uncertainty._multiplicities(twin, 20, 12),
        )

        def resampled(side, weights):
            pieces = np.split(side.values, np.cumsum(side.counts)[:-1])
            return ClipEmbeddings.from_clips(
                [p for p, w in zip(pieces, weights.astype(int), strict=True) for _ in range(w)]
            ).stats()

        for i in (0, 7, 19):
            expected = resampled(gen, w_gen[i]).distance(resampled(ref, w_ref[i]))
            assert estimate.draws[i] == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("beside", [0, 32])
    def test_a_draw_takes_clips_whole_whatever_their_length(self, rng, monkeypatch, beside):
        """By sums of each clip's products, and by rows."""
        monkeypatch.setattr(fad.uncertainty, "ROWS_BESIDE", beside)
        pieces = [rng.standard_normal((windows, 3)) for windows in (5, 1, 3, 9, 2)]
        zero, eye = np.zeros(3), np.eye(3)
        found = fad_with_ci(ClipEmbeddings.from_clips(pieces), GaussianStats(zero, eye, 99), n_boot=6, seed=4)
        drawn = fad.uncertainty._multiplicities(np.random.default_rng(4), 6, 5).astype(int)
        for value, weights in zip(found.draws, drawn, strict=True):
            x = np.concatenate([piece for piece, n in zip(pieces, weights, strict=True) for _ in range(n)])
            assert value == pytest.approx(frechet_distance(x.mean(0), np.cov(x.T), zero, eye), rel=1e-9)

    def test_draws_beyond_what_memory_holds_at_once_are_made_too(self, rng):
        """A thousand draws of VGGish's 128 dimensions come in parts of 244: here two parts, the last of six."""
        x = rng.standard_normal((3, 50, 128))
        ref = GaussianStats(np.zeros(128), np.eye(128), 999)
        found = fad_with_ci(ClipEmbeddings.from_clips(list(x)), ref, n_boot=250, seed=5)
        twin = np.random.default_rng(5)
        last = [fad.uncertainty._multiplicities(twin, size, 3) for size in (244, 6)][1][-1].astype(int)
        rows = np.repeat(x, last, axis=0).reshape(-1, 128)
        expected = frechet_distance(rows.mean(0), np.cov(rows.T), ref.mu, ref.sigma)
        assert found.draws.shape == (250,) and found.draws[-1] == pytest.approx(expected, rel=1e-9)

    def test_by_default_a_thousand_draws_and_95_percent(self, rng):
        e = fad_with_ci(clips(rng, 5, d=2), GaussianStats(np.zeros(2), np.eye(2), 99))
        low, high = np.percentile(e.draws, [2.5, 97.5]) - e.bootstrap_bias
        assert (e.draws.size, e.level, e.method) == (1000, 0.95, "centred")
        assert (e.ci_low, e.ci_high) == pytest.approx((max(0, low), high))

    def test_one_clip_has_a_distance_of_its_windows_without_draws(self, rng):
        x = rng.standard_normal((30, 3))
        found = fad_with_ci(
            ClipEmbeddings.from_clips([x]), GaussianStats(np.zeros(3), np.eye(3), 9), n_boot=0
        )
        expected = frechet_distance(x.mean(0), np.cov(x.T), np.zeros(3), np.eye(3))
        assert found.fad == pytest.approx(expected) and np.isnan(found.ci_low) and found.n_clips == 1

    def test_few_clips_in_many_dimensions(self, rng):
        """The reduced problem (span of the generated clips) gives the same draws as the full one."""
        gen = ClipEmbeddings.from_clips([rng.standard_normal((1, 60)) for _ in range(8)])
        ref = ClipEmbeddings.from_clips([rng.standard_normal((1, 60)) for _ in range(30)])
        estimate = fad_with_ci(gen, ref, n_boot=6, seed=1)
        weights = fad.uncertainty._multiplicities(np.random.default_rng(1), 6, 8)
        repeated = np.repeat(gen.values, weights[2].astype(int), axis=0)
        expected = GaussianStats.from_embeddings(repeated).distance(ref.stats())
        assert estimate.draws[2] == pytest.approx(expected, rel=1e-8)

    def test_many_dimensions_take_no_product_of_each_clip(self, rng, monkeypatch):
        """One vector a clip: its product of rank one took 3 MB of CLAP's 512 dimensions, for every clip."""
        gen, ref = clips(rng, 160, d=128, windows=1), clips(rng, 150, d=128, windows=1)
        tracemalloc.start()
        try:
            draws = fad_with_ci(gen, ref, n_boot=4, resample_reference=True).draws
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 160 * 128**2 * 8 / 2
        monkeypatch.setattr(fad.uncertainty, "ROWS_BESIDE", 128)
        kept = fad_with_ci(gen, ref, n_boot=4, resample_reference=True).draws
        np.testing.assert_allclose(draws, kept, rtol=1e-10)

    def test_one_reference_clip_has_no_interval(self):
        """It was redrawn without end: there is no other to draw."""
        rng = np.random.default_rng(0)
        gen, one = clips(rng, 4), clips(rng, 1)
        with pytest.raises(InputError, match="1 reference clip: an interval over clips needs at least 2"):
            fad_with_ci(gen, one, n_boot=10, resample_reference=True)
        assert fad_with_ci(gen, one, n_boot=10).draws.size == 10  # not drawn anew, as statistics are not

    def test_deterministic_by_seed(self, rng):
        gen, ref = clips(rng, 10), clips(rng, 10)
        a, b = fad_with_ci(gen, ref, n_boot=50, seed=1), fad_with_ci(gen, ref, n_boot=50, seed=1)
        np.testing.assert_array_equal(a.draws, b.draws)
        assert not np.array_equal(a.draws, fad_with_ci(gen, ref, n_boot=50, seed=2).draws)

    def test_an_interval_over_two_clips_has_a_width_and_covers(self):
        """Without draws of one clip twice, all draws were the same, and the interval the estimate itself."""
        rng = np.random.default_rng(3)
        expected = np.mean(
            [clips(rng, 2, shift=1).stats().distance(clips(rng, 2).stats()) for _ in range(200)]
        )
        found = [
            fad_with_ci(clips(rng, 2, shift=1), clips(rng, 2), n_boot=100, resample_reference=True, seed=i)
            for i in range(40)
        ]
        assert all(e.ci_low < e.fad < e.ci_high for e in found)
        assert sum(e.ci_low <= expected <= e.ci_high for e in found) >= 22  # of 40; it was 0

    def test_centred_interval_covers_the_expected_fad_and_percentile_does_not(self):
        rng = np.random.default_rng(5)
        ref = GaussianStats(np.zeros(8), np.eye(8), 1000)
        draw = lambda: clips(rng, 20, d=8, shift=0.4)  # noqa: E731
        expected = np.mean([draw().stats().distance(ref) for _ in range(300)])
        hits = {"centred": 0, "percentile": 0}
        for i in range(60):
            side = draw()
            for method in hits:
                e = fad_with_ci(side, ref, n_boot=150, method=method, seed=i)
                hits[method] += e.ci_low <= expected <= e.ci_high
        assert hits["centred"] >= 51  # 85% of 60: chance alone would not bring a 95% interval below it
        assert hits["percentile"] < hits["centred"]

    def test_interval_shrinks_with_clips_and_bias_is_upward(self, rng):
        ref = GaussianStats(np.zeros(5), 1.36 * np.eye(5), 1000)
        few = fad_with_ci(clips(rng, 10, shift=1), ref, n_boot=200)
        many = fad_with_ci(clips(rng, 160, shift=1), ref, n_boot=200)
        assert many.ci_high - many.ci_low < few.ci_high - few.ci_low
        assert few.bootstrap_bias > many.bootstrap_bias > 0
        assert few.ci_low <= few.fad <= few.ci_high

    def test_the_interval_is_numpy_s_percentiles_moved_by_the_mean(self, rng):
        gen, ref = clips(rng, 12, shift=0.7), clips(rng, 12)
        for method in ("centred", "percentile"):
            e = fad_with_ci(gen, ref, n_boot=99, level=0.8, method=method)
            bias = e.draws.sum() / 99 - e.fad
            low, high = np.percentile(e.draws, [10, 90]) - (bias if method == "centred" else 0)
            assert (e.bootstrap_bias, e.ci_low, e.ci_high) == pytest.approx((bias, low, high), rel=1e-9)
            assert abs(np.median(e.draws) - e.draws.mean()) > 1e-4

    def test_no_interval_reaches_below_zero(self, rng):
        """A set against itself: the distance is 0, and all draws lie above it."""
        gen = clips(rng, 12)
        e = fad_with_ci(gen, gen, n_boot=50)
        assert e.fad == pytest.approx(0, abs=1e-9) and e.ci_low == 0 < e.ci_high
        few = [clips(np.random.default_rng(k), 3) for k in range(9)]  # a draw in five is the set itself
        assert min(fad_with_ci(three, three, n_boot=20).draws.min() for three in few) == 0

    def test_statistics_without_a_name_go_with_any(self, rng):
        gen = ClipEmbeddings.from_clips(list(rng.standard_normal((9, 4, 3))), "judge")
        plain = GaussianStats(np.zeros(3), np.eye(3), 100)
        expected = frechet_distance(gen.values.mean(0), np.cov(gen.values.T), np.zeros(3), np.eye(3))
        assert fad_with_ci(gen, plain, n_boot=0).fad == pytest.approx(expected, rel=1e-9)
        assert plain.distance(gen.stats()) == pytest.approx(expected, rel=1e-9)

    def test_sizes_are_those_of_both_sides(self, rng):
        e = fad_with_ci(clips(rng, 4, windows=3), clips(rng, 5, windows=2), n_boot=0)
        assert (e.n_clips, e.n_windows, e.n_ref_clips, e.n_ref_windows) == (4, 12, 5, 10)

    def test_no_resample_is_of_one_clip_alone(self):
        """A ninth of all draws of three clips is one of them three times, which has no spread between clips."""
        drawn = fad.uncertainty._multiplicities(np.random.default_rng(0), 100, 3)
        assert (drawn.max(1) < 3).all() and (drawn.sum(1) == 3).all()

    def test_draws_hear_the_quietest_direction(self, rng):
        """Clips that differ by 1e-4 where others differ by 1 overlap with the reference there too."""
        gen = np.zeros((4, 1, 20))
        gen[:, 0, 0], gen[:, 0, 1] = [1, -1, 1, -1], [1e-4, 1e-4, -1e-4, -1e-4]
        gen = ClipEmbeddings.from_clips(list(gen))
        ref = ClipEmbeddings.from_clips(list(rng.standard_normal((60, 1, 20))))
        estimate = fad_with_ci(gen, ref, n_boot=3, seed=1)
        weights = fad.uncertainty._multiplicities(np.random.default_rng(1), 3, 4).astype(int)
        for drawn, weight in zip(estimate.draws, weights, strict=True):
            x = np.repeat(gen.values, weight, axis=0)
            expected = frechet_distance(x.mean(0), np.cov(x.T), ref.values.mean(0), np.cov(ref.values.T))
            assert drawn == pytest.approx(expected, rel=1e-8)

    def test_without_bootstrap_and_bad_options(self, rng):
        gen = clips(rng, 5)
        stats = gen.stats()
        assert np.isnan(fad_with_ci(gen, stats, n_boot=0).ci_low)
        for kw, says in [
            ({"method": "magic"}, "unknown interval"),
            ({"level": 95}, "confidence level"),
            ({"resample_reference": True}, "cannot be resampled"),
        ]:
            with pytest.raises(InputError, match=says):
                fad_with_ci(gen, stats, **kw)
        with pytest.raises(InputError, match="at least 2"):
            fad_with_ci(clips(rng, 1), stats)
        with pytest.raises(InputError, match="no clips"):
            ClipEmbeddings.from_clips([])


class TestInfinity:
    def test_removes_the_bias_of_few_clips(self):
        rng = np.random.default_rng(0)
        ref = GaussianStats(np.zeros(6), 1.36 * np.eye(6), 10_000)
        sets = [clips(rng, 60, d=6) for _ in range(20)]
        plain = np.mean([s.stats().distance(ref) for s in sets])
        extrapolated = np.mean([fad_infinity(s, ref, seed=i).value for i, s in enumerate(sets)])
        assert abs(extrapolated) < plain / 2  # truth: 0

    def test_reports_its_line_and_refuses_few_clips(self, rng):
        ref = GaussianStats(np.zeros(5), np.eye(5), 1000)
        side = clips(rng, 80)
        result = fad_infinity(side, ref)
        assert result.sizes[0] == 20 and result.sizes[-1] == 80 and result.slope > 0
        assert result.fads[-1] == pytest.approx(side.stats().distance(ref), rel=1e-9)
        assert fad_infinity(clips(rng, 39), ref) is None
        wide = ClipEmbeddings.from_clips([rng.standard_normal((1, 60)) for _ in range(60)])
        assert fad_infinity(wide, GaussianStats(np.zeros(60), np.eye(60), 1000)) is None

    def test_the_mean_of_eight_subsets_scatters_less_than_one(self, rng):
        side, ref = clips(rng, 40), GaussianStats(np.zeros(5), np.eye(5), 1000)
        ones, eights = (
            np.std([fad_infinity(side, ref, seed=k, **options).fads[0] for k in range(20)])
            for options in ({"repeats": 1}, {})
        )
        assert ones > 1.6 * eights  # about the root of 8

    def test_a_line_by_least_squares_over_sizes_even_in_1_over_n(self, rng):
        """1/20 ... 1/80 in eight steps of 3/560, rounded."""
        result = fad_infinity(clips(rng, 80, shift=0.2), GaussianStats(np.zeros(5), np.eye(5), 1000))
        assert result.sizes == (20, 22, 25, 29, 35, 43, 56, 80)
        line = scipy.stats.linregress(1 / np.array(result.sizes), result.fads)
        told = (result.value, result.slope, result.r2)
        assert told == pytest.approx((line.intercept, line.slope, line.rvalue**2), rel=1e-6)

    def test_options_that_are_not_given_are_eight_sizes_of_eight_subsets(self, rng):
        side, ref = clips(rng, 40), GaussianStats(np.zeros(5), np.eye(5), 1000)
        assert fad_infinity(side, ref) == fad_infinity(side, ref, points=8, repeats=8, min_clips=40, seed=0)

    def test_refuses_statistics_of_another_embedding(self, rng):
        side = ClipEmbeddings.from_clips(list(rng.standard_normal((40, 1, 3))), "judge")
        with pytest.raises(InputError, match="'judge' and 'mel-statistics' are not comparable"):
            fad_infinity(side, GaussianStats(np.zeros(3), np.eye(3), 99, embedding="mel-statistics"))

    def test_a_level_line_is_fitted_fully(self):
        """Silence again and again: every subset is as far away, and there is no spread that r2 could divide by."""
        side = ClipEmbeddings.from_clips(list(np.zeros((40, 1, 2))))
        found = fad_infinity(side, GaussianStats(np.ones(2), np.eye(2), 99))
        assert (found.value, found.slope) == pytest.approx((4, 0), abs=1e-9) and found.r2 == 1

    @pytest.mark.parametrize(
        ("clips", "dimensions", "enough"), [(40, 10, False), (40, 9, True), (39, 2, False)]
    )
    def test_the_smallest_subset_has_more_windows_than_dimensions(self, rng, clips, dimensions, enough):
        """A quarter of 40 clips of one window are ten."""
        side = ClipEmbeddings.from_clips(list(rng.standard_normal((clips, 1, dimensions))))
        ref = GaussianStats(np.zeros(dimensions), np.eye(dimensions), 1000)
        assert (fad_infinity(side, ref) is not None) == enough


@pytest.fixture
def rng():
    return np.random.default_rng(42)


# --- data_scripts/convert_dcase_stats.py -------------------------------------------------------------------


@pytest.fixture(scope="module")
def converter(repo_root):
    path = repo_root / "data_scripts" / "convert_dcase_stats.py"
    spec = importlib.util.spec_from_file_location("convert_dcase_stats", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def varint(value):
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def message(tag, packed):
    inner = b"\x0a" + varint(len(packed)) + packed
    return bytes([tag]) + varint(len(inner)) + inner


def feature_pickle(values):
    """A pickle as TensorFlow would write it: a global named as its Feature, state {"serialized": bytes}."""
    import types

    names = [
        "tensorflow",
        "tensorflow.core",
        "tensorflow.core.example",
        "tensorflow.core.example.feature_pb2",
    ]
    modules = {name: types.ModuleType(name) for name in names}
    for parent, child in itertools.pairwise(names):
        setattr(modules[parent], child.rpartition(".")[2], modules[child])

    class Feature:
        def __setstate__(self, state):
            self.state = state

        def __getstate__(self):
            return {"serialized": self.serialized}

    Feature.__module__, Feature.__qualname__ = names[-1], "Feature"
    modules[names[-1]].Feature = Feature
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        record = {}
        for key, serialized in values.items():
            record[key] = Feature()
            record[key].serialized = serialized
        return pickle.dumps(record, protocol=4)
    finally:
        for name, module in kept.items():
            sys.modules.pop(name) if module is None else sys.modules.__setitem__(name, module)


def floats(values):
    values = np.asarray(values, dtype=np.float32).reshape(-1)
    return message(0x12, struct.pack(f"<{values.size}f", *values))


def write_reference(folder, mu, sigma, n=1000):
    folder.mkdir(parents=True)
    (folder / "gt_embedding.pkl").write_bytes(
        feature_pickle(
            {
                "embedding_count": message(0x1A, varint(n)),
                "embedding_length": message(0x1A, varint(len(mu))),
                "mu": floats(mu),
                "sigma": floats(sigma),
            }
        )
    )


def test_converter_reads_features_without_tensorflow(converter, rng, tmp_path, locked):
    mu, sigma = random_gaussian(rng, 130)  # lengths beyond one varint byte
    write_reference(tmp_path / "eval" / "DogBark", mu, sigma)
    write_reference(tmp_path / "eval" / "rain", mu + 1, sigma)
    converter.main(tmp_path / "eval", tmp_path / "stats.npz")
    stats = load_stats(tmp_path / "stats.npz")
    assert sorted(stats) == ["dog_bark", "rain"]
    np.testing.assert_array_equal(stats["dog_bark"].mu, mu.astype(np.float32))
    np.testing.assert_allclose(stats["dog_bark"].sigma, sigma, rtol=1e-6)
    assert (stats["rain"].n, stats["rain"].n_clips, stats["rain"].embedding) == (1000, 100, "vggish-dcase")
    locked(tmp_path / "eval" / "rain")  # one class less, without a word
    with pytest.raises(InputError, match="rain: no permission to read this folder"):
        converter.main(tmp_path / "eval", tmp_path / "stats.npz")


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_converter_executes_nothing(converter, tmp_path, capsys):
    path = tmp_path / "gt_embedding.pkl"
    path.write_bytes(pickle.dumps({"mu": Hostile()}, protocol=4))
    with pytest.raises(InputError, match=r"refused to load builtins\.print"):
        converter.read_gt_embedding(path)
    assert "executed" not in capsys.readouterr().out


def test_converter_bad_files(converter, rng, tmp_path):
    path = tmp_path / "gt_embedding.pkl"
    for content, says in [
        (b"not a pickle", "not a reference"),
        (pickle.dumps([1, 2]), "expected a dict"),
        (
            feature_pickle(
                dict.fromkeys(("embedding_count", "embedding_length", "mu", "sigma"), b"\x08\x01")
            ),
            "fi",
        ),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            converter.read_gt_embedding(path)
    write_reference(tmp_path / "x", np.zeros(3), np.eye(2))
    with pytest.raises(InputError, match="for length 3"):
        converter.read_gt_embedding(tmp_path / "x" / "gt_embedding.pkl")


def test_words_are_no_gaussian():
    with pytest.raises(InputError, match="are no numbers"):
        frechet_distance(np.array(["a"]), np.eye(1), np.zeros(1), np.eye(1))


@pytest.mark.parametrize(
    "n", [np.arange(3), np.asarray("x"), np.asarray(np.nan), np.asarray(-4), np.asarray(2.5)]
)
def test_statistics_with_a_count_that_is_none(tmp_path, n):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3), n=n)
    with pytest.raises(InputError, match=r"a\.npz: n is .*, no number of vectors or clips") as stop:
        load_stats(tmp_path / "a.npz")
    assert "\n" not in str(stop.value)


def test_statistics_that_are_damaged_inside(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(50), sigma=np.eye(50), n=np.asarray(5))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = zipfile.ZipFile(tmp_path / "a.npz").getinfo("sigma.npy").header_offset + 60
    data[place : place + 10] = b"\xff" * 10
    (tmp_path / "a.npz").write_bytes(data)
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    for name in "ab":
        with pytest.raises(InputError, match=rf"{name}\.npz: not a statistics npz"):
            load_stats(tmp_path / f"{name}.npz")


def test_every_interval_is_of_one_function_that_the_code_s_hash_covers():
    """There were four of them, and a fifth outside of what decides whether a figure is measured again."""
    package = Path(fad.__file__).parents[1]
    own = [p for p in package.rglob("*.py") if "np.quantile(" in p.read_text("utf-8")]
    assert [p.relative_to(package).as_posix() for p in own] == ["fad/intervals.py"]
    assert stats.percentile_interval is percentile_interval
    assert own[0] in _sources("fad") and "fad" in CORE
