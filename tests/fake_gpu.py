"""A GPU that there is not: its tensors compute on the CPU, and are as strict as a GPU's about what lies where.

On a machine without a GPU torch refuses all that names "cuda". Within :func:`gpus` there are two: a tensor that goes
to "cuda" becomes an :class:`OnGPU`, which says of itself what a GPU's tensor says and holds its numbers in a tensor
of the CPU. So whole programs run, to the same numbers as on the CPU, and what would be wrong on a GPU is an error:

- tensors of two devices in one operation, but for numbers (0 dimensions) and indices of the CPU;
- a generator of the CPU for a tensor of a GPU, ``.numpy()`` of one;
- what one stream wrote, read by another that did not wait for it; and memory given back while another stream than its
  own may still use it.

A CUDA graph is one, too: what is told to a GPU while it is recorded happens at each replay, and not before; waiting
for the GPU then is an error.

What makes the CPU wait for a GPU is noted (:attr:`Told.waits`), as is each GPU on which something was put. It is no
model of speed, of memory or of arithmetic: matrix products are the CPU's, autocast has the CPU's list of operations,
and nothing is compiled.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils import _device
from torch.utils._pytree import tree_flatten, tree_map

COUNT = 2
GIB = 2**30
_SOURCE = str(Path(__file__).parents[1])
_local = threading.local()
_aten = torch.ops.aten
#: numbers of another device may stand in any operation, whole tensors in these
_CROSS = {"copy_", "_foreach_copy_"}
#: operations whose result's size, or Python value, the CPU has to learn
_ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "unique_dim", "is_nonzero"}
# a set of torch's own functions, kept from its first use on: it has to be of the real ones
_device._device_constructors()


class DeviceError(RuntimeError):
    """What a GPU would refuse, or do wrongly without a word."""


@dataclass
class Told:
    """What happened on the GPUs.

    Attributes:
        waits: where the CPU waited for a GPU: what for, and the line of this repository.
        on: numbers of the GPUs on which something was put.
        wrong: what can be said only afterwards, such as memory given back too early.
        free: bytes that the GPU has left, for who asks.
        moved: names of threads by which something was copied to a GPU.
    """

    waits: list[tuple[str, str]] = field(default_factory=list)
    on: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    free: int = 64 * GIB
    moved: set[str] = field(default_factory=set)

    def wait(self, what: str) -> None:
        """Note that the CPU waits; nothing can be waited for while a graph is recorded."""
        if graph := getattr(_local, "graph", None):
            graph.failed = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")
        for stream in list(_all_streams) if what == "synchronize" else [current_stream()]:
            stream.done = stream.count
        self.waits.append((what, _line()))


_told = Told()


def _line() -> str:
    """The innermost line of this repository that is not of this file."""
    frame = sys._getframe(1)
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(_SOURCE) and name != __file__:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


# ---------------------------------------------------------------------------------------------- streams

_all_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


class Stream:
    """A queue of a GPU, and what happened before its end: for each stream the number of its last such operation."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.gpu, self.count = _number(device), 0
        #: of its operations, those for which the CPU waited
        self.done = 0
        _all_streams.add(self)
        self.known: dict[Stream, int] = {}

    def sees(self, other: Stream, count: int) -> bool:
        """Whether an operation of a stream happened before whatever comes here next."""
        return other is self or max(self.known.get(other, 0), other.done) >= count

    def record_event(self, event: Event | None = None) -> Event:
        """A mark behind all that was told to this stream."""
        event = event or Event()
        event.known = {**self.known, self: self.count}
        return event

    def wait_event(self, event: Event) -> None:
        """Do nothing further before a mark is reached."""
        for stream, count in event.known.items():
            self.known[stream] = max(count, self.known.get(stream, 0))

    def wait_stream(self, stream: Stream) -> None:
        """Wait for all that was told to another stream."""
        self.wait_event(stream.record_event())


class Event:
    """A mark in a stream."""

    def __init__(self, **_: Any) -> None:
        self.known: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        """Set it behind all that was told to a stream."""
        (stream or current_stream()).record_event(self)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream wait for it."""
        (stream or current_stream()).wait_event(self)


_defaults: dict[int, Stream] = {}


def current_device() -> int:
    """This thread's GPU: the first, unless it chose another."""
    return getattr(_local, "gpu", 0)


def set_device(device: Any) -> None:
    """Choose this thread's GPU."""
    number = _number(device)
    if not 0 <= number < COUNT:
        raise RuntimeError("CUDA error: invalid device ordinal")
    _local.gpu = number


def current_stream(device: Any = None) -> Stream:
    """This thread's stream on a GPU: the one that all threads share, unless it chose another."""
    number = _number(device)
    chosen = getattr(_local, "streams", {}).get(number)
    return chosen or _defaults.setdefault(number, Stream(number))


@contextmanager
def _stream(chosen: Stream) -> Iterator[None]:
    before, own = dict(getattr(_local, "streams", {})), current_device()
    _local.streams = before | {chosen.gpu: chosen}
    _local.gpu = chosen.gpu
    try:
        yield
    finally:
        _local.streams, _local.gpu = before, own


@contextmanager
def _device_of(device: Any) -> Iterator[None]:
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        _local.gpu = before


def _number(device: Any) -> int:
    """A GPU's number; where none is named, this thread's."""
    if device is None or isinstance(device, int):
        return current_device() if device is None else device
    index = torch.device(device).index
    return current_device() if index is None else index


class _Buffer:
    """Memory of a GPU: by which stream it was had and last written, and which used it when.

    Given back, it is had again by its first stream: that one has to know all that others did with it.
    """

    def __init__(self, stream: Stream) -> None:
        self.had = self.writer = stream
        stream.count += 1
        self.count, self.users, self.recorded = stream.count, {stream: stream.count}, {stream}
        #: of a graph: nobody else is given it
        self.private = bool(getattr(_local, "graph", None))

    def used(self, stream: Stream) -> None:
        """Note that a stream uses it now."""
        self.users[stream] = stream.count

    def __del__(self) -> None:
        unknown = {stream for stream, count in self.users.items() if not self.had.sees(stream, count)}
        if unknown - self.recorded and not self.private:
            _told.wrong.append("memory was given back while another stream may use it (record_stream)")


class Graph:
    """Work that is recorded, and happens at each replay."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.made: list[torch.Tensor] = []
        self.stream: Stream | None = None
        self.failed = False

    def add(self, func: Any, args: Any, kwargs: Any, out: Any, mutated: list[torch.Tensor]) -> None:
        """Keep an operation, which was run to know what comes out of it."""
        if _views(func):
            return

        def again() -> None:
            found = func(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(found)[0], strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)

        self.work.append(again)
        known = {id(t) for t in mutated}
        self.made += [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor) and id(t) not in known]

    def keep(self, tensors: list[torch.Tensor]) -> None:
        """Remember what is about to be written: a recording changes nothing."""
        for t in tensors:
            self.before.setdefault(t.untyped_storage()._cdata, (t, t.clone()))

    def fill(self, held: torch.Tensor) -> None:
        """What a tensor was made with, which is written again at each replay."""
        first = held.clone()
        self.work.append(lambda: held.copy_(first))
        self.made.append(held)

    def end(self) -> None:
        """Nothing has happened: memory that was there is as it was, other memory holds anything."""
        with torch.no_grad():
            for t in self.made:
                if t.is_floating_point():
                    t.fill_(float("nan"))
            for t, value in self.before.values():
                t.copy_(value)

    def replay(self) -> None:
        """Let it happen, on the present stream."""
        stream = current_stream(self.stream.gpu)
        stream.wait_stream(self.stream)
        with torch.no_grad():
            for again in self.work:
                again()

    def reset(self) -> None:
        """Forget it."""
        self.work, self.made, self.before = [], [], {}


@contextmanager
def _recording(
    graph: Graph, stream: Stream | None = None, capture_error_mode: str = "global"
) -> Iterator[None]:
    """``torch.cuda.graph``."""
    assert capture_error_mode == "thread_local", "the thread that copies the next batch would be an error"
    graph.stream = stream or Stream()
    torch.cuda.synchronize()
    before = getattr(_local, "streams", {}), current_device()
    _local.streams, _local.gpu = before[0] | {graph.stream.gpu: graph.stream}, graph.stream.gpu
    _local.graph = graph
    try:
        yield
    finally:
        _local.graph = None
        graph.end()
        if graph.failed:  # torch then stays on the stream
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        _local.streams, _local.gpu = before


# ---------------------------------------------------------------------------------------------- tensors

_buffers: weakref.WeakValueDictionary[int, _Buffer] = weakref.WeakValueDictionary()


class OnGPU(torch.Tensor):
    """A tensor that says that it lies on a GPU; ``held`` has its numbers, on the CPU."""

    held: torch.Tensor
    gpu: int
    buffer: _Buffer

    @staticmethod
    def __new__(cls, held: torch.Tensor, gpu: int) -> OnGPU:
        """Wrap a tensor of the CPU."""
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",
        )
        if not 0 <= gpu < COUNT:
            raise RuntimeError("CUDA error: invalid device ordinal")
        out.held, out.gpu = held, gpu
        _told.on.add(gpu)
        # views share their base's memory
        key = held.untyped_storage()._cdata
        out.buffer = _buffers.get(key) or _Buffer(current_stream(gpu))
        _buffers[key] = out.buffer
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: torch.device("cuda", self.gpu))
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        """The GPU's number."""
        return self.gpu

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refused, as torch does."""
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host"
            " memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """The numbers, for which the CPU waits."""
        _told.wait("tolist")
        _use([self], ())
        return self.held.tolist()

    def record_stream(self, stream: Stream) -> None:
        """Keep the memory until a stream is done with it."""
        self.buffer.recorded.add(stream)

    def pin_memory(self, *_: Any) -> Any:
        """Refused, as torch does."""
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def data_ptr(self) -> int:
        """A number that tells memory apart."""
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        """The memory."""
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGPU:
        if id(self) in memo:
            return memo[id(self)]
        with torch.no_grad():
            out = OnGPU(self.held.clone(), self.gpu)
        if getattr(self, "_is_param", False):
            out = torch.nn.Parameter(out, self.requires_grad)
        else:
            out.requires_grad_(self.requires_grad)
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a file tells the device too; all of ours are read to the CPU
        _told.wait("saved")
        return self.held.detach().__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.held!r}, {self.gpu})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["held"], self.gpu

    @staticmethod
    def __tensor_unflatten__(inner: Any, gpu: Any, *_: Any) -> OnGPU:
        return OnGPU(inner["held"], gpu)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation on tensors of which one at least is of a GPU."""
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        mine = [t for t in tensors if isinstance(t, OnGPU)]
        gpu = _where(name, tensors, mine, args)
        if (generator := kwargs.get("generator")) is not None and generator.device.type == "cpu":
            raise DeviceError(f"{name}: Expected a 'cuda' device type for generator but found 'cpu'")
        if name in _ASKS or (name in ("index", "index_put_", "index_put") and _asks(args[1])):
            _told.wait(name)
        mutated = {
            id(value)
            for told, value in zip(func._schema.arguments, args, strict=False)
            if told.alias_info is not None and told.alias_info.is_write
            for value in (value if isinstance(value, list | tuple) else [value])
        }
        _use(mine, mutated)
        back = {id(t.held): t for t in mine}
        held = tree_map(lambda t: t.held if isinstance(t, OnGPU) else t, (list(args), kwargs))
        graph, written = getattr(_local, "graph", None), [t.held for t in mine if id(t) in mutated]
        if graph:
            graph.keep(written)
        out = func(*held[0], **held[1])
        if graph:
            graph.add(func, *held, out, written)
        if name == "_local_scalar_dense":
            return out

        def wrapped(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            known = back.get(id(value))
            if known is not None:
                if known.shape != value.shape or known.stride() != value.stride():
                    raise NotImplementedError(f"{name} changes a tensor's shape in place")
                return known
            return OnGPU(value, gpu)

        stream = current_stream(gpu)
        out = tree_map(wrapped, out)
        for value in tree_flatten(out)[0]:
            if isinstance(value, OnGPU) and not graph and id(value) not in {id(t) for t in mine}:
                value.buffer.used(stream)
                if not _views(func):
                    value.buffer.writer, value.buffer.count = stream, stream.count
        return out


def _views(func: Any) -> bool:
    return any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)


def _asks(indices: Any) -> bool:
    """Whether an index has to be copied from the CPU, or tells by its content how many there are."""
    return any(i is not None and (i.dtype == torch.bool or not isinstance(i, OnGPU)) for i in indices)


def _use(mine: list[OnGPU], mutated: Any) -> None:
    """Let the present stream read tensors, and write some of them."""
    for t in mine:
        stream = current_stream(t.gpu)
        if getattr(_local, "graph", None):
            continue  # nothing happens yet
        stream.count += 1
        if not stream.sees(t.buffer.writer, t.buffer.count):
            raise DeviceError("a stream reads what another one writes, without waiting for it")
        t.buffer.used(stream)
        if id(t) in mutated:
            t.buffer.writer, t.buffer.count = stream, stream.count


def _where(name: str, tensors: list[torch.Tensor], mine: list[OnGPU], args: Any) -> int:
    """The GPU of an operation; tensors of another device are refused."""
    gpu = mine[0].gpu
    if name in _CROSS or name.startswith("_to_copy"):
        return args[0].gpu if isinstance(args[0], OnGPU) else gpu
    if name.startswith("index") and not isinstance(args[0], OnGPU) and isinstance(args[0], torch.Tensor):
        raise DeviceError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    indices = {id(i) for i in args[1]} if name in ("index", "index_put", "index_put_") else set()
    for t in tensors:
        if isinstance(t, OnGPU):
            if t.gpu != gpu:
                raise DeviceError(f"{name}: tensors on cuda:{gpu} and cuda:{t.gpu}")
        elif id(t) not in indices and t.ndim and not getattr(_local, "backward", False):
            # what torch makes by itself in a backward pass is of the CPU, as it takes these tensors to be
            raise DeviceError(
                f"{name}: Expected all tensors to be on the same device, but found cuda:{gpu}, cpu"
            )
    return gpu


# ------------------------------------------------------------------------------------- torch's functions


def put(value: torch.Tensor, gpu: int) -> OnGPU:
    """A copy of a tensor of the CPU on a GPU."""
    _told.moved.add(threading.current_thread().name)
    out = OnGPU(value.detach().clone(memory_format=torch.preserve_format), gpu)
    if graph := getattr(_local, "graph", None):
        graph.fill(out.held)
    return out


class _Moved(torch.autograd.Function):
    """A copy to another device, or between two GPUs; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, device: torch.device) -> torch.Tensor:
        ctx.device = value.device
        return _moved(value, device)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _moved(grad, ctx.device), None


def _moved(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if isinstance(value, OnGPU):
        _use([value], ())
        plain = value.held.detach().clone(memory_format=torch.preserve_format)
        if device.type != "cuda":
            stream = current_stream(value.gpu)
            stream.done = stream.count  # the CPU has it now
            return plain.to(device) if device.type == "meta" else plain
        return OnGPU(plain, _number(device))
    return put(value, _number(device))


def _to(real: Callable[..., Any]) -> Callable[..., Any]:
    """``Tensor.to``, between devices too."""

    @functools.wraps(real)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):
            other, *rest = args
            args, kwargs = (other.device, other.dtype, *rest), kwargs
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        options = {} if memory_format is None else {"memory_format": memory_format}
        here = self.device
        if device is not None and device.type == "cuda":
            device = torch.device("cuda", _number(device))
        if device is None or device == here or (device.type == "cpu" and here.type == "cpu"):
            wanted = self.dtype if dtype is None else dtype
            return real(self, dtype=wanted, copy=copy, **options)
        if "cuda" not in (device.type, here.type):
            return real(self, device=device, dtype=dtype, copy=copy, **options)
        pinned = getattr(self, "pinned", False) and non_blocking
        if not pinned and "cpu" in (device.type, here.type):
            _told.wait(f"copy from {here.type} to {device.type}")
        with_grad = torch.is_grad_enabled() and self.requires_grad
        out = _Moved.apply(self, device) if with_grad else _moved(self, device)
        return real(out, dtype=self.dtype if dtype is None else dtype, **options)

    return to


def _made(real: Callable[..., Any], *, like: bool = False) -> Callable[..., Any]:
    """A function that makes a tensor, by default on the device of the one that it is like."""
    copies = real.__name__ in ("tensor", "as_tensor", "new_tensor")

    @functools.wraps(real)
    def make(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        first = args[0] if args else None
        if isinstance(device, int) and not isinstance(device, bool):
            device = torch.device("cuda", device)
        if device is None and like and isinstance(first, OnGPU):
            device = first.device
        if device is None or torch.device(device).type != "cuda":
            if like and isinstance(first, OnGPU):
                args = (first.held, *args[1:])
            more = {} if device is None else {"device": device}
            return real(*args, **more, **kwargs)
        if real.__name__ == "as_tensor" and isinstance(first, torch.Tensor):
            return first.to(device, kwargs.get("dtype"))
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise DeviceError(f"{real.__name__}: Expected a 'cuda' device type for generator but found 'cpu'")
        if copies:
            _told.wait(f"{real.__name__} to a GPU")
        grad = kwargs.pop("requires_grad", False)
        args = tuple(a.held if isinstance(a, OnGPU) else a for a in args)
        out = put(real(*args, device="cpu", **kwargs), _number(device))
        return out.requires_grad_(grad)

    return make


_FACTORIES = (
    *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "linspace", "eye"),
    *("tensor", "as_tensor", "scalar_tensor", "hann_window", "hamming_window", "empty_strided", "logspace"),
)
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")
_NEW = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "new_empty_strided")


def _autocast(real: Callable[..., None]) -> Callable[..., None]:
    """Autocast of a GPU's tensors: they are the CPU's to torch."""

    @functools.wraps(real)
    def begin(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        real(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return begin


def _unlisted(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that autocast changes on a CPU, and not on a GPU."""

    @functools.wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return real(*args, **kwargs)

    return call


def _framed(input: torch.Tensor, n_fft: int, hop: int | None, length: int | None, window: Any) -> Any:
    """The hop of a Fourier transform in short time, and its window, as long as a frame."""
    hop, length = hop or n_fft // 4, length or n_fft
    if window is None:
        window = torch.ones(length, device=input.device)
    left = (n_fft - length) // 2
    return hop, F.pad(window, (left, n_fft - length - left))


def _stft(real: Callable[..., Any]) -> Callable[..., Any]:
    """torch's own changes a tensor's shape in place, which :class:`OnGPU` cannot: the same without that."""

    @functools.wraps(real)
    def stft(
        input: torch.Tensor,
        n_fft: int,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: Any = None,
        center: bool = True,
        pad_mode: str = "reflect",
        **more: Any,
    ) -> torch.Tensor:
        if not isinstance(input, OnGPU) and not isinstance(window, OnGPU):
            return real(input, n_fft, hop_length, win_length, window, center, pad_mode, **more)
        assert more == {"return_complex": True} and input.ndim == 2
        hop, window = _framed(input, n_fft, hop_length, win_length, window)
        if center:
            input = F.pad(input[:, None], (n_fft // 2,) * 2, mode=pad_mode)[:, 0]
        return torch.fft.rfft(input.unfold(-1, n_fft, hop) * window).transpose(1, 2)

    return stft


def _istft(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def istft(
        input: torch.Tensor,
        n_fft: int,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: Any = None,
        length: int | None = None,
    ) -> torch.Tensor:
        if not isinstance(input, OnGPU) and not isinstance(window, OnGPU):
            return real(input, n_fft, hop_length, win_length, window, length=length)
        hop, window = _framed(input, n_fft, hop_length, win_length, window)
        frames = torch.fft.irfft(input, n=n_fft, dim=1) * window[None, :, None]
        whole = n_fft + hop * (input.shape[2] - 1)

        def added(x: torch.Tensor) -> torch.Tensor:
            return F.fold(x, (1, whole), (1, n_fft), stride=(1, hop))[:, 0, 0]

        weight = added((window**2)[None, :, None].expand(1, n_fft, input.shape[2]))
        return (added(frames) / weight.clamp(min=1e-11))[:, n_fft // 2 :][:, :length]

    return istft


def _backward(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def backward(*args: Any, **kwargs: Any) -> Any:
        before = getattr(_local, "backward", False)
        _local.backward = True
        try:
            return real(*args, **kwargs)
        finally:
            _local.backward = before

    return backward


def _grouped(real: Callable[..., Any]) -> Callable[..., Any]:
    """Tensors by device, which torch's optimisers and norms ask of C++: there ours are the CPU's."""

    @functools.wraps(real)
    def group(lists: Any, *rest: Any) -> Any:
        out = {}
        for (device, dtype), found in real(lists, *rest).items():
            first = next((t for t in found[0][0] if t is not None), None)
            out[first.device if isinstance(first, OnGPU) else device, dtype] = found
        return out

    return group


def _swap(one: torch.Tensor, other: torch.Tensor) -> None:
    """What a module's ``to`` does to a parameter: another device's memory, the same object, whoever knows it."""
    for name in ("__class__", "__dict__"):
        mine = getattr(one, name)
        setattr(one, name, getattr(other, name))
        setattr(other, name, mine)
    torch._C._swap_tensor_impl(one, other)


def _pinned(self: torch.Tensor, *_: Any) -> torch.Tensor:
    """Memory from which a copy does not keep the CPU waiting."""
    out = self.clone(memory_format=torch.preserve_format)
    out.pinned = True
    return out


def _cuda(patch: Any) -> None:
    """``torch.cuda``, as far as it is asked."""
    told = {
        "is_available": lambda: True,
        "device_count": lambda: COUNT,
        "current_device": current_device,
        "set_device": set_device,
        "Stream": Stream,
        "Event": Event,
        "stream": _stream,
        "current_stream": current_stream,
        "default_stream": lambda device=None: _defaults.setdefault(_number(device), Stream(device)),
        "device": _device_of,
        "synchronize": lambda device=None: _told.wait("synchronize"),
        "empty_cache": lambda: None,
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: GIB,
        "reset_peak_memory_stats": lambda device=None: None,
        "mem_get_info": lambda device=None: (_told.free, 80 * GIB),
        "get_device_name": lambda device=None: f"a GPU that there is not, {_number(device)}",
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=80 * GIB, major=9, minor=0),
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: bool(getattr(_local, "graph", None)),
        "CUDAGraph": Graph,
        "graph": _recording,
        "manual_seed_all": lambda seed: None,
    }
    for name, value in told.items():
        patch.setattr(torch.cuda, name, value)
    # an optimiser asks whether its step is being captured into a graph
    idle = SimpleNamespace(is_capturing=lambda: False)
    patch.setattr(torch.accelerator, "current_stream", lambda device=None: idle)


@contextmanager
def gpus(patch: Any) -> Iterator[Told]:
    """Two GPUs, until the end of the block; a mistake that is known only afterwards is an error at its end.

    Args:
        patch: pytest's monkeypatch.
    """
    global _told
    _told = told = Told()
    _defaults.clear()
    _local.gpu, _local.streams = 0, {}
    _forget()
    with patch.context() as inside:
        _cuda(inside)
        for name in _FACTORIES:
            inside.setattr(torch, name, _made(getattr(torch, name)))
        for name in _LIKE:
            inside.setattr(torch, name, _made(getattr(torch, name), like=True))
        for name in _NEW:
            inside.setattr(torch.Tensor, name, _made(getattr(torch.Tensor, name), like=True))
        for name in ("stack", "cat"):
            inside.setattr(torch, name, _unlisted(getattr(torch, name)))
        inside.setattr(torch, "stft", _stft(torch.stft))
        inside.setattr(torch, "istft", _istft(torch.istft))
        inside.setattr(torch.Tensor, "to", _to(torch.Tensor.to))
        inside.setattr(torch.Tensor, "cpu", lambda self: self.to("cpu"))
        inside.setattr(
            torch.Tensor, "cuda", lambda self, device=None, **_: self.to(f"cuda:{_number(device)}")
        )
        inside.setattr(torch.Tensor, "pin_memory", _pinned)
        inside.setattr(torch.autocast, "__init__", _autocast(torch.autocast.__init__))
        inside.setattr(torch.autograd, "backward", _backward(torch.autograd.backward))
        inside.setattr(torch.autograd, "grad", _backward(torch.autograd.grad))
        inside.setattr(torch.utils, "swap_tensors", _swap)
        group = "_group_tensors_by_device_and_dtype"
        inside.setattr(torch._C, group, _grouped(getattr(torch._C, group)))
        inside.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
        inside.setattr(torch.nn.Module, "compile", lambda self, *_, **__: None)
        inside.setattr("latentclap.fast.ops.kernels", None)  # a real GPU's
        for name in ("ACCELERATE_USE_CPU", "LATENTCLAP_DEVICE"):
            inside.setenv(name, "")
            inside.delenv(name)  # what is set within goes at the end
        try:
            yield told
        finally:
            _forget()
            _local.gpu, _local.streams = 0, {}
    if told.wrong:
        raise DeviceError(told.wrong[0])


def _forget() -> None:
    """What is kept beyond a test: accelerate's devices, and windows and filters by device."""
    from latentclap.audio import mel

    mel._window_and_matrix.cache_clear()
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
