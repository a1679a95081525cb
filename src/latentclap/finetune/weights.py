"""What fine-tuning changes, as a file: the UNet and the tuning layer, without the frozen parts."""

from __future__ import annotations

import copy
from pathlib import Path

from safetensors.torch import save_file

from latentclap.errors import InputError
from latentclap.files import atomic_path, load_tensors
from latentclap.system import FoleySystem, tuning_layer


def save_weights(system: FoleySystem, path: str | Path) -> None:
    """Write what fine-tuning changes, UNet and tuning layer, as float32 safetensors; see :func:`load_weights`."""
    state = {f"unet.{k}": v for k, v in system.unet.state_dict().items()}
    if system.tuning is not None:
        state |= {f"tuning.{k}": v for k, v in system.tuning.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)


def load_weights(system: FoleySystem, path: str | Path) -> FoleySystem:
    """A copy of a system with the UNet and the tuning layer of :func:`save_weights`, or none where that had none.

    Raises:
        InputError: the file is missing or damaged, or its weights do not fit the system's UNet.
    """
    state = load_tensors(path)
    tuned = copy.copy(system)
    tuned.unet = copy.deepcopy(system.unet)
    tuning = {k[7:]: v for k, v in state.items() if k.startswith("tuning.")}
    tuned.tuning = tuning_layer(system.embed_dim) if tuning else None
    try:
        tuned.unet.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("unet.")})
        if tuned.tuning is not None:
            tuned.tuning.load_state_dict(tuning)
            tuned.tuning.to(system.device)
    except RuntimeError as error:  # torch lists every weight: the first says enough
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise InputError(f"{path}: not weights of {system.name} ({first[:100]})") from None
    return tuned.eval()
