"""Headings of the tables that pages show: words with units, where records keep their short names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentclap.classes import LABELS

if TYPE_CHECKING:
    import pandas as pd

#: a record's name -> what a table calls it; df is degrees of freedom, a point is one of the rating scale's ten
HEADINGS: dict[str, str] = {
    # clips
    "rms_dbfs": "level (dBFS)",
    "crest_db": "crest factor (dB)",
    "centroid_hz": "spectral centroid (Hz)",
    "active": "active (share of frames)",
    "std": "SD",
    # tests
    "SS": "sum of squares (points²)",
    "MS": "mean square (points²)",
    "df1": "df of the effect",
    "df2": "df of the error",
    "eps": "ε (Greenhouse-Geisser)",
    "df1_gg": "df of the effect × ε",
    "df2_gg": "df of the error × ε",
    "p_gg": "p with ε",
    "p_below": "p below",
    "p_holm": "p (Holm)",
    "p_adjusted": "p (Bonferroni)",
    "eta_p2": "partial η²",
    "error_ms": "error mean square (points²)",
    "diff": "difference (points)",
    "diff_low": "difference, 2.5 %",
    "diff_high": "difference, 97.5 %",
    "d_z": "standardised difference d_z",
    "d_z_low": "d_z, 2.5 %",
    "d_z_high": "d_z, 97.5 %",
    # what one rating is made of
    "rater": "rater, in general",
    "rater_model": "rater's taste for a system",
    "residual": "single rating",
}


def probability(p: float) -> str:
    """A p-value as tables have it: three decimals, and nothing smaller than they can tell."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def degrees(df: float) -> str:
    """Degrees of freedom as tables have them: whole ones without decimals, others (Welch's, times ε) with two."""
    return f"{df:.0f}" if float(df).is_integer() else f"{df:.2f}"


def headed(table: pd.DataFrame, **more: str) -> pd.DataFrame:
    """Return a copy of a table whose columns and rows have the headings of a page; values stay as they are.

    Args:
        table: columns and rows may have several levels. A name of :data:`HEADINGS` or of a class becomes words, any
            other stays.
        more: headings of this table alone, by name.
    """
    names = {**HEADINGS, **LABELS, **more}

    def told(name: Any) -> Any:
        return names.get(name, name) if isinstance(name, str) else name

    shown = table.rename(columns=told).rename(index=told)
    for axis in (shown.columns, shown.index):
        axis.names = [told(name) for name in axis.names]
    return shown
