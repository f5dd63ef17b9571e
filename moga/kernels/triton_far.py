"""`far_attention` as one kernel: keys outside the near range at full rate, those inside by a mask.

Letters: P packed positions, R segments, N heads, D head width, BM/BN queries/keys of a tile.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .far import FarKeys
from .segments import tiles_of

_LOG2E = tl.constexpr(math.log2(math.e))
_ROWS = 64  # queries of a tile; the fastest on an H100 of those measured, with 64 keys


def triton_far(q: Tensor, k: Tensor, v: Tensor, keys: FarKeys) -> tuple[Tensor, Tensor]:
    """Attention of packed q, k, v (P, N, D): out (P, N, D), log-sum-exp (P, N) float32."""
    tokens, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=q.device)
    tiles = tiles_of(keys.cu, tokens, _ROWS)
    _kernel[(tiles.segment.numel(), heads)](
        *(q, k, v, out, lse, tiles.segment, tiles.first, keys.cu),
        *(keys.group_start, keys.near_start, keys.near_stop, keys.group_stop),
        *(keys.frame, keys.window),
        *(q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        *(out.stride(0), out.stride(1), heads, 1 / math.sqrt(width)),
        D=width,
        BM=_ROWS,
        BN=64,
        num_warps=4,
        num_stages=3,
    )
    return out, lse


@triton.jit
def _kernel(
    Q, K, V, OUT, LSE, SEGMENT, FIRST, CU, GROUP_START, NEAR_START, NEAR_STOP, GROUP_STOP,
    FRAME, WINDOW, q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    heads, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    segment = tl.load(SEGMENT + tl.program_id(0))
    if segment < 0:
        return
    row = tl.load(CU + segment) + tl.load(FIRST + tl.program_id(0)) + tl.arange(0, BM)
    there = row < tl.load(CU + segment + 1)
    row = tl.where(there, row, 0)
    at_row = row.to(tl.int64)[:, None]
    d = tl.arange(0, D)
    q = tl.load(Q + at_row * q_token + head * q_head + d)
    frame = row * 0 if FRAME is None else tl.load(FRAME + row)
    window = row * 0 if WINDOW is None else tl.load(WINDOW + row)
    start, stop = tl.load(GROUP_START + segment), tl.load(GROUP_STOP + segment)
    low, high = tl.load(NEAR_START + segment), tl.load(NEAR_STOP + segment)
    keys, values = K + head * k_head + d, V + head * v_head + d
    top = tl.full([BM], -1e30, tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    # Three stretches of the group: before, around and behind the near range; the middle one begins
    # and ends with a whole tile.
    before = start + (low - start) // BN * BN
    for at in range(start, before, BN):
        acc, mass, top = _step(acc, mass, top, q, keys, values, FRAME, WINDOW, frame, window,
                               at, low, high, stop, k_token, v_token, scale, BN, False)  # fmt: skip
    middle = before + (high - before + BN - 1) // BN * BN
    for at in range(before, middle, BN):
        acc, mass, top = _step(acc, mass, top, q, keys, values, FRAME, WINDOW, frame, window,
                               at, low, high, stop, k_token, v_token, scale, BN, True)  # fmt: skip
    whole = tl.maximum(middle, middle + (stop - middle) // BN * BN)
    for at in range(middle, whole, BN):
        acc, mass, top = _step(acc, mass, top, q, keys, values, FRAME, WINDOW, frame, window,
                               at, low, high, stop, k_token, v_token, scale, BN, False)  # fmt: skip
    if whole < stop:
        acc, mass, top = _step(acc, mass, top, q, keys, values, FRAME, WINDOW, frame, window,
                               whole, low, high, stop, k_token, v_token, scale,
                               BN, True)  # fmt: skip
    some = mass > 0.0
    share = tl.where(some, mass, 1.0)
    to = OUT + at_row * out_token + head * out_head + d
    tl.store(to, (acc / share[:, None]).to(OUT.dtype.element_ty), mask=there[:, None])
    lse = tl.where(some, (top + tl.log2(share)) / _LOG2E, -float("inf"))
    tl.store(LSE + row.to(tl.int64) * heads + head, lse, mask=there)


@triton.jit
def _step(
    acc, mass, top, q, keys, values, FRAME, WINDOW, frame, window, at, low, high, stop,
    k_token, v_token, scale, BN: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Take in one tile of keys: top is the greatest score in base 2, mass the sum of weights."""
    column = at + tl.arange(0, BN)
    if MASK:
        real = column < stop
        column = tl.where(real, column, at)
    token = column.to(tl.int64)[:, None]
    k = tl.load(keys + token * k_token)
    scores = tl.dot(q, tl.trans(k)) * (scale * _LOG2E)
    if MASK:
        unseen = ~real[None, :]
        inside = (column >= low) & (column < high)
        if FRAME is not None:
            theirs = tl.load(FRAME + column)
            unseen = unseen | (inside[None, :] & (frame[:, None] == theirs[None, :]))
        if WINDOW is not None:
            theirs = tl.load(WINDOW + column)
            unseen = unseen | (inside[None, :] & (window[:, None] == theirs[None, :]))
        scores = tl.where(unseen, -float("inf"), scores)
    new = tl.maximum(top, tl.max(scores, 1))
    weight = tl.exp2(scores - new[:, None])
    shrink = tl.exp2(top - new)
    mass = mass * shrink + tl.sum(weight, 1)
    v = tl.load(values + token * v_token)
    acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
    return acc, mass, new
