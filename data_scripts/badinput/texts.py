"""Profiles, tables and notebooks with one fault each."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from badinput.material import Shelf, add, material
from latentclap.classes import CLASSES
from latentclap.papers import MODELS


def _file(key: str, name: str, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    add(key, lambda path, _: path.write_bytes(data), name)


# --- profiles -----------------------------------------------------------------------------------------------

_JSON = json.dumps({"finetune": {"epochs": 3}})
_file("json_profile", "profile.json", _JSON)
for _key, _text in {
    "json_in_toml": _JSON,
    "cut_toml": "[finetune\nepochs = 3\n",
    "unknown_section": "[finetunes]\nepochs = 3\n",
    "unknown_key": "[finetune]\nepoch = 3\n",
    "wrong_type": '[finetune]\nepochs = "three"\n',
    "half_epoch": "[finetune]\nepochs = 2.5\n",
    "one_number": "[sweep]\nlams = 1000\n",
    "no_table": "finetune = 3\n",
    "about_number": "about = 3\n",
    "zero_steps": "[generate]\nsteps = 0\n",
    "many_steps": "[generate]\nsteps = 5000\n",
    "negative_guidance": "[generate]\nguidance_scale = -1.0\n",
    "nan_lr": "[finetune]\nlr = nan\n",
    "zero_batch": "[finetune]\nbatch_size = 0\n",
    "whole_dev": "[data]\ndev_fraction = 1.5\n",
    "no_clips": "[data]\ndev_per_class = 0\n",
    "far_level": "[latent_clap]\nnoise_levels = [0, 2000]\n",
    "unknown_sampler": '[generate]\nsampler = "euler"\n',
    "unknown_reading": '[finetune]\nreading = "x1"\n',
    "unknown_weighting": '[finetune]\nweighting = "papr"\n',
    "unknown_embedding": '[evaluate]\nembedding = "openl4"\n',
    "unknown_postfilter": '[evaluate]\npostfilter = "strict"\n',
    "no_vggish": '[evaluate]\nembedding = "vggish-dcase"\n',
    "empty_sweep": "[sweep]\nseeds = []\n",
}.items():
    _file(_key, "profile.toml", _text)
_file("latin_toml", "profile.toml", 'about = "\u00e9"\n'.encode("latin-1"))

# --- configurations of a training -----------------------------------------------------------------------------


def _train(profile: str = "quick", cache: str = "cache", more: str = "") -> str:
    lines = [f'{key} = "{value}"' for key, value in (("profile", profile), ("cache", cache)) if value]
    return "\n".join([*lines, 'folder = "run"', more]) + "\n"


for _key, _text in {
    "train_no_cache": _train(cache=""),
    "train_unknown_key": _train(more="epochs = 3"),
    "train_unknown_part": _train(more='part = "judge"'),
    "train_wrong_type": _train(more='[finetune]\nlam = "much"'),
    "train_unknown_profile": _train(profile="nope"),
    "train_absent_cache": _train(),
}.items():
    _file(_key, "train.toml", _text)

# --- ratings ------------------------------------------------------------------------------------------------


def _ratings(*, leave_out: str = "", quality: str = "5", first_class: str = CLASSES[0]) -> str:
    """Two raters a class who rate every model once; ``leave_out`` is a model that the first rater skips."""
    lines = ["rater,class,model,item,quality,relevance"]
    for c, r, model in itertools.product(CLASSES, range(2), MODELS):
        if model != leave_out or r or c != CLASSES[0]:
            cls, given = (first_class, quality) if len(lines) == 1 else (c, r + 4)
            lines.append(f"{c}-{r},{cls},{model},0,{given},{r + 5}")
    return "\n".join(lines) + "\n"


#: two raters of a class and of systems that nobody else rated
_OF_OTHERS = "".join(f"door-{r},door_slam,{model},0,{r + 4},{r + 5}\n" for r in range(2) for model in "AB")
for _key, _text in {
    "ratings_columns": "rater,class,quality\na,rain,3\n",
    "ratings_words": _ratings(quality="good"),
    "ratings_gap": _ratings(quality=""),
    "ratings_model": _ratings(leave_out=MODELS[1]),
    "ratings_no_class": _ratings(first_class=""),
    "ratings_two_surveys": _ratings() + _OF_OTHERS,
    "ratings_header": "rater,class,model,item,quality,relevance\n",
    "ratings_empty": "",
}.items():
    _file(_key, "ratings.csv", _text)
_file("survey_key", "key.csv", "clip,class,model,item,file\n0000000a,rain,LDM,0,a.wav\n")
_file(
    "survey_answers",
    "answers.csv",
    "study,rater,clip,class,quality,relevance,order,plays,when\ns,a,0000000b,rain,5,5,1,1,2026-01-01T00:00:00.000Z\n",
)
_file("ratings_binary", "ratings.csv", bytes(range(256)) * 4)

# --- files of the book --------------------------------------------------------------------------------------

_file("text_notebook", "notebook.ipynb", "no notebook\n")
_file(
    "fresh_notebook",
    "notebook.ipynb",
    json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
)
_file("text_json", "file.json", "no JSON\n")
_file("number_json", "file.json", "3\n")


# --- runs of notebooks ----------------------------------------------------------------------------------------


def _run(path: Path, provenance: str) -> None:
    folder = path / "quick" / "03_finetune" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"after_ddpm": 0.0664}))
    (folder / "provenance.json").write_text(provenance)


_PROVENANCE = {"notebook": "03_finetune", "profile": "quick", "parameters": {"lam": 500.0}}


@material()
def past_runs(path: Path, _: Shelf) -> None:
    """Runs of notebooks: one of notebook 03."""
    _run(path, json.dumps(_PROVENANCE))


@material()
def damaged_runs(path: Path, _: Shelf) -> None:
    """Runs of notebooks, the only one with a record that was cut."""
    _run(path, json.dumps(_PROVENANCE)[:20])
