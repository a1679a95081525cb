"""What runs on a GPU, run on one that there is not: everything lies where it is used, and the numbers are the CPU's.

``fake_gpu`` says how strict it is; :func:`test_the_room_is_strict` that it is.
"""

import contextlib
import copy
import gc
import json
import pickle
import signal
import threading
import weakref
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch

import fake_gpu
from latentclap import memory
from latentclap.diffusion import CosineTime, NoiseSchedule, RectifiedFlow
from latentclap.embeddings import JudgeEmbedding, get_embedding
from latentclap.errors import InputError
from latentclap.files import write_json
from latentclap.finetune import (
    FinetuneConfig,
    FinetuneTask,
    finetune,
    load_weights,
    save_weights,
    train_latent_clap,
)
from latentclap.gpus import use
from latentclap.latent_clap import LatentCLAP
from latentclap.losses import READINGS, LatentCLAPLoss, ddpm_loss
from latentclap.models import size
from latentclap.system import FoleySystem, tuning_layer
from latentclap.train import Interrupted, Task, TensorBatches, TrainConfig, TrainingError, train
from latentclap.train.replay import WARM, NotRecorded, Recorded
from latentclap.train.step import Stepper

#: what differs between one program and the same one on the CPU: the order in which a fused Adam adds
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, and what happened on them; what a step would take of their memory is not estimated each time."""
    monkeypatch.setattr("latentclap.finetune.device.foretold", lambda *_, **__: None)
    with fake_gpu.gpus(monkeypatch) as told:
        yield told


@pytest.fixture(scope="module")
def phi(tiny):
    torch.manual_seed(0)
    return LatentCLAP(**size("tiny")["phi"]).eval()


@pytest.fixture(scope="module")
def waves():
    return (np.random.default_rng(0).standard_normal((3, 12000)) * 0.1).astype(np.float32)


def loaded(system, device):
    """A copy of a system on a device."""
    return copy.deepcopy(system).to(device)


def places(*modules):
    """Where parameters and buffers are."""
    return {str(t.device) for m in modules if m for t in (*m.parameters(), *m.buffers())}


# ------------------------------------------------------------------------------------------- the room


def two_streams(wait):
    """A tensor copied by a stream of its own, and used by another."""
    copies = torch.cuda.Stream()
    with torch.cuda.stream(copies):
        x = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        copied = copies.record_event()
    if wait:
        torch.cuda.current_stream().wait_event(copied)
    return x + 1


MISTAKES = {
    "another device": (lambda: torch.ones(2, device="cuda") + torch.ones(2), "but found cuda:0, cpu"),
    "another GPU": (lambda: torch.ones(2, device="cuda:1") * torch.ones(2, device="cuda"), "cuda:1 and cuda:0"),
    "weights on the CPU": (lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, device="cuda")), "but found"),
    "weights on the GPU": (lambda: torch.nn.Linear(2, 2).cuda()(torch.ones(1, 2)), "but found"),
    "an index": (lambda: torch.ones(3)[torch.ones(1, dtype=torch.long, device="cuda")], "same device as the"),
    "a generator": (
        lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        "Expected a 'cuda' device type for generator",
    ),
    "a generator in place": (
        lambda: torch.empty(2, device="cuda").normal_(generator=torch.Generator()),
        "Expected a 'cuda' device type for generator",
    ),
    "numpy": (lambda: torch.ones(2, device="cuda").numpy(), "can't convert cuda:0"),
    "an array": (lambda: np.asarray(torch.ones(2, device="cuda")), "can't convert cuda:0"),
    "no such GPU": (lambda: torch.ones(2, device="cuda:2"), "invalid device ordinal"),
    "cat": (lambda: torch.cat([torch.ones(2, device="cuda"), torch.ones(2)]), "but found cuda:0, cpu"),
    "a stream's copy": (lambda: two_streams(wait=False), "without waiting"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_room_is_strict(gpus, name):
    mistake, says = MISTAKES[name]
    with pytest.raises((RuntimeError, TypeError), match=says):
        mistake()


def test_memory_that_goes_too_early_is_noticed(monkeypatch):
    with pytest.raises(fake_gpu.DeviceError, match="record_stream"), fake_gpu.gpus(monkeypatch):
        two_streams(wait=True)
    with fake_gpu.gpus(monkeypatch):
        kept = torch.ones(3, device="cuda")
        assert (kept + 1).cpu().tolist() == [2, 2, 2]


def test_what_is_allowed_is_allowed(gpus):
    """A number and an index of the CPU; what goes there and back, with its gradient; what makes the CPU wait."""
    x = torch.arange(3.0, requires_grad=True)
    y = (x.to("cuda") * torch.tensor(2.0))[torch.tensor([0, 2])]
    assert (y.device, y.is_cuda, type(y.detach().cpu())) == (torch.device("cuda:0"), True, torch.Tensor)
    y.cpu().sum().backward()
    assert x.grad.tolist() == [2, 0, 2]
    assert [what for what, _ in gpus.waits].count("index") == 1 and gpus.on == {0}
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.nn.Linear(3, 2).to("cuda")(x.to("cuda")).dtype == torch.bfloat16
    torch.cuda.set_device(1)
    assert torch.zeros(1, device="cuda").device.index == 1


# --------------------------------------------------------------------------------------- fine-tuning

RUNS = {
    "eq. 1": {},
    "eq. 3": {"lam": 1000.0},
    "tuning layer": {"lam": 1000.0, "tuning": True},
    "LoRA, averaged, in parts": {"lam": 1000.0, "lora_rank": 2, "ema_decay": 0.9, "grad_accum": 2},
    "renoised, by the SNR": {"lam": 10.0, "reading": "renoised", "weighting": "snr", "clamp": 3.0},
}


def tuned(system, phi, cache, folder, **run):
    precision, ways = run.pop("precision", "no"), run.pop("ways", {})
    config = FinetuneConfig(**{"epochs": 1, "batch_size": 4, "lr": 1e-3, **run})
    return finetune(system, phi, cache, config, folder, progress=False, precision=precision, **ways)


@pytest.mark.parametrize("name", RUNS)
def test_finetuning(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch, name):
    """The same losses as on the CPU; all parts lie afterwards where they lay."""
    with monkeypatch.context() as here:
        here.setattr(torch.cuda, "is_available", lambda: False)
        fake_gpu._forget()
        _, want = tuned(tiny, phi, tiny_cache, tmp_path / "cpu", **RUNS[name])
    fake_gpu._forget()
    assert not gpus.on
    system, own = loaded(tiny, "cuda"), copy.deepcopy(phi)
    made, result = tuned(system, own, tiny_cache, tmp_path / "gpu", **RUNS[name])
    np.testing.assert_allclose(
        [h["loss"] for h in result.history], [h["loss"] for h in want.history], **CLOSE
    )
    assert places(*made.parts.values(), *system.parts.values(), system.schedule) == {"cuda:0"}
    assert places(own) == {"cpu"}
    # copies of the batches are the thread's, and keep nobody waiting
    assert any(thread.startswith("ahead") for thread in gpus.moved)
    assert not [where for what, where in gpus.waits if where.startswith(("ahead", "data.py", "ema"))]


def test_a_step_keeps_the_cpu_from_nothing(gpus, tiny, phi, tiny_cache, tmp_path):
    """Between two readings of the losses nothing waits for the GPU: the CPU runs ahead of it."""
    system = loaded(tiny, "cuda")
    system.tuning = tuning_layer(512).to("cuda")
    task = FinetuneTask(system, LatentCLAPLoss(phi.requires_grad_(False), schedule=system.schedule), 1000.0)
    task.unet.requires_grad_(True)
    data = TensorBatches({k: v for k, v in tiny_cache.items() if k != "label"})
    config = TrainConfig(
        steps=7, batch_size=4, log_every=100, ema_decay=0.9, checkpoint_seconds=1e9, precision="bf16"
    )
    begun = len(gpus.waits)
    try:
        train(task, data, config, tmp_path, progress=False)
        waits = [what for what, _ in gpus.waits[begun:] if what != "saved"]
    finally:
        phi.cpu()
    # to the GPU once at the beginning; the losses of the first step and of the others; no more
    assert Counter(waits)["tolist"] == 2 and set(waits) == {"tolist", "copy from cpu to cuda"}
    first = waits.index("tolist")
    assert waits[first:] == ["tolist", "tolist"]


REPLAYED = {
    "eq. 1": {"epochs": 3},
    "eq. 3": {"lam": 1000.0, "epochs": 3, "tuning": True},
    "LoRA, averaged": {"lam": 1000.0, "lora_rank": 2, "ema_decay": 0.9, "epochs": 3},
}


@pytest.mark.parametrize("name", REPLAYED)
def test_a_step_that_is_replayed(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch, name):
    """The same losses and weights as step by step, with which most of a run's steps are replays."""
    monkeypatch.setattr("latentclap.train.modules.need_compiler", lambda: None)
    replays = []
    monkeypatch.setattr(
        fake_gpu.Graph,
        "replay",
        lambda self, real=fake_gpu.Graph.replay: (replays.append(len(self.work)), real(self)),
    )
    made, results = {}, {}
    for way in (False, True):
        system, own = loaded(tiny, "cuda"), copy.deepcopy(phi)
        ways = {"compile": True, "fused": False, "cuda_graph": way}
        made[way], results[way] = tuned(
            system, own, tiny_cache, tmp_path / str(way), ways=ways, **REPLAYED[name]
        )
        steps = results[way].step
        assert len(replays) == (steps - WARM if way else 0) and steps > WARM + 3
    assert len(set(replays)) == 1 and replays[0] > 100
    np.testing.assert_allclose(*([h["loss"] for h in results[way].history] for way in (True, False)), **CLOSE)
    plain, replayed = (
        torch.cat([p.detach().cpu().flatten() for p in made[way].unet.parameters()]) for way in (False, True)
    )
    # in some weights Adam makes steps of the rounding of a gradient that is zero
    start = torch.cat([p.detach().flatten() for p in tiny.unet.parameters()])
    assert (replayed - plain).norm() < 0.01 * (plain - start).norm()
    # a checkpoint does not know how its steps were computed
    groups = [
        torch.load(tmp_path / str(way) / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
        for way in (False, True)
    ]
    for (one,), (other,) in [groups]:
        assert one.pop("lr") == pytest.approx(other.pop("lr")) and one == other


def test_replays_go_on_from_a_checkpoint(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """In three calls, of which the second replays nothing; the learning rate of each step is its own."""
    monkeypatch.setattr("latentclap.train.modules.need_compiler", lambda: None)

    def run(folder, *ends):
        system = loaded(tiny, "cuda")
        task = FinetuneTask(system, LatentCLAPLoss(phi, schedule=system.schedule), 1000.0)
        task.unet.requires_grad_(True)
        data = TensorBatches({k: v for k, v in tiny_cache.items() if k != "label"})
        whole = TrainConfig(
            steps=15, batch_size=4, lr=1e-3, warmup_steps=8, schedule="cosine", log_every=1, precision="no"
        )
        try:
            for end, graph in ends:
                stop = replace(whole, compile=True, fused=False, cuda_graph=graph, checkpoint_seconds=0)

                def enough(step, end=end):
                    if step == end < 15:
                        signal.raise_signal(signal.SIGTERM)

                with contextlib.suppress(Interrupted):
                    out = train(task, data, stop, folder, progress=False, on_checkpoint=enough)
        finally:
            phi.cpu()
        return out.history

    whole = run(tmp_path / "whole", (15, True))
    parts = run(tmp_path / "parts", (6, True), (9, False), (15, True))
    for key in ("loss", "grad_norm", "lr"):
        np.testing.assert_allclose([h[key] for h in parts], [h[key] for h in whole], err_msg=key, **CLOSE)


def test_a_step_that_cannot_be_recorded(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """A weighting of one's own that waits for the GPU: one line that says what else to do."""
    monkeypatch.setattr("latentclap.train.modules.need_compiler", lambda: None)
    system = loaded(tiny, "cuda")
    loss = LatentCLAPLoss(phi, schedule=system.schedule, weighting=lambda n: n / n.max().item())
    task = FinetuneTask(system, loss, 1000.0)
    task.unet.requires_grad_(True)
    data = TensorBatches({k: v for k, v in tiny_cache.items() if k != "label"})
    config = TrainConfig(steps=9, batch_size=4, compile=True, fused=False, precision="no")
    try:
        with pytest.raises(
            TrainingError, match=r"CUDA graph \(.*capturing.*\); train without .*--no-cuda-graph"
        ):
            train(task, data, config, tmp_path / "a", progress=False)
        without = replace(config, cuda_graph=False)
        assert train(task, data, without, tmp_path / "b", progress=False).finished
    finally:
        phi.cpu()


class Line(Task):
    """One product, and what else a test does in a pass."""

    replayable = True

    def __init__(self, also=lambda: None):
        super().__init__()
        self.net, self.also = torch.nn.Linear(3, 1).to("cuda"), also

    def forward(self, batch, rngs):
        """The mean square."""
        self.also()
        return {"loss": self.net(batch["x"]).square().mean()}


LINES = TensorBatches({"x": torch.linspace(-1, 1, 60).reshape(20, 3)})
LINE = TrainConfig(
    steps=12, batch_size=4, lr=0.1, compile=True, fused=False, precision="no", log_every=1, ema_decay=0.5
)


@contextlib.contextmanager
def no_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr("latentclap.train.modules.need_compiler", lambda: None)


@pytest.mark.parametrize("graph", [True, False])
def test_what_only_steps_needed_goes_with_them(gpus, no_compiler, tmp_path, monkeypatch, graph):
    """Moments, averages and what a graph holds: at once, though the loop's parts hold each other."""
    held = []

    def close(self, real=Stepper.close):
        tensors = [t for state in self.optimizer.state.values() for t in state.values()]
        tensors += self.state.ema.shadow.values()
        for recorded in self.replay._graphs.values() if self.replay else ():
            tensors += [t for named in recorded[1:] for t in named.values()]
        held.extend(weakref.ref(t) for t in tensors)
        real(self)

    monkeypatch.setattr(Stepper, "close", close)
    task = Line()
    with no_collection():
        train(task, LINES, replace(LINE, cuda_graph=graph), tmp_path, progress=False)
        assert [ref() for ref in held] == [None] * (2 * 3 + 2 + 3 * graph)


@pytest.mark.parametrize("error", ["full", "waits"])
def test_what_a_recording_held_goes_before_the_error(gpus, no_compiler, tmp_path, error):
    held, said = [], "CUDA out of memory. Tried to allocate 2 GiB"

    def also():
        held.append(weakref.ref(loss := torch.ones(3, device="cuda")))
        if torch.cuda.is_current_stream_capturing():
            if error == "waits":
                loss.sum().item()
            raise torch.OutOfMemoryError(said)

    with no_collection(), pytest.raises(TrainingError, match=r"CUDA graph .*--no-cuda-graph") as told:
        train(Line(also), LINES, LINE, tmp_path, progress=False)
    assert (said in str(told.value)) is (error == "full")
    assert [ref() for ref in held] == [None] * (WARM + 1)


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_in_a_recording(gpus, no_compiler, tmp_path, fails):
    """Python's own, also where the recording then ends with an error."""

    def also():
        if torch.cuda.is_current_stream_capturing():
            if fails:
                with contextlib.suppress(RuntimeError):
                    torch.ones(3, device="cuda").sum().item()
            raise KeyboardInterrupt

    before = torch.cuda.current_stream()
    with pytest.raises(KeyboardInterrupt):
        train(Line(also), LINES, LINE, tmp_path, progress=False)
    assert torch.cuda.current_stream() is before


def test_weights_that_moved_are_recorded_anew(gpus, no_compiler, tmp_path):
    """A callback has the GPU for itself: steps after it do not write where the weights lay."""
    made = {}
    for graph in (True, False):
        torch.manual_seed(0)
        task = Line()

        def aside(step, task=task):
            task.net.to("cpu")
            task.net.to("cuda")

        way = replace(LINE, cuda_graph=graph, checkpoint_seconds=0)
        out = train(task, LINES, way, tmp_path / str(graph), progress=False, on_checkpoint=aside)
        assert out.history[-1]["loss"] < out.history[0]["loss"]
        made[graph] = task.net.weight.detach().cpu()
    torch.testing.assert_close(made[True], made[False], **CLOSE)


def test_a_graph_a_shape(gpus):
    """Three calls of a shape run as they are; the last graphs are kept; results have memory of their own."""
    scale, seen = torch.ones(1, device="cuda"), []

    def double(tensors):
        seen.append(len(tensors["x"]))
        return {"y": tensors["x"] * 2 * scale}

    recorded = Recorded(double, kept=2)
    for rows, calls in ((3, 5), (4, 5), (3, 2), (5, 4), (3, 1), (4, 1)):
        results = []
        for k in range(calls):
            x = torch.full((rows,), float(k), device="cuda")
            results.append(recorded({"x": x})["y"])
        assert [r.cpu().tolist() for r in results] == [[2.0 * k] * rows for k in range(calls)]
    # the least recent one went for 5, and begins anew; 3 was used since
    assert Counter(seen) == {3: 4, 4: 4 + 1, 5: 4}
    recorded.close()
    assert not recorded._graphs


def test_graphs_and_threads(gpus):
    """Each thread's first calls run as they are; a call is whole before the next one begins."""
    seen, results = [], {}

    def double(tensors):
        seen.append(threading.current_thread().name)
        assert recorded._lock._is_owned()
        return {"y": tensors["x"] * 2}

    recorded = Recorded(double)

    def call(name, calls):
        results[name] = [recorded({"x": torch.full((2,), float(k), device="cuda")}) for k in range(calls)]

    for name, calls in (("a", WARM), ("b", WARM + 2), ("c", 2)):
        thread = threading.Thread(target=call, args=(name, calls), name=name)
        thread.start()
        thread.join()
        assert [r["y"].cpu().tolist() for r in results[name]] == [[2.0 * k] * 2 for k in range(calls)]
    assert Counter(seen) == {"a": WARM, "b": WARM + 1}


def test_a_graph_of_inference_mode_is_of_use_after_it(gpus):
    """What new contents are written to is no tensor of that mode, which could be written in it alone."""
    recorded = Recorded(lambda tensors: {"y": tensors["x"] * 2})
    with torch.inference_mode():
        for k in range(WARM + 1):
            recorded({"x": torch.full((2,), float(k), device="cuda")})
    ((_, inputs, _),) = recorded._graphs.values()
    assert not inputs["x"].is_inference()
    inputs["x"].copy_(torch.ones(2, device="cuda"))


def test_a_recording_that_fails_tells_its_own_reason(gpus):
    """Not what is being handled outside, such as the batch before that was too large."""
    recorded = Recorded(lambda tensors: {"y": tensors["x"] + tensors["x"].sum().item()})
    x = {"x": torch.ones(2, device="cuda:1")}
    before = torch.cuda.current_stream(0), torch.cuda.current_stream(1)
    for _ in range(WARM):
        recorded(x)
    try:
        raise torch.OutOfMemoryError("of another call")
    except torch.OutOfMemoryError:
        with pytest.raises(NotRecorded, match="capturing"):
            recorded(x)
    assert (torch.cuda.current_stream(0), torch.cuda.current_stream(1)) == before
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize(
    "process",
    [
        NoiseSchedule(),
        NoiseSchedule(prediction="v_prediction", rescale_betas_zero_snr=True),
        NoiseSchedule(prediction="sample"),
        RectifiedFlow(),
        CosineTime(),
    ],
    ids=lambda process: f"{type(process).__name__}-{process.prediction}",
)
def test_eq_3_of_any_prediction_keeps_the_cpu_from_nothing(gpus, phi, process):
    """And it is computed where the latents lie, to the CPU's numbers."""
    torch.manual_seed(0)
    own, (s_0, eps, output) = copy.deepcopy(phi), torch.randn(3, 2, 8, 16, 16)
    n = torch.tensor([0.2, 0.9]) if process.continuous else torch.tensor([100, 900])
    E_audio, process = torch.randn(2, 512), copy.deepcopy(process)
    for reading in [r for r in READINGS if not (process.continuous and r == "posterior")]:
        found = []
        for device in ("cpu", "cuda"):
            loss = LatentCLAPLoss(
                own.to(device), schedule=process.to(device), reading=reading, weighting="snr"
            )
            own_s_0, own_eps, made, at, E = (x.detach().to(device) for x in (s_0, eps, output, n, E_audio))
            made = made.detach().requires_grad_(True)
            begun = len(gpus.waits)
            s_n = process.q_sample(own_s_0, at, own_eps)
            eq_1 = ddpm_loss(made, loss.training_target(own_s_0, own_eps, at))
            value = eq_1 + loss(made, s_n, at, E, s_0=own_s_0)
            value.backward()
            assert gpus.waits[begun:] == []
            found.append(torch.stack([value.detach().cpu(), made.grad.cpu().norm()]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_other_precisions(gpus, tiny, phi, tiny_cache, tmp_path, precision):
    way = {"lam": 1000.0, "tuning": True, "precision": precision}
    ways = {"checkpointing": True, "channels_last": True}
    _, result = tuned(tiny, copy.deepcopy(phi), tiny_cache, tmp_path, ways=ways, **way)
    assert result.finished and all(np.isfinite(h["loss"]) for h in result.history)


def test_the_second_gpu_by_name(gpus, tiny, phi, tiny_cache, tmp_path):
    """--device cuda:1: nothing whatever is put on the first."""
    use("cuda:1")
    made, _ = tuned(loaded(tiny, "cuda:1"), phi, tiny_cache, tmp_path, lam=1000.0)
    assert gpus.on == {1} and places(*made.parts.values()) == {"cuda:1"}
    assert made.generate(["rain"], 1, steps=2).shape == (1, tiny.samples) and gpus.on == {1}


def test_a_run_goes_on_elsewhere(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """From the CPU to a GPU and back: each takes the other's checkpoint, Adam's moments too."""
    data = TensorBatches({k: v for k, v in tiny_cache.items() if k != "label"})

    def run(folder, steps, on_gpu):
        fake_gpu._forget()

        class Enough(Exception):
            pass

        def stop(step):
            if step == steps:
                raise Enough

        with monkeypatch.context() as here:
            if not on_gpu:
                here.setattr(torch.cuda, "is_available", lambda: False)
            system = copy.deepcopy(tiny)
            loss = LatentCLAPLoss(copy.deepcopy(phi), schedule=system.schedule)
            task = FinetuneTask(system, loss, 10.0)
            config = TrainConfig(
                steps=6,
                batch_size=4,
                lr=1e-3,
                ema_decay=0.5,
                checkpoint_seconds=0,
                log_every=1,
                precision="no",
            )
            try:
                return train(task, data, config, folder, progress=False, on_checkpoint=stop).history
            except Enough:
                return None

    want = run(tmp_path / "one", 0, on_gpu=False)
    for steps, on_gpu in ((2, False), (4, True), (0, False)):
        history = run(tmp_path / "parts", steps, on_gpu)
    np.testing.assert_allclose([h["loss"] for h in history], [h["loss"] for h in want], **CLOSE)


def test_a_batch_too_large(gpus, tiny, phi, tiny_cache, tmp_path, monkeypatch):
    """It is foretold; and one that the GPU refuses is a line, with everything back in its place."""
    system = loaded(tiny, "cuda")
    gpus.free = 2**30
    monkeypatch.setattr("latentclap.finetune.device.foretold", memory.foretold)
    task = FinetuneTask.forward

    def full(self, *args):
        task(self, *args)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FinetuneTask, "forward", full)
    with (
        pytest.warns(UserWarning, match="GiB are free"),
        pytest.raises(RuntimeError, match="batch_size=4 does not fit into 80 GiB"),
    ):
        tuned(system, phi, tiny_cache, tmp_path, lam=1.0)
    assert places(*system.parts.values()) == {"cuda:0"} and places(phi) == {"cpu"}


def test_phi(gpus, tiny_cache, tmp_path):
    """Fig. 2, with precision as it comes: bf16."""
    phi, result = train_latent_clap(
        tiny_cache, tmp_path, width=4, epochs=2, batch_size=4, device="cuda", progress=False
    )
    assert places(phi) == {"cuda:0"} and result.finished
    phi.save_pretrained(tmp_path / "phi")
    assert places(LatentCLAP.from_pretrained(tmp_path / "phi")) == {"cpu"}


@pytest.mark.slow
def test_every_stage_of_pretraining(gpus, tmp_path):
    """Each from its data to its weights, and again by the same command, which finds it done."""
    from latentclap.pretrain import corpus as corpora
    from latentclap.pretrain.stages import STAGES, run_stage
    from latentclap.pretrain.work import Work

    samples = size("tiny")["frames"] * 160
    corpus = corpora.build(tmp_path / "corpus.safetensors", samples=samples, per_class=2, workers=1)
    work = Work(tmp_path, "tiny", corpus, "cuda")
    for stage in STAGES:
        gpus.on.clear()
        run_stage(stage, work, steps=2)
        assert gpus.on == {0}, stage
        assert run_stage(stage, work, steps=2).step == 2, stage
        assert work.result(stage).is_file()


# ---------------------------------------------------------------------------------------- generation

SAMPLINGS = (
    {"sampler": "ddim"},
    {"sampler": "ddim", "eta": 1.0},
    {"sampler": "ddim", "guidance_scale": 1.0},
    {"sampler": "dpmsolver++"},
    {"sampler": "unipc"},
)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_generation(gpus, tiny, sampling):
    """Two texts in batches that are not full, to waves: the CPU's own, since noise is drawn there."""
    asked = {"steps": 3, "batch_size": 3, "seed": 1, **sampling}
    want = tiny.generate(["rain", "dog_bark"], 2, **asked)
    made = loaded(tiny, "cuda:1").generate(["rain", "dog_bark"], 2, **asked)
    np.testing.assert_allclose(made, want, atol=1e-5)
    assert gpus.on == {1}


def test_generation_with_rounded_weights(gpus, tiny):
    fast = loaded(tiny, "cuda").for_generation(compile=False)
    assert fast.half and places(fast.unet) == {"cuda:0"}
    latents = fast.generate_latents(["rain"] * 3, range(3), steps=2, batch_size=2)
    assert latents.dtype == torch.float32 and bool(latents.cpu().isfinite().all())
    with pytest.raises(InputError, match="rounded weights"):
        finetune(fast, None, {}, FinetuneConfig(), "nowhere")


@pytest.mark.parametrize("sampling", [{}, {"sampler": "unipc", "guidance_scale": 1.0}], ids=["ddim", "unipc"])
def test_generation_by_replays(gpus, tiny, monkeypatch, sampling):
    """On the second GPU, in batches of two sizes: the very numbers of a pass that is started kernel by kernel."""
    asked = {"steps": 9, "batch_size": 3, **sampling}
    replays = []
    real = fake_gpu.Graph.replay
    monkeypatch.setattr(fake_gpu.Graph, "replay", lambda self: (replays.append(self.stream.gpu), real(self)))
    system = loaded(tiny, "cuda:1")
    plain = system.for_generation(compile=False, cuda_graph=False)
    fast = system.for_generation(compile=False)
    texts = ["rain"] * 4, range(4)
    want, made = (s.generate_latents(*texts, **asked).cpu() for s in (plain, fast))
    assert torch.equal(want, made) and set(replays) == {1}
    # three passes of each size run as they are
    assert len(replays) == 2 * (9 - WARM)
    assert torch.equal(want, fast.generate_latents(*texts, **asked).cpu()) and len(replays) == 12 + 18
    # a copy with other weights computes with them, and what is moved has its graphs no more
    other = copy.copy(fast)
    other.unet = copy.deepcopy(fast.unet)
    with torch.no_grad():
        for p in other.unet.parameters():
            p.mul_(1.1)
    assert not torch.equal(want, other.generate_latents(*texts, **asked).cpu()) and len(replays) == 30
    fast.to("cuda:0")
    assert not fast.replay._graphs
    fast.to("cuda:1")
    assert torch.equal(want, fast.generate_latents(*texts, **asked).cpu()) and len(replays) == 30 + 12


def test_generation_goes_on_without_a_graph(gpus, tiny):
    """What a GPU refuses to record costs speed, which a warning tells once."""
    system = loaded(tiny, "cuda")
    want = system.for_generation(compile=False, cuda_graph=False)
    fast = system.for_generation(compile=False)
    fast.unet.register_forward_hook(lambda m, given, out: out.sample.sum().item() and None)
    asked = {"steps": 5, "batch_size": 2}
    with pytest.warns(
        UserWarning, match="cannot be recorded as a CUDA graph .*capturing.*without one"
    ) as told:
        made = fast.generate_latents(["rain"] * 2, range(2), **asked)
    assert len(told) == 1 and fast.replay is None
    assert fake_gpu.current_stream(0) is fake_gpu._defaults[0]
    assert torch.equal(made.cpu(), want.generate_latents(["rain"] * 2, range(2), **asked).cpu())


def test_generation_has_no_room_for_a_graph(gpus, tiny, monkeypatch):
    """A batch that fits without one is made without one."""
    fast = loaded(tiny, "cuda").for_generation(compile=False)
    want = fast.generate_latents(["rain"] * 2, range(2), steps=WARM)

    def full(module, given):
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    fast.unet.register_forward_pre_hook(full)
    with pytest.warns(UserWarning, match=r"cannot be recorded .*out of memory.* without one"):
        made = fast.generate_latents(["rain"] * 2, range(2), steps=WARM)
    assert torch.equal(made.cpu(), want.cpu()) and fast.replay is None


def test_copies_of_what_replays(gpus, tiny):
    """A copy of all computes with weights of its own, by graphs of its own; one without any keeps none."""
    fast = loaded(tiny, "cuda").for_generation(compile=False)
    asked = (["rain"] * 2, range(2))
    want = fast.generate_latents(*asked, steps=WARM + 2)
    other = copy.deepcopy(fast)
    assert other.replay.of is other.unet and not other.replay._graphs and fast.replay._graphs
    with torch.no_grad():
        for p in other.unet.parameters():
            p.mul_(1.1)
    made = other.generate_latents(*asked, steps=WARM + 2)
    assert other.replay._graphs and not torch.equal(want, made)
    other.replay = None
    assert torch.equal(made, other.generate_latents(*asked, steps=WARM + 2))
    assert pickle.loads(pickle.dumps(fast)).replay is not None
    assert fast.for_generation(compile=False, cuda_graph=False).replay is None


def test_a_unet_that_moves_by_itself(gpus, tiny):
    """As fine-tuning lays it aside: its graph read where the weights lay."""
    fast = loaded(tiny, "cuda").for_generation(compile=False)
    asked = {"texts": ["rain"] * 2, "seeds": range(2), "steps": WARM + 2}
    want = fast.generate_latents(**asked)
    fast.unet.to("cpu")
    fast.unet.to("cuda")
    with torch.no_grad():
        for p in fast.unet.parameters():
            p.mul_(1.1)
    assert not torch.equal(want, fast.generate_latents(**asked))


def test_polished_waves(gpus, tiny):
    """Griffin-Lim's part, which mini has and tiny has not."""
    polished = copy.copy(tiny)
    polished.polish = 3
    mel = tiny.log_mel((np.random.default_rng(0).standard_normal((2, tiny.samples)) * 0.1).astype(np.float32))
    want = polished.vocode(mel)
    there = loaded(polished, "cuda")
    np.testing.assert_allclose(there.vocode(mel.to("cuda")), want, atol=1e-4)


@pytest.mark.parametrize("prompts", [None, ["rain", "a dog", "rain"]])
def test_variations(gpus, tiny, waves, prompts):
    """Encoded, noised and denoised, by a sound's embedding or a text; and how far they are from the sound."""
    from latentclap.vary.process import through_model, vary
    from latentclap.vary.result import distances

    way = {"steps": 6, "strength": 0.5, "batch_size": 4, "prompts": prompts}
    want = vary(tiny, list(waves), 2, **way)
    system = loaded(tiny, "cuda:1")
    made = vary(system, list(waves), 2, **way)
    for a, b in zip(made, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.isfinite(through_model(system, waves[0])).all()
    assert distances(system, waves[0], list(waves)) == distances(tiny, waves[0], list(waves))
    assert gpus.on == {1}


def test_playing_from_another_thread(gpus, tiny_family, tmp_path, waves):
    """The page's clips are made by a thread, whose own GPU is the first, whatever was asked for."""
    from latentclap.audio import write_wave
    from latentclap.play.maker import Maker
    from latentclap.play.wish import read_wish

    maker = Maker.load(str(tiny_family), None, "cuda:1")
    told = {"n": 1, "seed": 3, "sampler": "ddim", "steps": 2, "guidance_scale": 2}
    wish = read_wish({"class": "rain", **told}, maker.own, 1000, maker.system.seconds)
    take = read_wish({"sound": 1, "strength": 0.5, **told}, maker.own, 1000, maker.system.seconds)
    write_wave(tmp_path / "given.wav", waves[0], 16_000)
    made = []

    def work():
        (tmp_path / "clip").mkdir()
        made.append(maker.make(wish, 3, tmp_path / "clip"))
        (tmp_path / "take").mkdir()
        made.append(maker.make(take, 3, tmp_path / "take", tmp_path / "given.wav"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [clip.maker["device"] for clip in made] == ["cuda:1", "cuda:1"] and gpus.on == {1}


# ----------------------------------------------------------------------------- measures, and what is kept


def test_embeddings(gpus, tiny, waves):
    """VGGish, the judge and CLAP, on a GPU that is named: the CPU's numbers, as numpy's."""
    made = {
        "judge": ({}, {"device": "cuda:1"}),
        "vggish-textbook": ({"weights": None}, {"weights": None, "device": "cuda:1"}),
        "clap": ({"system": tiny}, {"system": loaded(tiny, "cuda:1")}),
    }
    for name, (here, there) in made.items():
        want, found = (get_embedding(name, **way)(waves[0], 16_000) for way in (here, there))
        np.testing.assert_allclose(found, want, atol=1e-5, err_msg=name)
    there = JudgeEmbedding(device="cuda:1").classify(waves)
    np.testing.assert_allclose(there, JudgeEmbedding().classify(waves), atol=1e-5)
    assert gpus.on == {1}


def test_similarity_and_the_post_filter(gpus, tiny, waves):
    from latentclap.postfilter import clap_score, filter_generate

    system, texts = loaded(tiny, "cuda"), ["rain", "a dog", "rain"]
    np.testing.assert_allclose(system.similarity(waves, texts), tiny.similarity(waves, texts), atol=1e-5)
    way = {"max_tries": 2, "batch": 3, "steps": 2}
    found, want = (
        filter_generate(s.generate, clap_score(s), ["rain"], 2, "paper", **way) for s in (system, tiny)
    )
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)


def test_measures_of_latents(gpus, tiny, phi, tiny_cache):
    from latentclap.measure import embedded, gradient_ratios, heldout_losses, noise_curve

    system, there = loaded(tiny, "cuda"), copy.deepcopy(phi).to("cuda")
    constant = tiny_cache["E_audio"].mean(0)
    ratios = ["x0", "posterior", "ddim", "renoised"]
    for measure in (
        lambda s, p: heldout_losses(s, p, tiny_cache, levels=3, batch_size=5),
        lambda s, p: heldout_losses(s, None, tiny_cache, levels=2),
        lambda s, p: noise_curve(p, s, tiny_cache, [0, 200], constant=constant),
        lambda s, p: gradient_ratios(s, p, tiny_cache, ratios, [0, 200], lam=10.0),
    ):
        found, want = measure(system, there), measure(tiny, phi)
        for key, values in want.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-6, err_msg=key)
    assert type(embedded(there, tiny_cache["mean"])) is torch.Tensor


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder of sounds, two classes of three."""
    from latentclap.audio import write_wave
    from latentclap.foley import synthesize

    folder = tmp_path_factory.mktemp("sounds")
    for i in range(6):
        cls = ("rain", "dog_bark")[i % 2]
        (folder / cls).mkdir(exist_ok=True)
        write_wave(folder / cls / f"{i}.wav", synthesize(cls, i, seconds=0.7, sr=16_000).wave, 16_000)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache(gpus, tiny, sounds, tmp_path, workers):
    """Decoded by processes that are forked off after the GPU is in use, encoded on it, kept on the CPU's side."""
    from latentclap.cache import ShardedCache, cache_parts, find_parts

    way = {"batch_size": 4, "progress": False, "dtype": torch.float32}
    cache_parts(tiny, find_parts(sounds), tmp_path / "cpu", **way)
    cache_parts(loaded(tiny, "cuda:1"), find_parts(sounds), tmp_path / "gpu", workers=workers, **way)
    found, want = (ShardedCache(tmp_path / name).load() for name in ("gpu", "cpu"))
    assert len(want["mean"]) == len(found["mean"]) > 2
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert gpus.on == {1}


def test_adapters_and_files(gpus, tiny, tmp_path):
    """Saved from a GPU, loaded to another; what is merged lies where the system does."""
    from latentclap.lora import add_adapters, base_digest, save_adapter, take_adapters

    system = loaded(tiny, "cuda")
    system.tuning = tuning_layer(512).to("cuda")
    assert base_digest(system) == base_digest(loaded(system, "cpu"))
    system.save_pretrained(tmp_path / "system")
    other = FoleySystem.from_pretrained(tmp_path / "system", device="cuda:1")
    assert places(*other.parts.values()) == {"cuda:1"}
    unet = add_adapters(copy.deepcopy(other.unet), 2)
    save_adapter(tmp_path / "a.safetensors", take_adapters(unet), other, other.tuning)
    merged = other.with_lora(tmp_path / "a.safetensors")
    save_weights(merged, tmp_path / "w.safetensors")
    for made in (merged, load_weights(other, tmp_path / "w.safetensors")):
        assert places(*made.parts.values()) == {"cuda:1"}
        assert made.generate(["rain"], 1, steps=1 + 1).shape == (1, tiny.samples)


# -------------------------------------------------------------------------------------- command lines


def called(capsys, *words):
    from latentclap.cli import app
    from latentclap.errors import run_app

    def run(**_):
        return app([str(word) for word in words], standalone_mode=False)

    status = run_app(run)
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


@pytest.mark.slow
def test_commands(gpus, tiny_family, sounds, tmp_path, capsys, monkeypatch):
    """By --device cuda:1: nothing is put on the first GPU, and the records name the second."""
    from latentclap.own.run import Own

    whole, known = Own.system, []

    def system(self, *name):
        gc.collect()
        assert not any(unet() for unet in known), "the system before is still on the GPU"
        made = whole(self, *name)
        known.append(weakref.ref(made.unet))
        return made

    monkeypatch.setattr(Own, "system", system)
    on = ("--model", tiny_family, "--device", "cuda:1")
    called(capsys, "generate", *on, "--classes", "rain", "-n", 2, "-o", tmp_path / "clips", "--steps", 2)
    called(capsys, "vary", sounds / "rain" / "0.wav", *on, "-o", tmp_path / "takes", "-n", 1, "--steps", 4)
    for embedding, more in (("judge", on[2:]), ("clap", on)):
        out = tmp_path / f"{embedding}.json"
        way = ("--embedding", embedding, "--n-boot", 2, "--json", out, *more)
        called(capsys, "evaluate", sounds, sounds, *way)
        assert json.loads(out.read_text())["settings"]["device"] == "cuda:1"
    assert json.loads((tmp_path / "clips" / "generation.json").read_text())["device"] == "cuda:1"
    how = ("--phi", tiny_family / "latent_clap", "--epochs", 1, "--listen", 0, "--hold-out", 0.3, "--tuning")
    called(capsys, "finetune", sounds, *on, "-o", tmp_path / "own", *how)
    assert json.loads((tmp_path / "own" / "finetune.json").read_text())["device"].endswith("not, 1")
    assert len(known) == 3
    called(capsys, "publish", tmp_path / "own", "-o", tmp_path / "public", "--license", "cc-by-4.0", *on[2:])
    assert gpus.on == {1}


@pytest.mark.slow
def test_the_notebooks_bench(gpus, tiny_profile, tmp_path, monkeypatch):
    """What notebooks call: fine-tuned, generated, filtered, scored."""
    from latentclap.lab import Lab
    from latentclap.profiles import load_profile

    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path))
    lab = Lab(load_profile(str(tiny_profile)), progress=False)
    assert lab.device == "cuda"
    config = lab.config("LDM+Tuning+Latent")
    scores = lab.score_point(config, clips_per_class=2)
    point = lab.point(config)
    assert np.isfinite(scores["fad"]) and np.isfinite(lab.filtered(point, 1).scores).all()
    assert places(lab.train_phi()[0]) == {"cuda:0"}
    assert len(lab.similarity(lab.generate(point, 2, seed=config.seed))["rain"]) == 2
    assert places(*lab.system.parts.values(), lab.phi) == {"cuda:0"}


# ---------------------------------------------------------------------------------------- benchmarks


@pytest.fixture
def benchmarks(monkeypatch, repo_root):
    monkeypatch.syspath_prepend(str(repo_root / "data_scripts" / "benchmarks"))
    import cache_rate
    import speed
    import speed_parts

    return Namespace(speed=speed, parts=speed_parts, cache_rate=cache_rate)


def small(table, **changes):
    return tuple(dict.fromkeys(replace(row, batch=2, **changes) for row in table))


@pytest.mark.slow
def test_rented_minutes(gpus, benchmarks, tmp_path, monkeypatch):
    """speed.py all: every row and part, in small batches, but compilation and times of kernels, a real GPU's."""
    speed, parts = benchmarks.speed, benchmarks.parts
    training, generation = small(parts.TRAINING), small(parts.GENERATION, clips=2, run=2)
    monkeypatch.setattr(speed, "TRAINING", training)
    monkeypatch.setattr(speed, "GENERATION", generation)
    peak, written = speed.peak_flops, []
    for name, value in {
        "peak_flops": lambda device, n=None: peak(device, 64),
        "compile_seconds": lambda *_: [1.0, 1.0],
        "empty_cache": lambda: None,
        "write_json": lambda path, told: written.append(copy.deepcopy(told)) or write_json(path, told),
    }.items():
        monkeypatch.setattr(speed, name, value)
    for name, given in {"agree": (2, 2), "memory": ([2],), "generate": (2, 2)}.items():
        real = getattr(speed.Measurement, name)
        first = len(given)

        def call(self, *args, real=real, given=given, first=first):
            return real(self, *given, *args[first:])

        monkeypatch.setattr(speed.Measurement, name, call)

    def no_times(*_):
        raise RuntimeError("CUPTI")

    monkeypatch.setattr(speed, "profile_step", no_times)
    with pytest.raises(SystemExit, match="1"):
        speed.all_parts(name="tiny", device="cuda", out=tmp_path / "speed.json", steps=1, minutes=0.0)
    told = json.loads((tmp_path / "speed.json").read_text())
    assert told["device"].startswith("a GPU") and gpus.on == {0}
    for part, table in (("train", training), ("generate", generation)):
        assert len(told[part]["rows"]) == len(table)
        assert not [row["error"] for row in told[part]["rows"] if "error" in row]
    assert len(told["memory"]["rows"]) == 2 and len(told["agree"]["loss"]) == 4
    # after each row
    counts = [
        len(t.get("train", {}).get("rows", ())) + len(t.get("generate", {}).get("rows", ())) for t in written
    ]
    assert set(counts) == set(range(1, len(training) + len(generation) + 1))


def test_the_rate_of_a_cache(gpus, benchmarks, tiny_family, tmp_path, monkeypatch, capsys):
    """On the second GPU; numbers of workers that cannot be had cost no other."""
    real = benchmarks.cache_rate.time_loop

    def ended(*args):
        if args[-1] == 1:
            raise InputError("the system ended a decoding process")
        return real(*args)

    monkeypatch.setattr(benchmarks.cache_rate, "time_loop", ended)
    out = tmp_path / "rate.json"
    way = {"clips": 8, "seconds": 0.7, "batch_size": 2, "workers": "1,0,2", "minutes": 0.0, "judge": ""}
    with pytest.raises(SystemExit, match="1"):
        benchmarks.cache_rate.main(out=out, system=str(tiny_family), device="cuda:1", **way)
    told = json.loads(out.read_text())
    assert [row["workers"] for row in told["loop"]] == [0, 2] and told["machine"]["device"].endswith("not, 1")
    assert gpus.on == {1} and "not measured, by an error: 1 workers" in capsys.readouterr().err


def test_a_cache_is_made_where_one_says(gpus, tiny_family, monkeypatch):
    """By $LATENTCLAP_DEVICE, as errors tell; else each process on its own GPU."""
    import cache_latents

    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(cache_latents._load(str(tiny_family), "", "auto").device) == "cuda:1"
    monkeypatch.setenv("LATENTCLAP_DEVICE", "cpu")
    assert str(cache_latents._load(str(tiny_family), "", "auto").device) == "cpu"
