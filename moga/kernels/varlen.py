"""Kernels that take packed tensors and cumulative lengths as they are, from other packages.

Letters: Q packed queries, P packed keys, R segments, N heads, D head width.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from .segments import Segments

FLASH3 = ("flash_attn_interface", "fa3_fwd_interface")


def torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    varlen = importlib.import_module("torch.nn.attention.varlen")
    aux = varlen.AuxRequest(lse=True)
    out, log = varlen.varlen_attn(q, k, v, *_lengths(segments), return_aux=aux)
    return out, (_tokens_first(log, q) if lse else None)


def flash2(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    flash = importlib.import_module("flash_attn")
    out = flash.flash_attn_varlen_func(q, k, v, *_lengths(segments), return_attn_probs=lse)
    return (out[0], _tokens_first(out[1], q)) if lse else (out, None)


def flash3(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    flash = importlib.import_module(next(filter(importlib.util.find_spec, FLASH3)))
    if segments.uniform():
        # Equal lengths as a batch: 10 to 20 % faster on frames than the variable-length kernel.
        count, (lq, lk) = len(segments.lengths), segments.lengths[0]
        batch = (t.unflatten(0, (count, n)) for t, n in ((q, lq), (k, lk), (v, lk)))
        out, log = flash.flash_attn_func(*batch, return_attn_probs=True)[:2]
        return out.flatten(0, 1), (log.transpose(1, 2).flatten(0, 1) if lse else None)
    out, log = flash.flash_attn_varlen_func(q, k, v, *_lengths(segments), return_attn_probs=True)[
        :2
    ]
    return out, (_tokens_first(log, q) if lse else None)


def flash3_refuses(q: Tensor) -> str | None:
    if q.dtype == torch.float16 and importlib.util.find_spec(FLASH3[0]) is None:
        return "has no float16 kernel in the fa3-fwd wheel"
    return None


def flash4(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    flash = importlib.import_module("flash_attn.cute")
    out, log = flash.flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=segments.cu_q, cu_seqlens_k=segments.cu_k
    )[:2]
    return out, (_tokens_first(log, q) if lse else None)


def sage(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    sageattention = importlib.import_module("sageattention")
    return sageattention.sageattn_varlen(q, k, v, *_lengths(segments)), None


def _lengths(segments: Segments) -> tuple[Tensor, Tensor, int, int]:
    return segments.cu_q, segments.cu_k, segments.max_q, segments.max_k


def _tokens_first(lse: Tensor, q: Tensor) -> Tensor:
    """Log-sum-exp as (Q, N): kernels give (N, Q), possibly padded at the end."""
    return lse[:, : q.shape[0]].transpose(0, 1)
