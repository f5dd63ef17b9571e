"""The backward pass of packed attention that is one part of a larger softmax.

Letters: Q packed queries, P packed keys, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dense import dense_backward
from .probe import flash_fits
from .segments import Segments, runs


def packed_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of packed q (Q, N, D), k and v (P, N, D), as `dense_backward` gives them.

    grad, out: (Q, N, D). lse: (Q, N).
    """
    if flash_fits(q):
        return _flash(grad, q, k, v, out, lse, segments)
    grads = [torch.zeros_like(t) for t in (q, k, v)]  # of segments without queries, too
    for count, lq, lk, q_at, k_at in runs(segments.on_host()):
        rows, columns = slice(q_at, q_at + count * lq), slice(k_at, k_at + count * lk)
        given, some, whole = (_batched(t[rows], count) for t in (grad, q, out))
        keys, values = (_batched(t[columns], count) for t in (k, v))
        log = lse[rows].unflatten(0, (count, lq)).transpose(1, 2)
        found = dense_backward(given, some, keys, values, whole, log)
        for total, part, at in zip(grads, found, (rows, columns, columns), strict=True):
            total[at] = part.transpose(1, 2).flatten(0, 1)
    return tuple(grads)


def _flash(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """By PyTorch's own flash attention, which takes result and log-sum-exp as they are given."""
    nothing = torch.zeros(2, dtype=torch.uint64, device=q.device)  # there is no dropout
    lengths = (segments.cu_q, segments.cu_k, segments.max_q, segments.max_k)
    return torch.ops.aten._flash_attention_backward(
        *(grad, q, k, v, out, lse.T.contiguous()), *lengths, 0.0, False, nothing, nothing
    )


def _batched(t: Tensor, count: int) -> Tensor:
    return t.unflatten(0, (count, -1)).transpose(1, 2)
