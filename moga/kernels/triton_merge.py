"""`moga.kernels.merge` and the gathering of tokens as single passes, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .branch import BranchOutput

_TOKENS = 16  # of one program
_PARTS = 4  # at most


def merge(parts: list[BranchOutput], into: Tensor | None) -> Tensor:
    """Up to four parts with outputs (P, N, D) merged into (tokens, N, D), as `mean_of` does."""
    return _run(parts, into, softmax=False, want_lse=False)[0]


def merge_softmax(
    parts: list[BranchOutput], into: Tensor | None, want_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """The same as `softmax_of` does."""
    return _run(parts, into, softmax=True, want_lse=want_lse)


def _run(
    parts: list[BranchOutput], into: Tensor | None, *, softmax: bool, want_lse: bool
) -> tuple[Tensor, Tensor | None]:
    place = parts[0].place
    tokens = parts[0].out.shape[0] if place is None else place.shape[0]
    heads, width = parts[0].out.shape[1:]
    if into is None:  # a part in token order is read by the program that overwrites it
        own = (part.out for part in reversed(parts) if part.place is None)
        into = next(own, None)
    if into is None:
        into = parts[0].out.new_empty(tokens, heads, width)
    lse = parts[0].lse.new_empty(tokens, heads) if want_lse else None
    arguments = []
    for part in [*parts, None, None, None][:_PARTS]:
        if part is None:
            arguments += [None, None, None, None, 0, 0, 0, 0]
            continue
        strides = (0, 0) if part.lse is None else part.lse.stride()
        arguments += [part.out, part.lse, part.place, part.gate]
        arguments += [*part.out.stride()[:2], *strides]
    _merge[(triton.cdiv(tokens, _TOKENS), heads)](
        into,
        *into.stride()[:2],
        lse,
        tokens,
        heads,
        *arguments,
        width,
        PARTS=len(parts),
        SOFTMAX=softmax,
        NEGATIVE=next((n for n, part in enumerate(parts) if part.sign < 0), -1),
        D=triton.next_power_of_2(width),
        BT=_TOKENS,
    )
    return into, lse


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
    INTO, into_token, into_head, TOTAL_LSE, tokens, heads,
    A, A_LSE, A_PLACE, A_GATE, a_token, a_head, a_lse_token, a_lse_head,
    B, B_LSE, B_PLACE, B_GATE, b_token, b_head, b_lse_token, b_lse_head,
    C, C_LSE, C_PLACE, C_GATE, c_token, c_head, c_lse_token, c_lse_head,
    E, E_LSE, E_PLACE, E_GATE, e_token, e_head, e_lse_token, e_lse_head,
    width, PARTS: tl.constexpr, SOFTMAX: tl.constexpr, NEGATIVE: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    head = tl.program_id(1).to(tl.int64)
    there = token < tokens
    d = tl.arange(0, D)
    here = there[:, None] & (d < width)[None, :]
    total, top = _part(A, A_LSE, A_PLACE, A_GATE, a_token, a_head, a_lse_token, a_lse_head,
                       token, head, there, d, here, SOFTMAX)  # fmt: skip
    mass = tl.full([BT], 1.0, tl.float32)
    if PARTS > 1:
        out, lse = _part(B, B_LSE, B_PLACE, B_GATE, b_token, b_head, b_lse_token, b_lse_head,
                         token, head, there, d, here, SOFTMAX)  # fmt: skip
        total, mass, top = _add(total, mass, top, out, lse, NEGATIVE == 1)
    if PARTS > 2:
        out, lse = _part(C, C_LSE, C_PLACE, C_GATE, c_token, c_head, c_lse_token, c_lse_head,
                         token, head, there, d, here, SOFTMAX)  # fmt: skip
        total, mass, top = _add(total, mass, top, out, lse, NEGATIVE == 2)
    if PARTS > 3:
        out, lse = _part(E, E_LSE, E_PLACE, E_GATE, e_token, e_head, e_lse_token, e_lse_head,
                         token, head, there, d, here, SOFTMAX)  # fmt: skip
        total, mass, top = _add(total, mass, top, out, lse, NEGATIVE == 3)
    to = INTO + token.to(tl.int64)[:, None] * into_token + head * into_head + d[None, :]
    tl.store(to, (total / mass[:, None]).to(INTO.dtype.element_ty), mask=here)
    if TOTAL_LSE is not None:
        at = TOTAL_LSE + token.to(tl.int64) * heads + head
        tl.store(at, top + tl.log(mass), mask=there)


@triton.jit
def _part(
    OUT, LSE, PLACE, GATE, row_stride, head_stride, lse_row, lse_head,
    token, head, there, d, here, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """A part's rows in float32, and the log of their weight: 0 for a mean."""
    row = token if PLACE is None else tl.load(PLACE + token, mask=there, other=0)
    row = row.to(tl.int64)
    rows = OUT + row[:, None] * row_stride + head * head_stride + d[None, :]
    out = tl.load(rows, mask=here, other=0.0).to(tl.float32)
    if SOFTMAX:
        log = tl.load(LSE + row * lse_row + head * lse_head, mask=there, other=0.0)
        if GATE is not None:
            log += tl.log(tl.load(GATE + token, mask=there, other=1.0))
    else:
        log = tl.zeros_like(token).to(tl.float32)
        if GATE is not None:
            out *= tl.load(GATE + token, mask=there, other=0.0)[:, None]
    return out, log


@triton.jit
def _add(total, mass, top, out, lse, NEGATIVE: tl.constexpr):
    new = tl.maximum(top, lse)
    old_share, share = tl.exp(top - new), tl.exp(lse - new)
    if NEGATIVE:
        share = -share
    return total * old_share[:, None] + out * share[:, None], mass * old_share + share, new
