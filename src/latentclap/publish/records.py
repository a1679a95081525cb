"""What a run's records say of how a system was made, without any name of a file or folder."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentclap.checkpoints import json_or_nothing, shipped
from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError
from latentclap.files import below
from latentclap.getting.sources import SOURCES
from latentclap.needs import on_a_hub
from latentclap.publish.figures import before_after, held_out
from latentclap.publish.source import FINETUNE, NOTEBOOK, TRAIN

#: what is taken over of a record's ``runs.origin``
_ORIGIN = ("commit", "device", "versions")
#: values of a training that a card tells, in its order
VALUES = (
    "lam",
    "tuning",
    "weighting",
    "reading",
    "reduction",
    "epochs",
    "batch_size",
    "grad_accum",
    "lr",
    "lora_rank",
    "ema_decay",
    "drop",
    "seed",
)


def read_records(run: Path | None) -> dict[str, Any]:
    """Read what a run's folder says of its training.

    Returns:
        JSON-ready, and of the following what is known: by (which command), command, base {"name", "hub", "licence"},
        values (of the training), steps, seconds, processes, commit, device, versions, data {"sounds", "held_out",
        "clips", "clip_seconds", "texts": {text: clips}, "set"}, figures (see ``figures``).

    Raises:
        InputError: a record is damaged or of another form.
    """
    if run is None:
        return {}
    told = run / next(name for name in (FINETUNE, NOTEBOOK, TRAIN) if (run / name).is_file())
    reader = {FINETUNE: _finetune, NOTEBOOK: _notebook, TRAIN: _train}[told.name]
    try:
        found = reader(run)
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{told}: a record of the run is of another form ({reason})") from None
    return {key: value for key, value in found.items() if value not in (None, "", {}, [])}


def base_name(run: Path | None, file: Path | None = None) -> str:
    """The model that a training began with, as its records name it: "mini", a hub name, or a folder's place.

    Args:
        run: the folder of its records.
        file: of adapters, whose own note counts where there are no records.
    """
    if run is not None and (run / FINETUNE).is_file():
        return str(json_or_nothing(run / FINETUNE).get("model", ""))
    config = json_or_nothing(run / "config.json") if run is not None else {}
    model = config.get("profile", config).get("model", {})
    if name := str(model.get("system", "")):
        return name
    noted = str(_note(file).get("base", "")) if file is not None else ""
    # of a folder there is its last name only, which leads nowhere
    return noted if base_of(noted).get("licence") or on_a_hub(noted) else ""


def _note(file: Path) -> dict[str, Any]:
    """What we wrote into the header of a file of adapters."""
    from latentclap.lora import Adapter

    return Adapter.read(file).about


def base_of(name: str) -> dict[str, str]:
    """What can be told of the model that a training began with.

    Args:
        name: as the records have it: "mini", a hub name, or a folder, whose place is not told.

    Returns:
        "name" in words, "hub", its name there, and "licence", each only where it is known.
    """
    if not name:
        return {}
    if shipped(name).is_dir() and not set(name) & {"/", "."}:
        return {"name": name, "licence": "Apache-2.0, as latentclap"}
    got = next((s for s in SOURCES.values() if s.kind == "hub" and Path(name).match(s.out)), None)
    if got is not None and got.repo_type == "model" and got.out.count("/"):  # what get.py brought
        return {"name": got.repo, "hub": got.repo, "licence": got.licence}
    if not on_a_hub(name) or Path(name).exists():
        return {"name": "a model of the author's own"}
    known = next((s.licence for s in SOURCES.values() if s.repo == name), "")
    return {"name": name, "hub": name} | ({"licence": known} if known else {})


# --- latentclap finetune ----------------------------------------------------------------------------------------


def _finetune(run: Path) -> dict[str, Any]:
    record, trained = json_or_nothing(run / FINETUNE), json_or_nothing(run / TRAIN)
    sounds = record["sounds"]
    data = {
        "sounds": record.get("used", sounds["train"]),
        "held_out": len(sounds["held_out"]),
        "clips": record.get("clips"),
        **_cached(run / "latents" / "train"),
    }
    return {
        "by": "latentclap finetune",
        "command": _command(record),
        "as_typed": "asked" in record,
        "base": base_of(record["model"]),
        "values": _values(record.get("training") or json_or_nothing(run / "config.json").get("finetune", {})),
        **_trained(trained),
        "data": {key: value for key, value in data.items() if value is not None},
        "figures": held_out(record.get("held_out_losses", {})),
    }


def _command(record: dict[str, Any]) -> str:
    """The command again, with words for what lies on the author's disk."""
    base = base_of(record["model"])
    words = ["latentclap finetune SOUNDS -o OUT", "--model", base.get("hub") or _shown(record["model"])]
    if "asked" in record:
        return " ".join([*words, *_options(record["asked"])])
    for name in ("phi", "judge"):
        if value := record.get(name):
            words += [f"--{name}", _shown(value)]
    crops, crop = record.get("crops", (8, "first"))
    words += ["--crops", str(crops)] if crops != 8 else []
    words += ["--crop", str(crop)] if crop != "first" else []
    for name, value in sorted(record.get("changes", {}).items()):
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            words += [option, _word(value)]
    return " ".join(words)


def _word(value: Any) -> str:
    """A value as one types it; of a number all of its digits, for the command is to give the same weights."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return shlex.quote(str(value))


#: options of ``latentclap finetune`` that a card leaves out: what it always tells, and what changes no result
_UNTOLD = ("sounds", "out", "model", "workers", "minutes", "prepare", "dry_run", "quiet")


def _options(given: dict[str, Any]) -> Iterator[str]:
    """Options as they were typed; folders are not told."""
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name in _UNTOLD:
            continue
        if isinstance(value, bool):
            yield from [option] if value else []
        else:
            shown = _shown(value) if name in ("phi", "judge") else value
            yield from (option, _word(shown))


def _shown(name: str) -> str:
    """A model's name as it may be told; a folder's is not."""
    ours = shipped(name).is_dir() and not set(name) & {"/", "."}
    return name if ours or on_a_hub(name) else "FOLDER"


def _cached(folder: Path) -> dict[str, Any]:
    """Seconds of a clip, and how many clips each text has, from a latent cache; nothing where it is gone."""
    texts: Counter[str] = Counter()
    for path in below(folder, (".json",)) if folder.is_dir() else []:
        if path.name.endswith(".entry.json"):
            texts.update(json_or_nothing(path).get("captions", []))
    return {
        "clip_seconds": json_or_nothing(folder / "cache.json").get("seconds"),
        "texts": dict(texts.most_common()),
    }


# --- latentclap.train, and notebook 03 --------------------------------------------------------------------------


def _train(run: Path) -> dict[str, Any]:
    config, trained = json_or_nothing(run / "config.json"), json_or_nothing(run / TRAIN)
    if config.get("part", "finetune") != "finetune":
        raise InputError(f"{run}: its records are of part {config['part']}, and not of a fine-tuning")
    return {
        "by": "latentclap.train",
        "command": "accelerate launch -m latentclap.train CONFIG",
        "base": base_of(config.get("model", {}).get("system", "")),
        "values": _values(config.get("finetune", {})),
        **_trained(trained),
        "data": {"clips": config["data"]["clips"]} if "data" in config else {},
    }


def _notebook(run: Path) -> dict[str, Any]:
    record, config = json_or_nothing(run / NOTEBOOK), json_or_nothing(run / "config.json")
    metrics = json_or_nothing(run / "metrics.json")
    values = config["profile"]["finetune"] | {
        key: value
        for key, value in record["parameters"].items()
        if key in VALUES and (value or key in ("lam", "seed", "tuning"))
    }
    profile = record["profile"]
    given = {k: v for k, v in record["parameters"].items() if isinstance(v, int | float) or k in VALUES}
    words = [f"-p {key} {value}" for key, value in given.items() if key not in ("force", "profile")]
    own = record.get("data", "").startswith("embedded")
    return {
        "by": "notebook 03_finetune",
        "command": f"papermill notebooks/03_finetune.ipynb out.ipynb -p profile {profile} " + " ".join(words),
        "base": base_of(config["profile"]["model"]["system"]),
        "values": _values(values),
        "steps": None,
        "seconds": metrics.get("train_seconds"),
        **{key: record.get(key) for key in _ORIGIN},
        "data": {
            "clips": record.get("clips"),
            "texts": {prompt(cls): None for cls in CLASSES},
            "set": "the procedural sounds of latentclap" if own else "recordings in DCASE's layout",
        },
        "figures": before_after(metrics, record),
    }


def _trained(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps": summary.get("step"),
        "seconds": summary.get("seconds"),
        "processes": summary.get("processes"),
        **{key: summary.get(key) for key in _ORIGIN},
    }


def _values(given: dict[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in VALUES if given.get(key) is not None}
