"""Record what the original implementations compute, in an environment of their own; see README.md beside this file.

    python tests/fidelity/make_fixtures.py            # the narrowest sizes that the originals allow: minutes
    python tests/fidelity/make_fixtures.py vggish     # one of mel, vggish, fad, tiny
    python tests/fidelity/make_fixtures.py --full     # the sizes of audioldm-m-full: 16 GB of memory

Writes small .npz files beside itself. Weights are not stored: both sides make them from recipe.py. Nothing of
latentclap is imported here, and nothing of these packages is in ours.
"""

import argparse
import importlib.machinery
import importlib.metadata
import json
import os
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import recipe
import torch

HERE = Path(__file__).parent
#: Modules that the originals import and that nothing recorded here uses.
UNUSED = (
    "torchaudio",
    "torchvision",
    "gradio",
    "laion_clap",
    "encodec",
    "progressbar",
    "PIL",
    "h5py",
    "wandb",
    "webdataset",
)
TINY_TEXT = {"vocab_size": 400, "hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 64}
FULL_TEXT = {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}


class _Anything(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stub_unused():
    """Put empty modules in the place of those that are imported and not used."""
    # first, since transformers asks which of them are installed
    from transformers import BartModel, BertModel, RobertaModel, RobertaTokenizer  # noqa: F401

    for name in UNUSED:
        for full in (name, f"{name}.transforms", f"{name}.ops", f"{name}.ops.misc", f"{name}.datasets"):
            module = _Anything(full)
            module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(full, None)
            sys.modules[full] = module


def version(*names):
    """'name version' of installed packages, and of torch and numpy that ran them."""
    return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in (*names, "torch", "numpy"))


def save(name, versions, **arrays):
    """Write arrays with the versions they come from."""
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, versions=np.array(versions), **arrays)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {versions}")


@torch.no_grad()
def fill(module):
    """Give a module the recipe's weights; return {name: [shape, dtype]} of its state dict."""
    state = module.state_dict()
    for name, tensor in state.items():  # one at a time: the full size is 4.5 GB
        if not recipe.NOT_WEIGHTS.search(name):
            tensor.copy_(torch.from_numpy(np.asarray(recipe.weight(name, tuple(tensor.shape)))))
    return {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in state.items()}


# ------------------------------------------------------------------------------------------- audioldm


def tokenizer_folder(folder):
    """A small byte-level BPE under the name that the original loads by."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["the sound of a dog bark", "rain on a roof", "a gun shot", "someone using keyboard"],
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )
    folder.mkdir(parents=True)
    bpe.save_model(str(folder))
    RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def build_audioldm(width, vae_width, vocoder_width, text, model_name):
    """The original LatentDiffusion at a width, on the CPU, in evaluation mode."""
    import audioldm.hifigan.utilities as hifigan
    from audioldm.clap.open_clip import model as clap
    from audioldm.ldm import LatentDiffusion
    from audioldm.utils import default_audioldm_config
    from transformers import RobertaConfig, RobertaModel

    hifigan.HIFIGAN_16K_64["upsample_initial_channel"] = vocoder_width
    sizes = dict(text, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
    config = RobertaConfig(num_attention_heads=12, **sizes)
    clap.RobertaModel = types.SimpleNamespace(from_pretrained=lambda _: RobertaModel(config))
    params = default_audioldm_config(model_name)["model"]["params"]
    params["unet_config"]["params"]["model_channels"] = width
    params["first_stage_config"]["params"]["ddconfig"]["ch"] = vae_width
    params["device"] = "cpu"
    model = LatentDiffusion(**params).eval()
    model.scale_factor.fill_(recipe.SCALE_FACTOR)
    return model


def sample(model, steps, eta, guidance):
    """The original sampler from the recipe's noise, with the recipe's noise at every step."""
    from audioldm.latent_diffusion import ddim

    # the released class moves its tables to CUDA whatever the model is on
    ddim.DDIMSampler.register_buffer = lambda self, name, value: setattr(self, name, value)
    calls = iter(range(10_000))
    ddim.noise_like = lambda shape, *_: torch.from_numpy(recipe.signal(f"step {next(calls)}", *shape))
    cond, uncond = (torch.from_numpy(recipe.unit(n, 1))[:, None] for n in ("cond", "uncond"))
    out, _ = ddim.DDIMSampler(model).sample(
        steps,
        1,
        (8, 16, 16),
        conditioning=cond,
        eta=eta,
        verbose=False,
        x_T=torch.from_numpy(recipe.signal("x_T", 1, 8, 16, 16)),
        unconditional_guidance_scale=guidance,
        unconditional_conditioning=uncond,
    )
    return out.numpy()


@torch.no_grad()
def record_audioldm(name, model, ladders):
    """Outputs of every part of the model, and the names and shapes of its state dict."""
    names = fill(model)
    first, clap = model.first_stage_model, model.cond_stage_model.model
    latent = torch.from_numpy(recipe.signal("latent", 2, 8, 16, 16))
    film = torch.from_numpy(recipe.unit("film", 2))
    steps = torch.tensor([3, 871])
    out = {"names": np.array(json.dumps(names)), "betas": model.betas.numpy()}
    out["unet"] = model.apply_model(latent, steps, film[:, None]).numpy()
    with model.ema_scope():
        out["unet_ema"] = model.apply_model(latent, steps, film[:, None]).numpy()
    posterior = first.encode(torch.from_numpy(recipe.signal("mel", 1, 1, 64, 64)))
    out["vae_mean"], out["vae_logvar"] = posterior.mean.numpy(), posterior.logvar.numpy()
    out["latent_sample"] = model.get_first_stage_encoding(posterior.mean).numpy()
    out["vae_decode"] = model.decode_first_stage(latent[:1]).numpy()
    out["vocoder"] = first.vocoder(
        torch.from_numpy(recipe.signal("vocoder mel", 1, 16, 64)).transpose(1, 2)
    ).numpy()
    for count, eta in ladders:
        out[f"ddim_{count}_{eta:g}"] = sample(model, count, eta, 2.0)
    ids = torch.tensor([[0, 11, 12, 13, 2, 1, 1], [0, 21, 2, 1, 1, 1, 1]])
    out["text_ids"] = ids.numpy()
    out["clap_text"] = clap.get_text_embedding(
        {"input_ids": ids, "attention_mask": (ids != 1).long()}
    ).numpy()
    sound = torch.from_numpy(recipe.wave("clap wave", 480_000))[None]
    out["clap_audio"] = clap.get_audio_embedding([{"waveform": sound[0]}]).numpy()
    save(name, version("audioldm", "transformers", "torchlibrosa"), **out)


def record_mel():
    """AudioLDM's inference front end on half a second."""
    from audioldm.audio import TacotronSTFT
    from audioldm.audio.tools import get_mel_from_wav

    stft = TacotronSTFT(1024, 160, 1024, 64, 16000, 0, 8000)
    mel, _, _ = get_mel_from_wav(recipe.wave("mel wave", 8000), stft)
    save("mel", version("audioldm", "librosa"), mel=mel.T)


# -------------------------------------------------------------------------------------- VGGish and FAD


@torch.no_grad()
def record_vggish():
    """torchvggish on the recipe's weights: its own module, with ReLU, and without its last layer."""
    from torchvggish import vggish_input
    from torchvggish.torchvggish import VGG, make_layers

    net = VGG(make_layers(), postprocess=False).eval()
    names = fill(net)
    wave = (20_000 * recipe.wave("vggish wave", 88_200)).astype(np.int16)
    # the organisers' framing: windows of 16,000 samples every 8,000, each one patch (facts D2)
    scaled = wave.astype(np.float64) / max(0.1, float(wave.max()))
    windows = [scaled[i : i + 16_000] for i in range(0, 88_200 - 16_000 + 1, 8_000)]
    patches = torch.cat([vggish_input.waveform_to_examples(w, 16_000) for w in windows]).detach()
    before = net.embeddings[:-1](net.features(patches).permute(0, 2, 3, 1).flatten(1))
    # the textbook front end on 4 s at 16 kHz, peak 1: the same windows
    sound = recipe.wave("textbook wave", 64_000)
    sound = sound / np.abs(sound).max()
    windows = [sound[i : i + 16_000] for i in range(0, 64_000 - 16_000 + 1, 8_000)]
    examples = torch.cat([vggish_input.waveform_to_examples(w, 16_000) for w in windows]).detach()
    textbook = net.embeddings[:-1](net.features(examples).permute(0, 2, 3, 1).flatten(1))
    save(
        "vggish",
        version("torchvggish"),
        names=np.array(json.dumps(names)),
        patches=patches[:2, 0].numpy(),
        embedding=before.numpy(),
        with_relu=net(patches).numpy(),
        textbook=textbook.numpy(),
    )


def record_fad():
    """frechet-audio-distance's formula on the recipe's statistics."""
    from frechet_audio_distance.fad import FrechetAudioDistance

    tool = FrechetAudioDistance.__new__(FrechetAudioDistance)
    values = {k: float(tool.calculate_frechet_distance(*v)) for k, v in recipe.gaussians().items()}
    save("fad", version("frechet-audio-distance", "scipy"), values=np.array(json.dumps(values)))


def record_tiny():
    """The narrowest model of the original code: 32 groups in every group norm, so 32 channels."""
    model = build_audioldm(32, 32, 64, TINY_TEXT, "audioldm-s-full")
    record_audioldm("audioldm_tiny", model, [(20, 0.0), (20, 1.0), (200, 0.0), (200, 1.0)])


def record_full():
    """audioldm-m-full's sizes."""
    model = build_audioldm(192, 128, 1024, FULL_TEXT, "audioldm-m-full")
    record_audioldm("audioldm_m_full", model, [(5, 0.0), (5, 1.0)])


def main():
    """Record everything, or what is named."""
    recorders = {"mel": record_mel, "vggish": record_vggish, "fad": record_fad, "tiny": record_tiny}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(recorders)}; default: all")
    parser.add_argument("--full", action="store_true", help="also the sizes of audioldm-m-full")
    args = parser.parse_args()
    if unknown := set(args.names) - set(recorders):
        parser.error(f"unknown: {', '.join(unknown)}")
    chosen = [recorders[name] for name in args.names or ([] if args.full else recorders)]
    stub_unused()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_folder(Path(scratch) / "roberta-base")
        os.chdir(scratch)
        for record in [*chosen, *([record_full] if args.full else [])]:
            record()


if __name__ == "__main__":
    main()
