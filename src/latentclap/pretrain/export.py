"""Writing a trained family to the package's data, with its model card."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from latentclap import __version__
from latentclap.embeddings import JudgeNet
from latentclap.errors import InputError
from latentclap.files import file_sha256, read_json, replaceable, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import size
from latentclap.pretrain.stages import STAGES
from latentclap.pretrain.work import MAKES, Work
from latentclap.recordings import REAL, copies, counted
from latentclap.runs import threads
from latentclap.storage import exchange
from latentclap.system import FoleySystem

#: of the weights; the recordings that they heard keep their own, which real_sources names
LICENCE = "Apache-2.0"
CARD = "model_card.json"
#: a card's entries on the training data
DATA = ("corpus", "real_sources")


def export(work: Work, out: Path) -> dict[str, Any]:
    """Write a system, its Latent CLAP encoder and the judge to ``out``, in half precision.

    What no stage has trained here is the start's, where that is still right for the rest.

    Raises:
        InputError: a stage has left no weights yet, the start's diffusion model is not of this VAE and CLAP, or a
            weight is not finite in half precision.
    """
    work.need(*MAKES)
    if moved(work) and not work.result("ldm").is_file():
        raise InputError(
            "stage 'ldm' has to go on too: the VAE or CLAP that it was trained with has changed here"
        )
    phi = encoder(work)
    system = work.system()
    for name, part in system.parts.items():
        for key, value in part.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value.half()).all():
                raise InputError(f"{name}.{key} does not fit into float16")
    place = replaceable(out, CARD, "a family with its card")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as folder:
        card = _write(work, system, phi, Path(folder) / "new")
        exchange(place, Path(folder) / "new")
    return card


def _write(work: Work, system: FoleySystem, phi: LatentCLAP, out: Path) -> dict[str, Any]:
    system.save_pretrained(out, dtype=torch.float16, pipeline=False)
    phi.half().save_pretrained(out / "latent_clap")
    judge = None
    if work.result("judge").is_file():
        judge = JudgeNet()
        judge.load_state_dict(load_file(work.result("judge")))
    elif work.start and (work.start / "judge").is_dir():
        judge = JudgeNet.load(work.start / "judge")
    if judge:
        judge.half().save(out / "judge")
    card = model_card(work, system.parts, out)
    write_json(out / CARD, card)
    return card


def moved(work: Work) -> bool:
    """Whether latents or embeddings are not the start's any more."""
    return any(work.result(stage).is_file() for stage in ("vae", "clap"))


def encoder(work: Work) -> LatentCLAP:
    """φ as trained here; the start's if neither what it reads (the VAE's latents) nor its aim (CLAP) was trained on.

    Raises:
        InputError: it has to be trained first.
    """
    trained = work.result("latent_clap").is_file()
    if not trained and not moved(work) and work.start and (work.start / "latent_clap").is_dir():
        return LatentCLAP.from_pretrained(work.start / "latent_clap")
    work.need("latent_clap")
    phi = LatentCLAP(**size(work.size)["phi"])
    phi.load_state_dict(load_file(work.result("latent_clap")))
    return phi


def model_card(work: Work, parts: dict[str, torch.nn.Module], out: Path) -> dict[str, Any]:
    """What the family is and how it was made, from the files that training left."""
    return {
        "name": work.size,
        "latentclap": __version__,
        "torch": torch.__version__,
        "licence": LICENCE,
        "machine": f"{platform.machine()}, {threads()}, {work.device}",
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        **real_counts(work),
        **own_data(work),
        "stages": {
            # what a run was told otherwise (steps, lr) goes before the stage's own
            stage: {**vars(STAGES[stage]), **read_json(work.folder / stage / "summary.json")}
            for stage in STAGES
            if (work.folder / stage / "summary.json").is_file()
        },
        # parts that no stage above has made were taken from an earlier family of the same shapes
        "earlier": earlier(work),
        "files": {p.relative_to(out).as_posix(): file_sha256(p) for p in sorted(out.rglob("*.safetensors"))},
        "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
    }


def real_counts(work: Work) -> dict[str, int]:
    """Real clips of the corpus, each counted once, and how often it holds each of them."""
    rows = work.corpus.kind.count(REAL)
    clips, _ = counted(read_json(work.folder / "corpus.json")["real"])
    often = copies(rows, clips)
    return {"real_clips": clips, "real_copies": often} if often else {"real_clips": rows}


def own_data(work: Work) -> dict[str, list[dict[str, Any]]]:
    """Clips of the corpus by kind and class, and where the real ones come from: the entries :data:`DATA`."""
    corpus = work.corpus
    pairs = list(zip(corpus.kind, corpus.cls, strict=True))
    return {
        "corpus": [
            {"kind": kind, "class": cls, "clips": pairs.count((kind, cls))}
            for kind, cls in sorted(set(pairs))
        ],
        "real_sources": read_json(work.folder / "corpus.json")["real"],
    }


def earlier(work: Work) -> list[dict[str, Any]]:
    """The rounds of training that this one began with, the latest first, from the start's own card.

    Returns:
        Per round: version of latentclap, stages, and corpus and real_sources where they are not those of the round
        before it in the list; the first is compared with this round's own.
    """
    if work.start is None:
        return []
    card = read_json(work.start / CARD)
    later, out, had = own_data(work), [], {}
    for told in (card, *card["earlier"]):
        had = {**had, **{key: told[key] for key in DATA if key in told}}
        new = {key: value for key, value in had.items() if value != later[key]}
        out.append({"latentclap": told["latentclap"], "stages": told["stages"], **new})
        later = had
    return out
