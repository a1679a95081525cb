"""``latentclap evaluate``: FAD of a folder of clips, class by class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from latentclap.errors import InputError
from latentclap.files import check_place, write_json
from latentclap.options import (
    Device,
    Draws,
    EmbeddingName,
    Quiet,
    VGGishFile,
    VGGishMode,
    at_least,
    check_seconds,
    embedded_on,
    embedding_name,
    load_embedding,
    load_system,
)
from latentclap.typed import typed_as

HELP = """FAD per class against real clips, with CI.

Classes may have any names, the paper's seven or others, in any spelling ("DoorSlam" is "door_slam"); sounds that lie
in no folders are one class. Silent clips are measured like any other, and counted."""


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
    """See HELP."""
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
    from latentclap.evaluate.clips import check_sound
    from latentclap.evaluate.folders import by_class, sounds_by_folder
    from latentclap.evaluate.partners import check_empty, check_partners
    from latentclap.scan.layout import unused

    clips = sounds_by_folder(generated)  # by the names of the folders, which deal the draws
    classes = list(by_class(clips, generated))
    found = stats or sounds_by_folder(reference, duplicates_ok=True, measured=clips)
    real = by_class(found, reference, like=clips)
    check_partners(classes, generated, list(real), reference)
    check_empty(generated, classes, list(real), reference)
    real = {cls: real[cls] for cls in classes}
    embed = load_embedding(name, vggish, lambda: load_system(model or "mini", device), device)
    ours = _embed(clips, embed, seconds, quiet)
    theirs = real if stats else _embed(real, embed, seconds, quiet)
    for cls, told in theirs.items():
        check_sound(told, f"{reference}: {cls}")
    result = evaluation.evaluate(ours, theirs, embed, n_boot=n_boot, seed=seed, seconds=seconds)
    result.settings["device"] = embedded_on(embed)
    try:  # first of all, for whoever reads the first lines may close the pipe
        if json_path is not None:
            from latentclap.runs import origin

            write_json(json_path, typed_as() | result.to_dict() | origin())
    finally:
        typer.echo(result.text())
    for line in (*result.silence(), *unused(generated), *([] if stats else unused(reference, empty=False))):
        typer.echo(f"warning: {line}", err=True)
    files = {path.resolve() for paths in clips.values() for path in paths}
    same = 0 if stats else len(files & {path.resolve() for paths in real.values() for path in paths})
    if same:
        typer.echo(
            f"warning: {same} of {len(files)} generated clips are reference clips too, the same files: a FAD of clips"
            " with themselves is 0 and says nothing",
            err=True,
        )
    if json_path is not None:
        typer.echo(f"written: {json_path}")


def _embed(side: dict[str, list[Path]], embedding: Any, seconds: float, quiet: bool) -> dict[str, Any]:
    """{class: files} as {class: embeddings of the first ``seconds`` of each}, with a bar."""
    from latentclap.evaluate import embed_clips

    bar = tqdm(
        side.items(), unit="class", desc=f"embedding ({embedding.name})", disable=True if quiet else None
    )
    return {cls: embed_clips(clips, embedding, 16_000, seconds) for cls, clips in bar}
