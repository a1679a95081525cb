"""What ``latentclap finetune`` says: what is in the folder, what will be done, what came of it."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentclap.wording import file_size, plural

if TYPE_CHECKING:
    from latentclap.finetune import FinetuneConfig
    from latentclap.own.run import Own


def announce(own: Own, hold_out: float) -> None:
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


def say_plan(own: Own, config: FinetuneConfig) -> None:
    """What would be done, before the number of clips is known."""
    typer.echo(
        f"to be done: {own.model} fine-tuned with λ = {config.lam:g} and learning rate {config.lr:g},"
        f" {plural(config.batch_size, 'clip')} a step; {plural(config.epochs, 'epoch')}, where each sound gives"
        " one clip"
    )


def say_training(clips: int, steps: int, config: FinetuneConfig) -> None:
    """What is trained now."""
    typer.echo(
        f"{plural(clips, 'clip')}, {plural(config.epochs, 'epoch')}: {plural(steps, 'step')} of"
        f" {plural(config.batch_size, 'clip')}, λ = {config.lam:g}, learning rate {config.lr:g}"
    )


def say_prepared(own: Own) -> None:
    """How the training goes on elsewhere, after ``--prepare``."""
    typer.echo(
        f"ready: accelerate launch -m latentclap.train {_quoted(own.out / 'train.toml')}, then this command again"
    )


def say_result(own: Own, record: dict[str, Any]) -> None:
    """What came of it.

    Args:
        own: the fine-tuning.
        record: what :meth:`Own.write_record` was told of it.
    """
    if losses := record.get("held_out_losses"):
        from latentclap.own.heldout import line

        typer.echo(line(losses))
        if losses["ddpm"]["ci"] and losses["ddpm"]["ci"][0] > 0:
            typer.echo(
                "warning: eq. 1 went up on sounds that it was not trained on: it learns the clips by heart; fewer"
                " --epochs, a lower --lr or more sounds help",
                err=True,
            )
    training = record.get("training")
    if isinstance(training, dict) and training.get(
        "lora_rank"
    ):  # a record of before there were adapters has none
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
