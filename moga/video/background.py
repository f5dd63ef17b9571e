"""Frames from the device that makes them to a writer, while the next ones are being made.

Three things happen at once: the device decodes a chunk, the chunk before it travels to the host,
and the one before that is encoded. What they share are a few slots: a slot is filled on one side,
emptied on the other, and filled again. So no more than that many chunks are ever on their way,
and a device that is ahead waits for the writer.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from ..vae.decode import to_uint8

SLOTS = 3
PATIENCE = 0.1  # seconds between two looks at whether to go on waiting


class Pipeline:
    """Runs `write` in a thread of its own, on the frames that `put` is given, in order.

        with VideoWriter(...) as video, Pipeline(video.write, stop=video.kill) as pipeline:
            pipeline.put(frames)

    Leaving the block waits until all is written and `finish`, called after the last `write`, is
    done. Leaving it with an exception calls `stop`, which has to end a `write` or `finish`
    that waits, and drops what is on its way. `check` is called while `put` or the end wait;
    what it raises ends the waiting. What `write` or `finish` raises is raised by the next
    `put`, or at the end.
    """

    def __init__(
        self,
        write: Callable[[np.ndarray], None],
        *,
        stop: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        finish: Callable[[], None] = lambda: None,
        slots: int = SLOTS,
    ) -> None:
        self._write = write
        self._stop = stop
        self._check = check
        self._finish = finish
        self._filled: SimpleQueue[HostSlot | CudaSlot | None] = SimpleQueue()
        self._empty: SimpleQueue[HostSlot | CudaSlot | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = Thread(target=self._work, name="frame writer", daemon=True)
        for _ in range(slots):
            self._empty.put(None)

    def __enter__(self) -> Pipeline:
        self._thread.start()
        return self

    def put(self, frames: Tensor) -> None:
        """Hand on `frames`, (T, H, W, C) in [0, 1] on any device, once there is a slot for them.

        They may be changed or freed as soon as this returns.
        """
        slot = self._wait(self._empty)
        slot = new_slot(frames.device) if slot is None else slot
        slot.fill(frames)
        self._filled.put(slot)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        finished = False
        self._dropped = error is not None
        self._filled.put(None)
        try:
            if error is None:
                while self._thread.is_alive():
                    self._look()
                    self._thread.join(PATIENCE)
                self._look()
                finished = True
        finally:
            if not finished:
                self._dropped = True
                self._stop()
            self._thread.join()

    def _wait(self, queue: SimpleQueue):
        while True:
            self._look()
            try:
                return queue.get(timeout=PATIENCE)
            except Empty:
                continue

    def _look(self) -> None:
        if self._error is not None:
            raise self._error
        self._check()

    def _work(self) -> None:
        while (slot := self._filled.get()) is not None:
            self._attempt(lambda slot=slot: self._write(slot.read()))
            self._empty.put(slot)
        self._attempt(self._finish)

    def _attempt(self, act: Callable[[], None]) -> None:
        """Do what is still wanted; what it raises is raised again in the thread that can act."""
        if not self._dropped and self._error is None:
            try:
                act()
            except BaseException as error:
                self._error = error


def new_slot(device: torch.device) -> HostSlot | CudaSlot:
    """A slot for frames that are made on `device`."""
    return CudaSlot(device) if device.type == "cuda" else HostSlot()


class HostSlot:
    """Memory of the host, to which frames are copied by waiting for their device, if it is one.

    All chunks go to the same memory: what waits for the writer in new memory each time lies among
    the blocks that the decoder takes and frees meanwhile, and keeps them from becoming one again.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def fill(self, frames: Tensor) -> None:
        self._buffer, self._frames = room(self._buffer, frames.shape)
        self._frames.copy_(to_uint8(frames))

    def read(self) -> np.ndarray:
        """The frames. Valid until the slot is filled again."""
        return self._frames.numpy()


class CudaSlot:
    """Pinned memory, to which a stream beside the decoder's copies frames."""

    def __init__(self, device: torch.device) -> None:
        self._stream = side_stream(device)
        self._copied = torch.cuda.Event()
        self._buffer = torch.empty(0, dtype=torch.uint8, pin_memory=True)

    def fill(self, frames: Tensor) -> None:
        frames = to_uint8(frames).contiguous()
        self._buffer, self._frames = room(self._buffer, frames.shape)
        self._stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(self._stream):
            self._frames.copy_(frames, non_blocking=True)
            self._copied.record(self._stream)
        # The allocator may not give this memory to the decoder's stream before it is copied.
        frames.record_stream(self._stream)

    def read(self) -> np.ndarray:
        """The frames, once they have arrived. Valid until the slot is filled again."""
        self._copied.synchronize()
        return self._frames.numpy()


def room(buffer: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """`buffer`, or a larger one of its kind, and the part of it that has `shape`."""
    if buffer.numel() < shape.numel():
        buffer = torch.empty(shape.numel(), dtype=buffer.dtype, pin_memory=buffer.is_pinned())
    return buffer, buffer[: shape.numel()].view(shape)


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream for copies from `device`, made once: the copies keep their order."""
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]
