"""The last step of a layer: put the branches back into token order, weigh and add them.

Plain PyTorch that can be differentiated. Where Triton is there and no gradient is wanted, the same
in one pass: each output is read once and the result written once.

Letters: B batch, L visual tokens, P packed positions, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .branch import BranchOutput
from .probe import needs_grad, triton_there


def mean_of(parts: list[BranchOutput], into: Tensor | None = None) -> Tensor:
    """The mean of the parts, each times its gate: (B * L, N, D).

    into: where the result goes when no gradient is wanted. Without it a part that lies in token
        order may be overwritten.
    """
    if _in_triton(parts):
        from . import triton_merge

        return triton_merge.merge(parts, into)
    total = None
    for part in parts:
        out = _placed(part.out, part.place)
        if part.gate is not None:
            out = (out * part.gate[:, None, None]).to(out.dtype)
        total = out if total is None else total + out
    total = total / len(parts)
    return total if into is None else into.copy_(total)


def softmax_of(
    parts: list[BranchOutput], into: Tensor | None = None, *, want_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """One softmax over the keys of all parts, (B * L, N, D), and its log-sum-exp (B * L, N).

    Each part counts by sign * gate * exp(lse). The first has keys for every token, unless it is the
    only one. into: as in `mean_of`.
    """
    if _in_triton(parts):
        from . import triton_merge

        return triton_merge.merge_softmax(parts, into, want_lse)
    logs = [_placed(part.lse, part.place) for part in parts]
    logs = [
        log if part.gate is None else log + part.gate.to(log.dtype).log()[:, None]
        for log, part in zip(logs, parts, strict=True)
    ]
    top = torch.stack(logs).amax(dim=0)
    mass = total = 0
    for log, part in zip(logs, parts, strict=True):
        share = (log - top).exp() * part.sign
        mass = mass + share
        total = total + _placed(part.out, part.place).to(share.dtype) * share[..., None]
    out = (total / mass[..., None]).to(parts[0].out.dtype)
    return out if into is None else into.copy_(out), top + mass.log()


def _in_triton(parts: list[BranchOutput]) -> bool:
    tensors = [t for part in parts for t in (part.out, part.lse, part.gate) if t is not None]
    # In float64 the one pass would round: it is for what runs, not for tests of exactness.
    fits = tensors[0].is_cuda and tensors[0].dtype != torch.float64
    return fits and triton_there() and not needs_grad(*tensors)


def _placed(packed: Tensor, place: Tensor | None) -> Tensor:
    return packed if place is None else packed.index_select(0, place)
