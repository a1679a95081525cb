"""The speed benchmark: counts are right, every part runs without a GPU, and mistakes cost one line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentclap.errors import InputError
from latentclap.models import audioldm_unet

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts" / "benchmarks"))
import speed
import speed_parts as parts


@pytest.fixture
def uncompiled(monkeypatch):
    """Without inductor, which takes minutes on a CPU: what is tested is the benchmark."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)


def test_the_full_size_is_audioldm_m_full():
    """415.95 M parameters (facts A5) and 223.6 GFLOP a forward pass of one clip."""
    with torch.device("meta"):
        unet = audioldm_unet()
        assert sum(p.numel() for p in unet.parameters()) == pytest.approx(415.95e6, rel=1e-4)
        with FlopCounterMode(display=False) as counter:
            unet(
                torch.zeros(1, 8, 256, 16),
                torch.zeros(1),
                encoder_hidden_states=None,
                class_labels=torch.zeros(1, 512),
            )
    assert counter.get_total_flops() / 1e9 == pytest.approx(223.6, abs=0.1)


def test_flops_of_a_matrix_product():
    """The peak is what the clock says of 2 n^3 operations: positive, and below a petaflop on a CPU."""
    assert 1e8 < parts.peak_flops("cpu", 64) < 1e15


def test_a_row_of_training():
    row = parts.train_row("tiny", "cpu", parts.Training("no", False, 2, True), 1, peak=1e9)
    system, _ = parts.bench_system("tiny", "cpu")
    assert row["share"] == pytest.approx(row["clips_per_second"] * 3 * parts.forward_flops(system) / 1e9)
    assert row["gib"] is None and row["first_step_seconds"] > 0


def test_the_same_mathematics(uncompiled):
    """Recomputed activations change nothing; bf16 changes little, and something."""
    found = parts.agreement("tiny", "cpu", 2, 2)
    # λ = 1000 magnifies what threads add up in another order
    assert found["loss"]["fp32, checkpointing"]["largest"] < 2e-3
    assert 0 < found["loss"]["bf16"]["largest"] < 0.05
    assert 0 < found["latents_rms"]["bf16"] < 0.2
    assert found["loss"]["bf16, compiled"] == found["loss"]["bf16"]


def test_what_fits():
    rows = [
        {"batch": 2, "checkpointing": False, "gib": 12.0},
        {"batch": 4, "checkpointing": False, "gib": 15.5},
        {"batch": 8, "checkpointing": False, "gib": None},
        {"batch": 8, "checkpointing": True, "gib": 14.0},
    ]
    assert parts.fitting(rows, (16, 24)) == {"16": [2, 8], "24": [4, 8]}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution"),
        ("void at::native::group_norm_kernel", "normalisation"),
        ("pytorch_flash::flash_fwd_kernel", "attention"),
        ("nvjet_gemm_tst", "matrix product"),
        ("multi_tensor_apply_kernel", "optimiser"),
        ("triton_poi_fused_silu_3", "pointwise and fused"),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    assert parts.kind(kernel) == kind


def test_generation_and_profile_to_one_file(uncompiled, tmp_path, capsys, monkeypatch):
    rows = {row.sampler: row for row in parts.GENERATION}
    monkeypatch.setattr(speed, "GENERATION", tuple(rows.values()))  # one per sampler
    out = tmp_path / "speed.json"
    speed.generate_command(name="tiny", device="cpu", out=out, clips=1, most_steps=2)
    speed.profile_command(name="tiny", device="cpu", out=out)
    told = json.loads(out.read_text())
    assert {row["sampler"] for row in told["generate"]["rows"]} == {"ddim", "dpmsolver++", "unipc"}
    assert told["profile"][0]["by_kind"]["convolution"] > 0
    assert "bf16, compiled, batch 4, ddim, 2 steps" in capsys.readouterr().out
    with pytest.raises(InputError, match="is of tiny on"):
        speed.record(out, "mini", "cpu", "train", {})
    assert json.loads(out.read_text()) == told


@pytest.mark.parametrize(
    ("size", "device", "says"),
    [
        ("huge", "cpu", "there are paper, mini and tiny"),
        ("paper", "cpu", "needs a GPU"),
        ("tiny", "cuda", "there is no GPU here"),
    ],
)
def test_mistakes(size, device, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=says):
        speed.start(size, device)


def test_a_row_that_fails_does_not_cost_the_others():
    def too_large():
        raise parts.TrainingError("batch_size=64 does not fit")

    row = speed.attempt(too_large, parts.Training("bf16", True, 64, True))
    assert row["error"] == "batch_size=64 does not fit" and row["batch"] == 64
