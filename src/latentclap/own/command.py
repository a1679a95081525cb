"""``latentclap finetune``: from a folder of sounds to a system of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from latentclap.errors import InputError
from latentclap.files import check_place
from latentclap.limits import check_values
from latentclap.options import (
    Checkpointing,
    Compile,
    Device,
    Judge,
    Minutes,
    Model,
    Precision,
    Quiet,
    at_least,
    device_for,
)
from latentclap.own.telling import announce, say_plan, say_prepared, say_result, say_training
from latentclap.typed import options_given, typed_as

if TYPE_CHECKING:
    from latentclap.own.run import Own

#: held from encoding to the page; the training has a lock of its own, which other launches know
LOCK = ".finetune.lock"

HELP = """Fine-tune a system on sounds of your own, and hear it before and after; the same command goes on.

SOUNDS is a folder. What is heard in a sound is told by a table (metadata.csv with the columns file_name and caption),
by a text of the same name beside it, or by the name of its folder.

\b
latentclap finetune sounds -o doors                      # minutes on two cores
latentclap generate --model doors/system --prompt "This is a sound of door slam." -n 8 -o takes

Some sounds are held out, and the losses of eq. 1 and 3 are measured on them before and after. doors/listen has a page
that plays both beside your sounds; doors/train.toml is the training's configuration, which several GPUs take:
--prepare, then accelerate launch -m latentclap.train doors/train.toml, then this command again.
"""


def finetune(
    context: typer.Context,
    sounds: Annotated[Path, typer.Argument(help="Folder of sounds, with words to them.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for system/, listen/ and what is between.")
    ],
    model: Model = "mini",
    phi: Annotated[
        str, typer.Option(help="Latent CLAP encoder of the model's VAE and CLAP; default: its own.")
    ] = "",
    judge: Judge = "",
    lam: Annotated[
        float | None,
        typer.Option(
            help="λ of eq. 4; default: the paper's, 2000, with a tuning layer 1000; 0: eq. 1 alone."
        ),
    ] = None,
    tuning: Annotated[bool, typer.Option("--tuning", help="Train a tuning layer too (III-A).")] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the clips; default: the paper's 500, with mini as many as make 500 steps."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Adam's learning rate; default: the paper's 3e-6, with mini 3e-4, of adapters 1e-3."
        ),
    ] = None,
    lora_rank: Annotated[
        int, typer.Option(help="Train LoRA adapters of this rank (16, say): a file of MB; 0: all weights.")
    ] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Clips per step; default: 16, with mini 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of order, noise and dropout, and of the page's clips.")] = 0,
    hold_out: Annotated[float, typer.Option(help="Share of the sounds that is only measured.")] = 0.1,
    crops: Annotated[int, typer.Option(help="Clips of one sound, at most, where it is long enough.")] = 8,
    crop: Annotated[Literal["first", "random"], typer.Option(help="Which parts of a long sound.")] = "first",
    listen: Annotated[int, typer.Option(help="Clips of each text on the page; 0: no page.")] = 2,
    minutes: Minutes = 0,
    compile: Compile = False,
    checkpointing: Checkpointing = False,
    precision: Precision = "auto",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes that decode sounds; 0: none beside this one.")] = 2,
    prepare: Annotated[bool, typer.Option("--prepare", help="Encode, write train.toml, and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a system on sounds of one's own."""
    given = {"lam": lam, "epochs": epochs, "lr": lr, "batch_size": batch_size}
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= {"seed": seed, "tuning": tuning} | ({"lora_rank": lora_rank} if lora_rank else {})
    at_least(("--crops", crops, 1), ("--listen", listen, 0), ("--workers", workers, 0), ("--seed", seed, 0))
    check_values({"minutes": minutes}, "--")
    _check_places(sounds, out, model)
    from latentclap.own.run import Own
    from latentclap.own.sounds import find_sounds

    own = Own(find_sounds(sounds, hold_out), out, model, phi, judge, changes, crops, crop, listen)
    announce(own, hold_out)
    config = own.config(len(own.sounds.usable))  # wrong values stop here, before any work
    record = own.check()
    if dry_run:
        from latentclap.launch import check_precision

        check_precision(precision)
        own.check_model()
        say_plan(own, config)
        return
    options = {
        "minutes": minutes,
        "quiet": quiet,
        "precision": precision,
        "compile": compile,
        "checkpointing": checkpointing,
    }
    if _all_done(own, record):
        say_result(own, record)
        return
    device_for(device)
    _run(own, options, workers, prepare, quiet, typed_as() | {"asked": options_given(context)})


def _check_places(sounds: Path, out: Path, model: str) -> None:
    """Check where the result is to lie.

    Raises:
        InputError: among the sounds, or in the model's place.
        OSError: nothing can be written there.
    """
    check_place(out / "finetune.json")
    if out.resolve().is_relative_to(sounds.resolve()):
        raise InputError(
            f"--out {out} lies in {sounds}, so that the next call would take its clips for sounds of yours: choose a"
            " folder beside it"
        )
    if out.resolve() == Path(model).resolve():
        raise InputError(f"--out {out} has the name of --model: choose another folder")


def _all_done(own: Own, record: dict[str, Any]) -> bool:
    """Whether a record is of this very run, finished with this page."""
    same_page = record.get("listen") == own.listen
    return bool(record.get("finished")) and same_page and (own.out / "system").is_dir()


def _run(
    own: Own, options: dict[str, Any], workers: int, prepare: bool, quiet: bool, asked: dict[str, Any]
) -> None:
    from latentclap.hush import hush
    from latentclap.launch import check_precision, complete
    from latentclap.own.comparison import compare, forget_parts
    from latentclap.own.files import write_files
    from latentclap.runs import origin

    hush()
    # whatever can be wrong is, before anything is written
    check_precision(options["precision"])
    system = own.system()
    own.phi_of(own.config(len(own.sounds.usable)))
    with _alone(own.out):
        # again: whoever had the folder until now may have trained something else there
        record = own.check()
        if _all_done(own, record):
            say_result(own, record)
            return
        finished = record.get("finished")
        if not (own.out / "finetune.json").is_file():
            own.write_record(finished=False, **asked)
        caches = own.encode(system, typer.echo, workers=workers, progress=not quiet)
        del system
        config = own.config(len(caches["train"]))
        if not finished:  # another page is wanted: until it is there, what was measured stays known
            own.write_record(finished=False, **asked, clips=len(caches["train"]))
        write_files(own, config)
        launch = own.launch(**options)
        steps = max(1, config.epochs * len(caches["train"]) // (config.batch_size * config.grad_accum))
        say_training(len(caches["train"]), steps, config)
        if prepare:
            say_prepared(own)
            return
        typer.echo(complete(launch))
        if not (own.out / "summary.json").is_file():
            return
        own.keep_encoder()
        told = compare(own, caches, config, progress=not quiet)
        record = {
            "finished": True,
            **asked,
            "listen": own.listen,
            "profile": own.profile,
            "clips": len(caches["train"]),
            "steps": steps,
            "training": vars(config),
            # of what was measured here; the training's own are in summary.json
            **origin(),
            **told,
        }
        own.write_record(**record)
        forget_parts(own)
        say_result(own, record)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a run's folder for this call; the lock of one that was killed is free at once."""
    from latentclap.locks import Taken, locked

    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / LOCK, wait=False):
            yield
    except Taken:
        raise InputError(
            f"{out}: another latentclap finetune works there; wait for it, or take another folder"
        ) from None
