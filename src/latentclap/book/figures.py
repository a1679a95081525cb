"""How figures and tables look, the same everywhere: colours, matplotlib style, ours beside the paper's,
and the line that says which run made a number.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentclap.classes import CLASSES
from latentclap.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

#: The columns of the listening page, in order; the last four are rows 2-5 of Table I under the paper's names.
SYSTEMS: tuple[str, ...] = (
    "Real Audio",
    "Reconstruction",
    "LDM",
    "LDM+Tuning",
    "LDM+Latent",
    "LDM+Tuning+Latent",
)

# Paul Tol's "bright" and "vibrant" qualitative schemes: told apart under all three colour-vision deficiencies
CLASS_COLOURS: dict[str, str] = dict(
    zip(CLASSES, ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888"), strict=True)
)
SYSTEM_COLOURS: dict[str, str] = {
    "Real Audio": "#555555",
    "Reconstruction": "#aaaaaa",
    "Pretrained": "#882255",
    "LDM": "#0077bb",
    "LDM+Tuning": "#33bbee",
    "LDM+Latent": "#cc3311",
    "LDM+Tuning+Latent": "#ee7733",
    # the post-filtered rows of Table I keep their system's colour: hatch or dash them
    "LDM+filter": "#0077bb",
    "LDM+Tuning+filter": "#33bbee",
    "LDM+Latent+filter": "#cc3311",
    "LDM+Tuning+Latent+filter": "#ee7733",
}

#: for curves that are neither classes nor systems; from the same schemes
CYCLE = ("#0077bb", "#cc3311", "#ee7733", "#33bbee", "#332288", "#999933", "#ee3377", "#009988")
#: what tells those curves apart in grey: two of one dash are of unlike lightness
DASHES = ("-", "--", "-.", ":")

_ALIASES = {
    "real": "Real Audio",
    "ground truth": "Real Audio",
    "vae": "Reconstruction",
    "+tuning": "LDM+Tuning",
    "+latent": "LDM+Latent",
    "+tuning+latent": "LDM+Tuning+Latent",
}


def canonical_system(name: str) -> str:
    """Return the paper's name of a system for any spelling of it (``ldm_tuning``, ``+Tuning``, ``real``).

    Raises:
        InputError: the name is none of the systems; the message lists them.
    """
    key = " ".join(name.lower().replace("_", " ").split())
    squeezed = key.replace(" + ", "+").replace(" ", "+")
    for system in SYSTEM_COLOURS:
        if system.lower() in (key, squeezed) or system.lower().replace(" ", "+") == squeezed:
            return system
    for alias in (key, key.replace(" ", "")):
        if alias in _ALIASES:
            return _ALIASES[alias]
    raise InputError(f"unknown system {name!r}; the systems are {', '.join(SYSTEM_COLOURS)}")


def figure_style() -> None:
    """Set matplotlib up for the book: opaque light ground (legible on dark pages too), colours, grid.

    Call it once, in a notebook's first cell. What shows classes or systems takes :data:`CLASS_COLOURS` and
    :data:`SYSTEM_COLOURS`; the default cycle is for anything else: eight colours with four kinds of line. A page
    shows a figure 720 pixels wide in a window of 1200: a figure of 7.2 inches has text of 14 pixels there, "small"
    text of more than 11, and panels that do not fit are stacked. Nothing is told by colour alone: markers, dashes or
    hatches go with it. In a notebook, a figure also says in words what it shows (:func:`describe_figure`).
    """
    import matplotlib as mpl

    _figures_in_words()

    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.facecolor": "white",
            "axes.edgecolor": "#666666",
            "axes.labelcolor": "#222222",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "axes.prop_cycle": mpl.cycler(
                color=2 * CYCLE, linestyle=2 * DASHES + 2 * (DASHES[2:] + DASHES[:2])
            ),
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "xtick.color": "#444444",
            "ytick.color": "#444444",
            "font.size": 10,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.cmap": "magma",
            "image.aspect": "auto",
            "image.origin": "lower",
        }
    )


def plot_averages(axes: Axes, trainings: Mapping[str, Sequence[tuple[float, tuple[float, float]]]]) -> None:
    """Draw the average FAD of every training with its interval, a line for each system, their mean as a stroke.

    Args:
        axes: where; its y axis gets the systems' names, the first on top.
        trainings: system -> (average, (low, high)) of each of its trainings. Rows with a filter are squares.
    """
    for i, (system, results) in enumerate(trainings.items()):
        colour, shape = SYSTEM_COLOURS[system], "s" if "filter" in system else "o"
        for j, (average, (low, high)) in enumerate(results):
            axes.errorbar(
                average,
                i + 0.16 * (j - (len(results) - 1) / 2),
                xerr=[[max(0, average - low)], [max(0, high - average)]],
                fmt=shape,
                ms=4,
                color=colour,
                capsize=2,
            )
        mean = sum(average for average, _ in results) / len(results)
        axes.plot([mean, mean], [i - 0.35, i + 0.35], "-", color=colour, lw=1, alpha=0.6)
    axes.set(
        xlabel="average FAD,\n95 % bootstrap over clips", yticks=range(len(trainings)), yticklabels=trainings
    )
    axes.invert_yaxis()


def describe_figure(figure: Figure) -> str:
    """Say in words what a figure shows: its title, then each panel's title, axes and curves."""
    parts = [_unset(figure.get_suptitle())]
    for axes in figure.axes:
        title = next((t for t in (axes.get_title(place) for place in ("left", "center", "right")) if t), "")
        x, y = axes.get_xlabel(), axes.get_ylabel()
        across = f"{y} against {x}" if x and y else x or y
        curves = [name for name in axes.get_legend_handles_labels()[1] if not name.startswith("_")]
        text = ": ".join(filter(None, (title, across)))
        text += f" ({', '.join(dict.fromkeys(curves))})" if curves else ""
        parts.append(_unset(text.strip()))
    return ". ".join(dict.fromkeys(filter(None, parts)))


def _unset(text: str) -> str:
    """TeX without its marks: "$L_\\text{DDPM}$, $\\lambda$" reads "L_DDPM, lambda"."""
    text = re.sub(r"\\(?:text|mathrm|mathbb|mathcal|mathbf|left|right|[,;! ])", "", text)
    return " ".join(re.sub(r"\\(?=[A-Za-z|])|[${}]", "", text).split())


def _figures_in_words() -> None:
    """In a notebook, have a figure's plain text (which is there beside the picture) describe it."""
    import sys

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    # the inline backend is set up by the first figure, and forgets then how figures are shown
    plt.close(plt.figure())

    def words(figure: Figure, printer: Any, cycle: bool) -> None:
        printer.text(describe_figure(figure) or repr(figure))

    shell.display_formatter.formatters["text/plain"].for_type(Figure, words)


def paper_beside(
    ours: pd.DataFrame,
    paper: pd.DataFrame,
    *,
    ours_label: str = "this run",
    paper_label: str = "paper",
    precision: int = 2,
    stacked: bool = False,
) -> Styler:
    """Return one table: our numbers in the left block, the paper's in the right one, each labelled.

    Rows and columns keep the order of ``ours``; rows that only the paper has come last. A number that one
    side does not have is a dash, never a copy of the other side's.

    Args:
        ours: numbers of this run; the index names the rows (systems), the columns the quantities (classes).
        paper: the paper's numbers under the same names.
        ours_label: heading of our block; say which profile.
        paper_label: heading of the paper's block.
        precision: decimals.
        stacked: the paper's block under ours, for tables that are too wide to stand side by side.

    Raises:
        InputError: the two tables share no row or no column, or their labels are the same.
    """
    import pandas as pd

    if ours_label == paper_label:
        raise InputError(f"paper_beside: both blocks are called {ours_label!r}; label them apart")
    if not len(ours.index.intersection(paper.index)) or not len(ours.columns.intersection(paper.columns)):
        raise InputError(
            "paper_beside: the two tables share no row or no column; "
            f"ours has rows {list(ours.index)[:4]}, the paper {list(paper.index)[:4]}"
        )
    rows = [*ours.index, *(row for row in paper.index if row not in ours.index)]
    blocks = {ours_label: ours.reindex(rows), paper_label: paper.reindex(rows)}
    line = "2px solid #888"
    if stacked:
        blocks = {label: block.reindex(columns=ours.columns) for label, block in blocks.items()}
        edge = [{"selector": f".row{len(rows)}", "props": f"border-top: {line}"}]
    else:
        edge = [{"selector": f".col{len(ours.columns)}", "props": f"border-left: {line}"}]
    both = pd.concat(blocks, axis=0 if stacked else 1)
    style = both.style.format(precision=precision, na_rep="–").set_table_styles(edge)
    return style.set_table_attributes(f'class="dataframe lc-beside{" lc-stacked" * stacked}"')


class ProvenanceLine:
    """One line of text that Jupyter shows under a result; ``str()`` is the plain text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<p class="lc-provenance">{html.escape(self.text)}</p>'

    def _repr_markdown_(self) -> str:
        return f"*{self.text}*"


#: key of a provenance.json -> how its value reads in the line; the order is the order of the line.
_PROVENANCE = {
    "profile": "profile {}",
    "seed": "seed {}",
    "seeds": "seeds {}",
    "clips": "{} clips",
    "clips_per_class": "{} clips a class",
    "data": "data: {}",
    "device": "on {}",
    "commit": "commit {}",
    "config_hash": "run {}",
    "started": "{}",
    "versions": "{}",
}
#: of the versions, those that numbers depend on most; the rest is in provenance.json
_VERSIONS = ("python", "torch", "diffusers", "transformers")


def provenance_line(provenance: Mapping[str, Any], **more: Any) -> ProvenanceLine:
    """Return the line that stands under every number: which run made it.

    Args:
        provenance: a run's ``provenance.json``: profile, seed or seeds, clips, device, commit, wall time in
            seconds (``wall_seconds`` or ``wall_s``), versions {package: version}. Other entries are left out.
        more: entries to add or replace, e.g. ``clips_per_class=20``.

    Raises:
        InputError: there is no profile: then it is not the record of a run.
    """
    facts = {**provenance, **more}
    if not facts.get("profile"):
        raise InputError(f"provenance line: no profile among {sorted(facts)}; pass a run's provenance.json")
    parts = [
        re.sub(r"^1 clips\b", "1 clip", form.format(_plain(key, facts[key])))
        for key, form in _PROVENANCE.items()
        if facts.get(key) not in (None, "")
    ]
    seconds = next((facts[key] for key in ("wall_seconds", "wall_s") if facts.get(key)), None)
    if seconds is not None:
        parts.append(f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s")
    return ProvenanceLine("This run: " + " · ".join(parts))


def _plain(key: str, value: Any) -> str:
    if key in ("commit", "started"):  # a short hash, with its mark for changed files; a date
        return str(value)[:10] + "+" * str(value).endswith("+")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value[name]}" for name in _VERSIONS if name in value)
    if isinstance(value, list | tuple):
        return ", ".join(str(entry) for entry in value)
    # recorded by earlier versions: "1 threads"
    return re.sub(r"\b1 threads\b", "1 thread", str(value))
