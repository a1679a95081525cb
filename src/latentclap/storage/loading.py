"""A system from its folder, or from a file of the original code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from latentclap.checkpoints import INDEX, check_system, clip_frames, own_sampling, polish_iterations, resolve
from latentclap.errors import InputError
from latentclap.storage.finding import is_original, tokenizer_beside
from latentclap.storage.folding import unfold
from latentclap.storage.judge import load_judge, tokenizer_in
from latentclap.storage.parts import load_clap, load_part, load_text_encoder, load_tokenizer

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


def load_system(cls: type[FoleySystem], name_or_path: str | Path, *, judge: str | Path | None) -> FoleySystem:
    """See :meth:`FoleySystem.from_pretrained`; on the CPU.

    Raises:
        InputError: nothing to load there; the message says what is missing.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import SpeechT5HifiGan

    if is_original(name_or_path):
        return _load_original(Path(name_or_path), judge)
    folder = resolve(name_or_path)
    check_system(folder)
    frames = clip_frames(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    own = folder / "clap" if (folder / "clap" / "config.json").is_file() else None
    if judge is not None:
        clap, extractor, words = load_judge(judge, tokenizer)
    elif own:
        clap, extractor = load_clap(own)
        words = tokenizer_in(own, clap)
    else:
        clap, extractor, words = None, None, None
    unet = load_part(UNet2DConditionModel, folder / "unet", torch_dtype=torch.float32)
    vae = load_part(AutoencoderKL, folder / "vae", torch_dtype=torch.float32)
    stride = 2 ** (len(unet.config.block_out_channels) + len(vae.config.block_out_channels) - 2)
    if frames % stride:
        raise InputError(
            f"{folder / INDEX}: frames={frames} is no multiple of {stride}, the stride of VAE and UNet"
        )
    tuning = None
    if (folder / "tuning").is_dir():
        tuning = unfold(unet, folder / "tuning" / "model.safetensors")
    return cls(
        text_encoder=load_text_encoder(folder, clap if judge is None else None),
        tokenizer=tokenizer,
        unet=unet,
        vae=vae,
        vocoder=load_part(SpeechT5HifiGan, folder / "vocoder", dtype=torch.float32),
        scheduler=load_part(DDIMScheduler, folder / "scheduler"),
        tuning=tuning,
        clap=clap,
        feature_extractor=extractor,
        judge_tokenizer=words,
        frames=frames,
        polish=polish_iterations(folder),
        sampling=own_sampling(folder),
        name=str(name_or_path),
    )


def _load_original(path: Path, judge: str | Path | None) -> FoleySystem:
    from latentclap.convert import convert_audioldm

    system = convert_audioldm(path, tokenizer=tokenizer_beside(path)).system
    if judge is not None:
        system.clap, system.feature_extractor, system.judge_tokenizer = load_judge(judge, system.tokenizer)
        system.eval()
    return system
