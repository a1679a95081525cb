"""A step's memory is told before it runs, and a batch that will not fit is named."""

import copy
import json
import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from latentclap import memory
from latentclap.diffusion import NoiseSchedule
from latentclap.errors import InputError
from latentclap.finetune import device
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import LatentCLAPLoss
from latentclap.memory import (
    ALLOWANCE,
    GIB,
    SPARE,
    Footprint,
    _norms_in_float32,
    _peaks,
    _step,
    foretold,
    training_footprint,
)
from latentclap.models import audioldm_unet, random_system, size
from latentclap.train import TrainConfig


@pytest.fixture(scope="module")
def tiny():
    system = random_system("tiny")
    return system, LatentCLAP(**size("tiny")["phi"]).eval().requires_grad_(False)


@pytest.fixture(scope="module", autouse=True)
def walked_once():
    """A step's walk takes seconds, and the same arguments give the same bytes: each is gone through once."""
    known, walk = {}, memory._peaks

    def peaks(*arguments):
        key = repr(arguments)
        if key not in known:
            known[key] = walk(*arguments)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_peaks", peaks)
        yield


@pytest.mark.parametrize("batch", [1, 8])
def test_what_is_told_is_what_the_allocator_hands_out(tiny, batch):
    """torch's own profiler counts a real step's memory; both within a twentieth, of which a part is rounding up."""
    system, phi = tiny
    weights, (told,) = _peaks(system.unet.config, phi.config, system.latent_shape, (batch,), False, False)
    unet = system.unet.train().requires_grad_(True)
    assert weights == sum(p.numel() * 4 for p in unet.parameters())
    loss, optimizer = LatentCLAPLoss(phi), torch.optim.AdamW(unet.parameters(), foreach=False)

    def step():
        _step(unet, loss, NoiseSchedule(), (batch, *system.latent_shape), False)
        optimizer.step()
        optimizer.zero_grad()

    step()  # Adam's moments are there from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    held = 3 * weights + sum(p.numel() * 4 for p in phi.parameters())
    # 512-byte blocks weigh more in the tiny size's small tensors than anywhere else
    assert told == pytest.approx(held + peak, rel=0.1)
    assert told >= held + peak


def test_peaks_lie_on_a_line(tiny):
    """So that three batches tell of all others."""
    system, phi = tiny
    told = training_footprint(system.unet.config, phi.config, system.latent_shape, precision="no")
    _, peaks = _peaks(system.unet.config, phi.config, system.latent_shape, (16, 200), False, False)
    counted = [told.fixed + told.per_clip * batch / ALLOWANCE for batch in (16, 200)]
    assert counted == pytest.approx(peaks, rel=0.02)
    assert told.peak(16) > peaks[0] and told.peak(200) > peaks[1]


@pytest.mark.slow
def test_no_record_of_a_gpu_is_above_what_is_told(repo_root):
    """At the paper's size, without eq. 3, which takes little: what a GPU really took is not more."""
    with torch.device("meta"):
        unet = audioldm_unet().config
    rows = [
        row
        for path in sorted((repo_root / "book" / "runs").glob("speed_h200*.json"))
        for row in json.loads(path.read_text())["train"]["rows"]
    ]
    assert any(not row["compile"] for row in rows)
    told = {}
    for row in rows:
        way = {"precision": row["precision"], "checkpointing": row["checkpointing"]}
        footprint = told.setdefault(str(way), training_footprint(unet, None, (8, 256, 16), **way))
        assert footprint.peak(row["batch"]) / GIB >= row["gib"], row
    assert len(told) == 1  # it takes half a minute


def test_norms_of_half_precision_are_counted_in_float32():
    norms = torch.nn.ModuleList([torch.nn.GroupNorm(1, 4), torch.nn.LayerNorm(4)])
    x = torch.randn(2, 4).bfloat16()
    for half, kind in ((True, torch.float32), (False, torch.bfloat16)):
        with _norms_in_float32(norms, half):
            assert [norm(x).dtype for norm in norms] == [kind] * 2
    assert [norm(x).dtype for norm in norms] == [torch.bfloat16] * 2


def test_ways_to_save_memory_save_it(tiny):
    system, phi = tiny
    about = (system.unet.config, phi.config, system.latent_shape)
    plain = training_footprint(*about, precision="no")
    assert training_footprint(*about, precision="no", checkpointing=True).per_clip < plain.per_clip
    assert training_footprint(*about, precision="bf16").per_clip < plain.per_clip
    alone = training_footprint(about[0], None, about[2], precision="no")
    assert alone.per_clip < plain.per_clip
    # the encoder's weights are there too
    assert plain.least - alone.least >= 4 * sum(p.numel() for p in phi.parameters())
    weights = 4 * sum(p.numel() for p in system.unet.parameters())
    shared = training_footprint(*about, precision="no", ema=True, processes=8)
    assert shared.fixed - plain.fixed == shared.least - plain.least == 2 * weights
    two = training_footprint(*about, precision="no", processes=2)
    assert two.fixed - plain.fixed == two.least - plain.least == weights
    bare = (about[0], None, about[2])
    assert training_footprint(*bare, precision="fp16") == training_footprint(*bare, precision="bf16")
    # TensorFloat-32 is a way to multiply float32, not to store it
    assert training_footprint(*about, precision="tf32") == plain


def test_fits_is_the_largest_that_fits():
    footprint = Footprint(least=6 * GIB, fixed=5 * GIB, per_clip=GIB // 4)
    batch = footprint.fits(24 * GIB)
    assert footprint.peak(batch) + SPARE <= 24 * GIB < footprint.peak(batch + 1) + SPARE
    assert footprint.fits(6 * GIB) == 0 and footprint.peak(1) == 6 * GIB
    # two clips' pass would fit, and Adam's update, which is as large whatever the batch, would not
    assert footprint.fits(13 * GIB // 2) == 0 < footprint.fits(7 * GIB)
    # a pass keeps more than Adam's update takes, before any clip is there
    assert Footprint(least=2 * GIB, fixed=5 * GIB, per_clip=GIB).fits(4 * GIB) == 0


def test_a_batch_that_will_not_fit_is_named(tiny):
    system, phi = tiny
    about = (system.unet.config, phi.config, system.latent_shape)
    told = training_footprint(*about)
    free = SPARE + told.peak(100)
    assert foretold(*about, 100, free) is None
    line = foretold(*about, 101, free)
    assert "a step of 101 clips" in line and ": 100 would fit, with checkpointing" in line
    assert int(line.rpartition(" ")[2]) == training_footprint(*about, checkpointing=True).fits(free) > 100
    assert "checkpointing" not in foretold(*about, 10**6, free, checkpointing=True)
    assert "no batch will fit" in foretold(*about, 1, SPARE)


def test_the_line_is_of_the_run_s_own_way_and_in_gib(monkeypatch):
    """Both estimates, as it runs and with checkpointing, are of the same options."""
    asked = []

    def footprint(*_, **options):
        asked.append(options)
        return Footprint(3 * 2**30, 2 * 2**30, 2**28 if options["checkpointing"] else 2**29)

    monkeypatch.setattr(memory, "training_footprint", footprint)
    about = ({}, None, (8, 16, 16))
    options = {"precision": "fp16", "lora_rank": 4}
    free = 6 * 2**30
    assert foretold(*about, 10, free, **options) == (
        "a step of 10 clips takes about 7.0 GiB uncompiled, and 6.0 GiB are free: 6 would fit, with checkpointing 12"
    )
    assert asked == [options | {"checkpointing": checkpointing} for checkpointing in (False, True)]
    asked.clear()
    assert foretold(*about, 20, free, checkpointing=True).endswith("free: 12 would fit")
    assert asked == [{"checkpointing": True}]
    assert foretold(*about, 1, 7 * 2**29) == (
        "weights, gradients and Adam alone take about 3.0 GiB, and 3.5 GiB are free: no batch will fit this GPU"
    )


def test_a_clip_s_share_is_the_slope_between_two_batches(monkeypatch):
    """What a pass keeps whatever the batch is no part of it, however large."""
    monkeypatch.setattr(memory, "_peaks", lambda *a: (50, [2000, *(5000 + 10 * batch for batch in a[3][1:])]))
    assert training_footprint({}, None, (8, 16, 16)) == Footprint(2000, 5000, 13)


def test_fine_tuning_warns(tiny):
    """As it does on a GPU, whose free memory is given by hand here."""
    system, phi = tiny
    config = TrainConfig(steps=1, batch_size=4096)
    with pytest.warns(UserWarning, match="a step of 4096 clips takes about"):
        device.warn_of_memory(system, phi, config, lambda: SPARE + 10**8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device.warn_of_memory(system, phi, config, lambda: 80 * GIB)


def test_an_estimate_that_fails_is_a_line(tiny):
    system, phi = tiny

    def broken():
        raise RuntimeError("no such counter\nat line 3")

    with pytest.warns(UserWarning, match=r"could not be told \(RuntimeError: no such counter\)$"):
        device.warn_of_memory(system, phi, TrainConfig(steps=1), broken)


def test_what_training_does_not_need_steps_aside():
    """All but the copy that trains, and back again, also where training fails; what lies elsewhere stays there."""

    class Moved(torch.nn.Linear):
        def to(self, device):
            self.places = [*getattr(self, "places", []), str(device)]
            return self

    system = random_system("tiny")
    tuned = copy.copy(system)
    tuned.unet, tuned.tuning = copy.deepcopy(system.unet), torch.nn.Linear(2, 2)
    idle = device.idle(system, tuned)
    assert {id(m) for m in idle} == {
        id(m) for m in (system.unet, system.vae, system.vocoder, system.text_encoder, system.clap)
    }
    here, elsewhere = Moved(2, 2), Moved(2, 2, device="meta")
    with pytest.raises(KeyError), device.aside([here, elsewhere], torch.device("cpu")):
        assert here.places == ["cpu"]
        raise KeyError
    assert here.places == ["cpu", "cpu"] and not hasattr(elsewhere, "places")


def test_an_unknown_precision_is_refused(tiny):
    system, phi = tiny
    with pytest.raises(InputError, match="precision='int8': one of no, tf32, bf16, fp16"):
        training_footprint(system.unet.config, phi.config, system.latent_shape, precision="int8")
