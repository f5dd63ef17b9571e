"""Whether the processes of a launch can find and understand each other, and what to say if not."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Sequence

import torch
from torch import distributed as dist

from ..errors import MogaError

# Lost processes: what one of them raises, the others wait for in vain.
NETWORK: tuple[type[Exception], ...] = ()
if dist.is_available():
    NETWORK = (dist.DistError,)
_LOST = (  # in RuntimeErrors of gloo and NCCL
    "gloo/transport",
    "Connection closed by peer",
    "Timed out waiting",
    "ncclRemoteError",
    "remote process exited",
)
_APART = ("gloo", "rendezvous", "connect", "address", "hostname", "socket", "timed out", "timeout")
_ALIKE = 0.02  # how far the memory of cards of one kind differs: by what the driver keeps
Card = tuple[str, int]  # its name, and its bytes of memory


class NetworkError(MogaError, RuntimeError):
    """Processes of a launch that do not find each other; the message has the fix."""


def check_nccl() -> None:
    """Raise NetworkError where GPUs have nothing to exchange data by."""
    if torch.cuda.is_available() and not dist.is_nccl_available():
        raise NetworkError(
            "this PyTorch has no NCCL, without which GPUs do not reach each other; install one "
            "that has (on Linux all of pytorch.org's have), or start one process."
        )


def check_gpus() -> None:
    """Raise NetworkError where processes of this machine would share a GPU."""
    if not torch.cuda.is_available():
        return
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if here > gpus:
        raise NetworkError(
            f"{here} processes were started on a machine with {gpus} "
            f"{'GPU' if gpus == 1 else 'GPUs'}, and each needs its own; start {gpus}."
        )


def check_address() -> None:
    """Raise NetworkError where the first machine has no address that this one knows."""
    if host := os.environ.get("MASTER_ADDR"):
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise NetworkError(
                f"MASTER_ADDR is {host}, which no machine here is known by ({error.strerror}); "
                "give torchrun --master-addr the address of the first machine, 127.0.0.1 where "
                "there is one."
            ) from None


def is_network(error: BaseException) -> bool:
    """Whether an error says that other processes are lost, or do not answer."""
    if not isinstance(error, RuntimeError) or isinstance(error, MogaError):
        return False
    backend = isinstance(error, NETWORK) and isinstance(error, dist.DistBackendError)
    if isinstance(error, NETWORK) and not backend:
        return True
    return any(sign in str(error) for sign in _LOST)


def backend_failed(error: BaseException) -> NetworkError | None:
    """What to say of NCCL, where it failed for a reason of its own; None for other errors."""
    if not isinstance(error, NETWORK) or is_network(error):
        return None
    why = str(error).rpartition("Last error:")[2].strip() or str(error)
    return NetworkError(
        f"the GPUs can't exchange data ({first_line(RuntimeError(why))}); NCCL_DEBUG=INFO in the "
        "environment says more."
    )


def is_apart(error: BaseException) -> bool:
    """Whether PyTorch says, at the start, that it did not bring the processes together."""
    if isinstance(error, OSError):
        return error.filename is None  # else it is of a file
    words = str(error).lower()
    return isinstance(error, NETWORK) or any(sign in words for sign in _APART)


def apart(error: Exception) -> NetworkError:
    """What to say where PyTorch did not bring the processes together."""
    return NetworkError(
        f"the processes of this launch do not find each other ({first_line(error)}); see that "
        "MASTER_ADDR and MASTER_PORT name the first machine and a free port of it, and "
        "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME the network between them."
    )


def first_line(error: BaseException) -> str:
    """What PyTorch says of the network, without where in its sources it does."""
    return re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().splitlines()[0]).rstrip(".")


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
