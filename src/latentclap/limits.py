"""What the values of a profile and of a notebook's parameters may be, so that a wrong one stops before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from latentclap.errors import InputError
from latentclap.profiles import Profile

_MANY = math.inf
#: of LoRA's adapters: with more than a layer's width they are no smaller than the layer, 960 in the paper's UNet
MOST_RANK = 1024
#: number -> least and largest value; a profile's are section.key, a notebook's parameters have no section
NUMBERS: dict[str, tuple[float, float]] = {
    "data.dev_per_class": (1, _MANY),
    "data.eval_per_class": (1, _MANY),
    "data.max_dev_per_class": (0, _MANY),
    "data.max_eval_per_class": (0, _MANY),
    "data.seed": (0, _MANY),
    "latent_clap.width": (1, _MANY),
    "latent_clap.epochs": (1, _MANY),
    "latent_clap.batch_size": (1, _MANY),
    "latent_clap.noise_levels": (0, 999),
    "finetune.epochs": (1, _MANY),
    "finetune.batch_size": (1, _MANY),
    "finetune.grad_clip": (0, _MANY),
    "finetune.ema_decay": (0, 1),
    "finetune.checkpoint_seconds": (0, _MANY),
    "finetune.drop": (0, 1),
    "finetune.lam": (0, _MANY),
    "finetune.lora_rank": (0, MOST_RANK),
    "finetune.lam_tuning": (0, _MANY),
    "generate.steps": (1, 1000),
    "generate.guidance_scale": (0, _MANY),
    "generate.eta": (0, 1),
    "generate.batch_size": (1, _MANY),
    "evaluate.clips_per_class": (2, _MANY),  # one clip has no interval over clips
    "evaluate.n_boot": (0, _MANY),
    "evaluate.candidates": (0, _MANY),
    "evaluate.max_tries": (1, _MANY),
    "evaluate.seeds": (0, _MANY),
    "sweep.lams": (0, _MANY),
    "sweep.epochs": (1, _MANY),
    "sweep.clips_per_class": (2, _MANY),
    "sweep.seeds": (0, _MANY),
    "sweep.ablation_epochs": (1, _MANY),
    "sweep.heldout_clips": (0, _MANY),
    "sweep.heldout_levels": (3, 1000),  # of fewer none lies below 200, where eq. 3's weight is
    # of notebooks, where 0 of most means the profile's
    "epochs": (0, _MANY),
    "clips_per_class": (0, _MANY),
    "clips": (0, _MANY),
    "items": (1, _MANY),
    "seed": (0, _MANY),
    "seeds": (0, _MANY),
    "lams": (0, _MANY),
    "lr": (0, 1),
    "lora_rank": (0, MOST_RANK),
}
#: numbers that lie between two, and at neither
BETWEEN = {"data.dev_fraction": (0, 1), "latent_clap.lr": (0, 1), "finetune.lr": (0, 1)}
#: numbers of the training loop and of its launcher that no profile has
TRAINING: dict[str, tuple[float, float]] = {
    "finetune.seed": (0, _MANY),
    "finetune.clamp": (0, _MANY),
    "finetune.grad_accum": (1, _MANY),
    "latent_clap.seed": (0, _MANY),
    "training.steps": (0, _MANY),
    "training.batch_size": (1, _MANY),
    "training.warmup_steps": (0, _MANY),
    "training.weight_decay": (0, _MANY),
    "training.beta1": (0, 1),
    "training.beta2": (0, 1),
    "training.grad_clip": (0, _MANY),
    "training.grad_accum": (1, _MANY),
    "training.ema_decay": (0, 1),
    "training.seed": (0, _MANY),
    "training.checkpoint_seconds": (0, _MANY),
    "training.log_every": (1, _MANY),
    "training.minutes": (0, _MANY),
    "minutes": (0, _MANY),
}
#: numbers that may be the least of their values, and not the largest
BELOW = (
    "finetune.drop",
    "finetune.ema_decay",
    "training.beta1",
    "training.beta2",
    "training.ema_decay",
)
#: lists that name trainings: one that stands there twice would count as two
DISTINCT = ("seeds", "evaluate.seeds", "sweep.seeds")
#: what has names of its own, in a profile and in a notebook, alone or as a list
NAMED = ("sampler", "embedding", "postfilter", "reading", "weighting", "reduction")
#: lists of a profile in which there must be something; a notebook's empty list means the profile's
FILLED = (
    "latent_clap.noise_levels",
    "sweep.lams",
    "sweep.seeds",
    "evaluate.seeds",
    "sweep.weightings",
    "sweep.readings",
)


def check_profile(profile: Profile) -> None:
    """Check every value of a profile.

    Raises:
        InputError: a number out of range or not finite, an empty list, or a name that nothing has.
    """
    where = f"profile {profile.name}: "
    tree = {k: v for k, v in profile.as_dict().items() if isinstance(v, Mapping)}
    values = {f"{section}.{key}": value for section, part in tree.items() for key, value in part.items()}
    for name in FILLED:
        if not values[name]:
            raise InputError(f"{where}{name} is empty; it needs at least one value")
    check_values(values, where)
    evaluation = profile.evaluate
    if evaluation.embedding.startswith("vggish") and not evaluation.vggish:
        raise InputError(
            f"{where}evaluate.embedding {evaluation.embedding} needs evaluate.vggish, a weights file"
        )


def check_values(values: Mapping[str, Any], where: str) -> None:
    """Check named values; those without a limit pass.

    Args:
        values: name -> value, or a list of values.
        where: what the message begins with.

    Raises:
        InputError: a number out of range or not finite, or a name that nothing has.
    """
    pairs = [
        (name, item)
        for name, value in values.items()
        for item in (value if isinstance(value, list | tuple) else [value])
    ]
    for name, item in pairs:  # numbers first: they need no import
        if isinstance(item, float | int) and not isinstance(item, bool):
            _number(name, item, where)
    for name in DISTINCT:
        given = list(values.get(name) or ())
        if twice := [item for item in given if given.count(item) > 1]:
            raise InputError(f"{where}{name}: {twice[0]} stands there twice; it would count as two trainings")
    if values.get("clips_per_class") == 1:
        raise InputError(f"{where}clips_per_class=1: one clip has no interval over clips; give 2 or more")
    for name, item in pairs:
        if isinstance(item, str) and (kind := name.rpartition(".")[2].removesuffix("s")) in NAMED:
            _name(name, item, _names()[kind], where)


def _number(name: str, value: float, where: str) -> None:
    low, high = NUMBERS.get(name) or BETWEEN.get(name) or TRAINING.get(name) or (-_MANY, _MANY)
    above = low < value if name in BETWEEN else low <= value
    below = value < high if name in BETWEEN or name in BELOW else value <= high
    if above and below and math.isfinite(value):
        return
    if name in BETWEEN:
        rule = f"between {low:g} and {high:g}"
    elif name in BELOW:
        rule = f"{low:g} or more and less than {high:g}"
    elif math.isfinite(low) and math.isfinite(high):
        rule = f"from {low:g} to {high:g}"
    else:
        rule = f"{low:g} or more" if math.isfinite(low) else "a finite number"
    raise InputError(f"{where}{name}={value:g}: must be {rule}")


def _name(name: str, value: str, known: Any, where: str) -> None:
    if callable(known):
        try:
            known(value)
        except ValueError as error:
            raise InputError(f"{where}{name}: {error}") from None
    elif value not in known:
        raise InputError(f"{where}{name}={value!r}: there are {', '.join(known)}")


@cache
def _names() -> dict[str, Collection[str] | Callable[[str], Any]]:
    """Kind of name -> the names, or what raises ValueError for one that it does not know."""
    import torch

    from latentclap.diffusion import SAMPLERS
    from latentclap.embeddings import EMBEDDINGS
    from latentclap.losses import READINGS, step_weight
    from latentclap.postfilter import PRESETS

    return {
        "sampler": SAMPLERS,
        "embedding": EMBEDDINGS,
        "postfilter": PRESETS,
        "reading": READINGS,
        "weighting": lambda kind: step_weight(torch.zeros(1, dtype=torch.long), kind),
        "reduction": ("mean", "sum"),
    }
