"""What one branch of a layer gives, on its way to the merge.

Letters: B batch, L visual tokens, P packed positions, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BranchOutput:
    """What one branch gives.

    out: (P, N, D). lse: (P, N) float32, its log-sum-exp, for one softmax over the branches.
    place: (B * L,) position of each token among P, None where it is the token's own number.
    gate: (B * L,) float32, multiplies the branch, or in one softmax its weights; None for 1.
    sign: -1 for keys that two other branches both have, and that are taken off once.
    """

    out: Tensor
    lse: Tensor | None = None
    place: Tensor | None = None
    gate: Tensor | None = None
    sign: int = 1
