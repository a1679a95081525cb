import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from latentclap.diffusion import NoiseSchedule
from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import (
    READINGS,
    WEIGHTINGS,
    LatentCLAPLoss,
    ddpm_loss,
    gradient_factor,
    latent_reading,
    mean_pull,
    step_weight,
    total_loss,
)

STEPS = torch.tensor([0, 10, 50, 100, 200, 500, 999])
# |d latent / d eps_theta| by hand from the schedule's definition (facts H), to the digits printed there
FACTORS = {
    "x0": [0.0388, 0.1307, 0.3015, 0.4636, 0.7919, 2.7752, 83.82],
    "posterior": [0.0388, 0.01219, 0.00665, 0.00568, 0.00560, 0.00850, 0.01969],
    "ddim": [0.0388, 0.0348, 0.0170, 0.0143, 0.0141, 0.0214, 0.0503],
    "renoised": [0.0387, 0.1296, 0.2886, 0.4206, 0.6208, 0.9408, 0.9999],
}


@pytest.fixture(scope="module")
def schedule():
    return NoiseSchedule()


@pytest.fixture(scope="module")
def phi():
    torch.manual_seed(0)
    return LatentCLAP(width=4).train()


@pytest.fixture
def batch(schedule):
    torch.manual_seed(1)
    s_0, eps = torch.randn(2, 4, 8, 32, 16)
    n = torch.tensor([5, 40, 150, 600])
    s_n = schedule.q_sample(s_0, n, eps)
    eps_theta = (eps + 0.3 * torch.randn_like(eps)).requires_grad_(True)
    E_audio = torch.nn.functional.normalize(torch.randn(4, 512), dim=-1)
    return {"s_0": s_0, "eps": eps, "n": n, "s_n": s_n, "eps_theta": eps_theta, "E_audio": E_audio}


def loss_of(loss, b):
    return loss(b["eps_theta"], b["s_n"], b["n"], b["E_audio"], s_0=b["s_0"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": torch.tensor([5, -1, 150, 600])}, "n=-1 is no step; they are 0 to 999"),
        ({"n": torch.tensor([5, 40, 150, 1000])}, "n=1000 is no step"),
        (
            {"n": torch.tensor([5, 40])},
            r"n is torch.int64 \(2,\); give one whole step number for each of the 4",
        ),
        ({"n": torch.tensor([[5, 40, 150, 600]])}, r"n is torch.int64 \(1, 4\)"),
        ({"n": torch.tensor(5)}, r"n is torch.int64 \(\)"),
        ({"n": torch.rand(4)}, "n is torch.float32"),
        ({"E_audio": torch.randn(3, 512)}, r"E_audio is \(3, 512\); give one embedding for each of the 4"),
        (
            {"E_audio": torch.randn(4, 256)},
            r"E_audio is \(4, 256\), but φ embeds these latents as \(4, 512\)",
        ),
        ({"E_audio": torch.randn(512)}, r"E_audio is \(512,\)"),
        ({"eps_theta": torch.randn(4, 8, 16, 16)}, r"output is \(4, 8, 16, 16\) and s_n \(4, 8, 32, 16\)"),
        ({"s_0": torch.randn(1, 8, 32, 16)}, "s_0 is"),
        ({"s_n": torch.randn(4, 32)}, r"latents are \(B, C, T, F\)"),
    ],
)
def test_wrong_shapes_and_steps_are_one_clear_line(phi, batch, change, says):
    with pytest.raises(InputError, match=says) as stop:
        loss_of(LatentCLAPLoss(phi), batch | change)
    assert "\n" not in str(stop.value)


def test_it_compiles_in_one_graph(phi, batch):
    """The look at the steps' values is left out there: it would break the graph."""
    torch._dynamo.reset()
    loss = LatentCLAPLoss(copy.deepcopy(phi).eval())
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss_of(compiled, batch), loss_of(loss, batch))


@pytest.mark.parametrize("reading", FACTORS)
def test_gradient_factors(schedule, reading):
    factors = gradient_factor(reading, schedule, STEPS)
    torch.testing.assert_close(factors, torch.tensor(FACTORS[reading]), rtol=2e-3, atol=6e-5)


def test_every_reading_is_tested():
    assert set(FACTORS) == set(READINGS)


def test_x0_is_posterior_at_step_zero(schedule):
    s_n, eps = torch.randn(2, 1, 8, 32, 16)
    zero = torch.tensor([0])
    a, b = (latent_reading(r, schedule, s_n, zero, eps) for r in ("x0", "posterior"))
    torch.testing.assert_close(a, b)


def test_true_noise_gives_the_clean_latent(schedule, batch):
    """Of `x0` at every step; a DDIM jump of five gives the same clip with the same noise five steps earlier."""
    s_n, n, eps = batch["s_n"], batch["n"], batch["eps"]
    torch.testing.assert_close(latent_reading("x0", schedule, s_n, n, eps), batch["s_0"], rtol=0, atol=1e-4)
    earlier = schedule.q_sample(batch["s_0"], n - 5, eps)
    torch.testing.assert_close(latent_reading("ddim", schedule, s_n, n, eps), earlier, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "n", "expected"),
    [
        ("paper", 0, 1.0),
        ("paper", 200, 0.1),
        ("paper", 999, 1.0116e-5),
        ("constant", 999, 1.0),
        ("step", 200, 1.0),
        ("step", 201, 0.0),
        ("step:100", 101, 0.0),
        ("exponential:30", 30, 0.5),
        ("snr", 0, 0.9985),
        ("min-snr", 0, 1.0),
        ("min-snr", 999, 1.423e-4 / 5),
    ],
)
def test_weights(kind, n, expected):
    assert step_weight(torch.tensor([n]), kind).item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 20.0])
def test_min_snr_is_capped_where_it_is_told(gamma):
    """min(SNR, gamma) as in arXiv:2303.09556, over gamma: the largest weight is 1 whatever gamma is."""
    n = torch.tensor([0, 60, 150, 254, 700])
    snr = numpys_abar()[n] / (1 - numpys_abar()[n])
    expected = np.minimum(snr, gamma) / gamma
    np.testing.assert_allclose(step_weight(n, "min-snr", gamma=gamma).numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_weights_are_float32_of_the_steps_shape(kind):
    """Also where the steps are whole numbers and the weight is 1."""
    w = step_weight(torch.tensor([[0, 3, 200], [201, 500, 999]]), kind)
    assert w.dtype == torch.float32 and w.shape == (2, 3)


def test_paper_weight_moments():
    # facts H: expectation over uniform n, and where its mass lies
    w = step_weight(torch.arange(1000))
    assert w.mean().item() == pytest.approx(0.08736, abs=1e-5)
    assert (w[:200].sum() / w.sum()).item() == pytest.approx(0.90, abs=0.005)


def test_paper_weight_is_an_exponential():
    n = torch.arange(1000)
    torch.testing.assert_close(step_weight(n), step_weight(n, "exponential"), rtol=1e-4, atol=1e-9)


def test_weight_may_be_a_callable():
    assert step_weight(torch.tensor([3]), lambda n: n * 2.0).item() == 6.0


@pytest.mark.parametrize(
    "kind", ["papers", "step:x", "exponential:-3", "exponential:0", "constant:3", "step:nan"]
)
def test_bad_weights(kind):
    with pytest.raises(ValueError, match="weighting"):
        LatentCLAPLoss(LatentCLAP(width=4), weighting=kind)


def test_no_gradient_reaches_phi(phi, batch):
    E_audio = batch["E_audio"].requires_grad_(True)
    loss_of(LatentCLAPLoss(phi), batch | {"E_audio": E_audio}).backward()
    assert batch["eps_theta"].grad.abs().sum() > 0
    assert all(p.grad is None for p in phi.parameters())
    assert E_audio.grad is None


def test_phi_is_left_as_it_was(phi, batch):
    before = {k: v.clone() for k, v in phi.state_dict().items()}
    loss = LatentCLAPLoss(phi)
    a, b = loss_of(loss, batch), loss_of(loss, batch)
    assert torch.equal(a, b)  # evaluation mode: no dropout
    assert phi.training
    assert all(torch.equal(v, before[k]) for k, v in phi.state_dict().items())  # batch norm saw nothing
    assert not list(loss.parameters())


def test_sum_is_512_means(phi, batch):
    mean, total = (loss_of(LatentCLAPLoss(phi, reduction=r), batch) for r in ("mean", "sum"))
    torch.testing.assert_close(total, 512 * mean)


def test_eq_3_by_hand(phi, schedule, batch):
    x0 = schedule.predict_x0(batch["s_n"], batch["n"], batch["eps_theta"])
    phi.eval()
    with torch.no_grad():
        squares = (batch["E_audio"] - phi(x0)).square().mean(1)
    phi.train()
    expected = (10.0 ** (-batch["n"] / 200) * squares).mean()
    torch.testing.assert_close(loss_of(LatentCLAPLoss(phi), batch), expected)


def test_renoised_needs_s_0(phi, batch):
    with pytest.raises(ValueError, match="s_0"):
        loss_of(LatentCLAPLoss(phi, reading="renoised"), batch | {"s_0": None})


@pytest.mark.parametrize("options", [{"reading": "x1"}, {"reduction": "max"}])
def test_bad_options(phi, options):
    with pytest.raises(ValueError, match="unknown"):
        LatentCLAPLoss(phi, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"clamp": c}, r"clamp=.*: it is None, or a number above 0") for c in (0.0, -1.0, float("nan"))]
    + [
        ({"reading": "ddim", "inference_steps": k}, "inference_steps=.*: it is a whole number from 1 to 1000")
        for k in (0, -5, 3000, 2.5)
    ],
)
def test_options_that_would_leave_no_gradient(phi, options, says):
    with pytest.raises(ValueError, match=says):
        LatentCLAPLoss(phi, **options)


def test_a_weighting_gives_one_weight_a_step(phi, batch):
    """(B, 1) would be broadcast to (B, B): every clip weighted by every other's step."""
    with pytest.raises(InputError, match=r"the weighting makes \(4, 1\) of n \(4,\)"):
        loss_of(LatentCLAPLoss(phi, weighting=lambda n: torch.ones(len(n), 1)), batch)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_steps_of_any_whole_type(phi, batch, dtype):
    few = {k: v[:2] for k, v in batch.items()}  # steps that an int8 holds
    expected = loss_of(LatentCLAPLoss(phi), few)
    assert torch.equal(loss_of(LatentCLAPLoss(phi), few | {"n": few["n"].to(dtype)}), expected)


@pytest.mark.parametrize("weighting", ["paper", "snr", "min-snr"])
def test_a_schedule_stays_float32(phi, batch, weighting):
    """In bf16 abar of the first steps is 1, and their SNR infinite."""
    loss = LatentCLAPLoss(phi, weighting=weighting)
    first = batch | {"n": torch.tensor([0, 1, 2, 600])}
    expected = loss_of(loss, first)
    assert torch.equal(loss_of(loss.to(torch.bfloat16), first), expected) and expected.isfinite()
    assert loss.schedule.to(torch.float16).abar.dtype == torch.float32


def test_phi_in_half_precision(batch):
    torch.manual_seed(0)
    phi = LatentCLAP(width=4).eval()
    exact = loss_of(LatentCLAPLoss(phi), batch)
    exact.backward()
    gradient, batch["eps_theta"].grad = batch["eps_theta"].grad, None
    half = {k: v.bfloat16() if k == "s_n" else v for k, v in batch.items()}
    loss = loss_of(LatentCLAPLoss(phi.bfloat16()), half)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.1, atol=0)
    cosine = torch.nn.functional.cosine_similarity(
        batch["eps_theta"].grad.flatten(), gradient.flatten(), dim=0
    )
    assert cosine > 0.9


def test_a_partly_frozen_phi_is_left_as_it_was(batch):
    phi = LatentCLAP(width=4).train()
    frozen = next(m for m in phi.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    modes = [m.training for m in phi.modules()]
    loss_of(LatentCLAPLoss(phi), batch)
    assert [m.training for m in phi.modules()] == modes and not frozen.training


def test_clamp_and_normalize(phi, batch):
    plain = loss_of(LatentCLAPLoss(phi), batch)
    assert not torch.equal(loss_of(LatentCLAPLoss(phi, normalize=True), batch), plain)
    assert torch.equal(loss_of(LatentCLAPLoss(phi, clamp=1e9), batch), plain)


class Seen(torch.nn.Module):
    """An encoder that keeps what it is shown, and embeds its first numbers."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, latent):
        self.latent = latent.detach()
        return self.scale * latent.flatten(1)[:, :512]


def numpys_abar():
    return np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)


def test_clamp_bounds_what_phi_is_shown_on_both_sides(batch):
    phi, a = Seen(), numpys_abar()[batch["n"]].reshape(-1, 1, 1, 1)
    loss_of(LatentCLAPLoss(phi, clamp=0.7), batch)
    s_n, eps = batch["s_n"].numpy(), batch["eps_theta"].detach().numpy()
    x0 = (s_n - np.sqrt(1 - a) * eps) / np.sqrt(a)
    assert x0.min() < -1 and x0.max() > 1
    np.testing.assert_allclose(phi.latent.numpy(), np.clip(x0, -0.7, 0.7), atol=1e-4)


def test_normalized_embeddings_have_unit_length_in_float32(batch):
    """Also of a φ in half precision, whose own arithmetic gives lengths off by half a percent."""
    loss = LatentCLAPLoss(Seen().bfloat16(), normalize=True)
    E = loss.embed(batch["s_n"].bfloat16())
    assert E.dtype == torch.float32
    np.testing.assert_allclose(np.linalg.norm(E.detach().numpy(), axis=1), 1, atol=1e-5)


def test_fewer_inference_steps_are_longer_jumps(batch):
    """Ten steps of a thousand: what φ is shown lies 100 steps earlier, and the clean estimate before step 100."""
    phi, abar = Seen(), numpys_abar()
    loss_of(LatentCLAPLoss(phi, reading="ddim", inference_steps=10), batch)
    s_n, eps = batch["s_n"].numpy(), batch["eps_theta"].detach().numpy()
    for i, n in enumerate((5, 40, 150, 600)):
        x0 = (s_n[i] - np.sqrt(1 - abar[n]) * eps[i]) / np.sqrt(abar[n])
        to = 1.0 if n < 100 else abar[n - 100]
        np.testing.assert_allclose(
            phi.latent[i].numpy(), np.sqrt(to) * x0 + np.sqrt(1 - to) * eps[i], atol=1e-4
        )


def test_a_jump_is_five_steps_where_nothing_is_said(batch):
    """The paper samples in 200 of 1000 steps (IV-B): by the true noise, the same clip five steps earlier."""
    phi = Seen()
    LatentCLAPLoss(phi, reading="ddim")(batch["eps"], batch["s_n"], batch["n"], batch["E_audio"])
    a = numpys_abar()[batch["n"] - 5].reshape(-1, 1, 1, 1)
    earlier = np.sqrt(a) * batch["s_0"].numpy() + np.sqrt(1 - a) * batch["eps"].numpy()
    np.testing.assert_allclose(phi.latent.numpy(), earlier, atol=1e-4)


def test_jumps_are_whole_steps_of_the_schedule_s_own_number():
    """400 steps in 150 jumps are jumps of two; |d/d eps| in closed form (facts H)."""
    abar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 400) ** 2)
    n = np.array([2, 5, 100, 399])
    to = abar[n - 2]
    expected = np.abs(np.sqrt(1 - to) - np.sqrt((1 - abar[n]) * to / abar[n]))
    found = gradient_factor("ddim", NoiseSchedule(steps=400), torch.from_numpy(n), inference_steps=150)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)


def test_sums_in_both_equations_leave_eq_3_a_64th():
    """As the page on eq. 3 says of AudioLDM's latents: the norms of eq. 1 and 3 are over 32,768 and 512 numbers."""
    torch.manual_seed(2)
    phi, (s_0, eps, s_n) = LatentCLAP(width=4).eval(), torch.randn(3, 2, 8, 256, 16)
    n, E_audio = torch.tensor([30, 200]), torch.randn(2, 512)
    with torch.no_grad():
        mean, total = (LatentCLAPLoss(phi, reduction=r)(eps, s_n, n, E_audio) for r in ("mean", "sum"))
    sums = (eps - s_0).square().flatten(1).sum(1).mean() + 2000 * total
    means = ddpm_loss(eps, s_0) + 2000 / 64 * mean
    torch.testing.assert_close(sums / 32_768, means)
    page = (Path(__file__).parents[1] / "book/eq3.md").read_text(encoding="utf-8")
    assert "32,768 numbers of a latent" in page and "a 64th of its weight" in page


def test_eq_4_with_lambda_zero_is_eq_1(phi, batch):
    ddpm = ddpm_loss(batch["eps_theta"], batch["eps"])
    total = total_loss({"ddpm": ddpm, "lclap": torch.tensor(float("nan"))}, {"ddpm": 1.0, "lclap": 0.0})
    assert torch.equal(total, ddpm)
    total = total_loss({"ddpm": ddpm, "lclap": ddpm}, {"ddpm": 1.0, "lclap": 3.0})
    torch.testing.assert_close(total, 4 * ddpm)
    with pytest.raises(ValueError, match="nothing to train"):
        total_loss({"ddpm": ddpm}, {"ddpm": 0})


def test_each_term_of_eq_4_pulls_as_its_lambda_says():
    terms = {
        k: torch.tensor(v, requires_grad=True) for k, v in (("ddpm", 0.5), ("lclap", 0.01), ("none", 2.0))
    }
    total = total_loss(terms, {"ddpm": 1.0, "lclap": 2000.0, "none": 0.0})
    assert total.item() == pytest.approx(20.5)
    total.backward()
    assert [term.grad and term.grad.item() for term in terms.values()] == [1.0, 2000.0, None]
    with pytest.raises(KeyError, match="lclap"):  # never one that was forgotten, at a weight of its own
        total_loss(terms, {"ddpm": 1.0, "none": 0.0})


def test_ddpm_loss_refuses_what_it_does_not_know():
    a = torch.zeros(2, 8, 4, 4)
    with pytest.raises(InputError, match="there are mean, none"):
        ddpm_loss(a, a, reduction="sum")
    with pytest.raises(InputError, match=r"eps_theta is \(2, 8, 4, 4\) and eps \(2, 8, 4\)"):
        ddpm_loss(a, a[..., 0])


def test_ddpm_loss_is_a_mean_per_element():
    a, b = torch.randn(2, 3, 8, 4, 4)
    torch.testing.assert_close(ddpm_loss(a, b), torch.nn.functional.mse_loss(a, b))
    assert ddpm_loss(a, b, reduction="none").shape == (3,)


def test_ddpm_loss_of_half_precision_is_added_up_in_single():
    """In float16 the difference of 2048 and 0.5 is 2048, and its square is infinite."""
    a, b = torch.full((2, 1, 2, 2), 2048.0).half(), torch.full((2, 1, 2, 2), 0.5).half()
    assert ddpm_loss(a, b).item() == 2047.5**2


def test_mean_pull_weighs_by_its_own_schedule():
    """Of equal betas abar_n = (1 - beta)^(n + 1), and with w = abar the pull is E[sqrt(abar - abar^2)]."""
    abar = 0.99 ** np.arange(1, 1001)
    same = NoiseSchedule(beta_start=0.01, beta_end=0.01)
    assert mean_pull("snr", schedule=same) == pytest.approx(np.sqrt(abar - abar**2).mean(), rel=1e-4)


def test_mean_pull_is_over_all_steps_of_a_schedule_and_no_others():
    """Of equal betas and w = 1 it is the mean of sqrt(1 / abar - 1), of few steps and of more than AudioLDM's."""
    for steps in (400, 1200):
        abar = 0.999 ** np.arange(1, steps + 1)
        same = NoiseSchedule(steps=steps, beta_start=0.001, beta_end=0.001)
        expected = np.sqrt(1 / abar - 1).mean()
        assert mean_pull("constant", schedule=same) == pytest.approx(expected, rel=1e-4)


def test_mean_pull_is_what_one_lambda_differs_in(schedule):
    """E[w f], by the closed form of the reading x0 (facts H), and what makes variants alike."""
    n = torch.arange(1000)
    f = ((1 - schedule.abar) / schedule.abar).sqrt()
    for w in ("paper", "constant", "snr", "step:100"):
        expected = (step_weight(n, w, schedule=schedule) * f).mean().item()
        assert mean_pull(w, schedule=schedule) == pytest.approx(expected, rel=1e-5)
    assert mean_pull("constant") > 100 * mean_pull() > 1000 * mean_pull(reading="posterior")
    # fewer sampling steps, larger jumps
    assert mean_pull(reading="ddim", inference_steps=12) > 5 * mean_pull(reading="ddim")
