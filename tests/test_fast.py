"""The UNet in fewer passes over memory: the same function, the same weights, traced in one piece."""

import copy
import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch.testing import assert_close

from latentclap.errors import InputError
from latentclap.fast import geglu, group_norm, half_weights, ops, slow_down, speed_up
from latentclap.fast import unet as fast_unet
from latentclap.finetune import FinetuneConfig, finetune
from latentclap.models import audioldm_unet, random_system
from latentclap.train.modules import as_weights_lie

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(ops.kernels is None, reason="Triton is not in this build of torch")


@pytest.fixture(scope="module")
def tiny():
    return random_system("tiny")


@pytest.fixture
def unet(tiny):
    net = copy.deepcopy(tiny.unet).train().requires_grad_(True)
    # zeros at the end of AudioLDM's blocks would hide what comes before them
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return net


def passes(net, tiny):
    """Output, gradient of the input, and gradients of the weights by their names."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, *tiny.latent_shape, generator=g).requires_grad_(True)
    condition = torch.randn(3, tiny.embed_dim, generator=g)
    net.zero_grad()
    y = net(x, torch.tensor([1, 500, 900]), encoder_hidden_states=None, class_labels=condition).sample
    (y * torch.randn(y.shape, generator=g)).sum().backward()
    return y.detach(), x.grad, {k: p.grad for k, p in net.named_parameters() if p.grad is not None}


def check_same(one, other):
    for a, b in zip(one[:2], other[:2], strict=True):
        assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert one[2].keys() == other[2].keys()
    scale = max(g.abs().max() for g in one[2].values())
    for name, gradient in one[2].items():
        assert_close(gradient, other[2][name], atol=1e-5 * float(scale), rtol=1e-3, msg=name)


def test_the_same_function_with_the_same_weights(unet, tiny):
    fast = speed_up(copy.deepcopy(unet))
    assert fast.state_dict().keys() == unet.state_dict().keys()
    check_same(passes(unet, tiny), passes(fast, tiny))
    fast.enable_gradient_checkpointing()
    check_same(passes(unet, tiny), passes(fast, tiny))


def test_undone(unet, tiny):
    back = slow_down(speed_up(copy.deepcopy(unet)))
    assert [type(m) for m in back.modules()] == [type(m) for m in unet.modules()]
    assert all(p.is_contiguous() for p in back.parameters())
    assert torch.equal(passes(back, tiny)[0], passes(unet, tiny)[0])


def test_all_of_the_full_size():
    """No block of audioldm-m-full's is left behind."""
    with torch.device("meta"):
        net = speed_up(audioldm_unet())
    kinds = [type(m).__name__ for m in net.modules()]
    wanted = {"FastResnetBlock": 22, "FastTransformer": 16, "FastAttention": 32, "FastUpsample": 3}
    for name, number in wanted.items():
        assert kinds.count(name) == number
    assert not {"ResnetBlock2D", "Transformer2DModel", "Attention", "Upsample2D"} & set(kinds)
    assert type(net.conv_norm_out) is fast_unet.FastGroupNorm


def test_what_audioldm_does_not_use_stays(unet):
    block = next(m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D")
    block.output_scale_factor = 2.0
    transformer = next(m for m in unet.modules() if type(m).__name__ == "Transformer2DModel")
    transformer.transformer_blocks[0].attn1.to_out[1].p = 0.1
    speed_up(unet)
    assert type(block).__name__ == "ResnetBlock2D" and type(transformer).__name__ == "Transformer2DModel"
    assert type(transformer.transformer_blocks[0].attn1).__name__ == "Attention"


OPTIONS = [
    ("ResnetBlock2D", "", "time_embedding_norm", "scale_shift"),
    ("ResnetBlock2D", "", "skip_time_act", True),
    ("ResnetBlock2D", "", "nonlinearity", torch.nn.Mish()),
    ("ResnetBlock2D", "", "time_emb_proj", None),
    ("ResnetBlock2D", "", "upsample", torch.nn.Identity()),
    ("ResnetBlock2D", "", "downsample", torch.nn.Identity()),
    ("Transformer2DModel", "", "use_linear_projection", True),
    ("Transformer2DModel", "transformer_blocks.0", "only_cross_attention", True),
    ("Transformer2DModel", "transformer_blocks.0", "norm_type", "ada_norm_single"),
    ("Transformer2DModel", "transformer_blocks.0", "pos_embed", torch.nn.Identity()),
    ("Transformer2DModel", "transformer_blocks.0", "attn2", None),
    ("Transformer2DModel", "transformer_blocks.0.ff.net.1", "p", 0.1),
    ("Transformer2DModel", "transformer_blocks.0.ff", "net", torch.nn.ModuleList(torch.nn.Identity() for _ in "abc")),
    ("Transformer2DModel", "transformer_blocks.0.attn1", "residual_connection", True),
    ("Transformer2DModel", "transformer_blocks.0.attn2", "rescale_output_factor", 2.0),
    ("Transformer2DModel", "transformer_blocks.0.attn1", "norm_q", torch.nn.LayerNorm(8)),
    ("Transformer2DModel", "transformer_blocks.0.attn2", "group_norm", torch.nn.GroupNorm(1, 8)),
    ("Transformer2DModel", "transformer_blocks.0.attn1", "to_q", torch.nn.Linear(8, 8)),
    ("Upsample2D", "", "norm", torch.nn.Identity()),
    ("Upsample2D", "", "use_conv", False),
    ("Upsample2D", "", "use_conv_transpose", True),
    ("Upsample2D", "", "interpolate", False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "place", "option", "value"), OPTIONS)
def test_no_block_with_another_option_is_taken(unet, kind, place, option, value):
    """Ours know nothing of it, and would compute something else without a word."""
    block = next(m for m in unet.modules() if type(m).__name__ == kind)
    if option == "to_q":  # a bias, and the weight as it was
        value.weight, value.out_features = block.get_submodule(place).to_q.weight, None
    setattr(block.get_submodule(place), option, value)
    speed_up(unet)
    assert type(block).__name__ == kind
    assert type(unet.conv_norm_out) is fast_unet.FastGroupNorm


@pytest.mark.parametrize("size", [None, (6, 10), (7, 9)])
@pytest.mark.parametrize(
    "options",
    [{}, {"out_channels": 7}, {"bias": False}, {"padding": 0}, {"kernel_size": 1, "padding": 0}],
    ids=str,
)
def test_doubling_to_any_size(size, options):
    plain = Upsample2D(4, use_conv=True, **options)
    fast, x = speed_up(copy.deepcopy(plain)), torch.randn(2, 4, 3, 5, requires_grad=True)
    assert type(fast) is fast_unet.FastUpsample
    y, want = fast(x, size), plain(x, size)
    assert_close(y, want)
    dy = torch.randn_like(y)
    one, other = (torch.autograd.grad(out, [x, *m.parameters()], dy) for out, m in ((y, fast), (want, plain)))
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_doubling_takes_less_than_half_of_the_operations():
    """And in bf16 it is as near to the exact result as diffusers' own."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    plain = Upsample2D(16, use_conv=True)
    fast, x, told = speed_up(copy.deepcopy(plain)), torch.randn(2, 16, 64, 32), []
    for module in (plain, fast):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
        told.append(counter.get_total_flops())
    assert told[1] == told[0] * 4 / 9 * (65 / 64) * (33 / 32)
    with torch.no_grad():
        exact = plain(x)
        for half in (False, True):
            modules = [half_weights(copy.deepcopy(m)) if half else m for m in (plain, fast)]
            with torch.autocast("cpu", torch.bfloat16):
                off = [(m(x).float() - exact).norm() / exact.norm() for m in modules]
            assert off[1] < 1.3 * off[0] < 0.01


def test_dropout_of_a_block_stays(unet):
    """Everything is dropped, so that both drop the same."""
    block = next(m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D")
    block.dropout.p = 1.0
    x, temb = torch.randn(2, block.in_channels, 6, 4), torch.randn(2, block.time_emb_proj.in_features)
    want = block(x, temb)
    assert_close(speed_up(block)(x, temb), want)


def test_checkpointing_holds_less(unet):
    """The same as diffusers' own: activations within a transformer's blocks are computed again."""

    def held(module):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t
        ):
            module(x)
        own = {p.data_ptr() for p in module.parameters()}
        return sum(t.nbytes for at, t in kept.items() if at not in own)

    speed_up(unet)
    transformer = next(m for m in unet.modules() if type(m) is fast_unet.FastTransformer)
    x = torch.randn(2, transformer.in_channels, 16, 16)
    plain = held(transformer)
    unet.enable_gradient_checkpointing()
    assert held(transformer) < 0.5 * plain


def test_group_norm_by_the_book():
    x, shift = torch.randn(2, 24, 5, 3), torch.randn(2, 24)
    weight, bias = torch.randn(24), torch.randn(24)
    want = F.silu(F.group_norm(x + shift[:, :, None, None], 4, weight, bias, 1e-5))
    assert_close(group_norm(x, weight, bias, 4, 1e-5, shift=shift, silu=True), want)
    assert_close(group_norm(x, weight, bias, 4, 0.5), F.group_norm(x, 4, weight, bias, 0.5))
    assert group_norm(x.bfloat16(), weight, bias, 4, 1e-5).dtype == torch.bfloat16
    value, gate = x.chunk(2, -3)
    assert_close(geglu(torch.cat([value, gate], -3).movedim(1, -1)), (value * F.gelu(gate)).movedim(1, -1))


def test_group_norm_of_half_precision_rounds_once():
    """Arithmetic within is float32: the result is the exact one's nearest number in bf16, or next to it rarely."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 16, 16).bfloat16(), torch.randn(8), torch.randn(8)
    z = x.double().view(2, 4, -1)
    z = (z - z.mean(2, keepdim=True)) / (z.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = z.view(2, 8, 16, 16) * weight.double().view(8, 1, 1) + bias.double().view(8, 1, 1)
    exact = (z / (1 + (-z).exp())).bfloat16()
    assert (group_norm(x, weight, bias, 4, 1e-5, silu=True) != exact).float().mean() < 0.005


KERNELS = """
    import torch, torch.nn.functional as F
    from latentclap.fast import ops
    torch.manual_seed(0)
    for n, c, h, w, groups, shifted, silu, far, eps, near in (
        (2, 64, 40, 16, 32, True, True, 30, 1e-5, 2e-5),   # more pixels than a span
        (3, 96, 9, 7, 8, False, True, 30, 1e-5, 2e-5),     # channels and pixels that fill no tile
        (2, 40, 16, 16, 8, True, False, 30, 0.5, 2e-5),    # eps that counts
        (1, 192, 4, 2, 32, False, True, 30, 1e-5, 2e-5),   # fewer pixels than a step
        (1, 8, 20, 16, 4, False, False, 500, 1e-5, 1e-4),  # a mean far from zero, whose square float32 does not hold
    ):
        x = (torch.randn(n, c, h, w) * 2 + far).to(memory_format=torch.channels_last).requires_grad_(True)
        weight, bias, shift = (torch.randn(*s).requires_grad_(True) for s in ((c,), (c,), (n, c)))
        inputs = [x, weight, bias] + [shift] * shifted
        z = x.double() + (shift.double()[:, :, None, None] if shifted else 0)
        y = F.group_norm(z, groups, weight.double(), bias.double(), eps)
        y = F.silu(y) if silu else y
        dy = torch.randn_like(y)
        want = torch.autograd.grad(y, inputs, dy)
        with torch.no_grad():
            added = shift if shifted else None
            out = ops.normalised(x, weight, bias, added, groups, eps, silu)
            got = ops.normalised_backward(dy.float(), x, weight, bias, added, *out[1:], groups, silu)
        for a, b in zip((out[0], *got), (y, *want)):
            assert (a - b).norm() < near * b.norm(), (c, h, (a - b).norm() / b.norm())
        # as autograd calls them, of tensors and a gradient in their usual order and of a shift that is a view
        lying = x.detach().contiguous().requires_grad_(True)
        view = torch.stack([shift.detach()] * 2, 2)[:, :, 0].requires_grad_(True)
        inputs = [lying, weight, bias] + [view] * shifted
        y2 = ops._norm(lying, weight, bias, view if shifted else None, groups, eps, silu)[0]
        for a, b in zip((y2, *torch.autograd.grad(y2, inputs, dy.float().contiguous())), (y, *want)):
            assert (a - b).norm() < near * b.norm(), (c, h, "autograd")
    # of half precision: results of their inputs' types, rounded once
    x, dy = (torch.randn(2, 16, 5, 3).half().to(memory_format=torch.channels_last) for _ in range(2))
    weight, bias, shift = (torch.randn(*s).half().requires_grad_(True) for s in ((16,), (16,), (2, 16)))
    x.requires_grad_(True)
    inputs = [x, weight, bias, shift]
    y = F.silu(F.group_norm(x.double() + shift.double()[:, :, None, None], 4, weight.double(), bias.double(), 1e-5))
    want = torch.autograd.grad(y, inputs, dy.double())
    with torch.no_grad():
        out = ops.normalised(x, weight, bias, shift, 4, 1e-5, True)
        got = ops.normalised_backward(dy, x, weight, bias, shift, *out[1:], 4, True)
    for a, b in zip((out[0], *got[:3]), (y.half(), *want)):
        assert a.dtype == torch.half, a.dtype
        assert (a.double() - b).norm() < 1e-3 * b.double().norm(), "half"
    for rows, d in ((5, 24), (1, 700)):  # 700: more than a program's
        x = torch.randn(rows, 2, 2 * d).requires_grad_(True)
        value, gate = x.chunk(2, -1)
        y = value * F.gelu(gate)
        dy = torch.randn_like(y)
        (dx,) = torch.autograd.grad(y, x, dy)
        with torch.no_grad():
            lying = x.mT.contiguous().mT
            torch.testing.assert_close(ops.gated(x), y, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(ops.gated(lying), y, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(ops.gated_backward(dy, x), dx, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(ops.gated_backward(dy.mT.contiguous().mT, lying), dx, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(ops._gate(x), x, dy)[0], dx, atol=1e-6, rtol=1e-5)
    # what torch.compile is told of the operators: of which shape, type and order in memory results are
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 8, 5, 3).to(dtype, memory_format=torch.channels_last).requires_grad_(True)
        weight, bias = (torch.randn(8).requires_grad_(True) for _ in range(2))
        shift = torch.randn(2, 8, dtype=dtype).requires_grad_(True)
        for added in (None, shift):
            torch.library.opcheck(ops._norm, (x, weight, bias, added, 4, 1e-5, True), test_utils=tests)
        torch.library.opcheck(ops._gate, (torch.randn(3, 5, 8, dtype=dtype).requires_grad_(True),), test_utils=tests)
    print("the same")
"""


def test_without_triton():
    """torch's builds for CPUs have none: the same functions in plain torch."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from latentclap.fast import ops, speed_up;"
        "from latentclap.models import random_system; system = random_system('tiny'); speed_up(system.unet);"
        "print(ops.kernels, system.generate(['rain'], 1, steps=1).shape == (1, system.samples))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.split() == ["None", "True"], told.stderr[-2000:]


@needs_triton
def test_kernels_in_triton_s_interpreter():
    """Forward and backward of each kernel against float64, on a CPU; a GPU's compiler is another matter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KERNELS)], env=environment, capture_output=True, text=True
    )
    assert told.stdout.strip() == "the same", told.stderr[-2000:]


@needs_triton
def test_traced_in_one_piece(unet, tiny, monkeypatch):
    """torch.compile sees no break in the UNet with its operators: each one would cost fusions and time."""
    from torch._dynamo.backends.common import aot_autograd
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        """As much of a GPU as tracing asks for."""

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

    class Traced(Exception):
        pass

    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        raise Traced

    for name in ("group_norm", "geglu"):  # as on a GPU
        code = inspect.getsource(getattr(ops, name)).replace("x.is_cuda and kernels is not None", "True")
        space = dict(vars(ops))
        exec(code, space)
        monkeypatch.setattr(fast_unet, name, space[name])
    active = driver.__dict__.get("_active"), driver.__dict__.get("_default")
    driver.set_active(Driver())
    torch._dynamo.reset()
    try:
        whole = torch.compile(speed_up(unet), backend=aot_autograd(fw_compiler=keep), fullgraph=True)
        with pytest.raises(Exception, match="Traced"):
            whole(
                torch.randn(3, *tiny.latent_shape),
                torch.tensor([1, 5, 9]),
                encoder_hidden_states=None,
                class_labels=torch.randn(3, tiny.embed_dim),
            )
    finally:
        driver.__dict__.update(zip(("_active", "_default"), active, strict=True))
        torch._dynamo.reset()
    (forward,) = graphs
    # two of each of 8 residual blocks, one of each of 4 transformers, and the last: each is one node
    assert sum(node == "latentclap.group_norm.default" for node in forward) == 21
    assert sum(node == "latentclap.geglu.default" for node in forward) == 4
    assert not any("native_group_norm" in node for node in forward)


def test_a_kernel_starts_on_its_tensors_gpu(monkeypatch):
    """Not on the current one, on which Triton would start it."""
    told = []

    class Device:
        def __init__(self, device):
            told.append(device)

        def __enter__(self):
            told.append("in")

        def __exit__(self, *_):
            told.append("out")

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **constants: told.append((grid, args, constants))

    x = torch.zeros(2)
    ops._launch(Kernel(), (4,), 3, x, B=1)
    assert told == [((4,), (3, x), {"B": 1})]
    told.clear()
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True), raising=False)
    ops._launch(Kernel(), (4,), 3, x, B=1)
    assert told == [x.device, "in", ((4,), (3, x), {"B": 1}), "out"]


def test_half_weights_are_what_autocast_makes_of_them(unet):
    conv = next(m for m in unet.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels == 8)
    x = torch.randn(2, 8, 6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = conv(x)
        assert torch.equal(half_weights(conv)(x), before)
    linear, x = unet.time_embedding.linear_1, torch.randn(2, unet.time_embedding.linear_1.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        before = linear(x)
        assert torch.equal(half_weights(linear)(x), before)
    assert linear.weight.dtype == torch.bfloat16
    assert unet.conv_norm_out.weight.dtype == torch.float32


# ------------------------------------------------------------------------------------------- generation


def test_for_generation_is_a_copy_with_the_same_clips(tiny):
    fast = tiny.for_generation(compile=False)
    settings = {"steps": 3, "batch_size": 2}
    want = tiny.generate_latents(["rain"] * 3, range(3), **settings)
    assert_close(fast.generate_latents(["rain"] * 3, range(3), **settings), want, atol=1e-4, rtol=1e-4)
    assert not any(type(m).__name__.startswith("Fast") for m in tiny.unet.modules())
    assert not any(p.requires_grad for p in fast.unet.parameters())


def test_a_compiled_unet_sees_one_size_of_batch(tiny, monkeypatch):
    """A last batch that is not full is filled up, and the surplus dropped: else it would be compiled for itself."""
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda m, **_: setattr(m, "_compiled_call_impl", m._call_impl)
    )
    fast, rows = tiny.for_generation(), []
    monkeypatch.setattr(
        type(fast), "eps_theta", lambda self, s, n, E: rows.append(len(s)) or torch.zeros_like(s)
    )
    settings = {"steps": 1, "batch_size": 4, "guidance_scale": 1.0}
    assert len(fast.generate_latents(["rain"] * 6, range(6), **settings)) == 6
    assert len(fast.generate_latents(["rain"] * 3, range(3), **settings)) == 3
    assert rows == [4, 4, 4]
    # the surplus is at the end, and goes from there
    monkeypatch.setattr(type(fast), "eps_theta", lambda self, s, n, E: torch.zeros_like(s))
    many, few = (fast.generate_latents(["rain"] * k, range(k), **settings) for k in (4, 3))
    assert_close(few, many[:3])
    monkeypatch.setattr(
        type(fast), "eps_theta", lambda self, s, n, E: rows.append(len(s)) or torch.zeros_like(s)
    )
    alone = tiny.for_generation()
    assert len(alone.generate_latents(["rain"] * 3, range(3), **settings)) == 3
    assert rows[3:] == [3]


def test_predictions_of_rounded_weights_are_float32(tiny):
    """Products are bf16, sampling is not: 200 steps would round a latent 200 times."""
    fast = tiny.for_generation(compile=False)
    fast.half = True  # as on a GPU
    half_weights(fast.unet)
    s, n, E = torch.randn(1, *tiny.latent_shape), torch.tensor([500]), torch.randn(1, tiny.embed_dim)
    with torch.no_grad():
        rounded, exact = fast.eps_theta(s, n, E), tiny.eps_theta(s, n, E)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_rounded_weights_are_neither_trained_nor_saved(tiny, tmp_path):
    fast = tiny.for_generation(compile=False)
    fast.half = True  # as on a GPU
    with pytest.raises(InputError, match="rounded weights: take the system itself to save it"):
        fast.save_pretrained(tmp_path / "x")
    with pytest.raises(InputError, match="the system itself to train"):
        finetune(fast, None, {}, FinetuneConfig(lam=0.0), tmp_path / "y")
    assert not list(tmp_path.iterdir())


def test_fast_needs_a_gpu(tmp_path, monkeypatch):
    from latentclap import generating

    monkeypatch.setattr(generating, "load_system", lambda *_: random_system("tiny"))
    with pytest.raises(InputError, match="--fast is for GPUs"):
        generating.generate(out=tmp_path / "out", classes="rain", prompts=None, device="cpu", fast=True)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- training


def test_moments_lie_as_their_weights():
    """A run that began without channels last goes on with it: a fused Adam wants one order."""
    conv = torch.nn.Conv2d(4, 4, 3)
    optimizer = torch.optim.AdamW(conv.parameters())
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    before = optimizer.state[conv.weight]["exp_avg"].clone()
    conv.to(memory_format=torch.channels_last)
    as_weights_lie(optimizer)
    after = optimizer.state[conv.weight]["exp_avg"]
    assert after.stride() == conv.weight.stride() != before.stride()
    assert torch.equal(after, before) and optimizer.state[conv.weight]["step"] == 1
    assert np.isfinite(before.numpy()).all()
