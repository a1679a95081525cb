"""The part of the page on one GPU that shows what ``data_scripts/benchmarks/speed.py`` measured, device by device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentclap.book.scale import table
from latentclap.errors import InputError
from latentclap.files import read_json, write_text


def speed_page(records: Sequence[str | Path], out: str | Path = "book/generated/speed.md") -> Path:
    """Write a section per record, each with the parts that were measured there.

    GPUs come first. A record that says "when" is of an earlier state of the code: it comes last, folded.

    Args:
        records: JSON files of speed.py.
        out: the Markdown file to write.

    Raises:
        InputError: a file is absent or of another kind.
    """
    now, before = [], []
    # a GPU's first, as the page is about them
    for told in sorted(
        (_read(Path(path)) for path in records), key=lambda told: _without_gpu(told["device"])
    ):
        text = "\n\n".join(_record(told))
        if "when" in told:
            title = f"{told['when'][0].upper()}{told['when'][1:]}: {told['device']}"
            before.append(f"::::{{dropdown}} {title}\n{text}\n::::")
        else:
            now.append(text)
    write_text(out, "\n\n".join([*now, *before]) + "\n")
    return Path(out)


def _without_gpu(device: str) -> bool:
    return device.startswith(("any", "CPU"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    told = read_json(path)
    if not isinstance(told, dict) or "size" not in told or not any(name in told for name in PARTS):
        raise InputError(f"{path}: no part of speed.py's in it; it is another kind of file")
    return told


def _record(told: Mapping[str, Any]) -> list[str]:
    size = "audioldm-m-full's architecture" if told["size"] == "paper" else f"size {told['size']}"
    device = told["device"][0].upper() + told["device"][1:] + (f", {told['when']}" if "when" in told else "")
    if device == "Any, by counting":
        device = "Counted, not run"
    title = f"{device}: {size}, random weights"
    # a heading would not lie within what is folded
    text = [f"**{title}**" if "when" in told else f"### {title}"]
    for name in (name for name in PARTS if name in told):
        text += PARTS[name](told[name])
    if "note" in told:
        text.append(told["note"])
    return [*text, f"Commit {told['commit']}, torch {told['versions']['torch']}."]


def _words(row: Mapping[str, Any]) -> str:
    words = [
        "fp32" if row["precision"] == "no" else row["precision"],
        "compiled" if row["compile"] else "eager",
    ]
    words += ["recomputed activations"] * bool(row.get("checkpointing"))
    words += [f"LoRA of rank {row.get('lora')}"] * bool(row.get("lora"))
    words += ["fused"] * bool(row.get("fused"))
    words += ["replayed"] * bool(row.get("cuda_graph"))
    return ", ".join(words)


def _gib(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _count(told: Mapping[str, Any]) -> list[str]:
    rows = [
        ("forward pass", f"{told['forward_gflop']:.1f}"),
        ("training step by eq. 1", f"{told['eq1_gflop']:.1f}"),
        ("eq. 3 on top of it", f"{told['eq3_gflop']:.1f}"),
    ]
    return [
        table(("per clip", "GFLOP"), rows),
        f"Eq. 3 adds {told['eq3_share']:.1%} to the operations of a step."
        f" {told['parameters'] / 1e6:.2f} M parameters with their gradients and Adam's moments take"
        f" {told['state_gib']:.1f} GiB in float32; activations come on top.",
        *_estimated(told.get("memory", ())),
    ]


def _estimated(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    batches, cards = (list(rows[0][name]) for name in ("peak_gib", "fits"))
    head = ("memory of a step with eq. 3, estimated", *(f"batch {batch}, GiB" for batch in batches))
    head += tuple(f"largest batch in {card} GiB" for card in cards)
    body = [
        (
            _words(row),
            *(f"{row['peak_gib'][batch]:.1f}" for batch in batches),
            *(str(row["fits"][card]) for card in cards),
        )
        for row in rows
    ]
    return [
        table(head, body),
        "Estimated by walking through a step with tensors that have no contents (`latentclap.memory`), as autocast"
        " would run it on a GPU; a GiB of each card stays free. A compiled step keeps less. A run warns before its"
        " first step where its batch will hardly fit.",
    ]


def _train(told: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            _words(row),
            str(row["batch"]),
            "yes" if row["loss"] else "no",
            *(
                (_rate(row), f"{row['share']:.1%}", _gib(row["gib"]))
                if "error" not in row
                else (_why(row), "", "")
            ),
        )
        for row in told["rows"]
    ]
    head = ("training", "batch", "eq. 3", "clips per second", "share of the peak", "GiB")
    laps = (
        "The median of three laps, and their range."
        if any("range" in row for row in told["rows"])
        else "One lap a row: differences of a few per cent, such as with and without eq. 3, mean nothing."
    )
    first = max((row.get("first_step_seconds", 0.0) for row in told["rows"] if row["compile"]), default=0.0)
    compiling = f" The first step of what is compiled took {first:.0f} s." if first else ""
    return [table(head, rows), f"{laps} {_peak(told)}{compiling}"]


def _rate(row: Mapping[str, Any]) -> str:
    told = f"{row['clips_per_second']:.1f}"
    return f"{told} ({row['range'][0]:.1f} to {row['range'][1]:.1f})" if "range" in row else told


def _why(row: Mapping[str, Any]) -> str:
    """Why a row has no figures."""
    return "failed" if row.get("failed") else "does not fit"


def _generate(told: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            _words(row),
            str(row["batch"]),
            f"{row['sampler']}, {row['steps']}",
            *(
                (f"{row['seconds']:.1f}" + " (scaled up)" * row["scaled"], f"{row['share']:.1%}")
                if "error" not in row
                else (_why(row), "")
            ),
        )
        for row in told["rows"]
    ]
    clips = next((row["clips"] for row in told["rows"] if "clips" in row), 0)
    head = (
        "generation with guidance",
        "batch",
        "sampler, steps",
        f"{clips} clips, seconds",
        "share of the peak",
    )
    return [table(head, rows), _peak(told)]


def _peak(told: Mapping[str, Any]) -> str:
    return f"The peak is this device's own matrix product: {told['peak_flops'] / 1e12:.3g} TFLOP/s."


#: how far a fast way may be from float32, as a multiple of how far plain bf16 autocast is: of mean loss difference,
#: and of the RMS of generated latents' difference
TOLERANCE = 2.0


def _agree(told: Mapping[str, Any]) -> list[str]:
    noise = told["loss"].get("bf16", {}).get("mean"), told["latents_rms"].get("bf16")
    rows = []
    for way, value in told["loss"].items():
        latents = told["latents_rms"].get(way)
        pairs = [(v, n) for v, n in zip((value["mean"], latents), noise, strict=True) if v is not None]
        within = "" if way == "bf16" or None in noise else all(v <= TOLERANCE * n for v, n in pairs)
        rows.append(
            (
                way,
                f"{value['largest']:.1e}",
                f"{value['mean']:.1e}",
                "–" if latents is None else f"{latents:.1e}",
                {"": "", True: "yes", False: "no"}[within],
            )
        )
    head = (
        f"against fp32, {told['steps']} steps of {told['batch']}",
        "loss, largest relative difference",
        "loss, mean difference",
        "latents, RMS",
        f"within {TOLERANCE:g} times bf16's own",
    )
    told_apart = [] if told.get("kernels", True) else [_NO_KERNELS]
    return [table(head, rows), *told_apart]


def _replays(told: Mapping[str, Any]) -> list[str]:
    names = {"kernel by kernel": "the same, started kernel by kernel", "plain": "diffusers' own UNet, eager"}
    rows = [
        (names.get(way, way), f"{value['largest']:.1e}", f"{value['mean']:.1e}")
        for way, value in told["against"].items()
    ]
    head = (
        f"{_words(told)}, batch {told['batch']}: {told['steps']} steps from the same weights, {told['replays']} of"
        " them replays; against",
        "loss, largest relative difference",
        "loss, mean difference",
    )
    return [table(head, rows)]


_NO_KERNELS = (
    "On a CPU the fused UNet takes torch's own operators in the place of its kernels, which the tests compare with"
    " double precision by Triton's interpreter."
)


def _memory(told: Mapping[str, Any]) -> list[str]:
    ways = {False: "", True: "recomputed activations"}
    rows = [(str(r["batch"]), ways[r["checkpointing"]], _gib(r["gib"])) for r in told["rows"]]
    fits = [
        (f"{card} GiB", *("–" if batch is None else str(batch) for batch in pair))
        for card, pair in told["fits"].items()
    ]
    return [
        table(("batch", "way", "peak GiB"), rows),
        table(("card", "largest batch", "with recomputed activations"), fits),
    ]


def _profile(told: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = list(dict.fromkeys(kind for row in told for kind in row["by_kind"]))
    names = [("generation, " if "sampler" in row else "training, ") + _words(row) for row in told]
    head = ("ms a step", *(f"{name}, batch {row['batch']}" for name, row in zip(names, told, strict=True)))
    rows = [(kind, *(f"{row['by_kind'].get(kind, 0.0):.1f}" for row in told)) for kind in kinds]
    rows += [("idle", *(f"{row['idle_ms']:.1f}" for row in told))]
    rows += [("**all**", *(f"{row['ms_per_step']:.1f}" for row in told))]
    return [table(head, rows), "Kernels by the profiler; all of a step by the clock, without it."]


def _compile(told: Mapping[str, float]) -> list[str]:
    return [
        f"Compilation: {told['first']:.0f} s, {told['cached']:.0f} s in a later process, from torch's cache."
    ]


#: part of a record -> its Markdown, in the page's order
PARTS: dict[str, Callable[[Any], list[str]]] = {
    "count": _count,
    "train": _train,
    "generate": _generate,
    "agree": _agree,
    "replays": _replays,
    "memory": _memory,
    "profile": _profile,
    "compile": _compile,
}
