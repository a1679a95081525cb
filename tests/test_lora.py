"""Fine-tuning of LoRA adapters: they train, stop and go on, travel in a file of their own, and are merged."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from latentclap import cli, lab, launch
from latentclap.book.lora import lora_tables
from latentclap.errors import InputError
from latentclap.fast import slow_down, speed_up
from latentclap.files import read_json, weights_digest, write_json
from latentclap.finetune import FinetuneConfig, finetune
from latentclap.lab.points import _relevant
from latentclap.latent_clap import LatentCLAP
from latentclap.limits import check_values
from latentclap.lora import (
    ADAPTER,
    TARGETS,
    Adapter,
    adapter_parameters,
    add_adapters,
    base_digest,
    merge_adapters,
    save_adapter,
    take_adapters,
)
from latentclap.memory import _peaks
from latentclap.models import audioldm_unet, random_system
from latentclap.profiles import load_profile
from latentclap.profiles import names as profile_names
from latentclap.system import FoleySystem
from latentclap.train.records import pack
from launching import alone

RANK = 3


@pytest.fixture(scope="module")
def phi():
    torch.manual_seed(0)
    return LatentCLAP(width=4).eval()


def config(**changes):
    return FinetuneConfig(**{"epochs": 2, "batch_size": 4, "lr": 1e-2, "lora_rank": RANK, **changes})


def run(tiny, phi, cache, folder, *, ways=None, minutes=0.0, **changes):
    return finetune(
        tiny, phi, cache, config(**changes), folder, progress=False, minutes=minutes, **(ways or {})
    )


@pytest.fixture(scope="module")
def trained(tiny, phi, tiny_cache, tmp_path_factory):
    """A system with a tuning layer that was trained along, what the loop reports, and the folder."""
    folder = tmp_path_factory.mktemp("lora")
    return *run(tiny, phi, tiny_cache, folder, lam=100.0, tuning=True), folder


@pytest.fixture(scope="module")
def adapted_once(tiny):
    """A UNet with adapters that are not zero, for all tests."""
    unet = add_adapters(copy.deepcopy(tiny.unet), RANK, seed=1)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if ".lora_B." in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return unet


@pytest.fixture
def adapted(adapted_once):
    """One of a test's own."""
    return copy.deepcopy(adapted_once)


def told(unet, tiny, batch=2):
    g = torch.Generator().manual_seed(0)
    s, E = torch.randn(batch, *tiny.latent_shape, generator=g), torch.randn(batch, 512, generator=g)
    return unet(s, torch.tensor([10, 900]), encoder_hidden_states=None, class_labels=E).sample


def same(one, other, **close):
    pairs = [(one.state_dict(), other.state_dict())]
    assert all(a.keys() == b.keys() for a, b in pairs)
    if close:
        return all(torch.allclose(a[k], b[k], **close) for a, b in pairs for k in a)
    return all(torch.equal(a[k], b[k]) for a, b in pairs for k in a)


# ---------------------------------------------------------------------------------------- adapters


def test_they_begin_as_the_same_function_of_the_seed_alone(tiny):
    before = torch.get_rng_state()
    unet = add_adapters(copy.deepcopy(tiny.unet), RANK, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    again = add_adapters(copy.deepcopy(tiny.unet), RANK, seed=5)
    other = add_adapters(copy.deepcopy(tiny.unet), RANK, seed=6)
    assert same(unet, again) and not same(unet, other)
    for name, value in take_adapters(unet).items():  # A as a linear layer begins: evenly up to 1 / sqrt(in)
        bound = value[0].numel() ** -0.5 if ".lora_A." in name else 0
        assert 0.7 * bound <= value.abs().max() <= bound
    with torch.no_grad():
        assert torch.equal(told(unet, tiny), told(tiny.unet, tiny))
    with pytest.raises(InputError, match="has adapters already"):
        add_adapters(unet, RANK)


def test_every_target_and_nothing_else_trains(tiny, adapted):
    names = {key.rpartition(".lora_")[0] for key in take_adapters(adapted)}
    for target in TARGETS:
        assert any(f".{name}".endswith(f".{target}") for name in names), target
    products = {
        name
        for name, m in tiny.unet.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    }
    left = products - names
    assert {n for n in left if not n.endswith("conv_shortcut")} == {
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    }
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    total = sum(p.numel() for p in tiny.unet.parameters())
    assert adapter_parameters(tiny.unet.config, RANK) == (trained, total)
    assert sum(v.numel() for v in take_adapters(adapted).values()) == trained


def test_the_full_size_is_counted_without_memory():
    with torch.device("meta"):
        config = audioldm_unet().config
    trained, total = adapter_parameters(config, 16)
    assert round(total / 1e6, 2) == 415.95 and trained / total < 0.05
    assert adapter_parameters(config, 64)[0] == 4 * trained
    assert adapter_parameters(config, 0) == (total, total)


def test_merged_is_the_same_function_in_an_ordinary_unet(tiny, adapted):
    with torch.no_grad():
        apart, base = told(adapted, tiny), told(tiny.unet, tiny)
        merged = told(merge_adapters(adapted), tiny)
    assert (apart - base).abs().max() > 0.1
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-5)
    assert [n for n, _ in adapted.named_modules()] == [n for n, _ in tiny.unet.named_modules()]
    assert adapted.state_dict().keys() == tiny.unet.state_dict().keys()
    assert [type(m) for m in adapted.modules()] == [type(m) for m in tiny.unet.modules()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_our_kernels_see_the_adapters(tiny, adapted, checkpointing):
    """Loss and gradients, of UNets that differ in nothing but our blocks."""
    fast = speed_up(copy.deepcopy(adapted))
    assert type(fast.mid_block.attentions[0]).__name__ == "FastTransformer"
    if checkpointing:
        fast.enable_gradient_checkpointing()
    results = []
    for net in (adapted, fast.train()):
        loss = told(net, tiny).square().mean()
        loss.backward()
        results.append((loss, {n: p.grad for n, p in net.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for name, grad in results[0][1].items():
        assert grad is not None and grad.abs().max() > 0, name
        torch.testing.assert_close(results[1][1][name], grad, rtol=1e-3, atol=1e-5)
    assert same(slow_down(fast), adapted)


@pytest.mark.parametrize("fast", [False, True])
def test_the_first_attention_learns_by_itself_under_checkpointing(tiny, fast):
    """Nothing before it needs gradients: checkpointing that goes by its inputs (use_reentrant) would give none."""
    from peft import LoraConfig

    grads = []
    for checkpointing in (False, True):
        net = copy.deepcopy(tiny.unet)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            targets = ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"]
            net.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        for name, p in net.named_parameters():
            p.requires_grad_(".lora_" in name)
        net = speed_up(net) if fast else net
        if checkpointing:
            net.enable_gradient_checkpointing()
        told(net.train(), tiny).square().mean().backward()
        grads.append([p.grad for p in net.parameters() if p.requires_grad])
    assert len(grads[0]) == 2 and all(g.abs().max() > 0 for g in grads[0])
    for without, with_ in zip(*grads, strict=True):
        torch.testing.assert_close(with_, without, rtol=1e-3, atol=1e-12)


def test_one_adapter_by_itself_is_seen_by_our_kernels(tiny):
    """Whichever layer has one: also one that we never put there."""
    from peft import LoraConfig

    names = [*TARGETS, "conv1", "conv_shortcut", "conv_out", "time_embedding.linear_1"]
    for target in names:
        net = copy.deepcopy(tiny.unet)
        net.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=[target], init_lora_weights=False))
        with torch.no_grad():
            apart = told(net, tiny)
            if (apart - told(tiny.unet, tiny)).abs().max() < 1e-5:
                pytest.fail(f"{target}: the adapter does nothing")
            torch.testing.assert_close(told(speed_up(net), tiny), apart, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------- training


def test_only_adapters_and_tuning_layer_train(tiny, trained):
    tuned, result, folder = trained
    assert result.finished and not same(tuned.unet, tiny.unet)
    changed = {k for k, v in tuned.unet.state_dict().items() if not torch.equal(v, tiny.unet.state_dict()[k])}
    assert {k.removesuffix(".weight") for k in changed} == {
        k.rpartition(".lora_")[0] for k in Adapter.read(folder).unet
    }
    assert not torch.equal(tuned.tuning.weight, torch.eye(512)) and tiny.tuning is None
    assert all(p.requires_grad for p in tuned.unet.parameters())
    assert tuned.generate(["rain"], 1, steps=2).shape == (1, tuned.samples)


def test_without_a_rank_nothing_of_it_is_there(tiny, phi, tiny_cache, tmp_path):
    tuned, _ = run(tiny, phi, tiny_cache, tmp_path, lora_rank=0, epochs=1)
    assert not (tmp_path / ADAPTER).exists()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert "frozen" not in state and state["modules"]["unet"].keys() == tiny.unet.state_dict().keys()
    assert not hasattr(tuned.unet, "peft_config")


def test_a_checkpoint_holds_what_trains(trained, tiny):
    folder = trained[2]
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    unet = state["modules"]["unet"]
    assert unet and all(".lora_" in k for k in unet) and set(state["modules"]["tuning"]) == {"weight", "bias"}
    assert len(state["optimizer"]["state"]) == len(unet) + 2
    assert state["frozen"] == f"LoRA of rank {RANK} on weights {base_digest(tiny)}"


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5, "tuning": True}], ids=["plain", "averaged"])
def test_an_interrupted_run_goes_on_exactly(tiny, phi, tiny_cache, tmp_path, changes):
    whole, one = run(tiny, phi, tiny_cache, tmp_path / "a", lam=100.0, **changes)
    for _ in range(20):
        parts, two = run(tiny, phi, tiny_cache, tmp_path / "b", lam=100.0, minutes=1e-9, **changes)
        if two.finished:
            break
        assert not (tmp_path / "b" / ADAPTER).exists()
    assert one.step == two.step == 6
    assert same(whole.unet, parts.unet)
    assert whole.tuning is None or same(whole.tuning, parts.tuning)
    a, b = (load_file(tmp_path / name / ADAPTER) for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    if changes:
        state = torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)
        assert {k.partition(".")[0] for k in state["ema"]["shadow"]} == {"unet", "tuning"}
        assert all(".lora_" in k for k in state["ema"]["shadow"] if k.startswith("unet."))


def test_a_packed_checkpoint_goes_on(tiny, phi, tiny_cache, tmp_path):
    run(tiny, phi, tiny_cache, tmp_path / "a", minutes=1e-9, ema_decay=0.5)
    (tmp_path / "b").mkdir()
    assert pack(tmp_path / "a", tmp_path / "b" / "checkpoint.pt") == 1
    _, result = run(tiny, phi, tiny_cache, tmp_path / "b", ema_decay=0.5)
    assert result.finished


def test_a_checkpoint_of_another_base_rank_or_way_is_refused(tiny, phi, tiny_cache, tmp_path):
    run(tiny, phi, tiny_cache, tmp_path, minutes=1e-9)
    other = copy.copy(tiny)
    other.unet = copy.deepcopy(tiny.unet)
    other.unet.conv_in.weight.data += 1
    for system, rank in ((other, RANK), (tiny, RANK + 1), (tiny, 0)):
        with pytest.raises(InputError, match=f"is of another run .LoRA of rank {RANK} on") as stop:
            run(system, phi, tiny_cache, tmp_path, lora_rank=rank)
        assert "\n" not in str(stop.value)
    run(tiny, phi, tiny_cache, tmp_path / "full", lora_rank=0, minutes=1e-9)
    with pytest.raises(InputError, match="all weights train; here LoRA"):
        run(tiny, phi, tiny_cache, tmp_path / "full")


def test_the_seed_is_that_of_the_run(tiny, phi, tiny_cache, tmp_path):
    first = [
        run(tiny, phi, tiny_cache, tmp_path / n, seed=s, epochs=1)[0]
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert same(first[0].unet, first[1].unet) and not same(first[0].unet, first[2].unet)
    # not of its order and noise alone: the adapters begin by it too
    run(tiny, phi, tiny_cache, tmp_path / "d", seed=2, epochs=1, lr=1e-12)
    begun, left = (
        take_adapters(add_adapters(copy.deepcopy(tiny.unet), RANK, seed=2)),
        load_file(tmp_path / "d" / ADAPTER),
    )
    for name, value in begun.items():
        torch.testing.assert_close(left[f"unet.{name}"], value, rtol=0, atol=1e-6)


def test_ways_of_computing_change_nothing(tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """As in test_finetune: graphs are captured, with our kernels in them, and no code is generated."""

    def capture(module, **_):
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", capture)
    tuned, one = run(tiny, phi, tiny_cache, tmp_path / "a", lam=100.0, epochs=1)
    for name, close in (("checkpointing", 1e-4), ("compile", 1e-4), ("channels_last", 1e-4), ("bf16", 3e-2)):
        ways = {"precision": "bf16"} if name == "bf16" else {name: True}
        other, two = run(tiny, phi, tiny_cache, tmp_path / name, lam=100.0, epochs=1, ways=ways)
        losses = [[line["loss"] for line in r.history] for r in (one, two)]
        assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=close), name
        assert [type(m) for m in other.unet.modules()] == [type(m) for m in tiny.unet.modules()]
        assert {v.dtype for v in load_file(tmp_path / name / ADAPTER).values()} == {torch.float32}
        applied = tiny.with_lora(tmp_path / name)
        assert same(applied.unet, other.unet) and same(applied.unet, tuned.unet, atol=20 * close)


def test_traced_in_one_piece(tiny, adapted):
    """torch.compile sees our kernels and the adapters as one graph."""
    net = speed_up(adapted)
    graph = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(told(graph, tiny), told(net, tiny))


@pytest.mark.parametrize("tuning", [True, False])
def test_over_a_system_s_own_tuning_layer(tiny, phi, tiny_cache, tmp_path, tuning):
    """Trained further, or folded in: the file, applied to the same base, gives the same system."""
    own = copy.copy(tiny)
    own.tuning = nn.Linear(512, 512)
    own.tuning.requires_grad_(False)
    tuned, _ = run(own, phi, tiny_cache, tmp_path, tuning=tuning)
    applied = own.with_lora(tmp_path)
    assert same(applied.unet, tuned.unet) and (applied.tuning is None) is not tuning
    assert not tuning or same(applied.tuning, tuned.tuning)


def test_memory_is_that_of_the_adapters(tiny):
    (all_, (full,)), (some, (lora,)) = (
        _peaks(tiny.unet.config, None, tiny.latent_shape, (1,), False, False, rank) for rank in (0, RANK)
    )
    trained, total = adapter_parameters(tiny.unet.config, RANK)
    assert (all_, some) == (4 * total, 4 * trained)
    # gradients and moments of all weights; blocks of 512 bytes weigh much at this size
    assert full - lora > 1.5 * (all_ - 2 * some)


def test_the_rank_has_limits():
    for rank in (-1, 4096):
        with pytest.raises(InputError, match=r"finetune\.lora_rank=\S+: must be from 0 to 1024"):
            config(lora_rank=rank)


# ---------------------------------------------------------------------------------------- the file


def test_the_file_gives_the_trained_system(tiny, trained):
    tuned, _, folder = trained
    for path in (folder, folder / ADAPTER):
        applied = tiny.with_lora(path)
        assert same(applied.unet, tuned.unet) and same(applied.tuning, tuned.tuning)
    assert applied.unet is not tiny.unet and tiny.tuning is None
    assert (
        not any(p.requires_grad for p in applied.unet.parameters()) or tiny.unet.conv_in.weight.requires_grad
    )


@pytest.mark.parametrize("trains", [True, False])
def test_the_copy_is_a_system_of_its_own(tiny, trained, trains):
    """Weights that train where they trained before, nothing in training mode, and no list shared with the base."""
    base = copy.copy(tiny)
    base.unet = copy.deepcopy(tiny.unet).requires_grad_(trains).train()
    before = weights_digest(base.unet)
    applied = base.with_lora(trained[2])
    assert {p.requires_grad for p in applied.unet.parameters()} == {trains}
    assert not applied.unet.training and not applied.tuning.training and base.unet.training
    assert applied.sizes == set() and applied.sizes is not base.sizes and weights_digest(base.unet) == before
    base.half = True
    with pytest.raises(InputError, match="rounded weights: take the system itself to merge an adapter"):
        base.with_lora(trained[2])


def test_a_half_precision_unet_gives_and_takes_adapters(tiny, adapted, adapters, tmp_path):
    """The file is of float32 whatever trained; merged into half, it is what float32 is, rounded."""
    whole = merge_adapters(copy.deepcopy(adapted)).state_dict()
    assert {v.dtype for v in take_adapters(adapted.bfloat16()).values()} == {torch.float32}
    save_file(adapters, tmp_path / ADAPTER)
    base = copy.copy(tiny)
    base.unet = copy.deepcopy(tiny.unet).bfloat16()
    merged = base.with_lora(tmp_path).unet.state_dict()
    for name, value in whole.items():
        assert merged[name].dtype == torch.bfloat16
        torch.testing.assert_close(merged[name].float(), value, rtol=0.02, atol=0.01)


def test_the_digest_of_a_base_is_of_all_that_adapters_are_of(tiny):
    own = copy.copy(tiny)
    own.tuning = nn.Linear(512, 512)
    other = copy.copy(own)
    other.tuning = nn.Linear(512, 512)
    assert len({base_digest(s) for s in (tiny, own, other)}) == 3


def test_links_of_a_hub_s_cache_are_followed(trained, tiny, tmp_path):
    """Its folder holds links to files that are named by their digest; the name that is told is the link's."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "main").mkdir(parents=True)
    shutil.copy(trained[2] / ADAPTER, tmp_path / "blobs" / "0123abcd")
    link = tmp_path / "snapshots" / "main" / ADAPTER
    link.symlink_to("../../blobs/0123abcd")
    (tmp_path / "linked").symlink_to("snapshots/main")
    for path in (link, link.parent, tmp_path / "linked"):
        adapter = Adapter.read(path)
        assert adapter.path.name == ADAPTER and adapter.digest == Adapter.read(trained[2]).digest
    link.unlink()
    link.symlink_to("../../blobs/gone")
    with pytest.raises(InputError, match=f"no {ADAPTER} there"):
        tiny.with_lora(link.parent)


def test_what_the_file_tells(tiny, trained, tmp_path, monkeypatch):
    with safe_open(trained[2] / ADAPTER, "pt") as opened:
        header = opened.metadata()
    about = {"rank": RANK, "alpha": RANK, "base": tiny.name, "base_digest": weights_digest(tiny.unet)}
    assert json.loads(header["latentclap"]) == about | {"tuning": True}
    told = json.loads(header["lora_adapter_metadata"])
    assert told == {"unet.r": RANK, "unet.lora_alpha": RANK, "unet.target_modules": list(TARGETS)}
    named = copy.copy(tiny)
    monkeypatch.chdir(tmp_path)
    # no path of this machine, also of a folder that is gone
    for place, name in (
        (tmp_path, tmp_path.name),
        (".", tmp_path.name),
        ("/gone/before", "before"),
        ("o/n", "o/n"),
    ):
        named.name = str(place)
        save_adapter(tmp_path / "a.safetensors", Adapter.read(trained[2]).unet, named)
        assert Adapter.read(tmp_path / "a.safetensors").about["base"] == name


def test_diffusers_opens_it(tiny, phi, tiny_cache, tmp_path):
    """In the pipeline that a saved system opens in, by diffusers' own loader."""
    from diffusers import AudioLDMPipeline

    tuned, _ = run(tiny, phi, tiny_cache, tmp_path / "run", lam=100.0)
    tiny.save_pretrained(tmp_path / "system")
    pipe = AudioLDMPipeline.from_pretrained(tmp_path / "system")
    folder, file = (tmp_path / "run", {"use_safetensors": True}), (tmp_path / "run" / ADAPTER, {})
    for name, (place, options) in {"folder": folder, "file": file}.items():
        pipe.unet.load_lora_adapter(place, prefix="unet", adapter_name=name, **options)
        pipe.unet.set_adapters(name)
        with torch.no_grad():
            torch.testing.assert_close(told(pipe.unet, tiny), told(tuned.unet, tiny), rtol=1e-4, atol=1e-5)
    pipe.unet.fuse_lora(adapter_names=["file"])
    pipe.unet.unload_lora()
    assert same(pipe.unet, tuned.unet)


def test_files_of_others(tiny, adapted, tmp_path):
    """diffusers' own writing, without our notes and without a prefix; peft's scale counts."""
    for config in adapted.peft_config.values():
        assert config.lora_alpha == config.r
    adapted.save_lora_adapter(tmp_path)
    with torch.no_grad():
        told_apart = told(adapted, tiny)
        torch.testing.assert_close(
            told(tiny.with_lora(tmp_path).unet, tiny), told_apart, rtol=1e-4, atol=1e-5
        )
    half = {f"unet.{k}": v for k, v in take_adapters(adapted).items()}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 2 * RANK})}
    save_file(half, tmp_path / "double.safetensors", metadata=header)
    double = tiny.with_lora(tmp_path / "double.safetensors").unet.class_embedding.weight
    single = tiny.with_lora(tmp_path).unet.class_embedding.weight
    base = tiny.unet.class_embedding.weight
    torch.testing.assert_close(double - base, 2 * (single - base), rtol=1e-3, atol=1e-5)


def test_another_base_of_the_same_shape_is_a_warning(trained, tiny):
    other = random_system("tiny", seed=1)
    with pytest.warns(UserWarning, match=r"was trained on other weights \(.+\) than those of"):
        other.with_lora(trained[2])


@pytest.fixture(scope="module")
def adapters(adapted_once):
    """What is in a file, under the names that are there."""
    return {f"unet.{k}": v for k, v in take_adapters(adapted_once).items()}


EMBEDDING = "unet.class_embedding.lora"


def changed(path, out, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, out)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({f"unet.no.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}), "no is no layer of"),
        (lambda t: t.pop(f"{EMBEDDING}_B.weight"), "class_embedding has A or B only"),
        (lambda t: t.update({f"{EMBEDDING}_A.weight": torch.zeros(RANK, 7)}), "of 32 x 7, the UNet's has 32 x 512"),
        (lambda t: t.update({f"{EMBEDDING}_A.weight": torch.zeros(5)}), "class_embedding is of a layer of"),
        (lambda t: t.update({"tuning.weight": torch.zeros(3, 3)}), "tuning is not a layer of 512 x 512"),
        (lambda t: t.update({f"{EMBEDDING}_A.weight": torch.zeros(0, 512)}), "class_embedding has rank 0"),
        (lambda t: t.update({"unet.x": torch.zeros(2)}), "no LoRA adapters of a UNet"),
        (lambda t: t.update({"text_encoder.q.lora_A.weight": torch.zeros(2, 2)}), "than adapters of a UNet .text"),
        (lambda t: t[f"{EMBEDDING}_B.weight"].fill_(math.nan), r"class_embedding\S+ is not of finite floats"),
        (lambda t: t["tuning.bias"].fill_(math.inf), r"tuning.bias is not of finite floats"),
        (lambda t: t.update({f"{EMBEDDING}_A.weight": torch.ones(RANK, 512).int()}), "is not of finite floats"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("unet.")], "no LoRA adapters of a UNet"),
    ],
)  # fmt: skip
def test_adapters_that_do_not_fit_are_a_line(trained, tiny, tmp_path, change, message):
    path = changed(trained[2] / ADAPTER, tmp_path / "x.safetensors", change)
    with pytest.raises(InputError, match=message) as stop:
        tiny.with_lora(path)
    assert "\n" not in str(stop.value) and str(path) in str(stop.value)
    assert not hasattr(tiny.unet, "peft_config")


def config_of(**values):
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in values.items()})}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        *[({key: text}, r"damaged \(.+\); copy or download it again")
          for key in ("lora_adapter_metadata", "latentclap")
          for text in ("{", "[]", "3", "null", '"x"', 100_000 * "[")],
        *[(config_of(r=r, lora_alpha=3), "in its header is no rank or alpha of class_embedding")
          for r in ("x", None, [3], True, 10**30)],
        *[(config_of(r=RANK, lora_alpha=a), "in its header is no rank or alpha of class_embedding")
          for a in ("x", None, math.nan, math.inf, 10**400)],
        *[(config_of(r=r, lora_alpha=3), f"class_embedding has rank {RANK}, by the header {r}$") for r in (0, -1, 5)],
        *[(config_of(r=RANK, lora_alpha=3, **{p: v}), f"{p} in its header {told}")
          for p in ("rank_pattern", "alpha_pattern")
          for v, told in ((3, "is no table"), ("x", "is no table"), ({"(": 3}, r"names no layer by \($"),
                          ({"(([a-z_.0-9])+)+!": 3}, "names no layer by"))],
        (config_of(r=RANK, lora_alpha=3, alpha_pattern={"class_embedding": "x"}), "x in its header is no rank"),
        (config_of(r=RANK, lora_alpha=3, rank_pattern={"^class_embedding": 4}), "rank 3, by the header 4"),
    ],
)  # fmt: skip
def test_headers_that_do_not_fit_are_a_line(adapters, tiny, tmp_path, header, message, capfd):
    """Nor does peft match patterns of the file's, which may take for ever, or diffusers report of them."""
    save_file(adapters, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(InputError, match=message) as stop:
        tiny.with_lora(tmp_path / "x.safetensors")
    assert "\n" not in str(stop.value) and str(stop.value).count(str(tmp_path)) == 1
    assert len(str(stop.value)) < 400 and capfd.readouterr() == ("", "")


def test_the_scale_is_alpha_by_rank_layer_by_layer(tiny, tmp_path):
    """As diffusers scales the same file; ranks are those of the shapes, and a kernel of 3x3 has an adapter too."""
    g = torch.Generator().manual_seed(0)
    shapes = {
        "class_embedding": (2, 1.0),
        "mid_block.attentions.0.proj_in": (3, 2.5),
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (4, 6.0),
        "conv_in": (3, 6.0),
    }
    base, tensors = tiny.unet.state_dict(), {}
    for name, (rank, _) in shapes.items():
        out, into, *kernel = base[f"{name}.weight"].shape
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, into, *kernel, generator=g)
        tensors[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank, *[1] * len(kernel), generator=g)
    header = {
        "r": 3,
        "lora_alpha": 6,
        "rank_pattern": {"^class_embedding": 2, "attn1.to_q": 4},
        "alpha_pattern": {
            "class_embedding": 1,
            "attentions.0.proj_in": 2.5,
            "proj_in": 9,
        },  # the first that fits
        "target_modules": list(shapes),
    }
    for root in (False, True):
        save_file(tensors, tmp_path / ADAPTER, metadata=config_of(**header, use_rslora=root))
        ours = tiny.with_lora(tmp_path).unet.state_dict()
        for name, (rank, alpha) in shapes.items():
            A, B = (tensors[f"unet.{name}.lora_{x}.weight"] for x in "AB")
            more = alpha / (rank**0.5 if root else rank) * (B.flatten(1) @ A.flatten(1))
            weight = base[f"{name}.weight"]
            torch.testing.assert_close(ours[f"{name}.weight"], weight + more.view_as(weight))
        theirs = copy.deepcopy(tiny.unet)
        theirs.load_lora_adapter(tmp_path, prefix="unet", use_safetensors=True)
        merge_adapters(theirs)
        assert all(torch.allclose(ours[k], v, atol=1e-5) for k, v in theirs.state_dict().items())
    save_file(tensors, tmp_path / ADAPTER)  # without a header every layer's scale is 1
    ours = tiny.with_lora(tmp_path).unet.state_dict()
    for name in shapes:
        A, B = (tensors[f"unet.{name}.lora_{x}.weight"] for x in "AB")
        weight = base[f"{name}.weight"]
        wanted = weight + (B.flatten(1) @ A.flatten(1)).view_as(weight)
        torch.testing.assert_close(ours[f"{name}.weight"], wanted)


@pytest.mark.parametrize(
    ("key", "alpha"), [("to_q", 9), ("a.to_q", 9), ("^a.to_q", 9), ("o_q", 3), ("q", 3), ("^to_q", 3)]
)
def test_a_pattern_names_whole_parts_of_a_layer_s_name(key, alpha):
    """As peft's do, which match all of a name or all after one of its dots."""
    unet = {"a.to_q.lora_A.weight": torch.zeros(3, 4), "a.to_q.lora_B.weight": torch.zeros(4, 3)}
    told = {"r": 3, "lora_alpha": 3, "alpha_pattern": {key: 9}}
    assert Adapter(Path("x"), unet, {}, told, {})._scales() == {"a.to_q": (3, alpha)}


def test_without_an_alpha_it_is_peft_s(adapters, tiny, tmp_path):
    weights = []
    for values in ({}, {"lora_alpha": 8}):
        save_file(adapters, tmp_path / ADAPTER, metadata=config_of(r=RANK, **values))
        weights.append(tiny.with_lora(tmp_path).unet.class_embedding.weight)
    assert torch.equal(*weights)


def test_a_name_in_a_file_is_no_command_to_a_terminal(adapters, mini, tmp_path):
    about = {"base": "a\nb\x1b[31m" + "c" * 1000, "base_digest": ["x"]}
    save_file(adapters, tmp_path / ADAPTER, metadata={"latentclap": json.dumps(about)})
    with pytest.raises(InputError, match=r"which is of a b \[31mc{1,100}\.\.\., does not fit") as stop:
        mini.with_lora(tmp_path)
    assert str(stop.value).isprintable()


def test_files_that_are_none(tiny, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"cut short")
    for name, message in (
        ("", f"no {ADAPTER} there"),
        ("none", "no such adapter file"),
        ("cut.safetensors", "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            tiny.with_lora(tmp_path / name)


def test_another_model_s_adapters(trained, mini):
    with pytest.raises(InputError, match=r"which is of .+, does not fit mini: .+, and \d+ more$"):
        mini.with_lora(trained[2])


# ------------------------------------------------------------------------------------ command line


def test_generate_with_adapters(tiny, trained, tmp_path):
    """The clips are the trained system's; the record names the file; another one is another run."""
    tuned, _, folder = trained
    tiny.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    common = ["generate", "--classes", "rain", "--steps", "2", "--quiet", "--model"]

    def clips(model, out, *more):
        done = CliRunner().invoke(cli.app, [*common, str(tmp_path / model), "-o", str(tmp_path / out), *more])
        assert done.exception is None or isinstance(done.exception, InputError), done.exception
        return done.output + str(done.exception or "")

    assert "1 clip of" in clips("base", "a", "--lora", str(folder))
    clips("tuned", "b")
    clips("base", "c")
    waves = [soundfile.read(tmp_path / n / "rain" / "rain_000.wav")[0] for n in "abc"]
    loudest = abs(waves[2]).max()
    assert abs(waves[0] - waves[1]).max() <= 1e-3 * loudest < abs(waves[0] - waves[2]).max()
    record = read_json(tmp_path / "a" / "generation.json")
    digest = Adapter.read(folder).digest
    assert (
        record["settings"]["lora"]
        == record["plan"]["settings"]["lora"]
        == {"file": ADAPTER, "digest": digest}
    )
    assert "lora" not in read_json(tmp_path / "b" / "generation.json")["settings"]
    assert "1 of them made before" in clips("base", "a", "--lora", str(folder / ADAPTER))
    other = changed(folder / ADAPTER, tmp_path / "o.safetensors", lambda t: t["tuning.bias"].add_(1))
    for more in (("--lora", str(other)), ()):
        assert "would be replaced, by clips of other settings" in clips("base", "a", *more)
    assert "no such adapter file" in clips("base", "d", "--lora", str(tmp_path / "none"))
    assert not (tmp_path / "d").exists()


# ----------------------------------------------------------------------- configurations, notebooks, book


def test_from_a_configuration(configured, tiny_family, monkeypatch):
    folder = configured[0] / "adapted"
    write = partial(configured[1], "adapted")
    changes = {"lam": 0.0, "tuning": True, "epochs": 2, "batch_size": 4}
    with monkeypatch.context() as patched:
        patched.setattr(launch.Launch, "foretell", lambda self: "")
        plain = alone(write(**changes), "--dry-run")
    assert "lora" not in plain  # older runs go on
    assert "lora_rank=-1: must be from 0 to 1024" in alone(write(**changes, lora_rank=-1), "--dry-run")
    config = write(**changes, lora_rank=2)
    told = alone(config, "--dry-run")
    trained, total = adapter_parameters(FoleySystem.from_pretrained(tiny_family).unet.config, 2)
    bytes_ = 4 * (trained + 512 * 513)
    assert f"LoRA of rank 2: {trained / 1e6:.2f} M parameters train beside {total / 1e6:.2f} M" in told
    assert f"a file of {bytes_ / 1e6:.1f} MB" in told and "'lora_rank': 2" in told
    assert "the same command goes on" in alone(config, "--minutes", "1e-9")
    assert "6 steps in" in alone(config)
    assert bytes_ < (folder / ADAPTER).stat().st_size < 1.05 * bytes_
    assert read_json(folder / "config.json")["finetune"]["lora_rank"] == 2
    saved = FoleySystem.from_pretrained(folder / "system")
    applied = FoleySystem.from_pretrained(tiny_family).with_lora(folder)
    assert same(saved.unet, applied.unet, rtol=1e-6, atol=1e-7) and same(saved.tuning, applied.tuning)
    assert "holds another run (finetune differ)" in alone(write(**changes, lora_rank=3))


@pytest.mark.slow
def test_two_processes_share_a_run(configured):
    """The adapters of a run in one process, up to rounding."""
    folder = configured[0] / "shared"
    write = partial(configured[1], "shared")
    changes = {"lam": 0.0, "epochs": 3, "batch_size": 4, "lora_rank": 2}
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ACCELERATE_USE_CPU": "1"}
    command += ["-m", "latentclap.train", str(write(**changes)), "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "9 steps in" in done.stdout, done.stderr[-3000:]
    shared = Adapter.read(folder).unet
    shutil.rmtree(folder)
    assert "9 steps in" in alone(write(**changes))
    for name, value in Adapter.read(folder).unet.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-2, atol=1e-3)


def test_a_point_of_the_lab(tiny_profile, tmp_path, monkeypatch):
    """A point without adapters keeps its place; one with them leaves the file."""
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path))
    bench = lab.Lab(load_profile(tiny_profile), progress=False)
    config = bench.config("LDM", lora_rank=2)
    assert "lora_rank" not in _relevant(replace(config, lora_rank=0))
    assert _relevant(config)["lora_rank"] == 2
    point = bench.point(config)
    assert same(bench.load(point).unet, bench.system.with_lora(point.folder).unet)


def test_the_rank_is_in_the_profile_and_in_the_notebook(repo_root):
    for name in profile_names():
        assert load_profile(name).finetune.lora_rank == 0
    profile = load_profile("quick").override(finetune__lora_rank=8)
    assert FinetuneConfig.of(profile.finetune).lora_rank == 8
    source = (repo_root / "notebooks" / "03_finetune.ipynb").read_text()
    assert "lora_rank=lora_rank or run.profile.finetune.lora_rank" in source
    for values, message in (
        ({"lora_rank": -1}, "from 0 to 1024"),
        ({"lr": -1.0}, "lr=-1: must be from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            check_values(values, "parameter ")


def test_the_book_s_tables(repo_root, tmp_path):
    record = repo_root / "book/runs/lora.json"
    told, text = read_json(record), lora_tables(record, tmp_path / "lora.md").read_text()
    for row in told["count"]["rows"]:
        assert f"| {row['trained'] / 1e6:.2f} |" in text
    for row in told["train"]["rows"]:
        assert f"| {row['ddpm']:.5f} | {1e5 * row['lclap']:.3f} |" in text
    with torch.device("meta"):
        unet = audioldm_unet().config
    counted = {row["rank"]: row["trained"] for row in told["count"]["rows"]}
    assert counted == {rank: adapter_parameters(unet, rank)[0] for rank in counted}
    write_json(tmp_path / "other.json", {"count": {}})
    for name, message in (("other", "count and train are not both"), ("absent", "no such file")):
        with pytest.raises(InputError, match=message):
            lora_tables(tmp_path / f"{name}.json", tmp_path / "x.md")
