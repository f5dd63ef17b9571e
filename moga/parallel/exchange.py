"""Tokens for heads and back: the all-to-all of Ulysses, begun now and waited for later.

Tokens and heads need not come out even. All of it has a gradient, by the exchange the other way
round. Whoever begins has to wait in the end, and in the order of the other ranks.

Letters: B batch, L tokens of the whole sequence, l of this rank, N heads, n of this rank, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed import _functional_collectives as collectives

from .shards import SequenceShards, shares

Arriving = Callable[[], Tensor]  # waits for what is on its way


def start_to_heads(t: Tensor, shards: SequenceShards) -> Arriving:
    """Send this rank's tokens, (B, l, N, D), to the ranks of their heads: gives (B, L, n, D)."""
    batch, tokens, heads, width = t.shape
    counts = shares(heads, shards.ranks)
    own = counts[shards.rank]
    if heads % shards.ranks == 0:  # in one copy
        sent = t.unflatten(2, (shards.ranks, own)).movedim(2, 0).flatten()
    else:
        sent = torch.cat([part.flatten() for part in t.split(counts, dim=2)])
    per_head = batch * tokens * width
    received = _exchange(
        sent,
        [count * per_head for count in counts],
        [length * batch * own * width for length in shards.lengths],
        shards,
    )

    def wait() -> Tensor:
        flat = _Arrived.apply(received)
        if batch == 1:  # tokens of one rank after those of another, as they lie
            return flat.view(1, shards.tokens, own, width)
        sizes = [length * batch * own * width for length in shards.lengths]
        parts = zip(flat.split(sizes), shards.lengths, strict=True)
        return torch.cat([part.view(batch, length, own, width) for part, length in parts], dim=1)

    return wait


def start_to_tokens(t: Tensor, heads: int, shards: SequenceShards) -> Arriving:
    """The way back: all tokens of this rank's heads, (B, L, n, D), to (B, l, N, D)."""
    batch, _, own, width = t.shape
    tokens, counts = shards.lengths[shards.rank], shares(heads, shards.ranks)
    if batch == 1:
        sent = t.flatten()
    else:
        sent = torch.cat([part.flatten() for part in t.split(shards.lengths, dim=1)])
    per_head = batch * tokens * width
    sizes = [count * per_head for count in counts]
    received = _exchange(
        sent, [length * batch * own * width for length in shards.lengths], sizes, shards
    )

    def wait() -> Tensor:
        parts = zip(_Arrived.apply(received).split(sizes), counts, strict=True)
        return torch.cat([part.view(batch, tokens, count, width) for part, count in parts], dim=2)

    return wait


def start_gather(t: Tensor, shards: SequenceShards) -> Arriving:
    """Give every rank what each has of its own tokens, (B, l): gives (B, L)."""
    copies = t[:, :, None, None].expand(-1, -1, shards.ranks, 1)
    wait = start_to_heads(copies, shards)
    return lambda: wait()[:, :, 0, 0]


def _exchange(
    sent: Tensor, outgoing: Sequence[int], incoming: Sequence[int], shards: SequenceShards
) -> Tensor:
    given = (list(incoming), list(outgoing), shards.group)
    if sent.is_floating_point():
        return collectives.all_to_all_single_autograd(sent.contiguous(), *given)
    return collectives.all_to_all_single(sent.contiguous(), *given)


class _Arrived(torch.autograd.Function):
    """What was on its way, as a plain tensor: kernels read its memory, so it has to be there."""

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:
        return t.trigger_wait() if isinstance(t, collectives.AsyncCollectiveTensor) else t

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous()  # it goes the other way round from here
