"""``latentclap publish``: a fine-tuned system in, a folder that others can load out, and on to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentclap.ending import as_ctrl_c
from latentclap.errors import InputError
from latentclap.options import Device, Quiet, at_least, device_for
from latentclap.publish.card import LICENSES
from latentclap.publish.prepare import Order, Prepared, check_order, prepare
from latentclap.publish.samples import SAMPLED
from latentclap.publish.source import ADAPTER, find_source
from latentclap.wording import human, plural

HELP = """Make a fine-tuned system ready for others, with a model card; --push uploads it to the Hugging Face hub.

FOLDER is what latentclap finetune, python -m latentclap.train or notebook 03 (with save_system) wrote, or a system by
itself; a file of LoRA adapters publishes the adapters alone.

\b
latentclap publish doors -o doors-public --license cc-by-4.0
latentclap publish doors -o doors-public --license cc-by-4.0 --samples 2 --push OWNER/doors

Every part is loaded and every number looked at. README.md is written from the run's own records and names no file or
folder of yours; what was not measured it says. Edit it: the same command keeps what you wrote. Without --push nothing
is sent.
"""


def publish(
    folder: Annotated[Path, typer.Argument(help="A run's folder, a system's, or a file of LoRA adapters.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    license: Annotated[
        str,
        typer.Option(help="By the hub's name: cc-by-4.0, apache-2.0, ..., other; a wrong one lists all."),
    ],
    license_file: Annotated[
        Path | None, typer.Option(help="The licence's text; --license other needs it.")
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Hub name of what it was fine-tuned from; default: as the records say.")
    ] = "",
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Hub name of a data set that it was trained on; may be given again."),
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of latentclap evaluate; may be given again; default: those in FOLDER."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help=f"Clips of each text, the first by seed; of {SAMPLED} texts at most.")
    ] = 0,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Upload it to the hub.")] = "",
    private: Annotated[bool, typer.Option("--private", help="With --push: seen by its owner only.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --push: replace what the repository holds.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, list files and sizes, write and send nothing."),
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """See HELP."""
    at_least(("--samples", samples, 0))
    for given, option in ((private, "--private"), (overwrite, "--overwrite")):
        if given and not push:
            raise InputError(f"{option} goes with --push OWNER/NAME")
    source = find_source(folder)
    order = Order(
        source,
        out,
        _license(license, license_file),
        license_file,
        base_model,
        tuple(dataset or ()),
        tuple(evaluation or ()),
        samples,
        push,
    )
    _check_names(order)
    if push and not dry_run:
        from latentclap.publish.push import check_online

        check_online()
    check_order(order)
    with as_ctrl_c():  # gigabytes lie beside the folder until it is whole
        _publish(order, device, private, overwrite, dry_run, quiet)


def _publish(order: Order, device: str, private: bool, overwrite: bool, dry_run: bool, quiet: bool) -> None:
    from dataclasses import replace

    from latentclap.hush import hush

    hush()
    order = replace(order, device=device_for(device))
    made = prepare(order, (lambda _: None) if quiet else typer.echo, keep=not dry_run)
    _tell(order, made, dry_run)
    if not order.name:
        return
    if dry_run:
        kind = "private" if private else "public"
        typer.echo(
            f"would be pushed to {order.name} on the hub, where a {kind} repository would be made unless it is there;"
            " the hub was not asked"
        )
        return
    from latentclap.publish import push
    from latentclap.publish.earlier import CARD

    remote = push.look(order.name)
    if push.check_remote(remote, order.name, order.out, private=private, overwrite=overwrite):
        if remote.other(order.out, CARD):
            typer.echo(
                f"README.md of {order.name} on the hub is another one: replaced, with what its header says"
            )
        url = push.push(order.out, order.name, remote, private=private, overwrite=overwrite, quiet=quiet)
        typer.echo(f"pushed, and all files have arrived: {url}")
    else:
        typer.echo(f"{order.name} on the hub holds the same files already; nothing was sent")


def _tell(order: Order, made: Prepared, dry_run: bool) -> None:
    if dry_run:
        for name, size in made.sizes.items():
            typer.echo(f"{human(size):>10}  {name}")
        if order.samples:
            typer.echo("and samples/, which a dry run does not make")
    if made.left_out:
        typer.echo(made.left_out)
    total = human(sum(made.sizes.values()))
    files = plural(len(made.sizes), "file")
    typer.echo(
        f"{'would be written' if dry_run else 'written'}: {order.out}, {files}, {total};"
        f" {made.numbers:,} numbers, all finite, and it loads"
    )
    for line in made.notes:
        typer.echo(line, err=line.startswith("warning"))
    base = made.told["base"]
    alike = base.get("licence", "").startswith("CC BY-NC-SA") and order.license != "cc-by-nc-sa-4.0"
    if base.get("licence", "").startswith("CC BY-NC") and ("-nc-" not in order.license or alike):
        more = "is another one" if "-nc-" in order.license else "allows more"
        typer.echo(
            f"warning: {base['name']} has the licence {base['licence']}, and --license {order.license} {more}",
            err=True,
        )
    if not order.source.adapters and order.source.run and (order.source.run / ADAPTER).is_file():
        typer.echo(f"its adapters alone: latentclap publish {order.source.run / ADAPTER} -o OTHER ...")


def _license(name: str, text: Path | None) -> str:
    if name.lower() not in LICENSES:
        raise InputError(f"--license {name}: give one of {', '.join(LICENSES)}")
    if name.lower() == "other" and text is None:
        raise InputError("--license other needs its text: --license-file FILE")
    if text is not None and not text.is_file():
        raise InputError(f"--license-file {text}: no such file")
    return name.lower()


def _check_names(order: Order) -> None:
    """Check the names of the hub that are given."""
    from latentclap.publish.push import check_name

    if order.name:
        check_name(order.name)
    for name in order.datasets:
        if not 0 < name.count("/") < 2 or not all(name.split("/")):
            raise InputError(f"--dataset {name}: give its name on the hub, OWNER/NAME")
    base = order.base
    if base and not order.source.adapters and (base.count("/") != 1 or Path(base).exists()):
        raise InputError(f"--base-model {base}: give its name on the hub, OWNER/NAME")
