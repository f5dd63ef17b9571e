"""Attention over segments of scattered tokens, in Triton: q, k and v are read where they lie.

Packing costs a read and a write of q, k and v, and un-packing as much again for the output. Here a
tile of queries fetches its own rows and the rows of its segment's keys, and writes its result to
the place of the tokens. It can also go on from attention over other keys. Forward only.

Letters: P packed positions, R segments, N heads, D head width, BM/BN queries/keys of a tile.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .segments import TILE, Segments, Tiles

_LOG2E = tl.constexpr(math.log2(math.e))


def triton_packed(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Packed attention, the signature that all backends share."""
    return triton_indexed(q, k, v, None, None, segments, lse)


def triton_indexed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_index: Tensor | None,
    k_index: Tensor | None,
    segments: Segments,
    lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """Like `triton_packed`, of tokens that are packed in thought only.

    q_index, k_index: (P,) integer token at each packed position; None where they lie in order.
    Returns out (tokens, N, D) and log-sum-exp (tokens, N), in the order of q.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    log = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device) if lse else None
    cu_q, cu_k = segments.cu_q, segments.cu_k
    attend_in_place(q, k, v, q_index, k_index, cu_q, cu_k, segments.tiles, out=out, lse=log)
    return out, log


def attend_in_place(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_index: Tensor | None,
    k_index: Tensor | None,
    cu_q: Tensor,
    cu_k: Tensor,
    tiles: Tiles,
    *,
    out: Tensor,
    lse: Tensor | None = None,
    begun: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Write attention of q (tokens, N, D) over its segment's keys to out (tokens, N, D).

    cu_q, cu_k: (R + 1,) int32, where the segments begin and end among packed positions.
    lse: (tokens, N) float32, receives the log-sum-exp.
    begun: output (rows, N, D) and log-sum-exp (N, rows) of the first segment's queries over other
        keys, to go on from; there must be one segment then.
    """
    heads, width = q.shape[1:]
    start, start_lse = begun or (None, None)
    start_strides = (0, 0, 0) if begun is None else (*start.stride()[:2], start_lse.stride(0))
    # Measured on an H100 (benchmarks/results): the fastest, or within 3 % of it, at any size.
    _kernel[(tiles.segment.numel(), heads)](
        *(q, k, v, out, lse, start, start_lse, q_index, k_index),
        *(tiles.segment, tiles.first, cu_q, cu_k),
        *(q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        *(out.stride(0), out.stride(1), *start_strides),
        heads,
        1 / math.sqrt(width),
        D=width,
        BM=TILE,
        BN=64,
        num_warps=4,
        num_stages=3,
    )


@triton.jit(do_not_specialize=["start_lse_head"])
def _kernel(
    Q, K, V, OUT, LSE, START, START_LSE, Q_INDEX, K_INDEX, SEGMENT, FIRST, CU_Q, CU_K,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    start_token, start_head, start_lse_head, heads, scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    segment = tl.load(SEGMENT + tl.program_id(0))
    if segment < 0:
        return
    row = tl.load(FIRST + tl.program_id(0)) + tl.arange(0, BM)
    position = tl.load(CU_Q + segment) + row
    there = position < tl.load(CU_Q + segment + 1)
    token = position if Q_INDEX is None else tl.load(Q_INDEX + position, mask=there, other=0)
    token = token.to(tl.int64)  # tokens times heads times width passes 2 ** 31
    d = tl.arange(0, D)
    q = tl.load(Q + token[:, None] * q_token + head * q_head + d, mask=there[:, None], other=0.0)
    if START is None:
        top = tl.full([BM], -float("inf"), tl.float32)
        mass = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
    else:
        top = tl.load(START_LSE + head * start_lse_head + row, mask=there, other=0.0) * _LOG2E
        mass = tl.full([BM], 1.0, tl.float32)
        at_start = START + row.to(tl.int64)[:, None] * start_token + head * start_head + d
        acc = tl.load(at_start, mask=there[:, None], other=0.0).to(tl.float32)
    start, stop = tl.load(CU_K + segment), tl.load(CU_K + segment + 1)
    whole = start + (stop - start) // BN * BN
    keys, values = K + head * k_head + d, V + head * v_head + d
    for at in range(start, whole, BN):
        acc, mass, top = _step(
            acc, mass, top, q, keys, values, K_INDEX, at, stop, k_token, v_token, scale, BN, False
        )
    if whole < stop:
        acc, mass, top = _step(
            acc, mass, top, q, keys, values, K_INDEX, whole, stop, k_token, v_token, scale, BN, True
        )
    place = OUT + token[:, None] * out_token + head * out_head + d
    tl.store(place, (acc / mass[:, None]).to(OUT.dtype.element_ty), mask=there[:, None])
    if LSE is not None:
        tl.store(LSE + token * heads + head, (top + tl.log2(mass)) / _LOG2E, mask=there)


@triton.jit
def _step(
    acc,
    mass,
    top,
    q,
    keys,
    values,
    K_INDEX,
    at,
    stop,
    k_token,
    v_token,
    scale,
    BN: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Take in one block of keys: top is the greatest score in base 2, mass the sum of weights."""
    column = at + tl.arange(0, BN)
    if TAIL:
        there = column < stop
        column = tl.where(there, column, at)
    token = column if K_INDEX is None else tl.load(K_INDEX + column)
    token = token.to(tl.int64)
    k = tl.load(keys + token[:, None] * k_token)
    scores = tl.dot(q, tl.trans(k)) * (scale * _LOG2E)
    if TAIL:
        scores = tl.where(there[None, :], scores, -float("inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    weight = tl.exp2(scores - new[:, None])
    shrink = tl.exp2(top - new)
    mass = mass * shrink + tl.sum(weight, 1)
    v = tl.load(values + token[:, None] * v_token)
    acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
    return acc, mass, new
