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
    """Query-key pairs of all branches of a layer, as a share of dense attention's L * L.

    group_sizes: tokens in each routed group; equal groups when None. Sparsity is 1 - density,
    the paper's Table 4; its last row (M=16, 81.25 %) is not what its own rule gives (85 %).
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


def layer_flops(layout: VideoLayout, config: MoGAConfig | None, shape: ModelShape) -> Flops:
    """One block's forward pass; dense attention where config is None."""
    tokens, width = layout.tokens, shape.width
    attention = 4.0 * tokens**2 * width
    text = 4 * tokens * shape.text_tokens * width + 4 * shape.text_tokens * width**2
    linear = (8 + 4) * tokens * width**2 + 4 * tokens * width * shape.feed_forward + text
    if config is None:
        return Flops(attention, linear)
    router = 2 * tokens * width * config.groups if "routed" in config.branches else 0
    return Flops(attention * density(layout, config), linear, router)


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
