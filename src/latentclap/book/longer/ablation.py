"""Notebook 02, what eq. 3 leaves open: weights and readings trained side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latentclap.book.figures import figure_style
from latentclap.book.longer.common import change, number, save, trained
from latentclap.book.markdown import counted, table
from latentclap.stats import paired_changes

#: the variant that all are compared with
_NONE = "baseline (λ = 0)"


def keep(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every training's held-out measures, each variant's λ, and the verdicts of the notebook."""
    return {
        name: metrics[name]
        for name in ("points", "pretrained", "lams", "measures", "against_paper", "against_none", "matched")
    }


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
    return [*_found(told, points), *_tables(told, values, changes, figure.name)]


def _found(told: Mapping[str, Any], points: pd.DataFrame) -> list[str]:
    """What the run is of, and the notebook's verdicts."""
    sweep = told["settings"]["sweep"]
    seeds = counted(points["seed"].nunique(), "training")
    return [
        f"{trained(told, sweep['ablation_epochs'])}; {seeds} of each variant; every variant at {told['matched']};"
        f" measured on {told['clips']:,} held-out clips at {sweep['heldout_levels']} noise levels; clips:"
        f" {told['data']}.",
        "\n".join(
            f"- **{label}**. Against λ = 0: {told['against_none'][key]}. Against the paper's $w$:"
            f" {told['against_paper'][key]}."
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
        "Each dot is a training, the stroke their mean; 0 is the training without the loss from the same seed. Of eq."
        " 1 and eq. 3 less is better, of the cosine more.",
        "## Changes from λ = 0",
        "Means over trainings with Student's 95 % interval; p by paired t-tests, after Holm over the variants.",
    ]
    for key, label in told["measures"].items():
        rows = []
        for name, row in changes[key].iterrows():
            lam = told["lams"][name]
            rows.append(
                (
                    name,
                    f"{lam:,.0f}" if lam >= 100 else number(lam),
                    *change(row["low"], row["change"], row["high"]),
                    number(row["p_adjusted"], 2),
                )
            )
        parts += [f"### {label}", table(("variant", "λ", "change", "95 % interval", "p (Holm)"), rows)]
    levels = [
        ("pretrained", *(number(told["pretrained"][key], 4) for key in values)),
        *((name, *(number(part.loc[name].mean(), 4) for part in values.values())) for name in told["lams"]),
    ]
    parts += [
        "## Levels",
        "Means over trainings.",
        table(("variant", *told["measures"].values()), levels),
    ]
    return parts


def _figure(measures: Mapping[str, str], values: Mapping[str, pd.DataFrame], out: Path) -> None:
    """Changes of every training from its seed's baseline."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        figure_style()
        names = [name for name in next(iter(values.values())).index if name != _NONE]
        figure = Figure(figsize=(7.2, 0.34 * len(names) + 1.3))
        panels = figure.subplots(1, len(values), sharey=True)
        for axes, (key, part) in zip(panels, values.items(), strict=True):
            gaps = part.sub(part.loc[_NONE], axis="columns")
            for i, name in enumerate(names):
                axes.plot(gaps.loc[name], [i] * gaps.shape[1], "o", ms=4, color="#0077bb", alpha=0.7)
                mean = gaps.loc[name].mean()
                axes.plot([mean, mean], [i - 0.3, i + 0.3], "-", color="#0077bb", lw=1.6)
            axes.axvline(0, color="#555555", linestyle="--", lw=1)
            axes.set(title=measures[key], yticks=range(len(names)), yticklabels=names)
            axes.set_xlabel("change from λ = 0", loc="left")  # the factor of the ticks stands to the right
            axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
            axes.locator_params(axis="x", nbins=4)
        panels[0].set(yticklabels=names)
        panels[0].invert_yaxis()
        save(figure, out)
