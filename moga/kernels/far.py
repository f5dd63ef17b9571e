"""Attention to the keys of a token's group that it does not see near by, by masks, on any device.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .dense import dense_attention, dense_backward
from .far_keys import FarKeys
from .probe import TRITON_WIDTHS, ampere, triton_there

_MASK = 1 << 26  # elements of a mask that exists at once

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
