"""latentclap: an open reproduction of "Latent CLAP Loss for Better Foley Sound Synthesis"."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("latentclap")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["FoleySystem", "LatentCLAP", "LatentCLAPLoss", "__version__"]

# torch, diffusers and transformers take seconds to import: the command line's --help must not wait for them
_LAZY = {
    "FoleySystem": "latentclap.system",
    "LatentCLAP": "latentclap.latent_clap",
    "LatentCLAPLoss": "latentclap.losses",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
