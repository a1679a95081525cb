"""The next step's inputs, prepared and copied to the GPU while it computes this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

#: a batch with its random numbers, and the items' generators
Inputs = tuple[dict[str, Tensor], list[torch.Generator]]


class Ahead:
    """One thread that is a batch ahead; without a GPU it prepares and copies nothing.

    Args:
        prepare: a place in the stream of clips -> what is needed there, in the CPU's memory or the device's.
        device: where it is needed.
    """

    def __init__(self, prepare: Callable[[int], Inputs], device: torch.device) -> None:
        self._prepare, self._stream, own = prepare, None, {}
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            self._device = torch.device("cuda", number)
            # its own stream: on the one that computes, a copy waits for the step before and the step for the copy
            self._stream = torch.cuda.Stream(self._device)
            # a thread begins at the first GPU, on which every process would then take up room
            own = {"initializer": torch.cuda.set_device, "initargs": (number,)}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead", **own)
        self._coming: dict[int, Future] = {}

    def get(self, start: int, following: int) -> Inputs:
        """What is needed at a place of the stream; the thread goes on with the following place."""
        future = self._coming.pop(start, None) or self._pool.submit(self._job, start)
        self._coming = {following: self._pool.submit(self._job, following)}
        batch, rngs, copied = future.result()
        if copied is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            for value in batch.values():
                value.record_stream(computing)  # its memory is not given away before the step is done with it
        return batch, rngs

    def settle(self) -> None:
        """Wait until the thread has nothing to do; what went wrong in it is told by :meth:`get`."""
        wait(self._coming.values())

    def stop(self) -> None:
        """Let the thread go; what it had prepared is dropped."""
        self._coming.clear()
        self._pool.shutdown(cancel_futures=True)

    def _job(self, start: int) -> tuple[dict[str, Tensor], list[torch.Generator], torch.cuda.Event | None]:
        batch, rngs = self._prepare(start)
        if self._stream is None:
            return batch, rngs, None
        with torch.cuda.stream(self._stream):
            # a plain copy from pageable memory makes the CPU wait for all that a GPU was told before
            batch = {k: self._moved(v) for k, v in batch.items()}
            return batch, rngs, self._stream.record_event()

    def _moved(self, value: Tensor) -> Tensor:
        return value.pin_memory().to(self._device, non_blocking=True) if value.device.type == "cpu" else value
