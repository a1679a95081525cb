"""Schedules of diffusers, continuous time, and networks that predict something else than noise: eq. 3 of them."""

import copy
import importlib.util
import math
import sys
import types

import diffusers
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from latentclap.book.predictions import FORMULAS, as_noisy, predictions_page, processes
from latentclap.diffusion import CosineTime, NoiseSchedule, RectifiedFlow, sample
from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import (
    READINGS,
    LatentCLAPLoss,
    ddpm_loss,
    gradient_factor,
    latent_reading,
    mean_pull,
    step_weight,
)
from latentclap.models import random_system

#: of stable-diffusion-2-1, whose scheduler TANGO takes
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
AUDIOLDM = SD | {"beta_start": 0.0015, "beta_end": 0.0195}
CONFIGS = {
    "audioldm": AUDIOLDM,
    "scaled_linear": SD,
    "linear": {
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "num_train_timesteps": 1000,
    },
    "few": {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.03, "num_train_timesteps": 50},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "trained_betas": {"trained_betas": np.linspace(0.001, 0.05, 300).tolist()},
    "rescale_betas_zero_snr": SD | {"rescale_betas_zero_snr": True},
    "rescaled linear": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
PROCESSES = {
    "epsilon": NoiseSchedule,
    "v_prediction": lambda: NoiseSchedule(prediction="v_prediction"),
    "sample": lambda: NoiseSchedule(prediction="sample"),
    "zero SNR": lambda: NoiseSchedule(rescale_betas_zero_snr=True, prediction="v_prediction"),
    "flow": RectifiedFlow,
    "cosine": CosineTime,
}


def readings_of(process):
    return [r for r in READINGS if not (process.continuous and r == "posterior")]


@pytest.fixture(scope="module")
def phi():
    torch.manual_seed(0)
    return LatentCLAP(width=4).eval()


def batch_of(process, count=4):
    """A batch in which the network is a little wrong."""
    torch.manual_seed(1)
    s_0, eps = torch.randn(2, count, 8, 32, 16)
    if process.continuous:
        n = torch.linspace(0, 1, count)
    else:
        n = torch.linspace(0, process.steps - 1, count).round().long()
    output = process.training_target(s_0, eps, n)
    output = (output + 0.3 * torch.randn_like(output)).requires_grad_(True)
    E_audio = normalize(torch.randn(count, 512), dim=-1)
    return s_0, eps, n, process.q_sample(s_0, n, eps), output, E_audio


# ------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_betas_are_diffusers_own(name, kind):
    if name == "sigmoid" and kind == "DDIMScheduler":
        pytest.skip("DDIM has none")
    reference = getattr(diffusers, kind)(**CONFIGS[name])
    made = NoiseSchedule.from_scheduler(reference)
    # theirs are products of up to a thousand factors in single precision
    torch.testing.assert_close(made.abar, reference.alphas_cumprod, rtol=3e-5, atol=1e-7)
    torch.testing.assert_close(made.betas, reference.betas, rtol=1e-4, atol=2e-6)
    again = NoiseSchedule.from_scheduler(dict(reference.config))
    for (one, a), (other, b) in zip(made.named_buffers(), again.named_buffers(), strict=True):
        assert one == other and torch.equal(a, b) and a.dtype == torch.float32


@pytest.mark.parametrize(
    "kind",
    ["DPMSolverMultistepScheduler", "PNDMScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"],
)
def test_other_schedulers_of_the_kind_are_read_too(kind):
    made = NoiseSchedule.from_scheduler(getattr(diffusers, kind)(**SD, prediction_type="v_prediction"))
    assert made.prediction == "v_prediction" and made.steps == 1000
    assert torch.equal(made.abar, NoiseSchedule(beta_start=0.00085, beta_end=0.012).abar)


def test_audioldm_s_by_name_is_the_default():
    made = NoiseSchedule.from_scheduler(diffusers.DDIMScheduler(**AUDIOLDM))
    for (_, a), (_, b) in zip(made.named_buffers(), NoiseSchedule().named_buffers(), strict=True):
        assert torch.equal(a, b)
    assert made.prediction == "epsilon" and made.scaled_linear and not made.zero_terminal_snr


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), r"FlowMatchEuler.*: no beta_schedule .* RectifiedFlow"),
        (dict(diffusers.FlowMatchEulerDiscreteScheduler().config), "no beta_schedule in its config"),
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler: no beta_schedule .* CosineTime"),
        (diffusers.DDPMScheduler(beta_schedule="laplace"), "unknown beta_schedule 'laplace'; there are"),
        # whose abar are shifted, as its config's betas do not tell
        (diffusers.CogVideoXDDIMScheduler(), "its alphas_cumprod are not those of its config's betas"),
        (
            SD | {"prediction_type": "flow_prediction"},
            "unknown prediction 'flow_prediction' for a NoiseSchedule",
        ),
        (SD | {"beta_end": 3}, "beta 3: betas are above 0"),
        ({"trained_betas": []}, "trained_betas: there is none"),
        ({"trained_betas": [0.1, 1.5]}, "beta 1.5"),
        (SD | {"num_train_timesteps": 0}, "steps=0"),
        (SD | {"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, "one step"),
        (object(), "object: no num_train_timesteps"),
    ],
)
def test_what_is_no_such_scheduler_is_one_line(scheduler, says):
    with pytest.raises(ValueError, match=says) as stop:
        NoiseSchedule.from_scheduler(scheduler)
    assert "\n" not in str(stop.value)


# ---------------------------------------------------------------- what a network's output says


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("config", [AUDIOLDM, SD | {"rescale_betas_zero_snr": True}])
def test_outputs_are_read_as_diffusers_reads_them(prediction, config):
    """Its clean latent, and by way of its jump its noise, at several steps."""
    theirs = diffusers.DDIMScheduler(
        **config, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(200)
    ours = NoiseSchedule.from_scheduler(theirs)
    assert ours.prediction == prediction
    s_n, output = torch.randn(2, 1, 8, 4, 4)
    for n in (6, 201, 901):
        told = theirs.step(output, n, s_n)
        at = torch.tensor([n])
        x0, eps = ours.output_to_x0(output, s_n, at), ours.output_to_eps(output, s_n, at)
        torch.testing.assert_close(x0, told.pred_original_sample, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.q_sample(x0, at - 5, eps), told.prev_sample, rtol=1e-3, atol=1e-4)
        jumped = latent_reading("ddim", ours, s_n, at, output)
        torch.testing.assert_close(jumped, told.prev_sample, rtol=1e-3, atol=1e-4)


def test_the_target_of_v_is_diffusers_velocity():
    theirs = diffusers.DDPMScheduler(**SD, prediction_type="v_prediction")
    ours = NoiseSchedule.from_scheduler(theirs)
    s_0, eps = torch.randn(2, 4, 8, 4, 4)
    n = torch.tensor([0, 10, 500, 999])
    expected = theirs.get_velocity(s_0, eps, n)
    torch.testing.assert_close(ours.training_target(s_0, eps, n), expected, rtol=1e-4, atol=1e-5)
    assert ours.training_target(s_0, eps, n, prediction="sample") is s_0
    assert ours.training_target(s_0, eps, n, prediction="epsilon") is eps


@pytest.mark.parametrize("name", PROCESSES)
def test_the_right_output_leads_back_to_latent_and_noise(name):
    """At every step but the few where it says nothing of one of them; v and the flow also there."""
    process = PROCESSES[name]()
    s_0, eps, n, s_n, _, _ = batch_of(process, 7)
    target = process.training_target(s_0, eps, n)
    torch.testing.assert_close(process.output_to_x0(target, s_n, n), s_0, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(process.output_to_eps(target, s_n, n), eps, rtol=1e-3, atol=2e-3)


def test_at_zero_terminal_snr_v_is_minus_the_latent_and_noise_says_nothing():
    process = NoiseSchedule.from_scheduler(SD | {"rescale_betas_zero_snr": True})
    assert process.zero_terminal_snr and process.abar[-1] == 0 and process.abar.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in process.buffers())
    s_0, eps, last = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4), torch.tensor([999])
    assert torch.equal(process.q_sample(s_0, last, eps), eps)
    assert torch.equal(process.training_target(s_0, eps, last, prediction="v_prediction"), -s_0)
    assert not process.predict_x0(eps, last, eps).isfinite().any()
    # the mean of the step before: what is left of s_0 there
    expected = process.abar[-2].sqrt() * s_0
    torch.testing.assert_close(process.posterior_mean(s_0, eps, last), expected)


@pytest.mark.parametrize("name", ["epsilon", "flow", "cosine"])
def test_an_unknown_prediction_is_one_line(name, phi):
    process = PROCESSES[name]()
    for wrong in ("v", "epsilon" if process.continuous else "flow_prediction"):
        with pytest.raises(ValueError, match=f"unknown prediction '{wrong}' for a {type(process).__name__}"):
            LatentCLAPLoss(phi, schedule=process, prediction=wrong)


# ------------------------------------------------------------------------------- continuous time


def test_a_flow_is_noised_and_stepped_as_by_diffusers():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=np.linspace(1, 0.02, 50))
    ours = RectifiedFlow()
    s_0, eps, u = torch.randn(3, 1, 8, 4, 4)
    for i in (0, 20, 48):
        t = theirs.sigmas[i : i + 1]
        s_t = theirs.scale_noise(s_0, theirs.timesteps[i : i + 1], eps)
        torch.testing.assert_close(ours.q_sample(s_0, t, eps), s_t)
        theirs._step_index = None
        told = theirs.step(u, theirs.timesteps[i], s_t).prev_sample
        jumped = latent_reading("ddim", ours, s_t, t, u, inference_steps=50)
        torch.testing.assert_close(jumped, told, rtol=1e-4, atol=1e-5)


def test_a_step_below_zero_ends_at_the_clean_latent():
    s_t, u = torch.randn(2, 1, 8, 4, 4)
    t = torch.tensor([0.003])
    torch.testing.assert_close(latent_reading("ddim", RectifiedFlow(), s_t, t, u), s_t - 0.003 * u)


def test_the_cosine_is_that_of_diffusers_scheduler_for_stable_audio(monkeypatch):
    """Theirs scales the noised latent by 1 / cos; its time, and what it makes of v."""
    if importlib.util.find_spec("torchsde") is None:  # which its random sampling needs, and nothing here
        monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    theirs = module.CosineDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction")
    ours, t = CosineTime(), torch.tensor([0.1, 0.5, 0.9])
    s_0, eps = torch.randn(2, 3, 8, 4, 4)
    sigma = torch.tan(t * torch.pi / 2).view(-1, 1, 1, 1)
    torch.testing.assert_close(theirs.precondition_noise(sigma).flatten(), t)
    s_t = ours.q_sample(s_0, t, eps)
    torch.testing.assert_close(theirs.precondition_inputs(s_0 + sigma * eps, sigma), s_t)
    v = torch.randn_like(s_0)
    told = theirs.precondition_outputs(s_0 + sigma * eps, v, sigma)
    torch.testing.assert_close(ours.output_to_x0(v, s_t, t), told, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("process", [RectifiedFlow(), CosineTime()])
def test_continuous_time_has_no_posterior(process, phi):
    says = f'reading "posterior" .* a {type(process).__name__} has no steps; choose x0, ddim or renoised'
    with pytest.raises(ValueError, match=says):
        LatentCLAPLoss(phi, schedule=process, reading="posterior")
    s_t = torch.zeros(1, 8, 4, 4)
    with pytest.raises(ValueError, match=says):
        latent_reading("posterior", process, s_t, torch.tensor([0.5]), s_t)


@pytest.mark.parametrize(
    ("n", "says"),
    [
        (torch.tensor([0.1, 0.5, 1.5, 0.2]), r"n=1.5 is no time \(diffusers' sigma\); they are 0 to 1"),
        (torch.tensor([0.1, -0.5, 0.5, 0.2]), "n=-0.5 is no time"),
        (torch.tensor([0.1, float("nan"), 0.5, 0.2]), "n=nan is no time"),
        (torch.tensor([1, 0, 1, 0]), "n is torch.int64 .*; give one time within 0 ... 1 for each of the 4"),
    ],
)
def test_times_are_within_0_and_1(phi, n, says):
    s_0, _, _, s_n, output, E_audio = batch_of(RectifiedFlow())
    with pytest.raises(InputError, match=says):
        LatentCLAPLoss(phi, schedule=RectifiedFlow())(output, s_n, n, E_audio, s_0=s_0)


def test_a_time_has_the_weight_of_step_t_n(phi):
    _, _, n, s_n, output, E_audio = batch_of(RectifiedFlow())
    for steps in (1000, 200):
        loss = LatentCLAPLoss(phi, schedule=RectifiedFlow(steps=steps))
        w, _ = loss.per_item(output, s_n, n, E_audio)
        np.testing.assert_allclose(w.numpy(), 10 ** (-n.numpy() * steps / 200), rtol=1e-5)
    t = n.numpy().astype(float)
    found = step_weight(n * 1000, "snr", schedule=RectifiedFlow())
    np.testing.assert_allclose(found.numpy(), (1 - t) ** 2 / ((1 - t) ** 2 + t**2), atol=1e-6)
    assert step_weight(n * 1000, "min-snr", schedule=RectifiedFlow()).tolist()[0] == 1


# ------------------------------------------------------------------------ readings and their pull


def closed_forms(process, n, k=5):
    """|d reading / d output| as the docstring of gradient_factor has it, in double precision by numpy."""
    if process.continuous:
        t = n.double().numpy()
        to = np.maximum(t - 1 / 200, 0)
        a, b, a_to, b_to = (
            (1 - t, t, 1 - to, to)
            if isinstance(process, RectifiedFlow)
            else (f(x * np.pi / 2) for x in (t, to) for f in (np.cos, np.sin))
        )
        if isinstance(process, RectifiedFlow):
            return {"x0": t, "ddim": t - to, "renoised": t * (1 - t)}
        return {"x0": b, "ddim": b * a_to - a * b_to, "renoised": a * b}
    abar = process.abar.double().numpy()
    n = n.numpy()
    before = np.where(n > 0, abar[n - 1], 1)
    to = np.where(n >= k, abar[n - k], 1)
    a, b, a_to, b_to = np.sqrt(abar[n]), np.sqrt(1 - abar[n]), np.sqrt(to), np.sqrt(1 - to)
    c_0 = np.sqrt(before) * process.betas.double().numpy()[n] / b**2
    with np.errstate(divide="ignore"):
        return {
            "epsilon": lambda: {
                "x0": b / a,
                "posterior": c_0 * b / a,
                "ddim": b * a_to / a - b_to,
                "renoised": b,
            },
            "v_prediction": lambda: {
                "x0": b,
                "posterior": c_0 * b,
                "ddim": b * a_to - a * b_to,
                "renoised": a * b,
            },
            "sample": lambda: {"x0": 1 + 0 * a, "posterior": c_0, "ddim": a_to - a * b_to / b, "renoised": a},
        }[process.prediction]()


@pytest.mark.parametrize("name", PROCESSES)
def test_gradient_factors_are_the_docstring_s(name):
    process = PROCESSES[name]()
    n = (
        torch.tensor([0.001, 0.004, 0.2, 0.5, 0.999])
        if process.continuous
        else torch.tensor([0, 4, 5, 200, 700])
    )
    forms = closed_forms(process, n)
    assert list(forms) == readings_of(process)
    for reading, expected in forms.items():
        found = gradient_factor(reading, process, n).double().numpy()
        np.testing.assert_allclose(found, np.abs(expected), rtol=5e-3, atol=2e-6, err_msg=reading)


def test_no_factor_of_v_exceeds_one_and_noise_s_does():
    n = torch.arange(1000)
    for reading in READINGS:
        assert gradient_factor(reading, NoiseSchedule(), n, prediction="v_prediction").max() <= 1
    assert gradient_factor("x0", NoiseSchedule(), n).max() > 80


def test_mean_pull_tells_the_factor_of_lambda():
    """Of v it is E[w b] (by numpy), less than of noise; a flow's over t in closed form, E[w t] with w = 10^(-5 t)."""
    n = np.arange(1000)
    abar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
    w = 10 ** (-n / 200)
    v = mean_pull(prediction="v_prediction")
    assert v == pytest.approx((w * np.sqrt(1 - abar)).mean(), rel=1e-4)
    assert v == mean_pull(schedule=NoiseSchedule(prediction="v_prediction"))
    assert 0.5 < v / mean_pull() < 1
    # uniform weights: noise's is ruled by its last steps, v's is not
    assert mean_pull("constant") / mean_pull("constant", prediction="v_prediction") > 5
    c = 5 * np.log(10)
    flow = (1 - np.exp(-c) * (1 + c)) / c**2
    assert mean_pull(schedule=RectifiedFlow()) == pytest.approx(flow, rel=1e-3)
    assert mean_pull(schedule=NoiseSchedule(rescale_betas_zero_snr=True)) == float("inf")


def logit_normal(t):
    """The density with which TangoFlux, among others, draws its times."""
    return torch.exp(-(torch.logit(t) ** 2) / 2) / ((2 * torch.pi) ** 0.5 * t * (1 - t))


def test_the_pull_of_times_that_are_not_uniform_is_a_mean_over_draws():
    """As the page's example takes it; here beside the same mean by the density of what is drawn."""
    flow = RectifiedFlow()
    t = torch.sigmoid(torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    drawn = (step_weight(flow.number(t)) * gradient_factor("x0", flow, t)).mean().item()
    by_density = mean_pull(lambda n: step_weight(n) * logit_normal(n / 1000), schedule=flow)
    assert drawn == pytest.approx(by_density, rel=0.02)
    assert drawn < 0.8 * mean_pull(schedule=flow)


@pytest.mark.parametrize("process", [RectifiedFlow, CosineTime])
def test_w_is_stretched_to_other_noise_levels_by_steps_or_by_its_half_life(process):
    t, at = torch.linspace(0, 1, 11), as_noisy(process())
    by_steps = step_weight(process(steps=round(1000 * 200 / at)).number(t))
    by_half_life = step_weight(process().number(t), f"exponential:{60.2 * at / 200}")
    torch.testing.assert_close(by_steps, by_half_life, rtol=0.02, atol=0)
    assert step_weight(torch.tensor([at]), f"exponential:{60.2 * at / 200}").item() == pytest.approx(
        0.1, rel=1e-2
    )


def test_eq_1_of_other_outputs_is_that_of_noise_over_the_share_of_the_latent():
    """Of v over abar_n, of a flow over (1 - t)^2."""
    for process, n in (
        (NoiseSchedule(prediction="v_prediction"), torch.tensor([5, 100, 400, 800])),
        (RectifiedFlow(), torch.tensor([0.005, 0.1, 0.4, 0.8])),
    ):
        s_0, eps, wrong = torch.randn(3, 4, 8, 4, 4)
        s_n = process.q_sample(s_0, n, eps)
        target = process.training_target(s_0, eps, n)
        output = target + wrong
        share = process.coefficients(n, n)[0] ** 2
        found = ddpm_loss(output, target, reduction="none")
        expected = ddpm_loss(process.output_to_eps(output, s_n, n), eps, reduction="none") / share
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_a_flow_from_noise_to_sound_is_given_turned_round():
    """Time tau from 0, noise, to 1, sound, target s_0 - eps, as in torchcfm: give 1 - tau and minus the output."""
    flow, tau = RectifiedFlow(), torch.tensor([0.1, 0.5, 0.9])
    s_0, eps, output = torch.randn(3, 3, 8, 4, 4)
    x = tau.view(-1, 1, 1, 1) * s_0 + (1 - tau).view(-1, 1, 1, 1) * eps
    torch.testing.assert_close(flow.q_sample(s_0, 1 - tau, eps), x)
    torch.testing.assert_close(-flow.training_target(s_0, eps, 1 - tau), s_0 - eps)
    # the way that is left, at the velocity that was said
    expected = x + (1 - tau).view(-1, 1, 1, 1) * output
    torch.testing.assert_close(flow.output_to_x0(-output, x, 1 - tau), expected)


def test_euler_schedulers_add_noise_without_the_scale_of_s_n():
    theirs = diffusers.EulerDiscreteScheduler(**SD, prediction_type="v_prediction")
    ours = NoiseSchedule.from_scheduler(theirs)
    s_0, eps = torch.randn(2, 2, 8, 4, 4)
    n = torch.tensor([100, 900])
    a, _ = ours.coefficients(n, s_0)
    torch.testing.assert_close(
        a * theirs.add_noise(s_0, eps, n.float()), ours.q_sample(s_0, n, eps), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_eq_3_does_not_ask_how_the_network_said_it(name, phi):
    """The same estimate, told as noise or as what this network predicts: one loss, gradients apart by the factors."""
    process = PROCESSES[name]()
    if name in ("zero SNR", "flow", "cosine"):
        pytest.skip("noise says nothing of the last step")
    s_0, _, n, s_n, output, E_audio = batch_of(process)
    n = torch.tensor([3, 40, 150, 600])
    output = output.detach().requires_grad_(True)
    told = process.output_to_eps(output, s_n, n).detach().requires_grad_(True)
    for reading in READINGS:
        output.grad = told.grad = None
        a = LatentCLAPLoss(phi, schedule=process, reading=reading)(output, s_n, n, E_audio, s_0=s_0)
        b = LatentCLAPLoss(phi, reading=reading)(told, s_n, n, E_audio, s_0=s_0)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=0)
        a.backward()
        b.backward()
        ratio = output.grad.flatten(1).norm(dim=1) / told.grad.flatten(1).norm(dim=1)
        expected = gradient_factor(reading, process, n) / gradient_factor(reading, NoiseSchedule(), n)
        torch.testing.assert_close(ratio, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_it_compiles_in_one_graph_and_is_finite_at_both_ends(name, phi):
    process = PROCESSES[name]()
    s_0, eps, n, s_n, output, E_audio = batch_of(process)  # from the first step to the last
    for reading in readings_of(process):
        torch._dynamo.reset()
        loss = LatentCLAPLoss(copy.deepcopy(phi), schedule=process, reading=reading)
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        expected = loss(output, s_n, n, E_audio, s_0=s_0)
        found = compiled(output, s_n, n, E_audio, s_0=s_0)
        torch.testing.assert_close(found, expected)
        output.grad = None
        (found + ddpm_loss(output, loss.training_target(s_0, eps, n))).backward()
        assert output.grad.isfinite().all() and expected.isfinite()


def test_half_precision_is_computed_in_single(phi):
    for name, make in PROCESSES.items():
        process = make()
        s_0, _, n, s_n, output, E_audio = batch_of(process)
        n = n.clamp(max=0.7 if process.continuous else 700)
        loss = LatentCLAPLoss(phi, schedule=process)
        half = [x.bfloat16() for x in (output.detach(), s_n)]
        single = [x.float() for x in half]
        times = n.bfloat16().float() if process.continuous else n
        found = loss(*half, n.bfloat16() if process.continuous else n, E_audio, s_0=s_0)
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, loss(*single, times, E_audio, s_0=s_0), rtol=1e-5, atol=0)


def test_latents_without_an_axis_of_frequency_are_taken():
    """As of autoencoders of waves, (B, C, T); what φ makes of them is φ's."""

    class Phi(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(64, 512)

        def forward(self, latent):
            return self.out(latent.mean(-1))

    s_0, eps = torch.randn(2, 3, 64, 20)
    t, loss = torch.rand(3), LatentCLAPLoss(Phi(), schedule=RectifiedFlow())
    s_t = loss.schedule.q_sample(s_0, t, eps)
    found = loss(loss.training_target(s_0, eps, t), s_t, t, torch.randn(3, 512))
    assert found.isfinite()


def toy_training(process, lam, steps=40):
    """A small network, told the step, learns one batch by eq. 4: eq. 3 of it before and after."""
    torch.manual_seed(3)
    phi = torch.nn.Sequential(
        torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 4, 16)
    ).eval()
    unet = torch.nn.Sequential(
        torch.nn.Conv2d(9, 32, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(32, 8, 3, padding=1)
    )
    loss = LatentCLAPLoss(phi, schedule=process)
    optimiser = torch.optim.Adam(unet.parameters(), lr=3e-3)
    s_0, eps = torch.randn(2, 8, 8, 32, 16)
    t = torch.linspace(0.1, 0.4, 8)
    n = t if process.continuous else (t * process.steps).long()
    s_n, E_audio = process.q_sample(s_0, n, eps), phi(s_0).detach()
    seen = torch.cat([s_n, t.view(-1, 1, 1, 1).expand(8, 1, 32, 16)], dim=1)
    distances = []
    for _ in range(steps):
        output = unet(seen)
        lclap = loss(output, s_n, n, E_audio)
        optimiser.zero_grad()
        (ddpm_loss(output, loss.training_target(s_0, eps, n)) + lam * lclap).backward()
        optimiser.step()
        distances.append(lclap.item())
    return distances[0], distances[-1]


@pytest.mark.parametrize("name", PROCESSES)
def test_it_pulls_the_embedding_nearer_in_a_few_steps(name):
    """Nearer than it was, and nearer than eq. 1 alone pulls it, with one λ matched by the mean pull."""
    process = PROCESSES[name]()
    lam = 10_000 * mean_pull() / mean_pull(schedule=process)
    (before, with_it), (same, without) = (toy_training(process, weight) for weight in (lam, 0.0))
    assert before == same
    assert with_it < 0.5 * before and with_it < 0.5 * without


# ------------------------------------------------------------------------------ the page's tables


def in_numbers(form, **values):
    """A formula of the page, computed."""
    for tex, code in (
        (r"\lvert", "abs("),
        (r"\rvert", ")"),
        (r"\,", "*"),
        ("a'", "a_to"),
        ("b'", "b_to"),
        ("t'", "t_to"),
    ):
        form = form.replace(tex, code)
    return eval(form, {}, values)


def test_the_page_s_formulas_are_the_derivatives():
    n, t = 300, 0.3
    abar = NoiseSchedule().abar.double()
    c = NoiseSchedule().posterior_c0[n].item()
    (a, b), (a_to, b_to) = (((x.sqrt()).item(), (1 - x).sqrt().item()) for x in (abar[n], abar[n - 5]))
    for name, row in FORMULAS.items():
        prediction = name.split("`")[1]
        process = RectifiedFlow() if prediction == "flow_prediction" else NoiseSchedule(prediction=prediction)
        at = torch.tensor([t]) if process.continuous else torch.tensor([n])
        for reading, form in zip(READINGS, row, strict=True):
            if not form:
                assert reading not in readings_of(process)
                continue
            expected = in_numbers(form, a=a, b=b, a_to=a_to, b_to=b_to, c=c, t=t, t_to=t - 1 / 200)
            found = gradient_factor(reading, process, at).item()
            assert found == pytest.approx(expected, rel=2e-3), (name, reading)


def test_the_page_has_the_pull_of_every_process(tmp_path):
    text = predictions_page(tmp_path / "predictions.md").read_text(encoding="utf-8")
    paper, tenth = mean_pull(), torch.tensor([200])
    for name, process in processes().items():
        (line,) = (row for row in text.splitlines() if row.startswith(f"| {name} |"))
        *cells, snr, step = line.strip("| ").split(" | ")[1:]
        for reading, cell in zip(READINGS, cells, strict=True):
            if reading in readings_of(process):
                pull = mean_pull(reading=reading, schedule=process) / paper
                assert float(cell) == pytest.approx(pull, rel=5e-3)
            else:
                assert cell == "none"
        assert float(snr) == pytest.approx(process.snr(process.at_number(tenth)).item(), rel=5e-3)
        # one step of a thousand is up to 1.5 % of the SNR there
        as_noisy = process.snr(process.at_number(torch.tensor([int(step)]))).item()
        assert as_noisy == pytest.approx(NoiseSchedule().snr(tenth).item(), rel=0.015)
    assert (tmp_path / "predictions.png").stat().st_size > 10_000
    assert "(predictions.png)" in text


# ---------------------------------------------------------------- what stays with predicted noise


@pytest.mark.parametrize("reading", ["x0", "posterior", "ddim"])
def test_predicted_noise_and_zero_terminal_snr_do_not_go_together(reading, phi):
    zero = NoiseSchedule(rescale_betas_zero_snr=True)
    with pytest.raises(
        ValueError, match=f"reading '{reading}' of predicted noise .* predict v or the sample"
    ):
        LatentCLAPLoss(phi, schedule=zero, reading=reading)
    LatentCLAPLoss(phi, schedule=zero, reading=reading, prediction="v_prediction")
    LatentCLAPLoss(phi, schedule=zero, reading="renoised")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prediction_type": "v_prediction"}, "'v_prediction': eq. 1 predicts noise"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "is not AudioLDM's scaled_linear"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is set"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is set"),
    ],
)
def test_a_system_of_ours_refuses_another_scheduler(change, says):
    """It would be trained and sampled as if it predicted noise in AudioLDM's schedule."""
    with pytest.raises(ValueError, match=says):
        NoiseSchedule.from_config(AUDIOLDM | change)
    system = random_system("tiny")
    system.scheduler = diffusers.DDIMScheduler(**AUDIOLDM | change)
    with pytest.raises(ValueError, match=says):
        system.__post_init__()


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
def test_sampling_is_of_predicted_noise_alone(sampler):
    noise = torch.randn(1, 8, 4, 4)
    options = {"steps": 4, "sampler": sampler}
    for schedule, config, says in (
        (
            NoiseSchedule(prediction="v_prediction"),
            None,
            "prediction 'v_prediction': only models that predict noise",
        ),
        (NoiseSchedule(), AUDIOLDM | {"prediction_type": "sample"}, "prediction 'sample'"),
        (NoiseSchedule(rescale_betas_zero_snr=True), None, "zero terminal SNR"),
    ):
        with pytest.raises(ValueError, match=says):
            sample(lambda s, n: s, noise, schedule, scheduler_config=config, **options)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
def test_other_schedules_of_predicted_noise_are_sampled_by_their_own_betas(sampler):
    """The right noise of a known clean latent leads to it, by solvers that are diffusers' too."""
    schedule = NoiseSchedule(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    s_0 = torch.full((1, 8, 4, 4), 1.5)
    found = sample(
        lambda s, n: schedule.predict_eps(s, n, s_0),
        torch.randn(1, 8, 4, 4),
        schedule,
        steps=25,
        sampler=sampler,
    )
    torch.testing.assert_close(found, s_0, rtol=0, atol=0.05)


def test_times_out_of_range_are_seen_where_no_value_is_looked_at():
    """Elsewhere than on a CPU: a flow that is given timesteps would have no eq. 3 at all, without a word."""
    flow = RectifiedFlow()
    assert flow.as_steps(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.0, 0.5, 1.0]
    assert flow.as_steps(torch.tensor([-0.1, 1.5, 700.0, math.nan])).isnan().all()


def test_a_scheduler_of_diffusers_is_no_schedule():
    with pytest.raises(
        ValueError, match=r"schedule is a DDPMScheduler; give NoiseSchedule\.from_scheduler of it"
    ):
        LatentCLAPLoss(torch.nn.Identity(), schedule=diffusers.DDPMScheduler())


def test_a_number_of_jumps_is_of_the_reading_that_jumps():
    """The paper's 200 is no fault of a short schedule for readings without a jump, nor of continuous time."""
    for reading, schedule in (
        ("x0", NoiseSchedule(steps=100)),
        ("x0", RectifiedFlow(steps=100)),
        ("ddim", RectifiedFlow(steps=100)),
    ):
        LatentCLAPLoss(torch.nn.Identity(), schedule=schedule, reading=reading)
    with pytest.raises(ValueError, match=r"inference_steps=200: it is a whole number from 1 to 100"):
        LatentCLAPLoss(torch.nn.Identity(), schedule=NoiseSchedule(steps=100), reading="ddim")
    with pytest.raises(ValueError, match=r"inference_steps=0: it is a whole number from 1 up"):
        LatentCLAPLoss(torch.nn.Identity(), inference_steps=0)


def test_all_that_a_room_names_is_there():
    for room in ("losses", "diffusion"):
        module = importlib.import_module(f"latentclap.{room}")
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
