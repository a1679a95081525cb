"""Untrained systems by size: the mini family's architecture, and a tiny one for tests.

Every size is a dictionary of keyword arguments for the standard classes, so that a width is changed in one place.
The paper's own size is not here: it comes from the checkpoint audioldm-m-full.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any

import torch

from latentclap.checkpoints import Sampling
from latentclap.errors import InputError
from latentclap.storage import text_encoder_of
from latentclap.system import FoleySystem

_VOCODER = {
    "model_in_dim": 64,
    "sampling_rate": 16000,
    # x160 = one hop, as AudioLDM's 16 kHz HiFi-GAN (facts A6)
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "normalize_before": False,
}
_CLAP_FRONT_END = {
    "sampling_rate": 16000,
    "fft_window_size": 512,
    "max_length_s": 4,
    "frequency_min": 50,  # the class's default is 0
    "frequency_max": 8000,
    "truncation": "rand_trunc",  # the class's default is fusion, with four channels
    "padding": "repeatpad",
}

#: Sizes: frames is a multiple of 32 = VAE ratio 4 x UNet stride 8.
SIZES: dict[str, dict[str, Any]] = {
    "mini": {
        "frames": 416,
        # small as it is, this vocoder smears harmonics that the log-mel still tells (see the model card)
        # ten iterations come nearer to a true log-mel than Griffin-Lim; with more, generated sneezes get worse
        "polish": 10,
        # by the quality-and-steps curves of these weights (see the book's model card)
        "sampling": Sampling("dpmsolver++", 12, 5.0),
        "unet": {"block_out_channels": (32, 64, 96, 128), "attention_head_dim": 4},
        "vae": {"block_out_channels": (32, 64, 128)},
        "vocoder": {
            "upsample_initial_channel": 160,
            # three stages instead of five, so that 20 channels are left at 16 kHz and not 5
            "upsample_rates": [8, 5, 4],
            "upsample_kernel_sizes": [16, 11, 8],
            "resblock_kernel_sizes": [3, 7],
            "resblock_dilation_sizes": [[1, 3], [1, 3]],
        },
        "clap_audio": {
            "spec_size": 128,
            "num_mel_bins": 32,
            "window_size": 4,
            "patch_embeds_hidden_size": 48,
            "hidden_size": 192,
            "depths": [1, 1, 2],
            "num_attention_heads": [2, 4, 8],
        },
        "clap_hop": 128,  # 501 frames of 4 s, within spec_size^2 / num_mel_bins = 512
        "clap_text": {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256},
        "vocabulary": 1200,
        "phi": {"width": 32},
    },
    "tiny": {
        "frames": 64,
        "unet": {"block_out_channels": (8, 16), "attention_head_dim": 2},
        "vae": {"block_out_channels": (8, 8, 8)},
        "vocoder": {
            "upsample_initial_channel": 32,
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1]],
        },
        "clap_audio": {
            "spec_size": 64,
            "num_mel_bins": 16,
            "window_size": 4,
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
        },
        "clap_hop": 256,
        "clap_text": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16},
        "vocabulary": 400,
        "phi": {"width": 4},
    },
}


def size(name: str) -> dict[str, Any]:
    """Return a size's configuration.

    Raises:
        InputError: there is no such size.
    """
    if name not in SIZES:
        raise InputError(f"unknown model size {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]


def build_unet(config: dict[str, Any]) -> torch.nn.Module:
    """AudioLDM's UNet at another width: FiLM by class embedding, self-attention in the two deepest levels."""
    from diffusers import UNet2DConditionModel

    channels = config["unet"]["block_out_channels"]
    levels = len(channels)
    attention = [i >= max(1, levels - 2) for i in range(levels)]
    return UNet2DConditionModel(
        sample_size=config["frames"] // 4,
        in_channels=8,
        out_channels=8,
        layers_per_block=1,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=list(channels),
        class_embed_type="simple_projection",
        class_embeddings_concat=True,
        projection_class_embeddings_input_dim=512,
        norm_num_groups=8,
        **config["unet"],
    )


def audioldm_unet(width: int = 192) -> torch.nn.Module:
    """AudioLDM's own UNet with random weights: width 128 (S), 192 (M, the paper's: 415.95 M parameters) or 256 (L).

    Levels of 1, 2, 3 and 5 times the width, two residual blocks each, self-attention from the second level on with
    32 channels a head (L: 64); conditioned on 512 numbers through FiLM (facts A5).
    """
    from diffusers import UNet2DConditionModel

    channels = [width * k for k in (1, 2, 3, 5)]
    head = 64 if width >= 256 else 32
    return UNet2DConditionModel(
        sample_size=256,
        in_channels=8,
        out_channels=8,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
        up_block_types=["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
        mid_block_type="UNetMidBlock2DCrossAttn",
        attention_head_dim=[c // head for c in channels],
        cross_attention_dim=channels,
        class_embed_type="simple_projection",
        class_embeddings_concat=True,
        projection_class_embeddings_input_dim=512,
    )


def build_vae(config: dict[str, Any]) -> torch.nn.Module:
    """The VAE over log-mels (B, 1, T, 64): ratio 4, 8 latent channels, no attention (facts A3)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        mid_block_add_attention=False,
        **config["vae"],
    )


def build_vocoder(config: dict[str, Any]) -> torch.nn.Module:
    """HiFi-GAN's generator as transformers has it, x160."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**(_VOCODER | config["vocoder"])))


def build_clap(config: dict[str, Any], vocabulary: int) -> tuple[torch.nn.Module, Any]:
    """A small ClapModel, HTSAT-like audio tower and RoBERTa text tower into 512 dimensions, with its front end."""
    from transformers import (
        ClapAudioConfig,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapTextConfig,
    )

    audio, text = config["clap_audio"], config["clap_text"]
    audio_config = ClapAudioConfig(
        **audio,
        patch_size=4,
        patch_stride=[4, 4],
        num_hidden_layers=len(audio["depths"]),
        projection_dim=512,
        enable_fusion=False,
        drop_path_rate=0.0,
    )
    text_config = ClapTextConfig(
        **text,
        vocab_size=vocabulary,
        num_attention_heads=4,
        max_position_embeddings=80,
        projection_dim=512,
        type_vocab_size=1,
    )
    clap = ClapModel(
        ClapConfig(text_config=text_config.to_dict(), audio_config=audio_config.to_dict(), projection_dim=512)
    )
    return clap, ClapFeatureExtractor(
        feature_size=audio["num_mel_bins"], hop_length=config["clap_hop"], **_CLAP_FRONT_END
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, max_length: int = 64) -> Any:
    """Train RoBERTa's tokenizer (byte-level BPE) on captions.

    Args:
        texts: the captions.
        vocabulary: largest number of tokens, special ones included.
        max_length: tokens per text; all texts are padded to it.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts,
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )
    with tempfile.TemporaryDirectory() as folder:
        bpe.save_model(folder)
        tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=max_length)
    if len(tokenizer) <= 100:
        raise InputError(f"the captions gave only {len(tokenizer)} tokens: there are too few of them")
    return tokenizer


def random_system(name: str = "tiny", *, seed: int = 0, captions: Iterable[str] | None = None) -> FoleySystem:
    """An untrained system of a size, with random weights from a seed: for tests and as the start of training."""
    from diffusers import DDIMScheduler

    config = size(name)
    tokenizer = train_tokenizer(captions or _default_captions(), config["vocabulary"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clap, extractor = build_clap(config, len(tokenizer))
        unet, vae, vocoder = build_unet(config), build_vae(config), build_vocoder(config)
    # AudioLDM's schedule and sampler settings (facts A4)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return FoleySystem(
        text_encoder=text_encoder_of(clap),
        tokenizer=tokenizer,
        unet=unet,
        vae=vae,
        vocoder=vocoder,
        scheduler=scheduler,
        clap=clap,
        feature_extractor=extractor,
        frames=config["frames"],
        polish=config.get("polish"),
        sampling=config.get("sampling", Sampling()),
        name=f"{name} (random weights)",
    )


def _default_captions() -> list[str]:
    from latentclap.classes import CLASSES, prompt

    return [prompt(name) for name in CLASSES]
