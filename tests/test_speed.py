"""The speed benchmark: counts are right, every part runs without a GPU, and mistakes cost one line."""

import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentclap.book.speed import speed_page
from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.models import audioldm_unet
from latentclap.runs import device_name

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts" / "benchmarks"))
import speed
import speed_parts as parts


@pytest.fixture
def uncompiled(monkeypatch):
    """Without inductor, which takes minutes on a CPU: what is tested is the benchmark."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: None)


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


def test_counts_of_the_full_size(tmp_path, capsys):
    """By its operations eq. 3 is nearly free: φ is small beside the UNet."""
    speed.count(out=tmp_path / "counts.json")
    told = json.loads((tmp_path / "counts.json").read_text())["count"]
    assert told["forward_gflop"] == pytest.approx(223.6, abs=0.1)
    assert told["eq1_gflop"] == pytest.approx(3 * 223.6, rel=1e-3)
    assert told["eq3_share"] < 0.03
    assert told["state_gib"] == pytest.approx(16 * 415.95e6 / 2**30, rel=1e-4)
    eager = next(row for row in told["memory"] if row["precision"] == "bf16" and not row["checkpointing"])
    assert eager["least_gib"] >= told["state_gib"] and eager["fits"]["24"] >= 16
    assert eager["fits"]["16"] >= 2
    shown = speed_page([tmp_path / "counts.json"], tmp_path / "speed.md").read_text()
    assert "training step by eq. 1 | 670.7" in shown and "### Counted, not run: audioldm" in shown
    assert "largest batch in 24 GiB" in shown and f"{eager['peak_gib']['16']:.1f}" in shown


def test_every_part_reaches_the_page(tmp_path):
    row = {"precision": "bf16", "compile": True, "batch": 64, "loss": True, "checkpointing": False}
    made = {
        "precision": "bf16",
        "compile": False,
        "batch": 20,
        "sampler": "ddim",
        "steps": 200,
        "fused": True,
        "scaled": True,
    }
    write_json(
        tmp_path / "speed_card.json",
        {
            "size": "paper", "device": "some card", "when": "before", "note": "In laps.",
            "commit": "abc", "versions": {"torch": "9.9"},
            "train": {"peak_flops": 7.98e14, "rows": [
                row | {"clips_per_second": 364.2, "share": 0.306, "gib": 22.04, "first_step_seconds": 60.0},
                row | {"batch": 512, "error": "batch_size=512 does not fit"},
            ]},
            "generate": {"peak_flops": 7.98e14, "rows": [made | {"clips": 100, "seconds": 50.9, "share": 0.22}]},
            "agree": {"steps": 100, "batch": 4, "kernels": False,
                      "loss": {"bf16": {"largest": 1e-2, "mean": 2e-3}, "near": {"largest": 9e-1, "mean": 4e-3},
                               "far": {"largest": 1e-2, "mean": 1e-3}, "fp32, other": {"largest": 0, "mean": 0}},
                      "latents_rms": {"bf16": 3e-2, "near": 6e-2, "far": 7e-2}},
            "replays": row | {"cuda_graph": True, "steps": 10, "replays": 7,
                              "against": {"kernel by kernel": {"largest": 2e-7, "mean": 1e-7},
                                          "plain": {"largest": 4e-3, "mean": 3e-3}}},
            "memory": {"rows": [{"batch": 2, "checkpointing": True, "gib": 9.5}],
                       "fits": {"16": [0, 2], "24": [8, None]}},
            "profile": [row | {"by_kind": {"convolution": 61.5}, "idle_ms": 3.2, "ms_per_step": 133, "kernels": []}],
            "compile": {"first": 71.0, "cached": 22.0},
        },
    )  # fmt: skip
    text = speed_page([tmp_path / "speed_card.json"], tmp_path / "speed.md").read_text()
    assert "Before: some card" in text
    small = {
        "size": "tiny",
        "commit": "x",
        "versions": {"torch": "1"},
        "compile": {"first": 1.0, "cached": 1.0},
    }
    write_json(tmp_path / "a.json", small | {"device": "CPU, 1 thread"})
    write_json(tmp_path / "b.json", small | {"device": "a card"})
    write_json(tmp_path / "c.json", small | {"device": "any, by counting"})
    ordered = speed_page(
        [tmp_path / f"{x}.json" for x in ("speed_card", "a", "c", "b")], tmp_path / "o.md"
    ).read_text()
    places = [
        ordered.index(x) for x in ("### A card", "### CPU", "### Counted, not run", "Before: some card")
    ]
    assert places == sorted(places)
    for figure in ("**Some card, before: audioldm", "In laps.",
                   "364.2 | 30.6% | 22.0", "does not fit", "50.9 (scaled up) | 22.0%", "fused",
                   "798 TFLOP",
                   "| bf16 | 1.0e-02 | 2.0e-03 | 3.0e-02 |  |", "6.0e-02 | yes |", "7.0e-02 | no |",
                   "0.0e+00 | – | yes |", "Triton's interpreter", "recomputed activations | 9.5", "16 GiB | 0 | 2",
                   "24 GiB | 8 | – |", "The first step of what is compiled took 60 s",
                   "replayed, batch 64: 10 steps from the same weights, 7 of them replays",
                   "kernel by kernel | 2.0e-07 | 1.0e-07", "eager | 4.0e-03 | 3.0e-03",
                   "training, bf16, compiled, batch 64", "convolution | 61.5", "**all** | 133.0",
                   "71 s, 22 s", "Commit abc, torch 9.9"):  # fmt: skip
        assert figure in text, figure


def test_what_an_earlier_run_measured_is_replaced_with_a_word(tmp_path, capsys):
    out = tmp_path / "speed.json"
    old = {"size": "tiny", "device": device_name(), "train": {"rows": [{}]}, "memory": {"rows": []}}
    write_json(out, old | {"commit": "abc"})
    run = speed.Measurement("tiny", "cpu", out, parts=("train", "generate"))
    said = capsys.readouterr().out
    assert (
        said
        == f"{out} holds train of commit abc: replaced, as a whole, once its first row is measured again\n"
    )
    run.record("train", {"rows": [{"new": True}]})
    told = json.loads(out.read_text())
    assert told["train"] == {"rows": [{"new": True}]} and told["memory"] == old["memory"]
    speed.Measurement("tiny", "cpu", out, parts=("generate",))
    speed.Measurement("tiny", "cpu", tmp_path / "new.json")
    assert not capsys.readouterr().out


def test_rented_minutes_end(uncompiled, tmp_path, capsys):
    """What is measured is on file; no row is begun after the time, and that is said."""
    out = tmp_path / "speed.json"
    run = speed.Measurement("tiny", "cpu", out)
    run.train(1, [0, 5])
    run.end = 0.0
    run.train(1)
    run.generate(1, 2)
    run.agree(1, 1, parts.AGREEMENT)
    told = json.loads(out.read_text())
    assert [row["fused"] for row in told["train"]["rows"]] == [True, False]
    assert "generate" not in told and "agree" not in told
    assert capsys.readouterr().out.count("out of time") > 8


@pytest.fixture
def card(monkeypatch):
    """A GPU that there is not: each measurement takes the seconds that it is said to; what is begun is listed."""
    begun, clock = [], [0.0]
    train, generate = (
        {"clips_per_second": 9.0, "share": 0.1, "gib": 2.0},
        {"seconds": 9.0, "share": 0.1, "scaled": False},
    )

    def take(what, seconds, fails=None):
        begun.append(what)
        clock[0] += seconds
        if fails:
            raise fails

    def of_training(systems, row, steps, peak):
        new = row.compile and row.way != systems.way
        systems.of(*row.way)
        fails = torch.OutOfMemoryError("CUDA out of memory. Tried") if row.precision == "tf32" else None
        take(("train", speed.label(row)), 30 + 100 * new, fails)
        return parts.asdict(row) | train | {"first_step_seconds": 100.0 if new else 0.1}

    def of_generation(systems, row, clips, peak):
        new = row.compile and row.way != systems.way
        systems.of(*row.way)
        fails = RuntimeError("no kernel\nimage") if row.sampler == "unipc" else None
        take(("generate", speed.label(row)), 30 + 50 * new, fails)
        return parts.asdict(row) | generate | {"first_call_seconds": 50.0 * new}

    def of_agreement(name, device, steps, batch, ways):
        for number, way in enumerate(ways):
            take(("agree", way), 20)
            if number:
                yield {
                    "steps": steps,
                    "batch": batch,
                    "loss": {way: {"largest": 0.1, "mean": 0.1}},
                    "latents_rms": {},
                }

    def of_memory(name, device, batch, checkpointing):
        take(("memory", batch, checkpointing), 7)
        return {"batch": batch, "checkpointing": checkpointing, "gib": 9.0}

    def of_compilation(*arguments):
        take(("compile", arguments[-1]), 50)
        return [25.0]

    def of_replays(systems, row):
        take(("replays", speed.label(row)), 10)
        return parts.asdict(row) | {
            "steps": 10,
            "replays": 7,
            "against": {"plain": {"largest": 0.1, "mean": 0.1}},
        }

    def of_profile(systems, row):
        take(("profile", speed.label(row)), 10, RuntimeError("CUPTI"))

    monkeypatch.setattr(speed, "start", lambda name, device, **_: 1e15)
    monkeypatch.setattr(speed, "device_name", lambda: "a card")
    monkeypatch.setattr(speed.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(parts, "bench_system", lambda name, device: (None, None))
    for name, stub in {
        "train_row": of_training,
        "generate_row": of_generation,
        "agreement": of_agreement,
        "memory_row": of_memory,
        "compile_seconds": of_compilation,
        "profile_step": of_profile,
        "replay_agreement": of_replays,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(speed, name, stub)
    return begun


def test_a_rented_gpu_s_minutes(card, tmp_path, capsys):
    """What matters most is measured first, an error costs its own row alone, and nothing is begun that cannot end."""
    out = tmp_path / "speed.json"
    with pytest.raises(SystemExit, match="1"):  # the status tells of what failed
        speed.all_parts(name="paper", device="cuda", out=out, steps=40, minutes=10.3)
    order = list(dict.fromkeys(what[0] for what in card))
    assert order == ["train", "profile", "replays", "generate", "compile", "agree", "memory"]
    told = json.loads(out.read_text())
    assert [row["loss"] for row in told["train"]["rows"][:2]] == [True, False]
    assert told["compile"] == {"first": 100.0, "cached": 25.0} and "profile" not in told
    assert [r.get("error") for r in told["generate"]["rows"]] == [None, None, "failed: no kernel"]
    assert len(told["memory"]["rows"]) >= 1
    said = capsys.readouterr()
    assert "not measured, by an error: profile of bf16" in said.err and "CUPTI" in said.out
    # a hundred seconds of compilation do not fit any more
    assert "LoRA of rank 16" in said.out and not any("LoRA" in str(what) for what in card)
    text = speed_page([out], tmp_path / "speed.md").read_text()
    assert "failed" in text


def test_all_of_it_without_a_limit(card, tmp_path):
    out = tmp_path / "speed.json"
    with pytest.raises(SystemExit):
        speed.all_parts(name="paper", device="cuda", out=out, steps=40, minutes=0.0)
    told = json.loads(out.read_text())
    rows = told["train"]["rows"]
    assert len(rows) == len(parts.TRAINING) and len(told["generate"]["rows"]) == len(parts.GENERATION)
    (small,) = (row for row in rows if "error" in row)
    assert small["error"] == "CUDA out of memory. Tried" and "failed" not in small
    assert ("compile", None) in card and len(told["memory"]["rows"]) == 6
    text = speed_page([out], tmp_path / "speed.md").read_text()
    assert "LoRA of rank 16" in text and "does not fit" in text and "failed" in text


def test_a_file_of_another_device_is_refused_before_anything_runs(card, tmp_path):
    write_json(tmp_path / "speed.json", {"size": "paper", "device": "another card"})
    with pytest.raises(InputError, match="is of paper on another card"):
        speed.all_parts(name="paper", device="cuda", out=tmp_path / "speed.json", steps=40, minutes=0.0)
    assert card == []


def test_adapters_train_and_nothing_is_saved(uncompiled, monkeypatch):
    """A row of LoRA: the weights stay; no checkpoint of 5 GB is written; the next system is as drawn."""
    monkeypatch.setattr("latentclap.train.state.save_checkpoint", lambda *_: pytest.fail("saved"))
    systems = parts.Systems("tiny", "cpu")
    row = parts.Training("no", False, 2, True, lora=4)
    before = parts.bench_system("tiny", "cpu")[0].unet.state_dict()
    told = parts.train_row(systems, row, 1, peak=1e9)
    unet = systems.held[0].unet
    trained = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert told["lora"] == 4 and trained and all("lora" in name for name in trained)
    after = {name.replace(".base_layer", ""): value for name, value in unet.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert told["share"] == pytest.approx(
        told["clips_per_second"] * 2 * parts.forward_flops(systems.held[0]) / 1e9, rel=0.2
    )
    parts.train_row(systems, parts.Training("no", False, 2, False), 1, peak=1e9)
    again = parts.bench_system("tiny", "cpu")[0].unet.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())


def test_a_system_s_memory_is_given_back():
    """Where the next row's weights come, the last row's are gone."""
    systems = parts.Systems("tiny", "cpu")
    parts.train_row(systems, parts.Training("no", False, 2, True), 1, peak=1e9)
    held = weakref.ref(systems.held[0].unet)
    systems.of()
    assert held() is None


def test_another_file_is_no_record_of_speed(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        speed_page([tmp_path / "speed.json"], tmp_path / "x.md")
    write_json(tmp_path / "speed.json", {"rates": 1})
    with pytest.raises(InputError, match="another kind of file"):
        speed_page([tmp_path / "speed.json"], tmp_path / "x.md")


def test_a_row_of_training():
    systems = parts.Systems("tiny", "cpu")
    row = parts.train_row(systems, parts.Training("no", False, 2, True), 1, peak=1e9)
    system, _ = systems.held
    assert row["share"] == pytest.approx(row["clips_per_second"] * 3 * parts.forward_flops(system) / 1e9)
    assert row["gib"] is None and row["first_step_seconds"] > 0


def test_the_same_mathematics(uncompiled):
    """Recomputed activations change nothing; bf16 changes little, and something."""
    with parts.in_precision("no", "cpu"):
        assert not torch.backends.cudnn.allow_tf32  # float32 is float32 in convolutions too
    assert torch.backends.cudnn.allow_tf32
    *_, found = parts.agreement("tiny", "cpu", 2, 2)
    assert found["loss"]["fp32, checkpointing"]["largest"] < 1e-5
    assert 0 < found["loss"]["bf16"]["largest"] < 0.05
    assert 0 < found["latents_rms"]["bf16"] < 0.2
    for way in ("bf16, fused", "bf16, fused, replayed", "bf16, compiled, fused, replayed"):
        assert 0 < found["loss"][way]["largest"] < 0.05 and 0 < found["latents_rms"][way] < 0.2


def test_the_same_steps_in_other_ways(uncompiled):
    """From the same weights each time, whatever was trained before."""
    systems = parts.Systems("tiny", "cpu")
    row = parts.Training("no", True, 2, True, fused=True)
    parts.train_row(systems, row, 2, peak=1e9)
    told = parts.replay_agreement(systems, row, 3)
    assert told["against"]["kernel by kernel"] == {"largest": 0.0, "mean": 0.0}
    assert 0 < told["against"]["plain"]["largest"] < 1e-4 and told["replays"] == 0


def test_what_fits():
    rows = [
        {"batch": 2, "checkpointing": False, "gib": 12.0},
        {"batch": 4, "checkpointing": False, "gib": 15.5},
        {"batch": 8, "checkpointing": False, "gib": None},
        {"batch": 8, "checkpointing": True, "gib": 14.0},
    ]
    assert parts.fitting(rows, (16, 24)) == {"16": [2, 8], "24": [4, 8]}
    assert parts.fitting(rows[:3], (4, 16)) == {"4": [0, None], "16": [2, None]}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution"),
        ("void at::native::group_norm_kernel", "normalisation"),
        ("pytorch_flash::flash_fwd_kernel", "attention"),
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "matrix product"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "layout and copies"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention"),
        ("triton_red_fused_native_group_norm_backward_silu_12", "normalisation"),
        ("backward_sums", "normalisation"),
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
    assert "bf16, compiled, batch 4, dpmsolver++, 2 steps, fused" in capsys.readouterr().out
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


def test_neither_a_missing_compiler_nor_a_broken_gpu_costs_the_rest(card, tmp_path, monkeypatch, capsys):
    """What cannot be compiled fails row by row, and a GPU whose every call fails lets the file be written."""
    out = tmp_path / "speed.json"
    train = speed.train_row

    def uncompilable(systems, row, steps, peak):
        if row.compile:
            raise InputError("torch.compile needs a C compiler, and there is none")
        return train(systems, row, steps, peak)

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(speed, "train_row", uncompilable)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)
    with pytest.raises(SystemExit, match="1"):
        speed.all_parts(name="paper", device="cuda", out=out, steps=40, minutes=0.0)
    rows = json.loads(out.read_text())["train"]["rows"]
    assert len(rows) == len(parts.TRAINING)
    assert all(
        row.get("error", "").startswith("failed: torch.compile needs") for row in rows if row["compile"]
    )
    # with a GPU in such a state nothing else can be measured, and that is said row by row
    said = capsys.readouterr()
    assert "was not given back: CUDA error" in said.err and "LoRA of rank 16" in said.err


def test_a_row_that_fails_does_not_cost_the_others():
    def too_large():
        raise parts.TrainingError("batch_size=64 does not fit")

    row = speed.attempt(too_large, parts.Training("bf16", True, 64, True))
    assert row["error"] == "batch_size=64 does not fit" and row["batch"] == 64
