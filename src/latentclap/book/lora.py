"""Tables of LoRA on the page on LoRA, from the record that its benchmark left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentclap.book.markdown import table
from latentclap.errors import InputError
from latentclap.files import read_json, write_text


def lora_tables(record: str | Path, out: str | Path = "book/generated/lora.md") -> Path:
    """Write what LoRA trains of the paper's UNet, a step's memory by the estimate, and mini's losses.

    Args:
        record: JSON of data_scripts/benchmarks/lora.py, with both of its parts.
        out: the Markdown file to write.

    Raises:
        InputError: there is no such file, or it is not of that kind.
    """
    if not Path(record).is_file():
        raise InputError(f"{record}: no such file")
    told = read_json(record)
    if not isinstance(told, dict) or not {"count", "train"} <= set(told):
        raise InputError(f"{record}: count and train are not both in it; it is another kind of file")
    write_text(out, "\n\n".join((*_count(told["count"]), *_train(told["train"]))) + "\n")
    return Path(out)


def _count(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Counted at full size, and estimated."""
    total = told["total"]
    rows = [
        (
            f"rank {row['rank']}" if row["rank"] else "all weights",
            f"{row['trained'] / 1e6:.2f}",
            f"{row['trained'] / total:.1%}",
            f"{row['file_bytes'] / 1e6:,.0f}",
            f"{row['moments_bytes'] / 1e6:,.0f}",
        )
        for row in told["rows"]
    ]
    held = list(told["memory"][0]["largest_batch"])
    memory = [
        (
            (f"rank {row['rank']}" if row["rank"] else "all weights")
            + (", `--checkpointing`" if row["checkpointing"] else ""),
            f"{row['one_clip_gib']:.1f}",
            *(str(row["largest_batch"][h] or "none") for h in held),
        )
        for row in told["memory"]
    ]
    return (
        f"AudioLDM's UNet of the paper ({total / 1e6:.2f} M parameters), counted:",
        table(
            ("what trains", "M parameters", "of all", "file, MB", "Adam's moments, MB"),
            rows,
        ),
        f"Memory of a step by eq. 4 on a GPU, uncompiled, {told['precision']}, estimated as `--dry-run` does it, not"
        " measured:",
        table(
            ("what trains", "one clip, GiB", *(f"largest batch in {h} GiB" for h in held)),
            memory,
            numbers=1 + len(held),
        ),
    )


def _train(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Measured with mini: losses; times would be of whatever else the machine did."""
    before, *rows = told["rows"]
    lines = [("before", "", *_losses(before))]
    lines += [
        (f"rank {row['rank']}" if row["rank"] else "all weights", f"{row['lr']:g}", *_losses(row))
        for row in rows
    ]
    clips, adapters = told["clips"], [row for row in rows if row["rank"]]
    best = {key: min(adapters, key=lambda row: row[key])["lr"] for key in ("ddpm", "lclap")}
    return (
        f"`{told['model']}`, λ = {told['lam']:g}, {rows[0]['steps']} steps of {told['batch_size']} clips,"
        f" {clips['dev']} procedural clips; losses on {clips['eval']} held-out ones, one training each. Of the"
        f" adapters' learning rates {best['ddpm']:g} ends lowest in eq. 1, and {best['lclap']:g} in eq. 3:",
        table(("what trains", "lr", "eq. 1", "eq. 3, 10⁻⁵"), lines, numbers=3),
    )


def _losses(row: Mapping[str, float]) -> tuple[str, str]:
    return f"{row['ddpm']:.5f}", f"{1e5 * row['lclap']:.3f}"
