"""Whether a folder is a whole system of the kind that is sampled here."""

from __future__ import annotations

from pathlib import Path

from latentclap.checkpoints.files import check_files, json_or_nothing, weight_files
from latentclap.checkpoints.settings import (
    INDEX,
    SETTINGS,
    clip_frames,
    own_sampling,
    polish_iterations,
)
from latentclap.errors import InputError

#: the parts without which no sound can be generated
SYSTEM_PARTS = ("unet", "vae", "vocoder", "scheduler", "tokenizer")
#: those of them that have weights
WEIGHTED = ("unet", "vae", "vocoder")


def check_system(folder: Path) -> None:
    """Look whether a folder is a whole system: its parts are there and none of their files is damaged.

    Only headers are read, so that a damaged checkpoint is known before torch is imported.

    Raises:
        InputError: a part is missing, a file of it is damaged, its scheduler is not AudioLDM's, or its index says
            what no index does.
    """
    missing = [part for part in SYSTEM_PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"{folder} is no AudioLDM system: {', '.join(missing)} is missing")
    told = json_or_nothing(folder / INDEX)
    if unknown := sorted(set(told) - SETTINGS):  # a misspelt one would be AudioLDM's own value
        raise InputError(
            f"{folder / INDEX}: {unknown[0]!r} is no setting of a system; there are {', '.join(sorted(SETTINGS))}"
        )
    if told.get("tuning") and not (folder / "tuning").is_dir():
        raise InputError(
            f"{folder} is to have a tuning layer, and tuning is missing; copy or download it again"
        )
    clip_frames(folder)
    polish_iterations(folder)
    own_sampling(folder)
    check_schedule(folder)
    for part in (*SYSTEM_PARTS, "clap", "text_encoder", "tuning"):
        if (folder / part).is_dir():
            check_files(folder / part)
        if part in WEIGHTED and not weight_files(folder / part):
            raise InputError(f"{folder / part}: no weights file; the checkpoint is not complete")


def check_schedule(folder: Path) -> None:
    """Look whether a system's scheduler is of the kind that AudioLDM is trained with, the only one sampled here.

    Raises:
        InputError: its betas are others, or none, or its UNet predicts something else than noise.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return
    # "linear" is what diffusers takes where the file does not say
    config = {"beta_schedule": "linear", **json_or_nothing(path)}
    needed = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    needed |= {"trained_betas": None, "rescale_betas_zero_snr": False}
    for key, value in needed.items():
        own = config.get(key, value)
        if own != value:
            raise InputError(
                f"{path}: {key}={str(own)[:40]} is not AudioLDM's, {value}; choose another checkpoint"
            )
    # diffusers' own, where the file does not say
    steps, *betas = (
        config.get(k, v)
        for k, v in (("num_train_timesteps", 1000), ("beta_start", 0.0001), ("beta_end", 0.02))
    )
    if type(steps) is not int or steps < 1:
        raise InputError(
            f"{path}: num_train_timesteps={str(steps)[:40]} is no number of steps; copy or download it again"
        )
    if any(type(beta) not in (int, float) or not 0 < beta < 1 for beta in betas) or betas[0] > betas[1]:
        told = ", ".join(str(beta)[:40] for beta in betas)
        raise InputError(
            f"{path}: beta_start and beta_end are {told}, and not between 0 and 1, the smaller first;"
            " copy or download it again"
        )
