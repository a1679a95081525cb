"""Long tables of ratings: whether they are whole, and the mean of each rater and level."""

from __future__ import annotations

import numpy as np
import pandas as pd

from latentclap.errors import InputError

#: What stands for the factor between raters where all of them rated all of its levels.
ALL = "all"


def classes_between(table: pd.DataFrame, *, subject: str = "rater", between: str = "class") -> str | None:
    """How raters and classes go together: the ``between`` that `mixed_anova` and `cell_means` take.

    Returns:
        ``between`` where each rater rated one of several classes, as in the paper's seven surveys; None where
        every rater rated every class that there is, be it one or seven.

    Raises:
        InputError: a column is missing, or some raters rated some classes: neither analysis fits.
    """
    check_complete(table, None, [subject, between])
    heard = table.groupby(subject, observed=True)[between].nunique()
    groups = table[between].nunique()
    if (heard == groups).all():
        return None
    if (heard == 1).all():
        return between
    few, many = heard.idxmin(), heard.idxmax()
    other = f", rater {many!r} {heard[many]}" if heard[few] < heard[many] else ""
    raise InputError(
        f"ratings: rater {few!r} rated {heard[few]} of {groups} {between} levels{other}; every rater must have"
        f" rated one of them, or every rater all of them: leave out raters or levels of {between}"
    )


def cell_means(
    table: pd.DataFrame,
    dv: str,
    *,
    subject: str = "rater",
    within: str = "model",
    between: str | None = "class",
    crossed: str = "class",
) -> pd.DataFrame:
    """Average a long table over repeated ratings: one row a subject, one column a level of ``within``.

    Args:
        table: long: one row a rating.
        dv: column of the rating.
        subject: column that names the rater; the same name in two classes is an error.
        within: column of the repeated factor.
        between: column of the factor between raters. None: every rater rated every level of ``crossed``, over
            which a rater's means are averaged (see `classes_between`).
        crossed: that column.

    Returns:
        Index (between, subject), columns the levels of ``within`` in order of appearance.

    Raises:
        InputError: a column is missing or not numeric, ratings are missing, a rater lacks a level or belongs
            to two classes.
    """
    check_complete(table, dv, [subject, within, between or crossed])
    if between is None:
        return _crossed_means(table, dv, subject, within, crossed)
    classes = table.groupby(subject, observed=True)[between].nunique()
    if (classes > 1).any():
        raise InputError(
            f"ratings: rater {classes.idxmax()!r} appears in {classes.max()} classes; {between} is between "
            "raters: give raters of different surveys different names"
        )
    _same_systems(table, within, between)
    wide = table.groupby([between, subject, within], observed=True, sort=True)[dv].mean().unstack(within)
    wide = wide[list(pd.unique(table[within]))]
    if wide.isna().any(axis=None):
        cls, rater = wide.index[wide.isna().any(axis=1).to_numpy().argmax()]
        n = int(wide.isna().any(axis=1).sum())
        raise InputError(
            f"ratings: rater {rater!r} ({cls}) has no rating for every {within}; "
            + ("leave this rater out" if n == 1 else f"{n} such raters, leave them out")
        )
    return wide


def _crossed_means(table: pd.DataFrame, dv: str, subject: str, within: str, crossed: str) -> pd.DataFrame:
    """`cell_means` where every rater rated every level of ``crossed``: each of them weighs the same."""
    _same_systems(table, within, crossed)
    cells = table.groupby([subject, crossed, within], observed=True, sort=True)[dv].mean()
    wide = cells.unstack([crossed, within])
    if wide.isna().any(axis=None) or wide.shape[1] < table[crossed].nunique() * table[within].nunique():
        short = wide.isna().any(axis=1)
        who = f"rater {wide.index[short.to_numpy().argmax()]!r} has" if short.any() else "there is"
        raise InputError(
            f"ratings: {who} no rating for every {within} of every {crossed}; leave out what is incomplete"
        )
    means = wide.T.groupby(level=within, sort=False).mean().T[list(pd.unique(table[within]))]
    means.index = pd.MultiIndex.from_product([[ALL], means.index], names=[crossed, subject])
    return means


def check_complete(
    table: pd.DataFrame, dv: str | None, names: list[str], mend: str = "leave out the rater"
) -> None:
    """Refuse a long table that lacks a column or a value, or whose ratings (if any are asked for) are no numbers."""
    wanted = names if dv is None else [dv, *names]
    missing = [c for c in wanted if c not in table.columns]
    if missing:
        raise InputError(f"ratings: no column {', '.join(missing)}; there are {', '.join(map(str, table))}")
    if len(table) == 0:
        raise InputError("ratings: the table is empty")
    if dv is not None and not pd.api.types.is_numeric_dtype(table[dv]):
        raise InputError(f"ratings: column {dv} is not numeric")
    bad = table[wanted].isna().any(axis=1)
    if dv is not None:
        bad |= ~np.isfinite(table[dv])
    if bad.any():
        raise InputError(
            f"ratings: {bad.sum()} row{'s' * (bad.sum() != 1)} with a missing value, "
            f"first at row {bad.to_numpy().argmax()}; {mend} or fill in the rating"
        )


def _same_systems(table: pd.DataFrame, within: str, by: str) -> None:
    """Refuse levels of ``by`` that were rated for other levels of ``within``: those of another survey, say."""
    rated = table.groupby([by, within], observed=True).size().unstack()
    if rated.isna().any(axis=None):
        few = rated.index[rated.isna().any(axis=1).to_numpy().argmax()]
        lacking = rated.columns[rated.loc[few].isna().to_numpy().argmax()]
        raise InputError(
            f"ratings: there is no rating for every {within} of every {by}: {few!r} has none of {lacking!r}; leave"
            f" out what is incomplete, and analyse surveys of other {within}s apart"
        )
