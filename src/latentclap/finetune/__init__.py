"""Fine-tuning by eq. 4: the paper's training, on cached latents and embeddings (III-D, IV-B).

Only the UNet and, where there is one, the tuning layer train; VAE, CLAP, vocoder and φ are frozen. Before it, eq. 2
trains φ.
"""

from latentclap.finetune.config import FinetuneConfig
from latentclap.finetune.encoder import train_latent_clap
from latentclap.finetune.run import finetune
from latentclap.finetune.task import FinetuneTask
from latentclap.finetune.weights import load_weights, save_weights

__all__ = [
    "FinetuneConfig",
    "FinetuneTask",
    "finetune",
    "load_weights",
    "save_weights",
    "train_latent_clap",
]
