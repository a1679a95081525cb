"""Get data and checkpoints of the paper's setting: resumable, checksummed, unpacked safely.

    python data_scripts/get.py list
    python data_scripts/get.py wavcaps --subset SoundBible --dry-run
    python data_scripts/get.py all

Where a command is interrupted or fails, the same command goes on. Run it in the repository's root: the default
folders are those that the profile `paper` reads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from latentclap.errors import run_app
from latentclap.getting import SOURCES, Options, get
from latentclap.options import Quiet, application

HELP = (
    "Get data and checkpoints of the paper's setting: resumable, checksummed, unpacked safely, licences said first. "
    "Where a command is interrupted or fails, the same command goes on. Run it in the repository's root: the default "
    "folders are those that the profile `paper` reads. `list` shows what there is; --dry-run asks for sizes."
)
app = application(
    HELP,
    no_args_is_help=True,
)

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder; `list` shows the default ones.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be downloaded, with sizes, and stop.")
]
Mirror = Annotated[
    str,
    typer.Option(
        help="Another place: the address of a folder with the same file names; for hub sources (wavcaps, audioldm, "
        "clap) the endpoint of a hub, as HF_ENDPOINT."
    ),
]
Revision = Annotated[
    str,
    typer.Option(help="Hub branch, tag or commit; by default the one this folder was begun with, or main."),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read every file again, also those unchanged since their last check.")
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Download files again that are there but are not what they should be."),
]
Drop = Annotated[
    bool,
    typer.Option("--drop-archives", help="Remove each archive once its contents are unpacked and checked."),
]
Workers = Annotated[int, typer.Option(min=1, max=32, help="Files that travel at once.")]
Wait = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds without a byte until a server is given up.")
]
Subset = Annotated[
    list[str] | None,
    typer.Option(
        "--subset", help=f"Of WavCaps: {', '.join(SOURCES['wavcaps'].subsets)}; may be given again."
    ),
]


def _say(text: str) -> None:
    """Print a line without tearing a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


def _get(name: str, options: Options, subsets: tuple[str, ...] = ()) -> None:
    try:
        get(name, options, _say, subsets=subsets)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from there", err=True)
        sys.stdout.flush()
        os._exit(130)  # a thread may still wait for a silent server; every byte so far is on the disk


@app.command("list")
def list_sources() -> None:
    """What there is, with licences. Asks no server."""
    for source in SOURCES.values():
        typer.echo(f"{source.name}: {source.said()}\n  to       {source.out}\n")


@app.command()
def dcase(
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    verify: Verify = False,
    replace: Replace = False,
    drop_archives: Drop = False,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """Sounds of DCASE 2023 Task 7, unpacked and read."""
    _get(
        "dcase", Options(out, mirror, "", dry_run, verify, replace, quiet, not drop_archives, timeout=timeout)
    )


@app.command()
def wavcaps(
    subset: Subset = None,
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    revision: Revision = "",
    verify: Verify = False,
    replace: Replace = False,
    drop_archives: Drop = False,
    workers: Workers = 4,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """WavCaps; --subset SoundBible for a first try.

    The whole is hundreds of GB, and as much again when unpacked.
    """
    options = Options(
        out, mirror, revision, dry_run, verify, replace, quiet, not drop_archives, workers, timeout
    )
    _get("wavcaps", options, tuple(subset or ()))


@app.command()
def audioldm(
    original: Annotated[
        bool,
        typer.Option("--original", help="The authors' .ckpt (Zenodo) instead of the diffusers folder (hub)."),
    ] = False,
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    revision: Revision = "",
    verify: Verify = False,
    replace: Replace = False,
    workers: Workers = 4,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """audioldm-m-full, folder or original checkpoint."""
    options = Options(out, mirror, revision, dry_run, verify, replace, quiet, True, workers, timeout)
    _get("audioldm-ckpt" if original else "audioldm", options)


@app.command()
def clap(
    transformers: Annotated[
        bool,
        typer.Option(
            "--transformers", help="laion/clap-htsat-unfused: the same weights as a ClapModel folder."
        ),
    ] = False,
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    revision: Revision = "",
    verify: Verify = False,
    replace: Replace = False,
    workers: Workers = 4,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """LAION-CLAP 630k-audioset-best.pt or conversion."""
    options = Options(out, mirror, revision, dry_run, verify, replace, quiet, True, workers, timeout)
    _get("clap-transformers" if transformers else "clap", options)


@app.command()
def vggish(
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    verify: Verify = False,
    replace: Replace = False,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """VGGish's weights, as torchvggish has them."""
    _get("vggish", Options(out, mirror, "", dry_run, verify, replace, quiet, timeout=timeout))


@app.command()
def stats(
    out: Out = None,
    dry_run: DryRun = False,
    mirror: Mirror = "",
    verify: Verify = False,
    replace: Replace = False,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """The organisers' FAD statistics, converted.

    To one npz, without TensorFlow and without executing anything that a pickle holds.
    """
    _get("stats", Options(out, mirror, "", dry_run, verify, replace, quiet, timeout=timeout))


@app.command("all")
def everything(
    subset: Subset = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    replace: Replace = False,
    drop_archives: Drop = False,
    workers: Workers = 4,
    timeout: Wait = 60,
    quiet: Quiet = False,
) -> None:
    """All that the profile `paper` reads.

    Of WavCaps only SoundBible, unless --subset names more.
    """
    options = Options(None, "", "", dry_run, verify, replace, quiet, not drop_archives, workers, timeout)
    for name in ("dcase", "audioldm", "clap", "clap-transformers", "vggish", "stats"):
        _get(name, options)
    _get("wavcaps", options, tuple(subset or ["SoundBible"]))


if __name__ == "__main__":
    sys.exit(run_app(app))
