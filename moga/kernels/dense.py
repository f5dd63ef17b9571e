"""Attention in one call with its log-sum-exp, and its backward pass as a part of a larger softmax.

By PyTorch's flash attention, which gives and takes the log-sum-exp: on a CPU, and on a GPU in half
precision where no key is hidden. Else spelled out in float32, a slice of queries at a time.

Letters: R segments, Q queries, P keys, N heads, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .probe import flash_fits

_SCORES = 1 << 26  # attention scores that exist at once


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of q (R, N, Q, D) to k and v (R, N, P, D): out, log-sum-exp (R, N, Q). No gradient.

    bias: (Q, P), 0 for keys that a query sees and minus infinity for others; a query that sees none
        gets 0 and minus infinity.
    """
    if q.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(q, k, v, 0.0, False, attn_mask=bias)
        if bias is not None:  # where a query sees no key, it gives a log-sum-exp of 0
            lse = lse.masked_fill(bias.amax(dim=1) == -math.inf, -math.inf)
        return out, lse
    if bias is None and flash_fits(q):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(q, k, v, 0.0, False, False)[:2]
    pieces = []
    for rows in _slices(q, k):
        weights = _scores(q[:, :, rows], k, None if bias is None else bias[rows])
        log = weights.logsumexp(dim=-1)
        weights = weights.sub_(log.nan_to_num(neginf=0.0)[..., None]).exp_()
        pieces.append((weights.to(v.dtype) @ v, log))
    return tuple(torch.cat(part, dim=2) for part in zip(*pieces, strict=True))


def dense_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v where the result is `out` and weights are exp(score - lse).

    grad, out: (R, N, Q, D), of the whole of which this attention is a part. lse: (R, N, Q), of the
    whole, less the log of what these keys weigh. The rest as in `dense_attention`.
    """
    if q.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        lse = lse.contiguous()
        return flash(grad, q, k, v, out, lse, 0.0, False, attn_mask=bias)
    precise = torch.promote_types(q.dtype, torch.float32)
    dq, dk, dv = (torch.zeros_like(t, dtype=precise) for t in (q, k, v))
    for rows in _slices(q, k):
        some, given = q[:, :, rows], grad[:, :, rows].to(precise)
        weights = _scores(some, k, None if bias is None else bias[rows])
        weights = weights.sub_(lse[:, :, rows, None]).exp_()
        dv += weights.transpose(-1, -2) @ given
        delta = (given * out[:, :, rows].to(precise)).sum(dim=-1, keepdim=True)
        weights *= (given @ v.to(precise).transpose(-1, -2) - delta) / math.sqrt(q.shape[-1])
        dq[:, :, rows] = weights @ k.to(precise)
        dk += weights.transpose(-1, -2) @ some.to(precise)
    return dq, dk, dv


def _slices(q: Tensor, k: Tensor) -> list[slice]:
    step = max(1, _SCORES // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    return [slice(first, first + step) for first in range(0, q.shape[2], step)]


def _scores(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """In float32 or better."""
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(precise) / math.sqrt(q.shape[-1])) @ k.to(precise).transpose(-1, -2)
    return scores if bias is None else scores.add_(bias)
