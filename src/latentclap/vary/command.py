"""``latentclap vary``: sounds in, a folder of variations of each out, with a page that plays them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from latentclap.asked import way_of
from latentclap.classes import canonical_class
from latentclap.classes import prompt as class_prompt
from latentclap.errors import InputError
from latentclap.finish import Finish
from latentclap.formats import check_format
from latentclap.generation import (
    alone,
    commands,
    drop_stale,
    earlier_clips,
    kept_clips,
    make_plan,
    write_clips,
    write_record,
)
from latentclap.options import (
    BatchSize,
    ClipSeed,
    Device,
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
    asked_sampling,
    check_sampling,
    load_system,
    read_adapter,
)
from latentclap.vary.places import check_kept, check_places
from latentclap.vary.sounds import PAGE, STRENGTH, Sounds, Source, check_files, earlier_names, find_sources
from latentclap.vary.takes import lengths_of, make_takes, told_of, write_about
from latentclap.wording import plural

HELP = """Make variations of sounds: other takes of the same footstep, door or dog.

A sound is noised part of the way and denoised again. --strength says how far: at 0.2 the take is hardly another
one, at 0.8 little more than its kind is left. Without --prompt or --class a sound is steered by its own CLAP
embedding; with one, towards the text (rain that barks). Variations have the sound's length, up to the model's clip,
of a longer sound its beginning; and its level, but for --lufs. --seconds cuts those of longer sounds, --loop makes
each a round that closes. They are mono, of a sound's first channel, and have the model's 16 kHz: --sampling-rate adds
nothing above 8 kHz.

The folder gets <sound>/<sound>_000.wav, ..., listen/index.html, which plays them beside the sound, variations.csv,
which tells how far each is from it, and a record. The same command goes on where it was stopped; more variations,
sounds or strengths are added to those that are there."""


def vary(
    sounds: Annotated[
        list[Path], typer.Argument(metavar="SOUND...", help="Sound files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for <sound>/<sound>_000.wav, ...")],
    n: Annotated[int, typer.Option("-n", "--number", help="Variations of each sound.")] = 4,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="How far, above 0 and up to 1; given several times: each.", show_default="0.5"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A text that steers all of them.")] = None,
    cls: Annotated[
        str, typer.Option("--class", help="One of the seven classes instead.", show_default=False)
    ] = "",
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
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write listen/index.html.")] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """See HELP."""
    text = _text(prompt, cls)
    check_sampling(n, batch_size, seed, steps, guidance_scale, eta)
    finish = Finish(seconds, lufs, fade, loop, sampling_rate)
    check_format(format, finish)
    known = {} if overwrite else earlier_names(out)
    sources = find_sources(sounds, strength or [STRENGTH], leave_out=out, known=known)
    chosen = asked_sampling(model, sampler, steps, guidance_scale)
    settings: dict[str, Any] = {**chosen.asdict(), "eta": eta, "seed": seed}
    adapter = read_adapter(lora)
    way = way_of(finish, adapter)
    names = {source.name: text for source in sources}
    told = {source.name: source.asdict() for source in sources}
    said = {source.name: source.said for source in sources}
    plan = make_plan(model, {**settings, **way, "sounds": told}, names, format)
    files = {name: [out / name / f"{name}_{i:03d}.{format}" for i in range(n)] for name in names}
    every = [path for paths in files.values() for path in paths]
    with alone(out):
        kept = {} if overwrite else kept_clips(out, plan)
        old = earlier_clips(out, every, overwrite, kept, plan)
        typed = commands(out, kept, every)
        check_places(out, page, overwrite)
        check_kept(sources, out, [*every, *(out / name for name in old)])
        check_files(sources)
        system = load_system(model, device)
        if adapter:
            system = adapter.applied(system)
        if not text:
            from latentclap.vary.process import check_steering

            check_steering(system)
        heard = Sounds(sources, system.samples)
        lengths = lengths_of(finish, heard, system.seconds)
        make = make_takes(system, sources, heard, settings, batch_size)
        made = write_clips(
            system, names, files, settings, batch_size, quiet, kept, plan, finish, make, said, typed
        )
        drop_stale(out, old - {path.relative_to(out).as_posix() for path in every})
        more = told_of(sources, lengths)
        write_record(out, model, system, {**settings, **way}, names, made, plan, finish, more, typed)
        write_about(out, system, sources, heard, made, lengths, page=page, overwrite=overwrite, quiet=quiet)
    earlier = len(kept.keys() & set(every))
    before = f", {earlier} of them made before" if earlier else ""
    typer.echo(
        f"{plural(len(every), 'clip')} in {out} ({chosen.sampler}, guidance {chosen.guidance_scale:g}){before}"
    )
    _say_of_lengths(sources, finish, heard, system.seconds)
    if page:
        typer.echo(f"to hear them: {out / PAGE / 'index.html'}")


def _say_of_lengths(sources: Sequence[Source], finish: Finish, heard: Sounds, seconds: float) -> None:
    """Tell of sounds that are longer than the model's clips, and of those shorter than what was asked for."""
    longer = {source.path for source in sources if source.name in heard.longer}
    if longer:
        typer.echo(
            f"{plural(len(longer), 'sound')} longer than the model's {seconds:g} s: varied are their beginnings"
        )
    shorter = {s.path for s in sources if finish.within(heard.seconds[s.name]).seconds != finish.seconds}
    if shorter:
        typer.echo(
            f"{plural(len(shorter), 'sound')} too short for --seconds {finish.seconds:g}: variations have the length"
            " that it allows"
        )


def _text(prompt: str | None, cls: str) -> str:
    """What steers all variations; nothing: each sound its own."""
    if prompt is not None and cls:
        raise InputError("give --prompt or --class, one of the two, or none")
    if prompt is not None and not prompt.strip():
        raise InputError("--prompt needs words; leave it out, and each sound steers its own variations")
    if cls:
        try:
            return class_prompt(canonical_class(cls))
        except ValueError as error:
            raise InputError(f"--class: {error}") from None
    return (prompt or "").strip()
