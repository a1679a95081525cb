"""``latentclap finetune``: from a folder of sounds to a system of one's own."""

from __future__ import annotations

import math
import shlex
import sys
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
from latentclap.typed import options_given, typed_as
from latentclap.wording import file_size, plural

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
    check_place(out / "finetune.json")
    if out.resolve().is_relative_to(sounds.resolve()):
        raise InputError(
            f"--out {out} lies in {sounds}, so that the next call would take its clips for sounds of yours: choose a"
            " folder beside it"
        )
    if out.resolve() == Path(model).resolve():
        raise InputError(f"--out {out} has the name of --model: choose another folder")
    from latentclap.own.run import Own
    from latentclap.own.sounds import find_sounds

    own = Own(find_sounds(sounds, hold_out), out, model, phi, judge, changes, crops, crop, listen)
    _announce(own, hold_out)
    config = own.config(len(own.sounds.usable))  # wrong values stop here, before any work
    record = own.check()
    if dry_run:
        from latentclap.launch import check_precision

        check_precision(precision)
        own.check_model()
        typer.echo(
            f"to be done: {model} fine-tuned with λ = {config.lam:g} and learning rate {config.lr:g},"
            f" {plural(config.batch_size, 'clip')} a step; {plural(config.epochs, 'epoch')}, where each sound gives"
            " one clip"
        )
        return
    options = {
        "minutes": minutes,
        "quiet": quiet,
        "precision": precision,
        "compile": compile,
        "checkpointing": checkpointing,
    }
    if _all_done(own, record):
        _tell(own, record)
        return
    device_for(device)
    _run(own, options, workers, prepare, quiet, typed_as() | {"asked": options_given(context)})


def _all_done(own: Own, record: dict[str, Any]) -> bool:
    """Whether a record is of this very run, finished with this page."""
    same_page = record.get("listen") == own.listen
    return bool(record.get("finished")) and same_page and (own.out / "system").is_dir()


def _announce(own: Own, hold_out: float) -> None:
    """What is in the folder, so that wrong captions are seen before hours of training."""
    from latentclap.cache import described
    from latentclap.own.sounds import made_by_models

    sounds = own.sounds
    bad = len(sounds.train) - len(sounds.usable)
    few = hold_out and not sounds.held_out
    typer.echo(
        f"{plural(len(sounds.usable), 'sound')} to train on, {len(sounds.held_out)} held out"
        + (f" (of fewer than {math.ceil(1 / hold_out - 1e-9)} none is)" if few else "")
        + (f", {bad} without sound or caption" if bad else "")
        + f"; {described(sounds.layout, [*sounds.usable, *sounds.held_out])}"
    )
    made, place = made_by_models(sounds)
    if made:
        typer.echo(
            f"warning: {plural(made, 'sound')} in {place} {'was' if made == 1 else 'were'} made by a model, as"
            " generation.json there says: to leave them out, move that folder elsewhere",
            err=True,
        )


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
        say = typer.echo
        # again: whoever had the folder until now may have trained something else there
        record = own.check()
        if _all_done(own, record):
            _tell(own, record)
            return
        finished = record.get("finished")
        if not (own.out / "finetune.json").is_file():
            own.write_record(finished=False, **asked)
        caches = own.encode(system, say, workers=workers, progress=not quiet)
        del system
        config = own.config(len(caches["train"]))
        if not finished:  # another page is wanted: until it is there, what was measured stays known
            own.write_record(finished=False, **asked, clips=len(caches["train"]))
        write_files(own, config)
        launch = own.launch(**options)
        steps = max(1, config.epochs * len(caches["train"]) // (config.batch_size * config.grad_accum))
        say(
            f"{plural(len(caches['train']), 'clip')}, {plural(config.epochs, 'epoch')}: {plural(steps, 'step')} of"
            f" {plural(config.batch_size, 'clip')}, λ = {config.lam:g}, learning rate {config.lr:g}"
        )
        if prepare:
            say(
                f"ready: accelerate launch -m latentclap.train {_quoted(own.out / 'train.toml')}, then this command"
                " again"
            )
            return
        say(complete(launch))
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
        _tell(own, record)


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


def _tell(own: Own, record: dict[str, Any]) -> None:
    """What came of it."""
    if losses := record.get("held_out_losses"):
        from latentclap.own.heldout import line

        typer.echo(line(losses))
        if losses["ddpm"]["ci"] and losses["ddpm"]["ci"][0] > 0:
            typer.echo(
                "warning: eq. 1 went up on sounds that it was not trained on: it learns the clips by heart; fewer"
                " --epochs, a lower --lr or more sounds help",
                err=True,
            )
    if record["training"]["lora_rank"]:
        from latentclap.lora import ADAPTER

        file = own.out / ADAPTER
        if file.is_file():  # whoever sends them on may have moved them
            typer.echo(
                f"its adapters, {file_size(file)}, for latentclap generate --model"
                f" {_quoted(own.model)} --lora {_quoted(own.out)}"
            )
    if "page" in record:
        typer.echo(f"to hear it before and after: {own.out / record['page']}")
    text = own.sounds.captions[0]
    # in double quotes a shell would still read some of it
    prompt = shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'
    # a folder that is not there: among the sounds that it learnt from, its clips would be learnt the next time
    clips = f"{own.out.resolve().name}-clips"
    beside = own.out.with_name(clips) if own.out.name.strip(".") else own.out / ".." / clips  # -o .
    typer.echo(
        f"latentclap generate --model {_quoted(own.out / 'system')} --prompt {prompt} -n 8 -o {_quoted(beside)}"
    )
    sys.stdout.flush()


def _quoted(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
