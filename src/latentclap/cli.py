"""The command line: ``latentclap generate | vary | play | finetune | publish | evaluate | compare | survey | ...``.

torch and diffusers are imported inside the commands, so that --help and wrong arguments answer at once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from latentclap import comparing, history
from latentclap.asked import named_texts, way_of
from latentclap.checkpoints import resolve
from latentclap.errors import InputError, run_app
from latentclap.files import ORIGINAL, check_place, write_json
from latentclap.finish import Finish
from latentclap.formats import check_format
from latentclap.generation import (
    alone,
    commands,
    drop_stale,
    earlier_clips,
    kept_clips,
    make_plan,
    with_earlier,
    write_clips,
    write_record,
)
from latentclap.options import (
    BatchSize,
    ClipSeed,
    Device,
    Draws,
    EmbeddingName,
    Eta,
    Fade,
    Guidance,
    Loop,
    Lora,
    Lufs,
    Model,
    Overwrite,
    Quiet,
    Rate,
    SamplerName,
    Seconds,
    SoundFormat,
    Steps,
    VGGishFile,
    VGGishMode,
    application,
    asked_sampling,
    at_least,
    check_sampling,
    check_seconds,
    embedded_on,
    embedding_name,
    load_embedding,
    load_system,
    named_folder,
    read_adapter,
)
from latentclap.own import command as own
from latentclap.play import command as play
from latentclap.publish import command as publishing
from latentclap.typed import typed_as
from latentclap.vary import command as vary
from latentclap.wording import plural

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


# --- generate -----------------------------------------------------------------------------------------------


@app.command(short_help="Generate clips into a folder.")
def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for <class>/<class>_000.wav, ...")],
    classes: Annotated[
        str, typer.Option(help="Class names with commas between them, or 'all'.", show_default=False)
    ] = "",
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="A text instead of classes; may be given again.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--number", help="Clips per class or prompt.")] = 1,
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    sampler: SamplerName = None,
    eta: Eta = 0.0,
    seed: ClipSeed = 0,
    batch_size: BatchSize = 8,
    format: SoundFormat = "wav",
    seconds: Seconds = None,
    lufs: Lufs = None,
    fade: Fade = 0.0,
    loop: Loop = 0.0,
    sampling_rate: Rate = None,
    device: Device = "auto",
    lora: Lora = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Compiled, in bf16: for hundreds of clips on a GPU.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Generate clips into a folder, with a record; the same command goes on where it was stopped.

    More clips, classes or prompts than an earlier call's are added to what it made. A clip that comes out louder than
    a file can hold is turned down as a whole, to a peak of 0.99.

    --seconds, --lufs, --fade, --loop and --sampling-rate are for listening, mixing and games: evaluate clips made
    without them. Resampling adds no sound above the model's 8 kHz.
    """
    names = named_texts(classes, prompts or [])
    check_sampling(n, batch_size, seed, steps, guidance_scale, eta)
    finish = Finish(seconds, lufs, fade, loop, sampling_rate)
    check_format(format, finish)
    chosen = asked_sampling(model, sampler, steps, guidance_scale)
    settings = {**chosen.asdict(), "eta": eta, "seed": seed}
    adapter = read_adapter(lora)
    # clips differ by bf16's rounding: a run goes on as it began
    way: dict[str, Any] = ({"fast": True} if fast else {}) | way_of(finish, adapter)
    plan = make_plan(model, settings | way, names, format)
    files = {name: [out / name / f"{name}_{i:03d}.{format}" for i in range(n)] for name in names}
    every = [path for paths in files.values() for path in paths]
    with alone(out):
        plan = plan if overwrite else with_earlier(out, plan)
        kept = {} if overwrite else kept_clips(out, plan)
        old = earlier_clips(out, every, overwrite, kept, plan)
        typed = commands(out, kept, every)
        system = load_system(model, device)
        if adapter:
            system = adapter.applied(system)
        finish.check(system.seconds)
        if fast:
            if system.device.type != "cuda":
                raise InputError("--fast is for GPUs, and there is none: leave it out")
            system = system.for_generation()
        made = write_clips(
            system, names, files, settings, batch_size, quiet, kept, plan, finish, commands=typed
        )
        drop_stale(out, old - {path.relative_to(out).as_posix() for path in every})
        texts = plan["prompts"]
        write_record(out, model, system, {**settings, **way}, texts, made, plan, finish, commands=typed)
    earlier = len(kept.keys() & set(every))
    before = f", {earlier} of them made before" if earlier else ""
    how = f"{chosen.sampler}, {plural(chosen.steps, 'step')}, guidance {chosen.guidance_scale:g}"
    length = finish.length(system.seconds)
    typer.echo(f"{plural(len(every), 'clip')} of {length:.2f} s in {out} ({how}){before}")


app.command(help=vary.HELP, short_help="Make variations of sounds of your own.")(vary.vary)

app.command(help=play.HELP, short_help="Make and hear clips on a page of your own machine.")(play.play)

app.command(help=own.HELP, short_help="Fine-tune on sounds of your own.")(own.finetune)

app.command(help=publishing.HELP, short_help="Make a system ready for others.")(publishing.publish)


# --- evaluate -----------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    generated: Annotated[Path, typer.Argument(help="Folder of generated clips, <class>/*.wav.")],
    reference: Annotated[Path, typer.Argument(help="Folder of real clips, or statistics (.npz).")],
    embedding: EmbeddingName = "",
    vggish: VGGishFile = None,
    mode: VGGishMode = None,
    model: Annotated[
        str | None, typer.Option(help="System whose CLAP embeds, with --embedding clap; default: mini.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the result there.")] = None,
    n_boot: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    seconds: Annotated[
        float, typer.Option(help="Seconds evaluated, from the start of each clip; Table I: 4.")
    ] = 4.0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """FAD per class against real clips, with CI.

    Classes may have any names that both folders have, and none beside the paper's seven; sounds that lie in no
    folders are one class.
    """
    name = embedding_name(embedding, vggish, mode)
    if model is not None and name != "clap":
        raise InputError(
            f"--model {model}: {name} embeds without a system; say --embedding clap or leave it out"
        )
    for option, path in (("GENERATED", generated), ("REFERENCE", reference)):
        if not path.exists():
            raise InputError(f"{option} {path}: no such folder or file")
    at_least(("--n-boot", n_boot, 0), ("--seed", seed, 0))
    if json_path is not None:
        check_place(json_path)
    check_seconds(seconds)
    from latentclap.fad import load_stats

    stats = load_stats(reference) if reference.suffix == ".npz" else None
    from latentclap import evaluate as evaluation  # needs torch
    from latentclap.compare.clips import find_clips, named_as

    clips = find_clips(generated)
    real = {} if stats else named_as(find_clips(reference, reference=True), clips)
    if not stats:
        _same_classes(generated, clips, reference, real)
    embed = load_embedding(name, vggish, lambda: load_system(model or "mini", device), device)
    ours = _embed(clips, embed, seconds, quiet)
    theirs = (
        named_as(stats, clips)
        if stats
        else _embed({c: v for c, v in real.items() if c in ours}, embed, seconds, quiet)
    )
    result = evaluation.evaluate(ours, theirs, embed, n_boot=n_boot, seed=seed, seconds=seconds)
    result.settings["device"] = embedded_on(embed)
    try:  # first of all, for whoever reads the first lines may close the pipe
        if json_path is not None:
            from latentclap.runs import origin

            write_json(json_path, typed_as() | result.to_dict() | origin())
    finally:
        typer.echo(result.text())
    files = {path.resolve() for paths in clips.values() for path in paths}
    same = len(files & {path.resolve() for paths in real.values() for path in paths})
    if same:
        typer.echo(
            f"warning: {same} of {len(files)} generated clips are reference clips too, the same files: a FAD of clips"
            " with themselves is 0 and says nothing",
            err=True,
        )
    if json_path is not None:
        typer.echo(f"written: {json_path}")


def _same_classes(
    generated: Path, clips: dict[str, list[Path]], reference: Path, real: dict[str, list[Path]]
) -> None:
    """Complain of generated classes without real clips; beside the seven classes, of another layout."""
    missing = [cls for cls in clips if cls not in real]
    if not missing:
        return
    from latentclap.classes import CLASSES
    from latentclap.evaluate import clips_in_folder

    for side, folder in ((real, generated), (clips, reference)):
        if set(side) <= set(CLASSES):
            clips_in_folder(folder, duplicates_ok=True)
    raise InputError(
        f"{reference} has no {', '.join(missing)}; it has {', '.join(sorted(real))}: give folders of one name"
    )


def _embed(side: dict[str, list[Path]], embedding: Any, seconds: float, quiet: bool) -> dict[str, Any]:
    """{class: files} as {class: embeddings of the first ``seconds`` of each}, with a bar."""
    from latentclap.evaluate import embed_clips

    bar = tqdm(
        side.items(), unit="class", desc=f"embedding ({embedding.name})", disable=True if quiet else None
    )
    return {cls: embed_clips(clips, embedding, 16_000, seconds) for cls, clips in bar}


app.command(help=comparing.HELP, short_help="Compare systems: figures, tests, a page.")(comparing.compare)


# --- survey -------------------------------------------------------------------------------------------------


@app.command(short_help="Make a blind listening test of folders of clips.")
def survey(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER...", help="Systems, and their clips, <class>/*.wav.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pages/, key.csv and survey.json.")],
    items: Annotated[int, typer.Option(help="Clips of each system and class; the paper: 15 (V-C).")] = 15,
    classes: Annotated[
        str, typer.Option(help="Class names with commas between them; default: those in every folder.")
    ] = "",
    seed: Annotated[
        int, typer.Option(help="Seed of the draw among a folder's clips, and of their new names.")
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Seconds kept, from the start of each clip.")] = 4.0,
    sampling_rate: Annotated[
        int, typer.Option(help="Bring all clips to this rate in Hz; default: as they are.")
    ] = 0,
    intro: Annotated[
        Path | None,
        typer.Option(help="Text that raters read first: who asks, and what becomes of the answers."),
    ] = None,
    thanks: Annotated[
        Path | None, typer.Option(help="Text for whoever has rated every clip: a code of completion, say.")
    ] = None,
    send_to: Annotated[
        str,
        typer.Option(help="Address that takes complete ratings (POST, csv); default: raters save a file."),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a survey of other clips there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make blind listening tests as the paper's, a page for each class, from folders of clips of several systems.

    Put pages/ on a web server, or open it from a disk, and keep key.csv, which says whose clip is whose. What raters
    save goes into one folder, which notebook 05 analyses with that key.
    """
    folders = _folders(models)
    at_least(("--items", items, 1), ("--seed", seed, 0), ("--sampling-rate", sampling_rate, 0))
    check_seconds(seconds)
    if send_to and not re.match(r"https?://[^/]", send_to):
        raise InputError(f"--send-to {send_to}: give an address that begins with https:// or http://")
    from latentclap.survey import make_survey  # needs torch

    made = make_survey(
        folders,
        out,
        items=items,
        classes=list(named_texts(classes, [])) if classes else (),
        seed=seed,
        seconds=seconds,
        sampling_rate=sampling_rate,
        intro=_paragraphs(intro),
        thanks=_paragraphs(thanks),
        send_to=send_to,
        overwrite=overwrite,
        progress=not quiet,
    )
    pages = plural(len(made.pages), "class", "classes")
    typer.echo(f"{plural(made.clips, 'clip')}, {pages}: {made.folder / 'pages' / 'index.html'}")
    typer.echo(
        f"with the raters' files in {made.folder / 'answers'}: papermill notebooks/05_table2.ipynb out.ipynb"
        f" -p ratings_csv {made.folder / 'answers'} -p ratings_key {made.folder / 'key.csv'}"
    )
    if len({rate for rates in made.rates.values() for rate in rates}) > 1:
        told = "; ".join(f"{name} {', '.join(map(str, rates))}" for name, rates in made.rates.items())
        typer.echo(
            f"warning: sampling rates in Hz differ ({told}): raters hear that; --sampling-rate brings all to one",
            err=True,
        )


def _folders(models: list[str]) -> dict[str, Path]:
    """NAME=FOLDER arguments as a mapping.

    Raises:
        InputError: an argument of another form, or a name that comes twice.
    """
    folders: dict[str, Path] = {}
    for text in models:
        name, folder = named_folder(text)
        if name in folders:
            raise InputError(f"{name!r} is there twice: each system has a name of its own")
        folders[name] = folder
    return folders


def _paragraphs(path: Path | None) -> list[str]:
    """A text's paragraphs, each as one line."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8") from None
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


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
