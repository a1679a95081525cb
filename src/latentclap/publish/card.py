"""The model card: Markdown with the front matter that the Hugging Face hub reads, from what the records say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from latentclap.classes import CLASSES, prompt
from latentclap.publish.usage import diffusers_code, latentclap_code, loading
from latentclap.wording import plural

#: licences by the hub's names for them; "other" needs its text
LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "mpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
    "unlicense",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "openrail",
    "creativeml-openrail-m",
    "bigscience-openrail-m",
    "other",
)
#: texts that a card lists
TEXTS = 20
REPOSITORY = "https://github.com/latentclap/latentclap"
PAPER = """@misc{karchkhadze2024latent,
  title  = {Latent CLAP Loss for Better Foley Sound Synthesis},
  author = {Karchkhadze, Tornike and Salami Kavaki, Hassan and Izadi, Mohammad Rasool and Irvin, Bryce and
            Kegler, Mikolaj and Hertz, Ari and Zhang, Shuo and Stamenovic, Marko},
  year   = {2024},
  eprint = {2403.12182},
  archiveprefix = {arXiv}
}"""
#: the readings of a value for people
_NAMES = {
    "lam": "λ of eq. 4",
    "tuning": "tuning layer",
    "weighting": "w(n) of eq. 3",
    "reading": "reading of eq. 3",
    "reduction": "reduction of eq. 3",
    "epochs": "epochs",
    "batch_size": "clips per pass",
    "grad_accum": "passes per step",
    "lr": "learning rate of Adam",
    "lora_rank": "rank of LoRA adapters",
    "ema_decay": "decay of averaged weights",
    "drop": "share of dropped conditions",
    "seed": "seed",
}


def card(told: dict[str, Any]) -> str:
    """Write a card.

    Args:
        told: name, title, license, adapters, datasets, base, system (see ``check.values_of``), record (see
            ``records.read_records``), evaluations (see ``figures.evaluations``), samples {text: [file, ...]}.

    Returns:
        The text, with front matter.
    """
    parts = [
        front_matter(told),
        f"# {told['title']}",
        _first(told),
        "## Use it",
        *loading(told),
        latentclap_code(told),
        diffusers_code(told),
        "## What it knows",
        _texts(told),
        "## How it was made",
        *_made(told["record"], told["base"]),
        "## Training data",
        _data(told["record"]),
        "## Measured",
        *_measured(told),
        *_samples(told),
        "## Licence",
        _licence(told),
        "## Citation",
        f"The method is the paper's; the code is [latentclap]({REPOSITORY}), an open reproduction of it.",
        f"```bibtex\n{PAPER}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(told: dict[str, Any]) -> str:
    """The card's head in YAML, between its two lines of dashes."""
    from huggingface_hub import ModelCardData

    base = told["base"].get("hub")
    relation = {"base_model_relation": "adapter" if told["adapters"] else "finetune"} if base else {}
    other = {"license_name": "other", "license_link": "LICENSE"} if told["license"] == "other" else {}
    data = ModelCardData(
        license=told["license"],
        library_name="diffusers",
        pipeline_tag="text-to-audio",
        tags=tags(told),
        base_model=base,
        datasets=told["datasets"] or None,
        **other,
        **relation,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def tags(told: dict[str, Any]) -> list[str]:
    """What the hub finds it by."""
    loss = ["latent-clap-loss"] if told["record"].get("values", {}).get("lam") else []
    return [
        "foley",
        "sound-effects",
        "text-to-audio",
        "latent-diffusion",
        "audioldm",
        "latentclap",
        *loss,
        *(["lora"] if told["adapters"] else []),
    ]


def _first(told: dict[str, Any]) -> str:
    """The first sentence, which ``latentclap info`` shows too."""
    base, lam = told["base"].get("name", ""), told["record"].get("values", {}).get("lam")
    loss = ""
    if lam is not None:
        loss = f" with the Latent CLAP loss, λ = {lam:g}" if lam else " by the diffusion loss alone (λ = 0)"
    kind = "a text-to-sound latent diffusion system of AudioLDM's kind"
    if told["adapters"]:
        what = f"LoRA adapters for {base}, {kind}" if base else f"LoRA adapters for {kind}"
        tuned = f", trained{loss}" if loss else ""
    else:
        what = f"A{kind[1:]}"
        begun = f" from {base}" if base else ""
        tuned = f", fine-tuned{begun}{loss}" if begun or told["record"] else ""
    clips = f"mono clips of {told['system']['seconds']:g} s at {told['system']['sampling_rate']} Hz"
    return f"{what}{tuned}: {clips}."


def _texts(told: dict[str, Any]) -> str:
    texts = told["record"].get("data", {}).get("texts", {})
    if not texts:
        return (
            "The records do not list the texts that it was trained with. Of the seven classes of DCASE 2023 Task 7"
            f' the prompts are of the form "{prompt(CLASSES[0])}".'
        )
    shown = list(texts.items())[:TEXTS]
    named = {prompt(cls): cls for cls in CLASSES}
    lines = ["It was trained with these texts, and others are a guess:", ""]
    for text, clips in shown:
        line = "- " + _code(text)
        line += f", class `{named[text]}`" if text in named else ""
        line += f", {plural(clips, 'clip')}" if clips else ""
        lines.append(line)
    more = len(texts) - len(shown)
    lines += [f"- and {plural(more, 'text')} more"] if more else []
    return "\n".join(lines)


def _code(text: str) -> str:
    """A text on one line as it is typed, whatever is in it."""
    text = " ".join(text.split())
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _made(record: dict[str, Any], base: dict[str, str]) -> Iterator[str]:
    if not record:
        yield "No record of its training was found beside it."
        return
    begun = base.get("name", "a model that the records do not name")
    if begun == "mini":
        begun += ", the small weights that come with latentclap"
    yield f"By `{record['by']}`, from {begun}:"
    if "command" in record:
        yield f"```bash\n{record['command']}\n```"
        how = "As it was typed" if record.get("as_typed") else "Put together from the records"
        yield f"{how}; words in capitals are the author's files and folders."
    rows = [(_NAMES[key], _plain(key, value)) for key, value in record.get("values", {}).items()]
    rows += [("optimiser steps", str(record["steps"]))] if "steps" in record else []
    if "seconds" in record:
        on = f", {plural(record['processes'], 'process', 'processes')}" if "processes" in record else ""
        rows.append(("training time", f"{record['seconds']:.0f} s{on}"))
    rows += [("device", record["device"])] if "device" in record else []
    rows += [("commit of latentclap", record["commit"])] if "commit" in record else []
    rows += (
        [("versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items()))]
        if "versions" in record
        else []
    )
    if rows:
        yield _table(("", "as recorded"), rows)


def _plain(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "lora_rank" and not value:
        return "none, all weights of the UNet were trained"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(record: dict[str, Any]) -> str:
    data = record.get("data", {})
    sentences = []
    if "set" in data:
        sentences.append(f"The set: {data['set']}.")
    if "sounds" in data:
        held = data.get("held_out", 0)
        sentences.append(
            f"{plural(data['sounds'], 'sound')} trained it"
            + (f", and {held} more were held out and only measured." if held else "; none was held out.")
        )
    if "clips" in data:
        length = data.get("clip_seconds")
        each = f" of {length:g} s, {data['clips'] * length:.0f} s in all" if length else ""
        sentences.append(f"They were encoded as {plural(data['clips'], 'clip')}{each}." if "sounds" in data else
                         f"{plural(data['clips'], 'clip')}{each} trained it.")  # fmt: skip
        if length:
            sentences.append("A sound shorter than a clip is repeated to its length.")
    if not sentences:
        sentences.append("Not recorded.")
    sentences.append(
        "Whose the sounds are, and under which licence, is not in the records: the author has to say."
    )
    return " ".join(sentences)


def _measured(told: dict[str, Any]) -> Iterator[str]:
    figures, evaluations = told["record"].get("figures", []), told["evaluations"]
    if figures:
        rows = [
            (
                row["what"],
                f"{row['before']:.4g}",
                f"{row['after']:.4g}",
                _interval(row["change_ci"], "+.2g"),
                row["of"],
            )
            for row in figures
        ]
        yield _table(("", "before", "after", "change, 95 % interval", "measured on"), rows)
        yield "Of a loss less is better. One training was run: the interval is over sounds, not over trainings."
    for result in evaluations:
        rows = [
            (cls, f"{row['fad']:.3f}", _interval(row["ci"], ".3f")) for cls, row in result["classes"].items()
        ]
        rows.append(("average", f"{result['average']:.3f}", _interval(result["average_ci"], ".3f")))
        yield _table(("class", "FAD", "interval"), rows)
        yield f"{result['name']}. FADs of other embeddings, counts or references are not to be compared with these."
    if not figures:
        yield "Losses on held-out sounds: not measured."
    if not evaluations:
        yield "Fréchet audio distance: not measured."


def _interval(ends: list[float] | None, form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else "not told"


def _samples(told: dict[str, Any]) -> Iterator[str]:
    samples = told["samples"]
    if not samples:
        return
    count = len(next(iter(samples.values())))
    chosen = "{sampler}, {steps} steps, guidance {guidance_scale:g}".format(**told["system"]["sampling"])
    yield "## Samples"
    yield (
        f"The first {plural(count, 'clip')} of each text by seed (`--seed 0`, {chosen}). None was picked by ear, and"
        " none left out."
    )
    lines = []
    for text, files in samples.items():
        links = ", ".join(f"[{i}]({file})" for i, file in enumerate(files))
        lines.append(f"- {_code(text)}: {links}")
    yield "\n".join(lines)


def _licence(told: dict[str, Any]) -> str:
    own = told["license"] if told["license"] != "other" else "in the file [LICENSE](LICENSE)"
    base = told["base"].get("licence")
    more = f" It was made from {told['base']['name']}, whose licence goes on holding: {base}." if base else ""
    return f"As the author chose: {own}.{more}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
