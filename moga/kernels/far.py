"""Attention to the keys of a token's group that it does not see near by, by masks, on any device.

Tokens are packed by group and, inside a group, lie in order of time. The queries of a segment share
a group and a temporal run, so the keys that they may see near by are one range of the group, too.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .probe import HALF, TRITON_WIDTHS, triton_there

_SCORES = 1 << 26  # attention scores that exist at once


@dataclass(frozen=True)
class FarKeys:
    """What the queries of each segment see: their group, less what is near.

    cu: (R + 1,) int32, where segments begin and end among packed positions.
    group_start, near_start, near_stop, group_stop: (R,) int32 packed positions, in this order: the
        group's keys, and those of them that lie in the key frames of the segment's run.
    frame, window: (P,) int32 of the token at each packed position, None where that branch doesn't
        run. A key inside the near range is near when it shares one of them with the query.
    """

    cu: Tensor
    group_start: Tensor
    near_start: Tensor
    near_stop: Tensor
    group_stop: Tensor
    frame: Tensor | None
    window: Tensor | None


def far_attention(q: Tensor, k: Tensor, v: Tensor, keys: FarKeys) -> tuple[Tensor, Tensor]:
    """Attention of packed q, k, v (P, N, D) over `keys`: out (P, N, D), log-sum-exp (P, N).

    A query without such keys gets 0 and minus infinity. No gradient.
    """
    if far_in_triton(q):
        from .triton_far import triton_far

        return triton_far(q, k, v, keys)
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lse = q.new_full(q.shape[:2], -math.inf, dtype=torch.promote_types(q.dtype, torch.float32))
    for rows, group, seen in slices(keys, q.shape[1]):
        out[rows], lse[rows] = masked_attention(q[rows], k[group], v[group], seen)
    return out, lse


def far_in_triton(q: Tensor) -> bool:
    """Whether the Triton kernel computes it for tensors like q."""
    return (
        q.is_cuda
        and not torch.version.hip
        and q.dtype in HALF
        and q.shape[-1] in TRITON_WIDTHS
        and triton_there()
    )


def slices(keys: FarKeys, heads: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Some queries of a group, the group's keys, and which of them they see (Q, P) bool."""
    bounds = (keys.group_start, keys.group_stop, keys.cu[:-1], keys.cu[1:])
    spans = torch.stack(bounds).T.tolist()  # one small copy from the device
    lengths = keys.cu.diff().long()
    low, high = (t.repeat_interleave(lengths) for t in (keys.near_start, keys.near_stop))
    for start, stop in dict.fromkeys((start, stop) for start, stop, *_ in spans):
        group = slice(start, stop)
        position = torch.arange(start, stop, device=keys.cu.device)
        step = max(1, _SCORES // max(1, heads * (stop - start)))
        for first in range(start, stop, step):
            rows = slice(first, min(stop, first + step))
            inside = (position >= low[rows, None]) & (position < high[rows, None])
            near = torch.zeros_like(inside)
            for of in (keys.frame, keys.window):
                if of is not None:
                    near |= of[rows, None] == of[group]
            yield rows, group, ~(inside & near)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of q (Q, N, D) to the keys k, v (P, N, D) that are `seen` (Q, P): out and lse."""
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = _scores(q, k, precise).masked_fill_(~seen, -math.inf)
    lse = scores.logsumexp(dim=-1)
    weights = scores.sub_(lse.nan_to_num(neginf=0.0)[..., None]).exp_()
    return torch.einsum("nqk,knd->qnd", weights.to(v.dtype), v), lse.T


def masked_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, delta: Tensor, lse: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q (Q, N, D), k and v (P, N, D) through attention to the keys that are `seen`.

    grad: of the result (Q, N, D). delta: (Q, N) its product with the result, summed over D.
    lse: (Q, N), by which the weights are normalised: exp(score - lse). In float32 or better.
    """
    precise = torch.promote_types(q.dtype, torch.float32)
    weights = _scores(q, k, precise)
    if seen is not None:
        weights.masked_fill_(~seen, -math.inf)
    weights = weights.sub_(lse.T[..., None]).exp_()
    grad, keys, values = grad.to(precise), k.to(precise), v.to(precise)
    dv = torch.einsum("nqk,qnd->knd", weights, grad)
    dscores = torch.einsum("qnd,knd->nqk", grad, values).sub_(delta.T[..., None]).mul_(weights)
    dscores *= 1 / math.sqrt(q.shape[-1])
    dq = torch.einsum("nqk,knd->qnd", dscores, keys)
    return dq, torch.einsum("nqk,qnd->knd", dscores, q.to(precise)), dv


def _scores(q: Tensor, k: Tensor, precise: torch.dtype) -> Tensor:
    """(N, Q, P)."""
    return torch.einsum("qnd,knd->nqk", q.to(precise) / math.sqrt(q.shape[-1]), k.to(precise))
