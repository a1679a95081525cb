"""LoRA: fine-tuning of small adapters beside the UNet's frozen weights, and the file in which they travel.

An option; in the paper all of the UNet's weights train (IV-B). peft's layers learn, diffusers puts them in and merges
them, and the file is in diffusers' own format. What is ours: where adapters go, how they begin, and the note of which
base they are of.
"""

from latentclap.lora.adapter import Adapter
from latentclap.lora.files import ADAPTER, adapter_file, save_adapter
from latentclap.lora.layers import (
    TARGETS,
    adapter_parameters,
    add_adapters,
    base_digest,
    merge_adapters,
    take_adapters,
)

__all__ = [
    "ADAPTER",
    "TARGETS",
    "Adapter",
    "adapter_file",
    "adapter_parameters",
    "add_adapters",
    "base_digest",
    "merge_adapters",
    "save_adapter",
    "take_adapters",
]
