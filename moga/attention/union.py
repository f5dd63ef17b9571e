"""One softmax over all that a token sees, every key once: `combine="union"`.

Near is what its windows and frames show, far what its group shows besides. Near keys weigh 1, far
ones M times the gate, so at a gate of 1/M the layer is plain attention over the union. Computed in
parts, each with its log-sum-exp: windows, plus frames, less the cells that both have, plus far.

The gradient of the result through one part is what flash attention's backward gives when it is
handed the result and the log-sum-exp of the whole in place of the part's own.

Letters: B batch, L visual tokens, P packed positions, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels import Backend
from ..kernels.backward import packed_backward
from ..kernels.branch import BranchOutput
from ..kernels.far import far_attention, far_backward
from ..kernels.far_keys import FarKeys
from ..kernels.merge import softmax_of
from ..kernels.probe import flash_fits, needs_grad
from .packing import Packing, packed


@dataclass(frozen=True)
class Near:
    """A part of what is near: how it is packed, what runs it, and whether it is taken off."""

    packing: Packing
    backend: Backend
    sign: int = 1


@dataclass(frozen=True)
class Far:
    """What is far: the order by group (B * L,), its inverse, and the keys of each segment.

    in_segments: the same for kernels that know no mask, as segments with signs.
    backend: what the layer runs by, which may do a part of it.
    """

    order: Tensor
    place: Tensor
    keys: FarKeys
    in_segments: Callable[[], list[tuple[Packing, int]]]
    backend: Backend


def union_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    near: tuple[Near, ...],
    far: Far | None,
    into: Tensor | None = None,
) -> Tensor:
    """The layer of q, k, v (B * L, N, D).

    gate: (B * L,) float32 that far keys weigh, M times the router's; None for 1.
    into: where the result goes when no gradient is wanted.
    """
    if needs_grad(q, k, v) or (gate is not None and needs_grad(gate)):
        return _Union.apply(q, k, v, gate, near, far)
    return softmax_of(_parts(q, k, v, gate, near, far), into)[0]


def _parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    near: tuple[Near, ...],
    far: Far | None,
) -> list[BranchOutput]:
    parts = []
    for part in near:
        how, backend = part.packing, part.backend
        if backend.indexed is not None:
            out, lse = backend.indexed(q, k, v, how.queries, how.keys, how.segments, True)
            parts.append(BranchOutput(out, lse, sign=part.sign))
            continue
        pairs = ((q, how.queries), (k, how.keys), (v, how.keys))
        out, lse = backend.run(*(packed(t, index) for t, index in pairs), how.segments, True)
        parts.append(BranchOutput(out, lse, how.place, sign=part.sign))
    if far is not None:
        out, lse = far_attention(
            *(packed(t, far.order) for t in (q, k, v)), far.keys, far.backend.ranged
        )
        parts.append(BranchOutput(out, lse, far.place, gate))
    return parts


class _Union(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, near, far):
        parts = _parts(q, k, v, gate, near, far)
        # Not over one of the parts: the far one is needed again.
        out, lse = softmax_of(parts, torch.empty_like(q), want_lse=True)
        last = parts[-1] if far is not None else BranchOutput(out[:0], lse[:0])
        ctx.save_for_backward(q, k, v, gate, out, lse, last.out, last.lse)
        ctx.near, ctx.far = near, far
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        q, k, v, gate, out, lse, far_out, far_lse = ctx.saved_tensors
        grad = grad.contiguous()
        precise = torch.promote_types(q.dtype, torch.float32)
        grads = tuple(torch.zeros_like(t, dtype=precise) for t in (q, k, v))
        for part in ctx.near:
            _add(grads, (grad, q, k, v, out, lse), part.packing, part.sign)
        far, to_gate = ctx.far, None
        if far is not None:
            own = lse if gate is None else lse - gate.to(lse.dtype).log()[:, None]
            if flash_fits(q):
                for how, sign in far.in_segments():
                    _add(grads, (grad, q, k, v, out, own), how, sign)
            else:
                given = (t.index_select(0, far.order) for t in (grad, q, k, v, out, own))
                for total, more in zip(grads, far_backward(*given, far.keys), strict=True):
                    total += more.index_select(0, far.place)
            if gate is not None and ctx.needs_input_grad[3]:
                to_gate = _gate_backward(gate, grad, out, lse, far, far_out, far_lse)
        dq, dk, dv = (g.to(t.dtype) for g, t in zip(grads, (q, k, v), strict=True))
        return dq, dk, dv, to_gate, None, None


def _add(grads: tuple[Tensor, ...], given: tuple[Tensor, ...], how: Packing, sign: int) -> None:
    """Add to grads, of q, k and v, what reaches them through one part.

    given: gradient and result of the whole with q, k, v between them, and its log-sum-exp.
    """
    of = (how.queries, how.queries, how.keys, how.keys, how.queries, how.queries)
    found = packed_backward(*map(_at, given, of), how.segments)
    for total, part, index in zip(grads, found, of[1:4], strict=True):
        if index is None:
            total.add_(part, alpha=sign)
        else:
            total.index_add_(0, index, part.to(total.dtype), alpha=sign)


def _at(t: Tensor, index: Tensor | None) -> Tensor:
    return t if index is None else t.index_select(0, index)


def _gate_backward(
    gate: Tensor,
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    far: Far,
    far_out: Tensor,
    far_lse: Tensor,
) -> Tensor:
    """(B * L,): the share of far over the gate * (far's own result - the whole)."""
    own_out, own = (t.index_select(0, far.place) for t in (far_out, far_lse))
    towards = (grad.to(lse.dtype) * (own_out.to(lse.dtype) - out.to(lse.dtype))).sum(dim=-1)
    return ((own - lse).exp() * towards).sum(dim=-1).to(gate.dtype)
