"""``latentclap generate``: clips of classes or texts, into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentclap.asked import named_texts, way_of
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
    with_earlier,
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
from latentclap.wording import plural

HELP = """Generate clips into a folder, with a record; the same command goes on where it was stopped.

More clips, classes or prompts than an earlier call's are added to what it made. A clip that comes out louder than
a file can hold is turned down as a whole, to a peak of 0.99.

--seconds, --lufs, --fade, --loop and --sampling-rate are for listening, mixing and games: evaluate clips made
without them. Resampling adds no sound above the model's 8 kHz."""


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
    """See HELP."""
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
