"""What a similarity on the listening page compares with: what real clips reach, with their prompt and with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentclap.classes import CLASSES, prompt
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

if TYPE_CHECKING:
    from latentclap.lab import Lab

#: Evaluation clips per class that are enough for a scale.
CLIPS = 20
_KEYS = {"judge", "embedded", "clips", "own", "other", "commit"}


def measure_similarity(lab: Lab, out: str | Path, *, clips: int = CLIPS) -> Path:
    """Write the cosines of evaluation clips with the prompt of their class and with those of the other classes.

    Args:
        lab: the bench of the profile and data that the listening page was made with.
        out: JSON file.
        clips: clips of each class, the first ones.
    """
    from latentclap.runs import commit

    own: list[float] = []
    other: list[float] = []
    for cls, waves in lab.waves("eval", clips).items():
        texts = [prompt(name) for name in CLASSES]
        pairs = np.repeat(waves, len(texts), axis=0), texts * len(waves)
        cosines = lab.system.similarity(*pairs).reshape(len(waves), len(texts))
        mine = CLASSES.index(cls)
        own += cosines[:, mine].tolist()
        other += np.delete(cosines, mine, axis=1).ravel().tolist()
    told = {
        "judge": lab.system.name,
        "embedded": not (lab.data_dir or lab.profile.data.folder),
        "clips": len(own),
        "own": _summary(own),
        "other": _summary(other),
        "commit": commit(),
    }
    write_json(out, told)
    return Path(out)


def _summary(values: Sequence[float]) -> dict[str, float]:
    from latentclap.stats import percentile_interval  # scipy and pandas: the page is written without them

    low, high = percentile_interval(values, 0.9)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def similarity_sentences(path: str | Path) -> list[str]:
    """Markdown for the listening page: what Real Audio is in this build, and what its similarities mean.

    Raises:
        InputError: there is no such file, or it is not what :func:`measure_similarity` writes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; python -m latentclap.book similarity writes it")
    told = read_json(path)
    if not isinstance(told, Mapping) or not told.keys() >= _KEYS:
        raise InputError(f"{path}: not what python -m latentclap.book similarity writes; run it again")
    kind = (
        "a procedural sound, made by this package and not recorded"
        if told["embedded"]
        else "a recording of the data folder that this book was built with; [notebook 00](notebooks/00_data.ipynb)"
        " names the licences, which hold for the files of this page, too"
    )
    return [
        f"In this build, *Real Audio* is {kind}.",
        "*Similarity* is the cosine between a clip and its prompt by the judging CLAP"
        f" (`{told['judge']}`). For scale, over {told['clips']} clips of the evaluation set: with their own prompt"
        f" {_words(told['own'])}, with the prompts of the other classes {_words(told['other'])}."
        f" Commit {told['commit']}.",
    ]


def _words(values: Mapping[str, Any]) -> str:
    return f"{values['mean']:.2f} on average (90 % lie between {values['low']:.2f} and {values['high']:.2f})"
