"""The last step of a layer: un-permute the branches, gate one, and merge them.

`merge` is plain PyTorch and differentiable. Where Triton is there and no gradient is wanted, it
does the same in one pass: each output is read once and the result written once.

Letters: B batch, L visual tokens, P packed positions, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .branch import BranchOutput
from .probe import needs_grad, triton_there


def merge(parts: list[BranchOutput], *, weighted: bool, into: Tensor | None = None) -> Tensor:
    """The mean of the parts, (B * L, N, D), or their sum weighted by exp(lse) if `weighted`.

    into: where the result goes when no gradient is wanted. Without it a part that lies in token
        order may be overwritten.
    """
    tensors = [t for part in parts for t in (part.out, part.lse, part.gate) if t is not None]
    if tensors[0].is_cuda and triton_there() and not needs_grad(*tensors):
        from . import triton_merge

        return triton_merge.merge(parts, weighted, into)
    result = _weighted(parts) if weighted else _mean(parts)
    return result if into is None else into.copy_(result)


def _mean(parts: list[BranchOutput]) -> Tensor:
    total = None
    for part in parts:
        out = _placed(part.out, part.place)
        if part.gate is not None:
            out = (out * part.gate[:, None, None]).to(out.dtype)
        total = out if total is None else total + out
    return total / len(parts)


def _weighted(parts: list[BranchOutput]) -> Tensor:
    """Branches weighted by their share of the softmax mass: exp(lse), normalised."""
    shares = torch.stack([_placed(part.lse, part.place) for part in parts]).softmax(dim=0)
    outs = (_placed(part.out, part.place) for part in parts)
    precise = torch.promote_types(parts[0].out.dtype, torch.float32)
    total = sum(out.to(precise) * share[..., None] for out, share in zip(outs, shares, strict=True))
    return total.to(parts[0].out.dtype)


def _placed(packed: Tensor, place: Tensor | None) -> Tensor:
    return packed if place is None else packed.index_select(0, place)
