"""Training from a configuration file, in one process or many: ``accelerate launch -m latentclap.train CONFIG``.

The notebooks train through ``latentclap.lab``; this is for caches that no notebook holds in memory and for several
GPUs or machines. Paths in the file are relative to the working directory.
"""

from __future__ import annotations

from latentclap.launch.command import HELP, app, complete, main, preview, train
from latentclap.launch.folder import TRAINED, noted
from latentclap.launch.run import Launch, check_precision
from latentclap.trainfile import TrainFile, finetune_config

__all__ = [
    "HELP",
    "TRAINED",
    "Launch",
    "TrainFile",
    "app",
    "check_precision",
    "complete",
    "finetune_config",
    "main",
    "noted",
    "preview",
    "train",
]
