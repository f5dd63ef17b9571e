"""`moga.kernels.merge` and the gathering of tokens as single passes, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .branch import BranchOutput

_TOKENS = 16  # of one program


def merge(parts: list[BranchOutput], weighted: bool, into: Tensor | None) -> Tensor:
    """Up to three parts with outputs (P, N, D) merged into (tokens, N, D), as `merge` does."""
    place = parts[0].place
    tokens = parts[0].out.shape[0] if place is None else place.shape[0]
    heads, width = parts[0].out.shape[1:]
    if into is None:  # a part in token order is read by the program that overwrites it
        own = (part.out for part in reversed(parts) if part.place is None)
        into = next(own, None)
    if into is None:
        into = parts[0].out.new_empty(tokens, heads, width)
    padded = [*parts, None, None][:3]
    arguments = []
    for part in padded:
        if part is None:
            arguments += [None, None, None, None, 0, 0, 0, 0]
            continue
        strides = (0, 0) if part.lse is None else part.lse.stride()
        arguments += [part.out, part.lse, part.place, part.gate]
        arguments += [*part.out.stride()[:2], *strides]
    _merge[(triton.cdiv(tokens, _TOKENS), heads)](
        into,
        *into.stride()[:2],
        tokens,
        *arguments,
        width,
        PARTS=len(parts),
        WEIGHTED=weighted,
        D=triton.next_power_of_2(width),
        BT=_TOKENS,
    )
    return into


def gather(t: Tensor, index: Tensor) -> Tensor:
    """t (tokens, N, D), heads of a wider tensor too, in the order of index (P,): (P, N, D)."""
    heads, width = t.shape[1:]
    out = t.new_empty(index.shape[0], heads, width)
    _gather[(triton.cdiv(index.shape[0], _TOKENS), heads)](
        out,
        t,
        index,
        index.shape[0],
        *t.stride()[:2],
        heads,
        width,
        D=triton.next_power_of_2(width),
        BT=_TOKENS,
    )
    return out


@triton.jit
def _gather(OUT, T, INDEX, count, t_token, t_head, heads, width, D: tl.constexpr, BT: tl.constexpr):
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    head = tl.program_id(1).to(tl.int64)
    token = tl.load(INDEX + row, mask=row < count, other=0).to(tl.int64)
    d = tl.arange(0, D)
    here = (row < count)[:, None] & (d < width)[None, :]
    rows = tl.load(T + token[:, None] * t_token + head * t_head + d[None, :], mask=here)
    to = OUT + (row.to(tl.int64)[:, None] * heads + head) * width + d[None, :]
    tl.store(to, rows, mask=here)


@triton.jit
def _merge(
    INTO,
    into_token,
    into_head,
    tokens,
    A,
    A_LSE,
    A_PLACE,
    A_GATE,
    a_token,
    a_head,
    a_lse_token,
    a_lse_head,
    B,
    B_LSE,
    B_PLACE,
    B_GATE,
    b_token,
    b_head,
    b_lse_token,
    b_lse_head,
    C,
    C_LSE,
    C_PLACE,
    C_GATE,
    c_token,
    c_head,
    c_lse_token,
    c_lse_head,
    width,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    D: tl.constexpr,
    BT: tl.constexpr,
):
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    head = tl.program_id(1).to(tl.int64)
    there = token < tokens
    d = tl.arange(0, D)
    here = there[:, None] & (d < width)[None, :]
    total, top = _part(A, A_LSE, A_PLACE, A_GATE, a_token, a_head, a_lse_token, a_lse_head,
                       token, head, there, d, here, WEIGHTED)  # fmt: skip
    mass = tl.full([BT], 1.0, tl.float32)
    if PARTS > 1:
        out, lse = _part(B, B_LSE, B_PLACE, B_GATE, b_token, b_head, b_lse_token, b_lse_head,
                         token, head, there, d, here, WEIGHTED)  # fmt: skip
        total, mass, top = _add(total, mass, top, out, lse)
    if PARTS > 2:
        out, lse = _part(C, C_LSE, C_PLACE, C_GATE, c_token, c_head, c_lse_token, c_lse_head,
                         token, head, there, d, here, WEIGHTED)  # fmt: skip
        total, mass, top = _add(total, mass, top, out, lse)
    to = INTO + token.to(tl.int64)[:, None] * into_token + head * into_head + d[None, :]
    tl.store(to, (total / mass[:, None]).to(INTO.dtype.element_ty), mask=here)


@triton.jit
def _part(
    OUT, LSE, PLACE, GATE, row_stride, head_stride, lse_row, lse_head,
    token, head, there, d, here, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """A part's rows in float32, and the log of their weight: 0 for a mean."""
    row = token if PLACE is None else tl.load(PLACE + token, mask=there, other=0)
    row = row.to(tl.int64)
    rows = OUT + row[:, None] * row_stride + head * head_stride + d[None, :]
    out = tl.load(rows, mask=here, other=0.0).to(tl.float32)
    if GATE is not None:
        out *= tl.load(GATE + token, mask=there, other=0.0)[:, None]
    if WEIGHTED:
        log = tl.load(LSE + row * lse_row + head * lse_head, mask=there, other=0.0)
    else:
        log = tl.zeros_like(token).to(tl.float32)
    return out, log


@triton.jit
def _add(total, mass, top, out, lse):
    new = tl.maximum(top, lse)
    old_share, share = tl.exp(top - new), tl.exp(lse - new)
    return total * old_share[:, None] + out * share[:, None], mass * old_share + share, new
