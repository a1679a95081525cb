"""Notebook 02, what eq. 3 leaves open: weights and readings trained side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from latentclap.book.figures import figure_style
from latentclap.book.longer.common import change, number, save, trained
from latentclap.book.markdown import counted, table
from latentclap.stats import changes_in_words, paired_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: the variant that all are compared with, and the paper's own
_NONE, _PAPER = "baseline (λ = 0)", "w: paper"


def keep(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every training's held-out measures, and each variant's λ."""
    return {name: metrics[name] for name in ("points", "pretrained", "lams", "measures", "matched")}


def page(told: Mapping[str, Any], figure: Path) -> list[str]:
    """What the run found, in sentences, a figure and tables."""
    points = pd.DataFrame(told["points"])
    names = list(told["lams"])
    values = {
        key: points.pivot(index="variant", columns="seed", values=key).reindex(names)
        for key in told["measures"]
    }
    changes = {key: paired_changes(part, _NONE) for key, part in values.items()}
    _figure(told["measures"], values, figure)
    return [*_found(told, points, values), *_tables(told, values, changes, figure.name)]


def _found(told: Mapping[str, Any], points: pd.DataFrame, values: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the run is of, and which variants differ, tested as in the notebook."""

    def against(reference: str, part: pd.DataFrame) -> str:
        others = part.index if reference == _NONE else part.index.drop(_NONE)
        return changes_in_words(paired_changes(part.loc[others], reference))

    sweep = told["settings"]["sweep"]
    seeds = counted(points["seed"].nunique(), "training")
    return [
        f"{trained(told, sweep['ablation_epochs'])}; {seeds} of each variant; every variant at {told['matched']};"
        f" measured on {told['clips']:,} held-out clips at {sweep['heldout_levels']} noise levels; clips:"
        f" {told['data']}.",
        "\n".join(
            f"- **{label}**, compared with λ = 0: {against(_NONE, values[key])}. Compared with the paper's $w$:"
            f" {against(_PAPER, values[key])}."
            for key, label in told["measures"].items()
        ),
    ]


def _tables(
    told: Mapping[str, Any],
    values: Mapping[str, pd.DataFrame],
    changes: Mapping[str, pd.DataFrame],
    figure: str,
) -> list[str]:
    """The figure, each measure's changes, and its levels."""
    parts = [
        f"![Change of each held-out measure from λ = 0 of the same seed, for every variant and training]({figure})",
        "Each dot is a training, the stroke their mean; 0 is the training without the loss from the same seed. Lower"
        " is better for eq. 1 and eq. 3, higher for the cosine. Each panel has a scale of its own.",
        "## Changes from λ = 0",
        "Means over trainings with Student's 95 % interval. *Share* is the change as a share of the mean at λ = 0. p"
        " is of paired t-tests, corrected by Holm for the number of variants.",
    ]
    for key, label in told["measures"].items():
        rows, base = [], values[key].loc[_NONE].mean()
        for name, row in changes[key].iterrows():
            lam = told["lams"][name]
            rows.append(
                (
                    name,
                    f"{lam:,.0f}" if lam >= 100 else number(lam),
                    *change(row["low"], row["change"], row["high"]),
                    f"{row['change'] / base:+.1%}".replace("-", "\u2212").replace("%", " %"),
                    number(row["p_adjusted"], 2),
                )
            )
        parts += [
            f"### {label}",
            table(("variant", "λ", "change", "95 % interval", "share", "p (Holm)"), rows, numbers=5),
        ]
    levels = [
        ("pretrained", *(number(told["pretrained"][key], 4) for key in values)),
        *((name, *(number(part.loc[name].mean(), 4) for part in values.values())) for name in told["lams"]),
    ]
    parts += [
        "## Levels",
        "Means over trainings.",
        table(("variant", *told["measures"].values()), levels, numbers=len(values)),
    ]
    return parts


def _figure(measures: Mapping[str, str], values: Mapping[str, pd.DataFrame], out: Path) -> None:
    """Changes of every training from its seed's baseline: weights above readings, which differ far more."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [name for name in next(iter(values.values())).index if name != _NONE]
    kinds = {
        "weights": [name for name in names if name.startswith("w: ")],
        "readings": [name for name in names if name.startswith("reading: ")],
    }
    kinds = {kind: group for kind, group in kinds.items() if group}
    heights = [len(group) + 1.5 for group in kinds.values()]
    with mpl.rc_context():
        figure_style()
        figure = Figure(figsize=(7.2, 0.36 * sum(heights) + 0.6))
        grid = figure.subplots(len(kinds), len(values), sharey="row", squeeze=False, height_ratios=heights)
        for panels, (kind, group) in zip(grid, kinds.items(), strict=True):
            for axes, (key, part) in zip(panels, values.items(), strict=True):
                gaps = part.sub(part.loc[_NONE], axis="columns")
                _dots(axes, gaps.loc[group])
                axes.set_title(measures[key] if kind == next(iter(kinds)) else "")
            panels[0].set_yticks(range(len(group)), [name.partition(": ")[2] for name in group])
            panels[0].set_ylabel(kind)
            panels[0].invert_yaxis()
        figure.supxlabel("change from λ = 0 of the same seed", fontsize="medium")
        save(figure, out)


def _dots(axes: Axes, gaps: pd.DataFrame) -> None:
    """A dot for each training, a stroke for their mean, a row for each variant."""
    for i, (_, gap) in enumerate(gaps.iterrows()):
        axes.plot(gap, [i] * len(gap), "o", ms=4, color="#0077bb", alpha=0.7)
        axes.plot([gap.mean()] * 2, [i - 0.3, i + 0.3], "-", color="#0077bb", lw=1.6)
    axes.axvline(0, color="#555555", linestyle="--", lw=1)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.locator_params(axis="x", nbins=4)
