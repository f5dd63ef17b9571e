"""What the inputs of the layer have to agree on.

Letters: see `moga.attention.layer`.
"""

from __future__ import annotations

from torch import Tensor

from ..config import MoGAConfig
from ..layout import VideoLayout
from ..routing import Routing


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
) -> None:
    """Raise ValueError when q, k, v (B, L, N, D), routing, layout and config don't fit together."""
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k and v have shapes {shapes}; give three equal (B, L, N, D).")
    if q.shape[1] != layout.tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens, but the layout of {layout.frames} x {layout.height} x "
            f"{layout.width} has {layout.tokens}."
        )
    if "routed" not in config.branches:
        return
    if routing is None:
        raise ValueError("routing is None, but config has the branch 'routed'; give a Routing.")
    if tuple(routing.group.shape) != tuple(q.shape[:2]):
        raise ValueError(
            f"routing is for {tuple(routing.group.shape)} tokens, q has {tuple(q.shape[:2])}."
        )
    if routing.groups != config.groups:
        raise ValueError(f"routing has {routing.groups} groups, config {config.groups}.")
