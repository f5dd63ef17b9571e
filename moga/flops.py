"""How much a MoGA model computes, beside a dense one.

Letters: L visual tokens, C model width, F feed-forward width, X text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import MoGAConfig
from .layout import VideoLayout, windows
from .wan import TEXT_TOKENS


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Wan model that its operations follow from."""

    layers: int
    width: int
    feed_forward: int
    text_tokens: int = TEXT_TOKENS


WAN_1_3B = ModelShape(30, 1536, 8960)
WAN_5B = ModelShape(30, 3072, 14_336)
WAN_14B = ModelShape(40, 5120, 13_824)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations (a multiply and an add are two) of one layer or of a model.

    attention: self-attention without its projections. linear: every projection and feed-forward,
    cross-attention included. router: MoGA's own linear layer.
    """

    attention: float
    linear: float
    router: float = 0.0

    @property
    def total(self) -> float:
        return self.attention + self.linear + self.router


def density(
    layout: VideoLayout, config: MoGAConfig, group_sizes: Sequence[int] | None = None
) -> float:
    """What a query sees, as a share of all keys: query-key pairs over dense attention's L * L.

    Under one softmax a pair counts once, and groups are taken to be spread evenly over what is
    near; in a mean it counts in every branch that has it.
    group_sizes: tokens in each routed group; equal groups when None. Sparsity is 1 - density,
    the paper's Table 4; its last row (M=16, 81.25 %) is not what its own rule gives (85 %).
    """
    total = layout.tokens**2
    pairs = _pairs(layout, config, group_sizes)
    if config.combine == "mean":
        return sum(pairs.values()) / total
    near = pairs.get("windows", 0) + pairs.get("frames", 0) - pairs.get("cells", 0)
    return (near + pairs.get("routed", 0) * (1 - near / total)) / total


def computed(
    layout: VideoLayout, config: MoGAConfig, group_sizes: Sequence[int] | None = None
) -> float:
    """Query-key pairs that the parts of a layer compute, over L * L: its cost beside dense."""
    return sum(_pairs(layout, config, group_sizes).values()) / layout.tokens**2


def _pairs(
    layout: VideoLayout, config: MoGAConfig, group_sizes: Sequence[int] | None
) -> dict[str, float]:
    """Query-key pairs of each part; under one softmax also those of cells (window and frame)."""
    pairs: dict[str, float] = {}
    if "routed" in config.branches:
        sizes = group_sizes or [layout.tokens / config.groups] * config.groups
        pairs["routed"] = sum(size**2 for size in sizes)
    if "windows" in config.branches:
        boxes = windows(layout, config)
        pairs["windows"] = sum(window.queries * window.keys for window in boxes)
        if "frames" in config.branches and config.combine == "union":
            spatial = {(window.rows, window.columns) for window in boxes}
            areas = [(r[1] - r[0]) * (c[1] - c[0]) for r, c in spatial]
            pairs["cells"] = layout.frames * sum(area**2 for area in areas)
    if "frames" in config.branches:
        pairs["frames"] = layout.frames * layout.frame_tokens**2
    return pairs


def layer_flops(layout: VideoLayout, config: MoGAConfig | None, shape: ModelShape) -> Flops:
    """One block's forward pass; dense attention where config is None."""
    tokens, width = layout.tokens, shape.width
    attention = 4.0 * tokens**2 * width
    text = 4 * tokens * shape.text_tokens * width + 4 * shape.text_tokens * width**2
    linear = (8 + 4) * tokens * width**2 + 4 * tokens * width * shape.feed_forward + text
    if config is None:
        return Flops(attention, linear)
    router = 2 * tokens * width * config.groups if "routed" in config.branches else 0
    return Flops(attention * computed(layout, config), linear, router)


def model_flops(
    layout: VideoLayout,
    config: MoGAConfig | None,
    shape: ModelShape = WAN_1_3B,
    *,
    dense_layers: int = 0,
) -> Flops:
    """All blocks of a model, one forward pass. dense_layers: how many of them stay dense.

    Dense, this is the paper's Table 5. Its MoGA columns follow no one rule: at 77 frames and M=20
    they are below the linear layers alone (so those were divided by M as well), at 477 frames
    above what the paper's own sparsity leaves to compute.
    """
    dense, sparse = (layer_flops(layout, c, shape) for c in (None, config))
    rest = shape.layers - dense_layers
    return Flops(
        dense_layers * dense.attention + rest * sparse.attention,
        dense_layers * dense.linear + rest * sparse.linear,
        rest * sparse.router,
    )


def expected_speedup(
    layout: VideoLayout,
    config: MoGAConfig,
    shape: ModelShape = WAN_1_3B,
    *,
    dense_layers: int = 0,
) -> float:
    """Dense operations over MoGA's, of a whole forward pass: the most that MoGA can gain."""
    mine = model_flops(layout, config, shape, dense_layers=dense_layers)
    return model_flops(layout, None, shape).total / mine.total
