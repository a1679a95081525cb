import warnings

import diffusers
import numpy as np
import pytest
import torch

from latentclap.diffusion import SAMPLERS, NoiseSchedule, guide, randn_per_item, sample, sampling_steps

SCHEDULER = dict(  # noqa: C408
    beta_start=0.0015,
    beta_end=0.0195,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


@pytest.fixture(scope="module")
def schedule():
    return NoiseSchedule()


def test_schedule_is_audioldm_s(schedule):
    # facts A4, from the published code's formula
    assert schedule.abar[0].item() == pytest.approx(0.9985, abs=1e-7)
    assert schedule.abar[999].item() == pytest.approx(1.423e-4, rel=1e-3)
    reference = diffusers.DDIMScheduler(**SCHEDULER)
    torch.testing.assert_close(schedule.abar, reference.alphas_cumprod, rtol=2e-5, atol=1e-9)


def test_inverses(schedule):
    s_0, eps = torch.randn(2, 6, 8, 4, 4)
    n = torch.tensor([0, 3, 50, 300, 700, 999])
    s_n = schedule.q_sample(s_0, n, eps)
    torch.testing.assert_close(schedule.predict_x0(s_n, n, eps), s_0, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(schedule.predict_eps(s_n, n, s_0), eps, rtol=1e-3, atol=1e-3)


def test_q_sample_agrees_with_diffusers(schedule):
    s_0, eps = torch.randn(2, 5, 8, 4, 4)
    n = torch.tensor([0, 10, 200, 500, 999])
    ours = schedule.q_sample(s_0, n, eps)
    torch.testing.assert_close(ours, diffusers.DDIMScheduler(**SCHEDULER).add_noise(s_0, eps, n))


def test_posterior_mean_is_ddpm_s(schedule):
    reference = diffusers.DDPMScheduler(
        **{k: v for k, v in SCHEDULER.items() if k not in ("set_alpha_to_one",)}
    )
    s_0, s_n = torch.randn(2, 1, 8, 4, 4)
    for n in (1, 40, 999):
        eps = schedule.predict_eps(s_n, torch.tensor([n]), s_0)
        mean = reference.step(eps, n, s_n, generator=torch.Generator().manual_seed(0))
        # DDPMScheduler adds noise: taken off by asking for its own variance
        noise = torch.randn(s_n.shape, generator=torch.Generator().manual_seed(0))
        mean = mean.prev_sample - reference._get_variance(n) ** 0.5 * noise
        torch.testing.assert_close(
            schedule.posterior_mean(s_0, s_n, torch.tensor([n])), mean, rtol=1e-4, atol=1e-4
        )


def test_posterior_at_step_zero_is_s_0(schedule):
    s_0, s_n = torch.randn(2, 1, 8, 4, 4)
    torch.testing.assert_close(schedule.posterior_mean(s_0, s_n, torch.tensor([0])), s_0)


def test_a_jump_to_step_zero_keeps_that_step_s_noise(schedule):
    """abar_0 is 0.9985, not 1: only a jump beyond it lands on the clean latent."""
    s_0, eps = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), -1.0)
    zero, before = schedule.ddim_step(s_0, eps, torch.tensor([0, -1])).flatten().tolist()
    assert zero == pytest.approx(3 * 0.9985**0.5 - 0.0015**0.5, rel=1e-5)
    assert before == 3


def test_snr_is_one_near_254(schedule):
    assert schedule.snr(torch.tensor([253, 256])).sub(1).sign().tolist() == [1, -1]


def test_guide():
    u, c = torch.tensor([1.0]), torch.tensor([3.0])
    assert guide(u, c, 1.0) == c
    assert guide(u, c, 0.0) == u
    assert guide(u, c, 2.0) == 5.0


def test_ladder_is_the_original_one():
    ladder = sampling_steps(1000, 200)
    assert ladder[:2].tolist() == [996, 991]
    assert ladder[-1] == 1
    for bad in (0, 1001):
        with pytest.raises(ValueError, match="between 1 and 1000"):
            sampling_steps(1000, bad)


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_every_count_of_steps_spans_the_schedule(offset):
    """300 steps once began at n = 898, 501 at 501, and 1000 took 999 twice; pure noise stands for the first s_n."""
    for steps in range(1, 1001):
        ladder = sampling_steps(1000, steps, offset)
        assert len(ladder) == steps
        assert (ladder.diff() < 0).all()
        assert 0 <= ladder[-1] <= offset
        assert 1000 - 2 * (1000 // steps) <= ladder[0] <= 999


def test_counts_that_leave_a_whole_distance_are_spread():
    """249 steps at a distance of 4 leave 4: they begin at 1 + 248 * 999 // 249 = 995, not at 1 + 248 * 4 = 993."""
    assert sampling_steps(1000, 249)[[0, 1, -2, -1]].tolist() == [995, 991, 5, 1]


@pytest.mark.parametrize("steps", [1, 2, 8, 12, 25, 50, 100, 200, 250, 500])
def test_counts_that_nearly_divide_keep_diffusers_steps(steps):
    """Records of these counts stay what they are."""
    scheduler = diffusers.DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    assert sampling_steps(1000, steps).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize(("steps", "unvisited"), [(200, 3), (12, 85), (2, 498)])
def test_steps_unvisited_at_the_top_are_those_told(steps, unvisited):
    assert 999 - sampling_steps(1000, steps)[0] == unvisited
    assert f"{unvisited} of {steps}" in sampling_steps.__doc__.replace(" steps of", " of")


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
def test_one_step_is_noise_and_says_so(schedule, sampler):
    noise = torch.randn(2, 8, 4, 4)
    with pytest.warns(UserWarning, match="steps=1: .* noise comes out; take 2 or more"):
        out = sample(gaussian, noise, schedule, steps=1, sampler=sampler, scheduler_config=SCHEDULER)
    torch.testing.assert_close(out, noise, rtol=0, atol=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # diffusers' own of a newer NumPy are another matter
        sample(gaussian, noise, schedule, steps=2, sampler=sampler, scheduler_config=SCHEDULER)


def test_one_step_from_a_start_is_no_mistake(schedule):
    """It is that of the latent as far as it was noised, and takes it all the way back."""
    s_0, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    s_n = schedule.q_sample(s_0, torch.full((2,), 300), eps)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        back = sample(lambda s, n: eps, s_n, schedule, steps=1, start=300)
    torch.testing.assert_close(back, schedule.q_sample(s_0, torch.zeros(2, dtype=torch.long), eps))


def gaussian(s, n):
    """The exact noise of s_n where s_0 has mean 2 and standard deviation one half."""
    abar = NoiseSchedule().abar[n].view(-1, 1, 1, 1)
    return (1 - abar).sqrt() * (s - 2 * abar.sqrt()) / (0.25 * abar + 1 - abar)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("steps", [7, 12, 50, 300, 334, 501, 600, 999, 1000])
def test_samplers_reach_a_gaussian(schedule, sampler, steps):
    """Once 1.64 of 501 steps, 1.77 of 600, and an IndexError of 1000 (dpmsolver++)."""
    noise = torch.randn(16, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    out = sample(gaussian, noise, schedule, steps=steps, sampler=sampler, scheduler_config=SCHEDULER)
    assert out.mean().item() == pytest.approx(2.0, abs=0.06)
    assert out.std().item() == pytest.approx(0.5, rel=0.35 if steps < 50 else 0.08 if steps < 100 else 0.02)


def model(s, n):
    """A noise model that is exact for data of variance one half, so that sampling has a known result."""
    abar = NoiseSchedule().abar[n].view(-1, 1, 1, 1)
    return s * (1 - abar).sqrt() / (0.5 * abar + 1 - abar)


@pytest.mark.parametrize("steps", [3, 10, 200])
def test_ddim_is_diffusers_ddim(schedule, steps):
    noise = torch.randn(2, 8, 4, 4)
    scheduler = diffusers.DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    s = noise
    for n in scheduler.timesteps:
        s = scheduler.step(model(s, n.expand(2)), n, s).prev_sample
    torch.testing.assert_close(sample(model, noise, schedule, steps=steps), s, rtol=1e-4, atol=1e-5)


def clip_of_twos(s, n):
    """The exact noise of s_n where the clean latent is 2 everywhere."""
    abar = NoiseSchedule().abar[n].view(-1, 1, 1, 1)
    return (s - 2 * abar.sqrt()) / (1 - abar).sqrt()


@pytest.mark.parametrize(("sampler", "left"), [("ddim", 0.0015), ("dpmsolver++", 0.0), ("unipc", 0.0)])
def test_what_noise_is_left_at_the_end(schedule, sampler, left):
    """DDIM ends at abar_0 as AudioLDM's does, the solvers at no noise at all, whatever diffusers' default is."""
    noise = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    out = sample(clip_of_twos, noise, schedule, steps=10, sampler=sampler, scheduler_config=SCHEDULER)
    # the path of one clip is straight: its noise is the first estimate's, scaled
    abar = np.prod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000)[:902] ** 2)
    eps = (noise.double() - 2 * abar**0.5) / (1 - abar) ** 0.5
    expected = 2 * (1 - left) ** 0.5 + left**0.5 * eps
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-3)


def test_a_schedule_of_one_step_has_no_more_to_take():
    one = NoiseSchedule(steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(lambda s, n: s, torch.zeros(1, 1, 2, 2), one, steps=1, scheduler_config={"steps_offset": 0})


def test_both_solvers_are_of_second_order():
    """As all records say; a third order gives other clips at the few steps that they are there for."""
    assert {name: SAMPLERS[name][1]["solver_order"] for name in ("dpmsolver++", "unipc")} == {
        "dpmsolver++": 2,
        "unipc": 2,
    }


def test_dpmsolver_is_the_paper_s_two_step_method():
    """DPM-Solver++(2M), arXiv:2211.01095, algorithm 2, on a schedule that no default of diffusers fits.

    x_t = sigma_t / sigma_s x_s + alpha_t (1 - e^-h) (x0_s + h / (2 h_before) (x0_s - x0_before)), of first order
    where it begins and where it ends, at x0.
    """
    schedule = NoiseSchedule(steps=400, beta_start=0.001, beta_end=0.02)
    abar = np.cumprod(1 - np.linspace(0.001**0.5, 0.02**0.5, 400) ** 2)
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    x = noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    ladder, before, h_before = sampling_steps(400, 6).tolist(), None, None
    for n, to in zip(ladder, [*ladder[1:], None], strict=True):
        x0 = (x - sigma[n] * torch.tanh(x + n / 400)) / alpha[n]
        if to is None:
            break
        h = np.log(alpha[to] / sigma[to]) - np.log(alpha[n] / sigma[n])
        D = x0 if before is None else x0 + h / (2 * h_before) * (x0 - before)
        x = sigma[to] / sigma[n] * x + alpha[to] * (1 - np.exp(-h)) * D
        before, h_before = x0, h
    ours = sample(
        lambda s, n: torch.tanh(s + n[0] / 400), noise.float(), schedule, steps=6, sampler="dpmsolver++"
    )
    torch.testing.assert_close(ours.double(), x0, rtol=1e-3, atol=1e-3)


def test_unipc_is_of_the_kind_that_the_records_are_of():
    """B(h) = e^h - 1 (bh2) on clean estimates with its corrector, as diffusers chooses where nothing is said."""
    solver = diffusers.UniPCMultistepScheduler(**SAMPLERS["unipc"][1])
    told = {name: solver.config[name] for name in ("solver_order", "solver_type", "predict_x0")}
    assert told == {"solver_order": 2, "solver_type": "bh2", "predict_x0": True}
    assert list(solver.config.disable_corrector) == []


def test_ddim_eta_one_keeps_the_variance(schedule):
    noise = torch.randn(64, 8, 8, 8)
    generators = [torch.Generator().manual_seed(i) for i in range(64)]
    out = sample(model, noise, schedule, steps=100, eta=1.0, generators=generators)
    assert out.var().item() == pytest.approx(0.5, rel=0.1)
    # by noise of its own: at eta 1 next to nothing is left of what it began with, at eta 0 all
    still = sample(model, noise, schedule, steps=100)
    alike = [torch.corrcoef(torch.stack([x.flatten(), noise.flatten()]))[0, 1] for x in (out, still)]
    assert abs(alike[0]) < 0.1 and alike[1] > 0.99


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
def test_samplers_recover_the_variance(schedule, sampler):
    noise = torch.randn(32, 8, 8, 8)
    out = sample(model, noise, schedule, steps=50, sampler=sampler, scheduler_config=SCHEDULER)
    assert out.var().item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
def test_the_solvers_come_to_ddim_s_answer_as_steps_grow(schedule, sampler):
    """As all three solve one equation; with diffusers' idea of AudioLDM's spacing these began at 801 of 200 steps."""
    noise = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))

    def distance(steps):
        out = sample(model, noise, schedule, steps=steps, sampler=sampler, scheduler_config=AUDIOLDM)
        return ((out - answer).norm() / answer.norm()).item()

    AUDIOLDM = SCHEDULER | {"timestep_spacing": "leading"}
    answer = sample(model, noise, schedule, steps=1000, scheduler_config=AUDIOLDM)
    few, more, many = map(distance, (10, 50, 250))
    assert many < 0.01
    assert many <= more <= few


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
@pytest.mark.parametrize("steps", [5, 12, 200, 300, 501, 1000])
def test_the_solvers_take_ddim_s_steps(schedule, sampler, steps):
    called = []
    sample(
        lambda s, n: called.append(n[0].item()) or s,
        torch.zeros(1, 8, 4, 4),
        schedule,
        steps=steps,
        sampler=sampler,
        scheduler_config=SCHEDULER | {"timestep_spacing": "leading"},
    )
    assert called == sampling_steps(1000, steps).tolist()


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("offset", [0, 1])
def test_the_checkpoint_says_where_the_steps_end(schedule, sampler, offset):
    """``steps_offset`` of its scheduler: AudioLDM's last step is 1, and is 1 where a configuration says nothing."""
    for config in ({"steps_offset": offset}, {} if offset else {"steps_offset": 0}):
        called = []

        def model(s, n, called=called):
            called.append(n[0].item())
            return s

        sample(model, torch.zeros(1, 8, 4, 4), schedule, steps=10, sampler=sampler, scheduler_config=config)
        assert called == [900 - 100 * k + offset for k in range(10)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_start_is_where_every_sampler_begins(schedule, sampler):
    """A model that is right everywhere would lead back from any other step as well."""
    called = []

    def model(s, n):
        called.append(n[0].item())
        return s

    sample(model, torch.zeros(1, 8, 4, 4), schedule, steps=4, sampler=sampler, start=301)
    assert called == [301, 201, 101, 1]


def test_unknown_sampler(schedule):
    with pytest.raises(ValueError, match="unknown sampler 'euler'"):
        sample(model, torch.zeros(1, 8, 4, 4), schedule, steps=2, sampler="euler")


def test_noise_of_an_item_does_not_depend_on_its_batch():
    def generators(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    both = randn_per_item((2, 3), generators(1, 2))
    assert torch.equal(both[1:], randn_per_item((1, 3), generators(2)))


def test_a_checkpoint_s_own_schedule_is_built():
    config = {"num_train_timesteps": 400, "beta_start": 0.00085, "beta_end": 0.012}
    reference = diffusers.DDIMScheduler(**config, beta_schedule="scaled_linear")
    schedule = NoiseSchedule.from_config(config)
    torch.testing.assert_close(schedule.abar, reference.alphas_cumprod, rtol=2e-5, atol=1e-9)
    assert schedule.steps == 400


def test_from_config_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="scaled_linear"):
        NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"})
    with pytest.raises(ValueError, match="epsilon"):
        NoiseSchedule.from_config({"prediction_type": "v_prediction"})


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
def test_eta_is_ddim_s_alone(schedule, sampler):
    with pytest.raises(ValueError, match="is deterministic; only ddim has an eta"):
        sample(model, torch.randn(1, 8, 4, 4), schedule, steps=5, sampler=sampler, eta=1.0)


@pytest.mark.parametrize(("steps", "start"), [(1, 400), (2, 1), (6, 500), (12, 999), (400, 399), (1000, 999)])
def test_steps_from_a_start_go_down_to_the_last_one(steps, start):
    ladder = sampling_steps(1000, steps, 1, start).tolist()
    assert len(set(ladder)) == steps and ladder == sorted(ladder, reverse=True)
    assert ladder[0] == start and ladder[-1] == (start if steps == 1 else min(1, start - steps + 1))


def test_a_start_below_which_there_is_no_room_for_the_steps():
    for steps, start in ((12, 10), (1, 1000), (1, -1)):
        with pytest.raises(ValueError, match=f"start={start}: must be between {steps - 1}"):
            sampling_steps(1000, steps, 1, start)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_from_the_first_step_on_it_is_the_whole_process(schedule, sampler):
    """200 steps begin at 996 (facts A4): what is noised that far and pure noise take the same way from there."""
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def model(s, n):
        return torch.tanh(s) * 0.9

    whole = sample(model, noise, schedule, steps=200, sampler=sampler)
    assert torch.equal(sample(model, noise, schedule, steps=200, sampler=sampler, start=996), whole)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("start", "steps"), [(100, 1), (100, 2), (500, 7), (900, 11), (999, 30), (3, 4)])
def test_a_noised_latent_comes_back_where_the_model_knows_it(schedule, sampler, start, steps):
    """An eps that is exact for one s_0 leads back to it from any s_n, whatever its noise was."""
    s_0, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    s_n = schedule.q_sample(s_0, torch.full((2,), start), eps)

    def known(s, n):
        return schedule.predict_eps(s, n, s_0)

    back = sample(
        known,
        s_n,
        schedule,
        steps=steps,
        sampler=sampler,
        start=start,
        scheduler_config={"set_alpha_to_one": True},
    )
    torch.testing.assert_close(back, s_0, atol=2e-3, rtol=0)
