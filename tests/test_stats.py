"""Mixed ANOVA and post-hoc tests against pingouin and statsmodels; power; checks of published figures.

Fixtures: pingouin 0.7.0 and statsmodels, run once outside the project (pingouin is GPL and no dependency) on `DATA`
as a long table, first 18 rows in three classes of six:

    pg.mixed_anova(data, dv="y", within="model", between="class", subject="rater", correction=True, effsize="np2")
    pg.pairwise_tests(data, dv="y", within="model", subject="rater", padjust="bonf")
    pg.sphericity(WIDE4), pg.epsilon(WIDE4, correction="gg"), pg.epsilon(WIDE4, correction="hf")
    pg.rm_anova(data, dv="y", within=["model", "class"], subject="rater", correction=True, effsize="np2")

(the last with six raters, each of whom rated three classes, and with all 18 rows as one class)

and for 19 raters in classes of 8, 5, 6 the type III sums of squares of statsmodels' anova_lm(ols("z ~ C(g, Sum)"),
typ=3), added over the two orthonormal contrasts z.
"""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats

from latentclap import papers, stats
from latentclap.errors import InputError


def test_percentile_interval():
    draws = np.random.default_rng(0).permutation(101)
    assert stats.percentile_interval(draws, 0.9) == pytest.approx((5, 95))
    assert stats.percentile_interval(draws) == pytest.approx((2.5, 97.5))
    assert np.isnan(stats.percentile_interval([])).all()
    with pytest.raises(InputError, match="level 95"):
        stats.percentile_interval(draws, 95)


A = [5.15, 3.96, 4.1, 4.66, 3.16, 2.67, 5.09, 5.0, 3.42, 5.4, 5.16, 5.86, 5.23, 5.38, 5.25, 5.01, 4.21, 3.01]
B = [5.24, 4.89, 5.1, 5.51, 2.65, 2.43, 4.58, 4.92, 5.36, 5.51, 5.3, 8.05, 5.09, 5.38, 6.18, 5.72, 5.24, 4.2]
C = [4.82, 6.73, 5.6, 6.69, 2.77, 3.89, 5.4, 5.22, 3.74, 5.64, 6.02, 7.56, 3.71, 6.64, 4.98, 4.74, 6.36, 2.02]
B2 = [*B[:6], 4.08, 4.42, *B[8:12], 5.59, *B[13:], 5.6]  # the unequal set: four values differ, one rater more
DATA = np.column_stack([A, B, C])
UNEQUAL = np.column_stack([[*A, 4.4], B2, [*C, 6.0]])
WIDE4 = [
    [0.4, -5.47, -0.8, -2.04], [-0.39, -0.26, -3.98, -0.1], [-1.83, 4.02, -0.51, -1.21], [0.48, -0.24, -1.35, 0.48],
    [-1.55, -2.39, -0.12, -2.17], [-0.89, 1.4, 0.18, -1.27], [0.53, 1.52, 4.58, 0.52], [0.91, 2.66, -0.62, 0.95],
    [-1.28, -1.29, -1.97, -1.69], [-3.33, 1.03, -2.42, -1.67], [0.6, 1.38, -0.56, -0.43], [-0.58, -0.69, 2.2, -0.09],
    [1.78, 3.26, 1.18, 0.94], [-0.61, -0.32, -1.62, -1.74], [0.58, -3.39, 1.73, 0.7],
]  # fmt: skip


def long(values, counts):
    groups = np.repeat([f"g{i}" for i in range(len(counts))], counts)
    rows = [
        (f"r{i:02d}", groups[i], model, row[j])
        for i, row in enumerate(values)
        for j, model in enumerate("ABC")
    ]
    return pd.DataFrame(rows, columns=["rater", "class", "model", "y"])


@pytest.fixture
def balanced():
    return long(DATA, (6, 6, 6))


class TestAnova:
    def test_balanced_is_pingouins(self, balanced):
        got = stats.mixed_anova(balanced, "y").set_index("source")
        for source, SS, df1, df2, F, p, eta in [
            ("class", 8.230137037037057, 2, 15, 1.2268467653545736, 0.32101797324667297, 0.14058305346040148),
            (
                "model",
                3.9071370370370184,
                2,
                30,
                3.7023738245465547,
                0.03655256717656236,
                0.19796277516853242,
            ),
            (
                "Interaction",
                3.070674074074091,
                4,
                30,
                1.4548738894742188,
                0.2405511900501873,
                0.1624672672592647,
            ),
        ]:
            row = got.loc[source]
            assert (row.df1, row.df2) == (df1, df2)
            np.testing.assert_allclose([row.SS, row.F, row.p, row.eta_p2], [SS, F, p, eta], rtol=1e-9)
        assert got.loc["model", "eps"] == pytest.approx(0.8847658750489916, rel=1e-9)
        assert got.loc["model", "p_gg"] == pytest.approx(0.04296535907617552, rel=1e-9)
        assert got.loc["Interaction", "p_gg"] == pytest.approx(0.2465696216807692, rel=1e-9)
        assert got.loc["class", "eps"] == 1 and got.loc["model", "df2_gg"] == pytest.approx(
            30 * 0.8847658750489916
        )

    def test_unequal_groups_are_type_3(self):
        got = stats.mixed_anova(long(UNEQUAL, (8, 5, 6)), "y").set_index("source")
        # statsmodels, type III
        assert got.loc["model", "SS"] == pytest.approx(4.577009048964218, rel=1e-9)
        assert got.loc["Interaction", "SS"] == pytest.approx(4.0869152339181305, rel=1e-9)
        assert got.loc["model", "F"] == pytest.approx(
            4.577009048964218 / 2 / (16.94060055555556 / 32), rel=1e-9
        )
        # pingouin: these do not depend on the type
        assert got.loc["class", "F"] == pytest.approx(1.1569081007589637, rel=1e-9)
        assert got.loc["Interaction", "F"] == pytest.approx(1.9299978040402448, rel=1e-9)
        assert got.loc["model", "eps"] == pytest.approx(0.8245355808513585, rel=1e-9)

    def test_sphericity(self, balanced):
        got = stats.sphericity(stats.cell_means(balanced, "y"))
        assert pytest.approx(0.8697574938176412, rel=1e-9) == got.W
        assert got.p == pytest.approx(0.3765193108968574, rel=1e-9)

    def test_sphericity_of_four_levels(self):
        index = pd.MultiIndex.from_product([["all"], range(15)])
        got = stats.sphericity(pd.DataFrame(WIDE4, index=index))
        np.testing.assert_allclose(
            [got.W, got.chi2, got.df, got.eps_gg, got.eps_hf],
            [0.19835267711736324, 20.580848747521188, 5, 0.6095120878319147, 0.696384168273128],
            rtol=1e-8,
        )
        # pingouin follows R, which has the number of levels where Anderson's second term has one less
        assert got.p == pytest.approx(0.001011614704781286, rel=2e-3)

    def test_epsilons_of_classes_by_the_double_centred_covariance(self):
        """Box's formula on the covariance pooled within classes; Huynh and Feldt's as Lecoutre (1991) mended it."""
        counts = (8, 5, 6)
        got = stats.sphericity(stats.cell_means(long(UNEQUAL, counts), "y"))
        parts = np.split(UNEQUAL, np.cumsum(counts)[:-1])
        S = sum((len(x) - 1) * np.cov(x.T) for x in parts) / (19 - 3)
        centred = S - S.mean(0) - S.mean(1)[:, None] + S.mean()
        gg = np.trace(centred) ** 2 / (2 * (centred**2).sum())
        hf = ((19 - 3 + 1) * 2 * gg - 2) / (2 * (19 - 3 - 2 * gg))
        assert (got.eps_gg, got.eps_hf) == pytest.approx((gg, hf), rel=1e-9) and hf < 1

    def test_huynh_and_feldt_s_is_at_most_1(self):
        """Of four rows whose contrasts have one variance and no covariance it would be 3: (4 x 2 - 2) / (2 x 1)."""
        rows = np.array([[1.0, 0, -1], [-1, 0, 1], [1, -2, 1], [-1, 2, -1]])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        wide = pd.DataFrame(rows, index=pd.MultiIndex.from_product([["all"], range(4)]))
        got = stats.sphericity(wide)
        assert got.eps_hf == 1 and 0.9 < got.eps_gg <= 1

    def test_four_raters_of_three_models_are_the_fewest(self, balanced):
        """Three have as many degrees of freedom as there are contrasts."""
        alone = balanced.assign(**{"class": "g0"})
        with pytest.raises(InputError, match="3 raters: too few"):
            stats.mixed_anova(alone[alone.rater < "r03"], "y")
        assert stats.mixed_anova(alone[alone.rater < "r04"], "y")["df2"][0] == 6

    def test_two_levels_are_spherical(self, balanced):
        two = balanced[balanced.model != "C"]
        assert stats.sphericity(stats.cell_means(two, "y")).eps_gg == 1
        got = stats.mixed_anova(two, "y").set_index("source")
        assert got.loc["model", "p"] == got.loc["model", "p_gg"]

    def test_models_keep_their_order_of_appearance(self, balanced):
        assert list(stats.cell_means(balanced[::-1], "y").columns) == ["C", "B", "A"]

    def test_over_clips_it_is_a_regression_s_two_way_anova(self):
        """Sums of squares as what least squares leaves without an effect; 4 clips of 3 models in 2 classes."""
        rng = np.random.default_rng(4)
        g, m, i = (k.ravel() for k in np.indices((2, 3, 4)))
        y = 0.3 * g + 0.5 * m + 0.4 * g * (m == 1) + rng.standard_normal(24)
        table = pd.DataFrame({"class": g, "model": m, "item": i, "y": y})
        twice = pd.concat([table.assign(y=y + 0.5), table.assign(y=y - 0.5)])  # two raters of every clip
        rows, columns = np.eye(2)[g], np.eye(3)[m]
        both = np.eye(6)[3 * g + m]

        def rest(*design):
            X = np.column_stack([np.ones(24), *design])
            return ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum()

        error, df = rest(both), 24 - 6
        effects = {
            "class": (rest(columns) - rest(rows, columns), 1),
            "model": (rest(rows) - rest(rows, columns), 2),
            "Interaction": (rest(rows, columns) - error, 2),
        }
        got = stats.by_items(twice, "y").set_index("source")
        for name, (ss, df1) in effects.items():
            F = ss / df1 / (error / df)
            row = got.loc[name]
            assert (row.df1, row.df2) == (df1, df)
            expected = [ss, F, scipy.stats.f.sf(F, df1, df), ss / (ss + error)]
            np.testing.assert_allclose([row.SS, row.F, row.p, row.eta_p2], expected, rtol=1e-9)

    def test_repeated_ratings_are_averaged_first(self, balanced):
        twice = pd.concat([balanced.assign(y=balanced.y - 1), balanced.assign(y=balanced.y + 1)])
        pd.testing.assert_frame_equal(stats.mixed_anova(twice, "y"), stats.mixed_anova(balanced, "y"))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d.rename(columns={"rater": "subject"}), "no column rater"),
            (lambda d: d.iloc[:0], "empty"),
            (lambda d: d.assign(y="high"), "not numeric"),
            (lambda d: d.assign(y=d.y.where(d.index != 4)), "1 row with a missing value, first at row 4"),
            (
                lambda d: d.assign(y=d.y.where(d.index != 4, np.inf)),
                "1 row with a missing value, first at row 4",
            ),
            (lambda d: d.drop(index=4), "rater 'r01' .* has no rating for every model"),
            (lambda d: d.assign(rater=[f"r{i % 9}" for i in range(len(d))]), "appears in 3 classes"),
            (lambda d: d[d.model == "A"], "one level of model"),
            (lambda d: d[(d["class"] != "g0") | (d.rater == "r00")], "class 'g0' has one rater"),
            (lambda d: d.assign(y=5.0), "do not vary"),
        ],
    )
    def test_bad_tables(self, balanced, change, says):
        with pytest.raises(InputError, match=says) as caught:
            stats.mixed_anova(change(balanced), "y")
        assert "\n" not in str(caught.value)


class TestCrossed:
    """Every rater rated every class."""

    @pytest.fixture
    def crossed(self, balanced):
        return balanced.assign(rater=[f"r{i // 3 % 6}" for i in range(len(balanced))])

    def test_main_effect_is_pingouins_of_two_factors_within(self, crossed):
        (row,) = stats.mixed_anova(crossed, "y", between=None).to_dict("records")
        assert (row["source"], row["df1"], row["df2"]) == ("model", 2, 10)
        for name, value in {
            "F": 3.215682030866568,
            "p": 0.083489509381238,
            "eps": 0.917651197989229,
            "p_gg": 0.090086804072159,
            "eta_p2": 0.391407800202728,
        }.items():
            assert row[name] == pytest.approx(value, rel=1e-9), name

    def test_one_class_is_pingouins_of_one_factor(self, balanced):
        alone = balanced.assign(**{"class": "g0"})
        (row,) = stats.mixed_anova(alone, "y").to_dict("records")
        got = {name: row[name] for name in ("SS", "df1", "df2", "F", "p", "eps", "p_gg", "eta_p2")}
        assert got == pytest.approx(
            {"SS": 3.907137, "df1": 2, "df2": 34, "F": 3.514307, "p": 0.040989, "eps": 0.83441}
            | {"p_gg": 0.050836, "eta_p2": 0.17131},
            rel=2e-5,
        )
        pd.testing.assert_frame_equal(
            stats.mixed_anova(alone, "y", between=None), stats.mixed_anova(alone, "y")
        )

    def test_classes_weigh_the_same_whatever_was_rated_of_them(self, crossed):
        more = pd.concat([crossed, *[crossed[crossed["class"] == "g1"]] * 3])
        pd.testing.assert_frame_equal(
            stats.mixed_anova(more, "y", between=None), stats.mixed_anova(crossed, "y", between=None)
        )

    def test_means_keep_the_order_of_models_and_name_raters(self, crossed):
        shuffled = crossed.sort_values("model", ascending=False, kind="stable")
        wide = stats.cell_means(shuffled, "y", between=None)
        assert list(wide.columns) == ["C", "B", "A"]
        assert list(wide.index) == [("all", f"r{i}") for i in range(6)]
        np.testing.assert_allclose(wide.loc[("all", "r2"), "C"], np.mean([C[2], C[8], C[14]]))

    def test_post_hoc_pairs_raters(self, crossed):
        got = stats.post_hoc(crossed, "y", between=None).set_index(["a", "b"])
        means = DATA.reshape(3, 6, 3).mean(0)
        t, p = scipy.stats.ttest_rel(means[:, 1], means[:, 0])
        assert got.loc[("A", "B"), "df"] == 5
        assert got.loc[("A", "B"), "t"] == pytest.approx(t)
        assert got.loc[("A", "B"), "p"] == pytest.approx(p)
        renamed = crossed.rename(columns={"class": "survey"})
        again = stats.post_hoc(renamed, "y", between=None, crossed="survey")
        pd.testing.assert_frame_equal(again.set_index(["a", "b"]), got)

    def test_which_design_it_is(self, balanced, crossed):
        assert stats.classes_between(balanced) == "class"
        assert stats.classes_between(crossed) is None
        assert stats.classes_between(balanced[balanced["class"] == "g1"]) is None
        assert (
            stats.classes_between(balanced.rename(columns={"class": "survey"}), between="survey") == "survey"
        )

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d[(d["class"] != "g2") | (d.rater == "r1")], "rater 'r0' rated 2 of 3 class levels"),
            (
                lambda d: d[(d["class"] == "g2") | (d.rater == "r1")],
                "rater 'r0' rated 1 of 3.*, rater 'r1' 3;",
            ),
            (
                lambda d: d[(d["class"] == "g2") | (d.rater == "r0")],
                "rater 'r1' rated 1 of 3.*, rater 'r0' 3;",
            ),
            (lambda d: d[d["class"] + d.rater != "g2r3"], "rater 'r3' rated 2 of 3.*, rater 'r0' 3;"),
            (lambda d: d.drop(columns="class"), "no column class"),
            (lambda d: d.iloc[:0], "empty"),
            (lambda d: d.assign(rater=d.rater.where(d.index != 7)), "1 row with a missing value"),
        ],
    )
    def test_neither_design(self, crossed, change, says):
        with pytest.raises(InputError, match=says):
            stats.classes_between(change(crossed))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d.drop(index=4), "rater 'r1' has no rating for every model of every class"),
            (
                lambda d: d[(d["class"] != "g1") | (d.model != "B")],
                "no rating for every model of every class",
            ),
            (lambda d: d[d.rater == "r0"], "one rater; an analysis needs at least two"),
            (
                lambda d: d[d.rater < "r2"],
                "2 raters: too few to estimate sphericity of 3 levels; it takes 4$",
            ),
        ],
    )
    def test_bad_tables(self, crossed, change, says):
        with pytest.raises(InputError, match=says) as caught:
            stats.mixed_anova(change(crossed), "y", between=None)
        assert "\n" not in str(caught.value)

    def test_clips_of_one_class(self):
        rng = np.random.default_rng(3)
        table = pd.DataFrame(
            [("rain", m, str(i), r, rng.normal()) for m in "AB" for i in range(5) for r in "xyz"],
            columns=["class", "model", "item", "rater", "y"],
        )
        (row,) = stats.by_items(table, "y").to_dict("records")
        means = table.groupby(["model", "item"]).y.mean()
        F, p = scipy.stats.f_oneway(means["A"], means["B"])
        assert (row["source"], row["df1"], row["df2"]) == ("model", 1, 8)
        assert (row["F"], row["p"]) == pytest.approx((F, p))


class TestPostHoc:
    def test_is_pingouins(self, balanced):
        got = stats.post_hoc(balanced, "y")
        np.testing.assert_allclose(
            got.t, [2.890264086906628, 2.1961895015778117, 0.23739495357456022], rtol=1e-9
        )
        np.testing.assert_allclose(
            got.p, [0.010170198018798579, 0.04224001604830263, 0.8151877496622898], rtol=1e-9
        )
        np.testing.assert_allclose(got.p_adjusted, [0.030510594056395737, 0.1267200481449079, 1], rtol=1e-9)
        np.testing.assert_allclose(
            got.loc[0, ["diff_low", "diff_high"]].astype(float), [0.14, 0.93], atol=0.005
        )
        np.testing.assert_allclose(
            got.loc[2, ["diff_low", "diff_high"]].astype(float), [-0.52, 0.65], atol=0.005
        )
        assert list(got.a) == ["A", "A", "B"] and (got.df == 17).all()

    def test_a_model_that_is_worse_has_the_same_p_and_intervals_below_zero(self, balanced):
        """B and A in the other order, and at a level of one's own."""
        got = stats.post_hoc(balanced[::-1], "y", level=0.8).set_index(["a", "b"]).loc[("B", "A")]
        told = scipy.stats.ttest_rel(A, B)
        assert (got["t"], got["p"]) == pytest.approx((told.statistic, told.pvalue)) and got["t"] < 0
        assert (got["diff_low"], got["diff_high"]) == pytest.approx(tuple(told.confidence_interval(0.8)))
        assert got["p_adjusted"] == pytest.approx(3 * told.pvalue)
        assert (got["mean_a"], got["mean_b"]) == pytest.approx((np.mean(B), np.mean(A)))
        low, high = got["d_z_low"] * 18**0.5, got["d_z_high"] * 18**0.5
        assert scipy.stats.nct.cdf(got["t"], 17, low) == pytest.approx(0.9, abs=1e-6)
        assert scipy.stats.nct.cdf(got["t"], 17, high) == pytest.approx(0.1, abs=1e-6)

    def test_effect_size_interval_inverts_the_noncentral_t(self, balanced):
        from scipy.stats import nct

        row = stats.post_hoc(balanced, "y").iloc[0]
        assert row.d_z == pytest.approx(row.t / np.sqrt(18))
        assert nct.cdf(row.t, 17, row.d_z_low * np.sqrt(18)) == pytest.approx(0.975, abs=1e-6)
        assert nct.cdf(row.t, 17, row.d_z_high * np.sqrt(18)) == pytest.approx(0.025, abs=1e-6)
        for t, df in [(40.0, 200), (8.4, 279), (-20.0, 279), (0.0, 5), (3.0, 1), (34.9, 50)]:
            low, high = stats.noncentral_t_ci(t, df)
            assert low < t < high

    @pytest.mark.parametrize(
        ("t", "df"), [(36.0, 2), (-40.0, 6), (50.0, 5), (36.0, 39), (100.0, 279), (60.0, 1)]
    )
    def test_intervals_of_large_t_are_exact(self, t, df):
        """A normal approximation had 0.67 ... 71.3 for t = 36, df = 2, whose interval is 5.65 ... 69.2."""

        def tail(d):  # P(T <= t) as the mean over chi
            def at(s):
                return scipy.stats.norm.cdf(t * s - d) * 2 * s * df * scipy.stats.chi2.pdf(df * s * s, df)

            edge, step = d / t, 8 / abs(t)
            knots = sorted({0, *np.clip([edge - step, edge, edge + step], 0, 6), *np.linspace(0, 6, 13)})
            return sum(scipy.integrate.quad(at, *ends, limit=200)[0] for ends in itertools.pairwise(knots))

        low, high = stats.noncentral_t_ci(t, df)
        assert (tail(low), tail(high)) == pytest.approx((0.975, 0.025), abs=1e-6)

    def test_intervals_join_where_the_method_changes(self):
        for df in (2, 9, 279):
            np.testing.assert_allclose(
                stats.noncentral_t_ci(35 - 1e-6, df), stats.noncentral_t_ci(35 + 1e-6, df), rtol=1e-5
            )

    def test_bad_levels(self, balanced):
        with pytest.raises(InputError, match="level 95: a confidence level lies between 0 and 1"):
            stats.post_hoc(balanced, "y", level=95)
        with pytest.raises(InputError, match="level 1"):
            stats.noncentral_t_ci(2.0, 5, 1)
        with pytest.raises(InputError, match="finite t"):
            stats.noncentral_t_ci(float("inf"), 5)

    def test_adjustments(self):
        p = [0.01, 0.04, 0.03]
        np.testing.assert_allclose(stats.adjust_p(p, "holm"), [0.03, 0.06, 0.06])
        np.testing.assert_allclose(stats.adjust_p(p, "bonferroni"), [0.03, 0.12, 0.09])
        np.testing.assert_allclose(stats.adjust_p(p), [0.03, 0.12, 0.09])
        assert stats.adjust_p(p, "none").tolist() == p
        with pytest.raises(InputError, match="unknown adjustment"):
            stats.adjust_p(p, "fdr")
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            stats.adjust_p([1.5])

    def test_constant_difference_has_no_t(self, balanced):
        table = balanced.assign(y=balanced.model.map({"A": 1.0, "B": 2.0, "C": 3.0}))
        with pytest.raises(InputError, match="same amount"):
            stats.post_hoc(table, "y")


class TestPower:
    def test_is_pingouins(self):
        # pg.power_ttest(d=.4, n=50, contrast="paired"); pg.power_ttest(d=.4, power=.9, ..., alpha=.05 / 3) = 87.33
        assert stats.paired_t_power(0.4, 50) == pytest.approx(0.7917871892678124, abs=1e-6)
        assert stats.raters_needed(0.4, 0.9, 0.05 / 3) == 88

    @pytest.mark.parametrize(("power", "raters"), [(0.8, 34), (0.9, 44), (0.95, 54)])
    def test_raters_needed_are_g_power_s(self, power, raters):
        """G*Power 3.1, difference of two dependent means, two-sided, d_z 0.5, alpha 0.05."""
        assert stats.raters_needed(0.5, power) == raters
        assert stats.raters_needed(0.5) == 44 and stats.raters_needed(-0.5) == 44
        assert stats.raters_needed(60.0) == 2  # one has no deviation

    def test_grows_to_one(self):
        powers = [stats.paired_t_power(0.5, n, 0.05 / 3) for n in range(2, 2000, 7)]
        assert (
            np.isfinite(powers).all() and (np.diff(powers) > -1e-9).all() and powers[-1] == pytest.approx(1)
        )
        assert stats.paired_t_power(-0.5, 20) == pytest.approx(stats.paired_t_power(0.5, 20))

    def test_is_what_simulation_finds(self):
        rng = np.random.default_rng(0)
        gaps = 0.5 + rng.standard_normal((4000, 20))
        t = gaps.mean(1) / gaps.std(1, ddof=1) * np.sqrt(20)
        assert (np.abs(t) > 2.093).mean() == pytest.approx(stats.paired_t_power(0.5, 20), abs=0.025)

    def test_bad_input(self):
        with pytest.raises(InputError, match="effect not 0"):
            stats.raters_needed(0.0)
        with pytest.raises(InputError, match="at least 2"):
            stats.paired_t_power(0.5, 1)


class TestPublished:
    @pytest.mark.parametrize("question", papers.QUESTIONS)
    def test_anova_of_section_v_c_is_consistent(self, question):
        f = papers.ANOVA[question]
        assert stats.check_eta_p2(f.F, f.df1, f.df2, f.eta_p2, f.eta_decimals, f.df1_decimals).agrees
        assert stats.check_p(f.F, f.df1, f.df2, f.p_below).agrees
        raters = stats.implied_raters(f.df1, f.df2, 3, 7)
        design = papers.LISTENING_DESIGN
        assert design["surveys"] * design["listeners_per_survey"] in raters
        assert 0.9 < stats.implied_epsilon(f.df2, 3, 7, 280) < 1

    def test_implied_raters_recovers_a_design(self):
        # eps 0.93, 3 levels, 280 raters in 7 classes: df 1.86 and 507.78
        assert 280 in stats.implied_raters(1.86, 507.78, 3, 7, 2, 2)
        assert len(stats.implied_raters(1.86, 507.78, 3, 7, 2, 2)) <= 3
        assert 280 not in stats.implied_raters(1.9, 400.0, 3, 7)

    def test_inconsistent_figures_are_found(self):
        assert not stats.check_eta_p2(115.3, 1.9, 509.6, 0.4, 1, 1).agrees
        assert not stats.check_p(2.0, 1.9, 509.6, 0.001).agrees
        assert not stats.check_average([1.0, 2.0], 1.6).agrees

    def test_rounded_or_truncated(self):
        assert "rounded" in stats.check_average([1.0, 2.004], 1.5).derived
        assert all(stats.check_average(r.fads, r.average).agrees for r in papers.TABLE_1)
        assert all(-0.0052 <= np.std(r.fads, ddof=1) - r.std < 0.01 for r in papers.TABLE_1)
        assert "truncated" in stats.check_average([1.0, 2.019], 1.5).derived

    def test_grim(self):
        assert not stats.grim(5.19, 28).consistent  # Brown and Heathers' own example
        assert stats.grim(5.18, 28).consistent and stats.grim(5.18, 28).decisive
        assert not stats.grim(4.92, 600).decisive

    def test_implied_error_returns_the_f(self, balanced):
        got = stats.mixed_anova(balanced, "y").set_index("source")
        means = balanced.groupby("model").y.mean()
        error = stats.implied_error_ms(means, got.loc["model", "F"], 18)
        table = balanced.groupby(["class", "model"]).y.mean().unstack()
        implied = stats.implied_interaction(table, error, 6)
        assert implied["F"] == pytest.approx(got.loc["Interaction", "F"], rel=1e-9)
        assert implied["eta_p2"] == pytest.approx(got.loc["Interaction", "eta_p2"], rel=1e-9)

    def test_contrasts_of_published_means(self):
        means = papers.listening_by_class("quality")
        got = stats.implied_contrasts(means, "Ground Truth", "LDM+Tuning+Latent", 0.44, 40).set_index("class")
        assert got.loc["dog_bark", "diff"] == pytest.approx(6.84 - 4.92)
        assert got.loc["dog_bark", "p_holm"] < 0.001 < got.loc["sneeze_cough", "p_holm"]
        assert got.loc["sneeze_cough", "ci_low"] < -0.23 < got.loc["sneeze_cough", "ci_high"]


def test_grim_s_two_bounds():
    """Of 70 ratings 3.471 and 3.486 are next to 3.48, neither prints so; of 100 every two decimals can be."""
    assert not stats.grim(3.48, 70).consistent and stats.grim(3.47, 70).consistent
    assert stats.grim(3.48, 99).decisive and not stats.grim(3.48, 100).decisive


def test_p_at_the_printed_bound_is_not_below_it():
    p = float(scipy.stats.f.sf(3.0, 2, 40))
    assert not stats.check_p(3.0, 2, 40, p).agrees and stats.check_p(3.0, 2, 40, p * 1.001).agrees


def test_implied_raters_by_hand():
    """N - 7 = df2 / df1, each anywhere that it prints from; epsilon is at most 1, and so df1 at most 2."""
    rounded, cut = (stats.implied_raters(1.9, 509.6, 3, 7, truncated=t) for t in (False, True))
    assert (rounded[0], rounded[-1]) == (7 + 262, 7 + 275)  # 509.55 / 1.95 = 261.3, 509.65 / 1.85 = 275.5
    assert (cut[0], cut[-1]) == (7 + 255, 7 + 268)  # 509.6 / 2.0 = 254.8, 509.7 / 1.9 = 268.3
    assert stats.implied_raters(2.0, 100.0, 3, 1) == [51, 52]  # 99.95 / 2 = 49.98, 100.05 / 1.95 = 51.3
    assert stats.implied_epsilon(509.6, 3, 7, 280) == pytest.approx(509.6 / (2 * 273))


def test_implied_contrasts_by_hand():
    """Ten raters in each of two classes, three models, error 0.5: a standard error of root 0.1, 2 x 9 x 2 df."""
    means = pd.DataFrame({"A": [5.0, 6.0], "B": [5.2, 6.1], "C": [6.0, 6.2]}, index=["rain", "keyboard"])
    got = stats.implied_contrasts(means, "A", "C", 0.5, 10)
    half = scipy.stats.t.ppf(0.975, 36) * 0.1**0.5
    np.testing.assert_allclose(got["diff"], [1.0, 0.2])
    np.testing.assert_allclose(got["ci_low"], [1.0 - half, 0.2 - half])
    np.testing.assert_allclose(got["ci_high"], [1.0 + half, 0.2 + half])
    np.testing.assert_allclose(got["p"], 2 * scipy.stats.t.sf(np.array([1.0, 0.2]) / 0.1**0.5, 36))
    np.testing.assert_allclose(got["p_holm"], got["p"] * [2, 1])


def test_clips_of_a_simulation_keep_the_published_means():
    """Published means are of those very clips: their own differences cancel within a cell."""
    noise = stats.RatingNoise(rater=0.0, rater_model=0.0, item=30.0, residual=0.0)
    means = pd.DataFrame({"A": [500.0, 400.0], "B": [450.0, 600.0]}, index=["rain", "keyboard"])
    table = stats.simulate_ratings({"q": means}, {"q": noise}, raters=2, items=5, scale=(0, 1000))
    assert table.groupby(["class", "model", "item"])["q"].mean().std() > 20
    made = table.groupby(["class", "model"])["q"].mean().unstack()
    np.testing.assert_allclose(made.loc[means.index, means.columns], means, atol=0.5)
    assert stats.RatingNoise(1.0, 2.0, 2.0, 4.0).total == 5


def test_ratings_that_are_cut_at_the_scale_s_end_keep_their_mean():
    """Of 9.3 with a deviation of 2 a third lies beyond 10, and cut there they would average to 8.8."""
    noise = stats.RatingNoise(rater=0.0, rater_model=0.0, item=0.0, residual=2.0)
    means = pd.DataFrame({"A": [9.3], "B": [0.7]}, index=["rain"])
    table = stats.simulate_ratings({"q": means}, {"q": noise}, raters=200, items=50)
    assert table.groupby("model")["q"].mean().to_list() == pytest.approx([9.3, 0.7], abs=0.07)


@pytest.mark.parametrize(
    ("F", "printed", "agrees"), [(57.1, 0.3, True), (57.1, 0.4, True), (70.0, 0.3, False)]
)
def test_a_printed_eta_may_be_rounded_or_cut(F, printed, agrees):
    """F = 57.1 of 1 and 100: 57.1 / 157.1 = 0.363 is 0.4 rounded and 0.3 cut; 70 / 170 = 0.412 is no 0.3."""
    assert stats.check_eta_p2(F, 1.0, 100.0, printed, 1, 6).agrees == agrees


@pytest.mark.parametrize(
    ("value", "how"),
    [
        (1.9951, "rounded"),
        (1.99492, "rounded"),
        (1.9945, "differs"),
        (2.0049, "rounded"),
        (2.009, "truncated"),
    ],
)
def test_a_printed_average_of_rounded_parts(value, how):
    """2.00: within half of the last digit, and a fiftieth more since the parts are rounded too, or cut."""
    made = stats.check_average([value - 1, value + 1], 2.0)
    assert how in made.derived and made.agrees == (how != "differs")
    below = stats.check_average([1.985], 2.0)  # a figure is never cut upwards
    assert "differs" in below.derived


class TestSimulation:
    @pytest.fixture(scope="class")
    def simulated(self):
        means = {q: papers.listening_by_class(q) for q in papers.QUESTIONS}
        noise = {
            q: stats.RatingNoise.from_error_ms(
                stats.implied_error_ms(papers.TABLE_2[q], papers.ANOVA[q].F, 280), 15
            )
            for q in papers.QUESTIONS
        }
        return stats.simulate_ratings(means, noise, seed=1)

    def test_shape_and_scale(self, simulated):
        assert len(simulated) == 7 * 40 * 3 * 15
        assert list(simulated.columns) == ["rater", "class", "model", "item", "quality", "relevance"]
        assert simulated.rater.nunique() == 280
        assert simulated.quality.between(0, 10).all() and simulated.quality.dtype.kind == "i"

    def test_means_are_the_published_ones(self, simulated):
        got = simulated.groupby(["class", "model"])["relevance"].mean().unstack()
        expected = papers.listening_by_class("relevance")
        gap = (got[expected.columns].loc[expected.index] - expected).to_numpy()
        # a class's raters share a level: SD 1.2 / sqrt(40), so the mean over classes is what must agree
        assert np.abs(gap).max() < 0.9 and abs(gap.mean()) < 0.25

    def test_anova_finds_the_published_size(self, simulated):
        got = stats.mixed_anova(simulated, "quality").set_index("source")
        assert got.loc["model", "df2"] == 546
        assert 60 < got.loc["model", "F"] < 200  # published: 115.3
        over_clips = stats.by_items(simulated, "quality").set_index("source")
        assert over_clips.loc["model", "df2"] == 7 * 3 * 14
        value, error, p = stats.min_f_prime(got.loc["model", "F"], 546, over_clips.loc["model", "F"], 294, 2)
        assert (
            value < min(got.loc["model", "F"], over_clips.loc["model", "F"]) and 0 < p < 0.05 and error > 294
        )

    def test_deterministic_and_readable(self, simulated, tmp_path):
        simulated.to_csv(tmp_path / "r.csv", index=False)
        back = stats.read_ratings(tmp_path / "r.csv")
        pd.testing.assert_frame_equal(
            stats.mixed_anova(back, "quality"), stats.mixed_anova(simulated, "quality")
        )

    def test_bad_csv(self, tmp_path):
        path = tmp_path / "r.csv"
        with pytest.raises(InputError, match=r"r\.csv"):
            stats.read_ratings(path)
        for text, says in [
            ("", "No columns"),
            ("rater,class,model,quality,relevance\n", "no column item"),
            ("rater,class,model,item,quality,relevance\na,rain,x,1,good,2\n", "quality is not numeric"),
            ("rater,class,model,item,quality,relevance\na,,x,1,1,2\n", "row 1 below the header has no class"),
        ]:
            path.write_text(text)
            with pytest.raises(InputError, match=says):
                stats.read_ratings(path)

    def test_by_items_needs_equal_cells(self, simulated):
        with pytest.raises(InputError, match="equally many clips"):
            stats.by_items(simulated[(simulated["class"] != "rain") | (simulated["item"] != "0")], "quality")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d.drop(columns="item"), "no column item; there are rater, class"),
            (lambda d: d.drop(columns="quality"), "no column quality"),
            (lambda d: d.assign(quality="high"), "quality is not numeric"),
            (
                lambda d: d.assign(quality=d.quality.where(d.index != 7)),
                "1 row with a missing value, first at row 7",
            ),
            (lambda d: d.iloc[:0], "empty"),
            (lambda d: d[d["item"] == "0"], "equally many clips, at least 2"),
        ],
    )
    def test_by_items_of_bad_tables(self, simulated, change, says):
        """KeyError, TypeError, or a rating that was left out without a word."""
        with pytest.raises(InputError, match=says):
            stats.by_items(change(simulated), "quality")

    def test_noise_that_cannot_be(self):
        with pytest.raises(InputError, match="already exceeds"):
            stats.RatingNoise.from_error_ms(0.1, 15, residual=2.0)


# ------------------------------------------------------------------- a measure's course over a sweep


@pytest.mark.parametrize("comparisons", [1, 3])
def test_critical_item_sd_of_a_pair(comparisons):
    """Clips with that SD around two means: their t-test just reaches its level."""
    sd = stats.critical_item_sd_of_pair(6.0, 6.5, 15, 7, comparisons=comparisons)
    unit = np.linspace(-1, 1, 15)
    cells = unit / unit.std(ddof=1) * sd
    one, other = (np.tile(cells + mean, 7) for mean in (6.0, 6.5))
    pooled = np.sqrt(2 * sd**2 / 105)
    p = 2 * scipy.stats.t.sf((other.mean() - one.mean()) / pooled, 2 * 7 * 14)
    assert p == pytest.approx(0.05 / comparisons)
    assert sd == stats.critical_item_sd_of_pair(6.5, 6.0, 15, 7, comparisons=comparisons)


def sweep(*seeds, levels=(0, 1, 2, 4)):
    return pd.DataFrame(list(seeds), columns=list(levels)[: len(seeds[0])])


def test_course_permutes_within_seeds():
    """Two seeds of three levels have 36 orders: a perfect trend is two of them, and never p < 0.05."""
    two = stats.course(sweep([1, 2, 3], [11, 12, 13]))
    assert two.p_rank == pytest.approx(2 / 36) == two.p_rise == two.p_least
    assert two.rank == pytest.approx(1) and two.word == "too few points to tell"
    three = stats.course(sweep([1, 2, 3], [11, 12, 13], [21, 22, 23]))
    assert three.p_rank == pytest.approx(2 / 216) and three.word == "rises"
    # the level of a seed as a whole says nothing, however far the seeds lie apart
    shifted = stats.course(sweep([1, 2, 3], [911, 912, 913], [-21, -20, -19]))
    assert (shifted.p_rank, shifted.rank) == (three.p_rank, three.rank)


@pytest.mark.parametrize(
    ("data", "lowest", "told"),
    [
        ([[3.0, 1.0, 2.0], [2.5, 2.0, 0.5]], 2, (2.75, 1.5, 1.25)),
        ([[1.0, 3.0, 2.0], [2.0, 1.0, 5.0]], 1, (1.5, 2.0, 3.5)),
    ],
    ids=["falling", "rising"],
)
def test_course_counts_every_permutation(data, lowest, told):
    """Against a plain enumeration of all orders of both seeds; the lowest level is looked for above the first."""
    data = np.array(data)
    found = stats.course(sweep(*data))
    means = [
        (np.array(a) + np.array(b)) / 2
        for a in itertools.permutations(data[0])
        for b in itertools.permutations(data[1])
    ]
    gain = data.mean(0)[1:].min() - data.mean(0)[0]
    loss = data.mean(0)[-1] - data.mean(0).min()
    assert found.p_fall == pytest.approx(np.mean([m[1:].min() - m[0] <= gain + 1e-12 for m in means]))
    assert found.p_rise == pytest.approx(np.mean([m[-1] - m.min() >= loss - 1e-12 for m in means]))
    assert found.lowest == lowest and found.means == pytest.approx(told)


def test_course_takes_levels_in_any_order():
    data = sweep([3.0, 1.0, 2.0, 4.0], [2.5, 2.0, 0.5, 5.0])
    assert stats.course(data[[4, 0, 2, 1]]) == stats.course(data)


@pytest.mark.parametrize(("p", "word"), [(0.026, "no trend"), (0.024, "falls")])
def test_two_tests_share_the_level_of_one(p, word):
    """0.05 for both together: each has to be below 0.025."""
    assert stats.Course((0, 1), (2, 1), -1, 0.5, 1, p, 0.9, 0.001).word == word


def test_course_sees_fig_3_s_shape():
    """A valley has no rank correlation: what the paper claims is found all the same, and named."""
    lams, noise = np.arange(0, 3500, 500.0), np.random.default_rng(0)
    valley = sweep(*(((lams - 1500) / 1000) ** 2 + noise.normal(0, 0.1, (3, 7))), levels=lams)
    found = stats.course(valley)
    assert found.p_rank > 0.3 and found.word == "falls and rises again" and found.lowest == 1500
    falling = sweep(*(-lams / 1000 + noise.normal(0, 0.1, (3, 7))), levels=lams)
    assert stats.course(falling).word == "falls"
    assert stats.course(-falling).word == "rises"


def test_course_finds_nothing_in_noise():
    noise = np.random.default_rng(1)
    words = [stats.course(sweep(*noise.normal(size=(3, 4))), draws=500).word for _ in range(60)]
    assert words.count("no trend") > 45


@pytest.mark.parametrize("seeds", [1, 2])
def test_course_of_few(seeds):
    """One seed, or two levels: what cannot be asked is NaN, and nothing is claimed."""
    one = stats.course(sweep(*[[3.0, 2.0, 1.0]] * seeds))
    assert one.word == "too few points to tell" and np.isnan(one.p_fall) == (seeds == 1)
    two = stats.course(sweep(*[[3.0, 2.0]] * 6))
    assert np.isnan(two.p_rank) and two.word == "falls" and two.p_fall == pytest.approx(1 / 64)
    assert stats.course(sweep(*[[1.0, 1.0, 1.0]] * 3)).word == "no trend"  # all the same


def test_course_of_many_levels():
    """Page's exact test listed all orders of the levels: a MemoryError of eleven."""
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 11))
    levels = tuple(range(11))
    rising = stats.course(sweep(*(np.arange(11) + noise), levels=levels))
    assert rising.rank_test == "Page, permutations within seeds" and rising.word == "rises"
    assert rising.p_rank == pytest.approx(2 / 20_001)
    again = stats.course(sweep(*noise, levels=levels))
    assert again == stats.course(sweep(*noise, levels=levels)) and again.p_rank > 0.05


def test_course_s_permutations_are_page_s_test(monkeypatch):
    data = np.random.default_rng(2).normal(size=(3, 6)) + 0.25 * np.arange(6)
    exact = stats.course(sweep(*data, levels=range(6)))
    monkeypatch.setattr(sys.modules["latentclap.stats.course"], "EXACT_LEVELS", 5)
    drawn = stats.course(sweep(*data, levels=range(6)))
    assert exact.rank_test == "Page, exact" and drawn.rank_test == "Page, permutations within seeds"
    assert 0.01 < exact.p_rank < 0.5 and drawn.p_rank == pytest.approx(exact.p_rank, rel=0.1)


def test_course_refuses():
    with pytest.raises(InputError, match="two levels or more"):
        stats.course(sweep([1.0], levels=(0,)))
    with pytest.raises(InputError, match="for each seed"):
        stats.course(sweep([1.0, np.nan], [1.0, 2.0]))
