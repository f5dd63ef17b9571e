"""What comfyui.py measures of a run: seconds of each step, memory of card and host, compilations.

Two readings of the card: torch's allocator, and the driver, which also sees what is allocated past
torch (dynamic VRAM, a context's own memory). GB are 1e9 bytes.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import psutil
import torch

GB = 1e9


def on_card() -> bool:
    return torch.cuda.is_available()


def wait() -> None:
    if on_card():
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes that torch holds on the card."""
    return torch.cuda.memory_allocated() if on_card() else 0


def driver_used() -> int:
    """Bytes of the card that are in use, by anybody."""
    if not on_card():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def host_used() -> int:
    """Bytes of memory that this process has, pinned ones too."""
    return psutil.Process().memory_info().rss


class Watch:
    """Peaks within a block. taken: bytes of the card that others hold, which are left out."""

    def __init__(self, taken: int = 0) -> None:
        self._taken = taken

    def __enter__(self) -> Watch:
        gc.collect()
        wait()
        if on_card():
            torch.cuda.reset_peak_memory_stats()
        self._driver, self._host = driver_used(), host_used()
        self._end = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        wait()
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self._driver = max(self._driver, driver_used())
            self._host = max(self._host, host_used())

    def row(self) -> dict[str, float]:
        found = {"host peak GB": round(self._host / GB, 2)}
        if on_card():
            found["allocator peak GB"] = round(torch.cuda.max_memory_allocated() / GB, 2)
            found["driver peak GB"] = round((self._driver - self._taken) / GB, 2)
        return found


class Steps:
    """Seconds of each step of a sampler that asks the model once a step, as euler does.

    What is loaded, moved or compiled in the first step counts there, so it stands apart. held:
    bytes on the card as the first step begins, weights most of all.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.held = 0

    def on(self, model: Any) -> Any:
        """A clone of the MODEL whose steps are timed here."""
        from comfy.patcher_extension import WrappersMP

        timed = model.clone()
        timed.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "comfyui benchmark", self._timed)
        return timed

    def _timed(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        wait()
        if not self.seconds:
            self.held = allocated()
        start = time.perf_counter()
        out = executor(*args, **kwargs)
        wait()
        self.seconds.append(time.perf_counter() - start)
        return out

    def row(self) -> dict[str, float | int | None]:
        first, rest = self.seconds[0], self.seconds[1:]
        return {
            "steps": len(self.seconds),
            "first step s": round(first, 4),
            "step s": round(statistics.median(rest), 4) if rest else None,
        }


class Compilations:
    """How often torch.compile compiled a frame within the block, recompilations included."""

    def __enter__(self) -> Compilations:
        self._before = self._count()
        return self

    def __exit__(self, *error: object) -> None:
        self.count = self._count() - self._before

    @staticmethod
    def _count() -> int:
        from torch._dynamo.utils import counters

        return counters["stats"]["unique_graphs"]


def left_after_unload(mm: Any) -> int:
    """Bytes that torch still holds on the card once ComfyUI has unloaded every model."""
    mm.unload_all_models()
    gc.collect()
    wait()
    mm.soft_empty_cache()
    return allocated()


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far two results lie apart, relative to the second."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())
