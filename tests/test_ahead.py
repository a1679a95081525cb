"""The thread that prepares the next step, and what it tells a GPU, by a GPU that only notes what it is told."""

import contextlib
import threading

import pytest
import torch

from latentclap.train.ahead import Ahead


def prepared(start):
    return {"x": torch.full((2,), float(start)), "y": torch.zeros(1)}, [torch.Generator()]


def test_it_is_one_place_ahead_and_drops_what_is_not_asked_for():
    made = []

    def prepare(start):
        made.append((start, threading.current_thread().name))
        return prepared(start)

    ahead = Ahead(prepare, torch.device("cpu"))
    assert ahead.get(0, 4)[0]["x"].tolist() == [0, 0]
    assert ahead.get(4, 8)[0]["x"].tolist() == [4, 4]
    assert ahead.get(20, 24)[0]["x"].tolist() == [20, 20]  # after going on from a checkpoint, 8 is not wanted
    ahead.stop()
    assert [start for start, _ in made][:2] == [0, 4] and 20 in [start for start, _ in made]
    assert len({start for start, _ in made}) == len(made)  # nothing twice
    assert all(name.startswith("ahead") for _, name in made)


def test_what_fails_in_the_thread_is_said_where_it_is_asked_for():
    def prepare(start):
        if start:
            raise OSError("the disk is gone")
        return prepared(start)

    ahead = Ahead(prepare, torch.device("cpu"))
    ahead.get(0, 4)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.get(4, 8)
    ahead.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


class Stream:
    """A CUDA stream that notes what is told to it, and by which thread."""

    def __init__(self, told, name):
        self.told, self.name = told, name

    def record_event(self):
        self.told.append((self.name, "event", threading.current_thread().name[:5]))
        return f"event of {self.name}"

    def wait_event(self, event):
        self.told.append((self.name, "waits for", event))


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda with a second GPU's streams; copies stay where they are and are noted."""
    told = []
    computing = Stream(told, "computing")
    inside = []

    @contextlib.contextmanager
    def stream(chosen):
        inside.append(chosen)
        yield
        inside.pop()

    def pin(value):
        told.append(("pinned", value.numel()))
        return value

    real = torch.Tensor.to

    def to(value, *where, non_blocking=False, **others):
        if where and isinstance(where[0], torch.device) and where[0].type == "cuda":
            told.append(("copied", str(where[0]), non_blocking, inside[-1].name if inside else "no stream"))
            return value
        return real(value, *where, non_blocking=non_blocking, **others)

    def kept(value, by):
        told.append(("kept for", by.name, value.numel()))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(told, f"copies on {device}"))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda number: told.append(("thread's GPU", number, threading.current_thread().name[:5])),
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", kept)
    return told


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_step_waits_for_its_copies_and_keeps_them(gpu, device):
    """Copies go through pinned memory on a stream of their own, of the process's GPU; the step waits for them."""
    ahead = Ahead(prepared, torch.device(device))
    batch, _ = ahead.get(0, 2)
    ahead.stop()
    assert batch["x"].tolist() == [0, 0]
    copies = "copies on cuda:1"
    assert gpu[0] == ("thread's GPU", 1, "ahead")
    first = [note for note in gpu[1:] if note[0] in ("pinned", "copied", copies)][:5]
    copied = ("copied", "cuda:1", True, copies)
    assert first == [("pinned", 2), copied, ("pinned", 1), copied, (copies, "event", "ahead")]
    mine = [note for note in gpu if note[0] in ("computing", "kept for")]
    assert mine == [
        ("computing", "waits for", f"event of {copies}"),
        ("kept for", "computing", 2),
        ("kept for", "computing", 1),
    ]
    # nothing that the step uses is used before its copy is waited for
    assert gpu.index(mine[0]) > gpu.index((copies, "event", "ahead"))
