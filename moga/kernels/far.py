"""Attention to the keys of a token's group that it does not see near by, by masks, on any device.

Tokens are packed by group and, inside a group, lie in order of time. The queries of a segment share
a group and a temporal run, so the keys that they may see near by are one range of the group, too.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .dense import dense_attention, dense_backward
from .probe import TRITON_WIDTHS, ampere, triton_there

_MASK = 1 << 26  # elements of a mask that exists at once


@dataclass(frozen=True)
class FarKeys:
    """What the queries of each segment see: their group, less what is near.

    cu: (R + 1,) int32, where segments begin and end among packed positions.
    group_start, near_start, near_stop, group_stop: (R,) int32 packed positions, in this order: the
        group's keys, and those of them that lie in the key frames of the segment's run.
    frame, window: (P,) int32 of the token at each packed position, None where that branch doesn't
        run. A key inside the near range is near when it shares one of them with the query.
    bits: whether frames differ modulo 16 inside a near range, and windows are 16 at most.
    """

    cu: Tensor
    group_start: Tensor
    near_start: Tensor
    near_stop: Tensor
    group_stop: Tensor
    frame: Tensor | None
    window: Tensor | None
    bits: bool = False

    @cached_property
    def code(self) -> Tensor:
        """Both in one number (P,) int32, as `coding` says."""
        parts = []
        if self.frame is not None:
            parts.append(1 << self.frame % 16 if self.bits else self.frame << 16)
        if self.window is not None:
            parts.append(1 << self.window + 16 if self.bits else self.window)
        return sum(parts[1:], parts[0]) if parts else self.cu

    @property
    def coding(self) -> int:
        """How codes show that a key is near: 0 none is, 1 by a bit that both have, 2 by the same
        upper half (frames), 3 lower half (windows), 4 either half."""
        if self.frame is None and self.window is None:
            return 0
        if self.bits:
            return 1
        return 4 if None not in (self.frame, self.window) else 3 if self.frame is None else 2


Ranged = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def far_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: FarKeys, ranged: Ranged | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of packed q, k, v (P, N, D) over `keys`: out (P, N, D), log-sum-exp (P, N).

    ranged: a faster kernel for the keys outside the near ranges, see `Backend.ranged`.
    A query without such keys gets 0 and minus infinity. No gradient.
    """
    if far_in_triton(q):
        from .triton_far import triton_far

        outside = ()
        if ranged is not None:
            spans = ((keys.group_start, keys.near_start), (keys.near_stop, keys.group_stop))
            outside = [ranged(q, k, v, keys.cu, first, last - first) for first, last in spans]
        return triton_far(q, k, v, keys, outside)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    for rows, group, bias in slices(keys, q.dtype):
        part, log = dense_attention(*(_headed(t) for t in (q[rows], k[group], v[group])), bias)
        out[rows], lse[rows] = part[0].transpose(0, 1), log[0].T
    return out, lse


def far_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, keys: FarKeys
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of packed q, k, v (P, N, D) through what is far, as `dense_backward` gives them.

    grad, out: (P, N, D). lse: (P, N).
    """
    precise = torch.promote_types(q.dtype, torch.float32)
    dq, dk, dv = (torch.zeros(t.shape, dtype=precise, device=t.device) for t in (q, k, v))
    for rows, group, bias in slices(keys, q.dtype):
        given = (grad[rows], q[rows], k[group], v[group], out[rows])
        more = dense_backward(*(_headed(t) for t in given), lse[rows].T[None], bias)
        for total, part, at in zip((dq, dk, dv), more, (rows, group, group), strict=True):
            total[at] += part[0].transpose(0, 1)
    return dq, dk, dv


def far_in_triton(q: Tensor) -> bool:
    """Whether the Triton kernel computes it for tensors like q."""
    return ampere(q) and q.shape[-1] in TRITON_WIDTHS and triton_there()


def _headed(t: Tensor) -> Tensor:
    """(P, N, D) as (1, N, P, D)."""
    return t.transpose(0, 1)[None]


def slices(keys: FarKeys, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor]]:
    """Queries of a segment, the keys of their group, and minus infinity at those near: (Q, P)."""
    bounds = (keys.group_start, keys.near_start, keys.near_stop, keys.group_stop)
    spans = torch.stack([keys.cu[:-1], keys.cu[1:], *bounds]).T.tolist()  # one copy from a device
    for first, last, start, low, high, stop in spans:
        # The queries of a segment lie among its near keys: this bounds one mask, not its number.
        step = max(1, _MASK // max(1, stop - start))
        for at in range(first, last, step):
            rows, near = slice(at, min(last, at + step)), slice(low, high)
            bias = torch.zeros(rows.stop - at, stop - start, dtype=dtype, device=keys.cu.device)
            among = bias[:, low - start : high - start]
            for of in (keys.frame, keys.window):
                if of is not None:
                    among.masked_fill_(of[rows, None] == of[near], -math.inf)
            yield rows, slice(start, stop), bias
