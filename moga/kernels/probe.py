"""What is there: packages, the kind of device, whether a gradient is wanted.

Letters: see `moga.kernels.table`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
TRITON_WIDTHS = (16, 32, 64, 128)  # of heads, which the Triton kernels are written for
HOPPER = 9


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will want a backward pass through any of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def ampere(q: Tensor) -> bool:
    """Whether q is in half precision on an NVIDIA card that flash attention and Triton run on."""
    return (
        q.is_cuda
        and not torch.version.hip
        and q.dtype in HALF
        and torch.cuda.get_device_capability(q.device)[0] >= 8
    )


def flash_fits(q: Tensor) -> bool:
    """Whether PyTorch's flash attention takes tensors like q, forward and backward."""
    return ampere(q) and q.shape[-1] <= 256 and q.shape[-1] % 8 == 0


def triton_there() -> bool:
    return importlib.util.find_spec("triton") is not None


def cudnn_fits(q: Tensor) -> bool:
    """Whether cuDNN's attention is the fast one for tensors like q: on Hopper, as measured."""
    return (
        q.is_cuda
        and not torch.version.hip
        and q.dtype in HALF
        and q.shape[-1] <= 128
        and q.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(q.device)[0] == HOPPER
        and torch.backends.cuda.cudnn_sdp_enabled()
    )


@lru_cache(maxsize=32)
def missing(modules: tuple[str, ...], package: str, minimum: str) -> str | None:
    """What has to be installed before one of the modules can be imported, or None."""
    wanted = f"{package} {minimum} or newer" if minimum else package
    if not any(_importable(module) for module in modules):
        return f"{wanted} is not installed"
    if minimum:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None  # built from source, without metadata: it is there, so let it run
        if _release(version) < _release(minimum):
            return f"{wanted} is needed, {version} is installed"
    return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _release(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits or not part[0].isdigit():
            break
        numbers.append(int(digits))
    return tuple(numbers)
