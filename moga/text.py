"""Shot-level text: the visual tokens of a shot read the text tokens of that shot, and no others.

Visual tokens are ordered frame by frame, so a shot is one contiguous range of them: instead of a
mask, cross-attention runs once per range with the text tokens that belong to it.

Letters: B batch, L visual tokens, K text tokens, C model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Span = tuple[int, int]  # (start, stop)


class Reading(NamedTuple):
    """One range of visual tokens and the ranges of context tokens that it reads."""

    tokens: Span
    context: tuple[Span, ...]


def shot_cross_attention(
    forward: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    context: Tensor,
    readings: Sequence[Reading],
) -> Tensor:
    """Cross-attention of x (B, L, C) to context (B, K, C), each range of x to its own text.

    forward: the whole cross-attention of a slice of x to a slice of the context.
    readings: consecutive ranges that cover x.
    Returns (B, L, C).
    """
    if len(readings) == 1 and readings[0].context == ((0, context.shape[1]),):
        return forward(x, context)
    outs = [forward(x[:, first:last], _cut(context, spans)) for (first, last), spans in readings]
    return torch.cat(outs, dim=1)


def _cut(context: Tensor, spans: tuple[Span, ...]) -> Tensor:
    parts = [context[:, first:last] for first, last in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
