"""The stages of pretraining, in their order: each resumable, each with a time budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import JudgeNet, log_mel_patches
from latentclap.errors import InputError
from latentclap.files import weights_digest, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import size
from latentclap.pretrain import tasks
from latentclap.pretrain.condition import carry_condition, embeddings
from latentclap.pretrain.corpus import REAL
from latentclap.pretrain.whiten import principal_axes, whiten
from latentclap.pretrain.widen import separate
from latentclap.pretrain.work import Work, cached, in_batches, save_weights
from latentclap.system import FoleySystem
from latentclap.train import CHECKPOINT, GroupedBatches, Task, TensorBatches, TrainConfig, TrainResult, train


@dataclass(frozen=True)
class Stage:
    """How one stage is trained when nothing else is asked for."""

    steps: int
    batch_size: int
    lr: float
    ema_decay: float = 0.999
    weight_decay: float = 0.0
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.999


#: sized for a 2-core CPU overnight; on a GPU ask for more with --steps. The *_critic stages go on with the weights
#: of the stage before, against a discriminator; HiFi-GAN's betas (arXiv:2010.05646)
STAGES: dict[str, Stage] = {
    "clap": Stage(steps=3000, batch_size=48, lr=5e-4, weight_decay=0.01),
    "vae": Stage(steps=3000, batch_size=8, lr=1e-3),
    "vae_decoder": Stage(steps=3000, batch_size=8, lr=5e-4),
    "vae_critic": Stage(steps=3000, batch_size=8, lr=2e-4, beta1=0.8, beta2=0.99),
    "vocoder": Stage(steps=8000, batch_size=8, lr=8e-4),
    "vocoder_critic": Stage(steps=8000, batch_size=8, lr=2e-4, beta1=0.8, beta2=0.99),
    "ldm": Stage(steps=10000, batch_size=8, lr=4e-4),
    "latent_clap": Stage(steps=2500, batch_size=16, lr=1e-3),
    "judge": Stage(steps=3000, batch_size=16, lr=1e-3, weight_decay=0.01),
}

#: clips of one class or family that come one after the other in CLAP's batches
CLAP_RUN = 8

#: noise in the latents that the decoder learns from by itself and against its critic, see ``tasks.DecoderTask``
DECODER_NOISE, CRITIC_NOISE = 0.2, 0.4

#: a task, its data, and the module whose weights the stage leaves
Prepared = tuple[Task, TensorBatches, nn.Module]


# ------------------------------------------------------------------------------- tasks and their data


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


def mels(work: Work) -> Tensor:
    """Log-mels of the corpus (n, frames, 64), half precision, cached."""
    system = work.system()
    path = work.folder / "mel.safetensors"
    return cached(
        path,
        lambda: {"mel": in_batches(work, lambda w: (system.log_mel(w)[:, 0],), "log-mels")[0]},
        work.key,
    )["mel"]


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


def latents(work: Work) -> dict[str, Tensor]:
    """Posteriors and embeddings of the corpus: mean, logvar (n, C, T, F), E_audio (n, 512), E_text (n, 2, 512)."""
    work.need("vae", "clap")
    system = work.system()

    def posteriors() -> dict[str, Tensor]:
        mean, logvar = in_batches(work, lambda w: system.posterior(w.numpy()), "latents")
        return {"mean": mean, "logvar": logvar}

    def conditions() -> dict[str, Tensor]:
        (E_audio,) = in_batches(work, lambda w: (system.encode_audio(w.numpy()),), "E_audio", 32)
        texts = work.corpus.texts()
        unique = sorted({t for pair in texts for t in pair})
        E = torch.cat([system.encode_text(unique[i : i + 256]).cpu() for i in range(0, len(unique), 256)])
        row = {t: i for i, t in enumerate(unique)}
        E_text = torch.stack([E[[row[t] for t in pair]] for pair in texts])
        return {"E_audio": E_audio, "E_text": E_text.half()}

    # what makes a latent: the decoder may be trained on
    encoder = nn.ModuleList([system.vae.encoder, system.vae.quant_conv])
    # in two files: the slow half does not depend on CLAP, which may be trained on
    return {
        **cached(work.folder / "latents.safetensors", posteriors, f"{work.key} {weights_digest(encoder)}"),
        **cached(
            work.folder / "embeddings.safetensors", conditions, f"{work.key} {weights_digest(system.clap)}"
        ),
    }


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


def judge_patches(waves: Tensor) -> Tensor:
    """The judge's input for waves (b, samples) at 16 kHz: (b, windows, 96, 64)."""
    peak = waves.abs().amax(1, keepdim=True).clamp(min=1e-8)
    return torch.stack([torch.from_numpy(log_mel_patches(w)) for w in (waves / peak).numpy()])


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


def run_stage(
    name: str,
    work: Work,
    *,
    steps: int | None = None,
    minutes: float = 0.0,
    lr: float | None = None,
    seed: int = 0,
) -> TrainResult:
    """Train one stage, going on where it stopped, and leave its averaged weights in ``work.result(name)``.

    Args:
        name: a key of :data:`STAGES`.
        work: the folder, size and corpus.
        steps: optimiser steps in all; None takes the stage's own.
        minutes: stop after this time, with a checkpoint; 0 runs to the end.
        lr: learning rate; None takes the stage's own.
        seed: of order and noise.

    Raises:
        InputError: there is no such stage, or one that it builds on has left no weights.
    """
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}; there are {', '.join(STAGES)}")
    stage = STAGES[name]
    own = {"steps": steps or stage.steps, "lr": lr or stage.lr}
    config = TrainConfig(
        **(asdict(stage) | own),
        schedule="cosine",
        seed=seed,
        minutes=minutes,
        log_every=20,
        tensorboard=True,
    )
    task, data, product = MAKERS[name](work)
    folder = work.folder / name
    result = train(task, data, config, folder, description=f"pretraining {name}")
    save_weights(work.result(name), product)
    if name == "vae":
        whiten_vae(work)
    if name == "judge":
        # so that the folder can be named where a judge is wanted: measure --judge, JudgeEmbedding
        product.save(folder)
    write_json(
        folder / "summary.json",
        {
            "step": result.step,
            "steps": config.steps,
            "lr": config.lr,
            "seconds": result.seconds,
            # stages may be trained on different corpora: each says how large its own was
            "corpus_clips": len(work.corpus),
            "corpus_real": work.corpus.kind.count(REAL),
            "last": result.history[-1],
        },
    )
    return result


@torch.no_grad()
def whiten_vae(work: Work, clips: int = 256) -> dict[str, float]:
    """Give the family's VAE white latents (see :mod:`latentclap.pretrain.whiten`), and save it as stage ``vae``.

    AudioLDM's latent scale, 1 / std of posterior samples over the first clips (facts A3), is then near one; it is
    measured and kept all the same, since the checkpoint's scale is what every later stage reads.

    Returns:
        The scale, and the ratio of the largest to the smallest variance along the latents' axes before.
    """
    vae = work.system().vae
    rows = torch.linspace(0, len(work.corpus) - 1, min(clips, len(work.corpus))).long()
    mel = mels(work)[rows]

    def posteriors() -> tuple[Tensor, Tensor]:
        parts = [vae.encode(m.float()[:, None].to(work.device)).latent_dist for m in mel.split(16)]
        return torch.cat([p.mean for p in parts]), torch.cat([p.logvar for p in parts])

    mean, logvar = posteriors()
    variances = principal_axes(mean)[1]
    if not float(variances.max()) > 0:
        raise InputError("the VAE's latents have no spread: train it first")
    whiten(vae, mean, logvar)
    mean, logvar = posteriors()
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(mean)
    found = {
        "scaling_factor": 1 / float((mean + (logvar / 2).exp() * noise).std()),
        "variance_ratio_before": float(variances.max() / variances.min().clamp(min=1e-12)),
    }
    save_weights(work.result("vae"), vae)
    write_json(work.folder / "vae" / "scale.json", found)
    return found
