"""Seconds of one attention layer on one card, step by step.

Letters: L visual tokens, N heads, D head width.
"""

from __future__ import annotations

from ..wan import HEAD_WIDTH
from .parts import ROUTED, LayerParts, Part
from .rates import Kernel, Rates

FORWARD_FLOPS = 4 * HEAD_WIDTH  # of a query-key pair and head
BACKWARD_FLOPS = 10 * HEAD_WIDTH
VALUE = 2  # bytes, bfloat16
IN_PLACE = "triton"  # reads its tokens where they lie
MASKED = "far"  # Triton too, with a mask

Kernels = dict[str, str]  # of a part, by its name


def kernels_of(parts: LayerParts, backend: str) -> Kernels:
    """What runs each part: as `auto` has it, with FlashAttention 3 or with PyTorch alone ("sdpa").

    Any other backend runs all of it, but for what needs a mask.
    """
    chosen = {part.name: backend for part in parts.all}
    if backend == "sdpa":
        for part in parts.all:
            if not part.in_order and _in_place(part):
                chosen[part.name] = IN_PLACE
    if parts.union and parts.routed and backend != "flash3":
        chosen[ROUTED] = MASKED
    return chosen


def _in_place(part: Part) -> bool:
    """As moga/kernels/choose.py decides it."""
    if part.name == ROUTED:
        return part.length <= 5000
    return part.length <= 800 or part.sizes > 8


def forward_steps(
    parts: LayerParts, kernels: Kernels, heads: float, rates: Rates
) -> dict[str, float]:
    """Seconds of each step of a forward pass, by the names that benchmarks/attention.py has."""
    unit = heads * HEAD_WIDTH * VALUE  # bytes of a token
    steps: dict[str, float] = {}
    if parts.routed:
        steps["routing order"] = rates.order
    written = 0.0
    for part in parts.all:
        kernel = kernels[part.name]
        tokens = part.queries + 2 * part.keys
        gathers = not part.in_order and kernel != IN_PLACE
        if gathers:
            steps[f"{part.name} gather"] = 2 * tokens * unit / rates.copy
        if part is parts.routed and parts.union:
            steps[part.name] = _far(part, parts.beside, kernel, heads, rates)
        else:
            steps[part.name] = _seconds(part, rates.forward[kernel], heads)
        written += part.queries * unit
    if parts.groups:
        tokens = parts.all[0].queries
        steps["merge"] = (written + tokens * unit) / rates.copy
    return steps


def _far(part: Part, beside: float, kernel: str, heads: float, rates: Rates) -> float:
    """The routed part under one softmax: what is in the query's temporal run goes by the mask."""
    masked = rates.forward[MASKED]
    if kernel == MASKED:
        return _seconds(part, masked, heads)
    outside = max(part.pairs - beside, 0.0)
    unit = heads * HEAD_WIDTH * VALUE
    join = 4 * part.queries * unit / rates.copy  # two more results, written and read
    length = max(outside / part.queries / 2, 1.0)  # before the run and after it, in a call each
    return (
        rates.forward[kernel].seconds(outside, length, heads, FORWARD_FLOPS)
        + masked.seconds(beside, part.length, heads, FORWARD_FLOPS)
        + join
    )


def _seconds(part: Part, kernel: Kernel, heads: float) -> float:
    return kernel.seconds(part.pairs, part.length, heads, FORWARD_FLOPS)
