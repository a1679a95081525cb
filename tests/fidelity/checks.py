"""Every comparison with an implementation that is not ours: a generator of rows per group.

tests/test_fidelity_*.py assert the rows of the quick groups; compare.py writes all of them to results.json, from
which the book's table is made. A difference is the largest absolute one; ``scale`` is the largest absolute value
of the other side, so that a reader can see what the difference is of.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import originals
import recipe
import torch
import torch.nn.functional as F

from latentclap.audio import log_mel
from latentclap.convert import convert_audioldm, convert_clap, read_checkpoint
from latentclap.diffusion import sampling
from latentclap.embeddings import VGGish, dcase_scale, log_mel_patches
from latentclap.fad import frechet_distance, load_stats
from latentclap.latent_clap import LatentCLAP

TINY_TEXT = {"vocab_size": 400, "hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 64}
FULL_TEXT = {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    size: str
    against: str
    how: str  # recorded or live
    difference: float
    scale: float
    tolerance: float

    @property
    def holds(self):
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def row(what, ours, theirs, tolerance, *, size, against, how):
    """Compare two arrays of one shape."""
    ours, theirs = (
        np.asarray(x.detach() if torch.is_tensor(x) else x, dtype=np.float64) for x in (ours, theirs)
    )
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} and {theirs.shape}"
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), what
    difference, scale = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    return Row(what, size, against, how, difference, scale, tolerance)


# ------------------------------------------------------------------------------------------- AudioLDM


def mel():
    """The inference framing of the mel front end."""
    arrays, against = originals.fixture("mel")
    ours = log_mel(torch.from_numpy(recipe.wave("mel wave", 8000))[None], variant="inference")[0, 0]
    yield row(
        "log-mel, inference framing", ours, arrays["mel"], 1e-4, size="-", against=against, how="recorded"
    )


@torch.no_grad()
def audioldm(system, size, *, long=False):
    """Every part of a converted system against the original's recorded outputs."""
    arrays, against = originals.fixture(f"audioldm_{size}")
    meta = {"size": size.replace("_", "-"), "against": against, "how": "recorded"}
    latent = torch.from_numpy(recipe.signal("latent", 2, 8, 16, 16))
    eps = system.eps_theta(latent, torch.tensor([3, 871]), torch.from_numpy(recipe.unit("film", 2)))
    yield row("UNet, FiLM condition", eps, arrays["unet"], 5e-5, **meta)
    posterior = system.vae.encode(torch.from_numpy(recipe.signal("mel", 1, 1, 64, 64))).latent_dist
    yield row("VAE encoder, mean", posterior.mean, arrays["vae_mean"], 2e-5, **meta)
    yield row("VAE encoder, log-variance", posterior.logvar, arrays["vae_logvar"], 2e-5, **meta)
    scaled = posterior.mean * system.vae.config.scaling_factor
    yield row("latent, scale factor of the file", scaled, arrays["latent_sample"], 2e-5, **meta)
    yield row("VAE decoder", system.decode_mel(latent[:1]), arrays["vae_decode"], 5e-5, **meta)
    wave = system.vocoder(torch.from_numpy(recipe.signal("vocoder mel", 1, 16, 64))).reshape(1, 1, -1)
    yield row("HiFi-GAN", wave, arrays["vocoder"], 1e-5, **meta)
    for key in sorted(k for k in arrays if k.startswith("ddim_")):
        _, steps, eta = key.split("_")
        if int(steps) <= 20 or long:
            ours = sample(system, int(steps), float(eta))
            what = f"DDIM, {steps} steps, eta {eta}, guidance 2"
            yield row(what, ours, arrays[key], 1e-4 * float(np.abs(arrays[key]).max()), **meta)
    yield from _clap_of(system, arrays, meta)


def _clap_of(system, arrays, meta):
    ids = torch.from_numpy(arrays["text_ids"])
    text = system.text_encoder(ids, attention_mask=(ids != 1).long()).text_embeds
    yield row("CLAP text tower", F.normalize(text, dim=-1), arrays["clap_text"], 1e-5, **meta)
    audio = embed_48k(system.clap, system.feature_extractor, recipe.wave("clap wave", 480_000))
    yield row("CLAP audio tower, from the wave", audio, arrays["clap_audio"], 1e-5, **meta)


def sample(system, steps, eta):
    """Our sampler from the recipe's noise, with the recipe's noise at every step."""
    calls = iter(range(10_000))
    cond, uncond = (torch.from_numpy(recipe.unit(name, 1)) for name in ("cond", "uncond"))

    def noise(shape, *_, **__):
        return torch.from_numpy(recipe.signal(f"step {next(calls)}", *shape))

    before, sampling.randn_per_item = sampling.randn_per_item, noise
    try:
        return sampling.sample(
            system.guided(cond, uncond, 2.0),
            torch.from_numpy(recipe.signal("x_T", 1, 8, 16, 16)),
            system.schedule,
            steps=steps,
            eta=eta,
            scheduler_config=dict(system.scheduler.config),
        )
    finally:
        sampling.randn_per_item = before


@torch.no_grad()
def eight_heads(system, size):
    """What the UNet gives with eight attention heads in every level, as diffusers' own conversion sets it.

    Returns:
        The root-mean-square difference to the original's output, as a share of the output's own.
    """
    from diffusers import UNet2DConditionModel

    arrays, _ = originals.fixture(f"audioldm_{size}")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**system.unet.config, "attention_head_dim": 8})
    unet.load_state_dict(system.unet.state_dict(), assign=True)
    latent, film = recipe.signal("latent", 2, 8, 16, 16), recipe.unit("film", 2)
    eps = unet.eval()(
        torch.from_numpy(latent),
        torch.tensor([3, 871]),
        encoder_hidden_states=None,
        class_labels=torch.from_numpy(film),
    ).sample.numpy()
    theirs = arrays["unet"]
    return float(np.sqrt(((eps - theirs) ** 2).mean() / (theirs**2).mean()))


@torch.no_grad()
def ema(converted):
    """The moving average's weights against the original under its own ema_scope."""
    arrays, against = originals.fixture("audioldm_tiny")
    latent = torch.from_numpy(recipe.signal("latent", 2, 8, 16, 16))
    eps = converted.system.eps_theta(latent, torch.tensor([3, 871]), torch.from_numpy(recipe.unit("film", 2)))
    yield row(
        "UNet, moving average", eps, arrays["unet_ema"], 5e-5, size="tiny", against=against, how="recorded"
    )


# ---------------------------------------------------------------------------------------------- CLAP


@torch.no_grad()
def embed_48k(clap, extractor, wave):
    """Unit embedding (1, 512) of a wave at 48 kHz by our CLAP with its own front end."""
    features = extractor([wave], sampling_rate=48_000, return_tensors="pt")["input_features"]
    return F.normalize(clap.get_audio_features(input_features=features).pooler_output, dim=-1)


@torch.no_grad()
def laion(amodel, text_sizes=TINY_TEXT, *, text_name="1 layer"):
    """Both towers of a converted LAION file against laion_clap's own forward."""
    theirs = originals.laion_clap(amodel, text_sizes)
    with tempfile.TemporaryDirectory() as folder:
        path = originals.laion_file(Path(folder) / "clap.pt", theirs, position_ids=True)
        ours = convert_clap(read_checkpoint(path))
    assert ours.architecture == amodel
    meta = {"against": originals.version("laion-clap", "torch"), "how": "live"}
    wave = recipe.wave("clap wave", 480_000)
    audio = theirs.get_audio_embedding([{"waveform": torch.from_numpy(wave)}])
    features = _laion_features(theirs, wave)
    same = F.normalize(ours.model.get_audio_features(input_features=features).pooler_output, dim=-1)
    yield row("CLAP audio tower, from one mel", same, audio, 1e-5, size=amodel, **meta)
    own = embed_48k(ours.model, ours.feature_extractor, wave)
    yield row("CLAP audio tower, from the wave", own, audio, 1e-5, size=amodel, **meta)
    # a short clip is repeated as often as it fits, then padded with zeros (facts E)
    short = wave[:192_000]
    padded = torch.from_numpy(np.pad(np.tile(short, 2), (0, 96_000)))
    audio = theirs.get_audio_embedding([{"waveform": padded}])
    own = embed_48k(ours.model, ours.feature_extractor, short)
    yield row("CLAP audio tower, a clip of 4 s", own, audio, 1e-5, size=amodel, **meta)
    ids = torch.tensor([[0, 11, 12, 13, 2, 1, 1], [0, 21, 2, 1, 1, 1, 1]])
    mask = (ids != 1).long()
    text = theirs.get_text_embedding({"input_ids": ids, "attention_mask": mask})
    mine = F.normalize(ours.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output, dim=-1)
    yield row("CLAP text tower", mine, text, 1e-5, size=f"RoBERTa, {text_name}", **meta)


def _laion_features(clap, wave):
    """laion_clap's log-mel (1, 1, 1001, 64), before its batch norm."""
    branch = clap.audio_branch
    return branch.logmel_extractor(branch.spectrogram_extractor(torch.from_numpy(wave)[None]))


# ------------------------------------------------------------------------------------------- diffusers


def pipeline(system, folder):
    """Our sampler against diffusers' AudioLDMPipeline on the same folder, seeds and noise, eta 0 and 1."""
    import warnings

    from diffusers import AudioLDMPipeline

    system.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = AudioLDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    # the vocoder of random weights hides everything: compare what it is given
    seen = {}
    pipe.mel_spectrogram_to_waveform = lambda mel: seen.update(mel=mel) or mel[:, 0, :, 0]
    for eta in (0.0, 1.0):
        texts, seeds = ["rain", "a gun shot"], [3, 4]
        ours = system.decode_mel(system.generate_latents(texts, seeds, steps=25, guidance_scale=2.0, eta=eta))
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        noise = torch.stack([torch.randn(system.latent_shape, generator=g) for g in generators])
        pipe(
            texts,
            audio_length_in_s=system.seconds,
            num_inference_steps=25,
            guidance_scale=2.0,
            eta=eta,
            latents=noise,
            generator=generators,
        )
        what = f"text to mel, DDIM of 25 steps, eta {eta:g}"
        scale = float(seen["mel"].abs().max())
        against = originals.version("diffusers", "torch")
        yield row(what, ours, seen["mel"], 1e-4 * scale, size="tiny", against=against, how="live")


# ----------------------------------------------------------------------------------------------- Cnn10


@torch.no_grad()
def cnn10():
    """Our blocks and our whole network against laion_clap's copy of PANNs."""
    pann = originals.laion_modules().pann
    meta = {"against": originals.version("laion-clap", "torch"), "how": "live"}
    phi = filled(LatentCLAP().eval())
    x = torch.from_numpy(recipe.signal("phi", 2, 8, 256, 16))
    z = phi.bn0(x.transpose(1, 3)).transpose(1, 3)
    for ours in phi.blocks:
        theirs = pann.ConvBlock(ours.conv1.in_channels, ours.conv1.out_channels).eval()
        theirs.load_state_dict(ours.state_dict())
        expected = theirs(z.clone())
        yield row("Cnn10 block", ours(z), expected, 1e-5, size=f"{ours.conv2.out_channels} channels", **meta)
        z = expected
    yield _whole_cnn10(pann, meta)


def _whole_cnn10(pann, meta):
    """laion_clap's Cnn10 has five blocks on a log-mel: ours has too, with these settings."""
    theirs = pann.Cnn10(32_000, 1024, 320, 64, 50, 14_000, 527).eval()
    theirs.spectrogram_extractor = theirs.logmel_extractor = torch.nn.Identity()
    phi = filled(LatentCLAP(channels=1, freq=64, width=64, blocks=5).eval())
    state = {}
    for name, tensor in phi.state_dict().items():
        block = name.split(".")
        state[f"conv_block{int(block[1]) + 1}.{'.'.join(block[2:])}" if block[0] == "blocks" else name] = (
            tensor
        )
    theirs.load_state_dict({n: t for n, t in state.items() if not n.startswith("out.")}, strict=False)
    x = torch.from_numpy(recipe.signal("log-mel", 2, 1, 128, 64))
    seen = {}
    hook = phi.out.register_forward_hook(lambda m, args, out: seen.update(embedding=args[0]))
    phi(x)
    hook.remove()
    expected = theirs(x)["embedding"]
    return row("Cnn10 to its embedding", seen["embedding"], expected, 1e-4, size="5 blocks", **meta)


def filled(module):
    """Give a module of ours the recipe's weights."""
    made = recipe.weights({name: t.shape for name, t in module.state_dict().items()})
    own = module.state_dict()
    module.load_state_dict({n: torch.from_numpy(made[n]) if n in made else t for n, t in own.items()})
    return module


# -------------------------------------------------------------------------------------- VGGish and FAD


@torch.no_grad()
def vggish():
    """The organisers' framing and scaling, and the network without its last ReLU."""
    arrays, against = originals.fixture("vggish")
    meta = {"size": "full", "against": against, "how": "recorded"}
    wave = (20_000 * recipe.wave("vggish wave", 88_200)).astype(np.int16)
    patches = log_mel_patches(dcase_scale(wave))
    assert patches.shape == (10, 96, 64)
    yield row("VGGish log-mel patches", patches[:2], arrays["patches"], 1e-4, **meta)
    with originals.without_random_numbers():
        ours = VGGish(None, "dcase")
    filled(ours.net)
    embedding = ours(wave, 22_050)
    yield row("VGGish, dcase mode (no last ReLU, no PCA)", embedding, arrays["embedding"], 1e-4, **meta)
    yield row("the same through ReLU", np.maximum(embedding, 0), arrays["with_relu"], 1e-4, **meta)
    ours.mode = "textbook"
    textbook = ours(recipe.wave("textbook wave", 64_000), 16_000)
    yield row("VGGish, textbook mode, 16 kHz", textbook, arrays["textbook"], 1e-4, **meta)


def fad():
    """Our distance against frechet-audio-distance's recorded values."""
    import json

    arrays, against = originals.fixture("fad")
    values = json.loads(str(arrays["values"]))
    for name, statistics in recipe.gaussians().items():
        ours = frechet_distance(*statistics)
        # of fewer samples than dimensions, their matrix root is of a singular product
        tolerance = 1e-4 if name == "128 dimensions, 100 vectors" else 1e-8
        yield row(
            "Fréchet distance", [ours], [values[name]], tolerance, size=name, against=against, how="recorded"
        )


def organisers(path):
    """The organisers' formula, tr sqrtm(S_a S_b), on their own statistics: every pair of classes."""
    from scipy.linalg import sqrtm

    stats = load_stats(path)
    ours, theirs = [], []
    for a in stats.values():
        for b in stats.values():
            gap = a.mu - b.mu
            cross = np.trace(np.real(sqrtm(a.sigma @ b.sigma)))
            theirs.append(gap @ gap + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross)
            ours.append(a.distance(b))
    against = f"DCASE organisers' formula, {originals.version('scipy')}"
    yield row(
        "FAD between class references",
        ours,
        theirs,
        1e-6,
        size="49 pairs, 128-d",
        against=against,
        how="live",
    )


def tiny_file(folder, **more):
    """An original .ckpt of the tiny size in a folder."""
    return originals.write_ckpt(Path(folder) / "audioldm-tiny.ckpt", originals.original_state("tiny"), **more)


def convert_tiny(folder, tokenizer, **options):
    """The tiny file converted."""
    return convert_audioldm(tiny_file(folder), tokenizer=tokenizer, frames=64, **options)
