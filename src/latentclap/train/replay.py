"""Work that a GPU is given whole: recorded once as a CUDA graph, then replayed.

A pass through the UNet is thousands of kernels. The processor starts one after the other, and where that takes longer
than the kernels themselves (a fast GPU, a small batch, a slow processor), the GPU waits for it most of the time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

#: calls that run as they are before one is recorded: in them kernels are compiled and algorithms chosen
WARM = 3


class NotRecorded(RuntimeError):
    """A CUDA graph cannot hold what the function does, such as waiting for the GPU; or the GPU has no room for it."""


class Recorded:
    """A function of tensors on a GPU, as a CUDA graph for each shape of them.

    A replay does the very same with the tensors' new contents, and nothing else: what the function does on the
    processor's side is done when it is recorded, and never again. Several threads may call it;
    a copy has no graphs yet.

    Args:
        function: named tensors on one GPU -> named tensors there. Memory that it keeps for later calls (weights,
            moments) has to stay where it is; where those of ``of`` do not, it is recorded anew.
        stream: where it is recorded, one that the caller computes on; None: a stream of its own.
        kept: shapes whose graphs are held, with the memory of a pass each; of the least recent ones it is given back.
        before: called before something is recorded: other threads should not start anything on the GPU meanwhile.
        of: the module that the function runs.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        *,
        stream: Any = None,
        kept: int = 1,
        before: Callable[[], None] = lambda: None,
        of: nn.Module | None = None,
    ) -> None:
        self.of, self._weights = of, [] if of is None else list(of.parameters())
        self._lie: list[int] = []
        self._lock = threading.RLock()
        self._function, self.stream, self._kept, self._before = function, stream, kept, before
        #: of a shape, by thread: each has handles of its own to the libraries, made in its first calls
        self._calls: dict[Any, WeakKeyDictionary[threading.Thread, int]] = {}
        self._graphs: OrderedDict[Any, tuple[Any, dict[str, Tensor], dict[str, Tensor]]] = OrderedDict()

    def __call__(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The function's result, in memory of its own.

        Raises:
            NotRecorded: a graph cannot hold it, or the GPU has no room for one.
            torch.OutOfMemoryError: the GPU is too small, with no graph too.
        """
        with self._lock:
            return self._called(tensors)

    def _called(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        lie = [weight.data_ptr() for weight in self._weights]
        if lie != self._lie:  # a graph would read where they lay
            self.close()
            self._lie = lie
        key = tuple((name, value.shape, value.dtype) for name, value in tensors.items())
        if key not in self._graphs:
            calls, thread = self._calls.setdefault(key, WeakKeyDictionary()), threading.current_thread()
            calls[thread] = calls.get(thread, 0) + 1
            if calls[thread] <= WARM:
                return self._function(tensors)
            self._record(key, tensors)
        graph, inputs, outputs = self._graphs[key]
        self._graphs.move_to_end(key)
        for name, value in tensors.items():
            inputs[name].copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

    def _record(self, key: Any, tensors: dict[str, Tensor]) -> None:
        self._before()
        while len(self._graphs) >= self._kept:
            self._drop(next(iter(self._graphs)))
        with torch.inference_mode(False):  # what is made in it could be written in it alone
            inputs = {name: value.detach().clone() for name, value in tensors.items()}
        graph, device = torch.cuda.CUDAGraph(), next(iter(tensors.values())).device
        # torch's own stream for this would be of the GPU that was the current one first
        stream = self.stream or torch.cuda.Stream(device)
        failed: BaseException | None = None
        try:
            # the stream outside is chosen once more: torch stays on its own after a recording that failed;
            # of this thread alone: another one may copy the next batch meanwhile
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                try:
                    outputs = self._function(inputs)
                except BaseException as error:
                    failed = error
                    raise
            self._graphs[key] = graph, inputs, outputs
        except BaseException as error:
            failed = failed or error  # the end of a recording that failed has an error of its own
        try:
            if isinstance(failed, RuntimeError):
                reason = (str(failed).strip() or type(failed).__name__).splitlines()[0]
                raise NotRecorded(reason) from failed
            if failed is not None:
                raise failed
        finally:
            failed = None  # or it would hold this frame, and this frame it, until garbage is collected

    def _drop(self, key: Any) -> None:
        graph, _, _ = self._graphs.pop(key)
        graph.reset()
        self._calls.pop(key, None)

    def close(self) -> None:
        """Give the graphs' memory back."""
        with self._lock:
            for key in list(self._graphs):
                self._drop(key)
            self._calls.clear()

    def __reduce__(self) -> Any:
        return _again, (self._function, self._kept, self.of)


def _again(function: Any, kept: int, of: nn.Module | None) -> Recorded:
    """A copy, of the copied function."""
    return Recorded(function, kept=kept, of=of)
