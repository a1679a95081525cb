import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.auto import tqdm

from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP
from latentclap.pretrain.tasks import LatentCLAPTask
from latentclap.train import (
    CHECKPOINT,
    EMA,
    GroupedBatches,
    Interrupted,
    Task,
    TensorBatches,
    TrainConfig,
    TrainingError,
    agreement,
    item_generators,
    learning_rate,
    loop,
    records,
    sample_order,
    signals,
    train,
    values,
)
from latentclap.train import task as train_task
from latentclap.train.compiler import need_compiler
from latentclap.train.config import has_bf16, resolved
from latentclap.train.records import pack
from latentclap.train.state import RunState
from latentclap.train.task import for_processes
from latentclap.train.values import Values


class Regression(Task):
    """Fit y = W x with dropout and per-item noise: every kind of randomness that real tasks have."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, batch, rngs):
        noise = torch.stack([torch.randn(2, generator=g) for g in rngs])
        square = (self.net(batch["x"]) - batch["y"] - 0.1 * noise).square().mean()
        return {"loss": square, "rmse": square.sqrt()}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(23, 4, generator=generator)
    return TensorBatches({"x": x, "y": x[:, :2] * 2})


def config(**changes):
    return TrainConfig(
        **{"steps": 30, "batch_size": 4, "lr": 0.02, "ema_decay": 0.9, "log_every": 5, **changes}
    )


def weights(task):
    return torch.cat([v.flatten().double() for v in task.net.state_dict().values()])


def test_each_item_once_per_epoch():
    stream = sample_order(0, 46, 23, seed=1)
    assert sorted(stream[:23]) == sorted(stream[23:]) == list(range(23))
    assert stream[:23] != stream[23:]
    # any cut of the stream gives the same stream
    assert sample_order(20, 9, 23, seed=1) == stream[20:29]


def test_grouped_items_come_in_runs(tmp_path):
    """Runs of four of one group, what is left of a group in a shorter one, all items once per epoch."""
    groups = [0] * 10 + [1] * 7 + [2] * 3
    data = GroupedBatches({"x": torch.arange(20)}, groups, 4)
    stream = sample_order(0, 40, 20, 1, data.order)
    assert sorted(stream[:20]) == sorted(stream[20:]) == list(range(20)) and stream[:20] != stream[20:]
    assert sample_order(17, 8, 20, 1, data.order) == stream[17:25]
    sizes = {0: [], 1: [], 2: []}
    place = 0
    while place < 20:  # two runs of one group may meet: they are cut at four
        group, run = groups[stream[place]], 0
        while place < 20 and run < 4 and groups[stream[place]] == group:
            run, place = run + 1, place + 1
        sizes[group].append(run)
    assert sum(sizes[0]) == 10 and max(sizes[0]) == 4 and sizes[2] == [3]


def test_what_is_left_of_a_group_is_a_run_by_itself():
    """Six of a group in runs of four, among others that are alone: four and two, which rarely meet."""
    data = GroupedBatches({"x": torch.arange(26)}, [0] * 6 + list(range(1, 21)), 4)
    places = [np.sort(np.argsort(data.order(0, epoch))[:6]) for epoch in range(20)]
    assert sum(np.ptp(p) > 5 for p in places) > 12
    for p in places:
        assert sorted(len(part) for part in np.split(p, np.flatnonzero(np.diff(p) > 1) + 1)) in ([2, 4], [6])


def test_the_loop_takes_the_order_of_the_data(data, tmp_path):
    """The items of each batch are the data's own order; an interrupted run goes on in it."""
    seen = []

    class Seen(GroupedBatches):
        def batch(self, indices):
            seen.extend(indices)
            return super().batch(indices)

    grouped = Seen(data.tensors, [i % 3 for i in range(23)], 2)
    train(Regression(), grouped, config(steps=12), tmp_path, progress=False)
    assert seen == sample_order(0, 48, 23, 0, grouped.order)
    pairs = [abs(a - b) % 3 for a, b in zip(seen[:22:2], seen[1:22:2], strict=True)]
    assert pairs.count(0) > 6  # by chance a third of eleven


@pytest.mark.parametrize(("groups", "run"), [([0] * 22, 2), ([0] * 23, 0)])
def test_groups_that_do_not_fit_are_refused(data, groups, run):
    with pytest.raises(InputError, match=f"{len(groups)} group numbers in runs of {run} for 23 items"):
        GroupedBatches(data.tensors, groups, run)


def test_generators_follow_the_position():
    a, b = (item_generators(0, p, 3) for p in (0, 1))
    assert torch.equal(torch.rand(2, generator=a[1]), torch.rand(2, generator=b[0]))


def test_every_draw_is_of_the_seed(data):
    one, other = (torch.rand(3, generator=item_generators(seed, 5, 1)[0]) for seed in (0, 1))
    assert not torch.equal(one, other)
    grouped = GroupedBatches({"x": torch.arange(40)}, [k % 2 for k in range(40)], 4)
    assert grouped.order(0, 3).tolist() != grouped.order(1, 3).tolist()
    assert sample_order(0, 23, 23, seed=0) != sample_order(0, 23, 23, seed=1)
    # nor is a seed's second epoch, or place, the next seed's first: five seeds would be all but one run
    assert sample_order(23, 23, 23, seed=0) != sample_order(0, 23, 23, seed=1)
    assert grouped.order(0, 1).tolist() != grouped.order(1, 0).tolist()
    later, next_one = (torch.rand(3, generator=item_generators(s, p, 1)[0]) for s, p in ((0, 1), (1, 0)))
    assert not torch.equal(later, next_one)
    # nor are a group's items together the same ones in every epoch
    first, second = ([i for i in grouped.order(0, epoch) if i % 2] for epoch in (0, 1))
    assert first != second and {*first[:4]} not in [{*second[k : k + 4]} for k in range(0, 20, 4)]
    # and the runs of a group do not come one after the other
    places = [k for k, item in enumerate(grouped.order(0, 0)) if item % 2]
    assert 10 < sum(places) / 20 < 30 and max(places) - min(places) > 25


def test_dropout_is_of_the_seed_and_the_place_in_the_stream(data, tmp_path):
    """What a network draws by itself is another in each pass, and the same however passes make steps."""

    def drawn(name, **changes):
        seen = []

        class Drops(Regression):
            def forward(self, batch, rngs):
                seen.append(torch.rand(()).item())
                noise = [torch.rand((), generator=g.clone_state()).item() for g in rngs]
                assert seen[-1] not in noise  # dropout and an item's noise have nothing in common
                return super().forward(batch, rngs)

        train(Drops(), data, config(**changes), tmp_path / name, progress=False)
        return seen

    one = drawn("one", steps=4)
    assert len(set(one)) == 4 and drawn("two", steps=2, grad_accum=2) == one
    assert not set(drawn("seed", steps=4, seed=9)) & set(one)


def test_a_run_s_seed_is_that_of_its_order_and_its_noise(data, tmp_path):
    """Of several seeds a mean and a deviation are told: they have to be different runs."""
    items, noises = [], []

    class Seen(TensorBatches):
        def batch(self, indices):
            items.extend(indices)
            return super().batch(indices)

    class Drawn(Regression):
        def forward(self, batch, rngs):
            noises.extend(torch.rand((), generator=g.clone_state()).item() for g in rngs)
            return super().forward(batch, rngs)

    train(Drawn(), Seen(data.tensors), config(steps=4, seed=9), tmp_path, progress=False)
    assert items == sample_order(0, 16, 23, seed=9)
    assert noises == [torch.rand((), generator=g).item() for g in item_generators(9, 0, 16)]


def test_it_learns_and_logs(data, tmp_path):
    result = train(Regression(), data, config(steps=200), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert {"step", "seconds", "loss", "rmse", "lr", "grad_norm"} <= set(lines[0])
    assert result.finished


def test_resume_is_exact(data, tmp_path):
    whole = Regression()
    train(whole, data, config(), tmp_path / "whole", progress=False)
    for stop in (1, 13):
        parts = Regression(seed=9)
        folder = tmp_path / f"parts{stop}"
        first = Regression()

        class Stop(Exception):
            pass

        def interrupt(step, stop=stop):
            if step >= stop:
                raise Stop

        with pytest.raises(Stop):
            train(first, data, config(checkpoint_seconds=0), folder, progress=False, on_checkpoint=interrupt)
        # an hour ago: the time of a run is that of all its calls
        saved = torch.load(folder / CHECKPOINT, weights_only=True)
        records.save_checkpoint(folder, saved | {"seconds": 3600.0})
        result = train(parts, data, config(), folder, progress=False)
        assert 3600 < result.seconds < 4000 and result.history[-1]["seconds"] > 3600
        assert torch.equal(weights(parts), weights(whole))
        assert [line["step"] for line in result.history] == [1, 5, 10, 15, 20, 25, 30]


def test_a_packed_checkpoint_is_small_and_goes_on(data, tmp_path):
    """Weights and their average once in half precision, without Adam's moments: an eighth of what resuming keeps."""
    settings = config(steps=200, warmup_steps=20, schedule="cosine", minutes=1e-9)
    here, there = Regression(), tmp_path / "there"
    train(here, data, settings, tmp_path / "here", progress=False, use_ema=True)  # one step
    whole = torch.load(tmp_path / "here" / CHECKPOINT, weights_only=True)
    there.mkdir()
    assert pack(tmp_path / "here", there / CHECKPOINT) == whole["step"] == 1
    packed = torch.load(there / CHECKPOINT, weights_only=True)
    assert packed["optimizer"] is None and packed["config"] == whole["config"]
    for name, value in packed["modules"]["net"].items():
        torch.testing.assert_close(
            value.float(), whole["ema"]["shadow"][f"net.{name}"].float(), rtol=1e-3, atol=1e-3
        )
        assert value.dtype == (
            torch.float16 if whole["modules"]["net"][name].is_floating_point() else torch.int64
        )
    result = train(Regression(seed=9), data, replace(settings, minutes=0), there, progress=False)
    assert result.finished and result.step == 200
    # the learning rate is the step's, warmed up from where the moments begin
    rates = {line["step"]: line["lr"] for line in result.history}
    assert rates[5] == pytest.approx(learning_rate(settings, 4) * 4 / 5)
    assert rates[50] == learning_rate(settings, 49)
    assert result.history[-1]["loss"] < 0.3 * result.history[0]["loss"]
    with pytest.raises(InputError, match="train first"):
        pack(tmp_path / "nowhere", tmp_path / "out.pt")
    whole["ema"]["shadow"]["net.0.weight"][0] = 1e6
    torch.save(whole, there / CHECKPOINT)
    with pytest.raises(InputError, match=r"net\.0\.weight does not fit into float16"):
        pack(there, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_lines_of_a_run_without_a_checkpoint_are_dropped(data, tmp_path):
    """It was killed before its first one; its steps are logged again."""
    (tmp_path / "stats.jsonl").write_text('{"step": 5, "loss": 9.0}\n{"step": 10, "loss": 9.0}\n{"st')
    result = train(Regression(), data, config(), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert lines == result.history and [line["step"] for line in lines] == [1, 5, 10, 15, 20, 25, 30]


def test_a_packed_run_that_is_stopped_again_remembers_both_beginnings(data, tmp_path):
    """The average has its age from before it was packed, and the rate is warmed up from there, not from step 0."""
    settings = config(steps=200, warmup_steps=20, minutes=1e-9, log_every=1)  # a step a call
    train(Regression(), data, settings, tmp_path / "here", progress=False)
    (tmp_path / "there").mkdir()
    pack(tmp_path / "here", tmp_path / "there" / CHECKPOINT)
    for _ in range(3):
        task = Regression()
        result = train(task, data, settings, tmp_path / "there", progress=False)
        assert not task.training  # what is left is for use
    assert [line["lr"] for line in result.history] == pytest.approx([0.02 * k / 20 for k in (1, 2, 3)])
    state = torch.load(tmp_path / "there" / CHECKPOINT, weights_only=True)
    assert (state["step"], state["begun"], state["ema"]["count"]) == (4, 1, 4)


def test_the_average_of_a_packed_run_goes_on_from_what_was_packed(data, tmp_path):
    """Not from the weights that the task began with here, which are of no run."""
    settings = config(steps=200, minutes=1e-9)  # a step a call
    train(Regression(), data, settings, tmp_path / "here", progress=False)
    (tmp_path / "there").mkdir()
    pack(tmp_path / "here", tmp_path / "there" / CHECKPOINT)
    packed = torch.load(tmp_path / "there" / CHECKPOINT, weights_only=True)["modules"]["net"]
    train(Regression(seed=9), data, settings, tmp_path / "there", progress=False)
    state = torch.load(tmp_path / "there" / CHECKPOINT, weights_only=True)
    for name, value in state["modules"]["net"].items():
        if value.is_floating_point():
            expected = 2 / 11 * packed[name].float() + 9 / 11 * value  # the second step's decay, 2 / 11
            torch.testing.assert_close(state["ema"]["shadow"][f"net.{name}"], expected)


def test_lines_after_the_checkpoint_are_dropped(data, tmp_path):
    train(Regression(), data, config(steps=10), tmp_path, progress=False)
    with open(tmp_path / "stats.jsonl", "a") as stream:
        stream.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')  # what a kill leaves
    result = train(Regression(), data, config(steps=10), tmp_path, progress=False)
    assert result.history[-1]["step"] == 10


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_train import Regression, TensorBatches, config, train, weights
import time
class Slow(Regression):
    def forward(self, batch, rngs):
        time.sleep(0.02)
        return super().forward(batch, rngs)
generator = torch.Generator().manual_seed(0)
x = torch.randn(23, 4, generator=generator)
task = Slow()
data = TensorBatches(dict(x=x, y=x[:, :2] * 2))
train(task, data, config(steps=60, checkpoint_seconds=0.1), sys.argv[1], progress=False)
torch.save(weights(task), sys.argv[1] + "/final.pt")
"""


def test_kill_9_and_the_same_command(data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=os.path.dirname(__file__)))

    def start(folder):
        return subprocess.Popen([sys.executable, script, folder], stderr=subprocess.PIPE)

    folder = tmp_path / "killed"
    process = start(folder)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "final.pt").is_file()
    killed, whole = start(folder), start(tmp_path / "whole")
    assert killed.wait(600) == 0, killed.stderr.read()
    assert whole.wait(600) == 0, whole.stderr.read()
    assert torch.equal(torch.load(folder / "final.pt"), torch.load(tmp_path / "whole" / "final.pt"))


class Large(Regression):
    """Half a megabyte of weights."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 10**5), nn.Linear(10**5, 2))


def test_a_full_disk_leaves_the_checkpoint_before(data, tmp_path):
    """The system's own reason, and no half of a file."""
    train(Large(), data, config(steps=1, ema_decay=0.0), tmp_path, progress=False)
    before = (tmp_path / CHECKPOINT).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as stop:
            records.save_checkpoint(tmp_path, torch.load(tmp_path / CHECKPOINT, weights_only=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert stop.value.filename == str(tmp_path / CHECKPOINT)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, "stats.jsonl"}


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_damaged_checkpoint_says_what_to_do(data, tmp_path, kept):
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:kept])
    for use in (
        lambda: train(Regression(), data, config(steps=2), tmp_path, progress=False),
        lambda: pack(tmp_path, tmp_path / "out.pt"),
    ):
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .*delete it to start anew") as stop:
            use()
        assert "\n" not in str(stop.value)


def test_a_checkpoint_with_a_flipped_byte_is_not_gone_on_with(data, tmp_path):
    """torch reads such weights without a word: the run would go on, or blame the learning rate."""
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    path = tmp_path / CHECKPOINT
    with zipfile.ZipFile(path) as archive:
        # of the weights: in what lies around them torch may notice it
        tensors = [part for part in archive.infolist() if "/data/" in part.filename]
        largest = max(tensors, key=lambda part: part.file_size)
        content = archive.read(largest)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 0xFF
    path.write_bytes(whole)
    torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .*does not have its checksum"):
        train(Regression(), data, config(steps=3), tmp_path, progress=False)


@pytest.mark.parametrize("named", ["", "/nowhere/gcc -m64"])
def test_compilation_without_a_compiler_is_refused(monkeypatch, data, tmp_path, named):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", named)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"torch\.compile needs a C compiler, and there is none"):
        train(Regression(), data, config(steps=2, compile=True), tmp_path / "run", progress=False)
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    need_compiler()
    # to torch all UNets are one code, of which it would compile no more than eight variants in a process
    assert torch._dynamo.config.recompile_limit >= 64


def test_another_model_s_checkpoint(data, tmp_path):
    torch.save({"a": 1}, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="no checkpoint of this loop"):
        train(Regression(), data, config(steps=2), tmp_path, progress=False)
    (tmp_path / CHECKPOINT).unlink()
    train(Large(), data, config(steps=2), tmp_path, progress=False)
    with pytest.raises(InputError, match="of another model"):
        train(Regression(), data, config(steps=2), tmp_path, progress=False)


def test_what_killed_runs_left_is_deleted(data, tmp_path):
    for name in (".checkpoint-abc.pt", ".stats-abc.jsonl", ".other.pt", "mine-checkpoint-1.pt"):
        (tmp_path / name).write_text("half")
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    assert {p.name for p in tmp_path.iterdir()} == {
        CHECKPOINT, "stats.jsonl", ".other.pt", "mine-checkpoint-1.pt"
    }  # fmt: skip


def test_saving_takes_a_twentieth_of_the_time(data, tmp_path, monkeypatch):
    """By a clock that goes by one second a step and by ten a checkpoint."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    save = RunState.save

    def slow(self):
        now[0] += 10
        save(self)

    monkeypatch.setattr(RunState, "save", slow)

    class Ticks(Regression):
        def forward(self, batch, rngs):
            now[0] += 1
            return super().forward(batch, rngs)

    saved = []
    settings = config(steps=500, checkpoint_seconds=5)
    train(Ticks(), data, settings, tmp_path, progress=False, on_checkpoint=saved.append)
    assert saved == [6, 207, 408, 500]


SIGNALLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train import Regression, TensorBatches, config, train
import torch
class Told(Regression):
    def forward(self, batch, rngs):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            os.kill(os.getpid(), int(sys.argv[2]))
        return super().forward(batch, rngs)
x = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
train(Told(), TensorBatches(dict(x=x, y=x[:, :2] * 2)), config(), sys.argv[1], progress=False)
"""


def test_a_script_leaves_with_the_signal_s_status(tmp_path):
    """SIGTERM: a checkpoint of the step that ran, and 128 + 15, as a shell says of a process that it ended."""
    script = tmp_path / "script.py"
    script.write_text(SIGNALLED.format(tests=os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run", str(int(signal.SIGTERM))], capture_output=True, text=True
    )
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"] == 3


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_first_and_handlers_are_restored(data, tmp_path, signum):
    """In this very process, as in a notebook; the run then goes on to the weights of one that never stopped."""

    class Told(Regression):
        def forward(self, batch, rngs):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 3:
                os.kill(os.getpid(), signum)
            return super().forward(batch, rngs)

    def own(*_):
        raise AssertionError("the loop listens itself")

    before = signal.getsignal(signum)
    signal.signal(signum, own)
    try:
        kind = KeyboardInterrupt if signum == signal.SIGINT else Interrupted
        with pytest.raises(kind, match=f"stopped by {signum.name}; .* of step 3: the same command"):
            train(Told(), data, config(), tmp_path / "a", progress=False)
        assert signal.getsignal(signum) is own
    finally:
        signal.signal(signum, before)
    a, b = Regression(), Regression()
    train(a, data, config(), tmp_path / "a", progress=False)
    train(b, data, config(), tmp_path / "b", progress=False)
    assert torch.equal(weights(a), weights(b))


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python handles it: a shell's background jobs, CI's among them, begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_does_not_wait(ctrl_c):
    heard = signals.Signals()
    with heard:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher passes on what the terminal told all
        assert heard.received == signal.SIGINT
        heard._since -= 2 * signals.ECHO_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored_and_threads_listen_to_nothing():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals.Signals() as heard:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert not heard.received and signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
    seen = []

    def inside():
        with signals.Signals() as heard:
            seen.append(heard._before)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [{}]


def test_a_launcher_s_accumulation_does_not_shrink_gradients(data, tmp_path, monkeypatch):
    a, b = Regression(), Regression()
    one = train(a, data, config(steps=3), tmp_path / "a", progress=False)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    other = train(b, data, config(steps=3), tmp_path / "b", progress=False)
    assert torch.equal(weights(a), weights(b))
    assert one.history[0]["grad_norm"] == other.history[0]["grad_norm"]


def test_the_scale_of_fp16_goes_on(data, tmp_path, monkeypatch):
    """A GPU's; here the scaler is put in by hand, and only written and read."""
    scales = []

    class Scaled(RunState):
        def save(self):
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
            self.accelerator.scaler._lazy_init_scale_growth_tracker(torch.device("cpu"))
            super().save()
            self.accelerator.scaler = None

        def take(self, state):
            self.accelerator.scaler = torch.amp.GradScaler("cpu")
            super().take(state)
            scales.append(self.accelerator.scaler.get_scale())
            self.accelerator.scaler = None

    monkeypatch.setattr(loop, "RunState", Scaled)
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    assert scales == [2.0**7]


def test_every_name_of_the_package_is_found_where_it_is_said_to_be():
    """They are imported when they are asked for, since torch takes seconds."""
    package = importlib.import_module("latentclap.train")
    assert sorted(name for names in package._HOME.values() for name in names) == sorted(package.__all__)
    for module, names in package._HOME.items():
        home = importlib.import_module(f"latentclap.train.{module}")
        assert all(getattr(package, name) is getattr(home, name) for name in names), module
    assert set(package.__all__) <= set(dir(package))  # by which the reference finds them
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = package.Trainer


def test_automatic_precision(monkeypatch):
    """bf16 where a GPU computes in it, not where it is emulated; float16 only for who asks."""
    assert resolved("auto") == ("bf16" if has_bf16() else "no")
    where = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(train_task, "processes", lambda: where)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolved("auto") == "no" and resolved("bf16") == "bf16" and resolved("fp16") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolved("auto") == "bf16"
    where.device = torch.device("cpu")  # for who told it to
    assert resolved("auto") == "no"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        resolved("fp16")


def test_batch_statistics_are_shared_on_gpus():
    """φ's are converted as for GPUs, with the same names of weights; the shared pass itself needs two of them."""
    phi = LatentCLAP(width=4)
    names = list(phi.state_dict())
    task = for_processes(LatentCLAPTask(phi), torch.device("cuda"))
    kinds = {type(m).__name__ for m in task.modules() if "BatchNorm" in type(m).__name__}
    assert kinds == {"SyncBatchNorm"} and list(phi.state_dict()) == names
    with pytest.raises(InputError, match="on GPUs only"):
        for_processes(LatentCLAPTask(LatentCLAP(width=4)), torch.device("cpu"))


def test_accumulation_is_one_large_batch(data, tmp_path):
    """Without dropout and batch statistics, 2 x 4 items are 8 items."""

    class Plain(Regression):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)
            nn.init.ones_(self.net.weight)

    a, b = Plain(), Plain()
    one = train(a, data, config(batch_size=8, ema_decay=0.0), tmp_path / "a", progress=False)
    two = train(b, data, config(batch_size=4, grad_accum=2, ema_decay=0.0), tmp_path / "b", progress=False)
    torch.testing.assert_close(a.net.weight, b.net.weight)
    for x, y in zip(
        one.history, two.history, strict=True
    ):  # what is reported is of all passes, not of the last
        assert (y["loss"], y["grad_norm"]) == pytest.approx((x["loss"], x["grad_norm"]), rel=1e-4)


def test_a_part_in_evaluation_mode_is_trained_in_training_mode(data, tmp_path):
    """As a loaded system's parts are: without dropout and batch statistics it would be another run."""
    modes = []

    class Seen(Regression):
        def forward(self, batch, rngs):
            modes.append({m.training for m in self.modules()})
            return super().forward(batch, rngs)

    task = Seen().eval()
    train(task, data, config(steps=2), tmp_path, progress=False)
    assert modes == [{True}] * 2 and not any(m.training for m in task.modules())


def test_frozen_weights_are_kept_where_nothing_is_told_of_them(data, tmp_path):
    """Only a task that says by a digest which they are (``Task.frozen``) leaves them out."""
    task = Regression()
    task.net[0].requires_grad_(False)
    train(task, data, config(steps=1), tmp_path, progress=False)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert list(state["modules"]["net"]) == list(task.net.state_dict())
    assert list(state["ema"]["shadow"]) == [f"net.{name}" for name in task.net.state_dict()]


def test_a_gradient_s_norm_is_euclid_s(data, tmp_path):
    """Of all weights together, before it is clipped."""

    class Pulled(Regression):
        def forward(self, batch, rngs):
            pulls = (2 * self.net[0].weight).sum() - 3 * self.net[3].bias.sum()
            return {"loss": pulls.mean()}

    result = train(Pulled(), data, config(steps=1, grad_clip=1.0), tmp_path, progress=False)
    assert result.history[0]["grad_norm"] == pytest.approx((32 * 4 + 2 * 9) ** 0.5, rel=1e-6)


def test_a_clip_of_zero_is_none(data, tmp_path):
    """As one that no gradient reaches, and unlike one of 1, which ours of several tens do."""
    large, out = TensorBatches({"x": data.tensors["x"], "y": 100 * data.tensors["y"]}), {}
    for clip in (0.0, 1e9, 1.0):
        task = Regression()
        made = train(task, large, config(steps=4, grad_clip=clip), tmp_path / str(clip), progress=False)
        out[clip] = weights(task)
    assert made.history[0]["grad_norm"] > 10
    assert torch.equal(out[0.0], out[1e9]) and not torch.allclose(out[0.0], out[1.0], rtol=1e-3)


def test_other_settings_are_refused(data, tmp_path):
    train(Regression(), data, config(steps=2), tmp_path, progress=False)
    with pytest.raises(InputError, match=r"other settings \(lr\).*another folder"):
        train(Regression(), data, config(steps=2, lr=0.5), tmp_path, progress=False)


def test_whatever_changes_the_result_is_a_setting_of_the_run(data, tmp_path):
    """It may not differ where a run goes on; how fast, how exactly and how often it is told may."""
    settings = config(steps=2)
    train(Regression(), data, settings, tmp_path, progress=False)
    fixed = {
        "steps": 3, "batch_size": 5, "lr": 0.5, "warmup_steps": 1, "schedule": "cosine", "weight_decay": 0.1,
        "beta1": 0.8, "beta2": 0.9, "grad_clip": 0.5, "grad_accum": 2, "ema_decay": 0.5, "seed": 1,
    }  # fmt: skip
    free = {
        "precision": "bf16", "compile": True, "fused": False, "cuda_graph": False, "checkpointing": True,
        "channels_last": True, "checkpoint_seconds": 1.0, "log_every": 1, "minutes": 1.0, "tensorboard": True,
    }  # fmt: skip
    assert {*fixed, *free} == {field.name for field in fields(settings)}
    for name, value in fixed.items():
        with pytest.raises(InputError, match=rf"other settings \({name}\)"):
            records.load_checkpoint(tmp_path, replace(settings, **{name: value}))
    assert records.load_checkpoint(tmp_path, replace(settings, **free))["step"] == 2


def test_not_finite_stops_and_keeps_the_checkpoint(data, tmp_path):
    class Explodes(Regression):
        def forward(self, batch, rngs):
            terms = super().forward(batch, rngs)
            self.calls = getattr(self, "calls", 0) + 1
            return terms if self.calls < 4 else {**terms, "loss": terms["loss"] * float("nan")}

    with pytest.raises(TrainingError, match="loss is not finite at step 3") as stop:
        train(Explodes(), data, config(checkpoint_seconds=0), tmp_path, progress=False)
    assert "is from before that" in str(stop.value)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    with pytest.raises(TrainingError, match="no checkpoint was saved yet"):
        train(Explodes(), data, config(), tmp_path / "none", progress=False)
    assert all(torch.isfinite(v).all() for v in state["modules"]["net"].values())


def test_the_bar_is_gone_where_training_fails(data, tmp_path, monkeypatch):
    """The message would stand on its line."""
    bars = []
    monkeypatch.setattr(loop, "tqdm", lambda *a, **k: bars.append(tqdm(*a, **k)) or bars[-1])

    class Explodes(Regression):
        def forward(self, batch, rngs):
            return {"loss": super().forward(batch, rngs)["loss"] * float("nan")}

    with pytest.raises(TrainingError) as stop:
        train(Explodes(), data, config(), tmp_path, progress=True)
    assert stop.value.__traceback__ and bars[0].disable  # what a closed one says


@pytest.fixture
def lagging(monkeypatch):
    """The loop as on a GPU: values are read where they are logged."""
    monkeypatch.setattr(
        loop._Loop, "lags", property(lambda self: True, lambda self, value: None), raising=False
    )


def test_reading_late_changes_nothing(data, tmp_path, lagging):
    late = Regression()
    result = train(late, data, config(), tmp_path / "late", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "lags", property(lambda self: False, lambda self, value: None))
        now = Regression()
        expected = train(now, data, config(), tmp_path / "now", progress=False)
    assert torch.equal(weights(late), weights(now))
    assert [{**line, "seconds": 0} for line in result.history] == [
        {**line, "seconds": 0} for line in expected.history
    ]


def test_a_late_nan_names_its_step_and_is_not_saved(data, tmp_path, lagging):
    class Explodes(Regression):
        def forward(self, batch, rngs):
            terms = super().forward(batch, rngs)
            self.calls = getattr(self, "calls", 0) + 1
            return terms if self.calls < 8 else {**terms, "loss": terms["loss"] * float("nan")}

    # logged at steps 1, 5, 10: the NaN of step 7 is met at the tenth, after three chances to save it
    with pytest.raises(TrainingError, match="loss is not finite at step 7"):
        train(Explodes(), data, config(checkpoint_seconds=0), tmp_path, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 7
    assert all(torch.isfinite(v).all() for v in state["modules"]["net"].values())


def test_losses_are_read_now_and_then_though_nothing_is_logged(data, tmp_path, lagging, monkeypatch):
    monkeypatch.setattr(values, "MOST_UNREAD", 4)
    read = []
    numbers = Values.numbers
    monkeypatch.setattr(
        Values, "numbers", lambda self: read.append(len(self.unread)) or numbers(self), raising=True
    )
    train(Regression(), data, config(steps=12, log_every=100, ema_decay=0.0), tmp_path, progress=False)
    assert read[:4] == [1, 4, 4, 3]


def test_channels_last_is_only_an_order(data, tmp_path):
    """The same losses, and weights in torch's own order afterwards."""

    class Picture(Regression):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(2, 4, (1, 2)), nn.Flatten(), nn.Linear(4, 2))

        def forward(self, batch, rngs):
            square = (self.net(batch["x"].view(-1, 2, 1, 2)) - batch["y"]).square().mean()
            self.strides = self.net[0].weight.is_contiguous(memory_format=torch.channels_last)
            return {"loss": square}

    one, other = Picture(), Picture()
    other.load_state_dict(one.state_dict())
    a = train(one, data, config(ema_decay=0.0), tmp_path / "a", progress=False)
    b = train(other, data, config(ema_decay=0.0, channels_last=True), tmp_path / "b", progress=False)
    assert other.strides and not one.strides and other.net[0].weight.is_contiguous()
    assert a.history[-1]["loss"] == pytest.approx(b.history[-1]["loss"], rel=1e-4)


def test_time_budget_leaves_a_checkpoint(data, tmp_path):
    result = train(Regression(), data, config(steps=10**6, minutes=1e-4), tmp_path, progress=False)
    assert not result.finished
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == result.step


def test_a_minute_has_sixty_seconds(data, tmp_path, monkeypatch):
    """Of steps of ten seconds the seventh is the first to end beyond a minute."""
    clock = [0.0]
    for module in (loop, agreement):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(Regression):
        def forward(self, batch, rngs):
            clock[0] += 10
            return super().forward(batch, rngs)

    result = train(Slow(), data, config(minutes=1.0), tmp_path, progress=False)
    assert (result.step, result.finished, result.seconds) == (7, False, 70)


def test_precision_may_change_in_one_process(data, tmp_path):
    """accelerate keeps one precision for a process; a notebook trains in several."""
    losses = {}
    for precision in ("no", "bf16", "tf32", "no"):
        task = Regression()
        result = train(
            task, data, config(precision=precision), tmp_path / f"{len(losses)}{precision}", progress=False
        )
        losses.setdefault(precision, []).append(result.history[-1]["loss"])
    assert losses["no"][0] == losses["no"][1] != losses["bf16"][0]
    assert losses["tf32"] == losses["no"][:1]  # a CPU has none
    assert torch.get_float32_matmul_precision() == "highest"


def test_checkpointing_needs_something_that_can(data, tmp_path):
    with pytest.raises(InputError, match="nothing that Regression trains can do it"):
        train(Regression(), data, config(checkpointing=True), tmp_path, progress=False)


class TooLarge(Regression):
    def forward(self, batch, rngs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_too_large_a_batch_says_what_to_do(data, tmp_path, monkeypatch):
    class Card:
        total_memory = 24 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    with pytest.raises(
        TrainingError, match=r"batch_size=4 does not fit into 24 GiB; batch_size=2 with grad_accum=2"
    ):
        train(TooLarge(), data, config(), tmp_path, progress=False)


def test_what_a_step_held_goes_before_the_error(data, tmp_path, monkeypatch):
    """The rest of the system has to find its place on the GPU again, and a smaller batch after it."""
    held = []

    class Late(Regression):
        def forward(self, batch, rngs):
            terms = super().forward(batch, rngs)
            held.append(weakref.ref(terms["loss"]))
            if len(held) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return terms

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1))
    task = Late()
    try:
        train(task, data, config(), tmp_path, progress=False)
    except TrainingError:  # while it is handled, as where the parts are brought back
        assert [ref() for ref in held] == [None] * 3
    assert len(held) == 3 and all(p.grad is None for p in task.parameters())


@pytest.mark.parametrize("saved", [True, False, None])
def test_a_checkpoint_of_another_device_keeps_this_one_s_steps(data, tmp_path, saved):
    """A GPU's Adam is fused, a CPU's is not: which one it is belongs to the device, not to the run."""
    whole, parts = Regression(), Regression(seed=9)
    train(whole, data, config(), tmp_path / "whole", progress=False)
    train(Regression(), data, config(minutes=1e-9), tmp_path / "parts", progress=False)
    state = torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = saved
    records.save_checkpoint(tmp_path / "parts", state)
    train(parts, data, config(), tmp_path / "parts", progress=False)
    assert torch.equal(weights(parts), weights(whole))
    state = torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)
    assert {group["fused"] for group in state["optimizer"]["param_groups"]} == {torch.cuda.is_available()}


def test_ema_formula():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema = EMA({"net": net}, 0.5)
    nn.init.ones_(net.weight)
    expected = 0.0
    for k in range(8):
        ema.update({"net": net})
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay)
    ema.copy_to({"net": net})
    assert net.weight.item() == pytest.approx(expected)


def test_an_average_of_half_precision_weights_is_a_single_one():
    """A step of a thousandth of the way is lost in bf16, whose numbers lie 0.8 % apart."""
    net = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(net.weight)
    ema = EMA({"net": net}, 0.999)
    ema.count = 10**6
    nn.init.constant_(net.weight, 2.0)
    for _ in range(10):
        ema.update({"net": net})
    assert ema.shadow["net.weight"].item() == pytest.approx(2 - 0.999**10, rel=1e-6)


def test_the_average_is_of_weights_after_their_step(data, tmp_path):
    """After one step the average has moved 9/10 of the way to the weights that the step led to."""
    begun, plain, averaged = Regression(), Regression(), Regression()
    train(plain, data, config(steps=1, ema_decay=0.0), tmp_path / "plain", progress=False)
    train(averaged, data, config(steps=1, ema_decay=0.999), tmp_path / "averaged", progress=False)
    names = [name for name, _ in begun.net.named_parameters()]
    states = [task.net.state_dict() for task in (begun, plain, averaged)]
    a, b, c = (torch.cat([state[name].flatten() for name in names]) for state in states)
    assert (a - b).abs().max() > 0.01
    torch.testing.assert_close(c, 0.1 * a + 0.9 * b)


def test_learning_rate():
    c = TrainConfig(steps=100, lr=1.0, warmup_steps=10, schedule="cosine")
    assert learning_rate(c, 0) == pytest.approx(0.1, rel=1e-3)
    assert learning_rate(c, 50) == pytest.approx(0.5)
    assert learning_rate(c, 99) < 0.001
    assert learning_rate(TrainConfig(steps=100, lr=2.0), 99) == 2.0
    # both at once, and warmed up again where the moments began anew
    assert learning_rate(c, 5) == pytest.approx(0.6 * (1 + math.cos(0.05 * math.pi)) / 2)
    assert learning_rate(c, 52, begun=50) == pytest.approx(0.3 * (1 + math.cos(0.52 * math.pi)) / 2)


def test_adam_s_own_settings_are_the_paper_s_and_torch_s():
    c = TrainConfig(steps=1)
    assert (c.lr, c.beta1, c.beta2, c.weight_decay, c.grad_clip) == (3e-6, 0.9, 0.999, 0.0, 1.0)
    assert (c.grad_accum, c.ema_decay, c.warmup_steps, c.schedule) == (1, 0.0, 0, "constant")


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0}, {"lr": 0}, {"lr": float("nan")}, {"ema_decay": 1.0}, {"schedule": "linear"},
        {"grad_clip": -1.0}, {"seed": -1}, {"checkpoint_seconds": -1.0}, {"minutes": float("nan")},
        {"grad_accum": 0}, {"log_every": 0}, {"beta2": 1.0}, {"precision": "int8"},
    ],
)  # fmt: skip
def test_bad_settings(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        config(**bad)


def test_no_data(tmp_path):
    with pytest.raises(InputError, match="no training data"):
        train(Regression(), TensorBatches({"x": torch.zeros(0, 4)}), config(), tmp_path, progress=False)
    with pytest.raises(InputError, match="unequal lengths"):
        TensorBatches({"x": torch.zeros(3), "y": torch.zeros(2)})


def test_tensorboard_events(data, tmp_path):
    train(Regression(), data, config(steps=3, tensorboard=True), tmp_path, progress=False)
    assert list((tmp_path / "tensorboard").glob("events*"))
