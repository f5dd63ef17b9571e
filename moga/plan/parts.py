"""What a MoGA layer attends, part by part: query-key pairs, and how long their segments are.

Letters: L visual tokens, M groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..config import MoGAConfig
from ..layout import VideoLayout, windows

ROUTED, WINDOWS, FRAMES, CELLS = "routed", "windows", "frames", "cells"
DENSE = "dense"


@dataclass(frozen=True)
class Part:
    """Attention within segments, of one head.

    pairs: query-key pairs. queries, keys: of all segments together. sizes: how many different ones
    segments have. in_order: whether tokens lie as the host has them, so that nothing is gathered.
    """

    name: str
    pairs: float
    queries: float
    keys: float
    segments: float
    sizes: int = 1
    in_order: bool = False

    @property
    def length(self) -> float:
        """Keys that a query has, on average over queries."""
        return self.pairs / self.queries

    def within(self, groups: int, name: str) -> Part:
        """The same split by group, as groups are spread evenly over what is near."""
        segments = self.segments * groups
        return Part(name, self.pairs / groups, self.queries, self.keys, segments)


@dataclass(frozen=True)
class LayerParts:
    """The parts of a layer. near: windows, frames and, under one softmax, the cells of both.

    routed: the whole groups; None without them. beside: of `routed`, the pairs that lie in the
    temporal run of the query, which need a mask under one softmax.
    """

    near: tuple[Part, ...]
    routed: Part | None
    beside: float
    union: bool
    groups: int

    @property
    def all(self) -> tuple[Part, ...]:
        return (*((self.routed,) if self.routed else ()), *self.near)

    @property
    def pairs(self) -> float:
        return sum(part.pairs for part in self.all)

    def backward(self) -> tuple[Part, ...]:
        """The parts that the backward pass computes: one softmax takes off what is near in a group.

        See `moga/attention/far.py`, `far_in_segments`.
        """
        if not (self.union and self.routed):
            return self.all
        inside = tuple(part.within(self.groups, f"{part.name} in a group") for part in self.near)
        return (*self.all, *inside)


def dense_parts(layout: VideoLayout) -> LayerParts:
    """Dense attention: one segment."""
    tokens = layout.tokens
    whole = Part(DENSE, tokens**2, tokens, tokens, 1, in_order=True)
    return LayerParts((whole,), None, 0.0, False, 0)


@lru_cache(maxsize=64)
def parts_of(layout: VideoLayout, config: MoGAConfig | None, uneven: float = 1.0) -> LayerParts:
    """The parts of a layer; of dense attention where config is None.

    uneven: M times the sum of the squares of the groups' shares; 1 for equal groups, M for one that
    has all.
    """
    if config is None:
        return dense_parts(layout)
    boxes = windows(layout, config)
    tokens, frames, area = layout.tokens, layout.frames, layout.frame_tokens
    found = []
    if "windows" in config.branches:
        pairs = sum(box.queries * box.keys for box in boxes)
        keys, sizes = (
            sum(box.keys for box in boxes),
            len({(box.queries, box.keys) for box in boxes}),
        )
        found.append(Part(WINDOWS, pairs, tokens, keys, len(boxes), sizes))
    if "frames" in config.branches:
        found.append(Part(FRAMES, frames * area**2, tokens, tokens, frames, in_order=True))
    union = config.combine == "union"
    if union and len(found) == 2:
        spatial = {(box.rows, box.columns) for box in boxes}
        areas = [(r[1] - r[0]) * (c[1] - c[0]) for r, c in spatial]
        pairs = frames * sum(one**2 for one in areas)
        found.append(Part(CELLS, pairs, tokens, tokens, frames * len(areas), len(set(areas))))
    routed, beside = None, 0.0
    if "routed" in config.branches:
        pairs = tokens**2 / config.groups * uneven
        routed = Part(ROUTED, pairs, tokens, tokens, config.groups)
        beside = _beside(layout, config, boxes, pairs / tokens**2)
    return LayerParts(tuple(found), routed, beside, union, config.groups)


def _beside(layout: VideoLayout, config: MoGAConfig, boxes, share: float) -> float:
    """Pairs of a group within a temporal run; a run is a frame where there are no windows."""
    if "windows" in config.branches:
        runs = {(box.frames, box.key_frames) for box in boxes}
        area = sum((q[1] - q[0]) * (k[1] - k[0]) for q, k in runs)
    elif "frames" in config.branches:
        area = layout.frames
    else:
        return 0.0
    return share * area * layout.frame_tokens**2
