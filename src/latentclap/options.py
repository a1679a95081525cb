"""What several commands ask for in the same way: their options, and the checks of what is given."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from latentclap.checkpoints import Sampling, check_system, own_sampling, resolve
from latentclap.errors import InputError
from latentclap.files import ORIGINAL
from latentclap.formats import Format
from latentclap.gpus import chosen_device, use
from latentclap.typed import Typed

if TYPE_CHECKING:
    from latentclap.lora import Adapter
    from latentclap.system import FoleySystem

#: Of a clip's evaluated part, in seconds: of less there may be no sample.
SHORTEST = 0.001

# Options that mean the same in every command that has them. Annotations are read when a command starts, so that the
# modules of commands have to import these names, not only type checkers.
Model = Annotated[str, typer.Option(help="'mini', a folder, or a hub name (cvssp/audioldm-m-full).")]
Judge = Annotated[str, typer.Option(help="CLAP that gives E_audio, where the model has none of its own.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; 'auto' takes a GPU if there is one.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
EmbeddingName = Annotated[
    str,
    typer.Option(help="mel-statistics, judge, clap, vggish-dcase, vggish-textbook.", show_default=False),
]
VGGishFile = Annotated[Path | None, typer.Option(help="VGGish weights (vggish-10086976.pth).")]
VGGishMode = Annotated[
    Literal["dcase", "textbook"] | None,
    typer.Option(help="With --vggish: exact as the organisers' tool, or resampled to 16 kHz."),
]
Draws = Annotated[int, typer.Option(help="Bootstrap draws over clips; 0 for no interval.")]
Side = Annotated[
    str,
    typer.Option(help="Side taken of a folder in DCASE layout, or with dev/ and eval/: dev, eval or all."),
]
Exclude = Annotated[list[Path] | None, typer.Option(help="List of clips to leave out; may be given again.")]
Minutes = Annotated[
    float, typer.Option(help="Stop training after this time, with a checkpoint; 0: to the end.")
]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile UNet and φ: for GPUs.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="A fraction of the memory for a third more time.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="auto (bf16 on a GPU that computes in it), no (fp32), tf32, bf16 or fp16.", show_default="auto"
    ),
]

# How clips are made, of what kind and in which form: of the commands that write clips.
Steps = Annotated[
    int | None,
    typer.Option(
        help="Steps of a whole generation; default: the model's own, the paper's 200 (IV-B) where it has none."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance; default: the model's own, or the paper's 2.0."),
]
SamplerName = Annotated[
    str | None,
    typer.Option(help="ddim, dpmsolver++ or unipc; default: the model's own, or ddim as AudioLDM."),
]
Eta = Annotated[float, typer.Option(help="DDIM's stochasticity, 0 to 1 (AudioLDM's own code: 1).")]
ClipSeed = Annotated[int, typer.Option(help="Seed; the same one gives the same clips on one machine.")]
BatchSize = Annotated[int, typer.Option(help="Clips at once; smaller needs less memory.")]
SoundFormat = Annotated[Format, typer.Option(help="Sound format.")]
Seconds = Annotated[float | None, typer.Option(help="Cut the clips to this length; default: their own.")]
Lufs = Annotated[
    float | None,
    typer.Option(help="Bring each clip to this loudness (-23, say), as far as a peak of 0.9 allows."),
]
Fade = Annotated[float, typer.Option(help="Fade in and out, in milliseconds.")]
Loop = Annotated[
    float,
    typer.Option(help="Blend so many milliseconds of the end into the start: a seamless loop (500, say)."),
]
Rate = Annotated[
    int | None, typer.Option(help="Resample to this rate in Hz (48000, say); default: the model's.")
]
Lora = Annotated[
    Path | None,
    typer.Option(help="LoRA adapters for the model: the file of a fine-tuning, or its folder."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run's clips.")]


def application(help: str | None = None, **more: Any) -> typer.Typer:
    """Return a typer application as all of ours are, to be run by :func:`latentclap.errors.run_app`.

    Its help is plain text: lines stay as they are in a paragraph that begins with a line of ``\\b`` alone. With
    several commands, records can tell how the one that runs was typed (:mod:`latentclap.typed`).

    Args:
        help: text above the list of commands.
        more: other arguments of ``typer.Typer``.
    """
    return typer.Typer(
        cls=Typed,
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        **more,
    )


def at_least(*options: tuple[str, float, int]) -> None:
    """Check that options have at least their smallest allowed values.

    Args:
        options: (name as the user types it, value, smallest value) of each.

    Raises:
        InputError: names the first that is smaller, infinite or NaN.
    """
    for option, value, least in options:
        if not math.isfinite(value):
            raise InputError(f"{option} {value}: give a finite number of at least {least}")
        if value < least:
            raise InputError(f"{option} {value}: at least {least}")


def check_sampling(
    n: int, batch_size: int, seed: int, steps: int | None, guidance_scale: float | None, eta: float
) -> None:
    """Check the numbers that generation needs; None is the model's own.

    Raises:
        InputError: the first that is out of range, named as the command's option.
    """
    at_least(("-n", n, 1), ("--batch-size", batch_size, 1), ("--seed", seed, 0))
    given = (("--steps", steps, 1), ("--guidance-scale", guidance_scale, 0))
    at_least(*(option for option in given if option[1] is not None))
    if not 0 <= eta <= 1:
        raise InputError(f"--eta {eta:g}: it lies between 0 (DDIM) and 1 (DDPM's noise)")


def asked_sampling(
    model: str, sampler: str | None, steps: int | None, guidance_scale: float | None
) -> Sampling:
    """How a model is sampled: as its own ``latentclap.json`` says, but for what is asked for.

    Raises:
        InputError: no such model, or a file of it that is damaged.
    """
    own = Sampling() if Path(model).is_file() else own_sampling(resolve(model))
    return own.but(sampler, steps, guidance_scale)


def read_adapter(path: Path | None) -> Adapter | None:
    """The adapters that ``--lora`` names; None where it is left out.

    Raises:
        InputError: no such file, or not one of adapters.
    """
    if path is None:
        return None
    from latentclap.lora import Adapter  # needs torch

    return Adapter.read(path)


def check_seconds(seconds: float) -> None:
    """Check ``--seconds``, the part of each clip that is used.

    Raises:
        InputError: it is shorter than :data:`SHORTEST`, infinite or NaN.
    """
    if not SHORTEST <= seconds < math.inf:
        raise InputError(f"--seconds {seconds:g}: give a time of at least {SHORTEST:g} s")


def load_system(model: str, device: str) -> FoleySystem:
    """Load a system; a wrong name is told at once, before imports that take seconds.

    Args:
        model: "mini", a folder, a hub name, or an original checkpoint's file.
        device: as for :func:`device_for`.

    Raises:
        InputError: no such system or device, or a damaged file.
    """
    if Path(model).suffix not in ORIGINAL:
        check_system(resolve(model))
    from latentclap import system
    from latentclap.hush import hush

    hush()
    return system.FoleySystem.from_pretrained(model, device=device_for(device))


def device_for(option: str) -> str:
    """The device that ``--device`` means, on which this whole process computes from now on.

    Args:
        option: a device of torch's, or "auto": ``$LATENTCLAP_DEVICE``, else a GPU if there is one, else the CPU.

    Raises:
        InputError: there is no such device, or a GPU that torch cannot use.
    """
    return chosen_device() if option == "auto" else use(option)


def named_folder(text: str) -> tuple[str, Path]:
    """Split a NAME=FOLDER argument; the folder may contain an equals sign, the name may not.

    Returns:
        The name with single spaces, and the folder, which is not looked at. Bytes of the name that are no UTF-8 are
        written as ``\\xe9``: names go into tables and pages, and what a shell passes on need not be text.

    Raises:
        InputError: it has another form.
    """
    name, found, folder = text.partition("=")
    name = os.fsencode(" ".join(name.split())).decode("utf-8", "backslashreplace")
    if not (found and name and folder):
        raise InputError(f"{text!r}: name each system and its folder of clips, NAME=FOLDER")
    return name, Path(folder)


def embedding_name(embedding: str, vggish: Path | None, mode: str | None) -> str:
    """The embedding that --embedding, --vggish and --mode name together.

    Raises:
        InputError: VGGish without its weights, or options that contradict each other.
    """
    if vggish is None:
        if mode or embedding.startswith("vggish"):
            raise InputError("VGGish needs its weights: --vggish FILE (torchvggish's vggish-10086976.pth)")
        return embedding or "mel-statistics"
    name = f"vggish-{mode}" if mode else embedding or "vggish-dcase"
    if not name.startswith("vggish") or (embedding and embedding != name):
        raise InputError(f"--vggish, --mode {mode} and --embedding {embedding} contradict each other")
    return name


def load_embedding(name: str, vggish: Path | None, system: Any, device: str = "auto") -> Any:
    """Make an embedding by name.

    Args:
        name: see :func:`embedding_name`.
        vggish: weights of VGGish, where that is it.
        system: whose CLAP embeds, for "clap" only: a system, or a function that loads one.
        device: as for :func:`device_for`; mel-statistics has nothing to put there.

    Raises:
        InputError: no such embedding or device, or weights that cannot be read.
    """
    from latentclap.embeddings import get_embedding

    if vggish is not None:
        return get_embedding(name, weights=vggish, device=device_for(device))
    if name == "clap":
        return get_embedding(name, system=system() if callable(system) else system)
    if name == "judge":
        return get_embedding(name, device=device_for(device))
    if device != "auto":
        device_for(device)  # what there is none of is a mistake all the same
    return get_embedding(name)


def embedded_on(embedding: Any) -> str:
    """The device that an embedding computes on, for a record."""
    holder = getattr(embedding, "system", embedding)
    return str(getattr(holder, "device", "cpu"))
