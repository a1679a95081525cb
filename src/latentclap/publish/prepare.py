"""A folder ready to be uploaded: copied, checked by loading it, with its card; whole or not there."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import json_or_nothing
from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError
from latentclap.files import check_place, existing, file_sha256, plain, replaceable, write_json, write_text
from latentclap.publish import check
from latentclap.publish.card import card
from latentclap.publish.records import base_name, base_of, evaluations, read_records
from latentclap.publish.source import ADAPTER, Source

if TYPE_CHECKING:
    from latentclap.lora import Adapter
    from latentclap.system import FoleySystem

#: what the folder holds beside the system; the second tells it from any other folder
CARD, RECORD, LICENSE, SAMPLES = "README.md", "model_card.json", "LICENSE", "samples"
#: texts of which samples are made, at most
SAMPLED = 8


@dataclass(frozen=True)
class Order:
    """What is wanted.

    Attributes:
        source: what is published.
        out: the folder to write.
        license: one of ``card.LICENSES``.
        license_file: its text; None: none is added.
        base: name of the model that it was fine-tuned from; empty: as the records say.
        datasets: hub names of what it was trained on.
        evaluations: JSON files of ``latentclap evaluate``, beside those in the run's folder.
        samples: clips of each text; 0: none.
        name: on the hub; empty: the folder's is used in the card.
        device: where it is loaded.
    """

    source: Source
    out: Path
    license: str
    license_file: Path | None = None
    base: str = ""
    datasets: tuple[str, ...] = ()
    evaluations: tuple[Path, ...] = ()
    samples: int = 0
    name: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Prepared:
    """What came of it.

    Attributes:
        sizes: bytes of each file, by its name in the folder.
        numbers: how many numbers its weights have, all of them finite.
        left_out: a line on files that were not taken; empty: all were.
        edited: the card there had been edited, and was kept.
        told: what the card was made from.
    """

    sizes: dict[str, int]
    numbers: int
    left_out: str
    edited: bool
    told: dict[str, Any]


def check_out(order: Order) -> Path:
    """Check that the folder can be written, before any work; return its place with links followed.

    Raises:
        InputError: it holds other things, or is, contains or lies in what is published.
        OSError: nothing can be written there.
    """
    check_place(order.out / CARD)
    place = replaceable(order.out, RECORD, "what latentclap publish writes")
    if (place / RECORD).is_file() and "published_by" not in json_or_nothing(place / RECORD):
        raise InputError(
            f"{order.out} holds other things than latentclap publish writes: choose another folder"
        )
    ours = order.source.place.resolve()
    if place == ours or place.is_relative_to(ours) or ours.is_relative_to(place):
        raise InputError(f"--out {order.out} and what is published lie in one another: choose another folder")
    return place


def prepare(order: Order, say: Callable[[str], None], *, keep: bool = True) -> Prepared:
    """Write the folder.

    Args:
        order: what is wanted.
        say: told what is being done.
        keep: False makes and checks all but the samples, and leaves nothing.

    Raises:
        InputError: the system is not whole, or a record or option is wrong; nothing is written then.
    """
    from latentclap.storage import exchange

    place = check_out(order)
    record = read_records(order.source.run)
    told = _told(order, record)
    with _beside(place, keep) as folder:
        left_out, system, numbers = _system(order, folder, told, say)
        told["system"] = check.values_of(system)
        if order.samples and keep:
            told["samples"] = make_samples(system, _sampled(record), order.samples, folder, say)
        del system
        if order.license_file:
            shutil.copyfile(order.license_file, folder / LICENSE)
        text = card(told)
        edited = _edited(place)
        if edited:
            shutil.copyfile(place / CARD, folder / CARD)
        else:
            write_text(folder / CARD, text)
        _write_record(folder, told, text)
        check.check_private(folder, _secrets(order))
        sizes = check.inventory(folder)
        if keep:
            folder.chmod(0o755)
            exchange(place, folder)
    return Prepared(sizes, numbers, left_out, edited, told)


def _told(order: Order, record: dict[str, Any]) -> dict[str, Any]:
    """What the card is made from, but for what only loading tells."""
    begun = _base(order)
    base = base_of(begun)
    if order.source.adapters:
        base["load"] = begun if begun in ("mini", base.get("hub")) else "BASE"
    name = order.name or plain(order.out.resolve().name)
    return {
        "name": name,
        "title": name.rpartition("/")[2],
        "pushed": bool(order.name),
        "license": order.license,
        "adapters": order.source.adapters,
        "datasets": list(order.datasets),
        "base": base,
        "record": record,
        "evaluations": evaluations(order.source.run, order.evaluations),
        "samples": {},
    }


def _base(order: Order) -> str:
    """Name or place of the model that it was fine-tuned from; empty where nobody says."""
    file = order.source.place if order.source.adapters else None
    return order.base or base_name(order.source.run, file)


@contextmanager
def _beside(place: Path, keep: bool) -> Iterator[Path]:
    """A new folder on the disk of a place, gone afterwards unless it was moved; so are folders made for it."""
    absent = check_place(place / CARD) if keep else []
    if keep:
        place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=existing(place.parent), prefix=f".{place.name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for made in absent:  # the innermost first
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()


def _system(
    order: Order, folder: Path, told: dict[str, Any], say: Callable[[str], None]
) -> tuple[str, FoleySystem, int]:
    """Copy and check the weights; what was left out, the system that they are or make, and how many numbers."""
    if order.source.adapters:
        say(f"checking {order.source.place.name} on its base")
        shutil.copyfile(order.source.place, folder / ADAPTER)
        return "", _on_base(order, folder), check.check_finite(folder)
    selection = check.select(order.source.place)
    say(f"copying and checking {len(selection.files)} files")
    for name in selection.files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(order.source.place / name, folder / name)
    check.forget_machine(folder)
    numbers = check.check_finite(folder)
    return check.left_out(selection), check.load_whole(folder, order.device), numbers


def _on_base(order: Order, folder: Path) -> FoleySystem:
    """The base with the adapters, which have to be of its very weights."""
    from latentclap.lora import Adapter, base_digest
    from latentclap.system import FoleySystem

    adapter: Adapter = Adapter.read(folder / ADAPTER)
    name = _base(order)
    if not name:
        raise InputError(
            f"{order.source.place}: which model its adapters are of is not in the records; name it with --base-model"
        )
    base = FoleySystem.from_pretrained(name, device=order.device)
    wanted = adapter.about.get("base_digest")
    if wanted and wanted != base_digest(base):
        raise InputError(
            f"{order.source.place} was trained on other weights than those of {Path(name).name}: name its base with"
            " --base-model"
        )
    return adapter.applied(base)


def make_samples(
    system: FoleySystem, texts: list[str], count: int, folder: Path, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Make the first clips of each text by seed 0, as ``latentclap generate`` does.

    Returns:
        text -> its files, named below the folder.
    """
    import numpy as np

    from latentclap.audio import write_wave
    from latentclap.generation import within_full_scale

    named = {prompt(cls): cls for cls in CLASSES}
    made: dict[str, list[str]] = {}
    for number, text in enumerate(texts):
        say(f"samples of {text!r}")
        waves = system.generate(prompts=[text], n=count, seed=0)
        if not np.isfinite(waves).all():
            raise InputError(f"{text!r}: the system generated NaN; its weights are damaged")
        stem = named.get(text, f"text{number:02d}")
        made[text] = [f"{SAMPLES}/{stem}_{i:03d}.flac" for i in range(count)]
        for file, wave in zip(made[text], waves, strict=True):
            (folder / SAMPLES).mkdir(exist_ok=True)
            write_wave(folder / file, within_full_scale(wave), system.sampling_rate)
    return made


def _sampled(record: dict[str, Any]) -> list[str]:
    """The texts of which samples are made: the most frequent it was trained with, or those of the seven classes."""
    texts = list(record.get("data", {}).get("texts", {})) or [prompt(cls) for cls in CLASSES]
    return texts[:SAMPLED]


def _edited(place: Path) -> bool:
    """Whether somebody has written in the card of an earlier call."""
    if not ((place / CARD).is_file() and (place / RECORD).is_file()):
        return False
    return file_sha256(place / CARD) != json_or_nothing(place / RECORD).get("card")


def _write_record(folder: Path, told: dict[str, Any], text: str) -> None:
    """What the card says, for programs, and every file's size and digest, for whoever downloads them."""
    from latentclap import __version__

    files = {
        name: {"bytes": size, "sha256": file_sha256(folder / name)}
        for name, size in check.inventory(folder).items()
        if name != CARD
    }
    about = {key: value for key, value in told.items() if key not in ("pushed", "title")}
    # of the card as it was written: another one there was edited
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_json(
        folder / RECORD,
        {"published_by": f"latentclap publish {__version__}", "card": digest, **about, "files": files},
    )


def _secrets(order: Order) -> list[str | Path]:
    """Places of this machine that nothing published may name."""
    source = order.source
    run = json_or_nothing(source.run / "finetune.json") if source.run else {}
    sounds = run.get("sounds", {}).get("folder", "") if isinstance(run.get("sounds"), dict) else ""
    given = [run.get("model", ""), run.get("phi", ""), run.get("judge", ""), sounds]
    named = [text for text in given if isinstance(text, str) and text.startswith("/")]
    return [Path.home(), Path.cwd(), source.place.resolve(), order.out.resolve(), *named]
