"""Seconds of the backward pass of one attention layer on one card.

PyTorch's flash attention runs it whatever ran forwards, and cuDNN where all is PyTorch's dense.
"""

from __future__ import annotations

from ..wan import HEAD_WIDTH
from .layer import BACKWARD_FLOPS, VALUE
from .parts import LayerParts, Part
from .rates import Kernel, Rates

# Passes over a tensor like q, each a read or a write of two bytes a number, counted in
# moga/attention/union.py: of a part that is gathered, of one in order, and of both ends.
_GATHERED = 10 + 27  # grad, q, k, v, out gathered; dq, dk, dv added into float32
_IN_ORDER = 15
_ENDS = 6 + 9  # float32 zeros, and to bfloat16 at the end


def backward_steps(parts: LayerParts, kernel: str, heads: float, rates: Rates) -> dict[str, float]:
    """Seconds of each step. kernel: a name in rates.backward."""
    runs = parts.backward()
    unit = parts.all[0].queries * heads * HEAD_WIDTH * VALUE
    passes = rates.mean_backward if parts.groups else 0.0
    if parts.union:
        passes = _ENDS + sum(_IN_ORDER if part.in_order else _GATHERED for part in runs)
    back = rates.backward[kernel]
    steps = {part.name: _seconds(part, back, heads) for part in runs}
    return {**steps, "copies": passes * unit / rates.elementwise}


def grown(part: Part, block: int) -> tuple[float, float]:
    """Pairs and length of a part whose segments are rounded up to a block each way."""
    queries = part.queries / part.segments
    length = max(block, part.length)
    return part.pairs * max(block, queries) / queries * length / part.length, length


def _seconds(part: Part, kernel: Kernel, heads: float) -> float:
    return kernel.seconds(*grown(part, kernel.block), heads, BACKWARD_FLOPS)
