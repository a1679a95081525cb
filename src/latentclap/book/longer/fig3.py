"""Notebook 06, Fig. 3: how much λ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latentclap.book.fig3 import MEASURES, SYSTEMS, sweep_of
from latentclap.book.figures import SYSTEM_COLOURS, figure_style
from latentclap.book.longer.common import number, save, trained
from latentclap.book.markdown import counted, table


def keep(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every point: what is said of them is worked out from them."""
    points = [
        {key: point[key] for key in ("lam", "tuning", "seed", *MEASURES)} for point in metrics["points"]
    ]
    return {
        "epochs": config["parameters"]["epochs"] or config["profile"]["sweep"]["epochs"],
        "fad": metrics["points"][0]["fad_name"],
        "points": points,
    }


def page(told: Mapping[str, Any], figure: Path) -> list[str]:
    """What the run found, in sentences, a figure and tables."""
    points = pd.DataFrame(told["points"])
    _figure(points, figure)
    data = told["settings"]["data"]
    sweep = sweep_of(points)
    words, trend = sweep.words(), sweep.record()["trend"]
    means = points.groupby(["tuning", "lam"])[list(MEASURES)].agg(["mean", "std"])
    curves = []
    for tuning, system in SYSTEMS.items():
        for lam in sorted(points["lam"].unique()):
            row = means.loc[(tuning, lam)]
            curves.append(
                (
                    system,
                    f"{lam:g}",
                    *(f"{number(row[key, 'mean'], 4)} ± {number(row[key, 'std'], 2)}" for key in MEASURES),
                )
            )
    p = [name for name in trend[0] if name.startswith("p,")]
    return [
        f"{trained(told, told['epochs'])}; {counted(points['seed'].nunique(), 'training')} of each point;"
        f" {told['clips_per_class']} generated clips a class against {data['eval_per_class']} evaluation clips;"
        f" clips: {told['data']}.",
        f"**{words['trend_verdict']}**",
        f"- Without the tuning layer: {words['trend_plain']}\n- With it: {words['trend_tuning']}",
        words["what_tells"],
        f"![Average FAD, held-out eq. 1 and eq. 3 over λ, with and without the tuning layer]({figure.name})",
        f"Dots are trainings, lines their means; λ is spaced evenly. {told['fad']}.",
        "## Points",
        "Mean and standard deviation over trainings. At λ = 0 `LDM+Latent` is `LDM`, `LDM+Tuning+Latent` is"
        " `LDM+Tuning`.",
        table(("system", "λ", *MEASURES.values()), curves),
        "## Is there a trend?",
        "As [notebook 06](notebooks/06_fig3.ipynb) explains its tests; each at half of 5 %.",
        table(
            (
                "tuning layer",
                "measure",
                "lowest at λ",
                "ρ",
                *(name.removeprefix("p, ") for name in p),
                "shown",
            ),
            [
                (
                    row["tuning layer"],
                    row["measure"],
                    f"{row['at λ']:g}",
                    f"{row['ρ within seeds']:+.2f}".replace("-", "\u2212"),
                    *("–" if row[name] is None else number(row[name], 2) for name in p),
                    row["shown"],
                )
                for row in trend
            ],
        ),
    ]


def _figure(points: pd.DataFrame, out: Path) -> None:
    """Three panels over λ: every training, and their mean."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        figure_style()
        figure = Figure(figsize=(7.2, 7.2))
        lams = sorted(points["lam"].unique())
        panels = figure.subplots(len(MEASURES), sharex=True)
        for axes, (key, title) in zip(panels, MEASURES.items(), strict=True):
            for tuning, system in SYSTEMS.items():
                wide = points[points["tuning"] == tuning].pivot(index="lam", columns="seed", values=key)
                x = [i + (0.06 if tuning else -0.06) for i in range(len(lams))]
                colour = SYSTEM_COLOURS[system]
                label = f"{'with' if tuning else 'without'} tuning layer"
                axes.plot(x, wide.mean(axis=1), "--" if tuning else "-", color=colour, label=label)
                for seed in wide:
                    axes.plot(x, wide[seed], "s" if tuning else "o", ms=4, color=colour, alpha=0.6)
            axes.set(title=title, xticks=range(len(lams)), xticklabels=[f"{lam:g}" for lam in lams])
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        panels[-1].set_xlabel("λ")
        panels[0].legend()
        save(figure, out)
