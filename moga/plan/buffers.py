"""What an attention layer holds at its worst moment besides q, k and v, counted in its code.

Letters: L visual tokens, N heads, D head width.
"""

from __future__ import annotations

from ..wan import HEAD_WIDTH
from .layer import IN_PLACE, MASKED, Kernels
from .parts import LayerParts, Part

LARGE = 1 << 27  # numbers of q from which heads are done in shares: moga/attention/layer.py
_SUMS = 1 / 64  # a log-sum-exp: four bytes beside D times two


def layer_tensors(parts: LayerParts, kernels: Kernels, heads: float) -> float:
    """Tensors like q at the worst moment of a forward pass without gradients, its result too."""
    if not parts.groups:
        return 1.0
    tokens = parts.all[0].queries
    order = parts.near if parts.union else parts.all  # one softmax does what is far at the end
    whole = held = 0.0
    gathers = False
    for part in order:
        gathers |= not part.in_order and kernels[part.name] != IN_PLACE
        whole = max(whole, held + _of_part(part, kernels[part.name], tokens))
        held += 1 + _SUMS * parts.union
    shares = 2 if gathers else 1
    if parts.union:
        shares = 4
        if parts.routed:
            results = 1 if kernels[parts.routed.name] == MASKED else 3
            whole = max(whole, held + 3 + results * (1 + _SUMS))
    if tokens * heads * HEAD_WIDTH < LARGE or shares == 1:
        return whole
    return 1 + whole / min(shares, heads)


def _of_part(part: Part, kernel: str, tokens: float) -> float:
    """Copies of q, k and v in the order of the segments, and the result."""
    if part.in_order or kernel == IN_PLACE:
        return 1.0
    pieces = 1 if kernel == "sdpa" and part.sizes > 1 else 0  # put together at the end
    return (part.queries + 2 * part.keys) / tokens + 1 + pieces
