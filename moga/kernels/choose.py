"""Which row of the table runs what: by name, or the fastest that is installed and fits.

Letters: Q packed queries, P packed keys, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .probe import cudnn_fits
from .table import AUTO, BACKENDS, Backend, BackendError, require

# Mean lengths of segments that the host knows, and doesn't, up to which `triton`, reading in place,
# is faster than packing for `sdpa` (benchmarks/results). FlashAttention 3 wins at any length.
_KNOWN_IN_PLACE = 800
_UNKNOWN_IN_PLACE = 5000
_PLANS = 8  # batched calls of one branch beyond which cuDNN's plans cost too much


def select(
    name: str, q: Tensor, *, training: bool = False, lse: bool = False
) -> tuple[Backend, str]:
    """The backend to use for tensors like q, and a clause that says why.

    "auto" takes the first row of BACKENDS that is installed and fits; on Hopper `sdpa` comes before
    the FlashAttention 2 kernels, because cuDNN is 1.6 times as fast there. Any other name is used
    or refused: raises BackendError that says what is missing.
    """
    if name != AUTO:
        backend = require(name)
        reason = backend.unfit(q, training=training, lse=lse)
        if reason:
            raise BackendError(f"backend {name!r} {reason}; choose 'auto' or 'sdpa'.")
        return backend, "chosen by name"
    passed_over = []
    for backend in _candidates(q, training):
        reason = backend.missing() or backend.unfit(q, training=training, lse=lse)
        if reason is None:
            return backend, "; ".join(passed_over) or "the fastest there is"
        passed_over.append(f"{backend.name}: {reason}")
    raise BackendError("no attention backend fits: " + "; ".join(passed_over))


def _candidates(q: Tensor, training: bool) -> list[Backend]:
    """The rows that `auto` may take, the fastest first."""
    rows = [backend for backend in BACKENDS.values() if backend.auto]
    in_place = BACKENDS["triton"]
    if not training and cudnn_fits(q) and not (in_place.missing() or in_place.unfit(q)):
        rows.sort(key=lambda backend: backend.name not in ("flash3", "sdpa"))
    return rows


@dataclass(frozen=True)
class Work:
    """What a branch of a layer asks of attention.

    mean: tokens of a segment, on average.
    calls: batched calls of equal lengths that its segments fall into; None where the host doesn't
        know the lengths.
    gathered: whether its tokens don't lie in the order of its segments.
    """

    mean: float
    calls: int | None
    gathered: bool

    def in_place(self) -> bool:
        """Whether `triton`, reading in place, beats packing for `sdpa`; measured on an H100."""
        if not self.gathered:
            return False
        if self.calls is None:
            return self.mean <= _UNKNOWN_IN_PLACE
        return self.mean <= _KNOWN_IN_PLACE or self.calls > _PLANS


class Assignment(NamedTuple):
    """The backend of each branch of a layer, by the branch's name, and a clause that says why."""

    backends: dict[str, Backend]
    why: str


def assign(
    name: str, q: Tensor, work: Mapping[str, Work], *, training: bool = False, lse: bool = False
) -> Assignment:
    """The backends of a layer of tensors like q. Only "auto" mixes them, `sdpa` with `triton`.

    Raises BackendError as `select` does.
    """
    base, why = select(name, q, training=training, lse=lse)
    in_place = BACKENDS["triton"]
    mixed = (
        name == AUTO
        and base.name == "sdpa"
        and not training
        and cudnn_fits(q)
        and not (in_place.missing() or in_place.unfit(q, lse=lse))
    )
    chosen = {
        branch: in_place if mixed and asked.in_place() else base for branch, asked in work.items()
    }
    return Assignment(chosen, why)


def report(device: torch.device | str | None = None) -> str:
    """What this machine has, what `auto` picks there for Wan's attention, and why."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = torch.empty(1, 1, 1, 128, dtype=dtype, device=device)
    lines = [f"PyTorch {torch.__version__} on {what}, {str(dtype)[6:]}, head width 128"]
    for backend in BACKENDS.values():
        reason = backend.missing() or backend.unfit(q) or "can run"
        lines.append(f"  {backend.name:8} {reason}")
    purposes = {"union": {"lse": True}, "mean": {}, "mean, training": {"training": True}}
    for purpose, needs in purposes.items():
        backend, why = select(AUTO, q, **needs)
        lines.append(f"auto, {purpose}: {backend.name} ({why})")
    work = {
        "windows": Work(_KNOWN_IN_PLACE, 1, gathered=True),
        "groups": Work(_UNKNOWN_IN_PLACE, None, gathered=True),
    }
    for branch, backend in assign(AUTO, q, work).backends.items():
        lines.append(f"  {branch} of up to {work[branch].mean} tokens, mean: {backend.name}")
    return "\n".join(lines)
