"""How a sequence lies on the ranks of a process group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import MogaError


class ParallelismError(MogaError, ValueError):
    """Processes that cannot share their work as they were told to; the message has the fix."""


@dataclass(frozen=True)
class SequenceShards:
    """The tokens of a sequence on the ranks of `group`, one stretch after the other.

    lengths: tokens on each rank. rank: which of them this process is.
    """

    group: dist.ProcessGroup
    lengths: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, tokens: int, group: dist.ProcessGroup) -> SequenceShards:
        """As `torch.tensor_split` deals tokens out, and diffusers with it: alike or one apart.

        Raises ParallelismError where there are more ranks than tokens.
        """
        ranks = dist.get_world_size(group)
        if tokens < ranks:
            raise ParallelismError(
                f"the video has {tokens} tokens, fewer than the {ranks} processes that share it; "
                "start fewer."
            )
        return cls(group, shares(tokens, ranks), dist.get_rank(group))

    @property
    def ranks(self) -> int:
        """How many processes share the sequence."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of the whole sequence."""
        return sum(self.lengths)

    @property
    def span(self) -> tuple[int, int]:
        """(start, stop): the tokens of this rank in the sequence."""
        start = sum(self.lengths[: self.rank])
        return start, start + self.lengths[self.rank]

    def summed(self, part: Tensor) -> Tensor:
        """The sum over all ranks, on each of them; its gradient goes to the rank's own part."""
        return _Summed.apply(part, self.group)


def shares(count: int, ranks: int) -> tuple[int, ...]:
    """`count` things on `ranks`, the first getting one more where they don't come out even."""
    each, more = divmod(count, ranks)
    return (each + 1,) * more + (each,) * (ranks - more)


def check_heads(heads: int, ranks: int) -> None:
    """Raise ParallelismError where a rank would have no attention head."""
    if ranks > heads:
        raise ParallelismError(
            f"{ranks} processes share a sequence, but there are {heads} attention heads, and each "
            f"process needs one; use at most {heads}."
        )


class _Summed(torch.autograd.Function):
    """Every rank computes the same loss of the sum, and has the gradient of its own tokens."""

    @staticmethod
    def forward(ctx, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        whole = part.detach().clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None
