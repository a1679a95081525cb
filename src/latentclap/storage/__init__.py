"""Systems on disk: finding, loading and saving them whole."""

from latentclap.checkpoints import resolve, shipped
from latentclap.storage.finding import ABOUT, checkpoint_files, is_original
from latentclap.storage.folding import fold
from latentclap.storage.loading import load_system
from latentclap.storage.parts import load_part, text_encoder_of
from latentclap.storage.saving import OWN, exchange, save_system

__all__ = [
    "ABOUT",
    "OWN",
    "checkpoint_files",
    "exchange",
    "fold",
    "is_original",
    "load_part",
    "load_system",
    "resolve",
    "save_system",
    "shipped",
    "text_encoder_of",
]
