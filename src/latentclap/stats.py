"""Statistics of a listening study (section V-C), and checks of statistics that others published.

`mixed_anova` is the paper's analysis: class between listeners, model within. `post_hoc` are its paired
t-tests. The checks ask whether printed figures fit each other: F with p and partial eta squared, degrees of
freedom with a number of listeners, averages with their parts, means with their number of ratings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.classes import canonical_class
from latentclap.errors import InputError


def cell_means(
    table: pd.DataFrame, dv: str, *, subject: str = "rater", within: str = "model", between: str = "class"
) -> pd.DataFrame:
    """Average a long table over repeated ratings: one row a subject, one column a level of ``within``.

    Args:
        table: long: one row a rating.
        dv: column of the rating.
        subject: column that names the rater; the same name in two classes is an error.
        within: column of the repeated factor.
        between: column of the factor between raters.

    Returns:
        Index (between, subject), columns the levels of ``within`` in order of appearance.

    Raises:
        InputError: a column is missing or not numeric, ratings are missing, a rater lacks a level or belongs
            to two classes.
    """
    missing = [c for c in (dv, subject, within, between) if c not in table.columns]
    if missing:
        raise InputError(f"ratings: no column {', '.join(missing)}; there are {', '.join(map(str, table))}")
    if len(table) == 0:
        raise InputError("ratings: the table is empty")
    if not pd.api.types.is_numeric_dtype(table[dv]):
        raise InputError(f"ratings: column {dv} is not numeric")
    bad = table[[dv, subject, within, between]].isna().any(axis=1) | ~np.isfinite(table[dv])
    if bad.any():
        raise InputError(
            f"ratings: {int(bad.sum())} rows with a missing value, first at row {bad.to_numpy().argmax()}; "
            "leave out the rater or fill in the rating"
        )
    classes = table.groupby(subject, observed=True)[between].nunique()
    if (classes > 1).any():
        raise InputError(
            f"ratings: rater {classes.idxmax()!r} appears in {classes.max()} classes; {between} is between "
            "raters: give raters of different surveys different names"
        )
    wide = table.groupby([between, subject, within], observed=True, sort=True)[dv].mean().unstack(within)
    wide = wide[list(pd.unique(table[within]))]
    if wide.isna().any(axis=None):
        cls, rater = wide.index[wide.isna().any(axis=1).to_numpy().argmax()]
        raise InputError(
            f"ratings: rater {rater!r} ({cls}) has no rating for every {within}; "
            f"{int(wide.isna().any(axis=1).sum())} such raters, leave them out"
        )
    return wide


@dataclass(frozen=True)
class Sphericity:
    """Sphericity of the within factor, from the pooled within-group covariance of its contrasts.

    Attributes:
        W, chi2, df, p: Mauchly's test (1 where the factor has two levels, by definition).
        eps_gg: Greenhouse and Geisser's epsilon.
        eps_hf: Huynh and Feldt's (with Lecoutre's correction for groups), at most 1.
    """

    W: float
    chi2: float
    df: int
    p: float
    eps_gg: float
    eps_hf: float


def _contrasts(k: int) -> np.ndarray:
    """Orthonormal contrasts (k, k - 1): Helmert's."""
    full = np.zeros((k, k - 1))
    for j in range(1, k):
        full[:j, j - 1], full[j, j - 1] = 1.0, -j
    return full / np.linalg.norm(full, axis=0)


def _groups(wide: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Values (n, k), group codes (n,), number of groups; checked."""
    values = wide.to_numpy(dtype=np.float64)
    codes, names = pd.factorize(wide.index.get_level_values(0), sort=True)
    if values.shape[1] < 2:
        raise InputError(f"one level of {wide.columns.name or 'the within factor'}: nothing to compare")
    small = np.flatnonzero(np.bincount(codes) < 2)
    if small.size:
        raise InputError(f"class {names[small[0]]!r} has one rater; every class needs at least two")
    return values, codes, len(names)


def _error_matrix(z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Pooled within-group scatter of z, (p, p)."""
    means = np.stack([z[codes == g].mean(0) for g in range(codes.max() + 1)])
    rest = z - means[codes]
    return rest.T @ rest


def sphericity(wide: pd.DataFrame) -> Sphericity:
    """Mauchly's test and epsilons of a table from `cell_means`.

    Raises:
        InputError: fewer than two levels, a class with one rater, or no more raters than needed.
    """
    values, codes, groups = _groups(wide)
    n, k = values.shape
    p, dof = k - 1, n - groups
    if dof <= p:
        raise InputError(f"{n} raters in {groups} classes: too few to estimate sphericity of {k} levels")
    s = _error_matrix(values @ _contrasts(k), codes) / dof
    trace = float(np.trace(s))
    if trace <= 0:
        raise InputError("ratings do not vary within raters: no test possible")
    eps = trace**2 / (p * float((s * s).sum()))
    tilde = ((dof + 1) * p * eps - 2) / (p * (dof - p * eps)) if dof > p * eps else 1.0
    if p == 1:
        return Sphericity(1.0, 0.0, 0, 1.0, 1.0, 1.0)
    W = float(np.linalg.det(s) / (trace / p) ** p)
    df = p * (p + 1) // 2 - 1
    rho = 1 - (2 * p**2 + p + 2) / (6 * p * dof)
    chi2 = -dof * rho * math.log(max(W, 1e-300))
    # Anderson 2003, 10.7.4: second term of the expansion
    omega = (p + 2) * (p - 1) * (p - 2) * (2 * p**3 + 6 * p**2 + 3 * p + 2) / (288 * (p * dof * rho) ** 2)
    tail = sps.chi2.sf(chi2, df)
    tail += omega * (sps.chi2.sf(chi2, df + 4) - tail)
    return Sphericity(W, float(chi2), df, float(np.clip(tail, 0, 1)), eps, min(1.0, tilde))


def mixed_anova(
    table: pd.DataFrame, dv: str, *, subject: str = "rater", within: str = "model", between: str = "class"
) -> pd.DataFrame:
    """Mixed-design ANOVA with Greenhouse-Geisser correction (section V-C).

    Repeated ratings of a rater and model are averaged first. Sums of squares are type III (classes weigh the
    same whatever their number of raters); with equal numbers all types agree. The epsilon comes from the
    covariance pooled within classes, as SPSS and R's afex compute it; ignoring the classes would mix their
    differences in.

    Returns:
        One row each for ``between``, ``within`` and Interaction: SS, df1, df2 (uncorrected), MS, F, p, eps,
        df1_gg, df2_gg, p_gg, eta_p2 (partial eta squared). The between row has no correction.

    Raises:
        InputError: see `cell_means`; a class with one rater.
    """
    wide = cell_means(table, dv, subject=subject, within=within, between=between)
    values, codes, groups = _groups(wide)
    if groups < 2:
        raise InputError(f"one {between} only: a mixed ANOVA needs two; use post_hoc")
    n, k = values.shape
    p, counts = k - 1, np.bincount(codes)
    eps = sphericity(wide).eps_gg

    level = values.sum(1) / math.sqrt(k)  # unit-norm average: sums of squares in rating units
    means = np.array([level[codes == g].mean() for g in range(groups)])
    weighted = float(counts @ means / n)
    ss_between, err_between = (
        float(counts @ (means - weighted) ** 2),
        float(((level - means[codes]) ** 2).sum()),
    )

    z = values @ _contrasts(k)
    cells = np.stack([z[codes == g].mean(0) for g in range(groups)])
    err_within = float(np.trace(_error_matrix(z, codes)))
    pull = (counts[:, None] * cells).sum(0) / n
    ss_inter = float((counts[:, None] * (cells - pull) ** 2).sum())
    even = cells.mean(0)
    ss_within = float(even @ even / (1 / counts).sum() * groups**2)

    df_err, df_werr = n - groups, (n - groups) * p
    rows = [
        _anova_row(between, ss_between, groups - 1, err_between, df_err, 1.0),
        _anova_row(within, ss_within, p, err_within, df_werr, eps),
        _anova_row("Interaction", ss_inter, (groups - 1) * p, err_within, df_werr, eps),
    ]
    return pd.DataFrame(rows)


def _anova_row(source: str, ss: float, df1: int, error: float, df2: int, eps: float) -> dict[str, object]:
    if error <= 0:
        raise InputError(f"{source}: ratings leave no error variance; no F test possible")
    F = (ss / df1) / (error / df2)
    return {
        "source": source,
        "SS": ss,
        "df1": df1,
        "df2": df2,
        "MS": ss / df1,
        "F": F,
        "p": float(sps.f.sf(F, df1, df2)),
        "eps": eps,
        "df1_gg": df1 * eps,
        "df2_gg": df2 * eps,
        "p_gg": float(sps.f.sf(F, df1 * eps, df2 * eps)),
        "eta_p2": ss / (ss + error),
    }


def adjust_p(p: Sequence[float] | np.ndarray, method: str = "bonferroni") -> np.ndarray:
    """Adjust p values of a family of tests: "bonferroni", "holm" or "none".

    Raises:
        InputError: unknown method, or values outside [0, 1].
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError("p values must be a list of numbers in [0, 1]")
    if method == "none":
        return p
    if method == "bonferroni":
        return np.minimum(p * p.size, 1.0)
    if method != "holm":
        raise InputError(f"unknown adjustment {method!r}; use bonferroni, holm or none")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out


def noncentral_t_ci(t: float, df: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the noncentrality of an observed t: for standardised effect sizes with exact intervals."""
    from scipy.optimize import brentq

    def miss(d: float, target: float) -> float:
        value = float(sps.nct.cdf(t, df, d))
        # scipy gives NaN in the far tails, where the probability is 1 or 0 to any precision
        return (float(d < t) if math.isnan(value) else value) - target

    def solve(target: float) -> float:
        span = 6.0 * math.sqrt(1 + t**2 / (2 * df))
        return float(brentq(miss, t - span, t + span, args=(target,)))

    if abs(t) > 35:  # scipy's noncentral t loses its digits there; the normal approximation does not
        half = sps.norm.ppf((1 + level) / 2) * math.sqrt(1 + t**2 / (2 * df))
        return t - half, t + half
    return solve((1 + level) / 2), solve((1 - level) / 2)


def post_hoc(
    table: pd.DataFrame,
    dv: str,
    *,
    subject: str = "rater",
    within: str = "model",
    between: str = "class",
    adjust: str = "bonferroni",
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired t-tests between the levels of ``within`` over all raters, adjusted, with effect sizes.

    Returns:
        One row a pair: a, b, mean_a, mean_b, diff (b - a) with its interval, t, df, p, p_adjusted, d_z (mean
        of the differences over their SD) with its exact noncentral-t interval. Intervals are not adjusted.

    Raises:
        InputError: see `cell_means`; two levels that never differ.
    """
    wide = cell_means(table, dv, subject=subject, within=within, between=between)
    rows = []
    n = len(wide)
    if n < 2:
        raise InputError("one rater: no test possible")
    for a, b in itertools.combinations(wide.columns, 2):
        gap = (wide[b] - wide[a]).to_numpy(dtype=np.float64)
        sd = float(gap.std(ddof=1))
        if sd == 0:
            raise InputError(f"ratings of {a} and {b} differ by the same amount for every rater: no t-test")
        se = sd / math.sqrt(n)
        t = float(gap.mean()) / se
        half = float(sps.t.ppf((1 + level) / 2, n - 1)) * se
        low, high = noncentral_t_ci(t, n - 1, level)
        rows.append(
            {
                "a": a,
                "b": b,
                "mean_a": float(wide[a].mean()),
                "mean_b": float(wide[b].mean()),
                "diff": float(gap.mean()),
                "diff_low": float(gap.mean()) - half,
                "diff_high": float(gap.mean()) + half,
                "t": t,
                "df": n - 1,
                "p": float(2 * sps.t.sf(abs(t), n - 1)),
                "d_z": t / math.sqrt(n),
                "d_z_low": low / math.sqrt(n),
                "d_z_high": high / math.sqrt(n),
            }
        )
    out = pd.DataFrame(rows)
    out.insert(out.columns.get_loc("p") + 1, "p_adjusted", adjust_p(out["p"].to_numpy(), adjust))
    return out


# --- power
# ---------------------------------------------------------------------------------------------------


def paired_t_power(d_z: float, n: int, alpha: float = 0.05) -> float:
    """Power of a two-sided paired t-test with n raters at standardised effect d_z."""
    if n < 2:
        raise InputError(f"{n} raters: a paired t-test needs at least 2")
    critical = sps.t.ppf(1 - alpha / 2, n - 1)
    shift = d_z * math.sqrt(n)
    tails = sps.nct.sf(critical, n - 1, abs(shift)), sps.nct.cdf(-critical, n - 1, abs(shift))
    # scipy gives NaN where a tail is 1 or 0 to any precision
    return float(np.nan_to_num(tails[0], nan=float(abs(shift) > critical)) + np.nan_to_num(tails[1]))


def raters_needed(d_z: float, power: float = 0.9, alpha: float = 0.05) -> int:
    """Fewest raters for a paired t-test to reach a power.

    Raises:
        InputError: no effect, or power and alpha outside (0, 1).
    """
    if d_z == 0 or not 0 < alpha < power < 1:
        raise InputError(
            f"effect {d_z}, power {power}, alpha {alpha}: need 0 < alpha < power < 1, effect not 0"
        )
    low, high = 1, 2
    while paired_t_power(d_z, high, alpha) < power:
        low, high = high, high * 2
        if high > 10_000_000:
            raise InputError(f"effect {d_z} is too small for any number of raters worth naming")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paired_t_power(d_z, middle, alpha) >= power else (middle, high)
    return high


# --- checks of published statistics
# ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One check: what was printed, what follows from other figures, whether they agree at that precision."""

    what: str
    printed: str
    derived: str
    agrees: bool


def eta_p2_from_f(F: float, df1: float, df2: float) -> float:
    """Partial eta squared from an F test: F df1 / (F df1 + df2). Any epsilon cancels."""
    return F * df1 / (F * df1 + df2)


def _between(value: float, decimals: int) -> tuple[float, float]:
    """Values that print as ``value``, rounded or truncated: [value - half, value + 1) units."""
    unit = 10.0**-decimals
    return value - unit / 2, value + unit


def check_eta_p2(F: float, df1: float, df2: float, printed: float, decimals: int, df1_decimals: int) -> Check:
    """Check a printed partial eta squared against F and its degrees of freedom.

    df1 is printed with few digits, so the derived value is a range.
    """
    half = 10.0**-df1_decimals / 2
    low, high = eta_p2_from_f(F, df1 - half, df2), eta_p2_from_f(F, df1 + half, df2)
    may_low, may_high = _between(printed, decimals)
    agrees = low <= may_high and high >= may_low
    return Check("partial eta squared from F and df", f"{printed:g}", f"{low:.4f} to {high:.4f}", agrees)


def check_p(F: float, df1: float, df2: float, p_below: float) -> Check:
    """Check a printed "p < bound" against F and its degrees of freedom."""
    p = float(sps.f.sf(F, df1, df2))
    derived = f"{p:.3g}" if p > 0 else "below 1e-300"
    return Check("p from F and df", f"< {p_below:g}", derived, p < p_below)


def implied_raters(
    df1: float,
    df2: float,
    levels: int,
    groups: int,
    df1_decimals: int = 1,
    df2_decimals: int = 1,
    truncated: bool = False,
) -> list[int]:
    """Numbers of raters N that a Greenhouse-Geisser corrected within effect can come from.

    df1 = eps (k - 1) and df2 = eps (k - 1) (N - groups), so df2 / df1 = N - groups; df1's rounding leaves a
    range.

    Args:
        df1: printed numerator df.
        df2: printed denominator df.
        levels: k of the within factor.
        groups: classes between raters (1: none).
        df1_decimals: printed decimals of df1.
        df2_decimals: printed decimals of df2.
        truncated: whether digits were cut instead of rounded.
    """
    unit1, unit2 = 10.0**-df1_decimals, 10.0**-df2_decimals
    down, up = (0.0, 1.0) if truncated else (0.5, 0.5)
    top = levels - 1  # epsilon is at most 1
    low = (df2 - down * unit2) / min(df1 + up * unit1, top)
    high = (df2 + up * unit2) / (df1 - down * unit1)
    return list(range(math.ceil(groups + low - 1e-9), math.floor(groups + high + 1e-9) + 1))


def implied_epsilon(df2: float, levels: int, groups: int, raters: int) -> float:
    """Greenhouse-Geisser's epsilon behind a printed df2, if there were ``raters`` raters."""
    return df2 / ((levels - 1) * (raters - groups))


def implied_error_ms(means: Sequence[float], F: float, raters: int) -> float:
    """Error mean square (rater by model) behind a published F of a within effect and its means.

    With equal classes SS_model = N sum (m_j - m)^2, MS_error = SS_model / (k - 1) / F: in squared rating
    units, of a rater's *average* over items. It fixes the noise of a simulation, and every paired
    difference's SD, sqrt(2 MS_error), if pairs vary alike.
    """
    m = np.asarray(means, dtype=np.float64)
    return float(raters * ((m - m.mean()) ** 2).sum() / (m.size - 1) / F)


def check_average(parts: Sequence[float], printed: float, decimals: int = 2, what: str = "average") -> Check:
    """Check a printed average of printed parts; says whether it was rounded or truncated."""
    return _check_print(what, float(np.mean(parts)), printed, decimals)


def check_std(parts: Sequence[float], printed: float, decimals: int = 2, what: str = "std") -> Check:
    """Check a printed sample standard deviation (n - 1) of printed parts."""
    return _check_print(what, float(np.std(parts, ddof=1)), printed, decimals)


def _check_print(what: str, value: float, printed: float, decimals: int) -> Check:
    unit = 10.0**-decimals
    # the parts are rounded themselves: that moves an average by at most half a unit, rarely more than a tenth
    if abs(value - printed) <= unit / 2 + unit / 50:
        how = "rounded"
    elif 0 <= value - printed < unit:
        how = "truncated"
    else:
        how = "differs"
    return Check(what, f"{printed:.{decimals}f}", f"{value:.{decimals + 2}f} ({how})", how != "differs")


@dataclass(frozen=True)
class Grim:
    """Whether a mean of ``n`` whole ratings can print as it did; ``decisive`` if the test can fail."""

    consistent: bool
    decisive: bool
    nearest: float


def grim(mean: float, n: int, decimals: int = 2) -> Grim:
    """GRIM test (Brown and Heathers 2017): a mean of n integers is a multiple of 1 / n.

    With n >= 10^decimals every printed mean is possible, and the test says nothing (``decisive`` is False).
    """
    if n < 1:
        raise InputError(f"GRIM: {n} ratings")
    candidates = [math.floor(mean * n) / n, math.ceil(mean * n) / n]
    nearest = min(candidates, key=lambda c: abs(c - mean))
    consistent = abs(nearest - mean) <= 10.0**-decimals / 2 + 1e-9
    return Grim(consistent, n < 10**decimals, nearest)


# --- ratings: read, simulate, and what published means imply
# --------------------------------------------------

RATING_COLUMNS = ("rater", "class", "model", "item")


def read_ratings(path: str | Path, questions: Sequence[str] = ("quality", "relevance")) -> pd.DataFrame:
    """Read a long table of ratings (csv): rater, class, model, item, and one column a question.

    Raises:
        InputError: no such file, not a table, columns missing, an unknown class, or ratings that are not
        numbers.
    """
    try:
        table = pd.read_csv(path, dtype={"rater": str, "item": str, "model": str})
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a table of ratings ({str(error).splitlines()[0]})") from None
    missing = [c for c in (*RATING_COLUMNS, *questions) if c not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, table))}")
    for question in questions:
        if not pd.api.types.is_numeric_dtype(table[question]):
            raise InputError(f"{path}: column {question} is not numeric")
    try:
        table["class"] = [canonical_class(str(c)) for c in table["class"]]
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return table


@dataclass(frozen=True)
class RatingNoise:
    """Variance components of one rating, as standard deviations in scale units.

    Attributes:
        rater: of raters' general level.
        rater_model: of a rater's private taste for a model.
        item: of clips around their cell's mean (centred within a cell: published means are of those very
        clips). residual: of one rating.
    """

    rater: float
    rater_model: float
    item: float
    residual: float

    @classmethod
    def from_error_ms(
        cls, error_ms: float, items: int, *, rater: float = 1.2, item: float = 0.5, residual: float = 1.5
    ) -> RatingNoise:
        """Choose ``rater_model`` so that a rater's mean over ``items`` has the error mean square given.

        The other three are assumptions: published statistics do not fix them.
        """
        left = error_ms - residual**2 / items
        if left < 0:
            raise InputError(
                f"residual SD {residual:g} over {items} items already exceeds the error mean square {error_ms:.3g}"
            )
        return cls(rater, math.sqrt(left), item, residual)

    @property
    def total(self) -> float:
        """Standard deviation of one rating about its cell's mean."""
        return math.sqrt(self.rater**2 + self.rater_model**2 + self.item**2 + self.residual**2)


def _uncensored_mean(target: float, sd: float, low: float, high: float) -> float:
    """Mean of a normal whose values, clipped to [low, high], average to ``target``."""
    from scipy.optimize import brentq

    def clipped_mean(m: float) -> float:
        a, b = (low - m) / sd, (high - m) / sd
        inside = m * (sps.norm.cdf(b) - sps.norm.cdf(a)) + sd * (sps.norm.pdf(a) - sps.norm.pdf(b))
        return low * sps.norm.cdf(a) + high * sps.norm.sf(b) + inside

    return float(brentq(lambda m: clipped_mean(m) - target, low - 5 * sd, high + 5 * sd))


def simulate_ratings(
    class_means: Mapping[str, pd.DataFrame],
    noise: Mapping[str, RatingNoise],
    *,
    raters: int = 40,
    items: int = 15,
    scale: tuple[int, int] = (0, 10),
    seed: int = 0,
) -> pd.DataFrame:
    """Draw a long table of whole-number ratings around published means. SIMULATED: evidence of nothing but
    power.

    Args:
        class_means: {question: table of means, index class, columns model}.
        noise: {question: variance components}.
        raters: per class; each class has its own, as in the paper's seven surveys.
        items: clips per class and model.
        scale: lowest and highest rating; draws beyond are clipped, and the means are shifted to make up for
        it. seed: of everything.

    Returns:
        Columns rater, class, model, item, and one per question.
    """
    rng = np.random.default_rng(seed)
    low, high = scale
    columns: dict[str, np.ndarray] = {}
    for question, means in class_means.items():
        sd = noise[question]
        groups, k = means.shape
        shape = (groups, raters, k, items)
        centre = np.vectorize(lambda m, s=sd.total: _uncensored_mean(m, s, low, high))(means.to_numpy())
        item = sd.item * rng.standard_normal((groups, 1, k, items))
        item -= item.mean(-1, keepdims=True)
        values = (
            centre[:, None, :, None]
            + sd.rater * rng.standard_normal((groups, raters, 1, 1))
            + sd.rater_model * rng.standard_normal((groups, raters, k, 1))
            + item
            + sd.residual * rng.standard_normal(shape)
        )
        columns[question] = np.clip(np.round(values), low, high).astype(int).ravel()
    names = next(iter(class_means.values()))
    index = pd.MultiIndex.from_product(
        [names.index, range(raters), names.columns, range(items)], names=["class", "r", "model", "item"]
    )
    frame = pd.DataFrame(columns, index=index).reset_index()
    frame.insert(0, "rater", frame["class"] + "-" + frame.pop("r").astype(str).str.zfill(3))
    frame["item"] = frame["item"].astype(str)
    return frame


def by_items(
    table: pd.DataFrame, dv: str, *, item: str = "item", within: str = "model", between: str = "class"
) -> pd.DataFrame:
    """Two-way ANOVA over clips instead of raters (Clark 1973): would other clips give the same result?

    An analysis over raters takes the clips for granted. Here the unit is a clip's mean over raters, nested
    in class and model; all cells need the same number of clips.

    Returns:
        One row each for ``between``, ``within``, Interaction: SS, df1, df2, MS, F, p, eta_p2.

    Raises:
        InputError: cells of different size, or fewer than two clips in a cell.
    """
    means = table.groupby([between, within, item], observed=True)[dv].mean()
    sizes = means.groupby(level=[0, 1]).size().unstack()
    found = sizes.to_numpy()
    if np.isnan(found).any() or found.min() != found.max() or found.min() < 2:
        raise InputError(
            f"by-item analysis needs equally many clips, at least 2, for each {between} and {within}"
        )
    g, k = sizes.shape
    x = means.to_numpy(dtype=np.float64).reshape(g, k, -1)
    n = x.shape[2]
    cells, grand = x.mean(2), x.mean()
    rows, columns = cells.mean(1, keepdims=True), cells.mean(0, keepdims=True)
    error, df = float(((x - cells[..., None]) ** 2).sum()), g * k * (n - 1)
    parts = [
        (between, n * k * float(((rows - grand) ** 2).sum()), g - 1),
        (within, n * g * float(((columns - grand) ** 2).sum()), k - 1),
        ("Interaction", n * float(((cells - rows - columns + grand) ** 2).sum()), (g - 1) * (k - 1)),
    ]
    keep = ["source", "SS", "df1", "df2", "MS", "F", "p", "eta_p2"]
    return pd.DataFrame([_anova_row(name, ss, df1, error, df, 1.0) for name, ss, df1 in parts])[keep]


def min_f_prime(
    F1: float, df1_error: float, F2: float, df2_error: float, df: float
) -> tuple[float, float, float]:
    """Clark's (1973) lower bound min F' over raters and clips together: (min F', error df, p)."""
    value = F1 * F2 / (F1 + F2)
    error = (F1 + F2) ** 2 / (F1**2 / df2_error + F2**2 / df1_error)
    return value, error, float(sps.f.sf(value, df, error))


def critical_item_sd(means: Sequence[float], items: int, groups: int, alpha: float = 0.05) -> float:
    """Clip-to-clip SD beyond which published means would not differ over clips (rater noise left out)."""
    m = np.asarray(means, dtype=np.float64)
    ms = items * groups * float(((m - m.mean()) ** 2).sum()) / (m.size - 1)
    return math.sqrt(ms / float(sps.f.isf(alpha, m.size - 1, groups * m.size * (items - 1))))


def implied_interaction(class_means: pd.DataFrame, error_ms: float, raters: int) -> dict[str, float]:
    """Class by model interaction that published class means imply (the paper does not report it).

    Args:
        class_means: index class, columns model.
        error_ms: see `implied_error_ms`.
        raters: per class.
    """
    x = class_means.to_numpy(dtype=np.float64)
    rest = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
    df1, df2 = (x.shape[0] - 1) * (x.shape[1] - 1), x.shape[0] * (raters - 1) * (x.shape[1] - 1)
    F = raters * float((rest**2).sum()) / df1 / error_ms
    return {
        "F": F,
        "df1": df1,
        "df2": df2,
        "p": float(sps.f.sf(F, df1, df2)),
        "eta_p2": eta_p2_from_f(F, df1, df2),
    }


def implied_contrasts(
    class_means: pd.DataFrame, a: str, b: str, error_ms: float, raters: int, level: float = 0.95
) -> pd.DataFrame:
    """Per class, the difference b - a of published means with the interval that the implied error gives.

    The error is pooled over classes and pairs. Columns: class, diff, ci_low, ci_high, t, p, p_holm.
    """
    df = len(class_means) * (raters - 1) * (class_means.shape[1] - 1)
    se = math.sqrt(2 * error_ms / raters)
    diff = class_means[b] - class_means[a]
    half = float(sps.t.ppf((1 + level) / 2, df)) * se
    p = 2 * sps.t.sf(np.abs(diff / se), df)
    return pd.DataFrame(
        {
            "class": class_means.index,
            "diff": diff.to_numpy(),
            "ci_low": diff.to_numpy() - half,
            "ci_high": diff.to_numpy() + half,
            "t": (diff / se).to_numpy(),
            "p": p,
            "p_holm": adjust_p(p, "holm"),
        }
    )
