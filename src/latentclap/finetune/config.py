"""What a fine-tuning run is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from latentclap.limits import check_values
from latentclap.profiles import FinetuneSection


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run.

    Attributes:
        lam: λ of eq. 4; 0 is the baseline, plain fine-tuning by eq. 1.
        tuning: train a tuning layer after the text CLAP encoder (III-A): the system's own where it has one. Without,
            a system's own is folded into the UNet.
        weighting: w(n) of eq. 3, see ``losses.step_weight``.
        reading: what φ is given, see ``losses.READINGS``.
        reduction: "mean" or "sum" over CLAP's dimensions.
        epochs: passes over the clips (the paper: 500; Fig. 3: 100), as whole steps: clips that do not fill a last
            step are left out.
        batch_size: clips per forward pass (not given in the paper).
        lr: Adam's learning rate (the paper: 3e-6).
        grad_clip: largest gradient norm; 0: off.
        ema_decay: average the weights; 0: off.
        drop: share of conditions replaced by the empty prompt's, for guidance (facts A4).
        seed: of order, noise and dropout.
        normalize: scale E_latent to unit length.
        clamp: clamp what φ is given to +-clamp; 0: off.
        checkpoint_seconds: time between checkpoints (see ``TrainConfig``); no effect on the result.
        grad_accum: forward passes per step of Adam: a step then has batch_size x grad_accum clips, in the memory of
            batch_size.
        lora_rank: rank of the adapters that train instead of the UNet's weights (``latentclap.lora``); 0: all weights
            train, as in the paper. Adapters want a larger ``lr`` than the paper's: see the book's page on LoRA.
    """

    lam: float = 0.0
    tuning: bool = False
    weighting: str = "paper"
    reading: str = "x0"
    reduction: str = "mean"
    epochs: int = 500
    batch_size: int = 8
    lr: float = 3e-6
    grad_clip: float = 1.0
    ema_decay: float = 0.0
    drop: float = 0.1
    seed: int = 0
    normalize: bool = False
    clamp: float = 0.0
    checkpoint_seconds: float = 20.0
    grad_accum: int = 1
    lora_rank: int = 0

    def __post_init__(self) -> None:
        check_values({f"finetune.{name}": value for name, value in asdict(self).items()}, "")

    @classmethod
    def of(cls, section: FinetuneSection, **changes: Any) -> FinetuneConfig:
        """A run with a profile's values, some of them changed.

        λ is the profile's own for the system with or without tuning layer, unless given.
        """
        values = {k: v for k, v in asdict(section).items() if k != "lam_tuning"} | changes
        if "lam" not in changes:
            values["lam"] = section.lam_tuning if changes.get("tuning") else section.lam
        return cls(**values)
