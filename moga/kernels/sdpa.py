"""Packed attention from PyTorch's own dense attention, where every device can run it.

Segments of equal length, as windows and frames are, run as one batched call: cuDNN does them on
Hopper at its full rate. Groups never have the same size twice; see `rounded` for those.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .cudnn import cudnn
from .probe import TRITON_WIDTHS, cudnn_fits, needs_grad, triton_there
from .segments import Segments, runs

_UNPLANNED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_SCORES = 1 << 26  # attention scores that the plain log-sum-exp path holds at once


def batched(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Packed attention by one batched call for each run of segments of equal length."""
    kernel = cudnn_fits(q) and not needs_grad(q, k, v)
    if segments.lengths is None and kernel and triton_there() and q.shape[-1] in TRITON_WIDTHS:
        from . import rounded

        return rounded.cudnn_rounded(q, k, v, segments, lse)
    dense = _dense
    if lse:
        dense = cudnn if kernel else _dense_with_lse
    elif q.is_cuda and segments.lengths is None:
        # cuDNN plans each length it has not met for tens of milliseconds; group sizes never repeat.
        dense = sdpa_kernel(_UNPLANNED)(dense)
    outs, lses = [], []
    for count, lq, lk, q_at, k_at in runs(segments.on_host()):
        part = q[q_at : q_at + count * lq].unflatten(0, (count, lq))
        keys, values = (t[k_at : k_at + count * lk].unflatten(0, (count, lk)) for t in (k, v))
        out, log = dense(*(t.transpose(1, 2) for t in (part, keys, values)))
        outs.append(out.transpose(1, 2).flatten(0, 1))
        if lse:
            lses.append(log.transpose(1, 2).flatten(0, 1))
    return _joined(outs, q), (_joined(lses, q[..., 0].float()) if lse else None)


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    if not parts:
        return torch.zeros_like(like)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
    """q, k, v (R, N, length, D)."""
    return F.scaled_dot_product_attention(q, k, v), None


def _dense_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention and its log-sum-exp, both differentiable, a slice of queries at a time."""
    scale = 1 / math.sqrt(q.shape[-1])
    precise = torch.promote_types(q.dtype, torch.float32)
    step = max(1, _SCORES // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    outs, lses = [], []
    for part in q.split(step, dim=2):
        scores = (part.to(precise) @ k.to(precise).transpose(-1, -2)) * scale
        log = scores.logsumexp(dim=-1)
        outs.append((scores - log.unsqueeze(-1)).exp().to(v.dtype) @ v)
        lses.append(log)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)
