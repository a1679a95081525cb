import copy
import threading

import numpy as np
import pytest
import torch

from latentclap.errors import InputError
from latentclap.finetune import (
    FinetuneConfig,
    device,
    finetune,
    load_weights,
    save_weights,
    train_latent_clap,
)
from latentclap.latent_clap import LatentCLAP
from latentclap.measure import embedded, gradient_ratios, heldout_losses, noise_curve, summarise
from latentclap.models import random_system
from latentclap.profiles import load_profile
from latentclap.train import TrainResult, loop
from latentclap.train.stream import Stream


@pytest.fixture(scope="module")
def phi():
    torch.manual_seed(0)
    return LatentCLAP(width=4).eval()


def config(**changes):
    return FinetuneConfig(**{"epochs": 2, "batch_size": 4, "lr": 1e-3, **changes})


def unet(system):
    return torch.cat([p.flatten() for p in system.unet.parameters()])


def run(tiny, phi, cache, folder, **changes):
    return finetune(tiny, phi, cache, config(**changes), folder, progress=False)


def test_it_trains_a_copy(tiny, phi, tiny_cache, tmp_path):
    before = unet(tiny).clone()
    tuned, result = run(tiny, phi, tiny_cache, tmp_path, lam=100.0, tuning=True)
    assert result.step == 6
    assert torch.equal(unet(tiny), before)
    assert not torch.equal(unet(tuned), before)
    assert tiny.tuning is None
    assert not torch.equal(tuned.tuning.weight, torch.eye(512))
    assert {"loss", "ddpm", "lclap"} <= set(result.history[0])


@pytest.mark.parametrize("tuning", [True, False])
def test_a_system_s_own_tuning_layer_is_gone_on_with(tiny, phi, tiny_cache, tmp_path, tuning):
    """Trained further, or folded into the UNet where none is trained: either way it begins with the same function."""
    own = copy.copy(tiny)
    own.tuning = torch.nn.Linear(512, 512)
    g = torch.Generator().manual_seed(0)
    own.tuning.weight.data += torch.eye(512)
    own.tuning.requires_grad_(False)
    s, E = torch.randn(2, *tiny.latent_shape, generator=g), torch.randn(2, 512, generator=g)
    n = torch.tensor([10, 900])

    def told(system):
        with torch.no_grad():
            E_cond = system.tuning(E) if system.tuning is not None else E
            return system.eps_theta(s, n, E_cond)

    tuned, _ = run(own, phi, tiny_cache, tmp_path, lam=1.0, tuning=tuning, lr=1e-12, epochs=1)
    assert (told(own) - told(tiny)).abs().max() > 1e-3 and (tuned.tuning is not None) == tuning
    torch.testing.assert_close(told(tuned), told(own), rtol=1e-3, atol=1e-4)
    assert own.tuning is not tuned.tuning and not own.tuning.weight.requires_grad
    trains = [
        part for part in (tuned.unet, tuned.tuning) if part is not None
    ]  # whatever the system's own did
    assert all(p.requires_grad for part in trains for p in part.parameters())
    # and the file that is left says the same, whatever it is loaded over
    save_weights(tuned, tmp_path / "w.safetensors")
    for base in (own, tiny):
        assert torch.equal(told(load_weights(base, tmp_path / "w.safetensors")), told(tuned))


def test_lambda_zero_is_plain_fine_tuning_bit_for_bit(tiny, phi, tiny_cache, tmp_path):
    a, _ = run(tiny, phi, tiny_cache, tmp_path / "a", lam=0.0)
    b, result = run(tiny, None, tiny_cache, tmp_path / "b", lam=0.0, reading="posterior")
    assert torch.equal(unet(a), unet(b))
    assert "lclap" not in result.history[0]


def test_recomputing_activations_changes_nothing(tiny, phi, tiny_cache, tmp_path):
    plain, _ = run(tiny, phi, tiny_cache, tmp_path / "a", lam=100.0)
    saved, _ = finetune(
        tiny, phi, tiny_cache, config(lam=100.0), tmp_path / "b", progress=False, checkpointing=True
    )
    assert torch.allclose(unet(plain), unet(saved), atol=1e-6)
    assert not saved.unet.is_gradient_checkpointing


def test_compiled_training_is_the_same_mathematics(tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """The captured graphs give the same losses, and the system is an ordinary one afterwards.

    Code is not generated from the graphs: inductor takes minutes on a CPU (data_scripts/benchmarks/speed.py agree).
    """
    compiled = []

    def capture(module, **options):
        compiled.append((type(module).__name__, type(getattr(module, "conv_norm_out", None)).__name__))
        assert options == {"dynamic": False}
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    changes = {"lam": 100.0, "epochs": 1}
    _, plain = run(tiny, phi, tiny_cache, tmp_path / "a", **changes)
    fast, result = finetune(
        tiny, phi, tiny_cache, config(**changes), tmp_path / "b", progress=False, compile=True
    )
    assert compiled == [("UNet2DConditionModel", "FastGroupNorm"), ("LatentCLAP", "NoneType")]
    losses = [[line["loss"] for line in r.history] for r in (plain, result)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert fast.unet._compiled_call_impl is None and phi._compiled_call_impl is None
    assert {type(m) for m in fast.unet.modules()} == {type(m) for m in tiny.unet.modules()}
    assert fast.generate(["rain"], 1, steps=2).shape == (1, fast.samples)


def test_a_thread_draws_the_same_noise(tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """As on a GPU: the next batch and its noise are prepared while a step runs, and the losses stay what they are."""
    changes = {"lam": 100.0, "epochs": 2}
    _, here = run(tiny, phi, tiny_cache, tmp_path / "a", **changes)
    names = set()
    drawn = Stream.drawn
    monkeypatch.setattr(
        loop._Loop, "lags", property(lambda self: True, lambda self, value: None), raising=False
    )
    monkeypatch.setattr(
        Stream,
        "drawn",
        lambda self, *at: names.add(threading.current_thread().name) or drawn(self, *at),
    )
    _, ahead = run(tiny, phi, tiny_cache, tmp_path / "b", **changes)
    assert [line["loss"] for line in here.history] == [line["loss"] for line in ahead.history]
    assert len(names) == 1 and threading.current_thread().name not in names
    assert not any(t.name in names for t in threading.enumerate())  # it went when training ended


def test_the_loss_changes_training(tiny, phi, tiny_cache, tmp_path):
    base, _ = run(tiny, phi, tiny_cache, tmp_path / "0", lam=0.0)
    seen = [unet(base)]
    for reading in ("x0", "posterior", "ddim", "renoised"):
        tuned, _ = run(tiny, phi, tiny_cache, tmp_path / reading, lam=1e4, reading=reading)
        assert not any(torch.equal(unet(tuned), other) for other in seen), reading
        seen.append(unet(tuned))


def test_eq_4_adds_up(tiny, phi, tiny_cache, tmp_path):
    _, result = run(tiny, phi, tiny_cache, tmp_path, lam=50.0)
    for line in result.history:
        assert line["loss"] == pytest.approx(line["ddpm"] + 50 * line["lclap"], rel=1e-5)


def test_frozen_parts_get_no_gradient(tiny, phi, tiny_cache, tmp_path):
    before = {k: v.clone() for k, v in tiny.clap.state_dict().items()}
    vae = {k: v.clone() for k, v in tiny.vae.state_dict().items()}
    run(tiny, phi, tiny_cache, tmp_path, lam=100.0)
    assert all(torch.equal(v, before[k]) for k, v in tiny.clap.state_dict().items())
    assert all(torch.equal(v, vae[k]) for k, v in tiny.vae.state_dict().items())
    assert all(p.grad is None for p in [*phi.parameters(), *tiny.clap.parameters(), *tiny.vae.parameters()])


def test_lambda_needs_phi(tiny, tiny_cache, tmp_path):
    with pytest.raises(InputError, match="needs a Latent CLAP encoder"):
        run(tiny, None, tiny_cache, tmp_path, lam=1.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"lam": -1.0}, {"lam": float("nan")}, {"lam": float("inf")}, {"epochs": 0}, {"drop": 1.0},
        {"grad_clip": -1.0}, {"batch_size": 0}, {"grad_accum": 0}, {"lr": float("nan")}, {"seed": -1},
        {"clamp": -1.0}, {"checkpoint_seconds": -1.0}, {"ema_decay": 1.0},
        {"reading": "x1"}, {"weighting": "papr"}, {"reduction": "max"},
    ],
)  # fmt: skip
def test_bad_configurations(bad):
    with pytest.raises(InputError, match=next(iter(bad))) as stop:
        config(**bad)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    "bad", [{"width": 0}, {"width": -3}, {"lr": float("nan")}, {"seed": -1}, {"batch_size": 0}]
)
def test_bad_configurations_of_phi(tiny_cache, tmp_path, bad):
    with pytest.raises(InputError, match=f"latent_clap.{next(iter(bad))}="):
        train_latent_clap(tiny_cache, tmp_path / "phi", progress=False, **bad)
    assert not (tmp_path / "phi").exists()


@pytest.fixture
def asked(monkeypatch):
    """Calls of the loop: (task, settings), without a step being done."""
    calls = []

    def train(task, data, settings, folder, **_):
        calls.append((task, settings))
        task.train()
        return TrainResult(settings.steps, True, 0.0, [], folder)

    for module in ("run", "encoder"):
        monkeypatch.setattr(f"latentclap.finetune.{module}.train", train)
    return calls


def test_every_setting_reaches_eq_3_and_the_loop(tiny, phi, tiny_cache, tmp_path, asked):
    """12 clips, 5 times, in steps of 5 x 2: 6 whole steps."""
    of_loss = {
        "reading": "posterior",
        "weighting": "constant",
        "reduction": "sum",
        "normalize": True,
        "clamp": 2.5,
    }
    of_loop = {
        "batch_size": 5, "grad_accum": 2, "lr": 3e-4, "grad_clip": 0.3, "ema_decay": 0.9, "seed": 11,
        "checkpoint_seconds": 5.0,
    }  # fmt: skip
    tuned, _ = run(tiny, phi, tiny_cache, tmp_path, lam=7.0, drop=0.25, epochs=5, **of_loss, **of_loop)
    ((task, settings),) = asked
    loss = task.constants[0]
    assert {name: getattr(loss, name) for name in of_loss} == of_loss
    assert loss.phi is phi and loss.schedule is tiny.schedule
    assert (task.lam, task.drop, settings.steps) == (7.0, 0.25, 6)
    assert {name: getattr(settings, name) for name in of_loop} == of_loop
    assert (settings.schedule, settings.warmup_steps, settings.weight_decay) == ("constant", 0, 0.0)
    assert not any(part.training for part in tuned.parts.values())


def test_fine_tuning_s_own_settings_are_those_told(tiny, tiny_cache, tmp_path, asked):
    finetune(tiny, None, tiny_cache, FinetuneConfig(), tmp_path, progress=False)
    ((task, settings),) = asked
    assert (task.lam, task.drop, settings.steps) == (0.0, 0.1, 500 * 12 // 8)
    told = (settings.lr, settings.grad_clip, settings.ema_decay, settings.grad_accum, settings.seed)
    assert told == (3e-6, 1.0, 0.0, 1, 0)
    assert torch.equal(task.constants[2], tiny.encode_text([""])[0])


def test_phi_is_trained_with_a_warm_up_and_a_cosine(tiny_cache, tmp_path, asked):
    """12 clips, 50 times, in steps of 5: 120 whole steps, 12 of them to warm up."""
    options = {"width": 4, "epochs": 50, "batch_size": 5, "progress": False}
    (one, _), (same, _), (other, _) = (
        train_latent_clap(tiny_cache, tmp_path, seed=seed, **options) for seed in (3, 3, 4)
    )
    settings = asked[0][1]
    assert (settings.steps, settings.warmup_steps, settings.schedule) == (120, 12, "cosine")
    assert (settings.lr, settings.seed, settings.batch_size) == (1e-3, 3, 5)
    assert torch.equal(one.out.weight, same.out.weight) and not torch.equal(one.out.weight, other.out.weight)
    assert not one.training and not any(p.requires_grad for p in one.parameters())


def test_accumulation_is_a_larger_batch(tiny, phi, tiny_cache, tmp_path):
    """Two passes of four clips are one of eight: as many steps, and the same losses up to rounding."""
    _, one = run(tiny, phi, tiny_cache, tmp_path / "a", lam=100.0, batch_size=8, epochs=4)
    _, two = run(tiny, phi, tiny_cache, tmp_path / "b", lam=100.0, batch_size=4, grad_accum=2, epochs=4)
    assert one.step == two.step == 6
    for a, b in zip(one.history, two.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


def test_what_training_took_along_comes_back(tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """A system on the CPU beside a GPU: accelerate's device is where the parts lie while they train, not after."""
    there, here = torch.nn.Linear(2, 2, device="meta"), torch.nn.Linear(2, 2)
    with pytest.raises(KeyError), device.brought_back([there, None, here]):
        there.to_empty(device="cpu")
        raise KeyError
    assert there.weight.device.type == "meta" and here.weight.device.type == "cpu"
    seen = []
    real = device.brought_back
    monkeypatch.setattr(
        "latentclap.finetune.run.brought_back", lambda modules: seen.extend(modules) or real(modules)
    )
    tuned, _ = run(tiny, phi, tiny_cache, tmp_path, lam=1.0, tuning=True, epochs=1)
    assert [id(m) for m in seen] == [id(m) for m in (tuned.unet, tuned.tuning, tiny.schedule, phi)]


def test_damaged_weights_are_one_line(tiny, phi, tiny_cache, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged"):
        load_weights(tiny, tmp_path / "weights.safetensors")


def test_weights_of_another_system_are_one_line(tiny, tmp_path):
    """torch lists each of some hundred weights, in a traceback."""
    save_weights(random_system("tiny"), tmp_path / "weights.safetensors")
    other = copy.copy(tiny)
    other.unet = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"weights\.safetensors: not weights of .* \(Missing key") as refused:
        load_weights(other, tmp_path / "weights.safetensors")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_compiled_modules_are_ordinary_ones_after_a_failure(tiny, phi, tiny_cache, tmp_path, monkeypatch):
    def capture(module, **_):
        module._compiled_call_impl = lambda *_, **__: 1 / 0

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    with pytest.raises(ZeroDivisionError):
        finetune(tiny, phi, tiny_cache, config(lam=1.0), tmp_path, progress=False, compile=True)
    assert phi._compiled_call_impl is None


def test_profile_gives_the_paper_s_lambdas():
    section = load_profile("paper").finetune
    assert FinetuneConfig.of(section).lam == 2000
    assert FinetuneConfig.of(section, tuning=True).lam == 1000
    assert FinetuneConfig.of(section, tuning=True, lam=3.0).lam == 3
    assert FinetuneConfig.of(section).lr == 3e-6


def test_training_phi_beats_the_mean_vector(tmp_path):
    """Held-out latents whose embedding can be read off them: a constant answer must not be the best there is.

    Guards against a dead last ReLU, with which the loss falls too, down to the distance of the mean vector.
    """
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(3, 8, 32, 16, generator=generator)
    target = torch.nn.functional.normalize(torch.randn(3, 512, generator=generator), dim=-1)
    label = torch.arange(96) % 3
    mean = pattern[label] + 0.5 * torch.randn(96, 8, 32, 16, generator=generator)
    cache = {"mean": mean, "logvar": torch.full_like(mean, -6.0), "E_audio": target[label]}
    train_set = {k: v[:72] for k, v in cache.items()}
    phi, _ = train_latent_clap(train_set, tmp_path, width=8, epochs=40, batch_size=12, progress=False)
    with torch.no_grad():
        ours = torch.nn.functional.cosine_similarity(phi(mean[72:]), target[label[72:]]).mean()
    constant = torch.nn.functional.cosine_similarity(target.mean(0, keepdim=True), target[label[72:]]).mean()
    assert ours > constant + 0.15
    assert not any(p.requires_grad for p in phi.parameters())


@pytest.mark.parametrize("count", [1, 3, 5, 7, 10, 200])
def test_the_weight_s_expectation_is_exact(count):
    """5 levels once gave .0703 and 10 levels .0822, of .0874 (facts H)."""
    levels = [int((k + 0.5) * 1000 / count) for k in range(count)]
    losses = {"n": levels, "ddpm": [1.0] * count, "clap": [1.0] * count, "cosine": [0.5] * count}
    assert summarise(losses)["lclap"] == pytest.approx(np.mean(10 ** (-np.arange(1000) / 200)), rel=1e-6)
    # and a loss that grows with n gives what all steps would
    losses["clap"] = [1 + level / 1000 for level in levels]
    exact = np.mean(10 ** (-np.arange(1000) / 200) * (1 + np.arange(1000) / 1000))
    assert summarise(losses)["lclap"] == pytest.approx(exact, rel=0.6 / count)


def test_heldout_losses_are_paired(tiny, phi, tiny_cache):
    a, b = (heldout_losses(tiny, phi, tiny_cache, levels=4, batch_size=k) for k in (5, 12))
    assert a["n"] == [125, 375, 625, 875]
    for key in ("ddpm", "clap", "cosine"):
        assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4)
    summary = summarise(a)
    assert summary["ddpm"] == pytest.approx(sum(a["ddpm"]) / 4)


def test_noise_curve_and_gradient_ratio(tiny, phi, tiny_cache):
    curve = noise_curve(phi, tiny, tiny_cache, [0, 500])
    assert curve["noisy"][0] == curve["x0"][0]
    assert curve["noisy"][1] != curve["x0"][1]
    # a few rows at a time, and nothing kept for a gradient; only the useless answer depends on what is given
    told = torch.zeros(512).index_fill(0, torch.tensor(3), 1.0)
    few = noise_curve(phi, tiny, tiny_cache, [0, 500], constant=told, batch_size=5)
    for name in ("noisy", "x0"):
        assert few[name] == pytest.approx(curve[name], abs=1e-5)
    E_audio = tiny_cache["E_audio"]
    assert few["mean_vector"] == pytest.approx([(E_audio[:, 3] / E_audio.norm(dim=1)).mean().item()] * 2)
    assert torch.allclose(embedded(phi, tiny_cache["mean"], batch_size=5), phi(tiny_cache["mean"]), atol=1e-6)


def test_measures_keep_no_graph(tiny, phi, tiny_cache, monkeypatch):
    """On 700 clips of full size a graph that is kept would take hundreds of GiB."""
    called = []
    inner = tiny.eps_theta

    def eps_theta(s_n, n, E):
        called.append((torch.is_grad_enabled(), len(s_n)))
        return inner(s_n, n, E)

    monkeypatch.setattr(tiny, "eps_theta", eps_theta)
    noise_curve(phi, tiny, tiny_cache, [0, 500], batch_size=5)
    heldout_losses(tiny, phi, tiny_cache, levels=1, batch_size=5)
    assert called == [(False, 5), (False, 5), (False, 2)] * 2
    one, two = (
        gradient_ratios(tiny, phi, tiny_cache, ["x0", "posterior"], [10, 300], lam=lam) for lam in (1.0, 2.0)
    )
    for reading in ("x0", "posterior"):
        assert [b / a for a, b in zip(one[reading], two[reading], strict=True)] == pytest.approx(
            [2, 2], rel=1e-4
        )
    # at step 300 the posterior mean hardly answers to the prediction (facts H)
    assert one["posterior"][1] < 0.1 * one["x0"][1]
