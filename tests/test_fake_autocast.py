"""What a GPU's autocast makes of each training's and of generation's tensors: its list of operations is its own.

torch's fake tensors stand for a GPU's here, with their shapes, types and devices and no numbers. Forward passes only:
a backward pass asks for a real GPU.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from latentclap.embeddings.judge import JudgeNet
from latentclap.fast import half_weights, speed_up
from latentclap.finetune import FinetuneTask
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss
from latentclap.models import random_system, size
from latentclap.pretrain import tasks
from latentclap.system import tuning_layer

CLIPS = 3


def zeros(shape):
    return [zeros(shape[1:]) for _ in range(shape[0])] if shape else 0


@pytest.fixture
def faking(monkeypatch):
    """A mode in which "cuda" is there; numbers that a program asks for are zeros and ones."""
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("latentclap.fast.ops.kernels", None)
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: zeros(tuple(self.shape)), raising=False)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda self: True, raising=False)
    # a window and a filter without numbers must not stay for others
    from latentclap.audio import mel

    mel._window_and_matrix.cache_clear()
    yield FakeTensorMode(allow_non_fake_inputs=True)
    mel._window_and_matrix.cache_clear()


def moved(module):
    """A module's weights on a GPU, in place; fake ones cannot be exchanged as ``to`` does it."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    there = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                    held[name] = (
                        nn.Parameter(there, value.requires_grad) if held is part._parameters else there
                    )
    return module


def everything(task):
    """A task's modules and constants on a GPU."""
    constants = getattr(task, "constants", [])
    for i, constant in enumerate(constants):
        if isinstance(constant, torch.Tensor):
            constants[i] = torch.empty(constant.shape, device="cuda")
        elif isinstance(constant, LatentCLAPLoss):
            moved(constant)
            moved(constant.phi)
        else:
            moved(constant)
    for module in getattr(task, "whole", []):
        moved(module)
    return moved(task)


def of_finetuning(system, fast):
    phi = LatentCLAP(**size("tiny")["phi"])
    system.tuning = tuning_layer(512)
    if fast:
        speed_up(system.unet)
    return FinetuneTask(system, LatentCLAPLoss(phi, schedule=system.schedule, weighting="snr"), 1000.0)


def of_the_ldm(system):
    return tasks.LDMTask(system.unet, system.encode_text([""])[0], system.schedule)


TASKS = {
    "fine-tuning": lambda s: of_finetuning(s, fast=False),
    "fine-tuning, fused": lambda s: of_finetuning(s, fast=True),
    "latent_clap": lambda s: tasks.LatentCLAPTask(LatentCLAP(**size("tiny")["phi"])),
    "ldm": of_the_ldm,
    "vae": lambda s: tasks.VAETask(s.vae, crop_frames=32),
    "vae_critic": lambda s: tasks.DecoderTask(s.vae, crop_frames=32, noise=0.2),
    "vocoder_critic": lambda s: tasks.VocoderTask(s.vocoder, critic_weight=1.0),
    "clap": lambda s: tasks.ClapTask(s.clap),
    "judge": lambda s: tasks.JudgeTask(JudgeNet()),
}


def batch(system):
    """What the caches give, as they keep it."""
    half, whole = torch.half, torch.float
    latent, mel = system.latent_shape, (system.frames, system.mel.n_mels)
    extractor = system.feature_extractor
    frames = 1 + extractor.nb_max_samples // extractor.hop_length
    told = {
        "mean": (latent, half),
        "logvar": (latent, half),
        "E_audio": ((512,), whole),
        "E_text": ((512,), whole),
        "E": ((3, 512), half),
        "mel": (mel, half),
        "wave": ((system.samples,), torch.int16),
        "features": ((1, frames, extractor.feature_size), half),
        "tokens": ((2, 16), torch.int16),
        "mask": ((2, 16), torch.bool),
        "text_id": ((2,), torch.long),
        "patches": ((4, 96, 64), half),
        "label": ((), torch.long),
        "weight": ((), whole),
    }
    return {
        name: torch.empty((CLIPS, *shape), dtype=dtype, device="cuda")
        for name, (shape, dtype) in told.items()
    }


@pytest.fixture
def system():
    """One that a test may change."""
    return random_system("tiny")


@pytest.mark.parametrize("name", TASKS)
def test_a_step_in_bf16(system, faking, name):
    """Every term comes out on the GPU as a float, the loss as float32."""
    task = TASKS[name](system)
    with faking, torch.random.fork_rng(devices=[]):
        given = batch(system)
        if name.startswith("fine-tuning"):
            given |= {key: given[key].float() for key in ("mean", "logvar")}  # as cache.reading gives them
        everything(task).train()
        rngs = [torch.Generator().manual_seed(i) for i in range(CLIPS)]
        given |= {key: value.to("cuda") for key, value in task.draw(given, rngs).items()}
        with torch.autocast("cuda", torch.bfloat16):
            terms = task(given, rngs)
    assert {value.device.type for value in terms.values()} == {"cuda"}
    assert all(value.is_floating_point() and not value.ndim for value in terms.values())
    assert terms["loss"].dtype == torch.float32


@pytest.mark.parametrize("fast", [True, False])
def test_a_prediction_by_rounded_weights(system, faking, fast):
    """The UNet of ``for_generation``: bf16 within, float32 for the sampler."""
    half_weights(speed_up(system.unet) if fast else system.unet)
    system.half = True
    with faking, torch.no_grad():
        moved(system.unet)
        s = torch.empty(CLIPS, *system.latent_shape, device="cuda")
        n, E = torch.zeros(CLIPS, dtype=torch.long, device="cuda"), torch.empty(CLIPS, 512, device="cuda")
        eps = system.eps_theta(s, n, E)
        with pytest.raises(RuntimeError, match="found"):
            system.eps_theta(s, n, torch.empty(CLIPS, 512))
    assert (eps.dtype, eps.device.type, eps.shape) == (torch.float32, "cuda", s.shape)
