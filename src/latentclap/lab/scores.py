"""The experiment's bench with the scores of what it generated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import Embedding, get_embedding
from latentclap.evaluate import EvalResult, evaluate
from latentclap.finetune import FinetuneConfig
from latentclap.lab.clips import Clips
from latentclap.measure import heldout_losses, summarise


@dataclass
class Lab(Clips):
    """The experiment's bench for a profile and a data folder.

    What it makes goes to runs/<profile>, where a second bench of the same profile, data and code finds it.
    """

    @cached_property
    def embedding(self) -> Embedding:
        """The FAD embedding of the profile."""
        section = self.profile.evaluate
        options: dict[str, Any] = {}
        if section.embedding.startswith("vggish"):
            options["weights"] = section.vggish
        elif section.embedding == "clap":
            options["system"] = self.system  # the pretrained one, whatever is scored: all share its CLAP
        return get_embedding(section.embedding, **options)

    @cached_property
    def reference(self) -> Any:
        """The FAD reference: the organisers' statistics where the profile names them, else the eval clips."""
        if self.profile.evaluate.reference:
            return self.profile.evaluate.reference
        return self.waves("eval")

    def fad(self, generated: dict[str, np.ndarray], *, seed: int = 0) -> EvalResult:
        """FAD per class against the evaluation set, with bootstrap intervals over clips; of the first 4 s of each."""
        return self._evaluate(generated, seed)

    def _evaluate(self, clips: dict[str, Any], seed: int) -> EvalResult:
        return evaluate(
            clips,
            self.reference,
            self.embedding,
            sr=self.system.sampling_rate,
            n_boot=self.profile.evaluate.n_boot,
            seed=seed,
        )

    def fad_real(self, n: int | None = None, *, seed: int = 0) -> EvalResult:
        """FAD of the first n development clips of each class: Table I's first row.

        Against the organisers' statistics the files are taken as they lie on disk, as their tool takes them: through
        the model's 16 kHz they would lose what VGGish hears above 8 kHz, since that tool never resamples.
        """
        if not self.profile.evaluate.reference:
            return self.fad(self.waves("dev", n), seed=seed)
        files = {c: [clip.path for clip in clips] for c in CLASSES if (clips := self.clips("dev", c, n))}
        return self._evaluate(files, seed)

    def score_point(
        self, config: FinetuneConfig, *, clips_per_class: int = 0, force: bool = False
    ) -> dict[str, Any]:
        """Fine-tune a point of a sweep and score it: held-out eq. 1 and 3 and, with generated clips, average FAD.

        Args:
            config: the point; its seed is that of the generated clips too.
            clips_per_class: generated clips per class; 0 leaves FAD out.
            force: train again.

        Returns:
            What ``measure.summarise`` tells of the losses, and fad and fad_name with generated clips.
        """
        point, sweep = self.point(config, force=force), self.profile.sweep
        losses = heldout_losses(
            self.load(point),
            self.phi,
            self.cache("eval"),
            clips=sweep.heldout_clips,
            levels=sweep.heldout_levels,
        )
        scores: dict[str, Any] = summarise(losses)
        if clips_per_class:
            fad = self.fad(self.generate(point, clips_per_class, seed=config.seed), seed=config.seed)
            scores |= {"fad": fad.average, "fad_name": fad.name}
        return scores

    def similarity(self, generated: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Cosine similarity of each clip with its class prompt by the judging CLAP (V-A)."""
        return {c: self.system.similarity(w, [prompt(c)] * len(w)).tolist() for c, w in generated.items()}
