"""``latentclap vary``: sounds in, a folder of variations of each out, with a page that plays them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentclap.asked import way_of
from latentclap.classes import canonical_class
from latentclap.classes import prompt as class_prompt
from latentclap.errors import InputError
from latentclap.files import check_place, plain, replaceable
from latentclap.finish import Finish
from latentclap.formats import check_format
from latentclap.generation import (
    RECORD,
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
from latentclap.vary.sounds import (
    MARK,
    PAGE,
    STRENGTH,
    TABLE,
    Sounds,
    Source,
    check_files,
    earlier_names,
    find_sources,
)
from latentclap.wording import plural

if TYPE_CHECKING:
    import numpy as np

    from latentclap.generation import Make
    from latentclap.system import FoleySystem

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
        _check_places(out, page, overwrite)
        _check_kept(sources, out, [*every, *(out / name for name in old)])
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
        more = {
            s.name: {"sound": plain(s.path), **s.asdict(), "seconds": round(lengths[s.name], 4)}
            for s in sources
        }
        write_record(out, model, system, {**settings, **way}, names, made, plan, finish, more, typed)
        _write_about(out, system, sources, heard, made, lengths, page=page, overwrite=overwrite, quiet=quiet)
    earlier = len(kept.keys() & set(every))
    before = f", {earlier} of them made before" if earlier else ""
    how = f"{chosen.sampler}, guidance {chosen.guidance_scale:g}"
    typer.echo(f"{plural(len(every), 'clip')} in {out} ({how}){before}")
    _say_of_lengths(sources, finish, heard, system.seconds)
    if page:
        typer.echo(f"to hear them: {out / PAGE / 'index.html'}")


def lengths_of(finish: Finish, heard: Sounds, seconds: float) -> dict[str, float]:
    """Name -> length in seconds of its variations.

    Args:
        finish: how they are finished.
        heard: the sounds.
        seconds: length of the system's clips.

    Raises:
        InputError: what cannot be asked of a sound, which is named.
    """
    if finish.seconds:
        finish.check(seconds)  # no sound's variations are as long
    lengths = {}
    for name, length in heard.seconds.items():
        own = finish.within(length)
        try:
            own.check(length)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        lengths[name] = own.length(length)
    return lengths


def _write_about(
    out: Path,
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Sounds,
    made: Iterable[Path],
    lengths: Mapping[str, float],
    *,
    page: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write the table and the page of all variations that are there."""
    from latentclap.vary.page import variations_page
    from latentclap.vary.result import measure, write_table

    # also those of an earlier call that asked for more
    there = {s.name: [path for path in made if path.parent.name == s.name] for s in sources}
    for paths in there.values():
        paths.sort(key=lambda path: int(path.stem.rpartition("_")[2]))
    rows = measure(system, sources, heard, there, lengths, quiet=quiet)
    write_table(out / TABLE, rows)
    if page:
        variations_page(out, system, sources, heard, there, rows, lengths)
    elif overwrite and (out / PAGE / MARK).is_file():  # of clips that are no more
        shutil.rmtree(out / PAGE, ignore_errors=True)


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


def _check_places(out: Path, page: bool, overwrite: bool) -> None:
    """Refuse to replace what no earlier run wrote beside the clips."""
    table = out / TABLE
    check_place(table)
    if table.exists() and not (out / RECORD).is_file() and not overwrite:
        raise InputError(f"{table} would be replaced; choose another --out or say --overwrite")
    if page:
        replaceable(out / PAGE, MARK, "a page of variations")


def _check_kept(sources: Sequence[Source], out: Path, replaced: Iterable[Path]) -> None:
    """Refuse to vary what would be replaced or removed: an earlier variation, or a player of the page."""
    gone, page = set(map(os.path.realpath, replaced)), os.path.realpath(out / PAGE)
    for source in sources:
        place = os.path.realpath(source.path)
        if place in gone or Path(place).is_relative_to(page):
            raise InputError(
                f"{source.path} lies in --out and would be replaced or removed: copy it, or choose another --out"
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


def make_takes(
    system: FoleySystem,
    sources: Sequence[Source],
    heard: Mapping[str, np.ndarray],
    settings: dict[str, Any],
    batch_size: int,
) -> Make:
    """What :func:`latentclap.generation.write_clips` calls for a sound's variations.

    Args:
        system: that makes them.
        sources: the sounds, with their strengths.
        heard: name -> samples at 16 kHz.
        settings: of :func:`latentclap.vary.process.vary`.
        batch_size: clips per UNet call.
    """
    from latentclap.vary.process import vary as process

    strength = {source.name: source.strength for source in sources}

    def make(name: str, text: str, first: int, count: int) -> np.ndarray:
        return process(
            system,
            [heard[name]],
            count,
            strength=strength[name],
            prompts=[text] if text else None,
            first=first,
            batch_size=batch_size,
            **settings,
        )[0]

    return make
