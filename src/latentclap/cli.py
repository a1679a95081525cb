"""The command line: ``latentclap generate | evaluate | info``.

torch and diffusers are imported inside the commands, so that --help and wrong arguments answer at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from tqdm import tqdm

from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.errors import InputError

if TYPE_CHECKING:
    from latentclap.evaluate import EvalResult
    from latentclap.system import FoleySystem

app = typer.Typer(
    name="latentclap",
    help="Foley sounds from text by latent diffusion, fine-tuned with the Latent CLAP loss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Format = Literal["wav", "flac", "ogg", "mp3", "opus"]
#: What a run of ``generate`` writes beside its clips.
RECORD = "generation.json"


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


# --- generate -----------------------------------------------------------------------------------------------


@app.command()
def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for <class>/<class>_000.wav, ...")],
    classes: Annotated[
        str, typer.Option(help="Class names with commas between them, or 'all'.", show_default=False)
    ] = "",
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="A text instead of classes; may be given again.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--number", help="Clips per class or prompt.")] = 1,
    model: Annotated[
        str, typer.Option(help="'mini', a folder, or a hub name (cvssp/audioldm-m-full).")
    ] = "mini",
    steps: Annotated[int, typer.Option(help="Denoising steps; the paper: 200 (IV-B).")] = 200,
    guidance_scale: Annotated[float, typer.Option(help="Classifier-free guidance; the paper: 2.0.")] = 2.0,
    sampler: Annotated[str, typer.Option(help="ddim, dpmsolver++ or unipc.")] = "ddim",
    eta: Annotated[float, typer.Option(help="DDIM's stochasticity, 0 to 1.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same clips on one machine.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Clips at once; smaller needs less memory.")] = 8,
    format: Annotated[Format, typer.Option(help="Sound format.")] = "wav",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...; 'auto' takes a GPU if there is one.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run's clips.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Generate clips into a folder, with a record."""
    names = _names(classes, prompts or [])
    if n < 1 or batch_size < 1 or seed < 0:
        raise InputError(f"-n {n}, --batch-size {batch_size}, --seed {seed}: at least 1, 1 and 0 are needed")
    if not 0 <= eta <= 1:
        raise InputError(f"--eta {eta:g}: it lies between 0 (DDIM) and 1 (DDPM's noise)")
    files = {name: [out / name / f"{name}_{i:03d}.{format}" for i in range(n)] for name in names}
    old = _earlier(out, [path for paths in files.values() for path in paths], overwrite)
    system = _load(model, device)
    settings = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "sampler": sampler,
        "eta": eta,
        "seed": seed,
    }
    written = _write_clips(system, names, files, settings, batch_size, quiet)
    for path in old - {path.relative_to(out).as_posix() for paths in files.values() for path in paths}:
        (out / path).unlink(missing_ok=True)
        with contextlib.suppress(
            OSError
        ):  # an empty class folder would be a problem to evaluate; others stay
            (out / path).parent.rmdir()
    _write_record(out, model, system, {**settings, "batch_size": batch_size}, names, written)
    typer.echo(f"{sum(len(w) for w in written.values())} clips of {system.seconds:.2f} s in {out}")


def _names(classes: str, prompts: list[str]) -> dict[str, str]:
    """Folder name -> text: classes under their own name, prompts under a name made from their words."""
    if bool(classes) == bool(prompts):
        raise InputError(f"give --classes (of {', '.join(CLASSES)}, or all) or --prompt, one of the two")
    if prompts:
        names = {re.sub(r"\W+", "_", text.lower()).strip("_")[:60]: text for text in prompts}
        if "" in names or len(names) < len(prompts):
            raise InputError("each --prompt needs words, and words that differ from the other prompts'")
        return names
    wanted = CLASSES if classes.strip() == "all" else [c for c in re.split(r"[,\s]+", classes) if c]
    try:
        return {cls: prompt(cls) for cls in map(canonical_class, wanted)}
    except ValueError as error:
        raise InputError(f"--classes: {error}") from None


def _earlier(out: Path, files: list[Path], overwrite: bool) -> set[str]:
    """Refuse to touch what is there; with --overwrite, return the clips an earlier record lists."""
    from latentclap.files import read_json

    place = next(p for p in [out, *out.absolute().parents] if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "may not be written to" if place.is_dir() else "is a file"
        raise InputError(f"--out {out}: {place} {what}; give another folder")
    there = [path for path in [out / RECORD, *files] if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(f"{there[0]}{more} would be replaced; choose another --out or say --overwrite")
    try:
        record = read_json(out / RECORD)
        listed = [clip["file"] for clip in record["clips"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    # a record may have been edited: nothing outside the folder is ever removed
    return {name for name in listed if (out / name).resolve().is_relative_to(out.resolve())}


def _load(model: str, device: str) -> FoleySystem:
    import torch
    from transformers.utils import logging

    from latentclap import system

    logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return system.FoleySystem.from_pretrained(model, device=device)


def _write_clips(
    system: FoleySystem,
    names: dict[str, str],
    files: dict[str, list[Path]],
    settings: dict[str, Any],
    batch_size: int,
    quiet: bool,
) -> dict[str, list[Path]]:
    """Generate batch by batch and write each clip as soon as it is there."""
    from latentclap.audio import write_wave

    total = sum(len(paths) for paths in files.values())
    watched = not quiet and sys.stderr.isatty()
    with tqdm(total=total, unit="clip", disable=True if quiet else None) as bar:
        for name, text in names.items():
            bar.set_description(name)
            for first in range(0, len(files[name]), batch_size):
                paths = files[name][first : first + batch_size]
                waves = system.generate(
                    prompts=[text],
                    n=len(paths),
                    first=first,
                    batch_size=batch_size,
                    progress=watched,
                    **settings,
                )
                for path, wave in zip(paths, waves, strict=True):
                    write_wave(path, wave, system.sampling_rate)
                    bar.update()
    return files


def _write_record(
    out: Path,
    model: str,
    system: FoleySystem,
    settings: dict[str, Any],
    names: dict[str, str],
    written: dict[str, list[Path]],
) -> None:
    import platform

    import diffusers
    import numpy
    import torch
    import transformers

    from latentclap import __version__
    from latentclap.files import write_json

    clips = [
        {"file": path.relative_to(out).as_posix(), "class": name, "prompt": names[name], "index": i}
        for name, paths in written.items()
        for i, path in enumerate(paths)
    ]
    record = {
        "model": model,
        "settings": settings,
        "sampling_rate": system.sampling_rate,
        "seconds": system.seconds,
        "device": str(system.device),
        "versions": {
            "latentclap": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
        "clips": clips,
    }
    write_json(out / RECORD, record)


# --- evaluate -----------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    generated: Annotated[Path, typer.Argument(help="Folder of generated clips, <class>/*.wav.")],
    reference: Annotated[Path, typer.Argument(help="Folder of real clips, or statistics (.npz).")],
    embedding: Annotated[
        str,
        typer.Option(help="mel-statistics, judge, clap, vggish-dcase, vggish-textbook.", show_default=False),
    ] = "",
    vggish: Annotated[Path | None, typer.Option(help="VGGish weights (vggish-10086976.pth).")] = None,
    mode: Annotated[
        Literal["dcase", "textbook"] | None,
        typer.Option(help="With --vggish: exact as the organisers' tool, or resampled to 16 kHz."),
    ] = None,
    model: Annotated[str, typer.Option(help="System whose CLAP embeds, with --embedding clap.")] = "mini",
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the result there.")] = None,
    n_boot: Annotated[int, typer.Option(help="Bootstrap draws over clips; 0 for no interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    seconds: Annotated[
        float, typer.Option(help="Evaluated from the start of each clip; Table I: 4 s.")
    ] = 4.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """FAD per class against real clips, with CI."""
    name = _embedding_name(embedding, vggish, mode)
    for option, path in (("GENERATED", generated), ("REFERENCE", reference)):
        if not path.exists():
            raise InputError(f"{option} {path}: no such folder or file")
    if n_boot < 0 or seconds <= 0 or seed < 0:
        raise InputError(f"--n-boot {n_boot}, --seconds {seconds:g}, --seed {seed}: none may be negative")
    from latentclap import evaluate as room

    embed = _embedding(name, vggish, model)
    sides = [room.clips_in_folder(generated), _reference(reference)]
    if isinstance(sides[1], dict):
        sides[1] = {cls: clips for cls, clips in sides[1].items() if cls in sides[0]}
    sides = [_embed(side, embed, seconds, quiet) if isinstance(side, dict) else side for side in sides]
    result = room.evaluate(*sides, embed, n_boot=n_boot, seed=seed, seconds=seconds)
    typer.echo(_table(result))
    if json_path is not None:
        result.save(json_path)


def _embedding_name(embedding: str, vggish: Path | None, mode: str | None) -> str:
    if vggish is None:
        if mode or embedding.startswith("vggish"):
            raise InputError("VGGish needs its weights: --vggish FILE (torchvggish's vggish-10086976.pth)")
        return embedding or "mel-statistics"
    name = f"vggish-{mode}" if mode else embedding or "vggish-dcase"
    if not name.startswith("vggish") or (embedding and embedding != name):
        raise InputError(f"--vggish, --mode {mode} and --embedding {embedding} contradict each other")
    return name


def _embedding(name: str, vggish: Path | None, model: str) -> Any:
    from latentclap.embeddings import get_embedding

    if vggish is not None:
        return get_embedding(name, weights=vggish)
    if name == "clap":
        return get_embedding(name, system=_load(model, "auto"))
    return get_embedding(name)


def _reference(path: Path) -> Any:
    from latentclap.evaluate import clips_in_folder

    return path if path.suffix == ".npz" else clips_in_folder(path)


def _embed(side: dict[str, list[Path]], embedding: Any, seconds: float, quiet: bool) -> dict[str, Any]:
    from latentclap.evaluate import embed_clips

    bar = tqdm(
        side.items(), unit="class", desc=f"embedding ({embedding.name})", disable=True if quiet else None
    )
    return {cls: embed_clips(clips, embedding, 16_000, seconds) for cls, clips in bar}


def _table(result: EvalResult) -> str:
    def number(value: float) -> str:
        return f"{value:9.3f}" if value == value else "        -"

    lines = [f"{'class':<22}{'FAD':>9}{'low':>10}{'high':>10}{'FAD-inf':>10}{'clips':>7}{'ref':>7}"]
    for row in result.table().to_dict("records"):
        numbers = " ".join(number(row[key]) for key in ("fad", "ci_low", "ci_high", "fad_inf"))
        lines.append(f"{row['class']:<22}{numbers}{row['n_clips']:>7}{row['n_ref'] or '-':>7}")
    low, high = result.average_ci
    lines.append(f"{'average':<22}{number(result.average)} {number(low)} {number(high)}")
    lines.append(f"{'std. over classes':<22}{number(result.std)}")
    return "\n".join([*lines, result.name])


# --- info ---------------------------------------------------------------------------------------------------


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="'mini', a folder, a .safetensors file, or a hub name.")],
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a checkpoint is."""
    import json

    from latentclap.describe import describe

    path = Path(model)
    if not path.exists():
        from latentclap.storage import resolve

        path = resolve(model)
    told = describe(path)
    typer.echo(json.dumps(told, indent=2) if json_out else _lines(told))


def _lines(told: dict[str, Any]) -> str:
    lines = [f"{told['kind']} {told['path']}"]
    if told.get("model_card"):
        lines.append(told["model_card"])
    for name, part in told["components"].items():
        count = "unknown" if part["parameters"] is None else f"{part['parameters']:,}"
        lines.append(
            f"  {name:<14}{part['class'] or '-':<32}{count:>14} parameters  {part['dtype'] or '-':<5}"
            f"{part['bytes'] / 1e6:>9.1f} MB"
        )
    lines.append(
        f"  {'total (parameters that generate, all bytes)':<46}{told['parameters']:>14,} parameters  {'':<5}"
        f"{told['bytes'] / 1e6:>9.1f} MB"
    )
    if told["kind"] == "system":
        scheduler = ", ".join(f"{key} {value}" for key, value in told["scheduler"].items())
        lines += [
            f"sampling rate  {told['sampling_rate']} Hz, clips of {told['seconds']:.2f} s ({told['frames']} frames)",
            f"latent shape   {tuple(told['latent_shape'])} (C, T, F), scaling factor {told['scaling_factor']}",
            f"tuning layer   {'yes' if told['tuning'] else 'no'}",
            f"scheduler      {scheduler or 'not told'}",
        ]
    return "\n".join(lines)


# --- entry --------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; a user's mistake is one ``error: ...`` line and exit status 2.

    LATENTCLAP_DEBUG=1 gives the traceback.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except (InputError, OSError) as error:
        _fail(error, _reason(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(error, "the GPU has too little memory; give a smaller --batch-size or --device cpu")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _fail(error: Exception, reason: str) -> None:
    if os.environ.get("LATENTCLAP_DEBUG") == "1":
        raise error
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
    main()
