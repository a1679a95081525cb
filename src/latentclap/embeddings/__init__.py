"""Embeddings for FAD: what a clip is turned into before its distribution is compared.

All take a wave and its rate and give (windows, dim) float64. Three of them see VGGish's front end: windows
of one second every half second, each one log-mel patch of 96 frames by 64 bins.

=============== ============================= ======================================================
name            needs                         dim
=============== ============================= ======================================================
mel-statistics  nothing                       40
judge           the package's trained weights 64
vggish-dcase    torchvggish's weights file    128; comparable with the organisers' reference statistics
vggish-textbook torchvggish's weights file    128; resampled to 16 kHz as VGGish was trained
clap            a `FoleySystem`               512; one vector per clip
=============== ============================= ======================================================

The names are those of kinds. An embedding's own name says which weights too (judge-1a2b3c4d, clap-1a2b3c4d), as
statistics of other weights are not comparable; VGGish's does where they are not the published ones.
"""

from __future__ import annotations

from latentclap.embeddings.base import Embedding
from latentclap.embeddings.clap import CLAPEmbedding
from latentclap.embeddings.front_end import (
    DCASE_RATE,
    DCASE_SAMPLES,
    FRAME,
    FRAMES,
    HOP,
    MELS,
    N_FFT,
    RATE,
    STEP,
    WINDOW,
    dcase_scale,
    log_mel_patches,
    vggish_mel_matrix,
)
from latentclap.embeddings.judge import JudgeEmbedding, JudgeNet
from latentclap.embeddings.mel_statistics import MelStatistics
from latentclap.embeddings.registry import EMBEDDINGS, get_embedding
from latentclap.embeddings.vggish import VGGish, VGGishNet, load_report

__all__ = [
    "DCASE_RATE",
    "DCASE_SAMPLES",
    "EMBEDDINGS",
    "FRAME",
    "FRAMES",
    "HOP",
    "MELS",
    "N_FFT",
    "RATE",
    "STEP",
    "WINDOW",
    "CLAPEmbedding",
    "Embedding",
    "JudgeEmbedding",
    "JudgeNet",
    "MelStatistics",
    "VGGish",
    "VGGishNet",
    "dcase_scale",
    "get_embedding",
    "load_report",
    "log_mel_patches",
    "vggish_mel_matrix",
]
