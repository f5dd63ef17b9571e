"""The processes of a launch find each other, and what is said where they do not."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import distributed as dist

from ..errors import MogaError
from .errors import everywhere, first_line
from .settings import Settings
from .sharding import sharding

# One process fills the cache, and reads all files of a large set, while the others wait.
_PATIENCE = timedelta(days=1)
_ALIKE = 0.02  # how far the memory of cards of one kind differs: by what the driver keeps
Card = tuple[str, int]  # its name, and its bytes of memory


class NetworkError(MogaError, RuntimeError):
    """Processes of a launch that do not find each other; the message has the fix."""


def join(settings: Settings) -> Accelerator:
    """Find the other processes of this launch, if there are any.

    Raises NetworkError, and SettingsError for what accelerate was told.
    """
    split, timeout = sharding(), timedelta(minutes=settings.parallel.timeout)
    check_network()
    try:
        return Accelerator(
            mixed_precision=settings.optimizer.precision,
            log_with=list(settings.log.trackers) or None,
            project_dir=settings.save.folder,
            step_scheduler_with_optimizer=False,
            fsdp_plugin=split,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
        )
    except (RuntimeError, ValueError, OSError) as error:
        if launched() == 1:
            raise
        raise _apart(error) from error


def check_network() -> None:
    """Raise NetworkError for a launch whose processes can't find or understand each other."""
    if launched() == 1:
        return
    if torch.cuda.is_available() and not dist.is_nccl_available():
        raise everywhere(
            NetworkError(
                "this PyTorch has no NCCL, without which GPUs do not reach each other; install one "
                "that has (on Linux all of pytorch.org's have), or start one process."
            )
        )
    if host := os.environ.get("MASTER_ADDR"):
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise NetworkError(
                f"MASTER_ADDR is {host}, which no machine here is known by ({error.strerror}); "
                "give torchrun --master-addr the address of the first machine, 127.0.0.1 where "
                "there is one."
            ) from None


def waiting_group(accelerator: Accelerator) -> dist.ProcessGroup | None:
    """A group for `together.for_all` whose processes wait for hours; None for one process.

    Raises NetworkError.
    """
    if accelerator.num_processes == 1:
        return None
    try:
        return dist.new_group(backend="gloo", timeout=_PATIENCE)
    except RuntimeError as error:
        raise _apart(error) from error


def say_unlike_cards(accelerator: Accelerator) -> None:
    """Tell where the cards of a launch have unlike memory. All processes call it."""
    if accelerator.device.type != "cuda" or accelerator.num_processes == 1:
        return
    card = torch.cuda.get_device_properties(accelerator.device)
    cards = gather_object([(card.name, card.total_memory)])
    if accelerator.is_main_process and (words := unlike(cards)):
        print(words, flush=True)


def unlike(cards: Sequence[Card]) -> str | None:
    """What to say of cards that do not have the same memory; None where they have."""
    sizes = [size for _, size in cards]
    if max(sizes) - min(sizes) <= _ALIKE * max(sizes):
        return None
    counted = Counter(f"{name} with {size / 2**30:.0f} GiB" for name, size in cards)
    listed = ", ".join(f"{count} x {what}" for what, count in counted.items())
    return (
        f"the cards are unlike ({listed}); each gets the same share, so the smallest decides what "
        "fits and the slowest how long it takes"
    )


def _apart(error: Exception) -> NetworkError:
    """What to say where PyTorch did not bring the processes together."""
    return NetworkError(
        f"the processes of this launch do not find each other ({first_line(error)}); see that "
        "MASTER_ADDR and MASTER_PORT name the first machine and a free port of it, and "
        "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME the network between them."
    )


def launched() -> int:
    """How many processes were launched for this training."""
    return int(os.environ.get("WORLD_SIZE", 1))
