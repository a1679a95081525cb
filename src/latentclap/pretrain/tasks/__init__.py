"""One task per part of the mini family.

Fine-tuning takes its random numbers from here, and a training of φ its task; the others make the shipped weights.
"""

from latentclap.pretrain.tasks.clap import ClapTask, contrastive
from latentclap.pretrain.tasks.draws import crop, normal, randint, uniform
from latentclap.pretrain.tasks.judge import JudgeTask
from latentclap.pretrain.tasks.latent_clap import LatentCLAPTask
from latentclap.pretrain.tasks.ldm import LDMTask, level_weight
from latentclap.pretrain.tasks.vae import DecoderTask, VAETask, mel_crop, mel_terms
from latentclap.pretrain.tasks.vocoder import RESOLUTIONS, VocoderTask, stft_loss

__all__ = [
    "RESOLUTIONS",
    "ClapTask",
    "DecoderTask",
    "JudgeTask",
    "LDMTask",
    "LatentCLAPTask",
    "VAETask",
    "VocoderTask",
    "contrastive",
    "crop",
    "level_weight",
    "mel_crop",
    "mel_terms",
    "normal",
    "randint",
    "stft_loss",
    "uniform",
]
