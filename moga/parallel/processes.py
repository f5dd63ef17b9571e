"""The processes that torchrun started, as one program: they begin, refuse and end together."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from ..errors import MogaError, sentence
from .shards import ParallelismError

TIMEOUT = timedelta(minutes=30)  # of a collective: one process may be reading a model meanwhile
_ENDED = (  # in the words of gloo and NCCL
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Timed out waiting",
    "recvBytes",
    "sendBytes",
    "NCCL",
)


class ElsewhereError(MogaError, RuntimeError):
    """What went wrong in another process, of which this one has no more to say."""


@dataclass(frozen=True)
class Processes:
    """All processes of a run, and which one this is. local_rank: of those on this machine."""

    rank: int
    count: int
    local_rank: int

    @property
    def main(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What every process does for itself, and none goes on from unless all could.

        Where one has an error, the main one raises it, or ElsewhereError if it was another's; all
        others raise ElsewhereError.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as own:
            error = own
        words = None
        if error is not None and (words := sentence(error)) is None:
            words = "".join(traceback.format_exception(error))  # a bug, shown whole
        told: list[str | None] = [None] * self.count
        dist.all_gather_object(told, words)
        if error is not None and self.main:
            raise error
        for rank, other in enumerate(told):
            if other is not None:
                raise ElsewhereError(f"process {rank} of {self.count}: {other}") from error

    def from_main(self, made: Any) -> Any:
        """What the main process made, in every process."""
        box = [made]
        dist.broadcast_object_list(box, 0)
        return box[0]


def join(timeout: timedelta = TIMEOUT) -> Processes:
    """Meet the other processes, each with a GPU of its own where there are any.

    Raises ParallelismError where they cannot meet, or cannot work together on their GPUs.
    """
    processes = Processes(*(_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    gpus = torch.cuda.is_available()
    if gpus:
        _check_gpus()
    backend = "cpu:gloo,cuda:nccl" if gpus else "cpu:gloo"
    try:
        dist.init_process_group(backend, timeout=timeout)
    except (RuntimeError, ValueError, OSError) as error:  # of gloo, NCCL and the store
        raise ParallelismError(
            f"the processes can't meet ({str(error).strip().splitlines()[0]}); on one machine "
            "start them with torchrun --standalone, on several name the network that they share: "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME."
        ) from None
    if gpus:
        torch.cuda.set_device(processes.local_rank)
        _check_alike(processes)
    return processes


def leave() -> None:
    """Part from the other processes. Harmless where nobody met."""
    if dist.is_initialized():
        with suppress(RuntimeError):  # some may have gone already
            dist.destroy_process_group()


def is_gone(error: BaseException) -> bool:
    """Whether it is what a collective says when a process that it waits for has ended."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ENDED)


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ParallelismError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but {name} is "
            f"{os.environ.get(name)!r}; start the processes with torchrun, which sets both."
        ) from None


def _check_gpus() -> None:
    here, gpus = _number("LOCAL_WORLD_SIZE"), torch.cuda.device_count()
    if here > gpus:
        raise ParallelismError(
            f"{here} processes were started on a machine with {gpus} GPUs, and each needs its own; "
            f"give --nproc-per-node {gpus}."
        )
    if not dist.is_nccl_available():
        raise ParallelismError(
            "this PyTorch has no NCCL, by which GPUs exchange data; use one of PyTorch's own "
            "builds for CUDA on Linux, or one process."
        )


def _check_alike(processes: Processes) -> None:
    """Unlike cards would all wait for the slowest, and the smallest decides what fits."""
    card = torch.cuda.get_device_properties(processes.local_rank)
    cards: list[Any] = [None] * processes.count
    dist.all_gather_object(cards, (card.name, round(card.total_memory / 1024**3)))
    for rank, other in enumerate(cards):
        if other != cards[0]:
            names = [f"{name} with {size} GiB" for name, size in (cards[0], other)]
            raise ParallelismError(
                f"the processes have unlike GPUs ({names[0]}, and {names[1]} at process {rank}); "
                "choose cards of one kind with CUDA_VISIBLE_DEVICES."
            )
