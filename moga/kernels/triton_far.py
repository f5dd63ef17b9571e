"""`far_attention` as one kernel: keys outside the near range at full rate, those inside by a mask.

Where another kernel has done the keys outside, it goes on from what that gave: results with their
log-sum-exps are all that attention needs to take in more keys.

Letters: P packed positions, R segments, N heads, D head width, BM/BN queries/keys of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .far_keys import FarKeys
from .probe import HOPPER
from .segments import tiles_of

_LOG2E = tl.constexpr(math.log2(math.e))
# Measured on an H100 and an H200: the fastest of those tried.
_BM, _BN = 64, 64


def triton_far(
    q: Tensor, k: Tensor, v: Tensor, keys: FarKeys, outside: Sequence[tuple[Tensor, Tensor]] = ()
) -> tuple[Tensor, Tensor]:
    """Attention of packed q, k, v (P, N, D): out (P, N, D), log-sum-exp (P, N) float32.

    outside: what another kernel made of the keys before and behind the near ranges, as (out,
        log-sum-exp (N, P)); without it they are done here.
    """
    tokens, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=q.device)
    tiles = tiles_of(keys.cu, tokens, _BM)
    by_descriptor = _has_descriptors(q) and k.is_contiguous() and v.is_contiguous()
    rows = (_described(k), _described(v)) if by_descriptor else (k, v)
    before, behind = outside or ((None, None), (None, None))
    _kernel[(tiles.segment.numel(), heads)](
        *(q, *rows, out, lse, tiles.segment, tiles.first, keys.cu),
        *(keys.group_start, keys.near_start, keys.near_stop, keys.group_stop),
        *(keys.code, *before, *behind),
        *(q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        *(out.stride(0), out.stride(1), heads, tokens, 1 / math.sqrt(width)),
        D=width,
        BM=_BM,
        BN=_BN,
        OUTSIDE=not outside,
        NEAR=keys.coding,
        TMA=by_descriptor,
        num_warps=4,
        num_stages=3,
    )
    return out, lse


def _has_descriptors(q: Tensor) -> bool:
    """Whether tiles are fetched by the hardware's copies, half as fast again on Hopper."""
    if torch.cuda.get_device_capability(q.device)[0] < HOPPER:
        return False
    try:
        from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: F401
    except ImportError:  # an older Triton
        return False
    return True


def _described(t: Tensor):
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(t, [_BN, 1, t.shape[2]])


@triton.jit
def _kernel(
    Q, K, V, OUT, LSE, SEGMENT, FIRST, CU, GROUP_START, NEAR_START, NEAR_STOP, GROUP_STOP,
    CODE, BEFORE, BEFORE_LSE, BEHIND, BEHIND_LSE,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head, heads, tokens, scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    OUTSIDE: tl.constexpr, NEAR: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    segment = tl.load(SEGMENT + tl.program_id(0))
    if segment < 0:
        return
    row = tl.load(CU + segment) + tl.load(FIRST + tl.program_id(0)) + tl.arange(0, BM)
    there = row < tl.load(CU + segment + 1)
    row = tl.where(there, row, 0)
    at_row = row.to(tl.int64)[:, None]
    d = tl.arange(0, D)
    q = tl.load(Q + at_row * q_token + head.to(tl.int64) * q_head + d)
    code = row
    if NEAR > 0:
        code = tl.load(CODE + row)
    start, stop = tl.load(GROUP_START + segment), tl.load(GROUP_STOP + segment)
    low, high = tl.load(NEAR_START + segment), tl.load(NEAR_STOP + segment)
    if OUTSIDE:
        top = tl.full([BM], -1e30, tl.float32)
        mass = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
        acc, mass, top = _stretch(acc, mass, top, q, K, V, CODE, code, head, start, low, k_token,
                                  k_head, v_token, v_head, scale, D, BN, 0, TMA)  # fmt: skip
        acc, mass, top = _stretch(acc, mass, top, q, K, V, CODE, code, head, high, stop, k_token,
                                  k_head, v_token, v_head, scale, D, BN, 0, TMA)  # fmt: skip
    else:
        top, mass, acc = _begun(BEFORE, BEFORE_LSE, BEHIND, BEHIND_LSE, at_row, row, head, heads,
                                tokens, d, BM, D)  # fmt: skip
    acc, mass, top = _stretch(acc, mass, top, q, K, V, CODE, code, head, low, high, k_token,
                              k_head, v_token, v_head, scale, D, BN, NEAR, TMA)  # fmt: skip
    some = mass > 0.0
    share = tl.where(some, mass, 1.0)
    to = OUT + at_row * out_token + head.to(tl.int64) * out_head + d
    tl.store(to, (acc / share[:, None]).to(OUT.dtype.element_ty), mask=there[:, None])
    lse = tl.where(some, (top + tl.log2(share)) / _LOG2E, -float("inf"))
    tl.store(LSE + row.to(tl.int64) * heads + head, lse, mask=there)


@triton.jit
def _begun(
    BEFORE, BEFORE_LSE, BEHIND, BEHIND_LSE, at_row, row, head, heads, tokens, d,
    BM: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Greatest score in base 2, mass and sum of what was done outside: (N, P) log-sum-exps."""
    at = head.to(tl.int64) * tokens + row
    one, other = tl.load(BEFORE_LSE + at) * _LOG2E, tl.load(BEHIND_LSE + at) * _LOG2E
    top = tl.maximum(tl.maximum(one, other), -1e30)
    one, other = tl.exp2(one - top), tl.exp2(other - top)
    place = (at_row * heads + head) * D + d
    acc = tl.load(BEFORE + place).to(tl.float32) * one[:, None]
    acc += tl.load(BEHIND + place).to(tl.float32) * other[:, None]
    return top, one + other, acc


@triton.jit
def _stretch(
    acc, mass, top, q, K, V, CODE, code, head, start, stop, k_token, k_head, v_token, v_head, scale,
    D: tl.constexpr, BN: tl.constexpr, NEAR: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Take in keys from start to stop, a tile at a time; the last one may have fewer."""
    whole = start + (stop - start) // BN * BN
    for at in range(start, whole, BN):
        acc, mass, top = _step(acc, mass, top, q, K, V, CODE, code, head, at, stop, k_token, k_head,
                               v_token, v_head, scale, D, BN, NEAR, False, TMA)  # fmt: skip
    if whole < stop:
        acc, mass, top = _step(acc, mass, top, q, K, V, CODE, code, head, whole, stop, k_token,
                               k_head, v_token, v_head, scale, D, BN, NEAR, True, TMA)  # fmt: skip
    return acc, mass, top


@triton.jit
def _step(
    acc, mass, top, q, K, V, CODE, code, head, at, stop, k_token, k_head, v_token, v_head, scale,
    D: tl.constexpr, BN: tl.constexpr, NEAR: tl.constexpr, TAIL: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Take in one tile of keys: top is the greatest score in base 2, mass the sum of weights.

    NEAR: how codes say that a key is near: 0 it can't be, 1 by a bit that both have, 2 by the same
    upper half, 3 lower half, 4 either half.
    """
    column = at + tl.arange(0, BN)
    if TAIL:
        there = column < stop
        column = tl.where(there, column, stop - 1)
    d = tl.arange(0, D)
    if TMA:
        k = K.load([at, head, 0]).reshape(BN, D)
    else:
        token = column.to(tl.int64)[:, None]
        k = tl.load(K + token * k_token + head.to(tl.int64) * k_head + d)
    scores = tl.dot(q, tl.trans(k))
    if NEAR > 0:
        theirs = tl.load(CODE + column)
        if NEAR == 1:
            seen = (code[:, None] & theirs[None, :]) == 0
        else:
            apart = code[:, None] ^ theirs[None, :]
            if NEAR == 2:
                seen = apart >= 65536
            elif NEAR == 3:
                seen = (apart & 65535) != 0
            else:
                seen = (apart >= 65536) & ((apart & 65535) != 0)
        if TAIL:
            seen = seen & there[None, :]
        scores = tl.where(seen, scores, -float("inf"))
    elif TAIL:
        scores = tl.where(there[None, :], scores, -float("inf"))
    by = scale * _LOG2E
    new = tl.maximum(top, tl.max(scores, 1) * by)
    weight = tl.exp2(scores * by - new[:, None])
    shrink = tl.exp2(top - new)
    mass = mass * shrink + tl.sum(weight, 1)
    if TMA:
        v = V.load([at, head, 0]).reshape(BN, D)
    else:
        v = tl.load(V + token * v_token + head.to(tl.int64) * v_head + d)
    acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
    return acc, mass, new
