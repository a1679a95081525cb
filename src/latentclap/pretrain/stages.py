"""The stages of pretraining, in their order: each resumable, each with a time budget."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentclap.classes import CLASSES, prompt
from latentclap.embeddings import JudgeNet, log_mel_patches
from latentclap.errors import InputError
from latentclap.files import atomic_path, read_json, weights_digest, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import random_system, size
from latentclap.pretrain import tasks
from latentclap.pretrain.condition import carry_condition, embeddings
from latentclap.pretrain.corpus import REAL, Corpus
from latentclap.pretrain.whiten import principal_axes, whiten
from latentclap.pretrain.widen import separate, widen, widening
from latentclap.storage import resolve
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

#: which stages make which part, later ones go on from earlier ones
MAKES = {
    "clap": ("clap",),
    "vae": ("vae", "vae_decoder", "vae_critic"),
    "vocoder": ("vocoder", "vocoder_critic"),
    "unet": ("ldm",),
}


@dataclass
class Work:
    """A folder in which a family is being trained.

    Attributes:
        folder: holds a folder per stage.
        size: a key of ``models.SIZES``.
        corpus: the training clips.
        device: where to train.
    """

    folder: Path
    size: str
    corpus: Corpus
    device: str = "cpu"

    @property
    def start(self) -> Path | None:
        """A trained family (see :meth:`begin_with`): the beginning of parts that no stage has trained here yet."""
        folder = self.folder / "start"
        return folder if folder.is_dir() else None

    @property
    def key(self) -> str:
        """Tells apart what is computed of the clips: by the clips, and by the size, which sets the front ends."""
        return f"{self.size} {self.corpus.digest}"

    def begin_with(self, family: str | Path) -> None:
        """Copy a trained family into the work folder as its start.

        Raises:
            InputError: no such family, or the folder has begun with another one.
        """
        source = resolve(family)
        if self.start is None:
            # beside first: a folder half copied would be taken for a whole family
            temporary = self.folder / ".start"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary)
            temporary.rename(self.folder / "start")
        elif read_json(self.start / "model_card.json") != read_json(source / "model_card.json"):
            raise InputError(f"{self.folder} has begun with another family than {family}: use another --work")

    def system(self) -> FoleySystem:
        """The family as far as it is trained; parts without a result are the start's, or random."""
        # the tokenizer is trained on the captions, so it is the same for the same corpus
        texts = sorted({t for pair in self.corpus.texts() for t in pair} | {prompt(c) for c in CLASSES})
        system = random_system(self.size, captions=texts)
        if self.start:
            system = self.started(system)
        for part, stages in MAKES.items():
            for stage in stages:
                if self.result(stage).is_file():
                    getattr(system, part).load_state_dict(load_file(self.result(stage)))
        scale = self.folder / "vae" / "scale.json"
        if scale.is_file():
            system.vae.register_to_config(scaling_factor=read_json(scale)["scaling_factor"])
        return system.to(self.device)

    def started(self, system: FoleySystem) -> FoleySystem:
        """``system`` with the start's weights in every part whose shapes are the start's.

        CLAP comes with its tokenizer, since its words are numbered by it. A narrower VAE is widened.
        """
        begun = FoleySystem.from_pretrained(self.start)
        for part in self.taken(system, begun):
            if shapes(getattr(system, part)) == shapes(getattr(begun, part)):
                setattr(system, part, getattr(begun, part))
            else:
                widen(begun.vae, system.vae)
        if system.clap is begun.clap:
            system.tokenizer, system.text_encoder = begun.tokenizer, begun.text_encoder
            system.feature_extractor = begun.feature_extractor
        return system.eval()

    @staticmethod
    def taken(system: FoleySystem, begun: FoleySystem) -> list[str]:
        """Names of the parts that a start of the same shapes can give, or a narrower VAE; others are trained anew."""
        return [
            part
            for part in MAKES
            if shapes(getattr(system, part)) == shapes(getattr(begun, part))
            or (part == "vae" and widening(begun.vae, system.vae))
        ]

    def result(self, stage: str) -> Path:
        """The weights a stage leaves (averaged, float32)."""
        return self.folder / stage / "weights.safetensors"

    def need(self, *parts: str) -> None:
        """Refuse to go on while a part has been trained neither here nor in the start.

        Raises:
            InputError: names the stage.
        """
        begun = (
            self.taken(random_system(self.size), FoleySystem.from_pretrained(self.start))
            if self.start
            else []
        )
        for part in parts:
            stages = MAKES.get(part, (part,))
            if part not in begun and not any(self.result(stage).is_file() for stage in stages):
                raise InputError(f"stage {stages[0]!r} has left no weights in {self.folder}: run it first")


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every parameter and buffer but the words', whose number is the tokenizer's."""
    state = module.state_dict()
    return {name: value.shape for name, value in state.items() if "word_embeddings" not in name}


#: a task, its data, and the module whose weights the stage leaves
Prepared = tuple[Task, TensorBatches, nn.Module]


def cached(path: Path, make: Callable[[], dict[str, Tensor]], key: str = "") -> dict[str, Tensor]:
    """Tensors from a file, made and written where it is absent or of another ``key``."""
    if not path.is_file() or key_of(path) != key:
        tensors = make()
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"key": key})
    return load_file(path)


def key_of(path: Path) -> str:
    """The key that :func:`cached` wrote."""
    with safe_open(path, "pt") as stream:
        return (stream.metadata() or {}).get("key", "")


def in_batches(
    work: Work, function: Callable[[Tensor], tuple[Tensor, ...]], label: str, batch: int = 16
) -> list[Tensor]:
    """Apply a function to the corpus' waves (b, samples) float, batch by batch; half precision out."""
    out = []
    for i in tqdm(range(0, len(work.corpus), batch), desc=label, leave=False):
        waves = work.corpus.wave[i : i + batch].float() / 32767
        out.append([x.half().cpu() for x in function(waves)])
    return [torch.cat(column) for column in zip(*out, strict=True)]


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
    """
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}; there are {', '.join(STAGES)}")
    stage = STAGES[name]
    config = TrainConfig(
        steps=steps or stage.steps,
        batch_size=stage.batch_size,
        lr=lr or stage.lr,
        warmup_steps=stage.warmup_steps,
        schedule="cosine",
        weight_decay=stage.weight_decay,
        beta1=stage.beta1,
        beta2=stage.beta2,
        ema_decay=stage.ema_decay,
        seed=seed,
        minutes=minutes,
        log_every=20,
        tensorboard=True,
    )
    task, data, product = MAKERS[name](work)
    folder = work.folder / name
    result = train(task, data, config, folder, description=f"pretraining {name}")
    with atomic_path(work.result(name)) as path:
        save_file({k: v.detach().cpu().contiguous() for k, v in _unshared(product).items()}, path)
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


def _unshared(module: nn.Module) -> dict[str, Tensor]:
    """The state, with tensors that share memory copied: safetensors refuses aliases."""
    seen: set[int] = set()
    out = {}
    for name, value in module.state_dict().items():
        out[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return out


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
    with atomic_path(work.result("vae")) as path:
        save_file({k: v.detach().cpu().contiguous() for k, v in _unshared(vae).items()}, path)
    write_json(work.folder / "vae" / "scale.json", found)
    return found
