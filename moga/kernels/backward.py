"""The backward pass of packed attention that is one part of a larger softmax.

Letters: Q packed queries, P packed keys, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .far import masked_backward
from .segments import Segments, runs

_SCORES = 1 << 26  # attention scores that exist at once

Packed = tuple[Tensor | None, Tensor | None, Segments]


def add_backward(
    grads: list[Tensor],
    inputs: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    out: Tensor,
    delta: Tensor,
    lse: Tensor,
    how: Packed,
    sign: int,
) -> None:
    """Add to grads, of q, k and v (tokens, N, D), what reaches them through one part.

    grad, out: (tokens, N, D) of the whole result. delta: (tokens, N), their product summed over D.
    lse: (tokens, N) of the whole, less the log of what the part's keys weigh.
    how: token of each packed query and key, None where they lie so, and the segments.
    """
    queries, keys, segments = how
    q, k, v = (_at(t, index) for t, index in zip(inputs, (queries, keys, keys), strict=True))
    grad, delta, lse = (_at(t, queries) for t in (grad, delta, lse))
    dq, dk, dv = (torch.zeros_like(t, dtype=g.dtype) for t, g in zip((q, k, v), grads, strict=True))
    for count, lq, lk, q_at, k_at in runs(segments.on_host()):
        for number in range(count):
            rows = slice(q_at + number * lq, q_at + (number + 1) * lq)
            columns = slice(k_at + number * lk, k_at + (number + 1) * lk)
            _add(dq, dk, dv, grad, q, k, v, delta, lse, rows, columns)
    for total, part, index in zip(grads, (dq, dk, dv), (queries, keys, keys), strict=True):
        if index is None:
            total.add_(part, alpha=sign)
        else:
            total.index_add_(0, index, part, alpha=sign)


def _add(dq, dk, dv, grad, q, k, v, delta, lse, rows: slice, columns: slice) -> None:
    step = max(1, _SCORES // max(1, q.shape[1] * (columns.stop - columns.start)))
    for first in range(rows.start, rows.stop, step):
        some = slice(first, min(rows.stop, first + step))
        more = masked_backward(
            grad[some], q[some], k[columns], v[columns], delta[some], lse[some], None
        )
        dq[some] += more[0]
        dk[columns] += more[1]
        dv[columns] += more[2]


def _at(t: Tensor, index: Tensor | None) -> Tensor:
    return t if index is None else t.index_select(0, index)
