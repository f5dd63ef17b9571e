"""What is to be looked at: blocks, noise levels, and how many queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks import parse_blocks
from ..config import MoGAConfig
from ..errors import MogaError
from ..layout import VideoLayout

LEVELS = "0.9, 0.6, 0.3"
QUERIES = 256
MOST_QUERIES, MOST_LEVELS = 4096, 20


class UnsuitableError(MogaError, ValueError):
    """Something that cannot be inspected; the message names the field, the value and the fix."""


@dataclass(frozen=True)
class Request:
    """levels: shares of noise, from 0 (the finished latent) to 1, falling. blocks: indices.

    queries: asked of each block, spread at random over the video by `seed`.
    """

    levels: tuple[float, ...]
    blocks: frozenset[int]
    queries: int = QUERIES
    seed: int = 0

    @classmethod
    def parse(cls, levels: str, blocks: str, of: int, queries: int, seed: int) -> Request:
        """From text, for a model of `of` blocks; blocks "" are all. Raises MogaError."""
        if not 1 <= queries <= MOST_QUERIES:
            raise UnsuitableError(
                f"queries is {queries}; give a whole number from 1 to {MOST_QUERIES}."
            )
        chosen = parse_blocks(blocks, of, "blocks") or frozenset(range(of))
        return cls(parse_levels(levels), chosen, queries, seed)

    def tokens_of(self, layout: VideoLayout) -> Tensor:
        """The queries' token numbers (Q,), ascending: all of them where there are no more."""
        make = torch.Generator().manual_seed(self.seed)
        return torch.randperm(layout.tokens, generator=make)[: self.queries].sort().values


def parse_levels(text: str) -> tuple[float, ...]:
    """Noise levels from "0.9, 0.6", the noisiest first. Raises UnsuitableError."""
    found: set[float] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            level = float(part)
        except ValueError:
            level = math.nan
        if not 0 <= level <= 1:
            raise UnsuitableError(
                f"noise_levels has {part!r}; give numbers from 0 (the finished latent) to 1 (noise "
                f"alone) with commas between them, such as {LEVELS}."
            )
        found.add(level)
    if not 1 <= len(found) <= MOST_LEVELS:
        raise UnsuitableError(
            f"noise_levels has {len(found)} of them; give from 1 to {MOST_LEVELS}, such as "
            f"{LEVELS}."
        )
    return tuple(sorted(found, reverse=True))


def check_tokens(layout: VideoLayout, config: MoGAConfig, min_tokens: int = 0) -> None:
    """Raise UnsuitableError for a video that MoGA does nothing to."""
    size = f"the latent has {layout.tokens:,} tokens"
    if layout.tokens < min_tokens:
        raise UnsuitableError(
            f"{size} and min_tokens is {min_tokens:,}, so MoGA leaves it dense; lower min_tokens, "
            "or inspect a longer or larger video."
        )
    if "routed" in config.branches and layout.tokens < 2 * config.groups:
        raise UnsuitableError(
            f"{size}, too few for {config.groups} groups; inspect a longer or larger video."
        )
    if layout.frames == 1 and "frames" in config.branches:
        raise UnsuitableError(
            f"{size} in one latent frame, which every token sees whole, so MoGA is dense attention "
            "there; inspect a video of 5 frames or more."
        )
