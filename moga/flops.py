"""How much of dense attention a MoGA layer computes."""

from __future__ import annotations

from collections.abc import Sequence

from .config import MoGAConfig
from .layout import VideoLayout, windows


def density(
    layout: VideoLayout, config: MoGAConfig, group_sizes: Sequence[int] | None = None
) -> float:
    """Query-key pairs of all branches of a layer, as a share of dense attention's L * L.

    group_sizes: tokens in each routed group; equal groups when None. Sparsity is 1 - density.
    """
    total = layout.tokens**2
    pairs = 0.0
    if "routed" in config.branches:
        sizes = group_sizes or [layout.tokens / config.groups] * config.groups
        pairs += sum(size**2 for size in sizes)
    if "windows" in config.branches:
        pairs += sum(window.queries * window.keys for window in windows(layout, config))
    if "frames" in config.branches:
        pairs += layout.frames * layout.frame_tokens**2
    return pairs / total
