"""Time and memory of calls, and where they were measured: shared by the benchmarks."""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor


def timed(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median milliseconds a call. Short calls are queued ten at a time, as a model's layers are."""
    for _ in range(2):
        start = time.perf_counter()
        run()
        wait(device)
        took = time.perf_counter() - start
        if took > 1:
            return queued(run, device, 1)
    calls = 10 if took < 0.03 and device.type == "cuda" else 1
    return statistics.median(queued(run, device, calls) for _ in range(repeats))


def queued(run: Callable[[], object], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / calls


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(run: Callable[[], object], unit: Tensor) -> float | None:
    """Extra memory of a call at its worst, in tensors like `unit`, the result included."""
    if not unit.is_cuda:
        return None
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    return extra / (unit.numel() * unit.element_size())


def machine(device: torch.device) -> dict:
    """Where and with what the figures were measured."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def said(*command: str) -> str | None:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    driver = None
    if device.type == "cuda":
        found = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        driver = found.splitlines()[0] if found else None  # one line for each card
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.machine(),
        "driver": driver,
        "cudnn": torch.backends.cudnn.version(),
        "versions": {p: version(p) for p in ("torch", "triton", "fa3-fwd", "flash-attn")},
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "command": "python " + " ".join(sys.argv),
    }
