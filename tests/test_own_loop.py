"""Eq. 4 in somebody else's loop: diffusers' UNet, autocast, accumulated and shared batches, other targets."""

import subprocess
import sys

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch.nn.functional import normalize

from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss, ddpm_loss

#: of AudioLDM's schedule, as its checkpoints have it
SCHEDULE = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


def small_unet():
    torch.manual_seed(1)
    return UNet2DConditionModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        norm_num_groups=4,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
    ).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    n = torch.randint(0, 1000, (4,), generator=generator)
    s_0, eps = random(2, 4, 8, 32, 16)
    E_audio, E_text = normalize(random(2, 4, 512), dim=-1)
    return {"s_0": s_0, "eps": eps, "n": n, "E_audio": E_audio, "E_text": E_text}


@pytest.fixture
def latent_clap():
    torch.manual_seed(2)
    return LatentCLAPLoss(LatentCLAP(width=8), reading="x0")


def eq_4(unet, latent_clap, batch):
    s_n = latent_clap.schedule.q_sample(batch["s_0"], batch["n"], batch["eps"])
    eps_theta = unet(s_n, batch["n"], encoder_hidden_states=None, class_labels=batch["E_text"]).sample
    terms = ddpm_loss(eps_theta, batch["eps"]), latent_clap(eps_theta, s_n, batch["n"], batch["E_audio"])
    return terms[0] + 1000 * terms[1]


def gradient(unet):
    return torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None])


@pytest.mark.parametrize("reading", ["x0", "renoised"])
def test_under_autocast_the_losses_are_single_precision_and_as_without(batch, reading):
    torch.manual_seed(2)
    loss_of = LatentCLAPLoss(LatentCLAP(width=8), reading=reading)
    unet, found = small_unet(), []
    s_n = loss_of.schedule.q_sample(batch["s_0"], batch["n"], batch["eps"])
    for enabled in (False, True):
        unet.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            eps_theta = unet(s_n, batch["n"], encoder_hidden_states=None, class_labels=batch["E_text"]).sample
            loss = loss_of(eps_theta, s_n, batch["n"], batch["E_audio"], s_0=batch["s_0"])
            whole = ddpm_loss(eps_theta, batch["eps"]) + 1000 * loss
        assert eps_theta.dtype == (torch.bfloat16 if enabled else torch.float32)
        assert loss.dtype == whole.dtype == torch.float32
        whole.backward()
        found.append((whole.detach(), gradient(unet).clone()))
    (single, its_gradient), (half, other) = found
    torch.testing.assert_close(half, single, rtol=0.02, atol=0)
    assert torch.cosine_similarity(its_gradient, other, dim=0) > 0.99


def test_accumulated_parts_of_a_batch_give_the_gradient_of_all_of_it(batch, latent_clap):
    unet = small_unet()
    eq_4(unet, latent_clap, batch).backward()
    whole = gradient(unet).clone()
    unet.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        (eq_4(unet, latent_clap, {k: v[part] for k, v in batch.items()}) / 2).backward()
    torch.testing.assert_close(gradient(unet), whole, rtol=1e-3, atol=1e-6)


def test_a_predicted_velocity_becomes_noise(batch, latent_clap):
    """diffusers' own velocity, sqrt(abar) eps - sqrt(1 - abar) s_0, leads back to the noise, with its gradient."""
    schedule, n = latent_clap.schedule, batch["n"]
    s_n = schedule.q_sample(batch["s_0"], n, batch["eps"])
    theirs = DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction", **SCHEDULE)
    v = theirs.get_velocity(batch["s_0"], batch["eps"], n).requires_grad_()
    eps_theta = schedule.output_to_eps(v, s_n, n, prediction="v_prediction")
    torch.testing.assert_close(eps_theta, batch["eps"], rtol=1e-4, atol=1e-4)
    latent_clap(eps_theta, s_n, n, batch["E_audio"]).backward()
    assert v.grad.abs().sum() > 0


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_own_loop import LatentCLAP, LatentCLAPLoss, eq_4, gradient, small_unet

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(2)
latent_clap = LatentCLAPLoss(LatentCLAP(width=8))
batch = torch.load({batch!r})
unet = DistributedDataParallel(small_unet())
eq_4(unet, latent_clap, {{k: v[2 * rank : 2 * rank + 2] for k, v in batch.items()}}).backward()
if rank == 0:
    torch.save(gradient(unet), {out!r})
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_that_share_a_batch_give_the_gradient_of_all_of_it(batch, latent_clap, tmp_path, repo_root):
    """torch's DistributedDataParallel averages; φ, which does not train, needs no wrapper."""
    script, out = tmp_path / "loop.py", tmp_path / "gradient.pt"
    torch.save(batch, tmp_path / "batch.pt")
    script.write_text(
        SCRIPT.format(tests=str(repo_root / "tests"), batch=str(tmp_path / "batch.pt"), out=str(out))
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    unet = small_unet()
    eq_4(unet, latent_clap, batch).backward()
    torch.testing.assert_close(torch.load(out), gradient(unet), rtol=1e-3, atol=1e-6)
