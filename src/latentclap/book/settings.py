"""The paper's settings beside those of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from latentclap.audio import MODEL_RATE, PAPER_SAMPLES
from latentclap.lab import Lab
from latentclap.postfilter import load_preset
from latentclap.profiles import load_profile

NOT_GIVEN = "not given"


def settings_beside(lab: Lab, own: Mapping[str, object] | None = None) -> pd.DataFrame:
    """What the paper says about fine-tuning, generation and evaluation, with its section, beside what a run does.

    The paper's values are those of the profile ``paper``; what the paper leaves open is "not given".

    Args:
        lab: its profile and data are the run's.
        own: what the page's own parameters put in the place of the profile's values, by the name of the row.

    Raises:
        KeyError: a row that the table has not.
    """
    profile, paper = lab.profile, load_profile("paper")

    def row(what: str, section: str, key: str, source: str = "IV-B") -> tuple[str, ...]:
        values = [getattr(getattr(p, section), key) for p in (paper, profile)]
        return what, *(f"{v:g}" if isinstance(v, float) else str(v) for v in values), source

    dev = [len(lab.clips("dev", cls)) for cls in lab.dataset.classes]
    mine = profile.evaluate
    candidates = load_preset(mine.postfilter, mine.candidates).candidates.values()
    rows = [
        ("model", Path(paper.model.system).name, Path(profile.model.system).name, "IV-B"),
        ("length of a clip (s)", f"{PAPER_SAMPLES / MODEL_RATE:g}", f"{lab.system.seconds:g}", "IV-A"),
        ("clips", "recordings", lab.source, "IV-A"),
        ("development clips per class", "600 to 800", _range(dev), "IV-A"),
        row("epochs", "finetune", "epochs"),
        ("batch size", NOT_GIVEN, str(profile.finetune.batch_size), ""),
        row("learning rate of Adam", "finetune", "lr"),
        ("rank of LoRA adapters", "none", str(profile.finetune.lora_rank or "none"), "IV-B"),
        ("gradient clipped at norm", NOT_GIVEN, f"{profile.finetune.grad_clip:g}", ""),
        row("λ without tuning layer", "finetune", "lam"),
        row("λ with tuning layer", "finetune", "lam_tuning"),
        ("sampler", NOT_GIVEN, profile.generate.sampler, ""),
        row("sampling steps", "generate", "steps"),
        (
            "DDIM's η",
            NOT_GIVEN,
            f"{profile.generate.eta:g}" if profile.generate.sampler == "ddim" else "–",
            "",
        ),
        row("guidance (CFG weight)", "generate", "guidance_scale"),
        row("generated clips per class", "evaluate", "clips_per_class"),
        row("embedding of the FAD", "evaluate", "embedding", "IV-A"),
        ("trainings of each system", NOT_GIVEN, str(len(mine.seeds)), ""),
        ("post-filter: candidates per try", NOT_GIVEN, _range(candidates), ""),
        ("post-filter: tries per clip", NOT_GIVEN, f"at most {mine.max_tries}", ""),
    ]
    columns = ["what", "paper", f"this run, {profile.name}", "section"]
    table = pd.DataFrame(rows, columns=columns).set_index("what").rename_axis(None)
    for what, value in (own or {}).items():
        table.loc[[what], columns[2]] = f"{value:g}" if isinstance(value, float) else str(value)  # no new row
    return table


def _range(values: Iterable[int]) -> str:
    low, high = min(values := list(values)), max(values)
    return str(low) if low == high else f"{low} to {high}"
