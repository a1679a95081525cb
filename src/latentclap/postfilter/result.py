"""What a post-filter gave and what it cost."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentclap.errors import InputError
from latentclap.files import atomic_path


@dataclass
class FilterResult:
    """Filtered clips and what they cost.

    Attributes:
        waves: (len(classes) * n, samples) float32, classes in the order asked for.
        scores: (len(classes) * n,) similarity of each returned clip.
        accepted: (len(classes) * n,) True where the filter passed the clip; False: best of what was seen.
        classes: the order.
        generated_count: {class: clips generated}.
        tries: {class: (n,) tries used by each clip}.
        exhausted: {class: clips that used up their tries}.
        seconds: {class: wall-clock seconds of generation and scoring}.
        preset: name of the filter.
    """

    waves: np.ndarray
    scores: np.ndarray
    accepted: np.ndarray
    classes: tuple[str, ...]
    generated_count: dict[str, int]
    tries: dict[str, np.ndarray]
    exhausted: dict[str, int]
    seconds: dict[str, float]
    preset: str

    @property
    def per_clip(self) -> float:
        """Clips generated for each clip returned: the factor by which post-filtering slows generation."""
        return sum(self.generated_count.values()) / len(self.waves)

    def table(self) -> pd.DataFrame:
        """One row a class: clips returned and generated, tries, acceptance rates, exhausted, similarity,
        seconds.

        ``accepted_per_try`` is the share of tries whose best candidate passed.
        """
        rows = []
        n = len(self.waves) // len(self.classes)
        for i, cls in enumerate(self.classes):
            part = slice(i * n, (i + 1) * n)
            rows.append(
                {
                    "class": cls,
                    "clips": n,
                    "generated": self.generated_count[cls],
                    "per_clip": self.generated_count[cls] / n,
                    "tries": int(self.tries[cls].sum()),
                    "accepted_per_try": float(self.accepted[part].sum() / self.tries[cls].sum()),
                    "exhausted": self.exhausted[cls],
                    "similarity": float(self.scores[part].mean()),
                    "seconds": self.seconds[cls],
                }
            )
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able cost and scores, without the waves."""
        return {
            "preset": self.preset,
            "generated_per_clip": self.per_clip,
            "seconds": sum(self.seconds.values()),
            "classes": {row.pop("class"): row for row in self.table().to_dict("records")},
        }

    def save(self, path: str | Path) -> None:
        """Write everything to an npz file, whole or not at all."""
        per_class = {
            "generated_count": [self.generated_count[c] for c in self.classes],
            "exhausted": [self.exhausted[c] for c in self.classes],
            "seconds": [self.seconds[c] for c in self.classes],
            "tries": np.stack([self.tries[c] for c in self.classes]),
        }
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                waves=self.waves,
                scores=self.scores,
                accepted=self.accepted,
                classes=np.array(self.classes),
                preset=np.array(self.preset),
                **{k: np.asarray(v) for k, v in per_class.items()},
            )

    @classmethod
    def load(cls, path: str | Path) -> FilterResult:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: it is damaged, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                names = tuple(str(c) for c in data["classes"])
                return cls(
                    waves=data["waves"],
                    scores=data["scores"],
                    accepted=data["accepted"],
                    classes=names,
                    preset=str(data["preset"]),
                    generated_count=dict(zip(names, data["generated_count"].tolist(), strict=True)),
                    exhausted=dict(zip(names, data["exhausted"].tolist(), strict=True)),
                    seconds=dict(zip(names, data["seconds"].tolist(), strict=True)),
                    tries=dict(zip(names, data["tries"], strict=True)),
                )
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: damaged ({reason}); delete it, and it is made again") from None

    def by_class(self) -> dict[str, np.ndarray]:
        """{class: (n, samples)}."""
        return dict(zip(self.classes, np.split(self.waves, len(self.classes)), strict=True))
