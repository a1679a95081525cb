"""The command line: ``latentclap generate | vary | play | finetune | publish | evaluate | compare | survey | ...``.

torch and diffusers are imported inside the commands, so that --help and wrong arguments answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentclap import comparing, evaluating, generating, history, surveying
from latentclap.checkpoints import resolve
from latentclap.errors import run_app
from latentclap.files import ORIGINAL
from latentclap.options import application
from latentclap.own import command as own
from latentclap.play import command as play
from latentclap.publish import command as publishing
from latentclap.vary import command as vary

app = application(
    "Foley sounds from text by latent diffusion, fine-tuned with the Latent CLAP loss.",
    no_args_is_help=True,
    name="latentclap",
)


def _version(value: bool) -> None:
    if value:
        from latentclap import __version__

        typer.echo(f"latentclap {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


# --- commands of modules of their own, in the order in which --help lists them ------------------------------

app.command(help=generating.HELP, short_help="Generate clips into a folder.")(generating.generate)

app.command(help=vary.HELP, short_help="Make variations of sounds of your own.")(vary.vary)

app.command(help=play.HELP, short_help="Make and hear clips on a page of your own machine.")(play.play)

app.command(help=own.HELP, short_help="Fine-tune on sounds of your own.")(own.finetune)

app.command(help=publishing.HELP, short_help="Make a system ready for others.")(publishing.publish)

app.command(help=evaluating.HELP)(evaluating.evaluate)

app.command(help=comparing.HELP, short_help="Compare systems: figures, tests, a page.")(comparing.compare)

app.command(help=surveying.HELP, short_help="Make a blind listening test of folders of clips.")(
    surveying.survey
)

app.command(help=history.HELP, short_help="List what notebooks have run, and what came of it.")(history.runs)


# --- info ---------------------------------------------------------------------------------------------------


@app.command(short_help="Print what a checkpoint is.")
def info(
    model: Annotated[
        str,
        typer.Argument(
            help="'mini', a folder, a .safetensors, AudioLDM .ckpt or LAION .pt file, or a hub name."
        ),
    ],
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a checkpoint is, and of an original file what would be loaded."""
    import json

    from latentclap.describe import as_text, describe

    path = Path(model)
    if path.is_file() and path.suffix in ORIGINAL:
        from latentclap.convert.command import inspect

        typer.echo(inspect(path, as_json=json_out))
        return
    if not path.exists():
        path = resolve(model)
    told = describe(path)
    typer.echo(json.dumps(told, indent=2) if json_out else as_text(told))


# --- convert ------------------------------------------------------------------------------------------------


@app.command(short_help="Convert an original checkpoint.")
def convert(
    file: Annotated[Path, typer.Argument(help="AudioLDM's .ckpt, or LAION-CLAP's .pt.")],
    out: Annotated[Path, typer.Argument(help="Folder for the system, or for the CLAP that judges.")],
    tokenizer: Annotated[
        str, typer.Option(help="RoBERTa's tokenizer, which no .ckpt holds: a folder or a hub name.")
    ] = "roberta-base",
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema",
            help="The UNet's moving average, or its training weights; default: as the file has.",
        ),
    ] = None,
    scale_factor: Annotated[
        float | None, typer.Option(help="Scale factor of the latents, where the file has none; its own wins.")
    ] = None,
    head_channels: Annotated[
        int | None, typer.Option(help="Channels of an attention head; default: AudioLDM's 32, or 64 in L.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Mel frames of a clip, which no .ckpt tells.")] = 1024,
    half: Annotated[bool, typer.Option("--half", help="Save in float16.")] = False,
) -> None:
    """Convert an original checkpoint and print its load report."""
    from latentclap.convert.command import convert_file

    options = {"ema": ema, "scale_factor": scale_factor, "head_channels": head_channels, "frames": frames}
    typer.echo(convert_file(file, out, tokenizer=tokenizer, half=half, **options))


# --- entry --------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; a user's mistake is one ``error: ...`` line and exit status 2."""
    raise SystemExit(run_app(app))


if __name__ == "__main__":
    main()
