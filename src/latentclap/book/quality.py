"""The model card's measured part: tables made from ``quality.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.markdown import table
from latentclap.checkpoints import own_sampling, shipped
from latentclap.classes import CLASSES, LABELS
from latentclap.files import read_json

#: What each way through the system leaves out; keys are those of ``pretrain.quality.ways``.
WAYS = {
    "identity": "the recording itself",
    "mel, Griffin-Lim": "log-mel, then Griffin-Lim (32 iterations)",
    "mel, vocoder unpolished": "log-mel, then the vocoder alone",
    "mel, vocoder": "log-mel, then the vocoder",
    "VAE, Griffin-Lim": "VAE, then Griffin-Lim",
    "VAE, vocoder unpolished": "VAE, then the vocoder alone",
    "VAE, vocoder": "VAE, then the vocoder: the ceiling of what is generated",
}

#: generated clips whose nearest training clip is nearer than this share of the distance of held-out recordings are
#: suspected of repeating it
NEARER = 0.8


def quality_sections(path: str | Path) -> list[str]:
    """Markdown sections for a report of ``pretrain_mini.py measure``; none where the file is absent."""
    if not Path(path).is_file():
        return []
    report = read_json(path)
    held, sampling = report["held_out"], report["sampling"]
    words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sampling.items())
    return [
        "## What it can do",
        "How much of a sound survives the way into the models and back, and does a listening network still recognise"
        f" it? Measured on {held['clips']} clips of {held['recordings']} real recordings that none of the shipped"
        " networks has heard. The listening network, the *yardstick*, was trained on other real recordings only.",
        "- *Right class*: the share of clips that the yardstick puts into their class, with Wilson's 95 % interval."
        " The interval takes clips for independent; with several clips of one recording it is a little too narrow.\n"
        "- *MR-STFT loss* compares magnitude spectrograms of the waves at several resolutions (spectral convergence"
        " and log magnitude, arXiv:1910.11480); *log-mel L1* is the mean absolute difference of log-mels. Lower is"
        " better for both. A vocoder is of use where it loses less than Griffin-Lim, which needs no training."
        + _polished(report["reconstructions"]),
        _ways(report["reconstructions"]),
        f"Generated from the paper's prompts ({words}), by the same yardstick:",
        _shares({"generated": report["generated"], "recordings": report["reconstructions"]["identity"]}),
        *_levels(report.get("levels", {})),
        "The text side of CLAP: class by the seven prompts, and finding a clip's own caption among others.",
        _clap(report["clap"]),
        *_judge(report.get("judge", {})),
        "### Memorised?",
        "Distance to the nearest training clip, as percentiles over clips. Generated clips that repeat training"
        " clips would lie far nearer to them than held-out recordings do.",
        _nearest(report["nearest"]),
        *_memorised(report["nearest"]),
        f"Commit {report['commit']}, {report['device']}, seed {report['seed']}.",
    ]


def speed_sections(path: str | Path) -> list[str]:
    """Markdown for a report of ``data_scripts/benchmarks/family.py``; none where the file is absent."""
    if not Path(path).is_file():
        return []
    report = read_json(path)
    made, trained = report["generate"], report["finetune"]
    rows = [
        (
            f"{made['clips']} clips, {made['steps']} steps of {made['sampler']}, guidance 2, with loading",
            f"{made['seconds']:.0f}",
            f"{made['gb']:.2f}",
        ),
        (
            f"{trained['steps']} steps of fine-tuning, batch {trained['batch']}, with the Latent CLAP loss",
            f"{trained['seconds']:.0f}",
            f"{trained['gb']:.2f}",
        ),
    ]
    return [
        "## How long it takes",
        table(("work", "seconds", "peak memory, GB"), rows),
        f"Commit {report['commit']}, {report['device']}; `python data_scripts/benchmarks/family.py`.",
    ]


def sampler_sections(path: str | Path, picture: str | Path) -> list[str]:
    """Markdown and a picture for a report of ``pretrain_mini.py samplers``; none where the file is absent.

    Args:
        path: the report.
        picture: PNG to write, beside the page that will include the Markdown's folder.
    """
    if not Path(path).is_file():
        return []
    report = read_json(path)
    draw_samplers(report["points"], picture)
    settings = report["settings"]
    return [
        "## Steps and guidance",
        f"{settings['clips']} clips per class and point, seed {settings['seed']}; bars are 95 % intervals over"
        f" clips. {report['points'][0]['fad_name']}. Commit {report['commit']}, {report['device']}.",
        f"![Yardstick and FAD against steps and guidance](generated/{Path(picture).name})",
        *_choice(report["points"]),
    ]


def _choice(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the weights are sampled with the guidance that they are, where the two measures disagree."""
    own = own_sampling(shipped("mini"))
    steps = max({p["steps"] for p in points}, key=lambda k: sum(p["steps"] == k for p in points))
    curve = [p for p in points if p["sampler"] == own.sampler and p["steps"] == steps]
    if not curve:
        return []
    least = min(curve, key=lambda p: p["fad"])
    most = max(curve, key=lambda p: (p["verdict"]["accuracy"], p["guidance_scale"]))
    fads = f"{least['fad']:.2f}, against {most['fad']:.2f} at {most['guidance_scale']:g}"
    shares = f"{most['verdict']['accuracy']:.2f}, against {least['verdict']['accuracy']:.2f}"
    return [
        f"At {steps} steps of {own.sampler}, FAD is lowest at guidance {least['guidance_scale']:g} ({fads}), and the"
        f" share of right classes is highest at {most['guidance_scale']:g} ({shares}); the intervals of both overlap."
        f" The paper takes 2.0 throughout. The weights' own setting, {own.guidance_scale:g}, was chosen for"
        " the right class: the loss under study is meant to make the class clear, and clips of a doubtful class would"
        " tell little about it."
    ]


def draw_samplers(points: list[dict[str, Any]], picture: str | Path) -> None:
    """Four panels: share of right classes and FAD, against steps and against guidance."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from latentclap.book.figures import CYCLE, DASHES, figure_style
    from latentclap.files import atomic_path

    shared = {
        axis: max(values, key=lambda v: sum(p[axis] == v for p in points))
        for axis in ("steps", "guidance_scale")
        if (values := {p[axis] for p in points})
    }
    samplers = list(dict.fromkeys(p["sampler"] for p in points))
    with mpl.rc_context():
        figure_style()
        figure = Figure(figsize=(7.2, 5.6))
        axes = figure.subplots(2, 2, sharey="row")
    for column, (axis, other) in enumerate((("steps", "guidance_scale"), ("guidance_scale", "steps"))):
        for k, sampler in enumerate(samplers):
            curve = [p for p in points if p["sampler"] == sampler and p[other] == shared[other]]
            curve.sort(key=lambda p: p[axis])
            aside = k - (len(samplers) - 1) / 2  # bars of two samplers do not hide each other
            x = [p[axis] * 1.07**aside if axis == "steps" else p[axis] + 0.08 * aside for p in curve]
            for row, (value, interval) in enumerate(
                (
                    ([p["verdict"]["accuracy"] for p in curve], [p["verdict"]["ci"] for p in curve]),
                    ([p["fad"] for p in curve], [p["fad_ci"] for p in curve]),
                )
            ):
                bars = [[max(0.0, v - a), max(0.0, b - v)] for v, (a, b) in zip(value, interval, strict=True)]
                axes[row, column].errorbar(
                    x,
                    value,
                    list(zip(*bars, strict=True)),
                    marker="os^D"[k % 4],
                    linestyle=DASHES[k % len(DASHES)],
                    capsize=3,
                    color=CYCLE[k % len(CYCLE)],
                    label=sampler,
                )
        name = "denoising steps" if axis == "steps" else "guidance scale"
        fixed = f"{shared[other]:g} steps" if other == "steps" else f"guidance scale {shared[other]:g}"
        axes[0, column].set_title(f"at {fixed}")
        axes[1, column].set_xlabel(name)
        if axis == "steps":
            for panel in axes[:, column]:
                panel.set_xscale("log")
                panel.set_xticks(sorted({p["steps"] for p in points}), sorted({p["steps"] for p in points}))
                panel.minorticks_off()
    axes[0, 0].set_ylabel("share of right classes")
    axes[1, 0].set_ylabel("FAD (lower is better)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=len(samplers))
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="white")


def share(value: Mapping[str, Any]) -> str:
    """ "0.93 (0.87 to 0.97), n = 116", where the last part stays in one line."""
    low, high = value["ci"]
    return f"{value['accuracy']:.2f} ({low:.2f} to {high:.2f}), n\xa0=\xa0{value['n']}"


def _judge(rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [
        'The judge that comes with these models (`get_embedding("judge")`) was trained on their corpus, procedural'
        " and real, and took part in no training of a generator. On clips that it never heard:",
        _shares(rows),
    ]


def _levels(families: Mapping[str, Any]) -> list[str]:
    if not families:
        return []
    rows = families["family"]
    before = {row["n"]: row["error"] for row in families.get("before", [])}
    head = ["step n", "SNR", "error of the predicted latent", *["error of an earlier family"] * bool(before)]
    body = [
        (
            str(row["n"]),
            f"{row['snr']:.2g}",
            f"{row['error']:.2g}",
            *([f"{before[row['n']]:.2g}"] if before else []),
        )
        for row in rows
    ]
    return [
        "### Noise levels",
        "Mean square error of the clean latent that is predicted from a noisy one, given the class's prompt, in units"
        " of what the mean over all clips would give: above 1 the network would do better by ignoring what it is"
        " given. Eq. 1 weighs this error by the SNR, so that a network which sees few clips hardly learns the"
        " noisiest steps, where a sampler begins. The base model is therefore trained with more weight on them"
        " (`latentclap.pretrain.tasks.level_weight`); fine-tuning is eq. 1 as the paper has it."
        + (" The earlier family has networks of the same shapes." if before else ""),
        table(tuple(head), body),
    ]


def _polished(rows: Mapping[str, Any]) -> str:
    if "mel, vocoder unpolished" not in rows:
        return ""
    return (
        "\n- *Alone*: the vocoder without polish. Its phases are good and its magnitudes are not, so the models as"
        " they ship give its waves the magnitudes of the log-mel, let a few iterations of Griffin-Lim make the two"
        " agree, and keep the silences that the vocoder knows of (`latentclap.audio.polish`; `system.polish ="
        " None` switches it off). How this takes from both was chosen on recordings of the training side. The number"
        " of iterations was chosen on this table's own recordings: the smallest tried whose log-mel error is below"
        " Griffin-Lim's. More of them bring a true log-mel nearer, and make generated sneezes worse."
    )


def _ways(rows: Mapping[str, Any]) -> str:
    head = ("way", "MR-STFT loss", "log-mel L1", "right class", "worst class")
    body = []
    for name, row in rows.items():
        worst = min(row["per_class"], key=row["per_class"].get)
        body.append(
            (
                WAYS.get(name, name),
                f"{row['mr_stft']:.3f}",
                f"{row['mel_l1']:.3f}",
                share(row),
                f"{LABELS[worst]} {row['per_class'][worst]:.2f}",
            )
        )
    return table(head, body)


def _shares(rows: Mapping[str, Any]) -> str:
    classes = [c for c in CLASSES if all(c in row["per_class"] for row in rows.values())]
    body = [
        (name, share(row), *(f"{row['per_class'][c]:.2f}" for c in classes)) for name, row in rows.items()
    ]
    return table(("clips", "right class", *(LABELS[c] for c in classes)), body)


def _clap(rows: Mapping[str, Any]) -> str:
    body = [
        (
            name,
            share(row["zero_shot"]),
            f"{row['recall@1']:.2f} / {row['recall@5']:.2f} of {row['pool']}" if "recall@1" in row else "–",
        )
        for name, row in rows.items()
    ]
    return table(("held-out clips", "class by prompt", "caption found first / among five"), body)


def _nearest(rows: Mapping[str, Any]) -> str:
    names = {"mel": "log-mel L1, 5 / 25 / 50 %", "clap": "1 - cosine of CLAP, 5 / 25 / 50 %"}
    body = [
        (name, *(" / ".join(f"{v:.3f}" for v in row[key]) for key in names)) for name, row in rows.items()
    ]
    return table(("clips", *names.values()), body)


def _memorised(rows: Mapping[str, Any]) -> list[str]:
    """What the table of nearest clips says, in a sentence; repetition would show in the nearest ones."""
    made, held = rows.get("generated"), rows.get("held out")
    if not made or not held:
        return []
    below, text = [], []
    for key, name in (("mel", "log-mels"), ("clap", "CLAP embeddings")):
        ours, theirs = made[key][0], held[key][0]
        text.append(f"{ours / theirs:.2f} by {name}")
        below += [name] if ours < NEARER * theirs else []
    verdict = (
        f"By {' and '.join(below)} that is much nearer: clips may be repeated, and should be listened to."
        if below
        else "They lie no nearer to the training clips than recordings that were never heard: no sign of repetition."
    )
    return [
        "The nearest twentieth of generated clips, in multiples of the distance of the nearest twentieth of held-out"
        f" recordings: {' and '.join(text)}. {verdict} Percentiles do not rule out that a single clip is repeated."
    ]
