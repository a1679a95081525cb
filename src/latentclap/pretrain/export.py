"""Writing a trained family to the package's data, with its model card."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from latentclap.embeddings import JudgeNet
from latentclap.errors import InputError
from latentclap.files import file_sha256, read_json, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import size
from latentclap.pretrain.corpus import REAL
from latentclap.pretrain.stages import MAKES, STAGES, Work


def export(work: Work, out: Path) -> dict[str, Any]:
    """Write a system, its Latent CLAP encoder and the judge to ``out``, in half precision.

    Raises:
        InputError: a stage has left no weights yet, or a weight is not finite in half precision.
    """
    work.need(*MAKES, "latent_clap")
    system = work.system()
    for name, part in system.parts.items():
        for key, value in part.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value.half()).all():
                raise InputError(f"{name}.{key} does not fit into float16")
    system.save_pretrained(out, dtype=torch.float16, pipeline=False)
    phi = LatentCLAP(**size(work.size)["phi"])
    phi.load_state_dict(load_file(work.result("latent_clap")))
    phi.half().save_pretrained(out / "latent_clap")
    if work.result("judge").is_file():
        judge = JudgeNet()
        judge.load_state_dict(load_file(work.result("judge")))
        judge.half().save(out / "judge")
    card = model_card(work, system.parts, out)
    write_json(out / "model_card.json", card)
    shutil.rmtree(out / "__pycache__", ignore_errors=True)
    return card


def model_card(work: Work, parts: dict[str, torch.nn.Module], out: Path) -> dict[str, Any]:
    """What the family is and how it was made, from the files that training left."""
    corpus = work.corpus
    kinds = sorted(set(zip(corpus.kind, corpus.cls, strict=True)))
    return {
        "name": work.size,
        "latentclap": version("latentclap"),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {work.device}",
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "corpus": [
            {
                "kind": kind,
                "class": cls,
                "clips": sum(k == kind and c == cls for k, c in zip(corpus.kind, corpus.cls, strict=True)),
            }
            for kind, cls in kinds
        ],
        "real_clips": corpus.kind.count(REAL),
        "real_sources": read_json(work.folder / "corpus.json")["real"],
        "stages": {
            # what a run was told otherwise (steps, lr) goes before the stage's own
            stage: {**vars(STAGES[stage]), **read_json(work.folder / stage / "summary.json")}
            for stage in STAGES
            if (work.folder / stage / "summary.json").is_file()
        },
        # parts that no stage above has made were taken from an earlier family of the same shapes
        "start": earlier(work),
        "files": {p.relative_to(out).as_posix(): file_sha256(p) for p in sorted(out.rglob("*.safetensors"))},
        "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
    }


def earlier(work: Work) -> dict[str, Any] | None:
    """Name, stages and sources of the family that training began with, from its own card; None for no start."""
    if work.start is None:
        return None
    card = read_json(work.start / "model_card.json")
    return {key: card.get(key) for key in ("latentclap", "stages", "corpus", "real_sources", "start")}
