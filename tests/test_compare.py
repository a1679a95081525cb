"""Systems beside each other: KAD, precision and coverage, copies, their table, and ``latentclap compare``."""

import inspect
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image
from scipy.stats import t as student
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from latentclap import cli, comparing
from latentclap.audio import write_wave
from latentclap.compare import (
    Comparison,
    Scores,
    clip_kernel,
    clip_rows,
    data_copying,
    expected_coverage,
    kernel_distance,
    manifold,
    median_distance,
    score,
    verdict,
)
from latentclap.compare import kernel as kernels
from latentclap.compare.manifold import NEIGHBOURS, clip_vectors, radii
from latentclap.compare.notes import _same_sounds
from latentclap.compare.run import Run
from latentclap.embeddings import get_embedding
from latentclap.errors import InputError
from latentclap.evaluate import embed_clips, evaluate
from latentclap.evaluate.folders import clips_in_folder, named_as
from latentclap.fad import ClipEmbeddings, GaussianStats, frechet_distance, save_stats

RATE = 16_000


def embedded(rng, n, d=4, windows=1, shift=0.0, name=""):
    """Clips of correlated windows, each of another number of them where there are several."""
    clips = []
    for i in range(n):
        count = windows if windows == 1 else 1 + i % windows
        clips.append(shift + rng.standard_normal((1, d)) + 0.5 * rng.standard_normal((count, d)))
    return ClipEmbeddings.from_clips(clips, name)


def flat(values, name=""):
    return ClipEmbeddings.from_clips([np.atleast_2d(v) for v in np.asarray(values, float)], name)


def windows_of(clips):
    return np.split(clips.values, np.cumsum(clips.counts)[:-1])


def by_hand(a, b, s):
    """Mean kernel of two clips over pairs of their windows."""
    return np.mean([math.exp(-((x - y) @ (x - y)) / (2 * s * s)) for x in a for y in b])


def mmd(generated, reference, s):
    """The unbiased estimate, pair by pair; a clip that comes again is no pair with itself."""

    def within(indices, parts):
        return np.mean([by_hand(parts[i], parts[j], s) for i in indices for j in indices if i != j])

    (i, g), (j, r) = generated, reference
    return 100 * (within(i, g) + within(j, r) - 2 * np.mean([by_hand(g[a], r[b], s) for a in i for b in j]))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- KAD --------------------------------------------------------------------------------------------------------


class TestKernelDistance:
    @pytest.mark.parametrize("windows", [1, 3])
    def test_is_the_mean_over_pairs_of_different_clips(self, rng, windows):
        g, r = embedded(rng, 6, windows=windows, shift=0.4), embedded(rng, 8, windows=windows)
        found = kernel_distance(g, r, n_boot=0)
        s = median_distance(r)
        assert (found.bandwidth, found.n_clips, found.n_ref_clips) == (s, 6, 8)
        expected = mmd((range(6), windows_of(g)), (range(8), windows_of(r)), s)
        assert found.kad == pytest.approx(expected, rel=1e-9)
        assert found.parts.mean() == pytest.approx(found.kad, rel=1e-12) and found.parts.shape == (6,)
        assert np.isnan([found.ci_low, found.ci_high, found.p]).all() and found.draws.size == 0

    def test_a_clip_s_part_is_of_its_own_pairs(self, rng):
        g, r = embedded(rng, 5, windows=2, shift=0.4), embedded(rng, 6, windows=2)
        found = kernel_distance(g, r, n_boot=0)
        ours, real, s = windows_of(g), windows_of(r), found.bandwidth
        among_real = np.mean([by_hand(a, b, s) for i, a in enumerate(real) for b in real[:i]])
        for i, x in enumerate(ours):
            among = np.mean([by_hand(x, y, s) for j, y in enumerate(ours) if j != i])
            across = np.mean([by_hand(x, y, s) for y in real])
            assert found.parts[i] == pytest.approx(100 * (among + among_real - 2 * across), rel=1e-9)

    def test_the_kernel_keeps_small_distances_far_from_the_origin(self, rng):
        a = flat(1e4 + rng.standard_normal((5, 3)))
        expected = np.exp(-((a.values[:, None] - a.values[None]) ** 2).sum(2) / 2)
        assert clip_kernel(a, a, 1.0) == pytest.approx(expected, abs=1e-9)

    def test_the_kernel_does_not_depend_on_the_rows_taken_at_once(self, rng, monkeypatch):
        a, b = embedded(rng, 9, windows=3), embedded(rng, 7, windows=3)
        whole = clip_kernel(a, b, 1.3)
        monkeypatch.setattr(kernels, "ROWS", 4)
        assert clip_kernel(a, b, 1.3) == pytest.approx(whole, rel=1e-12)

    def test_has_no_bias_where_fad_has(self, rng):
        kads, fads = [], []
        for _ in range(300):
            g, r = flat(rng.standard_normal((6, 3))), flat(rng.standard_normal((6, 3)))
            kads.append(mean_embedding_kad(g, r))
            a, b = g.stats(), r.stats()
            fads.append(frechet_distance(a.mu, a.sigma, b.mu, b.sigma))
        error = np.std(kads, ddof=1) / math.sqrt(len(kads))
        assert abs(np.mean(kads)) < 3 * error
        assert np.mean(fads) > 10 * np.std(fads, ddof=1) / math.sqrt(len(fads))

    def test_a_draw_is_that_of_the_drawn_clips_without_pairs_of_copies(self, rng):
        g, r = embedded(rng, 5, windows=2, shift=0.5), embedded(rng, 6, windows=2)
        found = kernel_distance(g, r, n_boot=7, seed=3)
        ours, theirs, _ = np.random.default_rng(3).spawn(3)
        w = ours.multinomial(5, np.full(5, 1 / 5), size=7)
        v = theirs.multinomial(6, np.full(6, 1 / 6), size=7)
        drawn = [copies(x, windows_of(g)) + copies(y, windows_of(r)) for x, y in zip(w, v, strict=True)]
        s = found.bandwidth
        expected = []
        for i, ours_, j, theirs_ in drawn:
            value = 2 * np.mean([by_hand(ours_[a], theirs_[b], s) for a in i for b in j])
            expected.append(100 * (pairs(i, ours_, s) + pairs(j, theirs_, s) - value))
        assert found.draws - found.draws.mean() == pytest.approx(np.array(expected) - np.mean(expected))
        assert found.draws.mean() == pytest.approx(found.kad)

    def test_systems_of_one_seed_see_the_same_reference_clips(self, rng):
        r = flat(rng.standard_normal((9, 3)))
        apart = r.values + 100.0  # so far away that a draw is the reference's and the side's own alone
        a = kernel_distance(flat(apart), r, n_boot=50, seed=1)
        b = kernel_distance(flat(apart[:, ::-1]), r, n_boot=50, seed=1)
        assert a.draws == pytest.approx(b.draws)
        more = flat(np.concatenate([np.full((5, 3), 300.0), np.full((5, 3), -300.0)]))
        c = kernel_distance(more, r, n_boot=50, seed=1)
        own = kernels._resample(np.random.default_rng(1).spawn(3)[0], 50, 10)
        alone = 100 * kernels._pairs(clip_kernel(more, more, r_s := median_distance(r)), own)
        theirs = kernels._resample(np.random.default_rng(1).spawn(3)[1], 50, 9)
        ref = 100 * kernels._pairs(clip_kernel(r, r, r_s), theirs)
        assert c.draws - c.draws.mean() == pytest.approx(alone + ref - (alone + ref).mean())

    def test_no_resample_is_of_one_clip_alone(self):
        """A ninth of all draws of three clips is one of them three times, which has no pairs."""
        drawn = kernels._resample(np.random.default_rng(0), 200, 3)
        assert (drawn.max(1) < 3).all() and (drawn.sum(1) == 3).all()

    def test_of_two_clips_there_is_no_interval_but_a_test(self, rng):
        found = kernel_distance(
            flat(rng.standard_normal((2, 3))), flat(rng.standard_normal((9, 3))), n_boot=20
        )
        assert math.isnan(found.ci_low) and found.draws.size == 0 and 0 < found.p <= 1

    def test_the_interval_may_lie_below_zero(self, rng):
        values = rng.standard_normal((12, 3))
        found = kernel_distance(flat(values + 1e-3), flat(values), n_boot=100)
        assert found.ci_low < found.kad < 0

    def test_p_is_uniform_of_one_distribution_and_small_of_two(self, rng):
        null = [
            kernel_distance(
                flat(rng.standard_normal((6, 2))), flat(rng.standard_normal((10, 2))), n_boot=39
            ).p
            for _ in range(200)
        ]
        # 40 deals: p is a multiple of 1/40, and at most 5% of trials reach 0.05
        assert 0.0 < np.mean(np.array(null) <= 0.05) < 0.1
        assert 0.4 < np.mean(null) < 0.6
        far = kernel_distance(
            flat(rng.standard_normal((12, 2)) + 2), flat(rng.standard_normal((12, 2))), n_boot=99
        )
        assert far.p == pytest.approx(0.01)

    def test_the_test_s_bandwidth_is_of_both_sides(self, rng):
        g, r = flat(rng.standard_normal((8, 3)) * 0.1), flat(rng.standard_normal((8, 3)))
        one, other = (kernels._test(a, b, 400, np.random.default_rng(0), 0) for a, b in ((g, r), (r, g)))
        assert one == pytest.approx(other, abs=0.05)

    def test_one_sound_again_and_again_is_told_apart(self, rng):
        found = kernel_distance(flat(np.zeros((30, 3))), flat(rng.standard_normal((6, 3))), n_boot=99)
        assert found.kad > 0 and found.p == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("n", "m", "options", "says"),
        [
            (1, 4, {}, "1 generated clip: KAD looks at pairs"),
            (4, 1, {}, "1 reference clip: KAD looks at pairs"),
            (4, 4, {"n_boot": -1}, "n_boot=-1"),
            (4, 4, {"level": 1.0}, "level=1.0"),
        ],
    )
    def test_refuses(self, rng, n, m, options, says):
        with pytest.raises(InputError, match=says):
            kernel_distance(embedded(rng, n), embedded(rng, m), **options)

    def test_refuses_other_embeddings_and_silence(self, rng):
        with pytest.raises(InputError, match="not comparable"):
            kernel_distance(embedded(rng, 4, name="clap"), embedded(rng, 4, name="judge"))
        with pytest.raises(InputError, match="copies, or silent"):
            kernel_distance(embedded(rng, 4), flat(np.zeros((4, 4))))


def mean_embedding_kad(g, r):
    """As `kernel_distance`, at one bandwidth, so that nothing but the pairs is estimated."""
    k_gg, k_rr, k_gr = clip_kernel(g, g, 2.0), clip_kernel(r, r, 2.0), clip_kernel(g, r, 2.0)
    n, m = np.ones((1, len(g))), np.ones((1, len(r)))
    return 100 * float(
        (kernels._pairs(k_gg, n) + kernels._pairs(k_rr, m) - 2 * kernels._between(k_gr, n, m))[0]
    )


def copies(counts, parts):
    return ([i for i, count in enumerate(counts) for _ in range(count)], parts)


def pairs(indices, parts, s):
    return np.mean([by_hand(parts[i], parts[j], s) for i in indices for j in indices if i != j])


class TestMedianDistance:
    def test_leaves_out_pairs_of_one_clip(self):
        clips = ClipEmbeddings.from_clips([np.zeros((50, 1)), np.ones((5, 1)), np.full((20, 1), 3.0)])
        # 250 pairs at 1, 1000 at 3 and 100 at 2; 1225 + 10 + 190 within a clip at 0 are none
        assert median_distance(clips) == 3.0

    def test_of_many_windows_some_are_drawn(self, rng, monkeypatch):
        clips = embedded(rng, 60, windows=9)
        whole = median_distance(clips)
        monkeypatch.setattr(kernels, "MEDIAN_OF", 80)
        assert whole != median_distance(clips) == pytest.approx(whole, rel=0.15)
        assert median_distance(clips, seed=1) != median_distance(clips, seed=2)

    def test_refuses(self):
        with pytest.raises(InputError, match="at least 2"):
            median_distance(flat(np.zeros((1, 2))))
        with pytest.raises(InputError, match="same embedding"):
            median_distance(flat(np.zeros((3, 2))))


# --- precision, coverage, copies --------------------------------------------------------------------------------


class TestManifold:
    @pytest.mark.parametrize("k", [1, 3])
    def test_as_counted_one_by_one(self, rng, k):
        g, r = rng.standard_normal((9, 2)) + 0.7, rng.standard_normal((11, 2))

        def radius(points, i):
            return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

        def inside(x, points):
            return [np.linalg.norm(x - p) <= radius(points, i) for i, p in enumerate(points)]

        hits = np.array([inside(x, r) for x in g])
        found = manifold(flat(g), flat(r), k)
        assert found.precision == np.mean(hits.any(1)) and found.coverage == np.mean(hits.any(0))
        assert found.density == pytest.approx(hits.sum() / len(g) / k)
        assert found.recall == np.mean([any(inside(x, g)) for x in r])
        assert found.precision_ci[0] <= found.precision <= found.precision_ci[1]
        assert found.neighbours == k

    @pytest.mark.parametrize(("level", "z"), [(0.95, 1.959964), (0.9, 1.644854)])
    def test_precision_s_interval_is_wilson_s(self, level, z):
        """Two of eight clips lie in the ball of a real one, which reach 1; written out as Wilson did."""
        made = flat([[0.5], [8.5], *([100.0 + i] for i in range(6))])
        found = manifold(made, flat([[0.0], [1.0], [8.0], [9.0]]), 1, level=level)
        p, n = 0.25, 8
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
        assert found.precision == p and found.coverage == 1.0
        assert found.precision_ci == pytest.approx(expected, rel=1e-5)

    def test_a_clip_has_as_many_windows_as_it_has(self):
        """Means of clips of unequal length: 1, 4, 8."""
        clips = ClipEmbeddings.from_clips([np.array([[0.0], [2.0]]), np.array([[4.0]]), np.full((3, 1), 8.0)])
        assert clip_vectors(clips)[:, 0].tolist() == [1, 4, 8]

    def test_several_windows_are_their_mean(self):
        clips = ClipEmbeddings.from_clips([np.array([[i - 1.0], [i + 1.0]]) for i in range(4)])
        assert manifold(clips, flat([[0.0], [1], [2], [3]]), 1).precision == 1.0

    def test_one_sound_again_and_again_is_precise_and_covers_little(self, rng):
        r = rng.standard_normal((60, 2))
        collapsed = manifold(flat(np.tile(r[:1], (60, 1))), flat(r))
        honest = manifold(flat(rng.standard_normal((60, 2))), flat(r))
        assert collapsed.precision == 1.0 and collapsed.coverage < 0.3 < 0.9 < honest.coverage
        assert honest.precision > 0.9

    def test_far_away_is_nothing(self, rng):
        found = manifold(flat(rng.standard_normal((8, 2)) + 99), flat(rng.standard_normal((8, 2))))
        assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)

    def test_expected_coverage_is_what_real_clips_reach(self, rng):
        n, m, k = 7, 9, 2
        found = [
            manifold(flat(rng.standard_normal((n, 2))), flat(rng.standard_normal((m, 2))), k).coverage
            for _ in range(400)
        ]
        error = np.std(found, ddof=1) / math.sqrt(len(found))
        assert abs(np.mean(found) - expected_coverage(n, m, k)) < 3 * error

    def test_rows_taken_at_once_change_nothing(self, rng, monkeypatch):
        vectors = rng.standard_normal((10, 2))
        whole = radii(vectors, 3)
        # the package has a function of the module's name
        monkeypatch.setattr(sys.modules["latentclap.compare.manifold"], "ROWS", 4)
        assert (radii(vectors, 3) == whole).all()

    def test_refuses(self, rng):
        few, many = embedded(rng, 5), embedded(rng, 6)
        with pytest.raises(InputError, match=r"5 clips .* 5 neighbours; .*--neighbours 4\)"):
            manifold(few, many)
        with pytest.raises(
            InputError, match=r"1 clip has too few fellows for 5 neighbours; give more than 5 clips$"
        ):
            manifold(embedded(rng, 1), many)
        with pytest.raises(InputError, match="0 neighbours"):
            manifold(few, many, 0)
        with pytest.raises(InputError, match="not comparable"):
            manifold(replace(many, embedding="a"), replace(many, embedding="b"))


class TestCopying:
    def test_copies_are_found_and_honest_clips_are_not(self, rng):
        training, held_out = rng.standard_normal((40, 3)), rng.standard_normal((20, 3))
        honest = data_copying(flat(rng.standard_normal((20, 3))), flat(held_out), flat(training))
        assert 0.3 < honest.nearer < 0.7 and honest.p > 0.05
        copied = data_copying(
            flat(training[10:30] + 0.01 * rng.standard_normal((20, 3))), flat(held_out), flat(training)
        )
        assert copied.nearer > 0.9 and copied.p < 1e-4 and copied.n_training == 40
        assert list(copied.nearest) == list(range(10, 30)) and copied.distances.max() < 0.1

    def test_p_is_of_copying_alone(self):
        """Three clips nearer than three real ones are 1 of 20 orders; three further are no copies at all."""
        near, far = flat([[1.0], [2.0], [3.0]]), flat([[4.0], [5.0], [6.0]])
        assert data_copying(near, far, flat([[0.0]])).p == pytest.approx(1 / 20)
        assert data_copying(far, near, flat([[0.0]])).p == pytest.approx(1)

    def test_it_is_the_nearest_training_clip_that_counts(self):
        """Mean distances would tell the other way: 5 and 5.5 of the generated clips, 5 and 5 of the real ones."""
        training = flat([[0.0], [10.0]])
        found = data_copying(flat([[0.0], [10.5]]), flat([[4.0], [5.0]]), training)
        assert found.nearer == 1 and found.distances.tolist() == [0, 0.5] and list(found.nearest) == [0, 1]

    def test_ties_count_half(self):
        training = flat([[0.0]])
        found = data_copying(flat([[1.0], [2.0]]), flat([[1.0], [3.0]]), training)
        # (1, 1) a tie, (1, 3) nearer, (2, 1) not, (2, 3) nearer
        assert found.nearer == 2.5 / 4
        same = data_copying(flat([[1.0], [1.0]]), flat([[1.0], [1.0]]), training)
        assert same.nearer == 0.5 and not same.p < 0.5

    def test_refuses_other_embeddings(self, rng):
        clips = embedded(rng, 3, name="a")
        other = replace(clips, embedding="b")
        for sides in ((clips, clips, other), (clips, other, clips), (other, clips, clips)):
            with pytest.raises(InputError, match="not comparable"):
                data_copying(*sides)


# --- clips ------------------------------------------------------------------------------------------------------


def test_oddness_is_the_share_of_real_clips_that_lie_nearer_to_their_own():
    real = flat([[0.0], [1.0], [3.0], [7.0]])  # nearest fellows at 1, 1, 2, 4
    generated = flat([[0.5], [5.0], [9.5], [100.0]])  # nearest at 0.5, 2, 2.5, 93
    kernel = kernel_distance(generated, real, n_boot=0)
    copying = data_copying(generated, real, flat([[9.0], [0.0]]))
    rows = clip_rows(
        *(generated, real, ["a", "b", "c", "d"], ["p", "q", "r", "s"]),
        neighbours=1,
        kernel=kernel,
        copying=copying,
        training_names=["t", "u"],
        similarity=np.array([0.1, 0.2, 0.3, 0.4]),
    )
    assert list(rows["oddness"]) == [0.0, 0.5, 0.75, 1.0]
    assert list(rows["distance"]) == [0.5, 2.0, 2.5, 93.0] == list(rows["nearest_distance"])
    assert list(rows["nearest"]) == ["p", "r", "s", "s"] and list(rows["file"]) == ["a", "b", "c", "d"]
    assert list(rows["nearest_training"]) == ["u", "t", "t", "t"]
    assert list(rows["training_index"]) == [1, 0, 0, 0] and rows["training_distance"][0] == 0.5
    assert rows["kad_part"].mean() == pytest.approx(kernel.kad) and rows["similarity"][3] == 0.4
    mixed = replace(kernel, parts=np.array([3.0, 1.0, 4.0, 2.0]))
    rows = clip_rows(generated, real, list("abcd"), list("pqrs"), neighbours=1, kernel=mixed)
    assert list(rows["kad_part"]) == [3, 1, 4, 2]


def sound(path, seed, seconds=0.4, colour=1.0):
    """Noise of a colour that is the seed's too."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(round(seconds * RATE)))
    spectrum /= (1 + np.arange(len(spectrum))) ** (colour * rng.uniform(0.3, 1.0))
    wave = np.fft.irfft(spectrum, round(seconds * RATE))
    write_wave(path, (0.5 * wave / np.abs(wave).max()).astype(np.float32), RATE)


def sounds(folder, classes, n, seed, **options):
    for c, cls in enumerate(classes):
        for i in range(n):
            sound(folder / cls / f"{i:02d}.wav", 1000 * seed + 100 * c + i, **options)
    return folder


# --- several systems --------------------------------------------------------------------------------------------

MEL = get_embedding("mel-statistics")


def side(seed, shift=0.0, n=8, classes=("rain", "keyboard")):
    rng = np.random.default_rng(seed)
    return {cls: embedded(rng, n, d=MEL.dim, windows=2, shift=shift, name=MEL.name) for cls in classes}


@pytest.fixture(scope="module")
def scores():
    """Three systems of one training each, and one of three."""
    real, known = side(0), side(9)
    options = {"n_boot": 60, "training": known}
    one = {
        name: [score(side(i, shift), real, MEL, **options)]
        for i, (name, shift) in enumerate({"a": 0.0, "b": 2.0, "c": 0.05}.items(), 1)
    }
    options["n_boot"] = 10
    many = {
        name: [score(side(i + 10 * j, shift), real, MEL, **options) for j in range(3)]
        for i, (name, shift) in enumerate({"a": 0.0, "b": 2.0}.items(), 20)
    }
    return one, many


class TestComparison:
    def test_summary_of_one_training(self, scores):
        comparison = Comparison(scores[0])
        rows = comparison.summary().set_index("system")
        assert list(rows.index) == ["a", "b", "c"] and (rows["trainings"] == 1).all()
        a = scores[0]["a"][0]
        assert rows["kad"]["a"] == pytest.approx(np.mean([k.kad for k in a.kernel.values()]))
        assert rows["fad"]["a"] == a.fad.average
        assert (rows["fad_low"]["a"], rows["fad_high"]["a"]) == a.fad.average_ci
        draws = np.mean([k.draws for k in a.kernel.values()], axis=0)
        assert (rows["kad_low"]["a"], rows["kad_high"]["a"]) == pytest.approx(
            tuple(np.quantile(draws, [0.025, 0.975]))
        )
        assert rows["kad_low"]["a"] < 0
        assert rows["precision"]["a"] == np.mean([m.precision for m in a.manifolds.values()])
        assert rows["nearer_training"]["a"] == np.mean([c.nearer for c in a.copying.values()])
        assert rows["n_clips"]["a"] == 16 and math.isnan(rows["similarity"]["a"])

    def test_changes_are_paired_draws_and_holm_s(self, scores):
        changes = Comparison(scores[0]).changes()
        assert list(changes) == ["FAD", "KAD"] and list(changes["KAD"]) == ["b", "c"]
        alone = Comparison({k: scores[0][k] for k in "ab"}).changes()["KAD"]["b"]
        other = Comparison({k: scores[0][k] for k in "ac"}).changes()["KAD"]["c"]
        both = changes["KAD"]
        assert both["b"].value == alone.value > 0 and (both["b"].low, both["b"].high) == (
            alone.low,
            alone.high,
        )
        low, high = sorted([alone.p, other.p])
        assert min(both["b"].p, both["c"].p) == pytest.approx(min(1, 2 * low))
        assert max(both["b"].p, both["c"].p) == pytest.approx(max(2 * low, high))
        a, b = ([k.draws for k in scores[0][name][0].kernel.values()] for name in "ab")
        noise = np.mean(b, axis=0) - np.mean(a, axis=0)
        low, high = np.quantile(noise - noise.mean(), [0.025, 0.975]) + alone.value
        assert (alone.low, alone.high) == pytest.approx((low, high))

    def test_shares_are_tested_over_trainings(self, scores):
        """Of one training nothing tells how far a share would differ in another."""
        assert set(Comparison(scores[0]).changes()) == {"FAD", "KAD"}
        changes = Comparison(scores[1]).changes()
        assert set(changes) == {"FAD", "KAD", "precision", "coverage"}
        a, b = ([s.classes()["coverage"].mean() for s in scores[1][name]] for name in "ab")
        told = ttest_rel(b, a)
        change = changes["coverage"]["b"]
        assert change.value == pytest.approx(np.mean(np.subtract(b, a))) and change.value < 0
        assert change.p == pytest.approx(told.pvalue)
        assert (change.low, change.high) == pytest.approx(tuple(told.confidence_interval()))
        assert verdict(change, "coverage") == "a lower coverage"

    def test_levels_are_those_asked_for(self, scores):
        changes = Comparison(scores[1], level=0.8).changes()
        a, b = ([s.mean("coverage") for s in scores[1][name]] for name in "ab")
        told = ttest_rel(b, a).confidence_interval(0.8)
        assert (changes["coverage"]["b"].low, changes["coverage"]["b"].high) == pytest.approx(tuple(told))
        assert [c["b"].alpha for c in changes.values()] == pytest.approx([0.2] * 4)

    def test_shares_of_three_systems_are_corrected_by_holm(self, scores):
        a, b = scores[1]["a"], scores[1]["b"]
        three = {"a": a, "b": b, "c": [b[1], b[2], b[0]]}
        values = {name: [s.mean("coverage") for s in trainings] for name, trainings in three.items()}
        raw = [ttest_rel(values[name], values["a"]).pvalue for name in "bc"]
        found = [Comparison(three).changes()["coverage"][name].p for name in "bc"]
        assert sorted(found) == pytest.approx(sorted([2 * min(raw), max(2 * min(raw), max(raw))]))

    def test_figures_of_several_trainings_are_their_means(self, scores):
        comparison = Comparison(scores[1])
        row = comparison.summary().set_index("system").loc["a"]
        for name in ("precision", "recall", "density", "coverage"):
            every = [getattr(m, name) for s in scores[1]["a"] for m in s.manifolds.values()]
            assert row[name] == pytest.approx(np.mean(every)) != pytest.approx(np.mean(every[:2])), name
        fads = [e.fad for s in scores[1]["a"] for e in s.fad.estimates.values()]
        assert row["fad"] == pytest.approx(np.mean(fads))
        assert row["n_clips"] == 3 * 16
        assert list(comparison.table()["training"]) == [1, 1, 2, 2, 3, 3] * 2

    def test_a_class_without_a_similarity_leaves_no_mean(self):
        """That of the others would be taken for the system's."""
        found = score(side(1), side(0), MEL, n_boot=0, similarity={"rain": np.array([0.5, 0.7])})
        assert math.isnan(found.mean("similarity")) and found.classes()["similarity"][1] == pytest.approx(0.6)

    def test_a_training_given_twice_is_no_second_one(self, scores):
        a, b = scores[1]["a"], scores[1]["b"]
        changes = Comparison({"a": [a[0], a[0]], "b": b[:2]}).changes()
        assert all(math.isnan(change["b"].p) and math.isnan(change["b"].low) for change in changes.values())

    def test_several_trainings_are_student_s(self, scores):
        comparison = Comparison(scores[1])
        rows = comparison.summary().set_index("system")
        assert math.isnan(rows["fad_low"]["a"]) and math.isnan(rows["kad_high"]["b"])
        averages = {name: [s.kad.average for s in trainings] for name, trainings in scores[1].items()}
        assert rows["kad"]["a"] == pytest.approx(np.mean(averages["a"]))
        change = comparison.changes()["KAD"]["b"]
        steps = np.subtract(averages["b"], averages["a"])
        half = student.ppf(0.975, 2) * steps.std(ddof=1) / math.sqrt(3)
        assert change.trainings == 3 and change.value == pytest.approx(steps.mean())
        assert change.high - change.low == pytest.approx(2 * half)
        assert (
            "KAD, b against a: +" in comparison.text() and "(3 trainings): a higher KAD" in comparison.text()
        )

    def test_table_and_text(self, scores):
        comparison = Comparison(scores[0])
        table = comparison.table()
        assert list(table["system"]) == ["a", "a", "b", "b", "c", "c"]
        assert list(table["class"][:2]) == ["keyboard", "rain"] and (table["training"] == 1).all()
        k = scores[0]["b"][0].kernel["rain"]
        row = table[(table["system"] == "b") & (table["class"] == "rain")].iloc[0]
        assert (row["kad"], row["kad_p"], row["kad_low"]) == (k.kad, k.p, k.ci_low)
        assert (row["n_clips"], row["n_ref"]) == (8, 8)
        lines = comparison.text().splitlines()
        assert " ".join(lines[0].split()) == "system FAD KAD precision coverage nearer to training"
        assert len({len(line) for line in lines[:4]}) == 1 and "Real clips" in lines[4]
        assert (
            "p (Holm) = " in lines[5]
            and lines[-1].startswith("KAD[mel-statistics, x100")
            and "n=8" in lines[-1]
        )
        assert "p (Holm)" not in Comparison({k: scores[0][k] for k in "ab"}).text()

    def test_wide_figures_keep_their_columns(self, scores):
        a = scores[0]["a"][0]
        far = {cls: replace(k, kad=1e7, draws=k.draws + 1e7) for cls, k in a.kernel.items()}
        lines = Comparison({"a": [a], "a long name": [replace(a, kernel=far)]}).text().splitlines()
        assert len({len(line) for line in lines[:3]}) == 1
        assert re.search(r"\]   10000000\.000 \[\d+\.\d+, \d+\.\d+\]   ", lines[2])

    def test_unequal_numbers_are_told(self, scores):
        a, few = scores[0]["a"][0], score(side(5, n=6), side(0), MEL, n_boot=0)
        comparison = Comparison({"a": [a], "few": [few]})
        low, high = expected_coverage(6, 8, 5), expected_coverage(8, 8, 5)
        assert comparison.expected_coverage() == f"{low:.2f}-{high:.2f}"
        names = comparison.names()
        assert len(names) == 3 and "n=8 clips" in names[0] and "n=6 clips" in names[1] and "n=6-8" in names[2]
        assert names[2].endswith("no interval]")

    def test_as_json(self, scores, tmp_path):
        Comparison(scores[0], {"seed": 1}).save(tmp_path / "c.json")
        told = json.loads((tmp_path / "c.json").read_text())
        assert set(told) == {"names", "summary", "changes", "classes", "settings"}
        assert told["summary"][0]["similarity"] is None and told["settings"] == {"seed": 1}
        assert told["changes"]["KAD"]["b"]["verdict"] == "a higher KAD" and len(told["classes"]) == 6

    def test_one_system_alone(self, scores):
        comparison = Comparison({"a": scores[0]["a"]})
        assert (
            comparison.changes() == {}
            and len(comparison.summary()) == 1
            and "against" not in comparison.text()
        )


class TestScore:
    def test_what_published_figures_were_made_with(self):
        options = {
            name: {key: p.default for key, p in inspect.signature(call).parameters.items()}
            for name, call in {"kad": kernel_distance, "score": score, "manifold": manifold}.items()
        }
        assert (options["kad"]["n_boot"], options["kad"]["level"], options["kad"]["seed"]) == (1000, 0.95, 0)
        assert (options["score"]["n_boot"], options["score"]["level"], options["score"]["seed"]) == (
            1000,
            0.95,
            0,
        )
        assert options["score"]["seconds"] == 4.0 and options["manifold"]["level"] == 0.95
        assert options["score"]["neighbours"] == options["manifold"]["k"] == NEIGHBOURS == 5

    def test_options_reach_every_measure(self):
        """Level and neighbours; each class with a seed of its own, so that no two are resampled alike."""
        one, other = side(1), side(0)
        found = score(one, other, MEL, n_boot=40, level=0.6, neighbours=2, seed=5)
        for i, cls in enumerate(("keyboard", "rain")):
            own = int(np.random.SeedSequence([5, i]).generate_state(1)[0])
            kernel = kernel_distance(one[cls], other[cls], n_boot=40, level=0.6, seed=own)
            assert (found.kernel[cls].draws == kernel.draws).all() and found.kernel[cls].level == 0.6
            assert found.manifolds[cls] == manifold(one[cls], other[cls], 2, level=0.6)
            assert found.fad.estimates[cls].level == 0.6
        assert found.fad.settings["seed"] == 5

    def test_every_measure_is_in_its_column(self):
        found = score(side(1, 0.4), side(0), MEL, n_boot=20, training=side(9))
        row = found.classes().set_index("class").loc["rain"]
        k, m, c = found.kernel["rain"], found.manifolds["rain"], found.copying["rain"]
        e = found.fad.estimates["rain"]
        assert [row[name] for name in ("fad", "fad_low", "fad_high")] == [e.fad, e.ci_low, e.ci_high]
        assert [row[f"kad{end}"] for end in ("", "_low", "_high", "_p")] == [k.kad, k.ci_low, k.ci_high, k.p]
        for name in ("precision", "recall", "density", "coverage", "expected_coverage"):
            assert row[name] == getattr(m, name), name
        assert (row["precision_low"], row["precision_high"]) == m.precision_ci
        assert (row["nearer_training"], row["copying_p"]) == (c.nearer, c.p)
        own = data_copying(side(1, 0.4)["rain"], side(0)["rain"], side(9)["rain"])
        assert (c.nearer, c.p, list(c.distances)) == (own.nearer, own.p, list(own.distances))

    def test_statistics_give_fad_alone(self):
        stats = {cls: clips.stats() for cls, clips in side(0).items()}
        found = score(side(1), stats, MEL, n_boot=5)
        assert found.kad is None and not found.kernel and not found.manifolds
        comparison = Comparison({"a": [found], "b": [score(side(2), stats, MEL, n_boot=5)]})
        assert list(comparison.changes()) == ["FAD"] and comparison.expected_coverage() == ""
        assert "KAD" not in comparison.text() and comparison.summary()["kad"].isna().all()
        assert np.isnan(found.interval("kad")).all()

    def test_classes_may_be_spelt_in_any_way(self):
        ours, real = side(1, classes=("DogBark",)), side(0, classes=("dog_bark",))
        found = score(ours, real, MEL, n_boot=0, similarity={"Dog bark": np.array([0.5])})
        assert list(found.kernel) == ["dog_bark"] and found.mean("similarity") == 0.5

    def test_a_fad_that_was_measured_is_taken(self):
        fad = evaluate(side(1), side(0), MEL, n_boot=0)
        assert score(side(1), side(0), MEL, n_boot=0, fad=fad).fad is fad

    def test_refuses(self):
        with pytest.raises(InputError, match=r"^keyboard: .*--neighbours 3"):
            score(side(1, n=4), side(0), MEL, n_boot=0)
        with pytest.raises(InputError, match="keyboard: no training clips; there are those of rain"):
            score(side(1), side(0), MEL, n_boot=0, training=side(3, classes=("rain",)))

    def test_without_kernels_there_is_no_interval(self):
        found = score(side(1), side(0), MEL, n_boot=0)
        assert np.isnan(found.interval("kad")).all() and isinstance(found, Scores)


# --- the command ------------------------------------------------------------------------------------------------


def compare(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments), "-q"])


def refused(*arguments):
    """What the command says to a mistake."""
    said = compare(*arguments)
    assert isinstance(said.exception, InputError | OSError), (said.output, said.exception)
    return str(said.exception)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Clips of two systems, real and training ones, in two classes of one's own."""
    top = tmp_path_factory.mktemp("compare")
    for seed, (name, n) in enumerate({"a": 4, "b": 4, "real": 5, "train": 3}.items()):
        sounds(top / name, ["wind", "x & <y>"], n, seed, colour=1.5 if name == "b" else 1.0)
    return top


@pytest.mark.parametrize(
    ("found", "classes", "named"),
    [
        (["Door Slam", "zap"], ["door_slam", "zap"], ["door_slam", "zap"]),
        (["door_slam", "Door Slam"], ["door_slam"], ["door_slam", "Door Slam"]),  # as it is asked for
        (["Door-Slam", "Door Slam"], ["door_slam"], ["Door-Slam", "Door Slam"]),  # which of the two?
        (["Cafe\u0301"], ["caf\u00e9"], ["caf\u00e9"]),  # as a disk of macOS has it
        (["Cafe\u0301 au"], ["cafe_au"], ["cafe_au"]),  # as a prompt of these words is called
        (["++"], ["!!"], ["++"]),
        (["Slam"], ["door_slam"], ["Slam"]),
        (["DOOR"], ["door", "Door"], ["door"]),  # it is one of them, not both
    ],
)
def test_a_class_is_found_however_it_is_written(found, classes, named):
    files = {name: [Path(name)] for name in found}
    assert named_as(files, classes) == dict(zip(named, files.values(), strict=True))


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory):
    """A comparison as the command writes it."""
    out = tmp_path_factory.mktemp("done") / "new" / "out"
    options = ("--reference", folders / "real", "--neighbours", 2, "--n-boot", 30, "--seconds", 0.3)
    systems = (f"<i>$x_$={folders / 'a'}", f"b/c={folders / 'b'}")
    said = compare(*systems, *options, "--training", folders / "train", "-o", out)
    assert said.exit_code == 0, said.output
    return out, said.output, options


class TestCommand:
    def test_writes_page_tables_and_record(self, done, folders):
        out, said, _ = done
        assert sorted(p.name for p in out.iterdir()) == ["classes.csv", "clips.csv", "compare.json", "listen"]
        assert said.rstrip().endswith(f"to hear them side by side: {out / 'listen' / 'index.html'}")
        told = json.loads((out / "compare.json").read_text())
        assert told["command"].startswith("latentclap compare ")
        assert told["commit"] and told["versions"]
        assert told["settings"]["neighbours"] == 2 and told["settings"]["fad"]["seconds"] == 0.3
        assert told["settings"]["systems"]["b/c"] == [(folders / "b").as_posix()]
        classes = pd.read_csv(out / "classes.csv")
        assert list(classes["class"]) == ["wind", "x_y"] * 2
        assert classes["kad"].to_numpy() == pytest.approx([row["kad"] for row in told["classes"]])
        clips = pd.read_csv(out / "clips.csv")
        assert list(clips.columns[:4]) == ["system", "training", "class", "file"] and len(clips) == 16
        means = clips.groupby(["system", "class"], sort=False)["kad_part"].mean()
        assert means.to_numpy() == pytest.approx(classes["kad"].to_numpy())
        assert clips["nearest_training"].notna().all() and "training_index" not in clips

    def test_the_page_is_whole(self, done):
        out, _, _ = done
        page = (out / "listen" / "index.html").read_text()
        sources = re.findall(r'src="([^"]+)"', page)
        assert sources and all((out / "listen" / source).is_file() for source in sources)
        assert len(re.findall("<audio", page)) == 2 * 2 * 3 + 2 * 2 + 2 * 2 * 2
        for text in ("Side by side", "Furthest from real clips", "Nearest to a training clip"):
            assert f"<h2>{text}</h2>" in page
        assert "<i>" not in page and "<y>" not in page
        assert "&lt;i&gt;$x_$" in page and "x y (1)" in page
        assert "as FAD takes them" not in page and "measured are the first 0.3 s" in page
        # names of what was measured, the same as in the record
        assert "KAD[mel-statistics, x100" in page and "p (Holm)" not in page

    def test_the_figure_is_made_for_the_width_at_which_it_is_shown(self, done, scores, tmp_path):
        """Panels are stacked; a figure as wide as four panels had text of less than ten pixels."""
        from matplotlib.font_manager import FontProperties

        from latentclap.compare.figure import WIDTH, draw

        out, _, _ = done
        page = (out / "listen" / "index.html").read_text()
        assert (
            '<a class="figure" href="systems.png"><img src="systems.png" alt="Averages of FAD, KAD of the systems'
            in page
        )
        assert ".figure img { width: 44rem; max-width: none;" in page
        for name, systems in (("short", scores[1]), ("long", {"a" * 60: scores[1]["a"]})):
            words = draw(Comparison(systems), tmp_path / f"{name}.png")
            with Image.open(tmp_path / f"{name}.png") as picture:
                assert picture.width == WIDTH * 150
            assert words.startswith("Averages of FAD, KAD of the systems a")
        points = FontProperties(size="medium").get_size_in_points()
        assert points / 72 * (44 * 16 / WIDTH) >= 11

    def test_figures_are_those_of_the_functions(self, done, folders):
        out, _, _ = done
        a, real = (
            embed_clips(clips_in_folder(folders / name)["wind"], MEL, RATE, 0.3) for name in ("a", "real")
        )
        row = pd.read_csv(out / "classes.csv").iloc[0]
        assert row["kad"] == pytest.approx(kernel_distance(a, real, n_boot=0).kad)
        assert row["precision"] == manifold(a, real, 2).precision

    def test_again_replaces_all(self, done, folders, tmp_path):
        options = done[2]
        mine = tmp_path / "out"
        systems = (f"a={folders / 'a'}", f"b={folders / 'b'}")
        assert compare(*systems, *options, "-o", mine, "--items", 3).exit_code == 0
        many = len(list((mine / "listen").rglob("*.mp3")))
        (mine / ".listen").mkdir()
        (mine / ".listen" / "cut.mp3").touch()
        assert compare(systems[0], *options, "-o", mine, "--items", 1).exit_code == 0
        page = (mine / "listen" / "index.html").read_text()
        left = {p.relative_to(mine / "listen").as_posix() for p in (mine / "listen").rglob("*.mp3")}
        assert left >= set(re.findall(r'src="([^"]+mp3)"', page)) and len(left) < many
        assert not (mine / ".listen").exists() and "Nearest to a training clip" not in page
        assert set(pd.read_csv(mine / "classes.csv")["system"]) == {"a"}

    def test_no_players(self, done, folders, tmp_path):
        assert compare(f"a={folders / 'a'}", *done[2], "-o", tmp_path / "o", "--items", 0).exit_code == 0
        assert sorted(p.name for p in (tmp_path / "o" / "listen").iterdir()) == ["index.html", "systems.png"]
        page = (tmp_path / "o" / "listen" / "index.html").read_text()
        assert "<audio" not in page and "Side by side" not in page

    def test_statistics_give_fad_alone(self, folders, tmp_path):
        clips = clips_in_folder(folders / "real")
        stats = {cls: embed_clips(paths, MEL, RATE).stats() for cls, paths in clips.items()}
        save_stats(tmp_path / "real.npz", stats)
        (tmp_path / "o").mkdir()
        (tmp_path / "o" / "clips.csv").touch()  # of an earlier one
        said = compare(
            f"a={folders / 'a'}",
            f"b={folders / 'b'}",
            "-r",
            tmp_path / "real.npz",
            "-o",
            tmp_path / "o",
            "--n-boot",
            5,
            "--items",
            1,
        )
        assert said.exit_code == 0 and "KAD" not in said.output, said.output
        page = (tmp_path / "o" / "listen" / "index.html").read_text()
        assert "KAD" not in page and "Furthest" not in page and ">Real<" not in page
        assert not (tmp_path / "o" / "clips.csv").exists()
        assert "--training needs real clips" in refused(
            f"a={folders / 'a'}",
            "-r",
            tmp_path / "real.npz",
            "-o",
            tmp_path / "p",
            "--training",
            folders / "train",
        )

    def test_trainings_belong_together(self, done, folders, tmp_path):
        systems = [f"{n}={folders / f}" for n, f in (("p", "a"), ("q", "b"), ("p", "train"), ("q", "real"))]
        options = (*done[2][2:], "-r", folders / "real", "-o", tmp_path / "o", "--items", 0)
        said = compare(*systems, *options)
        assert said.exit_code == 0 and "(2 trainings)" in said.output
        assert "warning: unequal numbers of clips (wind 3-5, x_y 3-5)" in said.output
        assert "10 of 18 clips of q are reference clips too" in said.output
        page = (tmp_path / "o" / "listen" / "index.html").read_text()
        assert "unequal numbers of clips (wind 3-5, x_y 3-5)" in page
        clips = pd.read_csv(tmp_path / "o" / "clips.csv")
        assert clips.groupby(["system", "training"]).size().to_dict() == {
            ("p", 1): 8, ("p", 2): 6, ("q", 1): 8, ("q", 2): 10
        }  # fmt: skip

    def test_reference_clips_that_were_trained_on_are_told(self, folders, tmp_path):
        said = compare(
            f"a={folders / 'a'}", "-r", folders / "real", "--training", folders / "real", "-o", tmp_path / "o",
            *("--neighbours", 1, "--n-boot", 0, "--items", 0)
        )  # fmt: skip
        assert "10 reference clips are training clips too" in said.output and said.exit_code == 0

    def test_the_same_sounds_under_other_names_are_told(self, folders, tmp_path):
        for name in ("a", "train"):
            shutil.copytree(folders / "real", tmp_path / name)
        sound(tmp_path / "a" / "wind" / "00.wav", 77)
        said = compare(
            *(f"a={tmp_path / 'a'}", "-r", folders / "real", "--training", tmp_path / "train"),
            *("-o", tmp_path / "o", "--neighbours", 1, "--n-boot", 0, "--items", 0),
        )
        assert said.exit_code == 0
        assert "9 of 10 clips of a sound exactly as a reference clip" in said.output
        assert "10 reference clips sound exactly as a training clip" in said.output

    def test_similarity(self, tiny_family, tmp_path):
        for seed, name in enumerate(("a", "real")):
            sounds(tmp_path / name, ["rain"], 3, seed, seconds=1.0)
        said = compare(
            f"a={tmp_path / 'a'}", "-r", tmp_path / "real", "-o", tmp_path / "o", "--similarity",
            *("--model", tiny_family, "--neighbours", 1, "--n-boot", 5, "--items", 1)
        )  # fmt: skip
        assert said.exit_code == 0, said.output
        clips = pd.read_csv(tmp_path / "o" / "clips.csv")
        told = json.loads((tmp_path / "o" / "compare.json").read_text())["summary"][0]["similarity"]
        assert told == pytest.approx(clips["similarity"].mean()) and abs(told) <= 1
        assert f"{told:.2f}" in said.output.splitlines()[1] and "similarity" in said.output.splitlines()[0]

    def test_a_run_s_options_reach_its_measures(self, folders):
        """Seconds, neighbours, draws and their seed."""
        run = Run({"a": [folders / "a"]}, folders / "real", folders / "train", 0.3, 2, 20, 7, 0)
        run.find()
        (told,) = run.measure(MEL, progress=False).systems["a"]
        a, real, known = (
            {
                cls: embed_clips(paths, MEL, RATE, 0.3)
                for cls, paths in clips_in_folder(folders / name).items()
            }
            for name in ("a", "real", "train")
        )
        own = score(a, real, MEL, training=known, n_boot=20, seed=7, seconds=0.3, neighbours=2)
        pd.testing.assert_frame_equal(told.classes(), own.classes())
        assert told.fad.settings == own.fad.settings and told.fad.settings["seed"] == 7

    def test_every_copy_of_a_reference_clip_is_counted(self):
        """Two of three clips are the one reference clip, which is one clip all the same."""
        ours, real = (
            {"rain": flat([[1.0], [1.0], [2.0]])},
            {"rain": flat([[1.0], [5.0]]), "wind": flat([[2.0]])},
        )
        assert (_same_sounds(ours, real), _same_sounds(real, ours)) == (2, 1)

    def test_similarity_is_of_the_seconds_measured(self, tmp_path):
        """Of the first channel, at the system's rate."""
        write_wave(tmp_path / "a.wav", np.stack([np.full(22_050, 0.5), np.zeros(22_050)]), 22_050)

        class Ears:
            sampling_rate = RATE

            def similarity(self, waves, texts):
                assert waves.shape == (1, RATE // 2) and texts == ["This is a sound of rain."]
                return waves[:, RATE // 4]

        run = Run({}, tmp_path, None, 0.5, 1, 0, 0, 0)
        found = run._similarity(Ears(), {"rain": [tmp_path / "a.wav"], "wind": [tmp_path / "absent.wav"]})
        assert list(found) == ["rain"] and found["rain"] == pytest.approx([0.5], abs=1e-3)

    def test_a_broken_clip_is_named(self, folders, tmp_path):
        sounds(tmp_path / "a", ["wind", "x & <y>"], 4, 7)
        (tmp_path / "a" / "wind" / "02.wav").write_text("no sound")
        said = refused(f"a={tmp_path / 'a'}", "-r", folders / "real", "-o", tmp_path / "o", "--neighbours", 2)
        assert "wind/02.wav: unreadable, cannot be read as sound" in said and not (tmp_path / "o").exists()

    def test_clips_of_a_rate_that_no_player_knows(self, tmp_path):
        """MP3 ends at 48 kHz: after all was measured, the page failed."""
        for seed, name in enumerate(("a", "real")):
            for i in range(2):
                wave = np.random.default_rng([seed, i]).uniform(-0.5, 0.5, 40_000)
                write_wave(tmp_path / name / "wind" / f"{i}.flac", wave, 96_000)
        options = ("-r", tmp_path / "real", "--neighbours", 1, "--n-boot", 0, "--seconds", 0.4)
        said = compare(f"a={tmp_path / 'a'}", *options, "-o", tmp_path / "o")
        assert said.exit_code == 0, said.exception
        rates = {soundfile.info(file).samplerate for file in (tmp_path / "o/listen").rglob("*.mp3")}
        assert rates == {48_000}

    def test_who_reads_the_first_lines_alone_gets_all(self, done, folders, tmp_path, monkeypatch):
        def closed(*_, **__):
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr(comparing.typer, "echo", closed)
        said = compare(f"a={folders / 'a'}", *done[2], "--items", 0, "-o", tmp_path / "o")
        assert said.exit_code != 0 and (tmp_path / "o/compare.json").is_file()

    def test_a_page_that_fails_leaves_nothing_and_the_old_one(self, done, folders, tmp_path, monkeypatch):
        options = (f"a={folders / 'a'}", *done[2], "--items", 1)
        assert compare(*options, "-o", tmp_path / "old").exit_code == 0
        before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}

        def full(*_, **__):
            raise OSError(28, "No space left on device", "x.mp3")

        monkeypatch.setattr("latentclap.compare.page.save_player", full)
        assert "No space left" in refused(*options, "-o", tmp_path / "old")
        assert {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()} == before
        assert "No space left" in refused(*options, "-o", tmp_path / "new" / "er")
        assert not (tmp_path / "new").exists()

    def test_an_unfinished_one_is_replaced(self, done, folders, tmp_path, monkeypatch):
        options = (f"a={folders / 'a'}", *done[2], "--items", 0, "-o", tmp_path / "o")
        assert compare(*options).exit_code == 0
        monkeypatch.setattr(Run, "_tables", lambda *_: 1 / 0)
        assert isinstance(compare(*options).exception, ZeroDivisionError)
        assert not (tmp_path / "o" / "compare.json").exists()  # the page is newer than the tables
        monkeypatch.undo()
        assert compare(*options).exit_code == 0 and (tmp_path / "o" / "compare.json").exists()


class TestRefusals:
    @pytest.mark.parametrize("text", ["a", "=x", "a=", " =x", ""])
    def test_no_name_or_folder(self, text):
        with pytest.raises(InputError, match="NAME=FOLDER"):
            comparing.grouped([text])

    def test_groups(self, tmp_path):
        for name in ("x", "y", "z=1"):
            (tmp_path / name).mkdir()
        x, y, z = (tmp_path / name for name in ("x", "y", "z=1"))
        (tmp_path / "f").touch()
        assert comparing.grouped([f" a  b ={x}", f"c={z}"]) == {"a b": [x], "c": [z]}
        for systems, says in (
            ([f"a={tmp_path / 'no'}"], "a: .*no: no such folder of clips"),
            ([f"a={tmp_path / 'f'}"], "a: .*f: a file, not a folder of clips"),
            ([f"a={x}", f"b={y}/../x"], "is there twice, as a and as b"),
            ([f"a={x}", f"a={x}"], "is there twice, as a and as a"),
            ([f"a={x}", f"b={y}", f"b={z}"], r"\(a 1, b 2\)"),
            ([f"Real={x}"], "Real is the page's column"),
        ):
            with pytest.raises(InputError, match=says):
                comparing.grouped(systems)

    def test_a_name_that_is_no_text(self, tmp_path):
        assert list(comparing.grouped([f"caf\udce9={tmp_path}"])) == ["caf\\xe9"]

    def test_places(self, tmp_path):
        clips, real = tmp_path / "clips", tmp_path / "real"
        clips.mkdir(), real.mkdir()
        other = tmp_path / "other"
        (other / "listen").mkdir(parents=True)
        with pytest.raises(InputError, match="where the next call would find its sounds"):
            comparing.place(clips / "out", [clips, real])
        with pytest.raises(InputError, match="absent: no such folder or file"):
            comparing.place(tmp_path / "out", [clips, tmp_path / "absent"])
        with pytest.raises(InputError, match=r"holds other things than a comparison \(listen\)"):
            comparing.place(other, [clips])  # a page of something else
        (other / "listen" / "systems.png").touch()
        comparing.place(other, [clips])
        with pytest.raises(InputError, match="which is replaced"):
            comparing.place(other, [clips, other / "listen"])
        (other / "notes.txt").touch()
        with pytest.raises(InputError, match=r"\(notes.txt\)"):
            comparing.place(other, [clips])
        (other / "compare.json").touch()
        comparing.place(other, [clips])
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            comparing.place(tmp_path / "file", [clips])

    def test_options(self, folders, tmp_path):
        sides = (f"a={folders / 'a'}", "-r", folders / "real", "-o", tmp_path / "o")
        for options, says in (
            (("--model", "mini"), "--model mini: mel-statistics embeds without a system"),
            (("--neighbours", 0), "--neighbours 0"),
            (("--n-boot", -1), "--n-boot -1"),
            (("--items", -1), "--items -1"),
            (("--seed", -1), "--seed -1"),
            (("--seconds", 0), "--seconds 0"),
            (("--embedding", "vggish-dcase"), "VGGish needs its weights"),
            (("--embedding", "openl4", "--neighbours", 2), "openl4"),
            (("--similarity",), "none of the classes is one of the seven"),
            ((), r"a: wind: 4 clips have too few fellows for 5 neighbours.*--neighbours 3\)"),
            (("--training", tmp_path / "no"), "no: no such folder or file"),
        ):
            assert re.search(says, refused(*sides, *options)), options
        assert not (tmp_path / "o").exists()

    def test_classes_that_differ(self, folders, tmp_path):
        sounds(tmp_path / "less", ["wind"], 6, 8)
        sounds(tmp_path / "other", ["wind", "door"], 6, 8)
        a, less, other = f"a={folders / 'a'}", f"b={tmp_path / 'less'}", f"b={tmp_path / 'other'}"
        rest = ("-r", folders / "real", "-o", tmp_path / "o")
        both = f"it has wind, and {folders / 'a'} has wind, x_y: give a class one name in all folders"
        assert f"{tmp_path / 'less'} has no x_y; {both}" == refused(a, less, *rest)
        assert "other has no x_y; it has door, wind, and " in refused(a, other, *rest)
        more = refused(other, *rest)
        assert "real has no door; it has wind, x_y, and " in more and more.startswith("--reference ")
        assert "has no x_y; it has wind, and " in refused(a, "-r", tmp_path / "less", "-o", tmp_path / "o")
        assert "--training" in refused(a, *rest, "--training", tmp_path / "less")

    def test_one_clip_against_statistics(self, tmp_path):
        sounds(tmp_path / "a", ["wind"], 1, 0)
        save_stats(tmp_path / "s.npz", {"wind": GaussianStats(np.zeros(MEL.dim), np.eye(MEL.dim), 9)})
        rest = (f"a={tmp_path / 'a'}", "-r", tmp_path / "s.npz", "-o", tmp_path / "o")
        assert "wind: 1 clip; give 2 or more" in refused(*rest)
