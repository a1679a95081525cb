"""What the checks hold ours against: recorded fixtures, files in the original format, and laion_clap itself."""

import contextlib
import copy
import importlib.metadata
import json
import sys
import types
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import recipe
import torch

HERE = Path(__file__).parent


@cache
def fixture(name):
    """(arrays, versions) that make_fixtures.py recorded."""
    with np.load(HERE / f"{name}.npz") as archive:
        arrays = dict(archive)
    return arrays, str(arrays.pop("versions"))


def version(*names):
    """'name version, ...' of packages in this environment."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def original_state(size):
    """The state dict of an original AudioLDM model with the recipe's weights."""
    arrays, _ = fixture(f"audioldm_{size}")
    entries = json.loads(str(arrays["names"]))
    made = recipe.weights({name: shape for name, (shape, _) in entries.items()})
    state = {
        name: torch.from_numpy(made[name])
        if name in made
        else torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, (shape, dtype) in entries.items()
    }
    state["scale_factor"] = torch.tensor(recipe.SCALE_FACTOR)
    state["betas"] = torch.from_numpy(arrays["betas"])
    return state


def meta_state(size):
    """The same names and shapes without numbers, but for the two entries that are settings."""
    arrays, _ = fixture(f"audioldm_{size}")
    entries = json.loads(str(arrays["names"]))
    state = {n: torch.empty(s, dtype=getattr(torch, d), device="meta") for n, (s, d) in entries.items()}
    return state | {
        "scale_factor": torch.tensor(recipe.SCALE_FACTOR),
        "betas": torch.from_numpy(arrays["betas"]),
    }


def write_ckpt(path, state, **more):
    """A file as Lightning writes it."""
    torch.save({"epoch": 0, "global_step": 1, "state_dict": state, **more}, path)
    return path


# ------------------------------------------------------------------------------------------ laion_clap


@cache
def laion_modules():
    """laion_clap's model code without the package's own import, which asks the network for tokenizers."""
    spec = importlib.util.find_spec("laion_clap")
    if spec is None:
        import pytest

        pytest.skip("laion-clap is not installed (extra [paper])")
    folder = spec.submodule_search_locations[0]
    sys.path.insert(0, folder)
    try:
        from clap_module import htsat, model, pann_model
    finally:
        sys.path.remove(folder)
    configs = Path(folder) / "clap_module" / "model_configs"
    return types.SimpleNamespace(model=model, htsat=htsat, pann=pann_model, configs=configs)


def laion_clap(amodel, text_sizes):
    """laion_clap's own CLAP with the recipe's weights: HTSAT audio and a RoBERTa of the given sizes.

    RoBERTa is transformers', as in the original; only its sizes and weights do not come from the network.
    """
    return _laion_clap(amodel, tuple(text_sizes.items()))


@lru_cache(maxsize=1)
def _laion_clap(amodel, text_sizes):
    from transformers import RobertaConfig, RobertaModel

    laion = laion_modules()
    sizes = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
    config = RobertaConfig(num_attention_heads=12, **dict(text_sizes), **sizes)
    settings = json.loads((laion.configs / f"{amodel}.json").read_text())
    settings["text_cfg"]["model_type"] = "roberta"
    roberta = types.SimpleNamespace(from_pretrained=lambda _: RobertaModel(config))
    with _patched(laion.model, "RobertaModel", roberta), without_random_numbers():
        model = laion.model.CLAP(**settings).eval()
    state = model.state_dict()
    made = recipe.weights({name: t.shape for name, t in state.items()})
    model.load_state_dict({n: torch.from_numpy(made[n]) if n in made else t for n, t in state.items()})
    return model


@contextlib.contextmanager
def without_random_numbers():
    """Build a module without its own start, which takes longer than its forward pass and is replaced at once."""
    with contextlib.ExitStack() as stack:
        for name in ("uniform_", "normal_", "erfinv_"):
            stack.enter_context(_patched(torch.Tensor, name, lambda tensor, *_, **__: tensor))
        yield


@contextlib.contextmanager
def _patched(module, name, value):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def laion_file(path, model, *, position_ids, prefix="module."):
    """Save a CLAP as LAION does: under "module.", beside an optimiser, with numpy scalars, position_ids or not."""
    state = dict(copy.copy(model.state_dict()))
    name = "text_branch.embeddings.position_ids"
    state.pop(name, None)
    if position_ids:
        state[name] = torch.arange(514)[None]
    content = {
        "epoch": np.int64(45),
        "name": "recipe",
        "state_dict": {prefix + n: t for n, t in state.items()},
        "loss": np.float64(0.5),
    }
    torch.save(content, path)
    return path
