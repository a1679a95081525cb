"""``latentclap play``: a page on one's own machine, to make clips and hear them."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentclap.checkpoints import SAMPLERS, resolve, shipped
from latentclap.classes import CLASSES, LABELS
from latentclap.ending import as_ctrl_c
from latentclap.errors import InputError
from latentclap.options import Device, Model
from latentclap.wording import plural

if TYPE_CHECKING:
    from latentclap.play.maker import Maker

HELP = """Make clips and hear them on a page of your own machine: a class or words in, sounds out.

A class or a text, number, seed, steps and guidance are chosen on the page; each clip shows its spectrogram, its seed
and the command that makes the very same file again on this machine. Takes of a clip, or of a sound that is dropped on
the page, are made as by latentclap vary. The model is loaded once. Nothing is asked of another machine, and none can
reach the page unless --host says so.

With --out every clip is saved as <class>/<class>_<seed>.wav, with a record, and the clips of earlier sessions in the
same folder are on the page too, with a label where another model or version made them. Without it clips are gone when
the command ends, but for those that were downloaded. Ctrl-C ends it."""


def play(
    model: Model = "mini",
    lora: Annotated[
        Path | None,
        typer.Option(help="LoRA adapters for the model: the file of a fine-tuning, or its folder."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder in which every clip is saved; default: none.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    port: Annotated[int, typer.Option(help="Port of the page; 0: any that is free.")] = 8765,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; any but this machine's own opens the page to others."),
    ] = "127.0.0.1",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """See HELP."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: a port is a number from 0 to 65535")
    with tempfile.TemporaryDirectory(prefix="latentclap-play-", ignore_cleanup_errors=True) as folder:
        _play(model, lora, out, device, port, host, browser, Path(folder))


def _play(
    model: str,
    lora: Path | None,
    out: Path | None,
    device: str,
    port: int,
    host: str,
    browser: bool,
    folder: Path,
) -> None:
    from latentclap.play.jobs import Session
    from latentclap.play.maker import Maker
    from latentclap.play.server import Server
    from latentclap.play.shelf import Shelf

    shelf = Shelf(folder, out)
    # before the model: a port in use is told at once
    server = Server(host, port)
    with as_ctrl_c(), server.answering():
        if not server.loopback:
            typer.echo(
                f"warning: --host {host}: whoever reaches this machine can use the page, without a password",
                err=True,
            )
        typer.echo(f"loading {model}")
        maker = Maker.load(model, lora, device)
        session = Session(maker, shelf)
        server.about = about(maker, out)
        server.session = session
        try:
            _tell(maker, server.url, browser, session.found.said())
            session.run()
        except KeyboardInterrupt:
            where = f", saved in {out}" if out and shelf.made else ""
            typer.echo(f"\nended; {plural(shelf.made, 'clip')} made{where}")


def _tell(maker: Maker, url: str, browser: bool, found: str) -> None:
    length, chosen = maker.system.seconds, maker.own
    typer.echo(
        f"{maker.model} on {maker.system.device}: clips of {length:.2f} s ({chosen.sampler},"
        f" {plural(chosen.steps, 'step')}, guidance {chosen.guidance_scale:g})"
    )
    if found:
        typer.echo(f"--out holds {found}")
    typer.echo(f"the page is at {url} and Ctrl-C ends it")
    if browser and _has_windows():
        webbrowser.open(url)


def _has_windows() -> bool:
    """Whether a browser with windows can be: one for terminals would take this one's."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def about(maker: Maker, out: Path | None) -> dict[str, Any]:
    """What the page says of the model, and what can be chosen, JSON-ready."""
    from latentclap.play.given import MOST_BYTES
    from latentclap.play.wish import LARGEST_SEED, MOST
    from latentclap.vary.sounds import STRENGTH

    system = maker.system
    return {
        "model": maker.model + (f" with {maker.lora}" if maker.lora else ""),
        "card": card(maker.model),
        "shipped": is_shipped(maker.model),
        "device": str(system.device),
        "seconds": system.seconds,
        "sampling_rate": system.sampling_rate,
        "sampling": maker.own.asdict(),
        "samplers": list(SAMPLERS),
        "paper_steps": maker.own.but("ddim" if maker.own.sampler != "ddim" else "unipc").steps,
        "most_steps": system.schedule.steps,
        "most_clips": MOST,
        "largest_seed": LARGEST_SEED,
        "most_bytes": MOST_BYTES,
        "classes": [{"name": cls, "label": LABELS[cls]} for cls in CLASSES],
        "strength": STRENGTH,
        "steered_not": maker.steered_not,
        "out": out.as_posix() if out else "",
    }


def is_shipped(model: str) -> bool:
    """Whether it is one of the models that come with the package."""
    return not Path(model).is_file() and resolve(model).resolve().parent == shipped("").resolve()


def card(model: str) -> str:
    """What a model is trained on and its licence, as far as its card tells, in a sentence or two."""
    from latentclap.describe import describe

    if Path(model).is_file():
        return ""
    folder = resolve(model)
    told = describe(folder)["model_card"]
    lines = [told.rstrip(".") + "."] if told else []
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        front = text[3:].partition("\n---")[0] if text.startswith("---") else ""
        licence = [
            line.partition(":")[2].strip() for line in front.splitlines() if line.startswith("license:")
        ]
        lines += [f"Licence: {licence[0]}."] if licence and licence[0] else ["Its card tells no licence."]
    elif is_shipped(model):
        lines.append(
            "The weights are under Apache-2.0; model_card.json lists the recordings and their licences."
        )
    else:
        lines.append("It has no model card: its licence is not told.")
    return " ".join(lines)
