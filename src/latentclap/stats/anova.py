"""Mixed-design ANOVA over raters, its sphericity, and the analysis over clips (section V-C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.errors import InputError
from latentclap.stats.cells import cell_means, check_complete


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
        one = "one rater" if len(names) == 1 else f"class {str(names[small[0]])!r} has one rater"
        needs = "an analysis" if len(names) == 1 else "every class"
        raise InputError(f"ratings: {one}; {needs} needs at least two")
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
        where = f" in {groups} classes" if groups > 1 else ""
        raise InputError(
            f"{n} raters{where}: too few to estimate sphericity of {k} levels; it takes {k + groups}"
        )
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
    table: pd.DataFrame,
    dv: str,
    *,
    subject: str = "rater",
    within: str = "model",
    between: str | None = "class",
    crossed: str = "class",
) -> pd.DataFrame:
    """Mixed-design ANOVA with Greenhouse-Geisser correction (section V-C).

    Repeated ratings of a rater and model are averaged first. Sums of squares are type III (classes weigh the
    same whatever their number of raters); with equal numbers all types agree. The epsilon comes from the
    covariance pooled within classes, as SPSS and R's afex compute it; ignoring the classes would mix their
    differences in.

    With ``between=None`` every rater rated every class (`classes_between`): a repeated-measures ANOVA over
    raters' means, whose F is that of the main effect in the design with classes within raters as well.

    Returns:
        One row each for ``between``, ``within`` and Interaction: SS, df1, df2 (uncorrected), MS, F, p, eps,
        df1_gg, df2_gg, p_gg, eta_p2 (partial eta squared). The between row has no correction. With
        ``between=None`` or a single class: the ``within`` row.

    Raises:
        InputError: see `cell_means`; a class with one rater.
    """
    wide = cell_means(table, dv, subject=subject, within=within, between=between, crossed=crossed)
    values, codes, groups = _groups(wide)
    n, k = values.shape
    p, counts = k - 1, np.bincount(codes)
    eps = sphericity(wide).eps_gg
    if groups < 2:
        effects = values.mean(0) - values.mean()
        error = float(np.trace(_error_matrix(values @ _contrasts(k), codes)))
        return pd.DataFrame([_anova_row(within, n * float(effects @ effects), p, error, (n - 1) * p, eps)])

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


def by_items(
    table: pd.DataFrame, dv: str, *, item: str = "item", within: str = "model", between: str = "class"
) -> pd.DataFrame:
    """Two-way ANOVA over clips instead of raters (Clark 1973): would other clips give the same result?

    An analysis over raters takes the clips for granted. Here the unit is a clip's mean over raters, nested
    in class and model; all cells need the same number of clips.

    Returns:
        One row each for ``between``, ``within``, Interaction: SS, df1, df2, MS, F, p, eta_p2; of a single
        class the ``within`` row.

    Raises:
        InputError: a column is missing or not numeric, ratings are missing, cells of different size, or fewer than
            two clips in a cell.
    """
    check_complete(table, dv, [item, within, between], mend="leave out the row")
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
    if g < 2:
        parts = parts[1:2]
    keep = ["source", "SS", "df1", "df2", "MS", "F", "p", "eta_p2"]
    return pd.DataFrame([_anova_row(name, ss, df1, error, df, 1.0) for name, ss, df1 in parts])[keep]


def min_f_prime(
    F1: float, df1_error: float, F2: float, df2_error: float, df: float
) -> tuple[float, float, float]:
    """Clark's (1973) lower bound min F' over raters and clips together: (min F', error df, p)."""
    value = F1 * F2 / (F1 + F2)
    error = (F1 + F2) ** 2 / (F1**2 / df2_error + F2**2 / df1_error)
    return value, error, float(sps.f.sf(value, df, error))
