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

Classes may have any names that both folders have, and none beside the paper's seven; sounds that lie in no folders
are one class."""


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
