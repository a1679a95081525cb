"""Notebook 04, Table I."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentclap import papers
from latentclap.book.figures import figure_style, plot_averages
from latentclap.book.longer.common import save, trained
from latentclap.book.markdown import table
from latentclap.classes import CLASSES, LABELS

_SYSTEMS = ("LDM", "LDM+Tuning", "LDM+Latent", "LDM+Tuning+Latent")


def keep(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The FAD of every training, the changes and the similarity; of classes their FAD alone."""
    rows = {
        name: {
            "average": row["average"],
            "average_ci": row["average_ci"],
            "classes": {cls: row["classes"][cls]["fad"] for cls in CLASSES},
        }
        for name, row in metrics["rows"].items()
    }
    return {
        "fad": next(iter(metrics["rows"].values()))["name"],
        "rows": rows,
        "change": metrics["change"],
        "similarity": metrics["similarity"],
    }


def page(told: Mapping[str, Any], figure: Path) -> list[str]:
    """What the run found, in sentences, a figure and tables."""
    parts = [*_found(told), *_tables(told, figure.name)]
    _figure(told, figure)
    return parts


def _trainings(told: Mapping[str, Any], system: str) -> list[Mapping[str, Any]]:
    """A system's results, in the order of the seeds."""
    return [told["rows"][name] for name in told["rows"] if name.rsplit(", seed ", 1)[0] == system]


def _found(told: Mapping[str, Any]) -> list[str]:
    """What the run is of, and what it shows, in sentences."""
    tuning, data = told["settings"]["finetune"], told["settings"]["data"]
    change = {(row["from"], row["to"]): row for row in told["change"]}

    def said(a: str, b: str) -> str:
        row = change[a, b]
        return (
            f"{row['this run shows']} ({row['this run']:+.2f}, 95 % interval {row['2.5 %']:+.2f} to"
            f" {row['97.5 %']:+.2f}; the paper: {row['paper']:+.2f} on its own scale)"
        )

    return [
        f"{trained(told, tuning['epochs'])};"
        f" {len(told['seeds'])} trainings of each system; {told['clips_per_class']} generated clips a class against"
        f" {data['eval_per_class']} evaluation clips; clips: {told['data']}.",
        f"- With the Latent CLAP loss, without the tuning layer (λ = {tuning['lam']:g}):"
        f" {said('LDM', 'LDM+Latent')}.\n"
        f"- With the loss and the tuning layer (λ = {tuning['lam_tuning']:g}):"
        f" {said('LDM+Tuning', 'LDM+Tuning+Latent')}.\n"
        f"- With the tuning layer alone: {said('LDM', 'LDM+Tuning')}.",
    ]


def _tables(told: Mapping[str, Any], figure: str) -> list[str]:
    """The figure, the averages of every training, the changes and the classes."""
    seeds = told["seeds"]
    paper = {row.system: row.average for row in papers.TABLE_1}
    real = told["rows"][f"Real Audio, seed {seeds[0]}"]["average"]
    averages = [("Real Audio", f"{real:.2f}", *[""] * (len(seeds) - 1), f"{real:.2f}", paper["Real Audio"])]
    for system in _SYSTEMS:
        fads = [row["average"] for row in _trainings(told, system)]
        averages.append((system, *(f"{v:.2f}" for v in fads), f"{np.mean(fads):.2f}", f"{paper[system]:.2f}"))
    changes = [
        (
            f"{row['from']} → {row['to']}",
            row["this run shows"],
            f"{row['this run']:+.2f}",
            f"{row['2.5 %']:+.2f} to {row['97.5 %']:+.2f}",
            f"{row['p (Holm)']:.2g}",
            f"{row['trainings']}",
            f"{row['paper']:+.2f}",
        )
        for row in told["change"]
    ]
    classes = []
    for cls in CLASSES:
        means = [np.mean([row["classes"][cls] for row in _trainings(told, system)]) for system in _SYSTEMS]
        classes.append((LABELS[cls], *(f"{v:.2f}" for v in means)))
    alike = [
        (system, f"{told['similarity'][system]:.3f}", f"{papers.SIMILARITY[system]:.3f}")
        for system in _SYSTEMS
    ]
    return [
        f"![Average FAD of every training, with its interval over clips, and the mean of each system]({figure})",
        "Each dot is a training with its interval over clips, a stroke the mean of a system. Lower is nearer to real"
        f" clips. The FAD's full name: {told['fad']}.",
        "## Average FAD of every training",
        table(("system", *(f"seed {s}" for s in seeds), "mean", "paper"), averages),
        "## What the loss, the tuning layer and the filter change",
        "Below 0 is better. With several trainings, the interval is Student's over their changes; with one (the rows"
        " with a filter), it is a bootstrap over its clips. What the run shows follows p, corrected by Holm for the"
        " number of rows.",
        ":::{div} lc-shown",
        table(
            ("change", "this run shows", "FAD", "95 % interval", "p (Holm)", "trainings", "paper"),
            changes,
            numbers=5,
        ),
        ":::",
        "## By class",
        "FAD of each class, in means over the trainings.",
        table(("class", *_SYSTEMS), classes),
        "## Similarity of audio and text",
        "By the judging CLAP alone, for all systems; the paper does not say whether its text embeddings had passed"
        " the tuning layer.",
        table(("system", "this run", "paper"), alike),
    ]


def _figure(told: Mapping[str, Any], out: Path) -> None:
    """Average FAD of every training with its interval, and the mean of each system as a line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        figure_style()
        figure = Figure(figsize=(7.2, 3.2))
        axes = figure.subplots()
        plot_averages(
            axes,
            {
                system: [(row["average"], row["average_ci"]) for row in _trainings(told, system)]
                for system in _SYSTEMS
            },
        )
        save(figure, out)
