"""A folder ready to be uploaded: copied, checked by loading it, with its card; whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import json_or_nothing
from latentclap.errors import InputError
from latentclap.files import (
    NO_ROOM,
    check_place,
    existing,
    plain,
    replaceable,
    write_text,
)
from latentclap.publish import check
from latentclap.publish.card import card
from latentclap.publish.earlier import (
    CARD,
    LICENSE,
    RECORD,
    added,
    dropped,
    edited,
    notes,
    take_along,
    write_record,
)
from latentclap.publish.figures import evaluations
from latentclap.publish.private import check_private, forget_machine
from latentclap.publish.records import base_name, base_of, read_records
from latentclap.publish.samples import make_samples, sampled_texts
from latentclap.publish.source import ADAPTER, Source

if TYPE_CHECKING:
    from latentclap.lora import Adapter
    from latentclap.system import FoleySystem


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
        notes: what whoever edited the folder has to know, a line each.
        told: what the card was made from.
    """

    sizes: dict[str, int]
    numbers: int
    left_out: str
    notes: list[str]
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


def check_order(order: Order) -> None:
    """Check what can be checked without torch, before any work: the place, the files' headers, the records.

    Raises:
        InputError, OSError: see :func:`check_out`, :func:`check.select`, ``read_records`` and ``evaluations``.
    """
    added(check_out(order))
    if not order.source.adapters:
        check.select(order.source.place)
    read_records(order.source.run)
    evaluations(order.source.run, order.evaluations)


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
            told["samples"] = make_samples(system, sampled_texts(record), order.samples, folder, say)
        del system
        if order.license_file:
            shutil.copyfile(order.license_file, folder / LICENSE)
        text = card(told)
        taken = take_along(place, folder, added(place))
        kept = edited(place)
        if kept:
            shutil.copyfile(place / CARD, folder / CARD)
        else:
            write_text(folder / CARD, text)
        write_record(folder, told, text, taken)
        check_private(folder, _secrets(order))
        sizes = check.inventory(folder)
        told_by_hand = notes(folder, order.license, kept, taken)
        told_by_hand += [] if kept else dropped(order.source.place, text)
        if keep:
            folder.chmod(0o755)
            exchange(place, folder)
    return Prepared(sizes, numbers, left_out, told_by_hand, told)


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
    source = order.source.place
    try:
        if order.source.adapters:
            say(f"checking {source.name} on its base")
            _copy(source, folder, ADAPTER, order.out)
            forget_machine(folder)
            return "", _on_base(order, folder), check.check_finite(folder)
        selection = check.select(source)
        say(f"copying and checking {len(selection.files)} files")
        for name in selection.files:
            _copy(source / name, folder, name, order.out)
        forget_machine(folder)
        numbers = check.check_finite(folder)
        return check.left_out(selection), check.load_whole(folder, order.device), numbers
    except InputError as error:  # what is wrong with the copy is wrong with the original, which stays
        place = folder / ADAPTER if order.source.adapters else folder
        raise InputError(str(error).replace(str(place), str(source))) from None


def _copy(file: Path, folder: Path, name: str, out: Path) -> None:
    """Copy a file; one that does not fit is named as it would be called."""
    (folder / name).parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(file, folder / name)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        said = f"{error.strerror}; make room, and give the same command again"
        raise OSError(error.errno, said, str(out / name)) from None


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


def _secrets(order: Order) -> list[str | Path]:
    """Places of this machine that nothing published may name."""
    source = order.source
    run = json_or_nothing(source.run / "finetune.json") if source.run else {}
    sounds = run.get("sounds", {}).get("folder", "") if isinstance(run.get("sounds"), dict) else ""
    given = [run.get("model", ""), run.get("phi", ""), run.get("judge", ""), sounds]
    named = [text for text in given if isinstance(text, str) and text.startswith("/")]
    return [Path.home(), Path.cwd(), source.place.resolve(), order.out.resolve(), *named]
