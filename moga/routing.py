"""The router: which group each token belongs to, and how sure it is.

Letters: B batch, L visual tokens, C model width, M groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from .parallel import SequenceShards

_CHUNK = 32_768  # tokens whose float32 copy exists at once


@dataclass(frozen=True)
class Routing:
    """Where the router sent every token.

    probabilities: (B, L, M) float32 (float64 of such scores), softmax of the scores; only
        `balance_loss` reads them, so None does for a layer.
    group: (B, L) int64, the winning group.
    gate: (B, L) float32, the winning probability.
    groups: M; taken from probabilities where it isn't given.
    across: the ranks that share the sequence, of which L is this one's part; None where it is all.
    """

    probabilities: Tensor | None
    group: Tensor
    gate: Tensor
    groups: int = 0
    across: SequenceShards | None = None

    def __post_init__(self) -> None:
        if self.probabilities is not None:
            object.__setattr__(self, "groups", self.probabilities.shape[-1])
        elif self.groups < 1:
            raise ValueError(f"groups is {self.groups}; give the number of groups of the router.")

    @classmethod
    def from_scores(cls, scores: Tensor) -> Routing:
        """Hard top-1 routing of scores (B, L, M); the lowest group wins a tie."""
        precise = torch.promote_types(scores.dtype, torch.float32)
        probabilities = scores.to(precise).softmax(dim=-1)
        group = scores.argmax(dim=-1)
        gate = probabilities.gather(-1, group.unsqueeze(-1)).squeeze(-1)
        return cls(probabilities, group, gate)

    def sizes(self) -> Tensor:
        """Tokens in each group of each sample, (B, M) int64; on all ranks, which all call it."""
        counts = self.group.new_zeros(self.group.shape[0], self.groups)
        counts.scatter_add_(1, self.group, torch.ones_like(self.group))
        return counts if self.across is None else self.across.summed(counts)


class TokenRouter(nn.Linear):
    """One linear layer that scores every token for every group (section 3.1 of the paper).

    Weight (M, C) and bias (M,). Called with x (B, L, C), the tensor that q, k and v are projected
    from, in any floating type; scores are always computed in float32.
    """

    def __init__(
        self,
        dim: int,
        groups: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, groups, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Routing:
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        return route(x, lambda part: F.linear(part, weight, bias))


def random_routers(
    dim: int, groups: int, blocks: int, seed: int = 0
) -> dict[int, dict[str, Tensor]]:
    """Routers as a training starts with, by block: {"weight": (M, C), "bias": (M,)}."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [TokenRouter(dim, groups, device="cpu") for _ in range(blocks)]
    return {
        block: {name: tensor.detach() for name, tensor in router.named_parameters()}
        for block, router in enumerate(made)
    }


def route(x: Tensor, score: Callable[[Tensor], Tensor]) -> Routing:
    """Route x (B, L, C) by `score`, a map from float32 (B, l, C) to (B, l, M).

    Scores are computed in float32 whatever the type of x and whatever autocast says, a slice of
    the tokens at a time, so that no float32 copy of the whole x exists.
    """
    with autocast(x.device.type, enabled=False):
        scores = [score(part.float()) for part in x.split(_CHUNK, dim=1)]
    return Routing.from_scores(scores[0] if len(scores) == 1 else torch.cat(scores, dim=1))


def balance_loss(routing: Routing) -> Tensor:
    """Group-balance loss M * sum_i F_i P_i, a scalar, without alpha; 1 when perfectly balanced.

    F_i is the share of tokens sent to group i (no gradient), P_i the mean probability of group i
    over all tokens (Switch Transformer's form); per sample, then the mean over the batch. Of a
    sequence on several ranks, all of which call it, each gets the loss of the whole and the
    gradient of its own tokens. Raises ValueError for a routing without probabilities.
    """
    if routing.probabilities is None:
        raise ValueError("routing has no probabilities; give what a router returned.")
    across, mean_probability = routing.across, routing.probabilities.mean(dim=1)
    tokens = own = routing.group.shape[1]
    if across is not None:
        tokens = across.tokens
        mean_probability = across.summed(mean_probability * (own / tokens))
    share = routing.sizes().float() / tokens
    return routing.groups * (share * mean_probability).sum(dim=-1).mean()
