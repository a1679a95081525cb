"""Fixtures that every test may use."""

import errno
import os
from pathlib import Path

# Before torch, tokenizers and the hub are imported: two cores, and no network in any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The top of the working copy."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and reference statistics beside the working copy; they are never committed."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real recordings (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """An untrained system of the tiny size; tests must not change it."""
    from latentclap.models import random_system

    return random_system("tiny", seed=0)


@pytest.fixture(scope="session")
def mini():
    """The weights that the package ships."""
    from latentclap import FoleySystem

    return FoleySystem.from_pretrained("mini")


@pytest.fixture(scope="session")
def tiny_cache(tiny):
    """What the latent cache gives, for 12 random clips of the tiny system."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(12, *tiny.latent_shape, generator=generator)
    E = torch.nn.functional.normalize(torch.randn(12, 512, generator=generator), dim=-1)
    return {
        "mean": mean,
        "logvar": torch.full_like(mean, -4.0),
        "E_audio": E,
        "E_text": tiny.encode_text([f"sound {i % 3}" for i in range(12)]),
        "label": torch.arange(12) % 7,
    }


TINY_PROFILE = """
about = "tests: tiny models, a handful of clips"
[model]
system = "{folder}"
latent_clap = "{folder}/latent_clap"
[data]
dev_per_class = 4
eval_per_class = 4
[latent_clap]
width = 4
epochs = 2
noise_levels = [0, 200, 800]
[finetune]
epochs = 1
batch_size = 7
lr = 1e-3
[generate]
steps = 2
sampler = "ddim"
[evaluate]
clips_per_class = 3
n_boot = 20
candidates = 1
max_tries = 2
[sweep]
lams = [0, 1000]
epochs = 1
clips_per_class = 2
seeds = [0, 1]
weightings = ["paper", "constant"]
readings = ["x0", "posterior"]
ablation_epochs = 1
"""


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory):
    """A tiny family that went through every stage of pretraining for two steps, exported like the shipped one."""
    from latentclap.models import size
    from latentclap.pretrain import corpus as corpora
    from latentclap.pretrain.export import export
    from latentclap.pretrain.stages import STAGES, run_stage
    from latentclap.pretrain.work import Work

    folder = tmp_path_factory.mktemp("family")
    samples = size("tiny")["frames"] * 160
    corpus = corpora.build(folder / "work" / "corpus.safetensors", samples=samples, per_class=3, workers=1)
    work = Work(folder / "work", "tiny", corpus)
    for stage in STAGES:
        run_stage(stage, work, steps=2)
    export(work, folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def tiny_profile(tiny_family, tmp_path_factory):
    """Path of a profile that runs the tiny family on a few procedural clips."""
    path = tmp_path_factory.mktemp("profile") / "tiny.toml"
    path.write_text(TINY_PROFILE.format(folder=tiny_family.as_posix()))
    return path


@pytest.fixture(scope="module")
def configured(tiny_family, tiny_profile, tmp_path_factory):
    """A cache of the tiny family with 12 made-up latents: its folder, and a function that writes configurations."""
    import json

    import torch

    from latentclap.cache.settings import settings
    from latentclap.cache.shards import settle, write_manifest, write_shard
    from latentclap.system import FoleySystem

    folder = tmp_path_factory.mktemp("configured")
    system = FoleySystem.from_pretrained(tiny_family)
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(12, *system.latent_shape, generator=generator)
    E = torch.nn.functional.normalize(torch.randn(12, 512, generator=generator), dim=-1)
    tensors = {
        "mean": mean.half(),
        "logvar": torch.full_like(mean, -4.0).half(),
        "E_audio": E,
        "E_text": E.flip(0),
    }
    settle(folder / "cache", settings(system, torch.float16))
    write_shard(folder / "cache", "0", tensors, keys=[str(i) for i in range(12)])
    write_manifest(folder / "cache", ["0"])

    def write(name, part="finetune", **changes):
        path = folder / f"{name}.toml"
        values = "\n".join(f"{k} = {json.dumps(v)}" for k, v in changes.items())
        path.write_text(
            f'profile = "{tiny_profile}"\ncache = "{folder / "cache"}"\nfolder = "{folder / name}"\n'
            f'part = "{part}"\n[{part}]\n{values}\n'
        )
        return path

    return folder, write


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests of pages."""
    from playwright.sync_api import sync_playwright

    from browsing import CHROMIUM, FLAGS

    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def locked(monkeypatch):
    """Call it with a folder: from then on nobody may list that one, root neither; with what the system says to it."""
    refused = {}

    def refusing(function):
        def called(path=".", *args):
            if not isinstance(path, int) and (number := refused.get(os.path.abspath(path))):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return function(path, *args)

        return called

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return lambda folder, number=errno.EACCES: refused.update({os.path.abspath(folder): number})
