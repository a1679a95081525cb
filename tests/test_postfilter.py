"""The bounded CLAP post-filter and its cost."""

import numpy as np
import pytest

from latentclap import papers
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.postfilter import (
    PAPER,
    PRESETS,
    YUAN,
    FilterResult,
    PostFilter,
    clap_score,
    filter_generate,
    load_preset,
)


class Generator:
    """Waves of 4 equal samples, uniform in (0, 1) by seed and item; the score of a clip is its value."""

    def __init__(self):
        self.calls = []

    def __call__(self, classes, n, seed, first, **kw):
        self.calls.append((tuple(classes), n, first, kw))
        (cls,) = classes
        items = [
            np.random.default_rng([seed, CLASSES.index(cls), i]).random() for i in range(first, first + n)
        ]
        return np.repeat(np.array(items, np.float32)[:, None], 4, axis=1)


def value(waves, cls):
    return waves[:, 0]


def one(threshold, candidates=2, **kw):
    return PostFilter("test", dict.fromkeys(CLASSES, threshold), dict.fromkeys(CLASSES, candidates), **kw)


def test_presets_are_the_published_numbers():
    assert dict(PAPER.thresholds) == papers.THRESHOLDS
    assert PAPER.thresholds["keyboard"] == 0.15 and PAPER.thresholds["moving_motor_vehicle"] == 0.75
    assert [YUAN.thresholds[c] for c in CLASSES] == [0.3, 0.03, 0.2, 0.15, 0.75, 0.2, 0.2]
    assert [YUAN.candidates[c] for c in CLASSES] == [3, 3, 3, 3, 10, 3, 3]
    assert [YUAN.guidance_scale[c] for c in CLASSES] == [2.5, 2.5, 1.0, 1.0, 3.0, 1.0, 2.5]
    assert PAPER.upper == YUAN.upper == 0.99 and set(PRESETS) == {"paper", "yuan"}


def test_accepts_what_passes_and_counts_the_cost():
    generator = Generator()
    got = filter_generate(generator, value, ["rain", "DogBark"], 20, one(0.8, max_tries=50), steps=5)
    assert got.waves.shape == (40, 4) and got.waves.dtype == np.float32
    assert got.accepted.all() and (got.scores >= 0.8).all() and (got.scores <= 0.99).all()
    np.testing.assert_array_equal(got.waves[:, 0], got.scores.astype(np.float32))
    assert got.classes == ("rain", "dog_bark")
    made = {c: sum(n for cls, n, _, _ in generator.calls if cls == (c,)) for c in got.classes}
    assert got.generated_count == made
    assert made["rain"] == 2 * got.tries["rain"].sum()
    assert all(kw == {"steps": 5} for *_, kw in generator.calls)
    table = got.table().set_index("class")
    assert table.loc["rain", "accepted_per_try"] == pytest.approx(20 / got.tries["rain"].sum())
    assert got.per_clip == pytest.approx(sum(made.values()) / 40)
    assert got.exhausted == {"rain": 0, "dog_bark": 0}
    assert got.to_dict()["classes"]["rain"]["generated"] == made["rain"]


def test_acceptance_rate_is_the_probability():
    # P(best of 2 uniform in [0.8, 0.99]) = 0.99^2 - 0.8^2
    got = filter_generate(Generator(), value, ["rain"], 400, one(0.8, max_tries=100), batch=500)
    assert got.table().accepted_per_try[0] == pytest.approx(0.99**2 - 0.8**2, abs=0.05)


def test_bound_returns_the_best_seen_and_flags_it():
    seen = []

    def score(waves, cls):
        seen.append(waves[:, 0])
        return waves[:, 0]

    got = filter_generate(Generator(), score, ["rain"], 3, one(0.9999, upper=1.0, max_tries=4), seed=1)
    assert not got.accepted.any() and got.exhausted["rain"] == 3
    assert got.tries["rain"].tolist() == [4, 4, 4] and got.generated_count["rain"] == 24
    by_place = np.stack(seen).reshape(4, 2, 3).max(axis=(0, 1))  # try, candidate, place
    np.testing.assert_allclose(got.scores, by_place)


def test_above_the_upper_limit_is_refused():
    def score(waves, cls):
        return np.full(len(waves), 0.995)

    got = filter_generate(Generator(), score, ["rain"], 2, one(0.2, max_tries=3))
    assert not got.accepted.any() and got.generated_count["rain"] == 12


def test_a_score_in_range_is_preferred_to_one_above():
    scores = iter([0.995, 0.1, 0.999])

    def score(waves, cls):
        return np.full(len(waves), next(scores))

    got = filter_generate(Generator(), score, ["rain"], 1, one(0.2, candidates=1, max_tries=3))
    assert got.scores.tolist() == [0.1] and not got.accepted[0]


def told(*scores):
    """A score for each call, in order."""
    given = iter(scores)
    return lambda waves, cls: np.full(len(waves), next(given))


@pytest.mark.parametrize(("score", "passes"), [(0.2, True), (0.99, True), (0.1999, False), (0.9901, False)])
def test_both_limits_pass(score, passes):
    got = filter_generate(Generator(), told(score), ["rain"], 1, one(0.2, candidates=1, max_tries=1))
    assert got.accepted.tolist() == [passes]


def test_a_clip_that_passes_at_its_last_try_is_not_exhausted():
    got = filter_generate(Generator(), told(0.1, 0.5), ["rain"], 1, one(0.2, candidates=1, max_tries=2))
    assert got.accepted[0] and got.tries["rain"][0] == 2 and got.exhausted["rain"] == 0


def test_of_equal_scores_the_first_clip_is_kept():
    generator = Generator()
    got = filter_generate(generator, told(0.1, 0.1), ["rain"], 1, one(0.2, candidates=1, max_tries=2))
    np.testing.assert_array_equal(got.waves, Generator()(["rain"], 1, 0, 0))


def test_the_cost_is_counted_for_every_clip_given_back():
    """Two clips, one of which never passes: 1 + 3 generated for 2, and the mean of both similarities."""

    def score(waves, cls):
        return np.where(np.arange(len(waves)) == 0, 0.1, 0.5) if len(waves) == 2 else np.full(1, 0.1)

    got = filter_generate(Generator(), score, ["rain"], 2, one(0.2, candidates=1, max_tries=3))
    assert got.accepted.tolist() == [False, True] and got.per_clip == 4 / 2
    (row,) = got.table().to_dict("records")
    assert (row["per_clip"], row["tries"], row["exhausted"]) == (2, 4, 1)
    assert (row["accepted_per_try"], row["similarity"]) == pytest.approx((1 / 4, 0.3))


@pytest.fixture
def two():
    """Two clips each of two classes, no two figures alike: rain's second passes never, the dog's first at last."""
    return FilterResult(
        waves=np.arange(12, dtype=np.float32).reshape(4, 3),
        scores=np.array([0.5, 0.1, 0.3, 0.6]),
        accepted=np.array([True, False, True, True]),
        classes=("rain", "dog_bark"),
        generated_count={"rain": 12, "dog_bark": 9},
        tries={"rain": np.array([1, 3]), "dog_bark": np.array([2, 1])},
        exhausted={"rain": 1, "dog_bark": 0},
        seconds={"rain": 4.0, "dog_bark": 2.5},
        preset="test",
    )


def test_each_class_has_its_own_rows(two):
    rain, dog = two.table().to_dict("records")
    assert rain == {
        **{
            "class": "rain",
            "clips": 2,
            "generated": 12,
            "per_clip": 6.0,
            "tries": 4,
            "accepted_per_try": 0.25,
        },
        **{"exhausted": 1, "similarity": pytest.approx(0.3), "seconds": 4.0},
    }
    assert (dog["accepted_per_try"], dog["similarity"]) == pytest.approx((2 / 3, 0.45))
    told = two.to_dict()
    assert (told["seconds"], told["generated_per_clip"]) == (6.5, 21 / 4)
    assert two.by_class()["dog_bark"].tolist() == [[6, 7, 8], [9, 10, 11]]


def test_what_was_saved_is_read_again(two, tmp_path):
    two.save(tmp_path / "a.npz")
    back = FilterResult.load(tmp_path / "a.npz")
    assert back.to_dict() == two.to_dict() and back.classes == two.classes
    for name in ("waves", "scores", "accepted"):
        np.testing.assert_array_equal(getattr(back, name), getattr(two, name))
    assert {c: t.tolist() for c, t in back.tries.items()} == {"rain": [1, 3], "dog_bark": [2, 1]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_write_that_fails_leaves_what_was_saved(two, tmp_path, monkeypatch):
    """Hours of generation lie in it."""
    two.save(tmp_path / "a.npz")

    def full(path, **arrays):
        with open(path, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        two.save(tmp_path / "a.npz")
    assert FilterResult.load(tmp_path / "a.npz").per_clip == two.per_clip
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_bound_of_the_call_goes_before_the_preset_s():
    never = filter_generate(Generator(), lambda w, c: np.zeros(len(w)), ["rain"], max_tries=2)
    assert never.tries["rain"].tolist() == [2] and never.preset == "paper"
    assert never.generated_count == {"rain": 6}  # the paper's three candidates a try
    assert PAPER.with_bounds(upper=0.5).upper == 0.5 and PAPER.with_bounds(4).max_tries == 4
    assert PAPER.with_bounds() == PAPER


def test_presets_with_other_numbers_of_candidates():
    assert [PAPER.candidates[c] for c in CLASSES] == [3, 3, 3, 3, 10, 3, 3]
    assert set(PAPER.guidance_scale.values()) == {2.0} and list(PAPER.guidance_scale) == list(CLASSES)
    assert load_preset("yuan") is YUAN
    seven = load_preset("yuan", 7)
    assert dict(seven.candidates) == dict.fromkeys(CLASSES, 7) and seven.thresholds == YUAN.thresholds


def test_a_filter_ends_after_ten_tries():
    """The public code's never does where nothing passes."""
    assert PAPER.max_tries == YUAN.max_tries == 10


def test_candidates_are_the_items_in_their_order():
    generator = Generator()
    got = filter_generate(generator, value, CLASSES, 4, one(0.999, upper=1.0, max_tries=3), batch=3, seed=5)
    assert not got.accepted.any()
    for cls in CLASSES:
        items = [i for c, n, first, _ in generator.calls if c == (cls,) for i in range(first, first + n)]
        assert items == list(range(4 * 2 * 3))
    assert max(n for _, n, _, _ in generator.calls) == 3


def test_what_passes_at_once_is_what_no_filter_gives():
    plain = Generator()(["rain"], 6, seed=2, first=0)
    alone = filter_generate(Generator(), value, ["rain"], 6, one(0.0, candidates=1), seed=2)
    np.testing.assert_array_equal(alone.waves, plain)
    best = filter_generate(Generator(), value, ["rain"], 6, one(0.0, candidates=3), seed=2)
    items = Generator()(["rain"], 18, seed=2, first=0)[:, 0].reshape(3, 6)  # candidate, place
    np.testing.assert_allclose(best.scores, items.max(0), rtol=1e-6)
    assert (best.waves[:, 0] >= plain[:, 0]).all()


def test_deterministic():
    a = filter_generate(Generator(), value, CLASSES, 2, "paper", seed=3)
    b = filter_generate(Generator(), value, CLASSES, 2, "paper", seed=3)
    c = filter_generate(Generator(), value, CLASSES, 2, "paper", seed=4)
    np.testing.assert_array_equal(a.waves, b.waves)
    assert not np.array_equal(a.waves, c.waves) and a.preset == "paper"


def test_bad_input():
    for kw, says in [
        ({"preset": "none"}, "unknown post-filter 'none'; use one of paper, yuan"),
        ({"n": 0}, "all >= 1"),
        ({"classes": ["cat"]}, "unknown class 'cat'"),
        ({"classes": ["rain", "Rain"]}, "class rain is given twice"),  # it reported half its cost
        ({"max_tries": 0}, "max_tries 0"),
        ({"preset": PostFilter("p", {"rain": 0.2}, {"rain": 1})}, "no threshold or candidates for dog_bark"),
    ]:
        with pytest.raises(InputError, match=says):
            filter_generate(Generator(), value, **kw)
    with pytest.raises(InputError, match="asked for 3 clips, got 3 clips and 1 scores"):
        filter_generate(Generator(), lambda w, c: [0.5], ["rain"])
    with pytest.raises(InputError, match="not a finite"):
        filter_generate(Generator(), lambda w, c: np.full(len(w), np.nan), ["rain"])


def test_clap_score_is_the_cosine():
    class Ears:
        def similarity(self, waves, texts):
            assert texts == ["This is a sound of rain."] * 2
            return waves[:, 0] / np.linalg.norm(waves, axis=1)

    waves = np.array([[1.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(clap_score(Ears())(waves, "rain"), [1.0, 0.6])


def test_clap_score_takes_texts_of_one_s_own():
    class Ears:
        def similarity(self, waves, texts):
            assert texts == ["drops on a roof"] * len(waves)
            return np.full(len(waves), 0.25)

    assert clap_score(Ears(), {"rain": "drops on a roof"})(np.ones((3, 2)), "rain").tolist() == [0.25] * 3


def test_a_damaged_result_is_said(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:60])
    for name in ("other", "cut"):
        with pytest.raises(InputError, match=rf"{name}\.npz: damaged .*; delete it, and it is made again"):
            FilterResult.load(tmp_path / f"{name}.npz")
