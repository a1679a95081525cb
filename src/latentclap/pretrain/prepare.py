"""What each stage of pretraining trains, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import JudgeNet
from latentclap.files import write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import size
from latentclap.pretrain import tasks
from latentclap.pretrain.condition import carry_condition, embeddings
from latentclap.pretrain.inputs import judge_patches, latents, mels
from latentclap.pretrain.widen import separate
from latentclap.pretrain.work import Work, cached, in_batches
from latentclap.system import FoleySystem
from latentclap.train import CHECKPOINT, GroupedBatches, Task, TensorBatches

#: clips of one class or family that come one after the other in CLAP's batches
CLAP_RUN = 8

#: noise in the latents that the decoder learns from by itself and against its critic, see ``tasks.DecoderTask``
DECODER_NOISE, CRITIC_NOISE = 0.2, 0.4

#: a task, its data, and the module whose weights the stage leaves
Prepared = tuple[Task, TensorBatches, nn.Module]


def clap_stage(work: Work) -> Prepared:
    """CLAP on (features, texts)."""
    system = work.system()
    extractor = system.feature_extractor

    def features(waves: Tensor) -> tuple[Tensor]:
        longest = extractor.nb_max_samples
        arrays = list(waves[:, :longest].numpy())
        rate = extractor.sampling_rate
        out = extractor(
            arrays, sampling_rate=rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt"
        )
        return (out["input_features"],)

    data = cached(
        work.folder / "clap" / "features.safetensors",
        lambda: {"features": in_batches(work, features, "CLAP features")[0]},
        work.key,
    )
    texts = [t for pair in work.corpus.texts() for t in pair]
    prompts = [prompt(c) for c in CLASSES]
    tokens = system.tokenizer(
        texts + prompts,
        padding="max_length",
        truncation=True,
        max_length=system.tokenizer.model_max_length,
        return_tensors="pt",
    )
    number = {t: i for i, t in enumerate(dict.fromkeys(texts + prompts))}
    columns = {
        "tokens": tokens["input_ids"].short(),
        "mask": tokens["attention_mask"].bool(),
        "text_id": torch.tensor([number[t] for t in texts + prompts]),
    }
    for name, column in columns.items():
        data[name] = column[: len(texts)].unflatten(0, (len(work.corpus), 2))
    others = {name: column[len(texts) :] for name, column in columns.items()}
    system.clap.requires_grad_(True)
    groups = {name: i for i, name in enumerate(sorted(set(work.corpus.cls)))}
    batches = GroupedBatches(data, [groups[c] for c in work.corpus.cls], CLAP_RUN)
    return tasks.ClapTask(system.clap, others=others), batches, system.clap


def vae_stage(work: Work) -> Prepared:
    """The VAE on crops of log-mels; a widened encoder's copies are told apart first."""
    system = work.system()
    system.vae.requires_grad_(True)
    # where only the decoder has been trained since it was widened
    separate(system.vae.encoder)
    task = tasks.VAETask(system.vae, crop_frames=min(128, system.frames))
    return task, TensorBatches({"mel": mels(work)}), system.vae


def vae_decoder_stage(work: Work, noise: float = DECODER_NOISE, **weights: float) -> Prepared:
    """The VAE's decoder by itself, on latents that stay what they are; ``weights`` are the critic's."""
    work.need("vae")
    system = work.system()
    system.vae.decoder.requires_grad_(True)
    system.vae.post_quant_conv.requires_grad_(True)
    weights = weights or {"deceive_weight": 0.0, "feature_weight": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = tasks.DecoderTask(system.vae, crop_frames=min(128, system.frames), noise=noise, **weights)
    return task, TensorBatches({"mel": mels(work)}), system.vae


def vae_critic_stage(work: Work) -> Prepared:
    """The VAE's decoder against a discriminator of log-mels."""
    return vae_decoder_stage(work, CRITIC_NOISE, deceive_weight=0.1, feature_weight=0.5)


def vocoder_stage(work: Work, critic_weight: float = 0.0) -> Prepared:
    """The vocoder on crops of (log-mel, wave)."""
    system = work.system()
    # the mel's own statistics, as SpeechT5HifiGan could normalise by them, are left at 0 and 1 as in AudioLDM
    system.vocoder.requires_grad_(True)
    data = TensorBatches({"mel": mels(work), "wave": work.corpus.wave})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = tasks.VocoderTask(system.vocoder, critic_weight=critic_weight)
    return task, data, system.vocoder


def vocoder_critic_stage(work: Work) -> Prepared:
    """The vocoder against discriminators of spectrograms."""
    work.need("vocoder")
    return vocoder_stage(work, critic_weight=1.0)


def ldm_stage(work: Work) -> Prepared:
    """The base LDM by eq. 1 on audio and text embeddings."""
    data = latents(work)
    system = work.system()
    carry_from_start(work, system)
    # one audio embedding, the caption's and the prompt's: two texts to one audio
    E = torch.cat([data["E_audio"][:, None], data["E_text"]], dim=1)
    system.unet.requires_grad_(True)
    task = tasks.LDMTask(system.unet, system.encode_text([""])[0], system.schedule)
    return task, TensorBatches({"mean": data["mean"], "logvar": data["logvar"], "E": E}), system.unet


def carry_from_start(work: Work, system: FoleySystem, clips: int = 1000) -> None:
    """Turn the start's UNet to a CLAP that was trained on since; nothing to do where an LDM has begun here.

    Args:
        work: the training run.
        system: its system; the UNet is changed in place.
        clips: whose audio embeddings are compared, beside all texts.
    """
    folder = work.folder / "ldm"
    trained = work.result("ldm").is_file() or (folder / CHECKPOINT).is_file()
    if work.start is None or trained or not work.result("clap").is_file():
        return
    begun = FoleySystem.from_pretrained(work.start).to(work.device)
    if "unet" not in work.taken(system, begun):
        return
    waves = work.corpus.wave[:: max(1, len(work.corpus) // clips)]
    texts = sorted({t for pair in work.corpus.texts() for t in pair} | {""})
    share = carry_condition(system.unet, *(embeddings(s, waves, texts) for s in (begun, system)))
    write_json(folder / "condition.json", {"explained": share, "clips": len(waves), "texts": len(texts)})


def latent_clap_stage(work: Work) -> Prepared:
    """φ by eq. 2; it begins with the start's where there is one of that shape, also for a CLAP trained on since."""
    data = latents(work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        phi = LatentCLAP(**size(work.size)["phi"])
    if work.start and (work.start / "latent_clap").is_dir():
        begun = LatentCLAP.from_pretrained(work.start / "latent_clap").float()
        if begun.config == phi.config:
            phi.load_state_dict(begun.state_dict())
    return tasks.LatentCLAPTask(phi), TensorBatches({k: data[k] for k in ("mean", "logvar", "E_audio")}), phi


def judge_stage(work: Work) -> Prepared:
    """The evaluation network on the seven classes; independent of CLAP, and never seen by a generator."""
    classes = {name: i for i, name in enumerate(CLASSES)}
    work = replace(work, corpus=work.corpus.subset(lambda i: work.corpus.cls[i] in classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = JudgeNet()
    (patches,) = in_batches(work, lambda w: (judge_patches(w),), "patches")
    label = torch.tensor([classes[c] for c in work.corpus.cls])
    # classes count alike however many clips they have
    weight = len(label) / (len(CLASSES) * label.bincount(minlength=len(CLASSES)).clamp(min=1).float())[label]
    return (
        tasks.JudgeTask(judge),
        TensorBatches({"patches": patches, "label": label, "weight": weight}),
        judge,
    )


#: name of a stage -> what prepares it
MAKERS: dict[str, Callable[[Work], Prepared]] = {
    "clap": clap_stage,
    "vae": vae_stage,
    "vae_decoder": vae_decoder_stage,
    "vae_critic": vae_critic_stage,
    "vocoder": vocoder_stage,
    "vocoder_critic": vocoder_critic_stage,
    "ldm": ldm_stage,
    "latent_clap": latent_clap_stage,
    "judge": judge_stage,
}
