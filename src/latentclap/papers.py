"""Numbers as published, with the place they stand at, so that notebooks can set them beside ours.

"Paper" is arXiv:2403.12182. Class order is `CLASSES` everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from latentclap.classes import CLASSES
from latentclap.errors import InputError


@dataclass(frozen=True)
class Table1Row:
    """One row of Table I: FAD per class as printed, with the printed average and standard deviation."""

    system: str
    fads: tuple[float, ...]
    average: float
    std: float

    @property
    def filtered(self) -> bool:
        """Whether the row's clips went through the post-filter."""
        return self.system.endswith("+filter")


#: Table I, all nine rows (FAD, 100 clips a class, against the organisers' VGGish statistics of the
#: evaluation set).
TABLE_1: tuple[Table1Row, ...] = (
    Table1Row("Real Audio", (3.19, 5.51, 5.02, 3.42, 6.24, 4.46, 4.43), 4.61, 1.09),
    Table1Row("LDM", (5.69, 10.24, 7.25, 5.11, 19.77, 9.75, 3.38), 8.74, 5.45),
    Table1Row("LDM+Tuning", (6.58, 10.31, 5.07, 4.7, 11.57, 9.59, 4.5), 7.47, 2.95),
    Table1Row("LDM+Latent", (4.54, 7.08, 5.6, 5.31, 16.14, 7.84, 3.16), 7.1, 4.28),
    Table1Row("LDM+Tuning+Latent", (5.91, 9.9, 4.51, 4.46, 7.3, 8.99, 4.55), 6.52, 2.26),
    Table1Row("LDM+filter", (4.11, 9.47, 5.2, 4.48, 23.45, 9.56, 3.4), 8.52, 7.05),
    Table1Row("LDM+Tuning+filter", (5.64, 9.91, 4.56, 4.93, 12.54, 8.86, 4.33), 7.25, 3.2),
    Table1Row("LDM+Latent+filter", (4.46, 8.24, 5.27, 4.71, 10.91, 8.83, 2.87), 6.47, 2.88),
    Table1Row("LDM+Tuning+Latent+filter", (6.24, 9.01, 4.4, 4.86, 10.7, 9.94, 4.24), 7.05, 2.76),
)

#: Models of the listening study, Table II's order.
MODELS: tuple[str, ...] = ("Ground Truth", "LDM+Tuning", "LDM+Tuning+Latent")
#: The two questions, 0 to 10 (section V-C).
QUESTIONS: tuple[str, ...] = ("quality", "relevance")

#: Table II: {question: mean of each of `MODELS`}.
TABLE_2: dict[str, tuple[float, float, float]] = {
    "quality": (5.55, 6.00, 6.40),
    "relevance": (6.03, 6.55, 7.03),
}

#: Means per class from the authors' public repository (karchkha/Latent-CLAP-subjective-evaluation, README):
#: {question: {class: mean of each of `MODELS`}}. The paper prints only their averages; raw ratings are not
#: public.
LISTENING_BY_CLASS: dict[str, dict[str, tuple[float, float, float]]] = {
    "quality": {
        "dog_bark": (4.92, 6.54, 6.84),
        "footstep": (5.76, 6.75, 7.15),
        "gunshot": (5.00, 5.18, 5.77),
        "keyboard": (4.71, 5.24, 5.83),
        "moving_motor_vehicle": (6.32, 6.56, 6.82),
        "rain": (5.71, 5.94, 6.21),
        "sneeze_cough": (6.44, 5.82, 6.21),
    },
    "relevance": {
        "dog_bark": (5.74, 7.53, 7.76),
        "footstep": (5.66, 6.64, 7.30),
        "gunshot": (5.74, 5.93, 6.37),
        "keyboard": (5.48, 5.48, 6.36),
        "moving_motor_vehicle": (6.06, 6.32, 6.80),
        "rain": (6.32, 6.85, 7.24),
        "sneeze_cough": (7.19, 7.07, 7.40),
    },
}


@dataclass(frozen=True)
class PublishedF:
    """An F test as printed: degrees of freedom, F, bound on p, partial eta squared; decimals as printed."""

    effect: str
    df1: float
    df2: float
    F: float
    p_below: float
    eta_p2: float
    df1_decimals: int
    df2_decimals: int
    eta_decimals: int


#: Section V-C: main effect of model in the mixed-design ANOVA, {question: test}.
ANOVA: dict[str, PublishedF] = {
    "quality": PublishedF("model", 1.9, 509.6, 115.3, 0.001, 0.3, 1, 1, 1),
    # printed as 522: one decimal like its neighbour, a trailing zero left out
    "relevance": PublishedF("model", 1.9, 522.0, 156.6, 0.001, 0.36, 1, 1, 2),
}

#: Section V-C: the study's design.
LISTENING_DESIGN: dict[str, int] = {
    "surveys": 7,
    "listeners_per_survey": 40,
    "models": 3,
    "items_per_model": 15,
    "scale_low": 0,
    "scale_high": 10,
}

#: Section V-A: mean CLAP similarity of generated audio and text, which names no post-filter.
SIMILARITY: dict[str, float] = {
    "LDM": 0.30,
    "LDM+Latent": 0.31,
    "LDM+Tuning": 0.65,
    "LDM+Tuning+Latent": 0.66,
}

#: Section V-A: average FAD improvement by the Latent CLAP loss, (without tuning, with tuning).
IMPROVEMENT: dict[str, float] = {"LDM+Latent": 1.64, "LDM+Tuning+Latent": 0.95}

#: Section IV-B: post-filter thresholds (cosine similarity).
THRESHOLDS: dict[str, float] = dict(zip(CLASSES, (0.2, 0.2, 0.2, 0.15, 0.75, 0.2, 0.2), strict=True))

#: Section IV-B and V: settings that the results depend on.
SETTINGS: dict[str, float | int] = {
    "guidance_scale": 2.0,
    "train_steps_N": 1000,
    "inference_steps_N": 200,
    "clips_per_class": 100,
    "epochs_table_1": 500,
    "epochs_fig_3": 100,
    "learning_rate": 3e-6,
    "lam_latent": 2000,
    "lam_tuning_latent": 1000,
}


def table_1() -> pd.DataFrame:
    """Table I as printed: index system; columns the seven classes, average, std."""
    rows = {row.system: [*row.fads, row.average, row.std] for row in TABLE_1}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*CLASSES, "average", "std"])
    return frame.rename_axis("system")


def table_2() -> pd.DataFrame:
    """Table II as printed: index model; columns quality, relevance."""
    return pd.DataFrame(TABLE_2, index=pd.Index(MODELS, name="model"))


def listening_by_class(question: str) -> pd.DataFrame:
    """The authors' means per class: index class; columns `MODELS`.

    Raises:
        InputError: the question is neither quality nor relevance.
    """
    if question not in LISTENING_BY_CLASS:
        raise InputError(f"unknown question {question!r}; the study asked {' and '.join(QUESTIONS)}")
    frame = pd.DataFrame.from_dict(LISTENING_BY_CLASS[question], orient="index", columns=list(MODELS))
    return frame.rename_axis("class")
