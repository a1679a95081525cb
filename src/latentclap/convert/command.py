"""What the command line does with files of the original code: show their load report, or convert them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentclap.convert.audioldm import convert_audioldm
from latentclap.convert.checkpoint import Checkpoint, read_checkpoint
from latentclap.convert.clap import ConvertedClap, convert_clap
from latentclap.convert.report import LoadReport, table
from latentclap.errors import InputError
from latentclap.files import listed, replaceable, write_json
from latentclap.storage import OWN, exchange

#: Written beside what was converted.
REPORT = "load_report.json"
#: the files of a converted ClapModel
CLAP = frozenset({"config.json", "model.safetensors", "preprocessor_config.json"})


def inspect(path: Path, *, as_json: bool = False) -> str:
    """The load report of an original file, as text or JSON; nothing is loaded but names and shapes."""
    file = read_checkpoint(path)
    if file.kind == "audioldm":
        # a file without a scale factor can be looked at; converting it needs one
        given = None if "scale_factor" in file.state else 1.0
        converted = convert_audioldm(file, scale_factor=given, report_only=True)
        told = _told(file, converted.reports, converted.facts)
    else:
        clap = convert_clap(file, fill_weights=False)
        told = _told(file, [clap.report], {"clap": clap.architecture, "not_run": file.inert})
    return json.dumps(told["json"], indent=2) if as_json else told["text"]


def convert_file(path: Path, out: Path, *, tokenizer: str, half: bool, **options: Any) -> str:
    """Convert an original file into a folder; return the load report as text.

    An AudioLDM file becomes a system that :meth:`FoleySystem.from_pretrained` and diffusers open, a LAION file
    a ``ClapModel`` folder for ``judge=``. The report is written beside the weights too.

    Raises:
        InputError: see :func:`convert_audioldm` and :func:`convert_clap`; or the folder holds other things.
    """
    import torch

    place = replaceable(out, REPORT, "a converted checkpoint")
    if others := sorted({path.name for path in listed(place)} - OWN - CLAP):
        raise InputError(
            f"{out} holds other things than a converted checkpoint ({', '.join(others[:3])}): choose another folder"
        )
    file = read_checkpoint(path)
    if file.kind == "audioldm":
        converted = convert_audioldm(file, tokenizer=tokenizer, **options)
        told = _told(file, converted.reports, converted.facts)
        # with the report in one step: a folder without one is not replaced by the same command
        with _whole(place) as folder:
            converted.system.save_pretrained(folder, dtype=torch.float16 if half else None)
            write_json(folder / REPORT, told["json"])
    else:
        clap = convert_clap(file)
        told = _told(file, [clap.report], {"clap": clap.architecture, "not_run": file.inert})
        with _whole(place) as folder:
            _save_clap(clap, folder, told["json"], torch.float16 if half else None)
    return f"{told['text']}\nwrote {out}"


@contextlib.contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """Yield an empty folder that comes to a place when the block ends without an error; an earlier one there goes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        exchange(place, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_clap(clap: ConvertedClap, folder: Path, told: dict[str, Any], dtype: Any) -> None:
    """Write a ClapModel's folder."""
    (clap.model.to(dtype) if dtype else clap.model).save_pretrained(folder)
    clap.feature_extractor.save_pretrained(folder)
    write_json(folder / REPORT, told)


def _told(file: Checkpoint, reports: list[LoadReport], facts: dict[str, Any]) -> dict[str, Any]:
    lines = [
        f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in facts.items() if value not in ([], "")
    ]
    return {
        "json": {"file": file.path.name, "kind": file.kind, **facts, "parts": [r.as_dict() for r in reports]},
        "text": "\n".join([f"{file.kind} {file.path}", table(reports), *lines]),
    }


def _plain(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
