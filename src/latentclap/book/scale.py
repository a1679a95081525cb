"""Tables of the pages on cost and on data at scale, from the files that measurements left."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.markdown import table
from latentclap.classes import CLASSES
from latentclap.cost import Hours, Work, ablation, figure_3, hours, table_1
from latentclap.errors import InputError
from latentclap.files import read_json, write_text
from latentclap.profiles import Profile, load_profile


def cost_tables(
    rates: str | Path,
    out: str | Path = "book/generated/cost.md",
    *,
    profile: str = "paper",
    speed: Sequence[str | Path] = (),
    own: str | Path | None = None,
    built: str = "quick",
) -> Path:
    """Write the cost page's tables: the GPU-hours, then what there is to do and the rates.

    Args:
        rates: JSON with measured rates and published throughputs (book/runs/rates.json).
        out: the Markdown file to write.
        profile: whose numbers of epochs, clips, seeds and steps are counted.
        speed: records of data_scripts/benchmarks/speed.py: their rates of training are shown beside.
        own: metrics of notebook 07 on this machine: what the profile costs here that the book is built with.
        built: that profile.

    Raises:
        InputError: there is no such file, or it is not of that kind.
    """
    told, chosen = _read(rates, ("device", "rates", "published", "dev_clips", "steps")), load_profile(profile)
    clips = told["dev_clips"]
    work = {
        "Table I": table_1(chosen, clips),
        "Fig. 3": figure_3(chosen, clips),
        "Ablation": ablation(chosen, clips),
    }
    # the answer first, then what it is made of
    parts = [_hours(told, work, chosen)]
    parts += [_own(speed, work, chosen.generate.steps)] * bool(speed)
    parts += [_here(own, built)] if own else []
    parts += [_work(work, chosen, clips), _rates(told), _published(told)]
    write_text(out, "\n\n".join(parts) + "\n")
    return Path(out)


def _rates(told: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            rate["how"],
            f"{rate['train_clips_per_second']:g}",
            f"{rate['generate_100_clips_seconds']:g}",
        )
        for name, rate in told["rates"].items()
    ]
    head = ("name", "how", "training, clips per second", f"100 clips, {told['steps']} steps, seconds")
    return f"### Rates of one {told['device']}, torch {told['torch']}\n\n{table(head, rows)}"


def _work(work: Mapping[str, Work], profile: Profile, clips: int) -> str:
    rows = [
        (name, f"{w.trained:,}", f"{w.generated:,}", _range(w.filtered, w.filtered_most, "{:,}".format))
        for name, w in work.items()
    ]
    sweep, seeds = profile.sweep, len(profile.evaluate.seeds)
    trainings = "one seed" if seeds == 1 else f"{seeds} seeds"
    text = (
        f"Profile `{profile.name}`, {clips:,} development clips. Table I: four systems, {profile.finetune.epochs}"
        f" epochs, {trainings}; the clips of one seed once more through the post-filter, with one to"
        f" {profile.evaluate.max_tries} tries per clip. Fig. 3: {len({0.0, *sweep.lams})} values of λ, with and"
        f" without tuning layer, {sweep.epochs} epochs,"
        f" {len(sweep.seeds)} seeds. Sampling: {profile.generate.steps} steps."
    )
    head = ("experiment", "clips × epochs trained", "clips generated", "clips for the post-filter")
    return f"### What there is to do\n\n{text}\n\n{table(head, rows)}"


def _hours(told: Mapping[str, Any], work: Mapping[str, Work], profile: Profile) -> str:
    columns: dict[str, dict[str, Hours]] = {}
    here = told["published"][told["device"]]["tflops"]
    for name, rate in told["rates"].items():
        known = {
            experiment: hours(w, rate, measured_steps=told["steps"], steps=profile.generate.steps)
            for experiment, w in work.items()
        }
        columns[f"{told['device']}, {name}"] = known
        # without tensor cores in use, their published throughput says nothing
        for device, card in told["published"].items() if rate["half_precision"] else ():
            if device != told["device"]:
                columns[f"{device}, {name}, estimate"] = {
                    k: v.scaled(here / card["tflops"]) for k, v in known.items()
                }
    rows = [
        (f"{experiment}: {label}", *(_number(getattr(c[experiment], part)) for c in columns.values()))
        for experiment in work
        for part, label in (
            ("training", "fine-tuning"),
            ("generation", "generation"),
            ("post_filter", "post-filter, if every first try passes"),
            ("post_filter_most", "post-filter, if none does"),
            ("total", "**all**, every first try passing"),
        )
        if part == "total" or getattr(next(iter(columns.values()))[experiment], part)
    ]
    return f"### GPU-hours\n\n{table(('part', *columns), rows)}"


def _own(records: Sequence[str | Path], work: Mapping[str, Work], steps: int) -> str:
    rows = []
    for path in records:
        told = _read(path, ("size", "device", "commit"))
        if told["size"] != "paper" or "when" in told:  # of an earlier state of the code
            continue
        rates = [r["clips_per_second"] for r in _best(told, "train", "clips_per_second") if r["loss"]]
        if not rates:
            continue
        sampled = _best(told, "generate", "seconds")
        ddim = [r["seconds"] for r in sampled if (r["sampler"], r["steps"]) == ("ddim", steps)]
        rate, seconds = max(rates), min(ddim, default=None)
        for name, w in work.items():
            made = "–" if seconds is None else f"{w.generated * seconds / 100 / 3600:.1f}"
            own = (f"{rate:.0f}", "–" if seconds is None else f"{seconds:.1f}")
            rows.append((told["device"], *own, name, f"{w.trained / rate / 3600:.1f}", made))
    head = (
        "device",
        "training with eq. 3, clips per second",
        "100 clips, seconds",
        "experiment",
        "fine-tuning, hours",
        "generation, hours",
    )
    text = (
        "From the records of `data_scripts/benchmarks/speed.py` on the page on [one GPU](gpu.md), the fastest row of"
        f" each; generation by {steps} DDIM steps, and without the post-filter:"
    )
    return f"### By this repository's own benchmark\n\n{text}\n\n{table(head, rows)}"


def _best(told: Mapping[str, Any], part: str, figure: str) -> list[Mapping[str, Any]]:
    """A part's rows that have a figure."""
    return [row for row in told.get(part, {}).get("rows", ()) if row.get(figure)]


def _published(told: Mapping[str, Any]) -> str:
    rows = [
        (name, card["what"], f"{card['tflops']:g} {{cite}}`{card['cite']}`")
        for name, card in told["published"].items()
    ]
    return f"### Published throughput\n\n{table(('device', 'which figure', 'TFLOP/s'), rows)}"


#: profiles of the same small models
SMALL = ("quick", "evening", "mini")


def _here(metrics: str | Path, built: str) -> str:
    """Hours on the machine that the book is built on, by what notebook 07 measured there."""
    told = _read(metrics, ("stages", "clips_trained_per_second", "dev_clips", "steps"))
    stages = told["stages"]
    step, once = stages["one diffusion step with guidance"], stages["VAE decoder"] + stages["vocoder"]
    rows = []
    for name in SMALL if built in SMALL else (built,):
        profile = load_profile(name)
        clips = told["dev_clips"] if name == built else profile.data.dev_per_class * len(CLASSES)
        each = profile.generate.steps * step + once
        least = most = 0.0
        for what, work in (
            ("Table I", table_1(profile, clips)),
            ("Fig. 3", figure_3(profile, clips)),
            ("ablation", ablation(profile, clips)),
        ):
            trained = work.trained / told["clips_trained_per_second"] / 3600
            low, high = (
                trained + (work.generated + f) * each / 3600 for f in (work.filtered, work.filtered_most)
            )
            least, most = least + low, most + high
            rows.append(
                (f"`{profile.name}`", what, f"{work.trained:,}", f"{work.generated:,}", _range(low, high))
            )
        rows.append((f"`{profile.name}`", "**all**", "", "", _range(least, most)))
    text = (
        f"From what [notebook 07](notebooks/07_efficiency.ipynb) measured when this page was built:"
        f" {told['clips_trained_per_second']:.1f} clips trained a second, and {step:.3f} s a step and {once:.2f} s a"
        " clip of generation, with whatever else the machine did then. Hours of one process; the second figure is"
        " where the post-filter uses all of its tries."
    )
    head = ("profile", "experiment", "clips × epochs trained", "clips generated without filter", "hours here")
    return f"### On the machine that built this page\n\n{text}\n\n{table(head, rows)}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _range(low: float, high: float, number: Callable[[float], str] = _number) -> str:
    a, b = number(low), number(high)
    return a if a == b else f"{a} to {b}"


def cache_table(record: str | Path, out: str | Path = "book/generated/cache_rate.md") -> Path:
    """Write the tables of where the time of the latent cache goes, per system.

    Args:
        record: JSON of data_scripts/benchmarks/cache_rate.py; records of other systems may lie beside it, under names
            that begin with its own and an underscore.
        out: the Markdown file to write.

    Raises:
        InputError: there is no such file, or it is not of that kind.
    """
    record = Path(record)
    others = sorted(record.parent.glob(f"{record.stem}_*.json"))
    write_text(out, "\n\n".join(text for path in (record, *others) for text in _cache(path)) + "\n")
    return Path(out)


def _cache(record: Path) -> list[str]:
    """Headings, sentences and tables of one record."""
    told = _read(record, ("stages", "loop", "projection", "reading_clips_per_second", "machine", "versions"))
    each = sum(told["stages"].values())
    stages = [(name, f"{1000 * s:.1f}", f"{s / each:.0%}") for name, s in told["stages"].items()]
    loop = [(str(r["workers"]), f"{r['clips_per_second']:.2f}") for r in told["loop"]]
    basis, rate = told["projection_basis"], told["projection_rate"]
    projected = [(f"{p['devices']}", f"{p['hours']:,.1f}") for p in told["projection"]]
    machine = told["machine"]
    device = re.sub(r"\b1 threads\b", "1 thread", machine["device"])  # as earlier versions counted
    where = f"{device}, {machine['cores']} cores"
    if machine["load"] > 1:
        where += f", shared: load {machine['load']:.1f} when it began, which slows what is timed by the clock"
    sizes = told.get("parameters")
    made_of = (
        f"a VAE of {sizes['vae'] / 1e6:.1f} and a CLAP of {sizes['clap'] / 1e6:.1f} M parameters, "
        if sizes
        else ""
    )
    clip = f"clips of {told['clip_seconds']:.2f} s"
    return [
        f"### {told['system']}",
        f"Measured on {told['clips']} sounds of {told['seconds']:g} s at {told['rate']} Hz ({told['format']}), system"
        f" `{told['system']}` ({made_of}{clip}), batches of {told['batch_size']}; {where};"
        f" torch {told['versions']['torch']}, commit {told['commit']}.",
        table(
            ("stage, in one process", "ms per clip", "share"), [*stages, ("sum", f"{1000 * each:.1f}", "")]
        ),
        table(("decoding workers beside the encoding process", "clips per second"), loop),
        f"Training draws {told['reading_clips_per_second']:,.0f} clips a second at random from such a cache.",
        f"For {told['projection_clips']:,} sounds, a clip of each, at {rate:.2f} clips a second and device ({basis}),"
        f" with `{told['system']}` and {clip}:",
        table(("devices", "hours"), projected),
    ]


def _read(path: str | Path, keys: Sequence[str]) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    told = read_json(path)
    missing = [key for key in keys if not isinstance(told, dict) or key not in told]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing; it is another kind of file")
    return told
