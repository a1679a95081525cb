"""Work that a GPU is given whole: recorded once as a CUDA graph, then replayed.

A pass through the UNet is thousands of kernels. The processor starts one after the other, and where that takes longer
than the kernels themselves (a fast GPU, a small batch, a slow processor), the GPU waits for it most of the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: calls that run as they are before one is recorded: in them kernels are compiled and algorithms chosen
WARM = 3


class NotRecorded(RuntimeError):
    """A CUDA graph cannot hold what the function does, such as waiting for the GPU."""


class Recorded:
    """A function of tensors on a GPU, as a CUDA graph for each shape of them.

    A replay does the very same with the tensors' new contents, and nothing else: what the function does on the
    processor's side is done when it is recorded, and never again.

    Args:
        function: named tensors on one GPU -> named tensors there. Memory that it keeps for later calls (weights,
            moments) has to stay where it is.
        stream: where it is recorded, one that the caller computes on; None: a stream of its own.
        kept: shapes whose graphs are held, with the memory of a pass each; of the least recent ones it is given back.
        before: called before something is recorded: other threads should not start anything on the GPU meanwhile.
        of: the module that the function runs, for who has to know it.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        *,
        stream: Any = None,
        kept: int = 1,
        before: Callable[[], None] = lambda: None,
        of: Any = None,
    ) -> None:
        self.of = of
        self._function, self.stream, self._kept, self._before = function, stream, kept, before
        self._calls: dict[Any, int] = {}
        self._graphs: OrderedDict[Any, tuple[Any, dict[str, Tensor], dict[str, Tensor]]] = OrderedDict()

    def __call__(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The function's result, in memory of its own.

        Raises:
            NotRecorded: a graph cannot hold it.
            torch.OutOfMemoryError: the GPU is too small.
        """
        key = tuple((name, value.shape, value.dtype) for name, value in tensors.items())
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM:
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
        inputs = {name: value.clone() for name, value in tensors.items()}
        graph = torch.cuda.CUDAGraph()
        # torch's own stream for this would be of the GPU that was the current one first
        stream = self.stream or torch.cuda.Stream(next(iter(tensors.values())).device)
        try:
            # of this thread alone: another one may copy the next batch meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = self._function(inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # the end of a recording that failed has an error of its own
            first = error.__context__ if isinstance(error.__context__, Exception) else error
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise NotRecorded((str(first).strip() or type(first).__name__).splitlines()[0]) from first
        self._graphs[key] = graph, inputs, outputs

    def _drop(self, key: Any) -> None:
        graph, _, _ = self._graphs.pop(key)
        graph.reset()
        self._calls.pop(key, None)

    def close(self) -> None:
        """Give the graphs' memory back."""
        for key in list(self._graphs):
            self._drop(key)
