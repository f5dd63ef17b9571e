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
from .network import apart, check_address, check_gpus, check_nccl, unlike
from .shards import ParallelismError

TIMEOUT = timedelta(minutes=30)  # of a collective: one process may be reading a model meanwhile


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

    Raises NetworkError where they cannot meet, or GPUs are too few.
    """
    processes = Processes(*(_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    gpus = torch.cuda.is_available()
    check_nccl()
    check_gpus()
    backend = "cpu:gloo,cuda:nccl" if gpus else "cpu:gloo"
    check_address()
    try:
        dist.init_process_group(backend, timeout=timeout)
    except (RuntimeError, ValueError, OSError) as error:  # of gloo, NCCL and the store
        raise apart(error) from None
    if gpus:
        torch.cuda.set_device(processes.local_rank)
    return processes


def unlike_cards(processes: Processes) -> str | None:
    """What to say of the processes' GPUs if they are unlike. All processes call it."""
    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(processes.local_rank)
    cards: list[Any] = [None] * processes.count
    dist.all_gather_object(cards, (card.name, card.total_memory))
    return unlike(cards)


def leave() -> None:
    """Part from the other processes. Harmless where nobody met."""
    if dist.is_initialized():
        with suppress(RuntimeError):  # some may have gone already
            dist.destroy_process_group()


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ParallelismError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but {name} is "
            f"{os.environ.get(name)!r}; start the processes with torchrun, which sets both."
        ) from None
