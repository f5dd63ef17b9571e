"""What one branch of a layer gives, on its way to the merge.

Letters: B batch, L visual tokens, P packed positions, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BranchOutput:
    """What one branch gives.

    out: (P, N, D). lse: (P, N) float32, where branches are weighted by it.
    place: (B * L,) position of each token among P, None where it is the token's own number.
    gate: (B * L,) float32, multiplies the branch; None for 1.
    """

    out: Tensor
    lse: Tensor | None = None
    place: Tensor | None = None
    gate: Tensor | None = None
