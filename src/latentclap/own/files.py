"""The configuration of a fine-tuning, for ``python -m latentclap.train``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.files import write_text

if TYPE_CHECKING:
    from latentclap.finetune import FinetuneConfig
    from latentclap.own.run import Own

#: what ``python -m latentclap.train`` takes, and the profile that it names
TRAIN_FILE, PROFILE_FILE = "train.toml", "profile.toml"


def write_files(own: Own, config: FinetuneConfig) -> Path:
    """Write the configuration of a fine-tuning's training into its folder; return its path.

    Args:
        own: the fine-tuning.
        config: all values of the training.
    """
    model = {
        "system": about_path(own.model),
        "latent_clap": about_path(own.encoder()),
        "judge": about_path(own.judge),
    }
    told = "\n".join(f"{key} = {_toml(value)}" for key, value in model.items())
    profile = own.out / PROFILE_FILE
    write_text(profile, f"# written by latentclap finetune\n[model]\n{told}\n")
    values = "\n".join(f"{key} = {_toml(value)}" for key, value in asdict(config).items())
    top = {
        "profile": str(profile.resolve()),
        "part": "finetune",
        "cache": str(own.latents["train"].resolve()),
        "folder": str(own.out.resolve()),
    }
    head = "\n".join(f"{key} = {_toml(value)}" for key, value in top.items())
    write_text(
        own.out / TRAIN_FILE,
        "# written by latentclap finetune; on several GPUs:\n"
        f"#     accelerate launch -m latentclap.train {own.out / TRAIN_FILE}\n"
        f"{head}\n\n[finetune]\n{values}\n",
    )
    return own.out / TRAIN_FILE


def about_path(name: str) -> str:
    """A checkpoint's name for a file that is read from another folder: a folder's whole path, a name as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _toml(value: Any) -> str:
    # not escaped: of what is beyond 16 bits JSON makes two halves, which are no TOML
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
