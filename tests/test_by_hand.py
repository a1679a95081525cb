"""The heart of it once more, from the formulas: what a wrong sign, a lost factor or a swapped input would change.

Each of these was a change of one line that no other test had noticed.
"""

import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latentclap.cache import fingerprint
from latentclap.diffusion import NoiseSchedule, randn_per_item
from latentclap.diffusion.sampling import _ddim_update
from latentclap.embeddings.front_end import log_mel_patches
from latentclap.evaluate import EvalResult
from latentclap.fad import ClipEmbeddings, fad_with_ci
from latentclap.finetune import FinetuneTask
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss, step_weight
from latentclap.measure import _rows, gradient_ratios, heldout_losses, noise_curve, retrieval, summarise
from latentclap.models import random_system
from latentclap.pretrain.tasks import LatentCLAPTask
from latentclap.stats import min_f_prime
from latentclap.train import TensorBatches, TrainConfig, item_generators, train
from test_train import Regression, weights


class Told(nn.Module):
    """An encoder that gives the embeddings that it was told."""

    def __init__(self, E):
        super().__init__()
        self.E = nn.Parameter(E)

    def forward(self, latent):
        return self.E


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_eq_3_is_a_weighted_distance(reduction):
    """Zero where φ is right, and w(n) |E_audio - E_latent|^2 where it is not."""
    E_audio, E_latent = unit(3, 512, seed=0), unit(3, 512, seed=1)
    n, s_n = torch.tensor([0, 100, 400]), torch.randn(3, 8, 16, 16)
    right, wrong = (
        LatentCLAPLoss(Told(E), reduction=reduction)(s_n, s_n, n, E_audio).item() for E in (E_audio, E_latent)
    )
    assert right == 0
    square = (E_audio - E_latent).square().sum(1) / (512 if reduction == "mean" else 1)
    assert wrong == pytest.approx((10.0 ** (-n / 200) * square).mean().item(), rel=1e-5)


def test_eq_3_s_weight_is_of_the_loss_s_own_schedule():
    other = NoiseSchedule(beta_start=1e-4, beta_end=0.03)
    E_audio, E_latent = unit(1, 512, seed=0), unit(1, 512, seed=1)
    n, s_n = torch.tensor([300]), torch.randn(1, 8, 16, 16)
    loss = LatentCLAPLoss(Told(E_latent), schedule=other, weighting="snr")
    expected = step_weight(n, "snr", schedule=other) * (E_audio - E_latent).square().mean()
    assert loss(s_n, s_n, n, E_audio).item() == pytest.approx(expected.item(), rel=1e-5)
    assert step_weight(n, "snr", schedule=other).item() != pytest.approx(
        step_weight(n, "snr").item(), rel=0.1
    )


@pytest.mark.parametrize(
    ("drop", "tuned", "reading"),
    [(0.0, False, "x0"), (0.3, False, "x0"), (0.3, True, "renoised"), (1.0, False, "x0")],
)
def test_a_step_of_fine_tuning(tiny_cache, drop, tuned, reading):
    """Eq. 4 on a batch whose draws are known: posterior sample, dropped conditions, each embedding in its place.

    The tuning layer is for dropped conditions too: generation guides away from "" as it comes out of the layer.
    """
    system, phi = random_system("tiny", seed=5), LatentCLAP(width=4).eval()
    W, b = (
        0.05 * torch.randn(512, 512, generator=torch.Generator().manual_seed(8)),
        torch.linspace(-1, 1, 512),
    )
    if tuned:
        system.tuning = nn.Linear(512, 512)
        system.tuning.load_state_dict({"weight": W, "bias": b})
    loss = LatentCLAPLoss(phi, schedule=system.schedule, reading=reading)
    task = FinetuneTask(system, loss, 7.0, drop=drop)
    rows = torch.arange(4)
    batch = {k: tiny_cache[k][rows] for k in ("mean", "E_audio")}
    batch["E_text"] = 20 * unit(
        4, 512, seed=9
    )  # far from "" and from each other, so that a wrong one is seen
    batch["logvar"] = torch.full_like(batch["mean"], -0.5)
    z, eps = torch.randn(2, *batch["mean"].shape, generator=torch.Generator().manual_seed(2))
    u, n = torch.tensor([0.0, 0.25, 0.35, 0.9]), torch.tensor([3, 80, 300, 700])
    with torch.no_grad():
        terms = task(batch | {"u": u, "n": n, "z": z, "eps": eps}, [])
        s_0 = batch["mean"] + torch.exp(batch["logvar"] / 2) * z
        a = system.schedule.abar[n].reshape(-1, 1, 1, 1)
        s_n = a.sqrt() * s_0 + (1 - a).sqrt() * eps
        empty = system.encode_text([""])
        E = torch.stack([empty[0] if x < drop else e for x, e in zip(u, batch["E_text"], strict=True)])
        E = E @ W.T + b if tuned else E
        eps_theta = system.unet(s_n, n, encoder_hidden_states=None, class_labels=E).sample
        x0 = (s_n - (1 - a).sqrt() * eps_theta) / a.sqrt()
        shown = x0 if reading == "x0" else a.sqrt() * s_0 + (1 - a).sqrt() * eps_theta
        lclap = (10.0 ** (-n / 200) * (batch["E_audio"] - phi(shown)).square().mean(1)).mean()
    ddpm = (eps - eps_theta).square().mean()
    for name, value in (("ddpm", ddpm), ("lclap", lclap), ("loss", ddpm + 7 * lclap)):
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_what_a_step_of_fine_tuning_draws():
    """Every step of the schedule, its first and its last too, and two noises that have nothing in common."""
    system = random_system("tiny", seed=5)
    system.schedule = NoiseSchedule(steps=8)
    drawn = FinetuneTask(system, None, 0.0).draw(
        {"mean": torch.zeros(200, 8, 5, 2)}, item_generators(0, 0, 200)
    )
    assert sorted(set(drawn["n"].tolist())) == list(range(8))
    u = drawn["u"]
    assert 0 <= u.min() < 0.05 and 0.95 < u.max() < 1
    noises = torch.stack([drawn["z"].flatten(), drawn["eps"].flatten()])
    torch.testing.assert_close(torch.corrcoef(noises), torch.eye(2), atol=0.03, rtol=0)
    torch.testing.assert_close(noises.std(1), torch.ones(2), atol=0.03, rtol=0)
    assert abs(np.corrcoef(u, drawn["n"])[0, 1]) < 0.2


def test_a_step_of_pretraining_phi():
    """Eq. 2 on a sample of the posterior, not on its mean."""
    phi = LatentCLAP(width=4).eval()
    mean, E_audio = torch.randn(3, 8, 16, 16), unit(3, 512, seed=3)
    batch = {"mean": mean, "logvar": torch.full_like(mean, 1.0), "E_audio": E_audio}
    with torch.no_grad():
        terms = LatentCLAPTask(phi)(batch, item_generators(0, 0, 3))
        z = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in item_generators(0, 0, 3)])
        E_latent = phi(mean + np.exp(0.5) * z)
    square = (E_audio - E_latent).square()
    assert terms["loss"].item() == pytest.approx(square.sum(1).mean().item(), rel=1e-5)
    cosine = (E_audio * E_latent).sum(1) / E_latent.norm(dim=1)
    assert terms["cosine"].item() == pytest.approx(cosine.mean().item(), rel=1e-4)


@pytest.mark.parametrize("freq", [16, 32])
def test_phi_s_layers(freq):
    """PANNs' order: normalisation per frequency bin, four blocks, mean over frequency, maximum and mean over time.

    Of AudioLDM's 16 bins one is left after the blocks, of which everything is the mean.
    """
    phi = LatentCLAP(width=4, freq=freq).eval()
    torch.manual_seed(0)
    for norm in (m for m in phi.modules() if isinstance(m, nn.BatchNorm2d)):  # no two of them interchangeable
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.bias)
    latent = torch.randn(2, 8, 32, freq)
    bn = phi.bn0
    x = (latent - bn.running_mean) / torch.sqrt(
        bn.running_var + bn.eps
    ) * bn.weight + bn.bias  # last axis: frequency
    for block in phi.blocks:
        for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            x = norm(F.conv2d(x, conv.weight, padding=1)).clamp(min=0)
        x = F.avg_pool2d(x, 2)
    x = x.mean(3)
    x = x.amax(2) + x.mean(2)
    torch.testing.assert_close(phi(latent), phi.out(phi.fc1(x).clamp(min=0)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_s_noise_between_none_and_all(eta):
    """Against diffusers' step with the same noise: eta scales sigma, and the direction gets the rest."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    theirs.set_timesteps(20)
    schedule, (s, eps) = NoiseSchedule(), torch.randn(2, 2, 8, 4, 4)
    n = int(theirs.timesteps[7])
    noise = randn_per_item(s.shape, [torch.Generator().manual_seed(i) for i in (0, 1)])
    expected = theirs.step(eps, n, s, eta=eta, variance_noise=noise if eta else None).prev_sample
    generators = [torch.Generator().manual_seed(i) for i in (0, 1)]
    ours = _ddim_update(s, eps, schedule.abar[n], schedule.abar[n - 50], eta, generators)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_latents_are_scaled_with_their_spread():
    system = random_system("tiny", seed=1)
    system.vae.config.scaling_factor = 3.0
    waves = 0.1 * np.random.default_rng(0).standard_normal((2, system.samples))
    with torch.no_grad():
        raw = system.vae.encode(system.log_mel(waves)).latent_dist
    mean, logvar = system.posterior(waves)
    torch.testing.assert_close(mean, 3 * raw.mean)
    torch.testing.assert_close((logvar / 2).exp(), 3 * raw.std, rtol=1e-4, atol=1e-5)
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        system.encode(waves, seed=4), 3 * (raw.mean + raw.std * eps), rtol=1e-4, atol=1e-4
    )


def test_the_averaged_weights_are_what_is_left(tmp_path):
    """And they are those of the checkpoint, which keeps the others beside them."""
    x = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    data, config = (
        TensorBatches({"x": x, "y": x[:, :2] * 2}),
        TrainConfig(steps=6, batch_size=4, lr=0.02, ema_decay=0.9),
    )
    averaged, last = Regression(), Regression()
    train(averaged, data, config, tmp_path / "a", progress=False)
    train(last, data, config, tmp_path / "b", progress=False, use_ema=False)
    assert not torch.allclose(weights(averaged), weights(last), rtol=1e-3)
    state = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    for name, value in last.net.state_dict().items():
        torch.testing.assert_close(state["modules"]["net"][name], value)


def test_adam_gets_what_the_configuration_says(tmp_path):
    x = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(
        steps=1, batch_size=4, lr=0.02, beta1=0.7, beta2=0.91, weight_decay=0.3, warmup_steps=10
    )
    train(Regression(), TensorBatches({"x": x, "y": x[:, :2]}), config, tmp_path, progress=False)
    group = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"][0]
    assert (group["betas"], group["weight_decay"]) == ((0.7, 0.91), 0.3)
    assert group["lr"] == pytest.approx(0.02 / 10)  # in the very first step


def test_weight_decay_is_decoupled(tmp_path):
    """Where no gradient pulls, w becomes (1 - lr decay) w in each step; Adam's own way would make a whole step."""

    class Still(Regression):
        def forward(self, batch, rngs):
            return {"loss": 0 * self.net[0].weight.sum() + 1}

    task = Still()
    begun = task.net[0].weight.detach().clone()
    config = TrainConfig(steps=3, batch_size=4, lr=0.02, weight_decay=0.3)
    train(task, TensorBatches({"x": torch.zeros(8, 4)}), config, tmp_path, progress=False)
    torch.testing.assert_close(task.net[0].weight.detach(), begun * (1 - 0.02 * 0.3) ** 3)


def test_a_cache_is_of_its_weights():
    one, same, other = (random_system("tiny", seed=s) for s in (0, 0, 0))
    assert fingerprint(one) == fingerprint(same)
    with torch.no_grad():
        next(other.vae.parameters())[0] += 1e-3
    assert fingerprint(one) != fingerprint(other)


def test_vggish_s_floor():
    """log(mel + 0.01): silence is log 0.01 in every bin."""
    assert log_mel_patches(np.zeros(16_000)) == pytest.approx(np.log(0.01))


def test_an_interval_s_level():
    rng = np.random.default_rng(0)
    gen, ref = (
        ClipEmbeddings.from_clips(list(rng.standard_normal((12, 5, 4)) + shift)) for shift in (0.0, 0.4)
    )
    for level in (0.5, 0.95):
        found = fad_with_ci(gen, ref, n_boot=200, level=level, method="percentile", seed=1)
        assert (found.ci_low, found.ci_high) == pytest.approx(
            tuple(np.quantile(found.draws, [(1 - level) / 2, (1 + level) / 2]))
        )


def test_the_average_s_interval_is_centred_on_it():
    """The bootstrap's own bias is taken out, as each class's is."""
    spread = np.linspace(-1, 1, 201)
    told = {"level": 0.95, "method": "centred"}
    estimates = {
        c: types.SimpleNamespace(fad=fad, draws=fad + bias + spread, **told)
        for c, fad, bias in (("rain", 4.0, 2.0), ("gunshot", 6.0, 1.0))
    }
    low, high = EvalResult("name", estimates).average_ci
    assert (low, high) == pytest.approx((5 - 0.95, 5 + 0.95))


def test_min_f_prime():
    """Clark (1973), from F over raters (df 2, 40) and over clips (df 2, 20)."""
    value, error, _ = min_f_prime(8.0, 40, 4.0, 20, 2)
    assert value == pytest.approx(32 / 12)
    assert error == pytest.approx(144 / (64 / 20 + 16 / 40))


class Linear(nn.Module):
    """An encoder whose embedding is a latent's first numbers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, latent):
        return self.scale * latent.flatten(1)[:, :512]


class Measured:
    """A system that notes what its UNet is shown, predicts 0.2 s_n, and whose tuning layer doubles."""

    device, schedule = torch.device("cpu"), NoiseSchedule()

    def __init__(self):
        self.seen = []

    def condition(self, E):
        return 2 * E

    def eps_theta(self, s_n, n, E):
        self.seen.append((s_n.numpy(), n.tolist(), E))
        return 0.2 * s_n


ABAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)


@pytest.fixture
def held_out():
    g = torch.Generator().manual_seed(3)
    mean = torch.randn(3, 8, 16, 16, generator=g) * torch.tensor([1.0, 3.0, 9.0]).view(3, 1, 1, 1)
    return {"mean": mean, "E_audio": unit(3, 512, seed=1), "E_text": unit(3, 512, seed=2)}


def test_held_out_losses_of_each_level(held_out):
    """Another noise at each level, the same in every call; the condition as it comes out of the tuning layer."""
    system, again = Measured(), Measured()
    made = heldout_losses(system, Linear(), held_out, levels=4)
    assert heldout_losses(again, Linear(), held_out, levels=4) == made
    mean, E_audio = held_out["mean"].numpy(), held_out["E_audio"].numpy()
    noises = []
    for k, (s_n, n, E) in enumerate(system.seen):
        assert n == [125 + 250 * k] * 3 and torch.equal(E, 2 * held_out["E_text"])
        a = ABAR[n[0]]
        noises.append((s_n - np.sqrt(a) * mean) / np.sqrt(1 - a))
        assert made["ddpm"][k] == pytest.approx(((0.2 * s_n - noises[k]) ** 2).mean(), rel=1e-3)
        E_latent = ((s_n - np.sqrt(1 - a) * 0.2 * s_n) / np.sqrt(a)).reshape(3, -1)[:, :512]
        assert made["clap"][k] == pytest.approx(((E_audio - E_latent) ** 2).mean(), rel=1e-3)
    assert np.abs(np.corrcoef(np.stack(noises).reshape(4, -1)) - np.eye(4)).max() < 0.1


def test_the_noise_curve_s_condition_and_constant(held_out):
    system = Measured()
    made = noise_curve(Linear(), system, held_out, [0, 300])
    assert torch.equal(system.seen[0][2], 2 * held_out["E_text"])
    E = held_out["E_audio"].numpy()
    middle = E.mean(0) / np.linalg.norm(E.mean(0))
    assert made["mean_vector"] == pytest.approx([(E @ middle).mean()] * 2, rel=1e-5)
    assert made["noisy"][0] == made["x0"][0]


@pytest.mark.parametrize("weighting", ["paper", "constant"])
def test_who_steers_at_a_step(held_out, weighting):
    """The mean over clips of λ w |d eq. 3| / |d eq. 1|, each from its formula."""
    system = Measured()
    made = gradient_ratios(system, Linear(), held_out, ["x0"], [100], lam=50.0, weighting=weighting, clips=3)
    ((s_n, _, E),) = system.seen
    assert torch.equal(E, 2 * held_out["E_text"])
    a, mean = ABAR[100], held_out["mean"].numpy()
    eps = (s_n - np.sqrt(a) * mean) / np.sqrt(1 - a)
    first = 2 * (0.2 * s_n - eps).reshape(3, -1) / s_n.size
    x0 = (s_n - np.sqrt(1 - a) * 0.2 * s_n) / np.sqrt(a)
    distance = x0.reshape(3, -1)[:, :512] - held_out["E_audio"].numpy()
    w = 10 ** (-100 / 200) if weighting == "paper" else 1
    third = 50 * w * 2 * distance / distance.size * np.sqrt((1 - a) / a)
    expected = (np.linalg.norm(third, axis=1) / np.linalg.norm(first, axis=1)).mean()
    assert made["x0"][0] == pytest.approx(expected, rel=1e-3)


def test_clips_are_spread_over_a_cache():
    """0, 2.75, 5.5, 8.25 and 11, rounded."""
    assert _rows({"mean": torch.zeros(12)}, 5).tolist() == [0, 3, 6, 8, 11]
    assert _rows({"mean": torch.zeros(12)}, 0).tolist() == list(range(12))


def test_step_200_counts_as_low():
    told = summarise({"n": [200, 201], "ddpm": [1.0, 2.0], "clap": [0.0, 0.0], "cosine": [0.5, 0.1]})
    assert told["cosine_200"] == 0.5 and told["ddpm"] == 1.5


def test_retrieval_s_bounds():
    """Of seven clips one has five others nearer than itself: it is not among the first five. Length says nothing."""
    E_latent = 3 * torch.eye(7)
    E_latent[0] = torch.tensor([1.0, 2, 2, 2, 2, 2, 0])
    made = retrieval(E_latent, torch.eye(7), torch.arange(7))
    assert (made["R@1"], made["R@5"], made["same_class"]) == pytest.approx((6 / 7, 6 / 7, 6 / 7))
    assert made["cosine"] == pytest.approx((6 + 1 / 21**0.5) / 7)
    E_latent[0, 5] = 0.5
    assert retrieval(E_latent, torch.eye(7), torch.arange(7))["R@5"] == 1


def test_retrieval_counts_who_is_nearer():
    E_audio = torch.eye(4)
    E_latent = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.8, 0, 0], [0.9, 0.8, 0.7, 0], [0.9, 0.8, 0.7, 0.6]])
    found = retrieval(E_latent, E_audio, torch.tensor([0, 0, 1, 1]))
    assert found["R@1"] == pytest.approx(1 / 4) and found["R@5"] == 1
    assert found["same_class"] == pytest.approx(2 / 4)  # all point at the first clip


def test_a_time_budget_ends_a_run(tmp_path):
    """With a checkpoint, and the same call goes on; 0 is no budget."""
    x = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    data = TensorBatches({"x": x, "y": x[:, :2]})
    config = TrainConfig(steps=4, batch_size=4, lr=0.02, minutes=1e-9)
    first = train(Regression(), data, config, tmp_path, progress=False)
    assert (first.step, first.finished) == (1, False) and (tmp_path / "checkpoint.pt").is_file()
    assert train(Regression(), data, config, tmp_path, progress=False).step == 2
    whole = train(Regression(), data, replace(config, minutes=0.0), tmp_path, progress=False)
    assert (whole.step, whole.finished) == (4, True)


@pytest.mark.parametrize(("precision", "products"), [("tf32", "high"), ("no", "highest")])
def test_products_in_tf32_where_asked_for(tmp_path, precision, products):
    """And only there: what the process had before is given back."""
    seen, before = [], (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)

    class Looks(Regression):
        def forward(self, batch, rngs):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().forward(batch, rngs)

    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(steps=1, batch_size=4, lr=0.02, precision=precision)
    train(Looks(), TensorBatches({"x": x, "y": x[:, :2]}), config, tmp_path, progress=False)
    assert seen == [(products, precision == "tf32")]  # convolutions have a switch of their own
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
